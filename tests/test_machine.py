"""Properties of what is said of this machine: cores, memory, and amounts in words."""

from pathlib import Path

import pytest
import torch

from wavenet import machine

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [0, -1, 17, 100_000])
def test_a_number_of_threads_out_of_bounds_is_refused_with_limit_and_cores(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match=rf"at most 16, 8 for each.* 2 cores, but got {count}\."):
        machine.set_threads(count)
    assert torch.get_num_threads() == before


def test_threads_are_set_and_none_leaves_them() -> None:
    machine.set_threads(3)
    machine.set_threads(None)
    assert torch.get_num_threads() == 3


def test_a_containers_limit_counts_where_it_is_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "none")
    whole = machine.memory(CPU)
    assert 1e8 < whole < 1e14
    for text, expected in (("max\n", whole), ("1000000\n", 1e6)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(machine, "CGROUP", tmp_path / "limit")
        assert machine.memory(CPU) == expected


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (25_200_000_000, "25.2 GB"),
        (999_999, "1 MB"),
        (6.4e16, "64 PB"),
        (6.4e19, "6.4e+04 PB"),
    ],
)
def test_amounts_in_words(count: float, words: str) -> None:
    assert machine.size(count) == words
