"""Owns finding and reading what a run has left: exports and training checkpoints. Runs no code from any of them.

Knows nothing of training; needs torch alone.
"""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from wavenet.model import Config, WaveNet
from wavenet.pretrained import DEFAULT, HERE
from wavenet.version import __version__

logger = logging.getLogger(__name__)

RUNS = Path("runs")  # where train.py puts them


def load_model(path: str | os.PathLike[str]) -> WaveNet:
    """The model, in eval mode, of an export (`runs/NAME/model`), a run (`runs/NAME`) or a training checkpoint (`.ckpt`).

    A name that is no path is one of `WaveNet.from_pretrained`: a bundled model, "fsdd", or "user/model" of the Hub.
    A training checkpoint gives its averaged weights. Raises FileNotFoundError or ValueError with what to do.
    """
    source = Path(path)
    if source.is_file():
        return _from_training(source)
    try:
        return WaveNet.from_pretrained(source / "model" if (source / "model").is_dir() else path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} A run (runs/NAME) or its .ckpt file will do too."
        ) from error


def to_device(model: WaveNet, name: str) -> WaveNet:
    """The model there; "auto" is cuda where there is one. Raises ValueError for a device that is not to be had."""
    try:
        return model.to(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise ValueError(
            f"--device {name} is not to be had ({str(error).splitlines()[0]}). Leave --device out, or give cpu."
        ) from error


def _from_training(path: Path) -> WaveNet:
    checkpoint = read_checkpoint(path)
    known = Config.names()
    hyper = {name: value for name, value in checkpoint["hyper_parameters"].items() if name in known}
    model = WaveNet(**hyper)
    prefix = "wavenet."
    weights = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} was written by wavenet {checkpoint.get('wavenet_version', 'of an unknown version')}, and its weights "
            f"do not fit the model of this one, {__version__}. Export it with that version: {error}"
        ) from error
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint as plain tensors, numbers and names.

    Raises FileNotFoundError where there is none, ValueError where it is cut short, holds code, or is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: it is not a plain checkpoint of tensors and numbers, and loading it could run code from "
            "it. Use it only with the program that wrote it, if you trust that."
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
    ) as error:  # what a zip without its end raises, by where it was cut
        raise ValueError(
            f"{path} is cut short or damaged ({(str(error) or 'it is empty').splitlines()[0]}). "
            "Take an older checkpoint: best.ckpt lies beside last.ckpt."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= set(
        checkpoint
    ):
        raise ValueError(f"{path} is not a training checkpoint of this library.")
    return checkpoint


def newest_checkpoint(runs: Path, name: str | None = None) -> Path:
    """The newest RUNS/*/checkpoints/last.ckpt, of runs called NAME or NAME-2, ... where a name is given."""
    found = [
        path
        for path in runs.glob("*/checkpoints/last.ckpt")
        if name is None or _is_called(path.parts[-3], name)
    ]
    if not found:
        called = f" called {name}" if name else ""
        raise FileNotFoundError(
            f"--ckpt_path last: there is no run{called} with a checkpoint in {runs}. "
            "Leave --ckpt_path out to start one, or give the path of a .ckpt file."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def _is_called(folder: str, name: str) -> bool:
    stem, dash, number = folder.rpartition("-")
    return folder == name or (bool(dash) and stem == name and number.isdigit())


def newest_export(runs: Path) -> Path:
    """The newest RUNS/*/model."""
    found = list(runs.glob("*/model/model.safetensors"))
    if not found:
        raise FileNotFoundError(
            f"There is no trained model in {runs} yet. Train one with: python train.py\n"
            f"or say where one lies: python generate.py --checkpoint PATH (--checkpoint {DEFAULT}: the bundled one)"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def newest_or_bundled(runs: Path | None = None) -> Path:
    """The newest RUNS/*/model; where no folder was asked for and runs/ has none, the folder of the bundled model."""
    try:
        return newest_export(runs or RUNS)
    except FileNotFoundError:
        if runs is not None:
            raise
    logger.info(
        "no run in %s/ yet: this is the bundled model %s. Train your own with: python train.py",
        RUNS,
        DEFAULT,
    )
    return HERE / DEFAULT


def model_name(source: str | os.PathLike[str]) -> str:
    """What to call the model that `load_model` takes from there: its run, file or name, without the folders around it."""
    path = Path(source)
    if not path.exists():
        return str(source)  # bundled, or user/model of the Hub
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name
