"""Owns kills: an operation in a child, ended at a random moment, and what follows it.

A case is {"operation", "signal", "moment" (share of the operation's time), "group"}.
"""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.operations import OPERATIONS, Operation, half_a_run
from faults.outcomes import CLEAR, HANG, OK, TRACEBACK, WRONG, Outcome
from faults.sandbox import Limits, cpu_seconds, kill_group, read_output, run_one, start, wait
from faults.stock import stock

LIMITS = Limits(seconds=60)
GRACE = 30.0  # seconds of the clock in which a process that was asked to stop stops
EARLIEST = 0.05  # seconds after which a command is past its imports, and answers to Ctrl-C
LATEST = 1.1  # times the measured duration
Case = dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """An undisturbed operation: where it worked, and how long it took, in seconds."""

    folder: Path
    seconds: float


_references: dict[str, Reference] = {}


def reference(name: str) -> Reference:
    """Made when it is first asked for."""
    if name not in _references:
        if name == "resume":
            _make_half()
        folder = Path(tempfile.mkdtemp(prefix=f"whole-{name}-", dir=stock().folder))
        seconds = min(_undisturbed(OPERATIONS[name], folder) for _ in range(2))
        _references[name] = Reference(folder, seconds)
    return _references[name]


def forget_references() -> None:
    """Of another stock."""
    _references.clear()


def undisturbed(operation: Operation) -> Path:
    """Where the operation that this one is compared with has worked."""
    return reference(operation.like or operation.name).folder


def _make_half() -> None:
    folder = stock().folder / "half"
    folder.mkdir()

    def make() -> None:
        os.chdir(folder)
        half_a_run()

    os.waitpid(start(make, folder, LIMITS), 0)
    if not (folder / "runs/run/checkpoints/last.ckpt").is_file():
        raise RuntimeError(f"half a run could not be made: {read_output(folder)}")


def _undisturbed(operation: Operation, folder: Path) -> float:
    clock = folder.with_suffix(".seconds")

    def work(_: None) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        os.chdir(folder)
        operation.setup()
        began = time.monotonic()
        operation.act()
        clock.write_text(str(time.monotonic() - began))

    outcome = run_one(work, None, LIMITS)
    if outcome.verdict != OK:
        raise RuntimeError(f"{operation.name} fails when nothing disturbs it: {outcome}")
    return float(clock.read_text())


# --- One kill ---------------------------------------------------------------------------------


def draw(seed: int, names: list[str] | None = None) -> Iterator[Case]:
    """Kills without end, the same for the same seed."""
    rng = random.Random(f"kills {seed}")
    chosen = names or list(OPERATIONS)
    shares = [OPERATIONS[name].share for name in chosen]
    while True:
        yield {
            "operation": rng.choices(chosen, shares)[0],
            "signal": rng.choices(["SIGKILL", "SIGTERM", "SIGINT"], [8, 1, 2])[0],
            "moment": round(rng.uniform(0, LATEST), 4),
            "group": rng.random() < 0.5,
        }


def run(case: Case) -> tuple[Outcome, bool]:
    """What was found, and whether the kill came before the operation's end."""
    operation = OPERATIONS[case["operation"]]
    whole = reference(operation.name)
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    (folder / "place").mkdir()
    try:
        landed, outcome = _disturb(operation, whole, folder, case)
        if not outcome.is_fault:
            outcome = _follow(operation, folder)
        return outcome, landed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _disturb(
    operation: Operation, whole: Reference, folder: Path, case: Case
) -> tuple[bool, Outcome]:
    number = signal.Signals[case["signal"]]

    def work() -> None:
        os.chdir(folder / "place")
        operation.setup()
        if not _is_plain_call(operation):  # as train.py and generate.py begin
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        (folder / "ready").touch()
        operation.act()

    pid = start(work, folder, LIMITS)
    _wait_for(folder / "ready", pid)
    asked = 0.0 if number == signal.SIGKILL else EARLIEST
    time.sleep(max(asked, case["moment"] * whole.seconds))
    if case["group"]:
        kill_group(pid, number)
    else:
        os.kill(pid, number)  # not reaped yet, so the number is still the child's
    status = wait(pid, GRACE)
    kill_group(pid)  # a compiler that has lost its parent
    if status is None:
        return True, Outcome(HANG, f"{operation.name} goes on after {number.name}")
    landed = os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) != 0
    return landed, _judge_end(operation, number, status, read_output(folder))


def _wait_for(path: Path, pid: int) -> None:
    while not path.exists() and cpu_seconds(pid) < LIMITS.seconds:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return  # the setup failed; the check will tell
        time.sleep(0.002)


def _judge_end(operation: Operation, number: signal.Signals, status: int, said: str) -> Outcome:
    """Killed by the signal, or an exit that says why, without a traceback."""
    if os.WIFSIGNALED(status):
        ended = signal.Signals(os.WTERMSIG(status))
        if ended == number or number == signal.SIGKILL:
            return Outcome(CLEAR)
        return Outcome(WRONG, f"{operation.name} ends by {ended.name} after {number.name}", said)
    code = os.waitstatus_to_exitcode(status)
    if code and "Traceback (most recent call last)" in said and not _is_plain_call(operation):
        return Outcome(TRACEBACK, f"{operation.name} after {number.name}", said[-3000:])
    return Outcome(CLEAR if code else OK)


def _is_plain_call(operation: Operation) -> bool:
    """Not a command: there KeyboardInterrupt is the caller's to catch."""
    return operation.name in ("prepare", "save", "export", "compile")


def _follow(operation: Operation, folder: Path) -> Outcome:
    """Judges what the next command finds."""

    whole = undisturbed(operation)

    def work(_: None) -> None:
        os.chdir(folder / "place")
        operation.check(whole)

    outcome = run_one(work, None, LIMITS)
    if outcome.verdict == OK or outcome.is_fault:
        return _named(operation, outcome)
    # the command that follows refused what a kill has left
    return Outcome(WRONG, f"{operation.name}: refused afterwards", outcome.detail)


def _named(operation: Operation, outcome: Outcome) -> Outcome:
    where = f"{operation.name}: {outcome.where}" if outcome.where else ""
    return Outcome(outcome.verdict, where, outcome.detail)
