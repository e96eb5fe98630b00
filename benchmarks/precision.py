"""The cost of rounding: bits per sample of real clips in each precision of the native engine.

    python benchmarks/precision.py --checkpoint runs/fsdd --root DIR \\
        [--pattern '_[5-9]\\.wav$'] [--clips 64]

The engine is teacher-forced with its own arithmetic from silence, every sample is scored, and the
result is compared with model.forward. Prints a table and a JSON line.
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
from wavenet.conditioning import label_ids
from wavenet.engines import PRECISIONS, take_apart
from wavenet.engines.native.engine import NativeEngine
from wavenet.evaluation.digits import LABEL_PATTERN
from wavenet.ops import cross_entropy


def clips(
    model: WaveNet, root: Path, pattern: str, count: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Codes (B, T) padded with silence, their lengths (B,), and the labels from the file names."""
    paths = sorted(path for path in root.rglob("*.wav") if re.search(pattern, path.name))
    paths = paths[:: max(1, len(paths) // count)][:count]
    codes = [model.encode(load_audio(path, model.sample_rate)) for path in paths]
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
    """The mean over the samples within their lengths."""
    scored = torch.arange(codes.shape[1]) < lengths[:, None]
    return float(cross_entropy(logits, codes)[scored].double().mean() / math.log(2))


def bits_of_model(
    model: WaveNet, codes: Tensor, lengths: Tensor, labels: dict[str, Tensor]
) -> float:
    silence = torch.full((len(codes), 1), model.codec.silence)
    inputs = torch.cat([silence, codes[:, :-1]], dim=1)
    total = 0.0
    for start in range(0, len(codes), 8):  # 8 clips at a time, for memory: 256 logits per sample
        rows = slice(start, start + 8)
        chosen = {name: ids[rows] for name, ids in labels.items()}
        position = model.beginning(len(codes[rows]), lengths[rows])
        logits = model(inputs[rows], chosen, position=position)
        total += bits(logits, codes[rows], lengths[rows]) * int(lengths[rows].sum())
    return total / int(lengths.sum())


def bits_of_engine(
    model: WaveNet,
    codes: Tensor,
    lengths: Tensor,
    labels: dict[str, Tensor],
    dtype: torch.dtype,
) -> float:
    engine = NativeEngine(take_apart(model), len(codes), dtype)
    condition = model.timeline(labels, lengths).between(0, codes.shape[1])
    return bits(engine.teacher_forced(codes, condition), codes, lengths)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of rounding in bits per sample.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--pattern", default=r"_[5-9]\.wav$")
    parser.add_argument("--clips", type=int, default=64)
    args = parser.parse_args()
    model = load_model(args.checkpoint)
    codes, lengths, labels = clips(model, args.root, args.pattern, args.clips)
    figures = {"model.forward, float32": bits_of_model(model, codes, lengths, labels)}
    figures |= {
        f"native, {name}": bits_of_engine(model, codes, lengths, labels, dtype)
        for name, dtype in PRECISIONS.items()
        if name != "float64"
    }
    exact = figures["model.forward, float32"]
    for name, value in figures.items():
        print(f"{name:<26} {value:8.5f} bits per sample  {100 * (value / exact - 1):+.3f}%")
    print(json.dumps({"benchmark": "precision", "samples": int(lengths.sum()), "bits": figures}))


if __name__ == "__main__":
    main()
