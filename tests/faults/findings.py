"""Owns what is counted and kept: outcomes by kind, and one small file for each new fault.

A finding's file holds {"kind", "case", "signature", "detail"}; `reproduce` runs it again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import kills, places
from faults.kinds import KINDS
from faults.minimise import shortest
from faults.outcomes import HANG, VERDICTS, Outcome
from faults.sandbox import run_one

KILL, PLACE = "kill", "place"  # kinds beside those of KINDS


def outcome_of_case(kind: str, case: Any) -> Outcome:
    """One input, in a child of its own."""
    if kind == KILL:
        return kills.run(case)[0]
    if kind == PLACE:
        return places.run(case)
    return run_one(KINDS[kind].act, case, KINDS[kind].limits)


def reproduce(file: Path) -> tuple[dict[str, Any], Outcome]:
    """What the file says, and what happens now."""
    finding = json.loads(file.read_text())
    return finding, outcome_of_case(finding["kind"], finding["case"])


class Findings:
    """Counts, and the folder of faults. Several processes may share a folder.

    minimise: seconds given to shorten an input that meets a new fault.
    """

    def __init__(self, folder: Path, minimise: float = 10.0) -> None:
        self.folder, self._seconds = folder, minimise
        self.counts: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[tuple[str, str]] = Counter()  # by kind and signature
        folder.mkdir(parents=True, exist_ok=True)

    def note(self, kind: str, case: Any, outcome: Outcome) -> None:
        self.counts[kind, outcome.verdict] += 1
        if outcome.is_fault:
            self.faults[kind, outcome.signature] += 1
            self._keep(kind, case, outcome)

    def _keep(self, kind: str, case: Any, outcome: Outcome) -> None:
        file = self.folder / file_name(kind, outcome)
        if file.exists():
            return
        _write(file, kind, case, outcome)  # at once: the run may be stopped while it is shortened
        if kind in KINDS and outcome.verdict != HANG:
            case = shortest(case, self._meets(kind, outcome), self._seconds)
        alone = outcome_of_case(kind, case)
        _write(file, kind, case, outcome, alone=alone.signature == outcome.signature)

    def _meets(self, kind: str, wanted: Outcome) -> Callable[[Any], bool]:
        return lambda case: outcome_of_case(kind, case).signature == wanted.signature

    def add(self, counts: "Findings") -> None:
        """Another process's."""
        self.counts += counts.counts
        self.faults += counts.faults


def file_name(kind: str, outcome: Outcome) -> str:
    key = hashlib.blake2b(f"{kind} {outcome.signature}".encode(), digest_size=5).hexdigest()
    words = f"{kind}-{outcome.verdict}".replace(" ", "-").replace(".", "-")
    return f"{words}-{key}.json"


def _write(file: Path, kind: str, case: Any, outcome: Outcome, **more: Any) -> None:
    finding = {"kind": kind, "case": case, "signature": outcome.signature, **more}
    content = json.dumps({**finding, "detail": outcome.detail}, indent=1)
    file.write_bytes(content.encode(errors="surrogatepass"))


def table(counts: Counter[tuple[str, str]]) -> str:
    """Kinds down, verdicts across."""
    kinds = sorted({kind for kind, _ in counts})
    widths = [max(len(verdict), 6) for verdict in VERDICTS]
    head = " ".join(f"{verdict:>{w}}" for verdict, w in zip(VERDICTS, widths, strict=True))
    lines = [f"{'':14} {head} {'all':>7}"]
    for kind in [*kinds, "all"]:
        row = [
            sum(n for (k, v), n in counts.items() if v == verdict and kind in (k, "all"))
            for verdict in VERDICTS
        ]
        cells = " ".join(f"{n:>{w}}" for n, w in zip(row, widths, strict=True))
        lines.append(f"{kind:14} {cells} {sum(row):>7}")
    return "\n".join(lines)


def summary(findings: Findings, landed: int, seconds: float) -> dict[str, Any]:
    """For one line of JSON."""
    by_kind: dict[str, dict[str, int]] = {}
    for (kind, verdict), number in sorted(findings.counts.items()):
        by_kind.setdefault(kind, {})[verdict] = number
    inputs = sum(n for (kind, _), n in findings.counts.items() if kind in KINDS)
    return {
        "seconds": round(seconds, 1),
        "inputs": inputs,
        "kills": landed,
        "outcomes": by_kind,
        "faults": {f"{kind}: {what}": n for (kind, what), n in sorted(findings.faults.items())},
    }
