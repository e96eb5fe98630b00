"""The README and the pages of docs/: every snippet runs, every link leads somewhere, and the site.

Nothing here needs the packages of training: `.ci/core` runs it too.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import DOCS, PAGES, README, REPOSITORY, Snippet, anchors, links, snippets
from test_pretrained import Hub, hub_module
from test_r9y9 import CASES, random_weights, write

import wavenet

SNIPPETS = snippets("python")
LINKING = [
    *PAGES,
    *(REPOSITORY / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
    *(REPOSITORY / "wavenet" / "pretrained").glob("*/README.md"),
    *(REPOSITORY / "benchmarks" / "results").glob("*.md"),
]


def in_order(items: list[Snippet]) -> list[object]:
    """The arguments of a test, the slow ones marked."""
    return [
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] * each.slow) for each in items
    ]


# --- snippets ---


def wavenet_vocoder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    hparams = CASES["newer, mel, logistics"]
    write(folder / "checkpoint_step001000000_ema.pth", random_weights(hparams))
    (folder / "hparams.json").write_text(json.dumps(hparams))


def a_hub(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "huggingface_hub", hub_module(Hub(folder / "hub")))


# What a snippet finds around it, by a word that it has: files of other people, and the Hub.
GIVEN: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "r9y9.load": wavenet_vocoder,
    "push_to_hub": a_hub,
}


@pytest.mark.parametrize("snippet", in_order(SNIPPETS))
def test_a_snippet_runs(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word, make in GIVEN.items():
        if word in snippet.text:
            make(tmp_path, monkeypatch)
    torch.manual_seed(0)
    exec(compile(snippet.text, snippet.name, "exec"), {"__name__": snippet.name})


def test_there_are_snippets_and_what_they_are_given_is_used() -> None:
    pages = {snippet.name.rpartition("-")[0] for snippet in SNIPPETS}
    assert pages >= {"README", "index", "vocoder", "models", "blocks", "clicks", "engines", "bits"}
    assert len(SNIPPETS) > 30
    for word in GIVEN:
        assert any(word in snippet.text for snippet in SNIPPETS), word


@pytest.mark.parametrize("snippet", [pytest.param(each, id=each.name) for each in SNIPPETS])
def test_a_snippet_imports_what_it_uses(snippet: Snippet) -> None:
    """Here another test may have imported `wavenet.audio`; where somebody copies it, none has."""
    used = set(re.findall(r"\bwavenet\.(\w+)", re.sub(r"(?m)^from .*$", "", snippet.text)))
    assert used <= {*wavenet.__all__}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_fence_says_its_language(page: Path) -> None:
    """Python, a shell, or none: a drawing or a file. Code of another spelling would not be run."""
    opened = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)[::2]
    assert set(opened) <= {"python", "sh", ""}
    code = re.compile(r"^(import |from \w+ import|python |wavenet |pip )", re.MULTILINE)
    assert not [each.name for each in snippets("", [page]) if code.search(each.text)]


# --- links ---


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_link_leads_to_a_file_or_a_section_that_exists(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.is_file(), f"{page.name}: {link} is no file"
        assert target.resolve().is_relative_to(REPOSITORY), link
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link} is no section"


def test_the_tour_of_the_blocks_lists_its_sections() -> None:
    page = DOCS / "blocks.md"
    inside = [link[1:] for link in links(page) if link.startswith("#")]
    assert inside == anchors(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_no_long_lines(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


# --- the site ---


def site() -> str:
    return (REPOSITORY / "mkdocs.yml").read_text()


def test_every_page_is_in_the_menu_and_in_the_readme() -> None:
    named = re.findall(r": ([\w./]+\.md)$", site(), re.MULTILINE)
    assert {name for name in named if "/" not in name} == {path.name for path in DOCS.glob("*.md")}
    for name in named:
        if "/" in name:
            assert (REPOSITORY / name.removeprefix("repository/")).is_file(), name
    assert set(links(README)) >= {f"docs/{path.name}" for path in DOCS.glob("*.md")}


def test_the_reference_has_every_public_name() -> None:
    listed = set(re.findall(r"^::: (\S+)", (DOCS / "api.md").read_text(), re.MULTILINE))
    public = {f"wavenet.{name}" for name in wavenet.__all__ if name[0] != "_"}
    assert public <= listed, public - listed


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 200
