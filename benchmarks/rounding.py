"""Owns what 16-bit preparation changes: mu-law codes of prepared audio against the float audio's.

    python benchmarks/rounding.py --root DIR [--clips 200] [--rates 8000 6000]

Clips of the folder, evenly spaced in their sorted list, are decoded at each rate, as they are and
with their peak normalised. Their codes by way of 16-bit PCM, as training hears them, are compared
with the codes of the float audio that the rounding was given.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from wavenet.audio import load_audio
from wavenet.corpus import DecodeSettings, find_audio
from wavenet.corpus.decoding import decode_clip, normalize_audio
from wavenet.outputs.mulaw import MuLaw
from wavenet.outputs.pcm import encode_pcm


def differences(path: Path, settings: DecodeSettings) -> np.ndarray:
    """|code by 16 bits - code of the float audio| of every sample of one clip, (T,) int64."""
    audio = normalize_audio(load_audio(path, settings.sample_rate), settings.normalize)
    levels = torch.from_numpy(decode_clip(path, settings).levels)
    return (encode_pcm(MuLaw(), levels).long() - MuLaw().encode(audio)).abs().numpy()


def measure(paths: list[Path], settings: DecodeSettings) -> Counter[int]:
    """How many samples of all clips differ by how many code steps."""
    steps = np.concatenate([differences(path, settings) for path in paths])
    return Counter(steps.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of audio")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rates", type=int, nargs="+", default=[8000, 6000], help="in Hz")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = find_audio(arguments.root)
    chosen = names[:: max(len(names) // arguments.clips, 1)][: arguments.clips]
    print(f"{len(chosen)} of {len(names)} clips\n\n| rate | peak | samples | differ | steps |")
    print("|---|---|---|---|---|")
    for rate in arguments.rates:
        for how in (None, "peak"):
            paths = [arguments.root / name for name in chosen]
            counts = measure(paths, DecodeSettings(rate, how))
            samples, differ = counts.total(), counts.total() - counts[0]
            kinds = ", ".join(f"{step}: {counts[step]:,}" for step in sorted(counts) if step)
            level = "normalised" if how else "as it is"
            share = f"{100 * differ / samples:.3f}%"
            print(f"| {rate} Hz | {level} | {samples:,} | {share} | {kinds or 'none'} |")


if __name__ == "__main__":
    main()
