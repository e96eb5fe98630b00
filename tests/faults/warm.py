"""Owns importing, in the process that forks, all that its children import.

An import costs a child up to a second, and a forked child inherits those that are done.
"""

import importlib
import os
import sys
import threading
from pathlib import Path

from tiny_runs import train

from faults.sandbox import Limits, run_one
from faults.stock import EVALUATION, evaluate_command, generate_command, stock

OURS = ("faults", "wavenet", "tiny_", "generate", "__main__")


def import_all() -> None:
    """What a training, a drawing with a picture and an evaluation import."""
    found = stock().folder / "modules"
    run_one(_note_modules, str(found), Limits(seconds=120))
    for name in found.read_text().split():
        if name not in sys.modules and not name.startswith(OURS):
            _import(name)
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("an import has started a thread; a process with threads cannot fork")


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # one that only its package can import: the child will
        return


def _note_modules(file: str) -> None:
    here = stock()
    train(*here.settings(trainer__max_steps=2))
    generate_command(f"--checkpoint={here.run}", "--seconds=0.01", "--plot=p.png")
    evaluate_command(f"--checkpoint={here.run}", f"--root={here.corpus}", "--out=o", *EVALUATION)
    Path(file).write_text("\n".join(sorted(sys.modules)))
