"""Properties of the files a command leaves: refused before the work, or written, never lost."""

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest
import torch

import wavenet.results
from wavenet.audio import read_audio
from wavenet.results import (
    LONGEST,
    Wavs,
    require_place,
    write_all,
    write_new,
    write_or_keep,
)

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the temporary folder is another one."""
    (tmp_path / "here").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "here"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """full(FOLDER, ...): those folders have no space left."""

    def fill(*folders: Path) -> None:
        for name in ("write_whole", "write_through"):  # through: in a folder beside the file
            write = getattr(wavenet.results, name)

            def maybe(path: Path, content: bytes, write: Callable[..., None] = write) -> None:
                if set(Path(path).absolute().parents[:2]) & {*folders}:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                write(path, content)

            monkeypatch.setattr(wavenet.results, name, maybe)

    return fill


# Before the work


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("x.mp3", None, r"--out 'x\.mp3' is not a \.wav file; give it the suffix \.wav"),
        ("x", None, r"not a \.wav file"),
        ("x.wav", Path.mkdir, r"--out 'x\.wav' is a folder; give the name of a file"),
        (".", None, "is a folder"),
        ("x.wav", make_pipe, "is a pipe or a device"),
        ("a/x.wav", lambda path: path.parent.touch(), r"in the folder 'a': Not a directory"),
        ("/proc/x.wav", None, r"cannot be written in the folder '/proc': "),
        ("/proc/deep/er/x.wav", None, r"cannot be written in the folder '/proc': "),
        (f"{'x' * 300}.wav", None, "File name too long"),
        (f"{'x' * 300}/x.wav", None, "File name too long"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_place_that_cannot_be_written_is_refused_by_name_and_left_as_it_was(
    here: Path, name: str, make: Callable[[Path], None] | None, says: str
) -> None:
    if make:
        make(Path(name))
    before = sorted(here.rglob("*"))
    with pytest.raises(ValueError, match=says):
        require_place(Path(name), ".wav", "--out")
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["x.wav", "x.WAV", "deep/er/x.wav", "there.wav"])
def test_a_place_that_can_be_written_passes_and_nothing_is_made(here: Path, name: str) -> None:
    Path("there.wav").write_text("earlier")
    require_place(Path(name), ".wav", "--out")
    require_place(None, ".png", "--plot")
    assert [path.name for path in here.rglob("*")] == ["there.wav"]


def test_clips_that_fit_neither_a_wav_file_nor_the_disk_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"at most 74\.6 hours at 8000 Hz.*139 hours.*--out -"):
        Wavs(None, [4 * 10**9], 8000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9999, 8900, 1099))
    Wavs(None, [500], 8000)
    with pytest.raises(ValueError, match=r"needs 2\.09 kB, but there are 1\.1 kB free in.*--out"):
        Wavs(Path("a/x.wav"), [500, 500], 8000)
    assert LONGEST * 2 + 44 < 2**32


# Names


def test_new_names_go_on_from_earlier_ones_alone_or_as_a_batch(here: Path) -> None:
    path = Path("generated.wav")
    names = [[made.name for made in write_new(path, [b"x"] * count)] for count in (1, 2, 1)]
    assert names == [
        ["generated.wav"],
        ["generated_2-0.wav", "generated_2-1.wav"],
        ["generated_3.wav"],
    ]
    assert sorted(path.name for path in here.iterdir()) == sorted(chain(*names))


def without_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_name_is_given_once_however_many_ask_at_the_same_time(
    here: Path, monkeypatch: pytest.MonkeyPatch, count: int, links: bool
) -> None:
    if not links:  # as some file systems are
        monkeypatch.setattr(os, "link", without_links)
    contents = [[f"{call} {index}".encode() for index in range(count)] for call in range(40)]
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda each: write_new(Path("x.wav"), each), contents))
    assert len({path for paths in made for path in paths}) == 40 * count
    for paths, each in zip(made, contents, strict=True):
        assert [path.read_bytes() for path in paths] == each


@pytest.mark.parametrize("links", [True, False])
def test_a_batch_that_meets_a_name_of_others_leaves_no_half_of_itself(
    here: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    Path("x-2.wav").write_text("earlier")
    made = write_new(Path("x.wav"), [b"0", b"1", b"2"])
    assert [path.name for path in made] == [f"x_2-{i}.wav" for i in range(3)]
    assert [path.read_bytes() for path in made] == [b"0", b"1", b"2"]
    assert not Path("x-0.wav").exists() and Path("x-2.wav").read_text() == "earlier"


def test_no_file_of_the_name_is_there_before_it_is_whole(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, content: bytes) -> None:
        assert [name for name in here.iterdir() if name.name[0] != "."] == []
        raise KeyboardInterrupt

    monkeypatch.setattr(wavenet.results, "write_through", killed)
    with pytest.raises(KeyboardInterrupt):
        Wavs(None, [5], 8000).write([torch.zeros(5)])
    assert list(here.iterdir()) == []


def test_clips_without_a_name_are_kept_where_they_can_be(
    here: Path, tmp_path: Path, full: Callable[..., None]
) -> None:
    full(here)
    with pytest.raises(OSError, match=r"(?s)-0\.wav' could not .*-1\.wav'") as at:
        Wavs(None, [3, 5], 8000).write([torch.zeros(3), torch.zeros(5)])
    kept = [tmp_path / "tmp" / f"generated-{index}.wav" for index in range(2)]
    assert all(f"What was made is in '{path}'" in str(at.value) for path in kept)
    assert [read_audio(path)[0].shape[1] for path in kept] == [3, 5]


# Writing


def test_clips_and_a_picture_are_written_and_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Wavs(None, [3, 5], 8000).write([torch.zeros(3), torch.zeros(5)], Path("p.png"))
    names = ["generated-0.wav", "generated-1.wav", "p.png"]
    assert capsys.readouterr().out.split() == names
    assert [read_audio(name)[0].shape[1] for name in names[:2]] == [3, 5]
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_written_is_kept_in_the_working_folder_else_in_the_temporary_one(
    here: Path, tmp_path: Path, full: Callable[..., None]
) -> None:
    Path("x.wav").write_text("earlier")
    full(tmp_path / "deep")
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_or_keep(tmp_path / "deep" / "x.wav", b"audio")
    assert str(raised.value) == (
        f"'{tmp_path}/deep/x.wav' could not be written: No space left on device. Free some space "
        f"there, or give another place. What was made is in '{here}/x_2.wav'."
    )
    assert Path("x_2.wav").read_bytes() == b"audio" and Path("x.wav").read_text() == "earlier"
    full(here)
    with pytest.raises(OSError, match=f"What was made is in '{tmp_path}/tmp/x.wav'"):
        write_or_keep(Path("x.wav"), b"audio")
    assert (tmp_path / "tmp" / "x.wav").read_bytes() == b"audio"
    full(tmp_path / "tmp")
    with pytest.raises(OSError, match="neither to the working folder nor to the temporary one"):
        write_or_keep(Path("x.wav"), b"audio")
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["x.wav"]


def test_a_failure_does_not_keep_the_others_from_being_written(
    here: Path, tmp_path: Path, full: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    full(tmp_path / "a")
    places = [tmp_path / "a" / "1.wav", Path("2.wav"), tmp_path / "a" / "3.wav"]
    with pytest.raises(OSError, match=r"(?s)1\.wav' could not.*3\.wav' could not"):
        write_all([(path, path.name.encode()) for path in places])
    assert capsys.readouterr().out == "2.wav\n"
    assert sorted(path.read_bytes() for path in here.iterdir()) == [b"1.wav", b"2.wav", b"3.wav"]
