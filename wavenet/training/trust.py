"""Owns what a run's own config.yaml may say: plain settings, nothing that could run code.

A config that the command line names may name classes and scripts. The config in the folder of a
checkpoint is taken without being named, and the folder may be somebody else's. Knows nothing of
what the settings mean.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from wavenet.corpus.listing import find_audio
from wavenet.installation import script
from wavenet.outputs import OUTPUTS

# Trainer settings that may be classes, and the words that they may be instead
WORDS: dict[str, set[str]] = {
    "accelerator": {"auto", "gpu", *AcceleratorRegistry.available_accelerators()},
    "strategy": {"auto", *StrategyRegistry.available_strategies()},
    "profiler": {"simple", "advanced"},
    "logger": set(),
    "callbacks": set(),
    "plugins": set(),
}
CLASSES = {  # run nothing that their settings name
    "logger": {f"lightning.pytorch.loggers.{name}" for name in ("CSVLogger", "TensorBoardLogger")},
    "callbacks": {
        f"lightning.pytorch.callbacks.{name}"
        for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "Timer")
    },
}
OUTPUT_CLASSES = {  # of model.output, as jsonargparse and people write them
    f"{place}.{name}"
    for name, kind in OUTPUTS.items()
    for place in (kind.__module__, "wavenet.outputs", "wavenet")
}
SECTIONS = ("data", "model", "ema", "samples", "checkpoint", "trainer")
SINGLE = ("seed_everything", "runs", "name", "ckpt_path", "weights_only", "verbose")
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


def require_plain(config: Path, checkpoint: Path) -> dict[str, Any]:
    """The settings in the config.yaml of a checkpoint's run.

    Raises ValueError, naming the setting, for what could import or run code, and for a file that is
    not such a config.
    """
    try:
        settings = yaml.safe_load(config.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{config} was refused: it is not plain YAML ({reason}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{config} was refused: it does not hold settings by name.")
    for name in _refused(settings, config.parent):
        raise ValueError(
            f"{config} was refused: {name} in it is not a plain setting, and could run code that "
            "somebody put into that folder. If you trust the file, name it: "
            f"--config {config} --ckpt_path {checkpoint}"
        )
    return settings


def require_known_script(
    config: Path, prepare: object, root: str | None, recipes: Path, named: bool
) -> None:
    """Raises ValueError if going on with a run would run a script that only its config names.

    recipes: the folder of the scripts that come with this program, NAME/prepare.py. named: whether
    the command line names the script.
    """
    if prepare is None or named or (root is not None and _holds_audio(Path(root))):
        return
    known = {path.resolve() for path in recipes.glob("*/prepare.py")}
    if not isinstance(prepare, str) or script(prepare).resolve() not in known:
        raise ValueError(
            f"{config} was refused: '{root}' holds no audio, and to make it the file names a "
            f"script, data.prepare {str(prepare)!r}, that does not come with this program. Give "
            f"--data.root where the audio is. If you trust the script, name it: "
            f"--data.prepare {prepare}"
        )


def _holds_audio(root: Path) -> bool:
    return root.is_dir() and bool(find_audio(root))


def _refused(settings: Mapping[Any, Any], folder: Path) -> Iterator[str]:
    """Names of settings that could run code."""
    for name, value in settings.items():
        if name in SECTIONS and isinstance(value, dict):
            for inner, setting in value.items():
                if not _is_allowed(name, inner, setting, folder):
                    yield f"{name}.{inner}"
        elif name not in SINGLE or not _is_plain(value) or (name, value) == ("weights_only", False):
            yield str(name)


def _is_allowed(section: str, name: object, value: object, folder: Path) -> bool:
    if not isinstance(name, str) or not name.isidentifier() or name in CLASS_KEYS:
        return False  # jsonargparse reads `a.b` and `a+` as other settings
    if (section, name) == ("model", "output"):
        return _is_plain(value) or _is_known(value, OUTPUT_CLASSES)
    if section != "trainer" or name not in WORDS:
        return _is_plain(value)
    return all(
        _is_word(each, WORDS[name], folder) or _is_known(each, CLASSES.get(name, set()))
        for each in (value if isinstance(value, list) else [value])
    )


def _is_word(value: object, words: set[str], folder: Path) -> bool:
    """None, a switch, or a word; jsonargparse would read a file of that name instead of it."""
    if isinstance(value, str):
        return value in words and not (folder / value).exists()
    return value is None or isinstance(value, bool)


def _is_known(value: object, classes: set[str]) -> bool:
    """A class that is known to run nothing, with plain settings."""
    if not isinstance(value, dict) or not set(value) <= {"class_path", "init_args"}:
        return False
    return value.get("class_path") in classes and _is_plain(value.get("init_args"))


def _is_plain(value: object) -> bool:
    """Numbers, switches and texts, also in lists and by name; no class by its path.

    jsonargparse reads a text as YAML where the setting is not a text, so that is looked at too.
    """
    if isinstance(value, dict):
        return all(
            isinstance(key, str | int) and not _names_a_class(key) and _is_plain(each)
            for key, each in value.items()
        )
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        try:
            inner = yaml.safe_load(value)
        except yaml.YAMLError:
            return True  # only a text
        return inner == value or _is_plain(inner)
    return True


def _names_a_class(key: str | int) -> bool:
    return any(part.rstrip("+") in CLASS_KEYS for part in str(key).split("."))
