"""The simplest models of a corpus's validation codes, to compare a network's bits per sample with.

    python benchmarks/entropy.py --config configs/default.yaml [--data.root DIR] \\
        [--checkpoint runs/default]

Prints plug-in estimates of the uniform (8 bits), unigram and order-1 (given the previous sample)
entropy of the validation codes, and the exact bits per sample of a checkpoint on the same codes.
There are 65,536 pairs of codes, so the plug-in order-1 entropy of a small corpus is too low. The
order-1 model counted on the training clips (each count + 0.01) and scored on the validation clips
is therefore printed as well.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from wavenet import MuLaw, label_ids, nats_per_sample
from wavenet.checkpoints import load_model
from wavenet.corpus.corpus import Clip
from wavenet.training.data import AudioDataModule

CLASSES, SILENCE = 256, 128


def codes_of(data: AudioDataModule, clip: Clip) -> torch.Tensor:
    return MuLaw(CLASSES).encode(torch.from_numpy(data.audio(clip)))


def pair_counts(clips: list[np.ndarray]) -> np.ndarray:
    """counts[previous, code] over all samples; the sample before the first of a clip is silence."""
    counts = np.zeros((CLASSES, CLASSES))
    for codes in clips:
        np.add.at(counts, (np.concatenate([[SILENCE], codes[:-1]]), codes), 1)
    return counts


def cross_entropy(counts: np.ndarray, model: np.ndarray) -> float:
    """Bits per sample of `counts` under the conditional distributions of `model`.

    Both have the shape (previous, code).
    """
    rows = model / np.maximum(model.sum(1, keepdims=True), 1e-300)
    used = counts > 0
    return float(-(counts[used] * np.log2(rows[used])).sum() / counts.sum())


def corpus(config: Path, root: str | None) -> AudioDataModule:
    settings: dict[str, Any] = yaml.safe_load(config.read_text())["data"]
    data = AudioDataModule(**{**settings, **({"root": root} if root else {})})
    data.prepare_data()
    data.setup("fit")
    return data


@torch.inference_mode()
def network_bits(data: AudioDataModule, checkpoint: Path) -> float:
    model = load_model(checkpoint)
    nats = samples = 0.0
    for clip in data.clips("val"):
        codes = codes_of(data, clip)[None]
        nats += float(
            nats_per_sample(model, codes, label_ids(model.labels, clip.labels, 1)).double().sum()
        )
        samples += clip.length
    return nats / samples / float(np.log(2))


def main() -> None:
    parser = argparse.ArgumentParser(description="Entropies of a corpus's validation codes.")
    parser.add_argument("--config", type=Path, default=Path("configs/default.yaml"))
    parser.add_argument("--data.root", dest="root", help="instead of the root in the config")
    parser.add_argument(
        "--checkpoint", type=Path, help="a run, model folder or .ckpt to score on the same codes"
    )
    args = parser.parse_args()
    data = corpus(args.config, args.root)
    train, val = (
        pair_counts([codes_of(data, clip).numpy() for clip in data.clips(split)])
        for split in ("train", "val")
    )
    figures = {
        "uniform": 8.0,
        "unigram": cross_entropy(val, np.broadcast_to(val.sum(0), val.shape)),
        "order 1": cross_entropy(val, val),
        "order 1, counted on train": cross_entropy(val, train + 0.01),
    }
    if args.checkpoint:
        figures[f"network {args.checkpoint}"] = network_bits(data, args.checkpoint)
    for name, bits in figures.items():
        print(f"{name:<40} {bits:6.3f} bits per sample")
    print(json.dumps({"config": str(args.config), "samples": int(val.sum()), "bits": figures}))


if __name__ == "__main__":
    main()
