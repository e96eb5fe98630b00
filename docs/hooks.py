"""Owns how files of the repository that lie outside docs/ get into the site.

A page links to them as on a forge, relative: `../data/README.md`. Here each such file is added to
the site under repository/, at its path, and the links of pages, also of those that were added, are
turned to where their targets are. So a text stands in one place. Knows nothing of what pages say.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
ADDED = "repository"  # the folder of the site in which the others lie
ALWAYS = ["CHANGELOG.md"]  # in the menu, and no page need link to it
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")  # of a link or an image, to a file
FENCE = re.compile(r"^( *```.*?^ *```)$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what pages link to, what those pages link to, and so on."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + ALWAYS
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            found = set(links((ROOT / path).read_text(), path)) - seen
            waiting += sorted(each for each in found if (ROOT / each).is_file())
            seen |= found
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns the links of a page to where the site has their targets."""
    here = repository_path(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        target = site_path(resolved(match[2], here))
        return match[1] + posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    parts = FENCE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(turned, part) for i, part in enumerate(parts))


def links(text: str, path: str) -> Iterator[str]:
    """The files that a text links to; path: its own. All relative to the repository."""
    for _, target in LINK.findall("".join(FENCE.split(text)[::2])):
        yield resolved(target, path)


def resolved(target: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def site_path(path: str) -> str:
    """A path of the repository -> where the site has the file."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{ADDED}/{path}"


def repository_path(uri: str) -> str:
    """A path of the site's sources -> that of the repository."""
    return uri.removeprefix(f"{ADDED}/") if uri.startswith(f"{ADDED}/") else f"docs/{uri}"
