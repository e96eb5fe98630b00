"""Owns how a prepared corpus reaches its folder: staged beside it, put in place at once, listed in metadata.csv.

Knows nothing of any corpus, of audio or of models. Needs the standard library alone.
"""

import csv
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

METADATA = "metadata.csv"


def folder(path: str) -> Path:
    """A command line's folder as an absolute path, for argparse's `type`."""
    return Path(path).expanduser().resolve()


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` to build in, gone afterwards: an interrupted run leaves `out` as it was."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, but a corpus needs a folder. Give --out another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    private = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        stage = (
            private / "corpus"
        )  # made here, so that it has the user's permissions and not mkdtemp's 0700
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(private, ignore_errors=True)


def publish(stage: Path, out: Path) -> None:
    """Moves a finished folder to `out`: in one rename where `out` is missing or empty, else file by file.

    File by file, the top level comes last: metadata.csv and a corpus's own lists appear after the audio they name.
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
    """Makes `target` the same file as `source`: a hard link where the file system allows it, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_metadata(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes the CSV that the data module reads, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def counts(splits: Sequence[str]) -> str:
    """How many clips each split has, for the last line a prepare script prints."""
    return ", ".join(f"{name} {splits.count(name)}" for name in ("train", "val", "test"))


def run(main: Callable[[], None]) -> None:
    """Runs a prepare script: what a user can mend is one line on stderr and exit status 1, not a traceback."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was left half-made; the same command starts again.")
