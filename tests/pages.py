"""Owns reading the README and the pages of docs/: their snippets, commands, links and sections.

Knows nothing of what they say.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^(<!-- slow -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Snippet(NamedTuple):
    """A block of a page between fences."""

    name: str  # page and number among the blocks of its language
    language: str
    text: str
    slow: bool


def snippets(language: str, pages: list[Path] = PAGES) -> list[Snippet]:
    return [
        Snippet(f"{page.stem}-{number}", language, text, bool(slow))
        for page in pages
        for number, (slow, _, text) in enumerate(
            found for found in FENCE.findall(page.read_text()) if found[1] == language
        )
    ]


def commands(snippet: Snippet) -> Iterator[list[str]]:
    """The words of each command of a shell snippet; pipes and `&&` part commands."""
    text = re.sub(r"\\\n\s*", "", snippet.text)
    for line in text.splitlines():
        for command in re.split(r" (?:&&|\|) ", re.sub(r"(^|\s)#.*", "", line)):
            if words := re.findall(r"'[^']*'|\S+", command):
                yield words


def links(page: Path) -> list[str]:
    return LINK.findall(FENCE.sub("", page.read_text()))


def anchors(page: Path) -> list[str]:
    """Of the sections of a page, as forges and the site call them."""
    titles = re.findall(r"^##+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
