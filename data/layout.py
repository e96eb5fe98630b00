"""Owns how a prepared corpus gets into its folder: staging, publishing, metadata.csv.

Knows nothing of particular corpora, audio or models. Needs only the standard library.
"""

import argparse
import csv
import errno
import glob
import hashlib
import importlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

METADATA = "metadata.csv"
UNPACKED = "an unpacked copy (default: download it)"  # what --source is


def folder(path: str) -> Path:
    """A folder of the command line as an absolute path, for argparse's `type`."""
    return Path(path).expanduser().resolve()


def source_parser(description: str, what: str, needed: bool = True) -> argparse.ArgumentParser:
    """Of a script that takes a corpus from --source to --out. what: that --source is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=folder, required=True, help="folder to write to")
    parser.add_argument("--source", type=folder, required=needed, help=what)
    return parser


def require_apart(out: Path, source: Path) -> None:
    """Raises ValueError where the corpus would be written into its source."""
    if source == out or source in out.parents:
        raise ValueError(f"--out {out} is --source or inside it. Choose another folder for --out.")


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """An empty folder next to `out` in which to build a corpus; it is removed afterwards.

    An interrupted run therefore leaves `out` unchanged. What a killed one left is removed by the
    next.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, but a corpus needs a folder. Give --out another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    private = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        stage = private / "corpus"
        stage.mkdir()  # with the user's permissions; mkdtemp's are 0700
        with (private / "lock").open("w") as lock:
            with suppress(OSError):
                _lock(lock)
            yield stage
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _lock(file: IO[str]) -> None:
    """Held until the file is closed, at the latest when its process ends.

    Raises OSError if another process holds it, or where there are no locks.
    """
    if fcntl is None:
        raise OSError("no file locks on this system")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sweep(out: Path) -> None:
    """Remove the staging folders for `out` whose processes are dead: their locks are free."""
    for private in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        with suppress(OSError), (private / "lock").open() as lock:
            _lock(lock)
            shutil.rmtree(private, ignore_errors=True)


def publish(stage: Path, out: Path) -> None:
    """Moves a finished folder to `out`: in one rename if `out` is missing or empty, else by file.

    Files of the top level are moved last, so that metadata.csv and a corpus's own lists appear
    after the audio files that they name.
    """
    try:
        os.rename(stage, out)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EBUSY):
            raise ValueError(f"{out} is a mount point. Give --out a folder inside it.") from error
        if not out.is_dir():
            raise
        _merge(stage, out)


def _merge(stage: Path, out: Path) -> None:
    files = [path.relative_to(stage) for path in stage.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda name: (len(name.parts) == 1, name)):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / name, out / name)


def link(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`, or a copy if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_metadata(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes the CSV that the data module reads; the file appears complete or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def splits_by_name(names: Sequence[str], share: float) -> dict[str, str]:
    """Name -> train, val or test, for corpora without splits: by the order of the names' hashes.

    val and test get that share each, at least one. The order of `names` has no effect. Raises
    ValueError for fewer than three names.
    """
    if len(names) < 3:
        raise ValueError(
            f"Three splits need at least 3 clips, but there are {len(names)}. Is the copy complete?"
        )
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    held = math.ceil(share * len(ordered))
    return {
        name: "test" if i < held else "val" if i < 2 * held else "train"
        for i, name in enumerate(ordered)
    }


def summary(rows: Sequence[tuple[str, str]], out: Path, full: int) -> str:
    """The last line that a prepare script prints of rows (path, split). full: clips there are."""
    missing = f" (the full corpus has {full})" if len(rows) != full else ""
    return f"{len(rows)} clips{missing} in {out}: {counts([split for _, split in rows])}"


def counts(splits: Sequence[str]) -> str:
    """The number of clips in each split, for the last line that a prepare script prints."""
    return ", ".join(f"{name} {splits.count(name)}" for name in ("train", "val", "test"))


def torchaudio_class(name: str) -> Any:
    """A corpus of torchaudio.datasets, for its download. Raises ValueError where none loads."""
    try:
        datasets = importlib.import_module("torchaudio.datasets")
    except Exception as error:  # it also raises OSError and RuntimeError beside another torch
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"torchaudio, which downloads this corpus, does not load here ({reason}). Download it "
            "yourself, unpack it, and add --source FOLDER."
        ) from error
    return getattr(datasets, name)


def run(main: Callable[[], None]) -> None:
    """Runs a prepare script. A user's error gives one line on stderr and status 1, no traceback."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: no incomplete files remain; run the same command to start again.")
