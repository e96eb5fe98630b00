"""Owns the `.nam` file: JSON with a version, the settings, flat weights, rate and metadata.

Reads versions 0.5 to 0.7 and writes 0.7.0, of the architectures WaveNet and SlimmableContainer.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wavenet.files import write_whole
from wavenet.interop.nam.activations import is_number
from wavenet.interop.nam.model import DEFAULT_RATE, NAM, Container
from wavenet.interop.nam.reading import Keys, read_settings
from wavenet.interop.nam.settings import Settings, written_settings

VERSION = "0.7.0"
OLDEST, NEWEST = (0, 5), (0, 7)
LARGEST = 2**30  # bytes of a file
logger = logging.getLogger(__name__)


def load(path: str | Path) -> NAM | Container:
    """The model of a `.nam` file, in eval mode: audio (B, 1, T) -> (B, 1, T).

    Runs no code from the file. Raises ValueError, which names the file and what is wrong: another
    architecture or version, settings that are not known, another number of weights than they make,
    weights that are not finite.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes.")
        document = json.loads(path.read_text(encoding="utf-8"))
        return model_of(document).eval()
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read: {error.strerror}.") from error
    except RecursionError:
        raise ValueError(f"'{path}' is no .nam file: its JSON is nested too deeply.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is no .nam file, which is JSON: {error}.") from error
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be loaded: {error}") from error


def save(model: NAM | Container, path: str | Path) -> None:
    """Writes the model to a `.nam` file that plugins and trainers of version 0.7 read.

    Appears complete or not at all. Raises ValueError for weights that are not finite. Logs what
    the trainer and the plugins of that version compute differently, where the model has it.
    """
    if not isinstance(model, NAM | Container):
        raise ValueError(
            f".nam files hold models of wavenet.interop.nam, but got a {type(model).__name__}. "
            "Build it as nam.NAM(settings)."
        )
    write_whole(path, json.dumps(document_of(model), allow_nan=False).encode())


def model_of(document: Any) -> NAM | Container:
    """A file's content -> its model. Raises ValueError by the key that is wrong."""
    keys = Keys(document, "the file")
    _require_known_version(keys.take("version"))
    architecture, config = keys.take("architecture"), keys.take("config")
    weights = keys.left.pop("weights", None)
    rate, metadata = keys.number("sample_rate", DEFAULT_RATE), keys.take("metadata", {})
    if rate <= 0:
        raise ValueError(f"sample_rate must be above 0, but is {rate}.")
    if keys.left:
        logger.warning("Keys of a .nam file that are not read: %s.", ", ".join(sorted(keys.left)))
    if not isinstance(metadata, dict):
        raise ValueError("metadata must be an object.")
    if architecture == "SlimmableContainer":
        return _container(config, metadata)
    if architecture != "WaveNet":
        raise ValueError(
            f"its architecture is {architecture!r}, but only 'WaveNet' and 'SlimmableContainer' "
            "are built here. Models of the others are no WaveNets."
        )
    condition = _condition(config)
    settings = read_settings(config, None if condition is None else condition.settings)
    _require_fitting(settings, weights)
    model = NAM(settings, int(rate) if rate == int(rate) else rate, metadata)
    _fill(model, weights)
    _warn_of_disputed(settings)
    if condition is not None and condition.sample_rate != model.sample_rate:
        raise ValueError(
            f"condition_dsp is for {condition.sample_rate} Hz, the model for {model.sample_rate}."
        )
    model.condition_dsp = condition
    return model


def _warn_of_disputed(settings: Settings) -> None:
    for what in settings.disputed:
        logger.warning("%s; the trainer does not, and here it is as in the trainer.", what)


def _require_known_version(version: Any) -> None:
    parts = str(version).split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise ValueError(f"its version is {version!r}, but should be like '{VERSION}'.")
    major, minor, patch = map(int, parts)
    if not OLDEST <= (major, minor) <= NEWEST:
        raise ValueError(
            f"its version is {version}, but versions 0.5 to 0.7 are read here. Export it again."
        )
    if (major, minor) == NEWEST and patch:
        logger.warning(
            "A .nam file of version %s, newer than %s, is read as that.", version, VERSION
        )


