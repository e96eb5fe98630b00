"""Owns which files a corpus has, what they are called, and which split each is in.

Knows nothing of what is in a file. Paths are posix paths relative to the root.
"""

import codecs
import csv
import hashlib
import io
import logging
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from wavenet.corpus.checks import compiled_pattern, shortened
from wavenet.corpus.patterns import search_all

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
SPLITS = ("train", "val", "test")
LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes; what file systems take, with room for the root


# --- Finding files ----------------------------------------------------------------------------


def find_audio(root: Path) -> list[str]:
    """Whatever has the name of an audio file under `root`, sorted, and be it a folder or a pipe.

    Hidden files and folders are not looked at. Links are followed, those that leave `root` as well:
    corpora are linked in. A folder that cannot be opened is named in a warning.
    """
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, onerror=_warn_of, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up would go round for ever
            subfolders[:] = []
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder, name) for name in (*names, *subfolders) if _is_audio(name)]
    return sorted(path.relative_to(root).as_posix() for path in found)


def _warn_of(error: OSError) -> None:
    logger.warning("Skipped: '%s' cannot be opened: %s.", error.filename, error.strerror)


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)


def _describe_contents(root: Path) -> str:
    suffixes = Counter(path.suffix or "no suffix" for path in root.rglob("*") if path.is_file())
    if not suffixes:
        return "it is empty"
    counts = (f"{count} of {suffix}" for suffix, count in suffixes.most_common(5))
    return "it holds " + ", ".join(counts)


# --- The metadata CSV -------------------------------------------------------------------------


@dataclass(frozen=True)
class Metadata:
    """A CSV's rows by path: the split, where it has that column, and every other column as a label.

    splits: path -> train, val or test; empty without the column.
    labels: path -> label name -> category.
    """

    splits: dict[str, str]
    labels: dict[str, dict[str, str]]

    @property
    def paths(self) -> list[str]:
        return sorted(self.labels)

    @property
    def has_labels(self) -> bool:
        return any(self.labels.values())


def read_metadata(path: Path) -> Metadata:
    """Read a CSV in UTF-8 with a header: `path`, if you like `split`, and one column per label.

    A path is relative to the root and stays in it by its own words; the links on its way may lead
    anywhere, so that corpora can be linked in. Raises ValueError, naming the line, for a missing or
    surplus value, a path that comes twice or leaves the root, an unknown split, a header without
    `path` or with a column twice, no lines, and what is no CSV in UTF-8.
    """
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        columns = [name.strip(" ") for name in next(rows, [])]
        _check_columns(columns, path)
        metadata = Metadata({}, {})
        for values in filter(None, rows):  # an empty line is none
            _add_row(metadata, columns, values, f"'{path}' line {rows.line_num}")
    except csv.Error as error:
        raise ValueError(
            f"'{path}' line {rows.line_num} cannot be read as CSV: {error}. "
            "Look for a quotation mark that is not closed, there or above."
        ) from error
    if not metadata.labels:
        raise ValueError(
            f"'{path}' lists no files; it needs one line per audio file under its header."
        )
    return metadata


