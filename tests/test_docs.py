"""Every snippet of the pages in docs/ runs, and they name only sections and files that exist."""

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SNIPPETS = {
    f"{page.stem}-{number}": snippet
    for page in PAGES
    for number, snippet in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
}


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) > 12


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs(name: str) -> None:
    torch.manual_seed(0)
    exec(compile(SNIPPETS[name], name, "exec"), {"__name__": name})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_links_to_its_sections(page: Path) -> None:
    text = page.read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    assert re.findall(r"\]\(#([\w-]+)\)", text) == anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_no_long_lines(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 100] == []
