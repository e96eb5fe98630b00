"""Writing files: whole or not at all, for whom the umask says, and nothing left by killed ones."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wavenet import files
from wavenet.files import scratch, sweep, write_together, write_whole

REPOSITORY = Path(__file__).parent.parent
WRITER = """
import sys, time, pathlib
from wavenet.files import scratch
with scratch(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").write_text("written")
    print(folder, flush=True)
    time.sleep(60)
"""


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def writer(target: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that writes something to take the place of target, and its temporary folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


# For whom


@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o600), (0o022, 0o644), (0o007, 0o660)])
def test_a_new_file_is_for_whom_the_umask_says(tmp_path: Path, mask: int, expected: int) -> None:
    with umask(mask):
        write_whole(tmp_path / "deep" / "file", b"new")
    assert mode(tmp_path / "deep" / "file") == expected


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o644, 0o444])
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_replaced_file_stays_for_whom_it_was(tmp_path: Path, kept: int, mask: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(kept)
    with umask(mask):
        write_whole(path, b"new")
    assert path.read_bytes() == b"new" and mode(path) == kept


# Whole


def test_files_written_together_are_all_written_before_the_first_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_together({tmp_path / "a": b"1", tmp_path / "b": b"1"})
    seen, original = [], os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append((target.name, sorted(path.name for path in source.parent.iterdir())))
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_together({tmp_path / "b": b"2", tmp_path / "a": b"2"})
    assert seen == [("b", ["a", "b"]), ("a", ["a"])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_very_long_name_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("x" * 250), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 250]


# What killed processes left


def test_what_a_killed_process_left_is_swept_by_the_next_write(tmp_path: Path) -> None:
    with writer(tmp_path / "file") as (process, left):
        write_whole(tmp_path / "file", b"of another")
        assert (left / "half").read_text() == "written", "its process is alive"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert left.exists() and files.TEMPORARY.fullmatch(left.name)
        write_whole(tmp_path / "other", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "other"]


def test_what_another_machine_left_must_be_an_hour_old_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f".file.{'0' * 16}.part"
    left.mkdir()
    sweep(tmp_path)
    assert left.exists()
    os.utime(left, (0, 0))
    sweep(tmp_path)
    assert not left.exists()


def test_a_file_system_without_locks_is_written_to_and_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch(tmp_path / "file") as folder:
        name = folder.name
    (tmp_path / name).mkdir()

    def without_locks(*_: object) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", without_locks)
    write_whole(tmp_path / "file", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "file"]


@pytest.mark.parametrize("name", [".file.abcdefgh", ".file.part", "file.0123456789abcdef.part"])
def test_files_of_other_names_are_not_swept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_a_link_of_that_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (tmp_path / f".file.{files.THIS_MACHINE}01234567.part").symlink_to(tmp_path / "precious")
    sweep(tmp_path)
    assert (tmp_path / "precious" / "file").read_text() == "kept"


def test_writers_and_sweepers_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Sweeping between the making of a folder and its lock: the writer then makes another one."""
    stop, problems = time.monotonic() + 1.5, []

    def sweeping() -> None:
        while time.monotonic() < stop:
            sweep(tmp_path)

    def writing(number: int) -> None:
        try:
            while time.monotonic() < stop:
                write_whole(tmp_path / f"file{number}", b"x" * 100)
        except OSError as error:
            problems.append(error)

    threads = [threading.Thread(target=sweeping) for _ in range(2)]
    threads += [threading.Thread(target=writing, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file0", "file1", "file2"]
