"""Owns what the tests of training share: a corpus, a network, and ways to run them in a second.

Runs in this process go through `wavenet.training.cli.main`; runs that are killed, interrupted or
started twice have processes of their own.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from tiny_corpora import codes_of
from torch import Tensor

import wavenet
from wavenet.training.cli import main
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet
from wavenet.training.runs import RUN_VARIABLE

REPOSITORY = Path(wavenet.__file__).parent.parent
RATE = 8000
PATTERN = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_"
VAL_PATTERN = r"_[45]\.wav$"
SMALL = {
    "cycles": 1,
    "layers_per_cycle": 3,
    "residual_channels": 4,
    "gate_channels": 4,
    "skip_channels": 8,
    "condition_channels": 4,
}  # receptive field: 9 samples
SETTINGS = {
    "data.prepare": "null",
    "data.label_pattern": PATTERN,
    "data.val_pattern": VAL_PATTERN,
    "data.crop_samples": 600,
    "data.batch_size": 2,
    "data.val_batch_size": 3,
    "data.num_workers": 0,
    **{f"model.{name}": value for name, value in SMALL.items()},
    "model.warmup_steps": 2,
    "model.learning_rate": 0.01,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.max_steps": 4,
    "trainer.val_check_interval": 2,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_model_summary": "false",
    "checkpoint.every_n_steps": 1,
    "samples.seconds": 0.01,
    "samples.count": 2,
}


def write_corpus(root: Path, digits: str = "01", takes: int = 6) -> Path:
    """Clips root/DIGIT_SPEAKER_TAKE.wav of 0.1 to 0.2 s, each of another length.

    Takes 4 and 5 are for validation.
    """
    root.mkdir(parents=True, exist_ok=True)
    for number, digit in enumerate(digits):
        for take in range(takes):
            rng = np.random.default_rng([number, take])
            time = np.arange(800 + 97 * take + 31 * number)
            audio = 0.5 * np.sin(time * (0.1 + 0.05 * number)) + 0.05 * rng.standard_normal(
                len(time)
            )
            soundfile.write(root / f"{digit}_{'ab'[take % 2]}_{take}.wav", audio, RATE, "PCM_16")
    return root


def module(root: Path, **settings: Any) -> AudioDataModule:
    defaults = {
        "sample_rate": RATE,
        "label_pattern": PATTERN,
        "val_pattern": VAL_PATTERN,
        "crop_samples": 600,
        "batch_size": 2,
        "num_workers": 0,
    }
    return AudioDataModule(str(root), **{**defaults, **settings})


def prepared_corpus(root: Path) -> Path:
    """`write_corpus`, its audio decoded."""
    write_corpus(root)
    module(root).prepare_data()
    return root


def exact_bits(model: wavenet.WaveNet, data: AudioDataModule, split: str) -> float:
    """Over the samples of all clips of a split, clip by clip, through the public function."""
    clips = data.clips(split)
    bits = [
        wavenet.bits_per_sample(model, codes_of(data.corpus, clip), clip.labels) * clip.length
        for clip in clips
    ]
    return sum(bits) / sum(clip.length for clip in clips)


def network(**settings: Any) -> LitWaveNet:
    """A seeded LitWaveNet; a trainer builds its network once it knows the data."""
    pl.seed_everything(0, verbose=False)
    return LitWaveNet(**{**SMALL, "warmup_steps": 2, "learning_rate": 0.01, **settings})


def trainer(**settings: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
        "max_steps": 4,
    }
    return pl.Trainer(**{**defaults, **settings})


def arguments(root: Path, **overrides: object) -> list[str]:
    """The settings of a tiny run as `--name=value`; an override is written model__cycles=2."""
    settings = {**SETTINGS, **{name.replace("__", "."): value for name, value in overrides.items()}}
    return [f"--data.root={root}", *(f"--{name}={value}" for name, value in settings.items())]


def train(*args: object) -> None:
    """`python train.py ARGS` in this process and in the present folder.

    Raises SystemExit with the message it prints.
    """
    os.environ.pop(RUN_VARIABLE, None)
    try:
        main([str(argument) for argument in args], REPOSITORY / "configs" / "default.yaml")
    finally:
        os.environ.pop(RUN_VARIABLE, None)


def finished_run(place: Path, corpus: Path, *more: object, **overrides: object) -> Path:
    """The folder of a run that is trained in `place`, which is then left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        train(*arguments(corpus, **overrides), *more)
    return place / "runs" / "default"


def environment(**more: str) -> dict[str, str]:
    """Of a process that computes as this one does, with the library importable."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(REPOSITORY)}
    kept = {name: value for name, value in os.environ.items() if name != RUN_VARIABLE}
    return {**kept, **threads, **more}


def start(cwd: Path, *args: object, script: str = "train.py", **more: str) -> subprocess.Popen[str]:
    """A process of its own, in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / script), *map(str, args)],
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names whose tensors are not bit for bit the same."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
