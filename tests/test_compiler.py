"""Compiled libraries: compiled once, never loaded damaged, safe with several processes, errors."""

import ctypes
import hashlib
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
    compiler._folder_of_this_process.cache_clear()
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
    (part,) = cache.glob("*.part")
    assert library(source, {}).answer() == 42
    assert part.exists(), "another process is still writing it"
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert library(source, {"SIZE": 1}).size() == 1
    assert not part.exists(), "nobody is writing it any more"


# --- Nobody else's library is loaded


def planted(source: Path, cache: Path, tmp_path: Path) -> Path:
    """A library of the right name and hash in the cache, whose constructor makes the file `ran`."""
    library(source, {})
    (path,) = cache.glob("*.so")
    evil = tmp_path / "evil.cpp"
    evil.write_text(
        "#include <cstdio>\n"
        '__attribute__((constructor)) static void run() { std::fopen("RAN", "w"); }\n'
        'extern "C" int answer() { return 666; }\n'.replace("RAN", str(tmp_path / "ran"))
    )
    path.unlink()
    command = [*compiler.find_compiler(), "-shared", "-fPIC", str(evil), "-o", str(path)]
    subprocess.run(command, check=True)
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    return path.rename(path.with_stem(f"{path.stem.rpartition('-')[0]}-{content}"))


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file or folder belongs to another user; where only root may do that, all of them do."""
    if os.geteuid() == 0:
        os.chown(path, 4321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4321)


def test_a_planted_library_of_this_user_would_run(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    """What the tests below plant is a live one."""
    planted(source, cache, tmp_path)
    assert process(source).communicate()[0] == "666\n" and (tmp_path / "ran").exists()


@pytest.mark.parametrize("which", ["folder", "above", "file"])
@pytest.mark.parametrize("how", ["owner", "group", "all"])
def test_a_library_that_another_user_could_have_put_there_is_not_loaded(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    which: str,
    how: str,
) -> None:
    cache = tmp_path / "mine" / "cache"
    monkeypatch.setenv("WAVENET_CACHE", str(cache))
    path = planted(source, cache, tmp_path)
    shared = {"folder": cache, "above": cache.parent, "file": path}[which]
    if how == "owner":
        give_away(shared, monkeypatch)
    else:
        shared.chmod(shared.stat().st_mode | {"group": 0o020, "all": 0o002}[how])
    with caplog.at_level("INFO"):
        assert library(source, {}).answer() == 42
    assert not (tmp_path / "ran").exists()
    reason = "belongs to another user, " if how == "owner" else "can be written by others, mode "
    assert f"{shared} {reason}" in caplog.text or (os.geteuid() == 4321 and reason in caplog.text)


def test_a_sticky_folder_of_all_may_lie_above_the_cache_but_not_be_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("WAVENET_CACHE", str(shared / "mine"))
    library(source, {})
    assert len(list((shared / "mine").glob("*.so"))) == 1 and caplog.text == ""
    monkeypatch.setenv("WAVENET_CACHE", str(shared))
    assert library(source, {}).answer() == 42
    assert not list(shared.glob("*.so")) and f"{shared} can be written by others" in caplog.text


def test_a_link_to_a_folder_of_others_is_followed_and_the_folder_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    (tmp_path / "link").symlink_to(theirs)
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path / "link"))
    assert library(source, {}).answer() == 42
    assert list(theirs.iterdir()) == [] and f"{theirs} can be written by others" in caplog.text


def test_a_link_in_the_place_of_a_library_is_not_followed(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    path = planted(source, cache, tmp_path)
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    assert library(source, {}).answer() == 42 and not (tmp_path / "ran").exists()


def test_the_cache_is_for_its_user_alone_whatever_the_umask(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compilations: list[list[str]],
) -> None:
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path / "new" / "cache"))
    before = os.umask(0o002)
    try:
        library(source, {}), library(source, {})
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) == 3 and not [path for path in made if path.stat().st_mode & 0o022]
    assert len(compilations) == 1


# --- Where nothing can be kept


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
