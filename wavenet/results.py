"""Owns the files that a command leaves: checked before the work, and kept where they cannot be
written as asked.

Knows nothing of models.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from torch import Tensor

from wavenet.audio import wav_bytes
from wavenet.files import scratch, write_through, write_whole
from wavenet.machine import size
from wavenet.plotting import figure_png, plot_clips, titles_of

NEW = Path("generated.wav")  # in the working folder, where no name is given
HEADER = 44  # bytes of a wav file
LONGEST = (2**32 - 1 - HEADER) // 2  # samples: a wav file states its size in 32 bits


def require_place(path: Path | None, suffix: str, flag: str) -> None:
    """Raises ValueError where a file of that name cannot be written. Leaves nothing behind.

    path: None passes. flag: where the name was given, for the message.
    """
    if path is None:
        return
    said = f"{flag} '{path}'"
    try:
        found = _found(path)
    except OSError as error:
        raise ValueError(f"{said} cannot be written: {reason(error)}. Give another.") from error
    if found is not None and stat.S_ISDIR(found):
        raise ValueError(f"{said} is a folder; give the name of a file, such as x{suffix}.")
    if path.suffix.lower() != suffix:
        raise ValueError(f"{said} is not a {suffix} file; give it the suffix {suffix}.")
    if found is not None and not stat.S_ISREG(found):
        raise ValueError(f"{said} is a pipe or a device; give the name of a file.")
    folder = existing_folder(path)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ValueError(
            f"{said} cannot be written in the folder '{folder}': {reason(error)}. Give another."
        ) from error


def _found(path: Path) -> int | None:
    """The mode of what is there; None for nothing. Raises OSError where that cannot be said."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def existing_folder(path: Path) -> Path:
    """The innermost of the folders of this file that there is; the others are made with it."""
    return next((folder for folder in path.parents if _found(folder) is not None), Path())


def reason(error: OSError) -> str:
    return error.strerror or str(error)


def write_or_keep(path: Path, content: bytes) -> None:
    """`write_whole`; where that fails, under a new name in the working or the temporary folder.

    Raises OSError where it failed, with the reason and where the content is now.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise _not_written(path, error, content) from error


def _not_written(path: Path, error: OSError, content: bytes) -> OSError:
    return OSError(
        f"'{path}' could not be written: {reason(error)}. Free some space there, or give another "
        f"place. {_kept(path, content)}"
    )


def write_all(contents: Iterable[tuple[Path, bytes]]) -> None:
    """`write_or_keep` of each; at the end prints the names of those that were written as asked.

    Raises OSError where some were not, once all have been tried.
    """
    failures, written = [], []
    try:
        for path, content in contents:
            try:
                write_or_keep(path, content)
                written.append(f"{path}\n")
            except OSError as error:
                failures.append(str(error))
    finally:
        print(*written, sep="", end="")
    if failures:
        raise OSError("\n".join(failures))


def _kept(path: Path, content: bytes) -> str:
    """Writes the content where it can be written, and says where that is."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            return f"What was made is in '{write_new(folder / path.name, [content])[0]}'."
    return "It could be written neither to the working folder nor to the temporary one: it is lost."


def numbered(path: Path, count: int) -> list[Path]:
    """NAME-0, NAME-1, ... for a batch; the name itself for one clip."""
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{index}") for index in range(count)]


def write_new(path: Path, contents: Sequence[bytes]) -> list[Path]:
    """Writes files of that name, or NAME_2, NAME_3, ... where others have it, alone or as a batch.

    Each appears whole or not at all, and no two processes write to the same name. Returns the
    names. Raises OSError where they cannot be written; then there is none.
    """
    with scratch(path) as folder:
        sources = [folder / str(index) for index in range(len(contents))]
        for source, content in zip(sources, contents, strict=True):
            write_through(source, content)
        number, candidate = 1, path
        while True:
            taken = candidate.exists() or candidate.with_stem(f"{candidate.stem}-0").exists()
            targets = numbered(candidate, len(contents))
            if not taken and _named(sources, targets):
                return targets
            number += 1
            candidate = path.with_stem(f"{path.stem}_{number}")


def _named(sources: Sequence[Path], targets: Sequence[Path]) -> bool:
    """Gives the files their names; False, and no name is given, where one of these is taken."""
    named: list[Path] = []
    try:
        for source, target in zip(sources, targets, strict=True):
            _link(source, target)
            named.append(target)
    except BaseException as error:
        for target in named:
            target.unlink()
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def _link(source: Path, target: Path) -> None:
    """A second name for the file; on a file system without hard links, another one."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        target.touch(exist_ok=False)
        os.replace(shutil.copy(source, source.with_suffix(".copy")), target)


def require_space(path: Path, lengths: Sequence[int], sample_rate: int) -> None:
    """Raises ValueError where clips of so many samples do not fit a wav file or the disk."""
    if max(lengths) > LONGEST:
        hours = [samples / sample_rate / 3600 for samples in (LONGEST, max(lengths))]
        raise ValueError(
            f"A wav file holds at most {hours[0]:.3g} hours at {sample_rate} Hz, but a clip is to "
            f"have {hours[1]:.3g} hours. Give fewer --seconds, or --out - for a stream."
        )
    folder, needed = existing_folder(path.absolute()), sum(HEADER + 2 * n for n in lengths)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"The audio needs {size(needed)}, but there are {size(free)} free in the folder "
            f"'{folder}'. Free some space, or give another place with --out."
        )


class Wavs:
    """The wav files of clips of so many samples.

    out: as given, numbered where there are several clips; None: a new name. Raises ValueError as
    `require_space` does.
    """

    def __init__(self, out: Path | None, lengths: Sequence[int], sample_rate: int) -> None:
        require_space(out or NEW, lengths, sample_rate)
        self._out, self._rate = out, sample_rate

    def write(
        self,
        clips: Sequence[Tensor],
        plot: Path | None = None,
        recording: Tensor | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        prompt: int = 0,
    ) -> None:
        """Writes the clips (time,) and a picture of them, and prints the names.

        recording: (time,) that stands first in the picture. labels: of the clips, their titles in
        it; the files' names where there are none. prompt: samples that the clips go on from, marked
        in it. Raises OSError where a file was written elsewhere or not at all, once all have been
        tried.
        """
        contents = [wav_bytes(clip, self._rate) for clip in clips]
        if self._out is None:
            paths = self._write_new(contents)
            print(*(f"{path}\n" for path in paths), sep="", end="")
            named: list[tuple[Path, bytes]] = []
        else:
            paths = numbered(self._out, len(clips))
            named = list(zip(paths, contents, strict=True))
        titles = titles_of(labels, len(clips)) if labels else [path.stem for path in paths]
        if recording is not None:
            clips, titles = [recording, *clips], ["recording", *titles]
        write_all(chain(named, self._picture(plot, clips, titles, prompt)))

    @staticmethod
    def _write_new(contents: Sequence[bytes]) -> list[Path]:
        try:
            return write_new(NEW, contents)
        except OSError as error:
            named = zip(numbered(NEW, len(contents)), contents, strict=True)
            told = [str(_not_written(path, error, content)) for path, content in named]
            raise OSError("\n".join(told)) from error

    def _picture(
        self, plot: Path | None, clips: Sequence[Tensor], titles: Sequence[str], prompt: int
    ) -> Iterator[tuple[Path, bytes]]:
        """Made once the clips are written."""
        if plot:
            end = prompt / self._rate if prompt else None
            yield plot, figure_png(plot_clips(clips, self._rate, titles, end))
