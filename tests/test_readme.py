"""The README, the pages and CONTRIBUTING agree with the repository: their commands and paths exist.

Their snippets and links: tests/test_docs.py.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from pages import PAGES, README, REPOSITORY, Snippet, commands, snippets

from wavenet.commands import COMMANDS, main

TEXT = README.read_text()
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
NOT_LISTED = {"__init__.py", "__pycache__/", "py.typed"}
SHELL = snippets("sh")
MADE = {"front_end.py", "seven/run.py"}  # by the reader, and by the command above
OTHERS = {".", "ffplay", "hf", "mkdocs", "offers/bin/pip", "offers/bin/python", "pip", "pytest",
          "python3", "torchrun"}  # fmt: skip
FLAG = re.compile(r"--[a-z][\w.-]*")
SETTING = re.compile(r"--(?:data|model|trainer|checkpoint|samples|ema)\.[\w.]+")


# --- commands ---


@cache
def told(command: str) -> frozenset[str]:
    """The flags of a command of the package, by its own help."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        main([*command.split(), "--help-all" if command == "train" else "--help"])
    return frozenset(FLAG.findall(printed.getvalue()))


def flags_of(words: list[str]) -> frozenset[str]:
    """The flags that the program of a command takes."""
    program, *rest = words[1:] if words[0] == "python" else words
    if program in ("train.py", "generate.py", "wavenet"):
        name = rest[0] if program == "wavenet" else program.removesuffix(".py")
        assert name in COMMANDS, name
        return told(f"evaluate {rest[1]}" if name == "evaluate" else name) | {"--help"}
    path = REPOSITORY / program
    sources = [path, *path.parent.parent.glob("*.py")]
    return frozenset(FLAG.findall("".join(source.read_text() for source in sources)))


@pytest.mark.parametrize("snippet", [pytest.param(each, id=each.name) for each in SHELL])
def test_a_command_names_programs_flags_and_files_that_exist(snippet: Snippet) -> None:
    for words in commands(snippet):
        scripts = [word for word in words if word.endswith(".py")]
        assert all((REPOSITORY / word).is_file() or word in MADE for word in scripts), words
        for word in words:
            if word.startswith(("configs/", "tests/", "benchmarks/")):
                assert (REPOSITORY / word).exists(), word
        if words[0] in OTHERS or MADE & set(words):
            continue
        assert words[0] in ("python", "wavenet"), words
        if words[1] != "-m":
            asked = {word for word in words if FLAG.fullmatch(word)}
            assert asked <= flags_of(words), asked - flags_of(words)


def test_settings_of_training_are_those_that_there_are() -> None:
    """Those of an output or of mel stand behind its name."""
    known = told("train")
    text = "".join(page.read_text() for page in [*PAGES, REPOSITORY / "data" / "README.md"])
    named = {setting.rstrip(".") for setting in SETTING.findall(text)}
    assert len(named) > 20
    nested = ("--model.output.", "--model.mel.")
    assert [each for each in named - known if not each.startswith(nested)] == []


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [pytest.param(x, id=x.name) for x in SHELL if x.slow])
def test_commands_run(snippet: Snippet, tmp_path: Path) -> None:
    """In a folder that has what a clone has, with this Python. What installs is left out."""
    for name in ("train.py", "generate.py", "configs", "data", "examples", "benchmarks", "wavenet"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("python", ""), ("wavenet", "-m wavenet")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    lines = [line for line in snippet.text.splitlines() if not line.startswith("pip install")]
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-euc", "\n".join(lines)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*.wav")) or list(tmp_path.rglob("index.html"))


# --- what the README and CONTRIBUTING list ---


def test_the_readme_sounds_before_it_tests() -> None:
    """Its first command trains in one line, its second is heard, tests come later."""
    shell = [each.text for each in SHELL if each.name.startswith("README-")]
    assert shell[0] == "pip install -e '.[train]' && python train.py\n"
    assert shell[1] == "python generate.py\n"
    assert TEXT.index("&& pytest") > TEXT.index(shell[1])
    assert len(TEXT.splitlines()) < 200


def test_the_tree_lists_the_modules_of_the_package_and_no_others() -> None:
    tree = CONTRIBUTING.split("## Where things are")[1].split("```")[1]
    columns = re.findall(r"^ {2}(\S.*?) {2,}\S", tree, re.MULTILINE)
    listed = [name for column in columns for name in column.split(", ")]
    package = [path for path in (REPOSITORY / "wavenet").iterdir() if path.name[0] != "."]
    there = [f"{path.name}/" if path.is_dir() else path.name for path in package]
    assert sorted(listed) == sorted(name for name in there if name not in NOT_LISTED)


def test_the_tree_lists_all_configs() -> None:
    listed = re.search(r"^configs/ +recipes: (.*(?:\n +.*)*)$", CONTRIBUTING, re.MULTILINE)
    assert listed is not None
    names = re.split(r"[,;]\s+(?:(?:vocoders|published baselines):\s+)?", listed[1])
    assert sorted(names) == sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_a_page_names_only_files_that_exist(page: Path) -> None:
    named = r"(?<![\w/.])((?:data|configs|benchmarks|examples|tests|wavenet)/[\w./-]*\w)"
    made = re.compile(r"/audio\b|data/NAME|configs/NAME|pretrained/NAME|NAME\.\w+")
    for path in re.findall(named, page.read_text()):
        assert made.search(path) or (REPOSITORY / path).exists(), path


def test_ci_runs_the_readmes_test_command() -> None:
    assert "pip install -e '.[dev]' && pytest" in TEXT
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert "pip install --quiet -e '.[dev]'" in ci and re.search(r"^pytest$", ci, re.MULTILINE)
    assert "mkdocs build --quiet --strict" in ci