def _text(path: Path) -> str:
    """What the file holds. Raises ValueError, naming the line, for what is not text in UTF-8."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"'{path}' is in UTF-16; save it again as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"'{path}' line {line} is not in UTF-8 (byte 0x{content[error.start]:02x}); save the "
            "file again as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"'{path}' line {line} has a NUL byte, which no text has; save the file again as UTF-8."
        )
    return text


def _check_columns(columns: Sequence[str], path: Path) -> None:
    if not columns:
        raise ValueError(
            f"'{path}' is empty or begins with an empty line; its first line names the columns, "
            "one of them 'path'."
        )
    if "path" not in columns:
        raise ValueError(
            f"'{path}' has the columns {shortened(str(columns))}, but needs one named "
            "'path'; add it to the header line."
        )
    name, count = Counter(columns).most_common(1)[0]
    if count > 1 or "" in columns:
        found = f"the column '{name}' {count} times" if count > 1 else "a column without a name"
        raise ValueError(f"'{path}' line 1 has {found}; give each column a name of its own.")


def _add_row(metadata: Metadata, columns: list[str], values: list[str], where: str) -> None:
    row = _checked_values(columns, values, where)
    path = _checked_path(row.pop("path"), where)
    if path in metadata.labels:
        raise ValueError(f"{where} lists '{path}' a second time; keep one line per file.")
    if "split" in row:
        split = row.pop("split")
        if split not in SPLITS:
            raise ValueError(
                f"{where} has the split '{shortened(split)}'; write train, val or test."
            )
        metadata.splits[path] = split
    metadata.labels[path] = row


def _checked_values(columns: list[str], values: list[str], where: str) -> dict[str, str]:
    if len(values) > len(columns):
        raise ValueError(
            f"{where} has more values than the header has columns: {len(values)} for "
            f"{len(columns)}; quote values that contain commas."
        )
    row = dict(zip_longest(columns, (value.strip() for value in values), fillvalue=""))
    empty = [column for column, value in row.items() if not value]
    if empty:
        raise ValueError(
            f"{where} has no value for {', '.join(empty)}; every file needs one for every column."
        )
    return row


def _checked_path(written: str, where: str) -> str:
    """The path as a posix path from the root on."""
    path = posixpath.normpath(written.replace("\\", "/"))
    if Path(path).anchor or path.startswith("../") or path in ("..", "."):
        raise ValueError(
            f"{where} has the path '{shortened(written)}', which leaves --data.root; write "
            "it relative to that folder, or link the files into it."
        )
    longest = max(len(os.fsencode(name)) for name in path.split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        raise ValueError(
            f"{where} has a path that no file can have, '{shortened(written)}': "
            f"{len(path)} characters, a name of up to {longest} bytes. At most {LONGEST_NAME} "
            f"bytes a name and {LONGEST_PATH} a path are possible; correct the line."
        )
    return path


# --- Labels and splits ------------------------------------------------------------------------


def labels_from_pattern(
    paths: Sequence[str], pattern: re.Pattern[str]
) -> dict[str, dict[str, str]]:
    """Each path's labels: the named groups of `pattern`, searched for in the path.

    Raises ValueError where it does not match.
    """
    found = search_all("label_pattern", pattern, paths)
    labels = {
        path: {name: value for name, value in (groups or {}).items() if value is not None}
        for path, groups in found.items()
    }
    bad = [path for path, values in labels.items() if len(values) < len(pattern.groupindex)]
    if bad:
        shown = ", ".join(f"'{path}'" for path in bad[:3])
        raise ValueError(
            f"--data.label_pattern {pattern.pattern!r} misses {len(bad)} of {len(labels)} files, "
            f"such as {shown}. It is searched for in the path relative to the root; "
            "change it or move those files away."
        )
    return labels


def _matching(setting: str, pattern: re.Pattern[str] | None, paths: Sequence[str]) -> set[str]:
    """The paths in which the pattern is found; none without a pattern."""
    if pattern is None:
        return set()
    found = search_all(setting, pattern, paths)
    return {path for path, groups in found.items() if groups is not None}


def labels_from_folder(paths: Iterable[str], name: str) -> dict[str, dict[str, str]]:
    """Each path's one label, called `name`: its parent folder's name.

    Raises ValueError for files directly in the root.
    """
    labels = {path: {name: posixpath.basename(posixpath.dirname(path))} for path in paths}
    bad = [path for path, values in labels.items() if not values[name]]
    if bad:
        raise ValueError(
            f"--data.label_from_folder {name} names clips after their folder, but {len(bad)} of "
            f"{len(labels)} files lie directly in the root, such as '{bad[0]}'; "
            f"put them into a folder per {name}."
        )
    return labels


def hold_out(paths: Sequence[str], fraction: float) -> set[str]:
    """ceil(fraction * n) of the paths, never all of them, chosen by a hash of each path alone."""
    count = min(math.ceil(fraction * len(paths)), len(paths) - 1)
    ranked = sorted(paths, key=lambda path: hashlib.blake2b(os.fsencode(path)).digest())
    return set(ranked[: max(count, 0)])


def sort_categories(values: Iterable[str]) -> list[str]:
    """Distinct values, by number if every one is a whole number, by alphabet otherwise."""
    distinct = sorted(set(values))
    if all(re.fullmatch(r"-?\d+", value) for value in distinct):
        return sorted(distinct, key=int)
    return distinct


# --- The settings together --------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """What to use, sorted, whether it can be read or not; and the CSV, if any."""

    paths: list[str]
    metadata: Metadata | None


class Listing:
    """The settings that say which files a corpus has, their labels and their splits.

    Args:
        root: Folder of audio, searched recursively.
        label_pattern: Regular expression with named groups; each is a label.
        label_from_folder: Name of the label that is the parent folder's name.
        metadata: CSV, relative to the working folder or to root; see `read_metadata`.
        label_names: The labels to keep; None keeps all.
        val_pattern: Regular expression; clips it matches are for validation.
        test_pattern: Regular expression; clips it matches are for testing.
        val_fraction: Share for validation where neither the CSV nor val_pattern says.

    Raises ValueError, naming the flag, for settings that cannot be meant.
    """

    def __init__(
        self,
        root: str | Path,
        label_pattern: str | None = None,
        label_from_folder: str | None = None,
        metadata: str | None = None,
        label_names: list[str] | None = None,
        val_pattern: str | None = None,
        test_pattern: str | None = None,
        val_fraction: float = 0.05,
    ) -> None:
        self.root, self.metadata, self.label_names = Path(root), metadata, label_names
        self.label_pattern = compiled_pattern("label_pattern", label_pattern)
        self.label_from_folder = label_from_folder
        self.val_pattern = compiled_pattern("val_pattern", val_pattern)
        self.test_pattern = compiled_pattern("test_pattern", test_pattern)
        self.val_fraction = val_fraction
        self._check_settings()

    def _check_settings(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"--data.val_fraction must be at least 0 and below 1, but got {self.val_fraction}."
            )
        if self.label_pattern is not None and not self.label_pattern.groupindex:
            raise ValueError(
                f"--data.label_pattern {self.label_pattern.pattern!r} has no named group; write "
                r"the part that is the label as (?P<name>...), for instance (?P<digit>\d)_."
            )
        if self.label_pattern is not None and self.label_from_folder is not None:
            raise ValueError(
                f"Labels come from --data.label_pattern '{self.label_pattern.pattern}' or from "
                f"--data.label_from_folder {self.label_from_folder}, not from both. A config may "
                "have set one of them: give null for the one that is not meant."
            )

    def files(self) -> Files:
        """What there is now. Raises ValueError for no root, no audio, or a CSV that is wrong."""
        if not self.root.is_dir():
            found = "is a file" if self.root.exists() else "does not exist"
            raise ValueError(
                f"--data.root '{self.root}' {found}; name the folder that holds the audio."
            )
        metadata = self._read_metadata()
        if metadata is not None:
            return Files(metadata.paths, metadata)
        paths = find_audio(self.root)
        if not paths:
            raise ValueError(
                f"--data.root '{self.root}' holds no audio ({' '.join(AUDIO_SUFFIXES)}): "
                f"{_describe_contents(self.root)}. "
                "Name another folder, or convert the files to one of these formats."
            )
        return Files(paths, None)

    def _read_metadata(self) -> Metadata | None:
        if self.metadata is None:
            return None
        places = [Path(self.metadata), self.root / self.metadata]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ValueError(
                f"--data.metadata '{self.metadata}' is neither in the working folder "
                f"nor in '{self.root}'."
            )
        metadata = read_metadata(path)
        self._refuse_contradictions(metadata, path)
        return metadata

    def _refuse_contradictions(self, metadata: Metadata, path: Path) -> None:
        if metadata.has_labels and (self.label_pattern or self.label_from_folder):
            raise ValueError(
                f"'{path}' has label columns, and --data.label_pattern or --data.label_from_folder "
                "is set as well; labels come from one of them: remove the setting or the columns."
            )
        if metadata.splits and (self.val_pattern or self.test_pattern):
            raise ValueError(
                f"'{path}' has a split column; "
                "remove it, or --data.val_pattern and --data.test_pattern."
            )

    def labels(self, paths: Sequence[str], metadata: Metadata | None) -> dict[str, dict[str, str]]:
        """Each path's labels, name -> category, those of `label_names` alone.

        Raises ValueError for a name that was not found, and where the settings miss a path.
        """
        found = self._find_labels(paths, metadata)
        if self.label_names is None:
            return found
        names = sorted({name for values in found.values() for name in values})
        unknown = sorted(set(self.label_names) - set(names))
        if unknown:
            raise ValueError(
                f"--data.label_names asks for {unknown}, but the labels found are {names}."
            )
        return {
            path: {name: values[name] for name in self.label_names}
            for path, values in found.items()
        }

    def _find_labels(
        self, paths: Sequence[str], metadata: Metadata | None
    ) -> dict[str, dict[str, str]]:
        if self.label_pattern is not None:
            return labels_from_pattern(paths, self.label_pattern)
        if self.label_from_folder is not None:
            return labels_from_folder(paths, self.label_from_folder)
        return {path: metadata.labels[path] if metadata else {} for path in paths}

    def splits(self, paths: Sequence[str], metadata: Metadata | None) -> dict[str, str]:
        """Each path's split. What is for testing is never validated on."""
        if metadata is not None and metadata.splits:
            return metadata.splits
        test = _matching("test_pattern", self.test_pattern, paths)
        rest = [path for path in paths if path not in test]
        if self.val_pattern is not None:
            val = _matching("val_pattern", self.val_pattern, rest)
        else:
            val = hold_out(rest, self.val_fraction)
        return {
            path: "test" if path in test else "val" if path in val else "train" for path in paths
        }


def remedy(listing: Listing, split: str) -> str:
    """What to change where a split has no clips, as a sentence without its full stop."""
    flags = {
        "train": "--data.val_pattern and --data.test_pattern, which take",
        "val": "--data.val_pattern, which takes",
        "test": "--data.test_pattern, which takes",
    }
    advice = f"Change {flags[split]} clips by their path"
    if split == "val" and listing.val_pattern is None:
        advice = (
            f"Set --data.val_fraction (now {listing.val_fraction}) higher, "
            "set --data.val_pattern, or add clips"
        )
    if split == "test" and listing.test_pattern is None:
        advice = "Set --data.test_pattern to an expression that matches the test clips' paths"
    if listing.metadata is not None:
        advice += f", or give lines of '{listing.metadata}' the split {split}"
    return advice
