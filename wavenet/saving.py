"""Owns the folder of a saved model: settings and weights to config.json and model.safetensors.

Knows nothing of networks: settings are plain values, weights are tensors by name. Nothing that is
read runs code.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from wavenet.files import write_whole
from wavenet.outputs import MuLaw, Output, output_from, output_settings
from wavenet.version import __version__

FORMAT_VERSION = 1  # of the saved folder; raised when an older library could no longer read it


class Saved(NamedTuple):
    """A model's folder, read: all but its output, which is an object already, as plain values."""

    settings: dict[str, Any]
    output: Output
    weights: dict[str, Tensor]


def write_folder(
    folder: Path,
    settings: Mapping[str, Any],
    output: Output,
    receptive_field: int,
    weights: Mapping[str, Tensor],
) -> None:
    """Writes both files. Each appears whole or not at all; the weights come last."""
    from safetensors.torch import save

    config = {
        "format_version": FORMAT_VERSION,
        "library": "wavenet",
        "library_version": __version__,
        "output": output_settings(output),
        **_older_readers_lines(output),
        "receptive_field": receptive_field,
        "model": dict(settings),
    }
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    content = save(plain, metadata={"library_version": __version__})
    write_whole(folder / "model.safetensors", content)


def _older_readers_lines(output: Output) -> dict[str, Any]:
    """Libraries before outputs had names look here, and refuse other outputs than mu-law's."""
    if not isinstance(output, MuLaw):
        return {"codec": {"name": type(output).__name__, "classes": 0}}
    codec = {"name": "mu-law", "classes": output.classes, "silence": output.silence}
    return {"codec": codec}


def read_folder(folder: Path, known: Iterable[str]) -> Saved:
    """What `write_folder` has written. known: the settings that this library's models take.

    Raises FileNotFoundError for a missing file, ValueError for one that is damaged or was written
    by a later library.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings, output = _read_config(existing(folder, "config.json"), set(known))
    weights = existing(folder, "model.safetensors")
    try:
        return Saved(settings, output, load_file(weights))
    except SafetensorError as error:
        raise ValueError(
            f"{weights} is not a whole safetensors file ({error}). "
            "It was cut short, or is another format: export or copy it again."
        ) from error


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


def _read_config(path: Path, known: set[str]) -> tuple[dict[str, Any], Output]:
    try:
        config = json.loads(path.read_text())
        written_by, format_version = config["library_version"], config["format_version"]
        settings, classes = {**config["model"]}, config["codec"]["classes"]
        named = {**config.get("output", {"name": "MuLaw", "classes": MuLaw().classes})}
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not the config.json of a saved WaveNet ({error!r})."
        ) from error
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
    return settings, output_from(named)
