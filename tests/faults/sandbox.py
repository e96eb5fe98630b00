"""Owns the processes that inputs run in: forked from this one, limited, watched, in empty folders.

The process that forks has everything imported, one thread, and never trains: so a fork costs
milliseconds and is safe. Knows nothing of what is run.
"""

import contextlib
import faulthandler
import io
import json
import logging
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faults.outcomes import (
    CODE,
    CRASH,
    HANG,
    OK,
    Outcome,
    innermost_of_dump,
    judge_exception,
    judge_exit,
)

CANARY = "code-ran"  # a file in the input's folder that only foreign code makes
MEMORY = 4 << 30  # bytes of a child
LARGEST_FILE = 1 << 29  # bytes
PATIENCE = 20.0  # seconds of the clock for each allowed second of the processor: cores are shared
IDLE = 8.0  # seconds after which a process that does nothing at all counts as hanging
TICKS = os.sysconf("SC_CLK_TCK")
Act = Callable[[Any], None]


@dataclass(frozen=True)
class Limits:
    """seconds: of the processor, for one input."""

    seconds: float = 10.0
    memory: int = MEMORY


def run_each(act: Act, cases: Sequence[Any], limits: Limits) -> Iterator[Outcome]:
    """The outcome of act(case) for each, many in one child; after a death, in a new one."""
    first = 0
    while first < len(cases):
        for outcome in _run_from(act, cases[first:], limits):
            yield outcome
            first += 1


def run_one(act: Act, case: Any, limits: Limits | None = None) -> Outcome:
    return next(iter(run_each(act, [case], limits or Limits())))


def _run_from(act: Act, cases: Sequence[Any], limits: Limits) -> Iterator[Outcome]:
    """Outcomes up to the first input that the child does not survive, that one included."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    reading, writing = os.pipe()
    pid = start(lambda: _work_through(act, cases, folder, writing), folder, limits)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            yield from _watch(pid, pipe, folder, len(cases), limits)
    finally:
        kill_group(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _watch(
    pid: int, pipe: io.FileIO, folder: Path, count: int, limits: Limits
) -> Iterator[Outcome]:
    lines = _Lines(pid, pipe, limits)
    for _ in range(count):
        line = lines.next()
        if line:
            yield Outcome(**json.loads(line))
            continue
        dump = folder / "stack"
        if line is None:
            _ask_where(pid, dump)
            yield Outcome(HANG, innermost_of_dump(dump.read_text()), dump.read_text()[-3000:])
        else:
            _, status = os.waitpid(pid, 0)
            text = dump.read_text() + read_output(folder)[-1000:]
            where = f"{_ending(status)} in {innermost_of_dump(text)}"
            yield Outcome(CRASH, where, text[-3000:])
        return


def _ask_where(pid: int, dump: Path) -> None:
    """faulthandler writes where the child stands, as soon as it gets the processor."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGUSR1)
    until = time.monotonic() + IDLE
    while not dump.read_text().endswith("\n") and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.1)  # for the rest


class _Lines:
    """What a child writes into its pipe, line by line, each within the child's limits."""

    def __init__(self, pid: int, pipe: io.FileIO, limits: Limits) -> None:
        self._pid, self._pipe, self._limits = pid, pipe, limits
        self._read = b""

    def next(self) -> bytes | None:
        """The next line; b"" where the child died; None where its time is up."""
        clock = _Clock(self._pid, self._limits)
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._pipe], [], [], 0.05)
            if ready:
                piece = self._pipe.read(1 << 16)
                if not piece:
                    return b""
                self._read += piece
            elif clock.is_late():
                return None
        line, _, self._read = self._read.partition(b"\n")
        return line


class _Clock:
    """How long a child has worked on an input, and how long it has done nothing at all."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._pid, self._limits = pid, limits
        self._began = self._active = time.monotonic()
        self._at_first = self._used = cpu_seconds(pid)

    def is_late(self) -> bool:
        now, used = time.monotonic(), cpu_seconds(self._pid)
        if used > self._used or _has_children(self._pid):
            self._used, self._active = used, now
        return (
            used - self._at_first > self._limits.seconds
            or now - self._began > PATIENCE * self._limits.seconds
            or now - self._active > IDLE
        )


def _has_children(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    except OSError:
        return False


def cpu_seconds(pid: int) -> float:
    """Of a process so far; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"status {os.waitstatus_to_exitcode(status)}"


# --- In the child -----------------------------------------------------------------------------


def start(work: Callable[[], None], folder: Path, limits: Limits) -> int:
    """Forks a child that works in `folder` and ends; its process id, which is its group's too."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        _confine(folder, limits)
        status = exit_status(work)
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def exit_status(work: Callable[[], None]) -> int:
    """What the interpreter's exit status would be, with the message or traceback printed."""
    try:
        work()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return int(error.code or 0)
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        return 130
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _confine(folder: Path, limits: Limits) -> None:
    """Output to files, limits on memory, files and cores, and traces of crashes."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    stack = open(folder / "stack", "w")  # noqa: SIM115  # faulthandler writes to it
    faulthandler.enable(stack, all_threads=False)
    faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
    sys._faults_stack = stack  # type: ignore[attr-defined]
    for limit, value in (
        (resource.RLIMIT_DATA, limits.memory),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tempfile.tempdir = None
    os.environ["TMPDIR"] = str(folder / "tmp")
    (folder / "tmp").mkdir(exist_ok=True)
    reset_state()


def reset_state() -> None:
    """What one input may have changed of the process, as the next one expects it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    for handler in list(logging.root.handlers):  # of pytest, or of the input before
        logging.root.removeHandler(handler)
    warnings.simplefilter("ignore")


def _work_through(act: Act, cases: Sequence[Any], folder: Path, pipe: int) -> None:
    """One line of JSON into the pipe for each input, as soon as it is known."""
    environment = dict(os.environ)
    for number, case in enumerate(cases):
        place = folder / f"case-{number}"
        place.mkdir()
        os.chdir(place)
        outcome = outcome_of(act, case, folder)
        os.chdir(folder)
        if (place / CANARY).exists():
            outcome = Outcome(CODE, "foreign code was run", outcome.detail)
        shutil.rmtree(place, ignore_errors=True)
        os.environ.clear()
        os.environ.update(environment)
        reset_state()
        os.write(pipe, json.dumps(asdict(outcome)).encode() + b"\n")


def outcome_of(act: Act, case: Any, folder: Path) -> Outcome:
    """In this process."""
    os.truncate(folder / "output", 0)
    try:
        act(case)
    except SystemExit as error:
        sys.stderr.flush()
        return judge_exit(error, read_output(folder))
    except BaseException as error:
        return judge_exception(error)
    return Outcome(OK)


def said() -> str:
    """What this child has written so far, while it works on an input."""
    sys.stdout.flush()
    sys.stderr.flush()
    return read_output(Path.cwd().parent)


def read_output(folder: Path) -> str:
    """What the child has written to stdout and stderr."""
    return (folder / "output").read_bytes().decode(errors="replace")


def wait(pid: int, seconds: float) -> int | None:
    """The wait status; None where the child had to be killed after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status
        time.sleep(0.01)
    kill_group(pid)
    os.waitpid(pid, 0)
    return None


def kill_group(pid: int, number: int = signal.SIGKILL) -> None:
    """The child and the processes it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
