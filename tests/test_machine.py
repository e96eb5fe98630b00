"""Properties of what is said of this machine: cores, memory, and amounts in words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import A100, GTX1080, H100, T4, V100, plant_gpus

from wavenet import machine

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("gpu", "runs"),
    [(V100, False), (GTX1080, False), (T4, True), (A100, True), (H100, True)],
    ids=lambda value: str(value),
)
def test_a_gpu_that_torch_was_not_built_for_is_known_by_its_capability(
    gpu: Any, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_gpus(monkeypatch, gpu)
    assert (machine.obstacle_to_gpu(torch.device("cuda:0")) is None) == runs


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_80"], (8, 9), True),  # code for a minor number runs on later ones
        (["sm_86"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_90", "compute_90"], (12, 0), True),  # what the driver compiles when it is loaded
        (["sm_90", "compute_120"], (9, 0), True),
        (["compute_90"], (8, 0), False),
        (["sm_100", "sm_120"], (12, 1), True),
        (["gfx942"], (9, 4), True),  # AMD's, which say nothing of capabilities
    ],
    ids=str,
)
def test_what_torch_was_built_for_is_read_as_cuda_reads_it(
    built: list[str], capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_gpus(monkeypatch, ("some GPU", capability))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    found = machine.obstacle_to_gpu(torch.device("cuda:0"))
    assert found is None if runs else "some GPU (compute capability" in str(found)


def test_without_tf32_products_are_exact_and_the_setting_comes_back() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    for backend in backends:
        before = backend.fp32_precision
        try:
            backend.fp32_precision = "tf32"
            with machine.without_tf32():
                assert backend.fp32_precision == "ieee"
            assert backend.fp32_precision == "tf32"
        finally:
            backend.fp32_precision = before


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


@pytest.mark.parametrize(("streams", "inside"), [(1, 1), (63, 1), (64, 2), (10**6, 4)])
def test_few_streams_have_one_thread_and_the_setting_comes_back(streams: int, inside: int) -> None:
    torch.set_num_threads(4)
    with pytest.raises(KeyError), machine.threads_for(streams):
        assert torch.get_num_threads() == inside
        raise KeyError
    assert torch.get_num_threads() == 4, "as it was, after an error too"


def test_a_choice_of_one_thread_is_kept() -> None:
    torch.set_num_threads(1)
    with machine.threads_for(10**6):
        assert torch.get_num_threads() == 1


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