def _condition(config: Any) -> NAM | None:
    nested = config.get("condition_dsp") if isinstance(config, dict) else None
    if nested is None:
        return None
    try:
        model = model_of(nested)
    except ValueError as error:
        raise ValueError(f"condition_dsp: {error}") from error
    if not isinstance(model, NAM):
        raise ValueError("condition_dsp is a container; only a WaveNet is known.")
    return model


def _container(config: Any, metadata: dict[str, Any]) -> Container:
    keys = Keys(config, "config")
    entries = keys.take("submodels")
    keys.done()
    if not isinstance(entries, list) or not entries:
        raise ValueError("config.submodels must be a list of models.")
    models, bounds = [], []
    for index, entry in enumerate(entries):
        inner = Keys(entry, f"submodels[{index}]")
        bounds.append(inner.number("max_value"))
        try:
            model = model_of(inner.take("model"))
        except ValueError as error:
            raise ValueError(f"submodels[{index}]: {error}") from error
        inner.done()
        if not isinstance(model, NAM):
            raise ValueError(f"submodels[{index}] is a container within a container.")
        models.append(model)
    return Container(models, bounds, metadata)


# Weights


def _require_fitting(settings: Settings, weights: Any) -> None:
    """Counted on a model that takes no memory, before one is made that does."""
    if not isinstance(weights, list):
        raise ValueError("it has no weights, which must be a list of numbers.")
    layers = sum(len(array.layers) for array in settings.arrays)
    if len(weights) < 3 * layers:
        raise ValueError(
            f"it has {len(weights):,} weights, but its {layers:,} layers need at least "
            f"{3 * layers:,}."
        )
    with torch.device("meta"):
        expected = 1 + sum(part.numel() for part in _parts(NAM(settings)))
    if len(weights) != expected:
        raise ValueError(
            f"it has {len(weights):,} weights, but its settings make {expected:,}, head_scale "
            "included."
        )
    wrong = [place for place, value in enumerate(weights) if not is_number(value)]
    if wrong:
        raise ValueError(
            f"{len(wrong):,} of its weights are no finite numbers, the first at place {wrong[0]}."
        )


def _parts(model: NAM) -> list[torch.Tensor]:
    pairs = [(part.weight, part.bias) for part in model.in_file_order()]
    return [tensor for pair in pairs for tensor in pair if tensor is not None]


def _fill(model: NAM, weights: Sequence[float]) -> None:
    flat, start = torch.tensor(weights, dtype=torch.float64), 0
    with torch.no_grad():
        for tensor in _parts(model):
            tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()
    model.head_scale = float(flat[-1])


# Writing


def document_of(model: NAM | Container) -> dict[str, Any]:
    """What `save` writes."""
    if isinstance(model, Container):
        entries = [
            {"max_value": bound, "model": document_of(part)}  # type: ignore[arg-type]
            for bound, part in zip(model.bounds, model.models, strict=True)
        ]
        made: dict[str, Any] = {"config": {"submodels": entries}, "weights": []}
        return _document("SlimmableContainer", model, made)
    settings = model.settings
    _warn_of_disputed(settings)
    config = written_settings(settings)
    if model.condition_dsp is not None:
        config["condition_dsp"] = document_of(model.condition_dsp)
    values = torch.cat([tensor.detach().float().cpu().flatten() for tensor in _parts(model)])
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(
            f"{bad:,} of the model's weights are NaN or infinite; nothing was written."
        )
    return _document(
        "WaveNet", model, {"config": config, "weights": [*values.tolist(), model.head_scale]}
    )


def _document(architecture: str, model: NAM | Container, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "metadata": model.metadata,
        "architecture": architecture,
        **content,
        "sample_rate": model.sample_rate,
    }
