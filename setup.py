"""Puts the recipes into the wheel, as wavenet/recipes/; all else is in pyproject.toml.

In a clone they lie beside the package, in configs/ and data/, where people read and change them.
`wavenet.installation.recipes` finds either.
"""

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


setup(cmdclass={"build_py": BuildWithRecipes})
