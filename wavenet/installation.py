"""Owns what an installation has: optional packages, the recipes that come with it, its commands.

Knows nothing of models or audio. Recipes are the folders configs/ and data/ of a clone; a wheel has
them in wavenet/recipes/.
"""

import argparse
import difflib
import importlib
import logging
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

logger = logging.getLogger(__name__)

DISTRIBUTION = "wavenet-torch"  # the name to install by; `wavenet` on the index is another project
PACKAGE = Path(__file__).parent
CLONE = PACKAGE.parent  # the repository, where this is a clone
SHIPPED = PACKAGE / "recipes"  # what is in a wheel


# --- Optional packages ------------------------------------------------------------------------


class MissingPackage(ImportError, ValueError):
    """A package of an extra is not installed; the message says how to get it.

    Both an ImportError, as programs expect it, and a ValueError, which commands tell in one line.
    """


def require(purpose: str, *packages: str, extra: str = "train") -> None:
    """Raises MissingPackage, naming what to install, where one of the packages is not there.

    purpose: what needs them, as the message begins.
    """
    missing = [package for package in packages if not _is_there(package)]
    if missing:
        raise MissingPackage(
            f"{purpose} needs {' and '.join(missing)}, which this installation has not: "
            f"{to_install(extra)}"
        )


def to_install(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False
    except ValueError:  # a module without a spec stands in its place
        return True


@cache
def torchaudio_here() -> ModuleType | None:
    """torchaudio, or None where it is not installed or does not load beside this torch.

    Its last release is 2.11: it loads beside later torches that were built for the same CUDA alone.
    """
    try:
        return importlib.import_module("torchaudio")
    except Exception as error:  # OSError and RuntimeError too: it loads a library, and compares
        if _is_there("torchaudio"):
            reason = " ".join(str(error).split())[:200]
            logger.info("torchaudio does not load beside this torch and is not used: %s", reason)
        return None


# --- Recipes ----------------------------------------------------------------------------------


def recipes() -> Path:
    """The folder that has configs/NAME.yaml and data/NAME/prepare.py."""
    return CLONE if _is_clone() else SHIPPED


def _is_clone() -> bool:
    return (CLONE / "train.py").is_file() and (CLONE / "configs").is_dir()


def recipe(given: str) -> Path:
    """The config that `--config` means: a file, else the recipe of that name, else the path as is.

    `fsdd` and `configs/fsdd.yaml` are the recipe where there is no such file here. Raises
    ValueError, proposing the nearest, for a name without a file and a recipe.
    """
    path = Path(given)
    if path.is_file():
        return path
    name = re.fullmatch(r"(?:configs[/\\])?([\w-]+)(?:\.ya?ml)?", given)
    if name is None:
        return path
    shipped = recipes() / "configs" / f"{name[1]}.yaml"
    if shipped.is_file():
        return shipped
    raise ValueError(
        f"--config {given}: there is no such file, and no recipe of that name"
        f"{nearest(name[1], recipe_names())}. The recipes are {', '.join(recipe_names())}."
    )


def recipe_names() -> list[str]:
    return sorted(path.stem for path in (recipes() / "configs").glob("*.yaml"))


def is_recipe(config: Path) -> bool:
    """Whether the file is one of those that come with the library."""
    return config.resolve().parent == (recipes() / "configs").resolve()


def script(given: str) -> Path:
    """The prepare.py that `--data.prepare` means: a file, else the one of the recipes.

    data/NAME/prepare.py is that of the recipes where there is no such file here.
    """
    shipped = recipes() / given
    return shipped if not Path(given).is_file() and _is_known(shipped) else Path(given)


def scripts() -> set[Path]:
    """The scripts that come with the library, as whole paths."""
    return {path.resolve() for path in (recipes() / "data").glob("*/prepare.py")}


def _is_known(path: Path) -> bool:
    return path.resolve() in scripts()


# --- Commands ---------------------------------------------------------------------------------


def spelled(command: str) -> str:
    """How the user of this process starts a command: `python train.py` in a clone.

    `wavenet train` in an installation, and for whoever began with `wavenet`.
    """
    begun = Path(sys.argv[0] if sys.argv else "")
    by_name = begun.stem == "wavenet" or begun == PACKAGE / "__main__.py"
    in_clone = _is_clone() and (CLONE / f"{command}.py").is_file()
    return f"python {command}.py" if in_clone and not by_name else f"wavenet {command}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Of a message, " (did you mean NAME?)", or nothing where none is near."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {found[0]}?)" if found else ""


def proposing(message: str, options: Iterable[str]) -> str:
    """argparse's message, with the nearest option for each that it does not know."""
    _, found, words = message.partition("nrecognized arguments: ")
    wrong = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
    if not found or not wrong:
        return message
    known = sorted(options)
    return "; ".join(f"there is no {word}{nearest(word, known)}" for word in wrong) + "."


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, whose error for an option that it does not know proposes the nearest."""

    def error(self, message: str) -> NoReturn:
        super().error(proposing(message, self._option_string_actions))
