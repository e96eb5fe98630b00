"""Properties of `benchmarks/parts.py`: what fails, hangs or dies costs itself alone."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_runs import REPOSITORY


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from parts import append
append({{"part": {name!r}, "row": 1}})
{then}
append({{"part": {name!r}, "row": 2}})
"""
THEN = {
    "well": "",
    "raises": "raise RuntimeError('no')",
    "exits": "sys.exit(4)",
    "dies": "import os; os.kill(os.getpid(), 11)",
    "hangs": "import subprocess; subprocess.run(['sleep', '100'])",
}


def command(name: str) -> list[str]:
    folder = str(REPOSITORY / "benchmarks")
    program = PROGRAM.format(folder=folder, name=name, then=THEN[name])
    return [sys.executable, "-S", "-c", program]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_part_that_fails_dies_or_hangs_costs_its_own_rows_alone(tmp_path: Path) -> None:
    parts, file = load("parts"), tmp_path / "rows.jsonl"
    asked = [parts.Part(name, 1.5 if name == "hangs" else 60) for name in THEN]
    begin = time.monotonic()
    failed = parts.run_parts(asked, command, file, 60)
    assert time.monotonic() - begin < 20
    assert failed == ["raises", "exits", "dies", "hangs"]
    found = rows(file)
    measured = [(row["part"], row["row"]) for row in found if "row" in row]
    assert measured == [("well", 1), ("well", 2), *((name, 1) for name in failed)]
    assert [(row["part"], row["ended"]) for row in found if "ended" in row] == [
        ("well", "well"),
        ("raises", "failed with status 1"),
        ("exits", "failed with status 4"),
        ("dies", "ended by SIGSEGV"),
        ("hangs", "stopped after its 2 s"),
    ]


def test_all_parts_together_keep_to_the_time(tmp_path: Path) -> None:
    parts, file = load("parts"), tmp_path / "rows.jsonl"
    begin = time.monotonic()
    failed = parts.run_parts([parts.Part("hangs", 60), parts.Part("well", 60)], command, file, 1)
    assert time.monotonic() - begin < 5 and failed == ["hangs", "well"]
    assert rows(file)[-1]["ended"] == "no time was left"


def test_rows_are_added_to_those_of_earlier_runs(tmp_path: Path) -> None:
    parts, file = load("parts"), tmp_path / "rows.jsonl"
    for number in (1, 2):
        parts.append({"number": number}, file)
    assert rows(file) == [{"number": 1}, {"number": 2}]
    parts.append({"number": 3})  # no file was asked for
    assert len(rows(file)) == 2


@pytest.mark.parametrize(
    ("failed", "status"),
    [
        ([], 0),
        (["training"], 1),
        (["sampling"], 2),
        (["exactness"], 4),
        (["learning"], 8),
        (["training", "learning"], 9),
        (["training", "sampling", "exactness", "learning"], 15),
    ],
)
def test_the_status_of_the_gpus_benchmark_says_which_parts_failed(
    failed: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    gpu = load("gpu")
    assert [part.name for part in gpu.PARTS] == ["training", "sampling", "exactness", "learning"]
    assert sum(part.limit for part in gpu.PARTS) <= gpu.MINUTES * 60 == 480
    assert gpu.status_of(failed) == status


def test_the_gpus_benchmark_has_the_rows_that_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    gpu = load("gpu")
    one = {(row.tile, row.stages) for row in gpu.ROWS if row.batch == 1 and row.warps == 4}
    assert {(1, 2), (1, 3), (16, 2), (16, 3)} <= one
    ways = [(way.compiled, way.fused) for way in gpu.WAYS]
    assert ways[:3] == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("number", range(6))
def test_every_way_to_train_that_is_measured_is_the_same_network(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    training = load("training")
    codes, scored = torch.randint(256, (2, 65)), torch.tensor([[0, 64], [3, 60]])
    plain, other = (
        training.training_loss(
            training.built("default", training.WAYS[n], torch.device("cpu")), codes, scored, {}
        )
        for n in (3, number)
    )
    torch.testing.assert_close(other, plain)
