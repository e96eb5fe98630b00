"""What rounding costs: bits per sample of real clips in each precision of the native engine, and with int8 weights.

    python benchmarks/precision.py --checkpoint runs/fsdd --root DIR [--pattern '_[5-9]\\.wav$'] [--clips 64]

Teacher forced through the engine's own arithmetic, from silence, every sample scored, beside model.forward. A table and
a JSON line.
"""

import argparse
import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from wavenet import WaveNet
from wavenet.audio import load_audio
from wavenet.checkpoints import load_model
from wavenet.conditioning.labels import advanced, label_ids
from wavenet.engines import PRECISIONS
from wavenet.engines.native.engine import NativeEngine
from wavenet.evaluation.digits import LABEL_PATTERN
from wavenet.outputs.sampling import negative_log_likelihood


def clips(
    model: WaveNet, root: Path, pattern: str, count: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Codes (B, T) padded with silence, their lengths (B,), and the labels in the files' names."""
    paths = sorted(path for path in root.rglob("*.wav") if re.search(pattern, path.name))
    paths = paths[:: max(1, len(paths) // count)][:count]
    codes = [model.codec.encode(load_audio(path, model.sample_rate)) for path in paths]
    named = [
        match.groupdict() if (match := re.search(LABEL_PATTERN, path.name)) else {}
        for path in paths
    ]
    labels = {name: [groups[name] for groups in named] for name in model.labels}
    padded = nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=model.codec.silence)
    return (
        padded,
        torch.tensor([len(clip) for clip in codes]),
        label_ids(model.labels, labels, len(paths)),
    )


def bits(logits: Tensor, codes: Tensor, lengths: Tensor) -> float:
    scored = torch.arange(codes.shape[1]) < lengths[:, None]
    return float(negative_log_likelihood(logits, codes)[scored].double().mean() / math.log(2))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="What rounding costs in bits per sample.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pattern", default=r"_[5-9]\.wav$")
    parser.add_argument("--clips", type=int, default=64)
    args = parser.parse_args()
    model = load_model(args.checkpoint)
    codes, lengths, labels = clips(model, args.root, args.pattern, args.clips)
    inputs = torch.cat([torch.full((len(codes), 1), model.codec.silence), codes[:, :-1]], dim=1)

    def in_model(network: WaveNet) -> float:
        parts = zip(
            inputs.split(8), codes.split(8), lengths.split(8), range(0, len(codes), 8), strict=True
        )
        total = 0.0
        for heard, said, length, start in parts:
            these = {name: ids[start : start + 8] for name, ids in labels.items()}
            position = network.beginning(len(heard), length)
            total += bits(network(heard, these, position=position), said, length) * int(
                length.sum()
            )
        return total / int(lengths.sum())

    def in_engine(dtype: torch.dtype) -> float:
        engine, position, logits = (
            NativeEngine(model, len(codes), labels, dtype),
            model.beginning(len(codes), lengths),
            [],
        )
        for piece in codes.split(model.position_hop or codes.shape[1], dim=1):
            if position is not None:
                engine.place(position)
            logits.append(engine.force(piece))
            position = advanced(position, piece.shape[1])
        return bits(torch.cat(logits, dim=2), codes, lengths)

    figures = {"model.forward, float32": in_model(model)}
    figures |= {
        f"native, {name}": in_engine(dtype)
        for name, dtype in PRECISIONS.items()
        if name != "float64"
    }
    exact = figures["model.forward, float32"]
    for name, value in figures.items():
        print(f"{name:<26} {value:8.5f} bits per sample  {100 * (value / exact - 1):+.3f}%")
    print(json.dumps({"benchmark": "precision", "samples": int(lengths.sum()), "bits": figures}))


if __name__ == "__main__":
    main()
