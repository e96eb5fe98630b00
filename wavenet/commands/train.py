"""Owns the command `wavenet train`, in a clone `python train.py`.

The command itself is `wavenet.training.cli`; this finds it, or says what to install for it.
"""

import os
import sys
from collections.abc import Sequence

from wavenet.installation import MissingPackage, recipes


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """arguments: of the command line, where none are given. prog: is told to all commands."""
    # huge pages for torch's CPU tensors: 10 to 20% faster training; read when the first is made
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        from wavenet.training.cli import main as train
    except MissingPackage as error:
        sys.exit(f"error: {error}")
    given = sys.argv[1:] if arguments is None else arguments
    train(given, default_config=recipes() / "configs" / "default.yaml")
