"""The notebook docs/tour.ipynb runs from top to bottom, and is kept without what it put out."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, REPOSITORY

NOTEBOOK = DOCS / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]


def code() -> list[str]:
    return ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert len(code()) > 10 and NOTEBOOK.stat().st_size < 20_000


def test_its_cells_are_python_and_its_commands_those_of_the_package() -> None:
    for cell in code():
        compile(cell, "cell", "exec")
    asked = re.findall(r'run\(\s*"([^"]+)"', "".join(code()))
    assert len(asked) == 3
    assert all(re.match(r"-m wavenet (train|export) |tour/run\.py ", each) for each in asked)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [out.get("data", {}).get("text/html", "") for out in outputs(notebook)]
    assert len([html for html in shown if "<audio" in html]) == 4
    text = "".join(out["text"] for out in outputs(notebook) if out["output_type"] == "stream")
    assert re.search(r"the first 32 ms after \d+ ms", text)
    for path in ("runs/tour/curve.png", "tour/model/model.safetensors", "tour/note.wav"):
        assert (tmp_path / path).stat().st_size > 1000, path
    bits = re.search(r"([\d.]+) bits per sample as what it is", text)
    assert bits is not None and float(bits[1]) < 6


def outputs(notebook: Any) -> list[Any]:
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]
