"""Puts the recipes into the wheel, and the README into its metadata; all else is in pyproject.toml.

In a clone the recipes lie beside the package, in configs/ and data/, where people read and change
them; in a wheel, in wavenet/recipes/. `wavenet.installation.recipes` finds either.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
RECIPES = (
    "configs/*.yaml",
    "data/README.md",
    "data/*.py",
    "data/*/prepare.py",
    "examples/speak_onnx.py",
)


def sources() -> Iterator[Path]:
    """Relative to this file."""
    for pattern in RECIPES:
        yield from (path.relative_to(HERE) for path in sorted(HERE.glob(pattern)))


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in zip(sources(), self._targets(), strict=True):
                self.mkpath(str(Path(target).parent))
                self.copy_file(str(HERE / source), target)

    def _targets(self) -> list[str]:
        return [str(Path(self.build_lib, "wavenet", "recipes", source)) for source in sources()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        more = [] if self.editable_mode else self._targets()
        return [*super().get_outputs(include_bytecode), *more]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *map(str, sources())]


def description() -> str:
    """The README as an index shows it: without pictures and links to files beside it."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(
        r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n+(\*[^*]+\*\n+)?", "", text
    )  # with its caption
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


setup(
    cmdclass={"build_py": BuildWithRecipes},
    long_description=description(),
    long_description_content_type="text/markdown",
)
