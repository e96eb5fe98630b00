"""Owns a run of so many minutes: kinds in turn, by their shares of the time, in worker processes.

Knows nothing of command lines.
"""

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import kills, places
from faults.findings import KILL, PLACE, Findings
from faults.kinds import KINDS, draw_for_ever
from faults.operations import OPERATIONS
from faults.sandbox import run_each

KILLS_SHARE, PLACES_SHARE = 6.0, 1.5  # beside the kinds' own


class Worker:
    """One process's part: after each turn, the kind that is furthest behind its share goes next."""

    def __init__(self, number: int, names: list[str], findings: Findings) -> None:
        self.findings, self.landed = findings, 0
        turns = {name: self._inputs(name, number) for name in KINDS}
        turns |= {KILL: self._kills(number), PLACE: self._places(number)}
        shares = {kind.name: kind.share for kind in KINDS.values()}
        self.shares = {**shares, KILL: KILLS_SHARE, PLACE: PLACES_SHARE}
        self.turns = {name: turns[name] for name in names}
        self.spent = dict.fromkeys(names, 0.0)

    def run(self, until: float) -> None:
        """until: of time.monotonic()."""
        while time.monotonic() < until:
            name = min(self.spent, key=lambda name: self.spent[name] / self.shares[name])
            began = time.monotonic()
            next(self.turns[name])
            self.spent[name] += time.monotonic() - began

    def _inputs(self, name: str, number: int) -> Iterator[None]:
        kind = KINDS[name]
        for cases in draw_for_ever(kind, number):
            for case, outcome in zip(cases, run_each(kind.act, cases, kind.limits), strict=True):
                self.findings.note(name, case, outcome)
            yield

    def _kills(self, number: int) -> Iterator[None]:
        for case in kills.draw(number):
            outcome, landed = kills.run(case)
            self.landed += landed
            self.findings.note(KILL, case, outcome)
            yield

    def _places(self, number: int) -> Iterator[None]:
        for case in places.draw(number):
            self.findings.note(PLACE, case, places.run(case))
            yield


def run(
    minutes: float, seed: int, workers: int, names: list[str], folder: Path, minimise: float = 10.0
) -> tuple[Findings, int]:
    """Findings of all workers together, and how many kills came in time."""
    if {KILL, PLACE} & set(names):  # before the workers, so that they share them
        for name in OPERATIONS:
            kills.reference(name)
    until = time.monotonic() + 60 * minutes
    parts = [
        _fork(lambda number=number: _work(number, seed, names, folder, until, minimise))
        for number in range(workers)
    ]
    together, landed = Findings(folder), 0
    for pid, file in parts:
        os.waitpid(pid, 0)
        findings, kills_landed = pickle.loads(Path(file).read_bytes())
        Path(file).unlink()
        together.add(findings)
        landed += kills_landed
    return together, landed


def _work(
    number: int, seed: int, names: list[str], folder: Path, until: float, minimise: float
) -> Any:
    worker = Worker(1000 * seed + number, names, Findings(folder, minimise))
    worker.run(until)
    return worker.findings, worker.landed


def _fork(work: Callable[[], Any]) -> tuple[int, str]:
    """A process that writes what `work` gives to a file; its id, and the file."""
    handle, file = tempfile.mkstemp(prefix="faults-worker-")
    pid = os.fork()
    if pid:
        os.close(handle)
        return pid, file
    try:
        with os.fdopen(handle, "wb") as output:
            pickle.dump(work(), output)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(0)
