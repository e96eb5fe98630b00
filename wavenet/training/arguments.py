"""Owns what the command line of `train.py` leaves out: the subcommand, the weights, the config.

Knows nothing of what the settings mean.
"""

import logging
import re
from pathlib import Path

import yaml

from wavenet.checkpoints import newest_checkpoint
from wavenet.installation import is_recipe, nearest, recipe, recipes, script, scripts, spelled
from wavenet.pretrained import find
from wavenet.training.trust import require_known_script, require_plain

logger = logging.getLogger(__name__)

CONFIG = ("--config", "-c")
COMMANDS = ("fit", "validate", "test")


def complete_arguments(arguments: list[str], default_config: Path) -> list[str]:
    """Fills in what the user left out.

    `fit` without a subcommand, the file for `--ckpt_path last` or a run, the config (that of the
    run whose weights are given, that of a bundled model, else the default config), and for a new
    run its name.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise ValueError(
            f"there is no '{arguments[0]}'{nearest(arguments[0], COMMANDS)}. What can be done is "
            f"{', '.join(COMMANDS)}: {spelled('train')} --help"
        )
    if not arguments or arguments[0] not in COMMANDS:
        arguments = ["fit", *arguments]
    if {"-h", "--help", "--help-all"} & set(arguments):
        return arguments
    command, *rest = arguments
    rest = _with_recipes(rest)
    config, name = (_value(rest, *flags) for flags in (CONFIG, ("--name",)))
    if config is not None:
        _require_text(Path(config))
    rest = _with_weights(command, rest)
    checkpoint, start = _value(rest, "--ckpt_path"), _value(rest, "--model.init_from")
    if config is None:
        scored = start if command != "fit" else None
        rest = ["--config", str(_own_config(rest, checkpoint or scored, default_config)), *rest]
    rest = [*rest, *_own_script(rest)]
    if name is None and checkpoint is None:
        rest = ["--name", Path(config).stem if config else default_config.stem, *rest]
    return [command, *rest]


def _with_recipes(arguments: list[str]) -> list[str]:
    """The arguments with a file behind each --config, where a recipe's name may have been."""
    found = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, equals, value = argument.partition("=")
        if equals and flag in CONFIG:
            argument = f"{flag}={recipe(value)}"
        elif before in CONFIG:
            argument = str(recipe(argument))
        found.append(argument)
    return found


def _own_script(rest: list[str]) -> list[str]:
    """The library's own prepare.py for one of its recipes, where another file has that path here.

    Somebody's data/NAME/prepare.py in the working folder is not run because a recipe was named.
    """
    config = Path(_value(rest, *CONFIG) or "")
    if not config.is_file() or not is_recipe(config) or _value(rest, "--data.prepare") is not None:
        return []
    named = ((yaml.safe_load(config.read_text()) or {}).get("data") or {}).get("prepare")
    if named is None or script(named).resolve() in scripts():
        return []
    return ["--data.prepare", str(recipes() / named)]


def _with_weights(command: str, rest: list[str]) -> list[str]:
    """The arguments with a .ckpt file behind --ckpt_path, whatever names it.

    A run gives its best checkpoint to be scored, its last to go on with. What has weights alone, an
    export or a bundled model, is scored by --model.init_from.
    """
    given, config = _value(rest, "--ckpt_path"), _value(rest, *CONFIG)
    if not given:
        return rest
    others, folder = _without(rest, "--ckpt_path"), Path(given, "checkpoints")
    if given == "last":
        wanted = _value(rest, "--name") or (Path(config).stem if config else None)
        found = newest_checkpoint(Path(_value(rest, "--runs") or "runs"), wanted)
        return [*others, "--ckpt_path", str(found)]
    if folder.is_dir():
        names = ("last.ckpt",) if command == "fit" else ("best.ckpt", "last.ckpt")
        there = [folder / name for name in names if (folder / name).is_file()]
        if not there:
            raise ValueError(f"--ckpt_path {given}: that run has no checkpoint yet.")
        logger.info("the checkpoint of that run: %s", there[0])
        return [*others, "--ckpt_path", str(there[0])]
    if given.endswith(".ckpt") or Path(given).is_file():
        return rest
    find(given)  # raises FileNotFoundError for what is none
    if command == "fit":
        raise ValueError(
            f"--ckpt_path {given} has weights alone: there is no run to go on with. Give a .ckpt "
            f"file, or start a new run from these weights: --model.init_from {given}"
        )
    return [*others, "--model.init_from", given]


def _own_config(rest: list[str], source: str | None, default_config: Path) -> Path:
    """The config that belongs to these weights, a checkpoint, an export or a bundled name."""
    own_recipes = default_config.parent
    if source is None:
        return default_config
    bundled = own_recipes / f"{source}.yaml"
    path = Path(source)
    if not path.exists() and re.fullmatch(r"\w+", source) and bundled.is_file():
        return bundled
    run = path.parent.parent if path.is_file() else path.parent if path.name == "model" else path
    config = run / "config.yaml"
    if not config.is_file():
        return default_config
    own = require_plain(config, path)
    data = own.get("data") or {}
    require_known_script(
        config,
        data.get("prepare"),
        _value(rest, "--data.root") or data.get("root"),
        recipes=own_recipes.parent / "data",
        named=_value(rest, "--data.prepare") is not None,
    )
    return config


def _require_text(config: Path) -> None:
    """Raises ValueError for a config file that is no UTF-8 text; what is not there, others tell."""
    try:
        if config.is_file():
            config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise ValueError(
            f"--config '{config}' is not UTF-8 text ({byte}); save it again as UTF-8."
        ) from error


def _value(arguments: list[str], *flags: str) -> str | None:
    """The last value of a flag, given as `--flag value` or `--flag=value`."""
    value = None
    for index, argument in enumerate(arguments):
        flag, equals, given = argument.partition("=")
        if flag in flags:
            value = given if equals else next(iter(arguments[index + 1 :]), None)
    return value


def _without(arguments: list[str], flag: str) -> list[str]:
    """The arguments without a flag and its values."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == flag:
            skip = True
        elif not argument.startswith(f"{flag}="):
            kept.append(argument)
    return kept
