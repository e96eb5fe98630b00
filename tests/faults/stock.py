"""Owns what inputs start from: a tiny corpus, a trained run, its checkpoint and export, audio.

Made once, in a child, before anything is forked from it; nobody writes to it afterwards.
"""

import importlib
import io
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile
import torch
from tiny_runs import RATE, REPOSITORY, arguments, train, write_corpus

from faults.outcomes import OK
from faults.sandbox import Limits, run_one
from wavenet import WaveNet, generate

STEPS = 6  # of the run; it is validated after every second one


@dataclass(frozen=True)
class Stock:
    """A folder of things that are whole."""

    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "whole"

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoints" / "last.ckpt"

    @property
    def export(self) -> Path:
        return self.run / "model"

    @property
    def libraries(self) -> Path:
        return self.folder / "libraries"

    def model(self) -> WaveNet:
        return WaveNet.from_pretrained(self.export)

    def settings(self, **overrides: object) -> list[str]:
        return arguments(self.corpus, **{"trainer__max_steps": STEPS, **overrides})


_stock: list[Stock] = []
INSIDE = ".wavenet-cache"  # of a corpus: prepared there, and not in the cache that all cases share


def stock() -> Stock:
    """The one of this session; `make` comes first."""
    return _stock[-1]


def make(folder: Path) -> Stock:
    """Fills the folder, and makes it what `stock` gives."""
    _command()  # imported before anything is forked: only the command itself is killed
    folder = folder.resolve()
    made = Stock(folder)
    os.environ["WAVENET_CACHE"] = str(made.libraries)
    _stock.append(made)
    outcome = run_one(_fill, None, Limits(seconds=120))
    if outcome.verdict != OK:
        raise RuntimeError(f"the stock could not be made: {outcome}")
    return made


def _fill(_: None) -> None:
    here = stock()
    write_corpus(here.corpus, digits="012")
    (here.corpus / INSIDE).mkdir()
    (here.folder / "file").write_text("not a folder")
    os.chdir(here.folder)
    train(*here.settings(), "--name=whole")
    model = here.model()
    for batch in (1, 2, 3):
        generate(model, num_samples=4, batch_size=batch)  # compiles
    tone = 0.5 * np.sin(np.arange(900) * 0.2)
    soundfile.write(here.folder / "tone.wav", tone, RATE, "PCM_16")


@cache
def _command() -> ModuleType:
    sys.path.insert(0, str(REPOSITORY))
    return importlib.import_module("generate")


def generate_command(*args: str) -> None:
    """`python generate.py ARGS` in this process. Raises SystemExit as it does."""
    command = _command()
    before, sys.argv = sys.argv, ["generate.py", *args]
    try:
        command.main()
    finally:
        sys.argv = before


def evaluate_command(*args: str) -> None:
    """`python -m wavenet.evaluation ARGS` in this process."""
    from wavenet.evaluation.digits import main

    main(list(args))


EVALUATION = (  # flags for the corpus of the stock
    "--training-pattern=_[0-3]\\.wav$",
    "--held-out-pattern=_[45]\\.wav$",
    "--label-pattern=(?P<digit>\\d)_(?P<speaker>[a-z]+)_\\d+\\.wav$",
    "--clips-per-cell=1",
    "--seconds=0.2",
    "--epochs=1",
)


def corpus_copy(target: Path) -> Path:
    """The corpus without what was prepared of it."""
    shutil.copytree(stock().corpus, target, ignore=lambda *_: [INSIDE])
    (target / INSIDE).mkdir()
    return target


def encoded(kind: str, subtype: str, rate: int, channels: int, frames: int) -> bytes:
    """An audio file of a quiet tone."""
    tone = 0.3 * np.sin(np.arange(frames) * 0.2)
    buffer = io.BytesIO()
    audio = np.repeat(tone[:, None], channels, axis=1)
    soundfile.write(buffer, audio, rate, subtype, format=kind)
    return buffer.getvalue()


def same_weights(one: WaveNet, other: WaveNet) -> bool:
    """Bit for bit, NaN included, with the same labels."""
    first, second = one.state_dict(), other.state_dict()
    return (
        one.labels == other.labels
        and first.keys() == second.keys()
        and all(
            torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8))
            if first[name].dim()
            else torch.equal(first[name], second[name])
            for name in first
        )
    )
