"""Properties of what commands share at a terminal: the bar, Ctrl-C, the flags."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import small_model
from tiny_runs import start

from wavenet import Sampling, generate, stream
from wavenet.terminal import (
    Interruptible,
    add_engine_argument,
    add_sampling_arguments,
    chunk_size,
    run_command,
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
        "100% of 600 samples" in captured.err
        and "x real time" in captured.err
        and " a second" in captured.err
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_chunk_that_is_being_made_and_the_next_ends_at_once(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with Interruptible(stream(small_model(), chunk_size=7)) as chunks:
        made = [os.kill(os.getpid(), number) for _ in chunks]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert len(made) == 1 and chunks.interrupted == number and signal.getsignal(number) is before
    with pytest.raises(SystemExit) as stopped:
        chunks.end()
    assert stopped.value.code == 128 + number
    assert capsys.readouterr().err == "interrupted: what was made so far is written\n"


def test_chunks_that_came_to_their_end_end_nothing() -> None:
    with Interruptible(stream(small_model(), num_samples=9)) as chunks:
        assert len(list(chunks)) == 1
    chunks.end()


def fails(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 6 TB"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x must be 1."), "error: x must be 1."),
        (OSError("x is full."), "error: x is full."),
        (MemoryError(), "error: There is not enough memory for this"),
        (torch.OutOfMemoryError("CUDA out of memory"), "error: There is not enough memory for"),
        (RuntimeError(ALLOCATOR), "error: There is not enough memory for this"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_user_can_mend_is_one_line(error: Exception, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        run_command(fails(error))


def test_a_fault_of_the_library_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a fault"):
        run_command(fails(RuntimeError("a fault")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_a_signal_ends_has_the_status_that_shells_expect(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: os.kill(os.getpid(), number))
    assert stopped.value.code == 128 + number and signal.getsignal(number) is before
    assert capsys.readouterr().err == "interrupted: nothing more was written\n"


def test_of_many_clips_the_chunks_are_shorter() -> None:
    assert [chunk_size(clips) for clips in (0, 1, 256, 257, 1024, 65536)] == [256] * 3 + [
        255,
        64,
        16,
    ]


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
    args = parser.parse_args(["--guidance", "digit=1,speaker=0.5"])
    assert sampling_of(args)["guidance"] == {"digit": 1.0, "speaker": 0.5}
    for wrong in ("digit", "digit=x", "digit=1,digit=2"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--guidance", wrong])
    with pytest.raises(SystemExit):
        parser.parse_args(["--engine", "fast"])


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("script", ["train.py", "generate.py"])
def test_ctrl_c_while_a_command_starts_ends_it_without_a_traceback(
    script: str, tmp_path: Path
) -> None:
    process = start(tmp_path, script=script)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)  # amid the imports
    text, _ = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert "Traceback" not in text, text
