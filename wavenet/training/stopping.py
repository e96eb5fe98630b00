"""Owns how a signal ends the command: its status, and processes that end with their parent.

Knows nothing of training: `callbacks.LastCheckpoint` decides when it is safe to stop.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

# Ctrl-C; what clusters and `kill` send to end a job; what SLURM is asked to send before it does
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1  # prctl(2)

Handler = Callable[[int, FrameType | None], None]


class Stopped(SystemExit):
    """Ends the process with the status that a shell gives to a signal: 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def stop(number: int, frame: FrameType | None = None) -> None:
    """A handler that stops at once, past `finally` and `with`."""
    raise Stopped(number)


def handle(handler: Handler) -> dict[int, Any]:
    """Sets the handler of every signal that stops; returns the earlier ones, for `restore`."""
    return {number: signal.signal(number, handler) for number in SIGNALS}


def restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Inside, every signal of SIGNALS raises `Stopped`, so that nothing half-made is left."""
    earlier = handle(stop)
    try:
        yield
    finally:
        restore(earlier)


def end_with_parent(number: int) -> None:
    """On Linux, this process gets the signal when the process that started it dies."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def open_closed_streams() -> None:
    """Gives closed standard streams (`>&-`) somewhere to write to.

    Otherwise a file of the run gets the stream's number, and what libraries print lands in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))
