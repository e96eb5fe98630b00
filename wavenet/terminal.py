"""Owns what commands share at a terminal: flags of sampling and engines, a progress bar, Ctrl-C.

Knows nothing of models or files.
"""

import argparse
import signal
from collections.abc import Iterator
from dataclasses import fields
from types import FrameType
from typing import Any, Self

from torch import Tensor

from wavenet.engines import ENGINES, OLDER_NAMES
from wavenet.generation import Stream
from wavenet.outputs import Sampling


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each knob of `Sampling`."""
    for knob in fields(Sampling):
        flag, text = f"--{knob.name.replace('_', '-')}", knob.metadata["help"]
        if "default" in knob.metadata:  # of the model
            parser.add_argument(
                flag, type=knob.type, help=f"{text} (default: {knob.metadata['default']})"
            )
        else:
            parser.add_argument(
                flag, type=knob.type, default=knob.default, help=f"{text} (%(default)s)"
            )


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The knobs as `generate` takes them."""
    return {knob.name: getattr(args, knob.name) for knob in fields(Sampling)}


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        type=lambda name: OLDER_NAMES.get(name, name),
        default="auto",
        choices=["auto", *ENGINES],
        help="auto: the fastest for this model and machine (%(default)s)",
    )


def with_progress(chunks: Stream, batch_size: int, sample_rate: int) -> Iterator[Tensor]:
    """The same chunks, with a bar on stderr: samples/s over all clips, and times real time."""
    from tqdm import tqdm

    total = None if chunks.lengths is None else int(chunks.lengths.max()) * batch_size
    with tqdm(total=total, unit=" samples", unit_scale=True, desc="generating") as bar:
        for chunk in chunks:
            bar.update(chunk.numel())
            elapsed = bar.format_dict["elapsed"]
            if elapsed:
                bar.set_postfix_str(f"{bar.n / elapsed / sample_rate:.2f} x real time")
            yield chunk


class Interruptible:
    """The same chunks up to Ctrl-C: the chunk being made is finished and kept.

    A second Ctrl-C ends at once.
    """

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self.interrupted = False
        self._chunks = chunks

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def __iter__(self) -> Iterator[Tensor]:
        for chunk in self._chunks:
            yield chunk
            if self.interrupted:
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
