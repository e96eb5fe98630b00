"""Properties of what commands share at a terminal: the bar, Ctrl-C, the flags."""

import argparse
import os
import signal
from dataclasses import fields

import pytest
import torch
from conftest import small_model

from wavenet import Sampling, generate, stream
from wavenet.terminal import (
    Interruptible,
    add_engine_argument,
    add_sampling_arguments,
    sampling_of,
    with_progress,
)


def test_progress_goes_to_stderr_and_nothing_else_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = small_model()
    quiet = generate(model, num_samples=300, batch_size=2)
    assert capfd.readouterr() == ("", "")
    chunks = stream(model, num_samples=300, batch_size=2)
    shown = torch.cat(list(with_progress(chunks, model.sample_rate)), dim=1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert (
        "600/600" in captured.err and "x real time" in captured.err and "samples/s" in captured.err
    )
    assert torch.equal(shown, quiet)


def test_an_interrupt_keeps_the_chunk_that_is_being_made() -> None:
    before, made = signal.getsignal(signal.SIGINT), []
    with Interruptible(stream(small_model(), chunk_size=7)) as chunks:
        for chunk in chunks:
            made.append(chunk)
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGINT)
    assert len(made) == 2 and chunks.interrupted
    assert signal.getsignal(signal.SIGINT) is before


def test_every_knob_of_sampling_is_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    add_engine_argument(parser)
    given = sampling_of(parser.parse_args([]))
    assert list(given) == [knob.name for knob in fields(Sampling)]
    assert given["guidance"] is None, "left to the model"
    assert Sampling(**{**given, "guidance": 0.0}) == Sampling()
    args = parser.parse_args(["--top-k", "3", "--guidance", "0.5", "--engine", "torch"])
    assert sampling_of(args) == {**given, "top_k": 3, "guidance": 0.5}
    assert args.engine == "cached"
    with pytest.raises(SystemExit):
        parser.parse_args(["--engine", "fast"])
