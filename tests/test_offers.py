"""The table of what packages offer says of ours, and of torch's, what is so now."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
PAGE = (ROOT / "docs" / "blocks.md").read_text().split("## Beside other packages")[1]
ROWS = {
    cells[0]: cells[1:]
    for cells in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
}


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark, without the packages that only it needs."""
    for name in ("cached_conv", "pytorch_tcn", "pytorch_tcn.buffer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["pytorch_tcn.buffer"], "BufferIO", None, raising=False)
    import offers

    for name in ("offers", "offered"):
        monkeypatch.delitem(sys.modules, name)
    return offers


def kind(cell: str) -> str:
    """Without the number."""
    return re.sub(r" (by [\d.e-]+|\(\d\))$", "", cell)


def test_the_table_has_what_is_tried(offers: ModuleType) -> None:
    assert list(ROWS) == list(offers.TRIED)


def test_our_cells_and_those_of_torch_are_so(offers: ModuleType) -> None:
    ours, *_, torchs = offers.PACKAGES
    for what, attempt in offers.TRIED.items():
        assert offers.tried(attempt, ours) == (ROWS[what][0], ""), what
        if not what.startswith("ONNX"):
            assert kind(offers.tried(attempt, torchs)[0]) == kind(ROWS[what][3]), what
