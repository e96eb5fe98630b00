"""The site of docs/ builds without a warning, fetches nothing, and its links lead somewhere.

Needs what the extra `docs` installs.
"""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import DOCS, REPOSITORY

import wavenet

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page fetches, where it links to, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if source := given.get("src") or (tag == "link" and given.get("href")):
            self.fetched.append(str(source))
        if tag == "a" and (target := given.get("href")):
            self.linked.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"pip install -e '.[docs]'?\n{done.stderr}"
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there(pages: dict[Path, Page], site: Path) -> None:
    made = {path.relative_to(site).as_posix() for path in pages}
    assert made >= {f"{path.stem}.html" for path in DOCS.glob("*.md")}
    assert {"repository/CHANGELOG.html", "repository/data/index.html"} <= made
    assert (site / "tour.ipynb").is_file() and (site / "repository/examples/knob.py").is_file()


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Page], site: Path) -> None:
    for path, page in pages.items():
        fetched = [urlsplit(each) for each in page.fetched]
        assert fetched and not [each for each in fetched if each.netloc], path
        if path.name != "404.html":
            assert all((path.parent / each.path).exists() for each in fetched), path
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text() and "url(//" not in sheet.read_text(), sheet


def test_a_link_leads_to_a_page_and_a_place_in_it(pages: dict[Path, Page]) -> None:
    seen = 0
    for path, page in pages.items():
        for link in map(urlsplit, page.linked):
            if link.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link.path}"
            if link.fragment and target in pages:
                assert unquote(link.fragment) in pages[target].anchors, f"{path.name}: {link}"
            seen += 1
    assert seen > 300


def test_the_reference_is_made_from_the_docstrings(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "api.html"]
    missing = {f"wavenet.{name}" for name in wavenet.__all__ if name[0] != "_"} - page.anchors
    assert missing == set()
    text = (site / "api.html").read_text()
    for said in (
        "Uploads what",
        "Bits per sample over every sample",
        "samples that one output depends",
    ):
        assert said in text, said
