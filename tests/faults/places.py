"""Owns full disks, places that cannot be written, and two processes at once.

The same operations as for kills, and the same checks after them. A full disk is a small file system
in memory, mounted for the child alone; where that is not allowed, a limit on a file's size takes
its place. A case is {"operation", "place"} with what the place needs.
"""

import ctypes
import functools
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faults.kills import LIMITS, reference, undisturbed
from faults.operations import OPERATIONS, Operation, same_files
from faults.outcomes import CLEAR, CRASH, HANG, OK, TRACEBACK, WRONG, Outcome, Wrong
from faults.sandbox import outcome_of, read_output, run_one, start, wait

Case = dict[str, Any]
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of sched.h
NEW_USER = 0x10000000
PRIVATE, RECURSIVE, READ_ONLY, REMOUNT = 1 << 18, 1 << 14, 1, 32  # MS_... of mount.h
KILOBYTES = (0, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
BOTH = 300.0  # seconds of the clock for two processes at once
SAME_AGAIN = (
    "save",
    "export",
    "generate",
    "unnamed",
    "gallery",
    "evaluate",
)  # write the same bytes each time
TWICE = ("prepare", "train", "resume", "export", "compile", "gallery", "evaluate", "unnamed")


def draw(seed: int) -> Iterator[Case]:
    """Cases without end, the same for the same seed."""
    rng = random.Random(f"places {seed}")
    while True:
        place = rng.choice(["full", "full", "read-only", "under a file", "twice"])
        names = TWICE if place == "twice" else list(OPERATIONS)
        case: Case = {"operation": rng.choice(names), "place": place}
        if place == "full":
            case["kilobytes"] = rng.choice(KILOBYTES)
        if place == "twice":
            case["delay"] = round(rng.random(), 3)  # of the operation's time, for the second
        yield case


def run(case: Case) -> Outcome:
    if case["place"] == "twice":
        return _twice(case)
    operation = OPERATIONS[case["operation"]]
    whole = undisturbed(operation)

    def work(_: None) -> None:
        here = Path.cwd()
        if case["place"] == "under a file" and operation.place == ".":
            return  # a folder that is there
        outcome = _in_place(operation, case)
        if outcome.is_fault:
            raise Wrong(f"{case['place']}: {outcome.signature}", outcome.detail)
        os.chdir(here / "place" if (here / "place").is_dir() else here)
        if outcome.verdict == OK and operation.name in SAME_AGAIN:
            same_files(Path(operation.place), whole / operation.place)
        if case["place"] != "under a file":
            _require_no_halves(Path.cwd())
            operation.check(whole)

    return _named(case, run_one(work, None, LIMITS))


def _require_no_halves(folder: Path) -> None:
    """What could not be finished was taken away again."""
    halves = [
        path
        for path in folder.rglob("*")
        if path.suffix in (".tmp", ".part")
        or (path.name.startswith(".") and path.is_file() and path.name != ".lock")
    ]
    if halves:
        raise Wrong("half a file is left behind", halves[:3])


def _in_place(operation: Operation, case: Case) -> Outcome:
    """The operation where it cannot write, or not much; then the place is mended."""
    folder = Path.cwd().parent
    inside = Path.cwd() / "place"
    inside.mkdir()
    if case["place"] == "under a file":
        os.chdir(inside)
        operation.setup()
        return _under_a_file(operation, folder)
    if not _mounted(inside, "size=256m"):
        os.chdir(inside)
        operation.setup()
        return _with_limit(operation, folder, case.get("kilobytes", 0))
    os.chdir(inside)
    operation.setup()
    if case["place"] == "full":
        _leave_free(inside, case["kilobytes"])
    else:
        _remount(inside, READ_ONLY)
    outcome = outcome_of(lambda _: operation.act(), None, folder)
    _remount(inside, 0)
    (inside / "filling").unlink(missing_ok=True)
    return outcome


def _leave_free(folder: Path, kilobytes: int) -> None:
    """Fills the file system up to so much."""
    with (folder / "filling").open("wb") as file:
        status = os.statvfs(folder)
        file.truncate(0)
        left = max(0, status.f_bavail * status.f_frsize - 1024 * kilobytes)
        os.posix_fallocate(file.fileno(), 0, max(1, left))


def _under_a_file(operation: Operation, folder: Path) -> Outcome:
    """A file stands where the folder is to be made."""
    place = Path(operation.place)
    if place.is_dir():
        shutil.rmtree(place)
    place.write_text("a file")
    return outcome_of(lambda _: operation.act(), None, folder)


def _with_limit(operation: Operation, folder: Path, kilobytes: int) -> Outcome:
    """For systems that do not let us mount: no file may grow beyond so much."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, before[1]))
    try:
        return outcome_of(lambda _: operation.act(), None, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _mounted(folder: Path, options: str) -> bool:
    """A file system in memory at `folder`, seen by this process alone."""
    libc = _libc()
    if libc.unshare(NEW_MOUNTS) and libc.unshare(NEW_MOUNTS | NEW_USER):
        return False
    libc.mount(b"none", b"/", None, PRIVATE | RECURSIVE, None)
    target = os.fsencode(folder)
    return not libc.mount(b"tmpfs", target, b"tmpfs", 0, options.encode())


def _remount(folder: Path, flags: int) -> None:
    _libc().mount(b"none", os.fsencode(folder), None, REMOUNT | flags, None)


# --- Two at once ------------------------------------------------------------------------------


def _twice(case: Case) -> Outcome:
    operation = OPERATIONS[case["operation"]]
    whole, seconds = undisturbed(operation), reference(operation.name).seconds
    folder = Path(tempfile.mkdtemp(prefix="twice-"))
    place = folder / "place"
    place.mkdir()

    def prepare(_: None) -> None:
        os.chdir(place)
        operation.setup()

    def follow(_: None) -> None:
        os.chdir(place)
        if operation.name == "unnamed" and (found := len(list(place.glob("*.wav")))) != 2:
            raise Wrong("two generate.py without --out wrote to one name", found)
        operation.check(whole)

    try:
        run_one(prepare, None, LIMITS)
        outcome = _both(operation, folder, case["delay"] * seconds)
        if not outcome.is_fault:
            outcome = run_one(follow, None, LIMITS)
            if outcome.verdict == CLEAR:
                outcome = Outcome(WRONG, "refused afterwards", outcome.detail)
        return _named(case, outcome)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _both(operation: Operation, folder: Path, delay: float) -> Outcome:
    """Two processes, the second a moment later. Either may refuse, clearly; not both."""

    def work() -> None:
        os.chdir(folder / "place")
        operation.act()

    outputs = [folder / "first", folder / "second"]
    children = []
    for number, output in enumerate(outputs):
        output.mkdir()
        time.sleep(number * delay)
        children.append(start(work, output, LIMITS))
    statuses = [wait(pid, BOTH) for pid in children]
    for status, output in zip(statuses, outputs, strict=True):
        said = read_output(output)
        if status is None:
            return Outcome(HANG, operation.name, said[-2000:])
        if os.WIFSIGNALED(status):
            return Outcome(CRASH, f"{operation.name}: signal {os.WTERMSIG(status)}", said[-2000:])
        if status and "Traceback (most recent call last)" in said:
            last = said.strip().splitlines()[-1].partition(":")[0]
            return Outcome(TRACEBACK, f"{operation.name}: {last}", said[-3000:])
    if all(statuses):
        return Outcome(WRONG, f"{operation.name}: both refuse", read_output(outputs[0])[-1000:])
    return Outcome(OK)


def _named(case: Case, outcome: Outcome) -> Outcome:
    if not outcome.is_fault:
        return Outcome(OK) if outcome.verdict == CLEAR else outcome
    where = f"{case['operation']} ({case['place']}): {outcome.where}"
    return Outcome(outcome.verdict, where, outcome.detail)
