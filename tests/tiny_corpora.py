"""Owns what the tests of the corpus share: audio synthesised here, and ways to open it.

Where position matters, a clip's codes are position mod 251 (plus a start of its own), written as
the float samples that those codes decode to, so that every row can be checked sample by sample.
16-bit PCM tells neighbouring mu-law codes apart, so the codes come back as they were written.
"""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import wavenet
from wavenet.corpus import Corpus, CropBatches, DecodeSettings, Listing
from wavenet.corpus.corpus import Clip
from wavenet.outputs import Output
from wavenet.outputs.mulaw import MuLaw
from wavenet.outputs.pcm import encode_pcm

CODEC = MuLaw(256)
SILENCE = CODEC.silence
SHAPE = {"crop_samples": 256, "batch_size": 4}  # of the batches of `crops`
PERIOD = 251  # prime, so that a wrong offset shows
LENGTHS = [3000, 2000, 1200, 700, 500, 300, 130, 40, 7, 1]  # of the clips of `write_ramps`
REPOSITORY = Path(wavenet.__file__).parent.parent


# --- Audio ------------------------------------------------------------------------------------


def write_codes(path: Path, codes: np.ndarray, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, CODEC.decode(torch.from_numpy(codes).long()).numpy(), rate, subtype="FLOAT"
    )


def ramp(length: int, start: int = 0) -> np.ndarray:
    return (start + np.arange(length)) % PERIOD


def write_ramps(root: Path) -> Path:
    """Clips whose codes count positions.

    The folder's name is the number of the clip and the start of its count.
    """
    for number, length in enumerate(LENGTHS):
        write_codes(root / str(number) / "clip.wav", ramp(length, number))
    return root


def write_tone(
    path: Path, seconds: float = 0.05, rate: int = 8000, level: float = 0.5, **how: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, level * np.sin(2 * math.pi * 440 * time), rate, **how)


# --- Opening it -------------------------------------------------------------------------------


def unprepared(root: Path, **settings: Any) -> Corpus:
    """Settings are those of `Listing`, `DecodeSettings` and `Corpus`, by name."""
    given = {"sample_rate": 8000, "val_fraction": 0.0, **settings}

    def taken(by: type) -> dict[str, Any]:
        names = [name for name in inspect.signature(by).parameters if name in given]
        return {name: given.pop(name) for name in names}

    made = Corpus(
        Listing(root, **taken(Listing)), DecodeSettings(**taken(DecodeSettings)), **taken(Corpus)
    )
    assert not given, f"unknown settings: {given}"
    return made


def prepared(root: Path, **settings: Any) -> Corpus:
    made = unprepared(root, **settings)
    made.prepare()
    return made


def codes_of(opened: Corpus, clip: Clip, output: Output = CODEC) -> torch.Tensor:
    """(length,), in the smallest type that holds them."""
    return encode_pcm(output, torch.from_numpy(opened.levels(clip).copy()))


def decoded(opened: Corpus, clip: Clip) -> torch.Tensor:
    """What is left of a clip's audio after mu-law."""
    return CODEC.decode(codes_of(opened, clip))


def crops(
    root: Path,
    receptive_field: int = 64,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    tail: int = 0,
    **settings: Any,
) -> CropBatches:
    """Crops of 256 samples, 4 a batch, each labelled with its clip."""
    shape = {name: settings.pop(name, size) for name, size in SHAPE.items()}
    table = prepared(root, label_from_folder="clip", **settings).table("train")
    share = {"seed": seed, "rank": rank, "world_size": world_size}
    return CropBatches(table, receptive_field, **shape, **share, tail=tail)


def prepared_folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


# --- Batches ----------------------------------------------------------------------------------


def rows(batch: dict[str, Any]) -> Iterator[tuple[np.ndarray, int, int, int]]:
    """Codes, first and last scored target, and clip number of every row."""
    clips = batch["labels"]["clip"]
    for codes, (start, stop), clip in zip(
        encoded(batch), batch["scored"].tolist(), clips.tolist(), strict=True
    ):
        yield codes.numpy(), start, stop, clip


def encoded(batch: dict[str, Any], output: Output = CODEC) -> torch.Tensor:
    """(B, W + 1) samples of a batch's rows."""
    return encode_pcm(output, batch["audio"])


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two batches are equal in every tensor."""
    pairs = [(a[name], b[name]) for name in ("audio", "scored", "position")]
    return all(
        torch.equal(x, y)
        for x, y in [*pairs, *((a["labels"][name], b["labels"][name]) for name in b["labels"])]
    )


# --- Other processes --------------------------------------------------------------------------


def run(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """A process that runs `code` with `tiny_corpora` imported."""
    paths = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
    command = [sys.executable, "-c", f"import sys\nimport tiny_corpora\n{code}", *arguments]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
