"""Owns the command `wavenet`, from an installation in any folder: which commands there are.

Each is a module here with `main(arguments, prog)`, imported when it is asked for. Knows nothing of
what they do.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from wavenet.commands.choosing import chosen
from wavenet.version import __version__

COMMANDS = {
    "train": "train a WaveNet on a folder of audio, go on with a run, or score it",
    "generate": "draw audio from a model and write it as wav",
    "evaluate": "judge what a model makes: digits or vocoder",
    "export": "write a model as a folder, for ONNX Runtime, or as a page that plays it",
    "play": "play a recording through the amplifier of a .nam file",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """`wavenet COMMAND ...`. arguments: of the command line, where none are given."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["--version"]:
        print(f"wavenet {__version__}")
        return
    name = chosen("wavenet", COMMANDS, given)
    import_module(f"{__name__}.{name}").main(given[1:], f"wavenet {name}")


# How often a waiting thread of OpenMP looks before it sleeps. By itself it looks 300,000 times: on
# two cores, beside two busy processes, training fell to a 26th of its speed. So it falls to a
# third, and alone it costs 1%: benchmarks/threads.py.
PATIENCE = {"GOMP_SPINCOUNT": "1000"}
DECIDES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # whoever has set one of them has decided


def have_patience() -> None:
    """To be called before torch is imported, which is when OpenMP reads `PATIENCE`."""
    if not any(name in os.environ for name in DECIDES):
        os.environ.update(PATIENCE)


def entry() -> None:
    """`main` for a process of its own."""
    # Before a command's own handlers and after them, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == ["train"]:
        have_patience()
    main()
