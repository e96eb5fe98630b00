"""The harness finds faults that were planted into the library."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from faults import planted


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """A process that has never trained, so that it may fork."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(planted.begin, tmp_path_factory.mktemp("stock")).result()
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("name", planted.PLANTS)
def test_a_planted_fault_is_found(fresh: ProcessPoolExecutor, name: str) -> None:
    found = fresh.submit(planted.find, name).result()
    assert [outcome.verdict for outcome in found] == [planted.PLANTS[name].verdict], found
