"""Owns finding and reading the files of a run: exports and training checkpoints.

Runs no code from these files. Knows nothing of training; needs only torch.
"""

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from wavenet.installation import spelled
from wavenet.machine import obstacle_to_gpu
from wavenet.model import Config, WaveNet
from wavenet.pretrained import DEFAULT, HERE
from wavenet.saving import reading, require_floats
from wavenet.version import __version__

logger = logging.getLogger(__name__)

WHOLE = "a whole training checkpoint"
USE_ANOTHER = (
    "It is cut short or damaged. Use another one: best.ckpt and last.ckpt are in the same folder."
)
RUNS = Path("runs")  # the default folder of runs, as in train.py


def load_model(path: str | os.PathLike[str]) -> WaveNet:
    """A model in eval mode.

    path: an export (`runs/NAME/model`), a run (`runs/NAME`), a training checkpoint (`.ckpt`), which
    gives its averaged weights, or a name for `WaveNet.from_pretrained`: a bundled model, "fsdd", or
    "user/model" of the Hub. Raises FileNotFoundError or ValueError; the message says what to do.
    """
    source = Path(path)
    if source.is_file():
        return _from_training(source)
    try:
        return WaveNet.from_pretrained(source / "model" if (source / "model").is_dir() else path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} A run (runs/NAME) or its .ckpt file works too."
        ) from error


def to_device(model: WaveNet, name: str) -> WaveNet:
    """The model on this device; "auto" is cuda if it is there and works, else cpu, and says so.

    Raises ValueError if the device is not available, or keeps no numbers, as "meta".
    """
    if name == "auto":
        return model.to("cuda" if torch.cuda.is_available() and _works("cuda") else "cpu")
    if obstacle := obstacle_to_device(name):
        raise ValueError(
            f"--device {name} is not available ({obstacle}). Leave out --device, or give cpu."
        )
    return model.to(name)


def _works(name: str) -> bool:
    """With a line in the log where it does not."""
    obstacle = obstacle_to_device(name)
    if obstacle:
        logger.warning("drawing on the CPU: %s.", obstacle)
    return obstacle is None


def obstacle_to_device(name: str) -> str | None:
    """Why torch cannot compute on that device, tried on one number; None where it can."""
    try:
        device = torch.device(name)
        there = device.type == "cuda" and torch.cuda.is_available()
        if there and (obstacle := obstacle_to_gpu(device)):
            return obstacle
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch is built without it
        return str(error).splitlines()[0]
    return None


def _from_training(path: Path) -> WaveNet:
    checkpoint = read_checkpoint(path)
    known = Config.names()
    hyper = {name: value for name, value in checkpoint["hyper_parameters"].items() if name in known}
    prefix = "wavenet."
    weights = {name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items()}
    written_by = str(checkpoint.get("wavenet_version", "of an unknown version"))
    misfit = (
        f"do not fit the model of this version, {__version__}; it was written by wavenet "
        f"{written_by}. Export the model with that version"
    )
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    model = WaveNet.of_shapes(hyper, shapes, path, misfit)
    model.load_state_dict(weights)
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint as plain tensors, numbers and names.

    Raises FileNotFoundError if the file does not exist, ValueError if it is cut short or damaged,
    contains code, or is not a training checkpoint.
    """
    checkpoint = unpickled(path, WHOLE, USE_ANOTHER)
    advice = "Give a .ckpt file of a run of train.py."
    with reading(path, "a training checkpoint of this library", advice):
        _require_parts(checkpoint, path.stat().st_size)
    return checkpoint


def unpickled(path: Path, kind: str, advice: str, older: bool = False) -> Any:
    """What torch.save wrote: tensors, numbers, names, and lists and mappings of them.

    kind, advice: of the messages, "a whole training checkpoint" and what to do about a damaged one.
    older: whether it may be the file of another program: as torch.save wrote it before 2020 too,
        and with numbers of numpy, in whose place an `Ignored` then stands.

    Raises FileNotFoundError if the file does not exist, ValueError if it is cut short or damaged or
    contains code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint.")
    if not (older and _is_older(path)):
        _require_whole(path, kind, advice)
    known: list[Any] = [(Ignored, name) for name in NUMPY] if older else []
    try:
        with (
            torch.serialization.safe_globals(known),
            reading(path, kind, advice, but=pickle.UnpicklingError),
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: it contains more than tensors, numbers and names, so loading it "
            "could run code. If you trust its source, load it with the program that wrote it."
        ) from error


class Ignored:
    """In the place of a number of numpy's, which is not read: a learning rate in an optimizer."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


NUMPY = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
BEFORE_2020 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, torch's magic


def _is_older(path: Path) -> bool:
    """Whether it begins as the files do that torch.save wrote before version 1.6."""
    with path.open("rb") as file:
        return file.read(len(BEFORE_2020)) == BEFORE_2020


def _require_whole(path: Path, kind: str, advice: str) -> None:
    """Raises ValueError for a file that is not as torch.save wrote it, before it is unpickled.

    torch.load looks at no checksum, and takes other formats for its own of before 2020.
    """
    with path.open("rb") as file:
        begins = file.read(4)
    if begins and begins != b"PK\x03\x04":
        raise ValueError(
            f"{path} was refused: it is not a training checkpoint, which is a zip file that "
            "torch.save writes."
        )
    with reading(path, kind, advice), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which torch.save never does")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("it promises more than it contains")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")


def _require_parts(checkpoint: Any, size: int) -> None:
    """Raises for anything but settings by name and plain weights, in a file of so many bytes."""
    weights, settings = checkpoint["state_dict"], checkpoint["hyper_parameters"]
    if not all(isinstance(name, str) for part in (weights, settings) for name in {**part}):
        raise ValueError("names that are no text")
    require_floats(weights)
    if sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) > size:
        raise ValueError("weights larger than the file")


def newest_checkpoint(runs: Path, name: str | None = None) -> Path:
    """The newest RUNS/*/checkpoints/last.ckpt; with a name, only of the runs NAME, NAME-2, ..."""
    found = [
        path
        for path in runs.glob("*/checkpoints/last.ckpt")
        if name is None or _is_called(path.parts[-3], name)
    ]
    if not found:
        called = f" called {name}" if name else ""
        raise FileNotFoundError(
            f"--ckpt_path last: there is no run{called} with a checkpoint in {runs}. "
            "Leave out --ckpt_path to start a run, or give the path of a .ckpt file."
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
            f"There is no trained model in {runs} yet. Train one with: {spelled('train')}\n"
            f"or give the path of one: {spelled('generate')} --checkpoint PATH "
            f"(--checkpoint {DEFAULT}: the bundled model)"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def newest_or_bundled(runs: Path | None = None) -> Path:
    """The newest RUNS/*/model; without `runs`, the newest in runs/, else the bundled model."""
    try:
        return newest_export(runs or RUNS)
    except FileNotFoundError:
        if runs is not None:
            raise
    logger.info(
        "no run in %s/ yet: using the bundled model %s. Train your own with: %s",
        RUNS,
        DEFAULT,
        spelled("train"),
    )
    return HERE / DEFAULT


def model_name(source: str | os.PathLike[str]) -> str:
    """A short name for the model that `load_model` loads from `source`, without parent folders."""
    path = Path(source)
    if not path.exists():
        return str(source)  # bundled, or user/model of the Hub
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name
