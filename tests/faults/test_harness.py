"""The harness's own parts: children, verdicts, drawing, damaging, shortening, counting."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wavenet
from faults import kills, places
from faults.findings import Findings, file_name, table
from faults.kinds import KINDS, draw
from faults.minimise import shortest
from faults.outcomes import FAULTS, Outcome, Wrong, judge_exception
from faults.sandbox import CANARY, Limits, run_each, run_one
from faults.values import damaged, drop_path, set_path, value_of
from wavenet import ops

SHORT = Limits(seconds=0.5)


def _raise(error: BaseException) -> None:
    raise error


def _loop() -> None:
    while True:
        pass


def _too_much_memory() -> None:
    torch.zeros(1 << 33).fill_(1)


ACTS: dict[str, tuple[Callable[[], Any], str]] = {
    "fine": (lambda: None, "ok"),
    "refused": (lambda: wavenet.MuLaw(1), "clear error"),
    "command refused": (lambda: _raise(SystemExit("error: there is no such file")), "clear error"),
    "command without a reason": (lambda: _raise(SystemExit("error: ")), "traceback"),
    "command ended": (lambda: _raise(SystemExit(0)), "ok"),
    "key error": (lambda: _raise(KeyError("a")), "traceback"),
    "not ours": (lambda: _raise(ValueError("raised outside of the library")), "traceback"),
    "torch's": (lambda: wavenet.MuLaw().encode(torch.zeros(2)) @ torch.zeros(3), "traceback"),
    "memory": (_too_much_memory, "traceback"),
    "loop": (_loop, "hang"),
    "crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "crash"),
    "ended": (lambda: os._exit(3), "crash"),
    "oracle": (lambda: _raise(Wrong("length", 3)), "wrong"),
    "code": (lambda: Path(CANARY).touch(), "code ran"),
}


def _act(name: str) -> None:
    ACTS[name][0]()


@pytest.mark.parametrize("name", ACTS)
def test_each_way_to_end_has_its_verdict(name: str) -> None:
    assert run_one(_act, name, SHORT).verdict == ACTS[name][1]


def test_inputs_after_a_death_run_in_a_new_child() -> None:
    names = ["fine", "crash", "key error", "loop", "fine", "code", "fine"]
    verdicts = [outcome.verdict for outcome in run_each(_act, names, SHORT)]
    assert verdicts == [ACTS[name][1] for name in names]


def test_an_input_leaves_nothing_to_the_next_one() -> None:
    def change(_: Any) -> None:
        if torch.get_num_threads() != 1 or "CHANGED" in os.environ or list(Path.cwd().iterdir()):
            raise Wrong("something was left")
        torch.set_num_threads(2)
        os.environ["CHANGED"] = "1"
        Path("left").touch()

    threads = torch.get_num_threads()
    assert [x.verdict for x in run_each(change, [1, 2], SHORT)] == ["ok", "ok"]
    assert torch.get_num_threads() == threads and "CHANGED" not in os.environ


def test_a_signature_names_the_innermost_function_of_the_library() -> None:
    with pytest.raises(AttributeError) as raised:
        ops.pad_left([0.5], 1)  # type: ignore[arg-type]
    outcome = judge_exception(raised.value)
    assert outcome.signature == "traceback: AttributeError in wavenet/ops.py:pad_left"


@pytest.mark.parametrize("end", ["hang", "crash"])
def test_a_hang_and_a_crash_say_where(end: str) -> None:
    class Ending(dict[str, str]):
        def __contains__(self, key: object) -> bool:
            _loop() if end == "hang" else os.kill(os.getpid(), signal.SIGSEGV)
            return True

    def call(_: Any) -> None:
        wavenet.label_ids(Ending(), {"a": "b"}, 1)

    where = "wavenet/conditioning/labels.py:label_ids"
    assert run_one(call, None, SHORT).signature.endswith(f" {where}")


@pytest.mark.parametrize("name", KINDS)
def test_inputs_are_plain_and_the_same_for_the_same_seed(name: str) -> None:
    first, again, other = (draw(KINDS[name], 12, number) for number in (3, 3, 4))
    assert json.dumps(first) == json.dumps(again) != json.dumps(other)
    assert json.dumps(json.loads(json.dumps(first))) == json.dumps(first)


@pytest.mark.parametrize("module", [kills, places])
def test_kills_and_places_are_the_same_for_the_same_seed(module: Any) -> None:
    def some(seed: int) -> list[Any]:
        return [case for case, _ in zip(module.draw(seed), range(20), strict=False)]

    assert some(1) == some(1) != some(2)


def test_mutations_change_the_bytes_that_they_name() -> None:
    whole = bytes(range(100))
    assert damaged(whole, [{"cut": 0.5}]) == whole[:50]
    assert damaged(whole, [{"flip": 0.25, "bit": 1}])[25] == 25 ^ 2
    assert damaged(whole, [{"byte": 7, "value": 255}])[7] == 255
    assert damaged(whole, [{"append": "x"}]) == whole + b"x"
    assert damaged(whole, [{"zeros": 0.9, "count": 64}]) == whole[:90] + bytes(10)
    assert damaged(b"", [{"flip": 0.5, "bit": 0}, {"zeros": 0.1, "count": 4}]) == b""


def test_plain_values_become_tensors_at_any_depth() -> None:
    made = value_of({"a": [{"tensor": [2], "dtype": "int16", "fill": "ones"}, 1]})
    assert torch.equal(made["a"][0], torch.ones(2, dtype=torch.int16)) and made["a"][1] == 1


def test_paths_into_tables() -> None:
    table_: dict[str, Any] = {"a": {"b": 1, "c": 2}}
    set_path(table_, "a.b", 3)
    drop_path(table_, "a.c")
    set_path(table_, "x.y", 1)  # there is no such place
    assert table_ == {"a": {"b": 3}}


def test_the_shortest_input_keeps_what_fails_and_nothing_else() -> None:
    case = {"flags": [["--a", "1"], ["--b", "2"], ["--c", "3"]], "command": "fit"}

    def fails(smaller: Any) -> bool:
        return ["--b", "2"] in smaller.get("flags", [])

    assert shortest(case, fails) == {"flags": [["--b", "2"]]}
    tensor = {"x": {"tensor": [2], "dtype": "int8"}, "y": 1}
    assert shortest(tensor, lambda smaller: "x" in smaller) == {"x": tensor["x"]}


def test_a_new_fault_is_kept_shortened_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Outcome("wrong", "length", "seen")
    monkeypatch.setattr(
        "faults.findings.outcome_of_case",
        lambda kind, case: fault if "b" in case else Outcome("ok"),
    )
    findings = Findings(tmp_path)
    for case in ({"a": 1, "b": 2}, {"b": 2, "c": 3}):
        findings.note("csv", case, fault)
    kept = json.loads((tmp_path / file_name("csv", fault)).read_text())
    assert kept["case"] == {"b": 2} and kept["alone"] and kept["signature"] == "wrong: length"
    assert findings.counts == Counter({("csv", "wrong"): 2})
    assert findings.faults == Counter({("csv", "wrong: length"): 2})


def test_the_table_adds_up() -> None:
    lines = table(Counter({("csv", "ok"): 3, ("api", "hang"): 2, ("api", "ok"): 1})).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["api", "csv", "all"]
    assert lines[-1].split()[1:] == ["4", "0", "0", "2", "0", "0", "0", "6"]


def test_faults_are_what_a_user_must_not_meet() -> None:
    assert set(FAULTS) == {"traceback", "hang", "crash", "wrong", "code ran"}
