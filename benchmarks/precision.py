"""What rounding costs: bits per sample of real clips in each precision of the native engine, and with int8 weights.

    python benchmarks/precision.py --checkpoint runs/fsdd --root DIR [--pattern '_[5-9]\\.wav$'] [--clips 64]

Teacher forced through the engine's own arithmetic, from silence, every sample scored. int8 is simulated in the model: each
weight rounded to 8 bits with one scale a row of outputs, with inputs left in float32 (`int8 weights`) or rounded too, one
scale a sample and layer (`int8 weights and inputs`, what an 8-bit dot product takes). A table and a JSON line.
"""

import argparse
import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from wavenet import WaveNet
from wavenet.audio import load_audio
from wavenet.checkpoints import load_model
from wavenet.conditioning import label_ids
from wavenet.distributions import negative_log_likelihood
from wavenet.engines.native import NativeEngine
from wavenet.layers import CausalConv1d

LABELS = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_\d+\.wav"


def clips(model: WaveNet, root: Path, pattern: str, count: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Codes (B, T) padded with silence, their lengths (B,), and the labels in the files' names."""
    paths = sorted(path for path in root.rglob("*.wav") if re.search(pattern, path.name))
    paths = paths[:: max(1, len(paths) // count)][:count]
    codes = [model.codec.encode(load_audio(path, model.sample_rate)) for path in paths]
    named = [match.groupdict() if (match := re.search(LABELS, path.name)) else {} for path in paths]
    labels = {name: [groups[name] for groups in named] for name in model.labels}
    padded = nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=model.codec.silence)
    return padded, torch.tensor([len(clip) for clip in codes]), label_ids(model.labels, labels, len(paths))


def bits(logits: Tensor, codes: Tensor, lengths: Tensor) -> float:
    scored = torch.arange(codes.shape[1]) < lengths[:, None]
    return float(negative_log_likelihood(logits, codes)[scored].double().mean() / math.log(2))


def rounded(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """To 255 levels, the largest magnitude along `dim` the last."""
    scale = values.abs().amax(dim=dim, keepdim=True).clamp(min=1e-12) / 127
    return (values / scale).round() * scale


def body(model: WaveNet) -> Iterator[CausalConv1d]:
    for block in model.stack.blocks:
        yield from (layer for layer in (block.dilated, block.residual, block.skip) if layer is not None)


@torch.no_grad()
def int8(model: WaveNet, inputs_too: bool) -> WaveNet:
    model = copy.deepcopy(model)
    for layer in body(model):
        layer.weight.copy_(rounded(layer.weight, (1, 2)))
        if inputs_too:
            layer.register_forward_pre_hook(lambda _, args: (rounded(args[0], 1),))
    return model


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
        parts = zip(inputs.split(8), codes.split(8), lengths.split(8), range(0, len(codes), 8), strict=True)
        total = 0.0
        for heard, said, length, start in parts:
            these = {name: ids[start : start + 8] for name, ids in labels.items()}
            total += bits(network(heard, these), said, length) * int(length.sum())
        return total / int(lengths.sum())

    def in_engine(dtype: torch.dtype) -> float:
        return bits(NativeEngine(model, len(codes), labels, dtype).force(codes), codes, lengths)

    figures = {
        "model.forward, float32": in_model(model),
        "native, float32": in_engine(torch.float32),
        "native, bfloat16": in_engine(torch.bfloat16),
        "int8 weights": in_model(int8(model, inputs_too=False)),
        "int8 weights and inputs": in_model(int8(model, inputs_too=True)),
    }
    exact = figures["model.forward, float32"]
    for name, value in figures.items():
        print(f"{name:<26} {value:8.5f} bits per sample  {100 * (value / exact - 1):+.3f}%")
    print(json.dumps({"benchmark": "precision", "samples": int(lengths.sum()), "bits": figures}))


if __name__ == "__main__":
    main()
