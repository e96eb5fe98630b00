"""Compiled libraries: compiled once, never loaded damaged, safe with several processes, errors."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wavenet.engines.native import compiler
from wavenet.engines.native.compiler import CompilerError, library
from wavenet.files import cache_folder

REPOSITORY = Path(__file__).parent.parent
PROGRAM = """
import sys, pathlib
from wavenet.engines.native.compiler import library
print(library(pathlib.Path(sys.argv[1]), {}).answer())
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.cpp"
    path.write_text(
        'extern "C" int answer() { return 42; }\n'
        '#ifdef SIZE\nextern "C" int size() { return SIZE; }\n#endif\n'
    )
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The compiler commands that were run, in order."""
    commands: list[list[str]] = []
    run = subprocess.run

    def recorded(command: list[str], **kwargs: object) -> object:
        if "-o" in command:
            commands.append(command)
        return run(command, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", recorded)
    yield commands


def process(source: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(source)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_second_start_compiles_nothing(
    source: Path, cache: Path, compilations: list[list[str]]
) -> None:
    assert library(source, {"SIZE": 3}).size() == 3
    assert library(source, {"SIZE": 3}).size() == 3
    assert len(compilations) == 1 and len(list(cache.iterdir())) == 1


def test_other_constants_source_options_or_compilers_make_another_library(
    source: Path, cache: Path, compilations: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [library(source, {"SIZE": size}).size() for size in (3, 4)] == [3, 4]
    source.write_text(source.read_text().replace("42", "43"))
    assert library(source, {"SIZE": 3}).answer() == 43
    monkeypatch.setenv("WAVENET_CXXFLAGS", "-O1")
    library(source, {"SIZE": 3})
    monkeypatch.setattr(compiler, "version_of", lambda command: "another version")
    library(source, {"SIZE": 3})
    monkeypatch.setattr(compiler, "processor", lambda: "another processor")
    library(source, {"SIZE": 3})
    assert len(compilations) == len(list(cache.iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_library_is_compiled_again(
    source: Path, cache: Path, compilations: list[list[str]], damage: str
) -> None:
    """The hash of its content shows the damage before the loader could crash on the file."""
    process(source).wait()
    (path,) = cache.iterdir()
    content = path.read_bytes()
    damaged = {
        "cut": content[:2000],
        "changed": content[:2000] + b"damage" + content[2006:],
        "empty": b"",
    }[damage]
    path.write_bytes(damaged)
    assert library(source, {}).answer() == 42
    assert len(compilations) == 1 and path.read_bytes() == content


def test_a_library_that_does_not_load_is_compiled_once_more_then_refused(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[list[str]]
) -> None:
    def refuse(path: str) -> ctypes.CDLL:
        raise OSError("wrong ELF class")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(CompilerError, match="does not load: wrong ELF class"):
        library(source, {})
    assert len(compilations) == 2 and list(cache.iterdir()) == []


def test_several_processes_may_compile_at_once(source: Path, cache: Path) -> None:
    processes = [process(source) for _ in range(4)]
    assert [each.communicate()[0] for each in processes] == ["42\n"] * 4
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_a_process_killed_while_compiling_does_no_harm(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\nfor a; do [ "$a" = --version ] && exec echo slow; done\nsleep 60\n')
    slow.chmod(0o755)
    killed = process(source, CXX=str(slow))
    deadline = time.monotonic() + 30
    while not list(cache.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (part,) = cache.iterdir()
    assert part.suffix == ".part"
    assert library(source, {}).answer() == 42
    assert part.exists(), "another process may still be writing it"
    os.utime(part, (0, 0))
    library(source, {"SIZE": 1})
    assert not part.exists(), "stale after an hour"


@pytest.mark.parametrize("kind", ["read-only", "a file", "full"])
def test_without_a_writable_folder_each_process_compiles_once(
    source: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "there"
    if kind == "a file":
        folder.write_text("")
    elif kind == "read-only":
        folder = Path("/proc/wavenet")
    else:
        folder = Path("/dev/full/wavenet")
    started = process(source, WAVENET_CACHE=str(folder), TMPDIR=str(tmp_path))
    out, err = started.communicate()
    assert out == "42\n", err
    assert not list(tmp_path.glob("wavenet-*")), "removed when the process exits"


def test_the_compiler_s_message_is_passed_on(source: Path, cache: Path) -> None:
    source.write_text("this is no C++;")
    with pytest.raises(CompilerError, match=r"(?s)refused the engine's source.*tiny\.cpp.*error"):
        library(source, {})
    assert list(cache.iterdir()) == []


def test_no_compiler_is_an_error_that_says_how_to_get_one(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -flag")
    with pytest.raises(CompilerError, match=r"\(no-such-compiler\).*apt install g\+\+.*CXX"):
        library(source, {})


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAVENET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/wavenet")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "wavenet"
