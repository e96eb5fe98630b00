"""A little of every kind: what a longer run of `python benchmarks/faults.py` does for an hour.

A fault of the library that is found fails the test, with the file that runs it again.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import REPOSITORY

from faults.findings import KILL, PLACE
from faults.kinds import KINDS

MINUTES = 1.5


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON line of a short run, from a process of its own: it forks."""
    folder = tmp_path_factory.mktemp("found")
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "faults.py")]
    done = subprocess.run(
        [*command, f"--minutes={MINUTES}", f"--keep={folder}"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "folder": folder, "said": done.stdout}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, KILL, PLACE])
def test_every_kind_is_run(result: dict[str, Any], kind: str) -> None:
    outcomes = result["outcomes"].get(kind, {})
    assert sum(outcomes.values()) > 0, result["said"]


@pytest.mark.slow
def test_no_fault_is_found(result: dict[str, Any]) -> None:
    folder: Path = result["folder"]
    assert not result["faults"], "\n".join(
        [
            result["said"],
            *(f"python benchmarks/faults.py --reproduce {x}" for x in folder.iterdir()),
        ]
    )
