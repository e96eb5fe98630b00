"""Owns the folder of a saved model: settings and weights to config.json and model.safetensors.

model.safetensors is the model: it carries the text of config.json, and with it a checksum over
settings and weights. Renaming it is what publishes a model, in one step. config.json beside it is
for people, for the Hub and for older libraries.

Knows nothing of networks: settings are plain values, weights are tensors by name. Nothing that is
read runs code.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wavenet.files import write_together
from wavenet.outputs import MuLaw, Output, output_from, output_settings
from wavenet.version import __version__

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # of the saved folder; raised when an older library could no longer read it
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INSIDE = "config"  # where the metadata of model.safetensors has the text of config.json


class Description(NamedTuple):
    """What a config.json says, as plain values."""

    settings: Mapping[str, Any]
    output: Mapping[str, Any]
    checksum: str | None = None

    def meaning(self) -> str:
        """The same text for the same model; the order of labels is the order of their tables."""
        return json.dumps([sorted(part.items()) for part in (self.settings, self.output)])


class Saved:
    """A model's folder, opened: its settings and output, and its weights' shapes, not yet read."""

    def __init__(self, path: Path, described: Description, output: Output, opened: Any) -> None:
        self.settings, self.output = dict(described.settings), output
        self.shapes = {
            name: tuple(opened.get_slice(name).get_shape()) for name in list(opened.keys())
        }
        self._path, self._described, self._opened = path, described, opened

    def weights(self) -> dict[str, Tensor]:
        """Raises ValueError where settings and weights are not the ones that were written."""
        with _reading_weights(self._path):
            weights = {name: self._opened.get_tensor(name) for name in self.shapes}
            require_floats(weights)
        if self._described.checksum not in (None, checksum(self._described, weights)):
            raise ValueError(
                f"{self._path} is damaged, or does not belong to the config.json beside it: "
                "settings and weights are not the ones that were saved together. Export the model "
                "again, or copy both files again. If one was changed on purpose, remove the line "
                '"checksum" from config.json.'
            )
        return weights


@contextmanager
def reading(
    path: Path, kind: str, advice: str, but: type[Exception] | tuple[()] = ()
) -> Iterator[None]:
    """Whatever taking a file apart raises becomes a ValueError that names it and says what to do.

    What a file from elsewhere makes a parser raise has no end: struct.error, KeyError, MemoryError,
    RecursionError, "utf-8 codec", ... but: an error that has a message of its own.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        first = (str(error).strip() or "no reason given").splitlines()[0][:200]
        raise ValueError(
            f"{path} is not {kind} ({type(error).__name__}: {first}). {advice}"
        ) from error


def _reading_weights(path: Path) -> AbstractContextManager[None]:
    advice = "It was cut short, or is another format: export or copy it again."
    return reading(path, "a whole safetensors file", advice)


