"""Owns what commands share at a terminal: flags of sampling and engines, a progress bar, Ctrl-C,
and how a command ends.

Knows nothing of models or files.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from types import FrameType
from typing import Any, NoReturn, Self

import torch
from torch import Tensor

from wavenet.conditioning.matching import PASSES
from wavenet.engines import ENGINES, OLDER_NAMES
from wavenet.generation import Stream
from wavenet.outputs import Sampling

IN_PLACE, IN_A_FILE = 0.1, 60.0  # seconds between two lines of progress


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each knob of `Sampling`."""
    for knob in fields(Sampling):
        flag, text = f"--{knob.name.replace('_', '-')}", knob.metadata["help"]
        if "default" in knob.metadata:  # of the model
            parser.add_argument(
                flag, type=guidance_choice, help=f"{text} (default: {knob.metadata['default']})"
            )
        else:
            parser.add_argument(
                flag, type=knob.type, default=knob.default, help=f"{text} (%(default)s)"
            )


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The knobs as `generate` takes them."""
    return {knob.name: getattr(args, knob.name) for knob in fields(Sampling)}


def label_choice(text: str) -> dict[str, str]:
    """For argparse: "digit=7,speaker=jackson" -> {"digit": "7", "speaker": "jackson"}."""
    pairs = [item.partition("=") for item in text.split(",") if item]
    if not all(name and equals and value for name, equals, value in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=VALUE,NAME=VALUE, like digit=7,speaker=jackson"
        )
    given = {name.strip(): value.strip() for name, _, value in pairs}
    if len(given) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} has a label twice; give each once")
    return given


def guidance_choice(text: str) -> float | dict[str, float]:
    """For argparse: "0.5" -> 0.5, of all labels; "digit=1" -> {"digit": 1.0}, of those named."""
    try:
        return (
            {name: float(value) for name, value in label_choice(text).items()}
            if "=" in text
            else float(text)
        )
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number nor NAME=NUMBER, like 0.5 or digit=0.5"
        ) from error


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        type=lambda name: OLDER_NAMES.get(name, name),
        default="auto",
        choices=["auto", *ENGINES],
        help="auto: the fastest for this model and machine (%(default)s)",
    )


def add_match_argument(parser: argparse.ArgumentParser, default: int | None = 0) -> None:
    """default: None for PASSES where the model allows it."""
    parser.add_argument(
        "--match-mel",
        type=int,
        default=default,
        metavar="PASSES",
        help="for a model with mel: passes over the audio that bring the level of its bands to "
        f"that of the frames: far less noise; {PASSES} for files; each delays --out - by up to a "
        f"mel window ({PASSES if default is None else default})",
    )


def chunk_size(clips: int) -> int:
    """Samples of each clip between two looks at the clock and at Ctrl-C: fewer of many clips."""
    return min(256, max(16, 2**16 // max(1, clips)))


def with_progress(chunks: Stream, sample_rate: int) -> Iterator[Tensor]:
    """The same chunks, with a line on stderr: samples/s over all clips, and times real time.

    On a terminal it changes in place; a file gets a line first, each minute and at the end.
    """
    total = None if chunks.lengths is None else int(chunks.lengths.max()) * len(chunks.lengths)
    made, begun = 0, time.monotonic()
    line = _Line()
    try:
        line.show(_progress(made, total, 0.0, sample_rate))
        for chunk in chunks:
            made += chunk.numel()
            line.show(_progress(made, total, time.monotonic() - begun, sample_rate))
            yield chunk
    finally:
        line.end()


def _progress(made: int, total: int | None, seconds: float, sample_rate: int) -> str:
    share = f"{100 * made // total}% of {total:,} samples" if total else f"{made:,} samples"
    if not seconds:
        return f"generating: {share}"
    speed = made / seconds
    return f"generating: {share}, {speed:,.0f} a second, {speed / sample_rate:.2f} x real time"


class _Line:
    """A line of stderr that tells how far the work is."""

    def __init__(self) -> None:
        self._in_place = sys.stderr is not None and sys.stderr.isatty()
        self._text, self._last, self._shown = "", -math.inf, 0

    def show(self, text: str) -> None:
        now, self._text = time.monotonic(), text
        if now - self._last >= (IN_PLACE if self._in_place else IN_A_FILE):
            self._last = now
            self._write("" if self._in_place else "\n")

    def end(self) -> None:
        self._write("\n")

    def _write(self, ending: str) -> None:
        start = "\r" if self._in_place else ""
        with suppress(OSError, ValueError):  # stderr is closed or full: the work goes on
            print(start + self._text.ljust(self._shown), end=ending, file=sys.stderr, flush=True)
        self._shown = len(self._text) if self._in_place else 0


class Stopped(KeyboardInterrupt):
    """A signal ends the command: number, as in `signal`. SIGTERM is met like Ctrl-C."""

    def __init__(self, number: int, frame: FrameType | None = None) -> None:
        super().__init__()
        self.number = number


class Interruptible:
    """The same chunks up to Ctrl-C or SIGTERM: the chunk being made is finished and kept.

    interrupted: the signal's number; 0 where the chunks came to their end. A second signal ends at
    once.
    """

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self.interrupted = 0
        self._chunks = chunks

    def __enter__(self) -> Self:
        self._signals = _on_signals(self._note)
        self._signals.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._signals.__exit__(*error)

    def __iter__(self) -> Iterator[Tensor]:
        for chunk in self._chunks:
            yield chunk
            if self.interrupted:
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise Stopped(number)
        self.interrupted = number

    def end(self) -> None:
        """Ends the command where a signal has stopped it, once what was made is written."""
        if self.interrupted:
            _end("interrupted: what was made so far is written", self.interrupted)


@contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM are given to the handler."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, handled in zip(numbers, before, strict=True):
            signal.signal(number, handled)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def run_command(run: Callable[[], None]) -> None:
    """Runs a command to its end, which is a line on stderr and an exit status, and no traceback.

    0: all is well, or the reader of stdout has left. 1: `error: ...`, which says what to do. 130
    after Ctrl-C and 143 after SIGTERM, as shells count: 128 and the signal's number.
    """
    if sys.stderr is None:  # closed by the caller: bars and messages go nowhere
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        with _on_signals(_stop):
            _to_the_end(run)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        sys.exit("error: There is not enough memory for this: draw less, or fewer at once.")
    except Stopped as stopped:
        _end("interrupted: nothing more was written", stopped.number)


def _to_the_end(run: Callable[[], None]) -> None:
    """Runs it, and hands on what it printed; a reader that has left is no fault."""
    try:
        run()
    except BrokenPipeError:
        pass
    except OSError as error:
        if error.errno and error.filename is None:  # of print, where nothing is buffered
            raise OSError(f"stdout could not be written: {error.strerror}.") from error
        raise
    finally:
        _flush()


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        if not isinstance(error, BrokenPipeError):
            raise OSError(f"stdout could not be written: {error.strerror}.") from error


def _out_of_memory(error: Exception) -> bool:
    """Of Python, of a GPU, or of torch's CPU allocator, which has no error of its own."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _end(text: str, number: int) -> NoReturn:
    """number: of the signal."""
    print(text, file=sys.stderr)
    sys.exit(128 + number)
