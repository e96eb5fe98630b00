"""The README agrees with the repository: its snippets run, its commands and paths exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NOT_LISTED = {"__init__.py", "__pycache__/", "py.typed"}
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme_has_snippets() -> None:
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_readme_snippet_runs(index: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[index]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_tree_lists_the_modules_of_the_package_and_no_others() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    columns = re.findall(r"^ {2}(\S.*?) {2,}\S", tree, re.MULTILINE)
    listed = [name for column in columns for name in column.split(", ")]
    package = [path for path in (ROOT / "wavenet").iterdir() if path.name[0] != "."]
    there = [f"{path.name}/" if path.is_dir() else path.name for path in package]
    assert sorted(listed) == sorted(name for name in there if name not in NOT_LISTED)


def test_readme_names_only_files_that_exist() -> None:
    for path in re.findall(
        r"(?:\(|configs/|`python )((?:data|configs|benchmarks|examples|tests)/[\w./-]+)", README
    ):
        assert (ROOT / path).exists(), path


def test_the_readme_lists_all_configs() -> None:
    listed = re.search(r"^configs/ +recipes: (.*(?:\n +.*)*)$", README, re.MULTILINE)
    assert listed is not None
    names = re.split(r"[,;]\s+(?:(?:vocoders|published baselines):\s+)?", listed[1])
    assert sorted(names) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def test_ci_runs_the_readmes_test_command() -> None:
    assert "pip install -e '.[dev]' && pytest" in README
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install --quiet -e '.[dev]'" in ci and re.search(r"^pytest$", ci, re.MULTILINE)
