"""Owns how a model starts from the weights of another: its shape, its weights, its labels' rows.

Knows nothing of files, data or the training loop.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from wavenet.installation import spelled
from wavenet.model import Config, WaveNet
from wavenet.outputs import output_settings

logger = logging.getLogger(__name__)

# Of `Config`, what is the corpus's; all others shape the weights.
OF_THE_CORPUS = ("labels", "sample_rate", "clip_length", "unlabelled")
SHAPE = tuple(name for name in Config.names() if name not in OF_THE_CORPUS)
TABLES = "label_embedding.tables."


def adopt_shape(settings: Namespace, source: WaveNet, name: str, given: set[str]) -> None:
    """Sets the --model settings that shape the weights to those of the model to start from.

    given: settings of the command line. Raises ValueError where one of them is another.
    """
    usual = Config()
    before = {
        setting: _as_parsed(setting, getattr(usual, setting)) if own is None else own
        for setting in SHAPE
        for own in [settings.get(setting)]
    }
    for setting in SHAPE:
        settings[setting] = _as_parsed(setting, getattr(source.config, setting))
    changed = [each for each in SHAPE if before[each] != settings[each]]
    against = [f"--model.{each}" for each in changed if each in given]
    if against:
        raise ValueError(
            f"--model.init_from {name}: that model has another {', '.join(against)} than the "
            "command line. Its weights fit its own shape alone: leave that out, or leave out "
            "--model.init_from."
        )
    if changed:
        told = ", ".join(f"{each} {getattr(source.config, each)}" for each in changed)
        logger.info("the model has the shape of %s, not that of the config: %s", name, told)


def _as_parsed(setting: str, value: Any) -> Any:
    """As the command line holds it."""
    if setting == "mel" and value is not None:
        return Namespace(**asdict(value))
    if setting == "output":
        fields = output_settings(value)
        return Namespace(class_path=f"wavenet.{fields.pop('name')}", init_args=Namespace(**fields))
    return value


def differences(mine: Config, theirs: Config, names: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """Settings of these names that differ: (name, mine, theirs)."""
    pairs = [(name, getattr(mine, name), getattr(theirs, name)) for name in names]
    return [(name, one, other) for name, one, other in pairs if one != other]


def require_same_shape(mine: Config, theirs: Config, name: str) -> None:
    """Raises ValueError, naming the settings of the shape that differ."""
    different = [
        f"{setting} {one!r}, there {other!r}"
        for setting, one, other in differences(mine, theirs, SHAPE)
    ]
    if different:
        raise ValueError(
            f"--model.init_from {name}: that model has other settings than this one "
            f"({'; '.join(different)})."
        )


def named_other_rate(network: WaveNet, source: WaveNet, name: str) -> None:
    """A line in the log where a model is to be trained on at another rate."""
    if source.sample_rate != network.sample_rate:
        logger.warning(
            "--model.init_from %s was trained at %d Hz, and this data is at %d Hz: all that it "
            "has learned sounds at another pitch. --data.sample_rate %d keeps it.",
            name,
            source.sample_rate,
            network.sample_rate,
            source.sample_rate,
        )


def require_scorable(network: WaveNet, source: WaveNet, name: str) -> None:
    """Raises ValueError where a model is to be scored at another rate, or on labels new to it."""
    mine, theirs = network.labels, source.labels
    new = any(set(mine[label]) - set(theirs.get(label, [])) for label in mine)
    if new or set(mine) != set(theirs):
        raise ValueError(
            f"{name} cannot be scored on this data: it knows the labels {dict(theirs)}, and the "
            f"data has {dict(mine)}. Give the data settings it was trained with, or fine-tune it: "
            f"{spelled('train')} --model.init_from ..."
        )
    if source.sample_rate != network.sample_rate:
        raise ValueError(
            f"{name} was trained at {source.sample_rate} Hz, and this data is at "
            f"{network.sample_rate} Hz. Give --data.sample_rate {source.sample_rate}."
        )


@torch.no_grad()
def take_weights(network: WaveNet, source: WaveNet, name: str) -> None:
    """Copies what both have; a label's row goes to the row of the same category.

    What the source has not starts fresh, and what this network has not is left out; the log says
    so.
    """
    mine, theirs = network.state_dict(), source.state_dict()
    shared = {
        key: weight for key, weight in theirs.items() if key in mine and not key.startswith(TABLES)
    }
    network.load_state_dict(shared, strict=False)
    for line in _rows(network, source):
        logger.info("--model.init_from %s: %s", name, line)
    fresh = [key for key in mine if key not in shared and not key.startswith(TABLES)]
    if fresh:
        logger.info(
            "--model.init_from %s: %d weights that it has not start fresh (%s, ...)",
            name,
            len(fresh),
            fresh[0],
        )


def _rows(network: WaveNet, source: WaveNet) -> list[str]:
    """Copies the labels' rows; returns lines about them, where anything is new or left out."""
    lines = []
    ours, others = _tables(network), _tables(source)
    for label, categories in network.labels.items():
        known = source.labels.get(label, [])
        for row, category in enumerate(categories):
            if category in known:
                ours[label][row] = others[label][known.index(category)]
        kept = [each for each in categories if each in known]
        parts = {
            "kept": kept,
            "fresh": [each for each in categories if each not in known],
            "left out": [each for each in known if each not in categories],
        }
        if kept != categories or parts["left out"]:
            told = "; ".join(f"{what}: {', '.join(each)}" for what, each in parts.items() if each)
            lines.append(f"label {label}: {told}")
    gone = [label for label in source.labels if label not in network.labels]
    return [*lines, f"its labels left out: {', '.join(gone)}"] if gone else lines


def _tables(network: WaveNet) -> dict[str, Tensor]:
    embedding: Any = network.label_embedding
    if embedding is None:
        return {}
    return {
        name: table.weight for name, table in zip(embedding.names, embedding.tables, strict=True)
    }