def require_floats(weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError for weights that are no plain tensors of floating-point numbers."""
    for name, tensor in weights.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in FLOATS:
            raise ValueError(f"{name} is {tensor.dtype}, {tensor.layout}, on {tensor.device.type}")


def write_folder(
    folder: Path,
    settings: Mapping[str, Any],
    output: Output,
    receptive_field: int,
    weights: Mapping[str, Tensor],
) -> None:
    """Writes both files. Killed at any moment, it leaves the old model or the new one, whole.

    The weights come last: once they have their name, the model is the new one. Weights of an
    earlier library would be read by the new config.json, so those are replaced first.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    config = {
        "format_version": FORMAT_VERSION,
        "library": "wavenet",
        "library_version": __version__,
        "output": output_settings(output),
        **_older_readers_lines(output),
        "receptive_field": receptive_field,
        "model": dict(settings),
        "checksum": checksum(Description(settings, output_settings(output)), plain),
    }
    text = json.dumps(config, indent=2) + "\n"
    files = {
        folder / "config.json": text.encode(),
        folder / "model.safetensors": save(plain, metadata={INSIDE: text}),
    }
    if _is_older(folder / "model.safetensors"):
        files = dict(reversed(files.items()))
    write_together(files)


def checksum(described: Description, weights: Mapping[str, Tensor]) -> str:
    """Of all that makes a model: its settings and output; name, type, shape, bytes of weights."""
    made = hashlib.blake2b(described.meaning().encode(), digest_size=16)
    for name, tensor in sorted(weights.items()):
        made.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        made.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def _is_older(path: Path) -> bool:
    """Whether these are weights that do not carry their settings."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            return INSIDE not in (opened.metadata() or {})
    except (OSError, SafetensorError):  # none, or damaged ones
        return False


def _older_readers_lines(output: Output) -> dict[str, Any]:
    """Libraries before outputs had names look here, and refuse other outputs than mu-law's."""
    if type(output) is not MuLaw:  # another rounding is another meaning of the codes
        return {"codec": {"name": type(output).__name__, "classes": 0}}
    codec = {"name": "mu-law", "classes": output.classes, "silence": output.silence}
    return {"codec": codec}


def read_folder(folder: Path, known: Iterable[str]) -> Saved:
    """What `write_folder` has written. known: the settings that this library's models take.

    Raises FileNotFoundError for a missing file, ValueError for one that is damaged or was written
    by a later library. Where config.json is not what the weights carry, their own settings hold,
    and a warning says so.
    """
    from safetensors import safe_open

    text, path = existing(folder, "config.json"), existing(folder, "model.safetensors")
    described, output = _read_config(text.read_bytes(), text, set(known))
    with path.open("rb"):  # a file that may not be read is no damaged one
        pass
    with _reading_weights(path):
        opened = safe_open(path, "pt")
        carried = (opened.metadata() or {}).get(INSIDE)
    if carried is not None:
        beside = described.meaning()
        described, output = _read_config(carried.encode(), path, set(known))
        described = described._replace(checksum=described.checksum or "missing")
        if described.meaning() != beside:
            _warn_of_another(text)
    with _reading_weights(path):
        return Saved(path, described, output, opened)


def _warn_of_another(config: Path) -> None:
    logger.warning(
        "%s is of another model than model.safetensors beside it: an export was interrupted "
        "between the two, or one of them was replaced or edited. The settings that the weights "
        "carry are used. To make the two one again, save the model again, or copy both files.",
        config,
    )


def existing(folder: Path, name: str) -> Path:
    """The folder's file of that name. Raises FileNotFoundError where there is none."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {name}. A saved model is a folder with config.json and "
            "model.safetensors, as save_pretrained writes it and a training run leaves it in "
            "runs/NAME/model."
        )
    return path


def _read_config(text: bytes, path: Path, known: set[str]) -> tuple[Description, Output]:
    """path: of the file that has the text, for messages."""
    advice = "It is damaged, or of something else: export the model again, or copy it again."
    with reading(path, "the config.json of a saved WaveNet", advice):
        config = json.loads(text.decode(), object_pairs_hook=_each_once)
        written_by, format_version = config["library_version"], config["format_version"]
        settings, classes = {**config["model"]}, config["codec"]["classes"]
        named = {**config.get("output", {"name": "MuLaw", "classes": MuLaw().classes})}
        described = Description(settings, named, config.get("checksum"))
    unknown = sorted(set(settings) - known)
    disagree = named.get("name") == "MuLaw" and named.get("classes") != classes
    if format_version != FORMAT_VERSION or disagree or unknown:
        what = f"format {format_version}"
        if unknown:
            what = f"settings this version does not know: {unknown}"
        raise ValueError(
            f"{path} was written by wavenet {written_by} ({what}); this is wavenet {__version__}, "
            f"which reads format {FORMAT_VERSION}. Install that version, or export the model again "
            "with this one."
        )
    try:
        return described, output_from(named)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError for a name that stands twice: JSON would take the later one in silence."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"there twice: {', '.join(twice)}")
    return dict(pairs)
