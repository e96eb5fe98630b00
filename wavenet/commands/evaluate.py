"""Owns the command `wavenet evaluate digits|vocoder`, each of `wavenet.evaluation`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from wavenet.commands.choosing import chosen

KINDS = {
    "digits": "generated spoken digits against real ones, by a classifier",
    "vocoder": "recordings made again from their mel spectrograms, by distances",
}


def main(arguments: Sequence[str] | None = None, prog: str = "wavenet evaluate") -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    kind = chosen(prog, KINDS, given)
    import_module(f"wavenet.evaluation.{kind}").main(given[1:], f"{prog} {kind}")
