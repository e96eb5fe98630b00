"""Runs the parts of a benchmark, each in a process of its own, by the clock.

What a part has measured is in the file as soon as it is measured: rows, one JSON object a line. A
part that fails, hangs or takes its process with it costs its own rows that were still to come.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROWS = "BENCHMARK_ROWS"  # the file, in a part's environment
SECONDS_TO_END = 5  # of a process that was told to


class Part(NamedTuple):
    name: str
    limit: float  # seconds


def append(row: Mapping[str, Any], file: Path | None = None) -> None:
    """One more line, whole: of this part's file, or of another. Nothing where there is none."""
    path = file or os.environ.get(ROWS)
    if path:
        with open(path, "ab", buffering=0) as rows:
            rows.write(f"{json.dumps(row)}\n".encode())


def run_parts(
    parts: Sequence[Part], command: Callable[[str], list[str]], file: Path, seconds: float
) -> list[str]:
    """Runs them in order; returns the names of those that failed.

    command: a part's, which fails where its status is not 0. file: rows are added to it, and one
        for the end of each part. seconds: of all parts together; what is left of them bounds each.
    """
    end, failed = time.monotonic() + seconds, []
    for part in parts:
        limit = min(part.limit, end - time.monotonic())
        print(f"\n== {part.name} (at most {max(0, limit):.0f} s)", flush=True)
        begin = time.monotonic()
        problem = _run(command(part.name), file, limit) if limit > 0 else "no time was left"
        took = time.monotonic() - begin
        append({"part": part.name, "ended": problem or "well", "seconds": round(took, 1)}, file)
        print(f"-- {part.name}: {problem or 'done'}, {took:.0f} s", flush=True)
        if problem:
            failed.append(part.name)
    return failed


def _run(command: list[str], file: Path, limit: float) -> str | None:
    """What went wrong, in words; None where nothing did."""
    environment = {**os.environ, ROWS: str(file)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"stopped after its {limit:.0f} s"
    finally:
        _end(process)
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"failed with status {status}" if status else None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With all that it started; one that a GPU holds may stay."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        print("   its process does not end", flush=True)
