"""Owns where the library keeps its files, writing one so that no reader sees half of it, sweeping
what killed processes left, and who but this user could change a file.

Knows nothing of what is written.
"""

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing swept
    fcntl = None  # type: ignore[assignment]

# Of `scratch`: after the name eight digits of the machine, then eight at random.
TEMPORARY = re.compile(r"\..*\.(?P<machine>[0-9a-f]{8})[0-9a-f]{8}\.part")
THIS_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
STALE = 3600  # seconds after which another machine, whose locks may not be seen, has given up


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write to a temporary folder beside it, then rename; parent folders are made.

    Nothing is left if it fails. Who may read the file is as for the one that it replaces, else as
    the umask says. What killed processes left in that folder is swept.
    """
    write_together({Path(path): content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """As `write_whole`, for files of one folder: all are written before the first is renamed.

    They take their names in the order given.
    """
    with scratch(next(iter(contents))) as folder:
        for target, content in contents.items():
            _write(folder / target.name, content, target)
        for target in contents:
            os.replace(folder / target.name, target)


def write_through(path: Path, content: bytes) -> None:
    """A new file, on the disk when this returns."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, content: bytes, replaced: Path) -> None:
    write_through(path, content)
    with suppress(FileNotFoundError):
        path.chmod(replaced.stat().st_mode & 0o777)


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A new folder `.NAME.HEX.part` beside the path, for what then takes its place.

    Removed at the end. It is locked as long as its process lives, so that `sweep` knows what a
    killed one left. Parent folders are made.
    """
    beside.parent.mkdir(parents=True, exist_ok=True)
    sweep(beside.parent)
    folder, lock = _locked_folder(beside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_folder(beside: Path) -> tuple[Path, int | None]:
    while True:
        name = f".{beside.name[:50]}.{THIS_MACHINE}{secrets.token_hex(4)}.part"
        folder = beside.with_name(name)
        folder.mkdir(mode=0o700)
        if fcntl is None:
            return folder, None
        # Between the two lines a sweep may take the folder for a killed process's: then another.
        with suppress(FileNotFoundError, BlockingIOError):
            return folder, _locked(folder, required=False)


def _locked(folder: Path, required: bool) -> int:
    """An open handle that holds the folder's lock. Raises BlockingIOError where another has it.

    required: raise OSError, too, on a file system without locks.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), folder.stat()):
            raise FileNotFoundError(errno.ENOENT, "swept", str(folder))
    except OSError as error:
        if required or isinstance(error, FileNotFoundError | BlockingIOError):
            os.close(handle)
            raise
    return handle


def sweep(folder: Path) -> None:
    """Removes what killed processes left of `scratch` in the folder, never what a live one writes.

    A lock tells the two apart. Those of other machines may not be seen on a shared disk, so what
    they left must be an hour old, too.
    """
    with suppress(OSError):
        for name in os.listdir(folder) if fcntl else ():
            if made := TEMPORARY.fullmatch(name):
                _remove_if_left(folder / name, made["machine"] == THIS_MACHINE)


def _remove_if_left(path: Path, here: bool) -> None:
    with suppress(OSError):
        lock = _locked(path, required=True)
        try:
            if here or time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


class NotPrivate(PermissionError):
    """Another user could change the file or folder; strerror says which one and why."""


def require_private(path: Path) -> None:
    """Raises NotPrivate where others than this user and root could change the file or folder.

    They can where they own it or may write to it, or to a folder above it; in a sticky one, such as
    /tmp, nobody can rename what belongs to others. path: without links, from `Path.resolve`.
    """
    if not hasattr(os, "geteuid"):  # Windows has other means
        return
    for part in (path, *path.parents):
        found = part.lstat()
        sticky = part != path and found.st_mode & stat.S_ISVTX
        if stat.S_ISLNK(found.st_mode):
            reason = "is a link"
        elif found.st_uid not in (os.geteuid(), 0):
            reason = f"belongs to another user, {found.st_uid}"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            reason = f"can be written by others, mode {stat.S_IMODE(found.st_mode):o}"
        else:
            continue
        raise NotPrivate(errno.EACCES, f"{part} {reason}", str(part))


def cache_folder() -> Path:
    """The folder that the variable WAVENET_CACHE names, or `wavenet` in the user's cache folder."""
    if named := os.environ.get("WAVENET_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wavenet"
