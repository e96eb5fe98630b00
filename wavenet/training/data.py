"""Owns the way from a folder of audio to batches of codes: finding, labelling, splitting, preparing, cropping.

Knows nothing of models: of a network it is told the receptive field alone. Audio is decoded once into one file of
mu-law codes (uint8, clips end to end) beside a manifest, and every batch is a pure function of (settings, seed, batch
number, rank), so that a resumed run reads what the uninterrupted one would have read, whatever the number of workers.

Shapes: B rows of a batch, W targets of a row. A row holds W + 1 codes; its inputs are row[:-1], its targets row[1:].
"""

import csv
import hashlib
import json
import logging
import math
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import filelock
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wavenet.audio import read_audio, resample
from wavenet.conditioning.durations import fit_clip_length
from wavenet.conditioning.labels import NOT_TOLD
from wavenet.outputs.mulaw import MuLaw

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
SPLITS = ("train", "val", "test")
CODEC = MuLaw(256)  # codes travel as uint8
FORMAT_VERSION = 1  # of the prepared folder; a new one prepares anew
PEAK_DBFS = -1.0
LOUDNESS_DBFS = -23.0  # RMS
POOL_BATCHES = 32  # batches whose clips are sorted by length together
WIDTH_MULTIPLE = 256  # training rows come in few distinct widths, for torch.compile
ENCODE_BLOCK = 1 << 20  # samples; bounds the int64 codes held at a time
UNREADABLE = "unreadable"  # in place of the hash of such a file
ABANDONED_SECONDS = 24 * 3600  # a half-made folder untouched for so long was left by a killed run

# "codes": (B, W + 1) uint8, "scored": (B, 2) int64, "labels": {name: (B,) int64}, "position": (B, 2) int64, each row's first
# target by its place in the clip, and the clip's samples
Batch = dict[str, Any]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Clip:
    """One prepared file: `path` relative to the root, its codes at [offset, offset + length) of the codes file."""

    path: str
    offset: int
    length: int
    split: str
    labels: Mapping[str, str] = field(hash=False)


# --- Which files there are, and what they are called -----------------------------------------------------------------


def find_audio(root: Path) -> list[str]:
    """Audio files under `root`, as sorted posix paths relative to it. Hidden files and folders are not looked at."""
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = (
            [] if real in seen else sorted(name for name in subfolders if not name.startswith("."))
        )
        if real not in seen:
            found += [Path(folder, name) for name in names if _is_audio(name)]
        seen.add(real)  # a link back up would go round for ever
    return sorted(path.relative_to(root).as_posix() for path in found)


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(AUDIO_SUFFIXES)


def _describe_contents(root: Path) -> str:
    suffixes = Counter(path.suffix or "no suffix" for path in root.rglob("*") if path.is_file())
    if not suffixes:
        return "it is empty"
    return "it holds " + ", ".join(
        f"{count} of {suffix}" for suffix, count in suffixes.most_common(5)
    )


@dataclass(frozen=True)
class Metadata:
    """A CSV's rows by path: which split (where it has that column) and which labels (every other column)."""

    splits: dict[str, str]
    labels: dict[str, dict[str, str]]

    @property
    def paths(self) -> list[str]:
        return sorted(self.labels)

    @property
    def has_labels(self) -> bool:
        return any(self.labels.values())


def read_metadata(path: Path) -> Metadata:
    """Read a CSV with a header: `path`, optionally `split` (train, val or test), and one column per label."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = list(rows.fieldnames or [])
        if "path" not in columns:
            raise ValueError(
                f"'{path}' has the columns {columns}, but needs one named 'path'; add it to the header line."
            )
        metadata = Metadata({}, {})
        for row in rows:
            _add_row(metadata, row, f"'{path}' line {rows.line_num}")
    if not metadata.labels:
        raise ValueError(
            f"'{path}' lists no files; it needs one line per audio file under its header."
        )
    return metadata


def _add_row(metadata: Metadata, row: Mapping[str | None, Any], where: str) -> None:
    if None in row:
        raise ValueError(
            f"{where} has more values than the header has columns; quote values that contain commas."
        )
    values = {str(column): (value or "").strip() for column, value in row.items()}
    empty = [column for column, value in values.items() if not value]
    if empty:
        raise ValueError(
            f"{where} has no value for {', '.join(empty)}; every file needs one for every column."
        )
    path = posixpath.normpath(values.pop("path").replace("\\", "/"))
    if path in metadata.labels:
        raise ValueError(f"{where} lists '{path}' a second time; keep one line per file.")
    if "split" in values:
        metadata.splits[path] = values.pop("split")
        if metadata.splits[path] not in SPLITS:
            raise ValueError(
                f"{where} has the split '{metadata.splits[path]}'; write train, val or test."
            )
    metadata.labels[path] = values


def labels_from_pattern(
    paths: Iterable[str], pattern: re.Pattern[str]
) -> dict[str, dict[str, str]]:
    """Each path's labels: the named groups of `pattern`, searched for in the path. ValueError if it does not match."""
    matches = {path: pattern.search(path) for path in paths}
    bad = [
        path
        for path, match in matches.items()
        if match is None or None in match.groupdict().values()
    ]
    if bad:
        shown = ", ".join(f"'{path}'" for path in bad[:3])
        raise ValueError(
            f"--data.label_pattern {pattern.pattern!r} misses {len(bad)} of {len(matches)} files, such as {shown}. "
            "It is searched for in the path relative to the root; change it or move those files away."
        )
    return {path: match.groupdict() for path, match in matches.items() if match}


def labels_from_folder(paths: Iterable[str], name: str) -> dict[str, dict[str, str]]:
    """Each path's one label, called `name`: its parent folder's name. ValueError for files directly in the root."""
    labels = {path: {name: posixpath.basename(posixpath.dirname(path))} for path in paths}
    bad = [path for path, values in labels.items() if not values[name]]
    if bad:
        raise ValueError(
            f"--data.label_from_folder {name} names clips after their folder, but {len(bad)} of {len(labels)} files "
            f"lie directly in the root, such as '{bad[0]}'; put them into a folder per {name}."
        )
    return labels


def hold_out(paths: Sequence[str], fraction: float) -> set[str]:
    """ceil(fraction * n) of the paths, never all of them, chosen by a hash of each path alone."""
    count = min(math.ceil(fraction * len(paths)), len(paths) - 1)
    ranked = sorted(paths, key=lambda path: hashlib.blake2b(os.fsencode(path)).digest())
    return set(ranked[: max(count, 0)])


def sort_categories(values: Iterable[str]) -> list[str]:
    """Distinct values in numeric order if every one is a whole number, in alphabetical order otherwise."""
    distinct = sorted(set(values))
    if all(re.fullmatch(r"-?\d+", value) for value in distinct):
        return sorted(distinct, key=int)
    return distinct


def _pattern(setting: str, text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(
            f"--data.{setting} {text!r} is not a regular expression: {error}."
        ) from error


# --- Preparing: audio files to one file of codes ---------------------------------------------------------------------


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the codes of a file, beside its contents."""

    sample_rate: int
    normalize: str | None
    trim_silence_db: float | None


@dataclass(frozen=True)
class Decoded:
    """One file's codes, with what was done to it; or why it was skipped."""

    codes: np.ndarray  # (T,) uint8
    rate: int = 0  # Hz, of the file
    samples: int = 0  # before trimming, at the prepared rate
    clipped: int = 0  # samples beyond full scale
    skipped: str | None = None


def decode_clip(path: Path, settings: DecodeSettings) -> Decoded:
    """Read, mix down, resample, trim, normalise and encode one file. A file that cannot be used says why."""
    try:
        audio, rate = read_audio(path)
    except (ValueError, OSError) as error:
        return Decoded(np.empty(0, np.uint8), skipped=str(error))
    audio = resample(audio.mean(dim=0), rate, settings.sample_rate)
    samples = len(audio)
    if settings.trim_silence_db is not None:
        audio = trim_silence(audio, settings.trim_silence_db)
    audio = normalize_audio(audio, settings.normalize)
    return Decoded(_encode(audio), rate, samples, int((audio.abs() > 1).sum()))


def trim_silence(audio: Tensor, below_peak_db: float) -> Tensor:
    """(T,) -> (T',): without the samples before the first and after the last within `below_peak_db` dB of the peak."""
    loud = torch.nonzero(audio.abs() >= audio.abs().max() * 10 ** (-below_peak_db / 20))
    return audio[int(loud[0]) : int(loud[-1]) + 1]


def normalize_audio(audio: Tensor, how: str | None) -> Tensor:
    """(T,) -> (T,): peak at -1 dBFS, or RMS at -23 dBFS unless that clips, or as it is. Silence stays silence."""
    peak = float(audio.abs().max())
    if how is None or peak == 0:
        return audio
    if how == "peak":
        return audio * (10 ** (PEAK_DBFS / 20) / peak)
    rms = float(audio.double().square().mean().sqrt())
    return audio * min(10 ** (LOUDNESS_DBFS / 20) / rms, 1 / peak)


def _encode(audio: Tensor) -> np.ndarray:
    codes = np.empty(len(audio), np.uint8)
    for start in range(0, len(audio), ENCODE_BLOCK):
        codes[start : start + ENCODE_BLOCK] = CODEC.encode(
            audio[start : start + ENCODE_BLOCK]
        ).numpy()
    return codes


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Files are decoded side by side, one thread each; torch's own threads on top would only get in their way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """map(work, items) on a thread per core (soundfile and torch release the GIL), a bounded distance ahead."""
    with ThreadPoolExecutor(_cpus()) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 4 * _cpus():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def digest_files(root: Path, paths: Sequence[str], cache: Path) -> dict[str, str]:
    """A hash of each file's contents. `cache` remembers them by size and modification time, so again is quick."""
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        known = {}
    stamps = {path: _stamp(root / path) for path in paths}
    stale = [path for path in paths if known.get(path, [])[:2] != stamps[path]]
    for path, digest in zip(
        stale, _in_order(_digest, [root / path for path in stale]), strict=True
    ):
        known[path] = [*stamps[path], digest]
    digests = {path: known[path][2] for path in paths}
    if stale:
        _write_text(
            cache, json.dumps({path: known[path] for path in paths if digests[path] != UNREADABLE})
        )
    return digests


def _stamp(path: Path) -> list[int]:
    try:
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    except OSError:  # a link to nothing
        return [0, 0]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:  # decoding will skip it and say why
        return UNREADABLE


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def prepare_clips(
    root: Path, paths: Sequence[str], missing: Sequence[str], settings: DecodeSettings, target: Path
) -> None:
    """Decode `paths` into the folder `target`: codes.u8 and manifest.json. It appears whole or not at all.

    Where another process made `target` first, that one's is kept: both hold the same. Raises ValueError if no file is
    usable, and OSError, saying where to, when writing fails.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        manifest = _write_codes(temporary / "codes.u8", root, paths, settings)
        manifest["skipped"] += [
            {"path": path, "reason": f"'{root / path}' does not exist."} for path in missing
        ]
        _refuse_unusable(manifest, root)
        _write_text(temporary / "manifest.json", json.dumps(manifest))
        _publish(temporary, target)
    except OSError as error:
        raise OSError(
            error.errno,
            f"Could not write the prepared codes to '{target.parent}': {error.strerror}. "
            "Free space there, or name another folder with --data.cache_dir",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_codes(
    file: Path, root: Path, paths: Sequence[str], settings: DecodeSettings
) -> dict[str, Any]:
    """Write every usable file's codes end to end; return the manifest."""
    from tqdm import tqdm

    clips: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    rates: Counter[int] = Counter()
    totals: Counter[str] = Counter()
    with file.open("wb") as output, _one_torch_thread():
        results = _in_order(lambda path: decode_clip(root / path, settings), paths)
        bar = tqdm(results, "Preparing audio", len(paths), unit="file", disable=None)
        for path, decoded in zip(paths, bar, strict=True):
            if decoded.skipped is not None:
                skipped.append({"path": path, "reason": decoded.skipped})
                continue
            clips.append({"path": path, "offset": output.tell(), "length": len(decoded.codes)})
            output.write(decoded.codes)
            rates[decoded.rate] += 1
            totals.update(samples=decoded.samples, kept=len(decoded.codes), clipped=decoded.clipped)
            totals["clipped_files"] += decoded.clipped > 0
        output.flush()
        os.fsync(output.fileno())
    header = {
        "format_version": FORMAT_VERSION,
        "settings": asdict(settings),
        "codec": "mu-law",
        "classes": CODEC.classes,
    }
    return {
        **header,
        "clips": clips,
        "skipped": skipped,
        "rates": dict(rates),
        "totals": dict(totals),
    }


def _refuse_unusable(manifest: Mapping[str, Any], root: Path) -> None:
    if manifest["clips"]:
        return
    reasons = "\n".join(f"  {entry['reason']}" for entry in manifest["skipped"][:5])
    raise ValueError(
        f"None of the {len(manifest['skipped'])} audio files for '{root}' can be used:\n{reasons}"
    )


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not (target / "manifest.json").exists():
            raise
        logger.info("Another process prepared '%s' meanwhile; its codes are used.", target)


def _sweep(cache: Path) -> None:
    """Remove the half-made folders that killed runs left behind."""
    for folder in cache.glob("*.tmp"):
        newest = max(
            (entry.stat().st_mtime for entry in (folder, folder / "codes.u8") if entry.exists()),
            default=time.time(),
        )
        if folder.is_dir() and time.time() - newest > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. ValueError if its codes are not of the size it says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = sum(clip["length"] for clip in manifest["clips"])
    found = (folder / "codes.u8").stat().st_size
    if found != expected:
        raise ValueError(
            f"'{folder}' holds {found} codes instead of {expected}; delete that folder and start again."
        )
    return manifest


# --- Batches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipTable:
    """Clips of one codes file as arrays, light to send to a worker process."""

    codes_path: Path
    offsets: np.ndarray  # (N,) int64
    lengths: np.ndarray  # (N,) int64
    labels: dict[str, np.ndarray]  # category indices, (N,) int64 each

    def __len__(self) -> int:
        return len(self.offsets)


class _RowDataset(Dataset[Batch]):
    """Cuts rows out of a codes file. The map is opened in each process that reads, and never travels between them."""

    def __init__(self, table: ClipTable) -> None:
        self.table = table
        self.lengths = table.lengths  # of the clips, with what silence counts as their own
        self._codes: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_codes": None}

    def _assemble(
        self, clips: np.ndarray, spans: np.ndarray, unscored: np.ndarray, multiple: int
    ) -> Batch:
        """Rows whose targets are clip[start:stop), the first `unscored` of them context.

            clip       ... c-1 |  c   c+1  ...  e-1 | ...        c = start, e = stop
            row            c-1    c   c+1  ...  e-1   padding    with the silence code for c-1 where c = 0
            inputs         c-1    c   c+1  ...                   target j is predicted from inputs 0..j

        Args:
            clips: (B,) rows of the table.
            spans: (B, 2) start and stop in the clip.
            unscored: (B,) targets at the row's beginning that lack context.
            multiple: W is rounded up to it.
        """
        if self._codes is None:
            self._codes = np.memmap(self.table.codes_path, np.uint8, "r").view(np.ndarray)
        widths = spans[:, 1] - spans[:, 0]
        width = math.ceil(int(widths.max()) / multiple) * multiple
        rows = np.full((len(clips), width + 1), CODEC.silence, np.uint8)
        ends = np.minimum(
            spans[:, 1], self.table.lengths[clips]
        )  # a span may go on into silence behind the clip
        starts = spans[:, 0]
        places = zip(
            rows, self.table.offsets[clips].tolist(), starts.tolist(), ends.tolist(), strict=True
        )
        for row, offset, start, end in places:
            first = int(start == 0)  # from the clip's beginning there is no code before
            if end >= start:
                row[first : end - start + 1] = self._codes[
                    offset + start - 1 + first : offset + end
                ]
        return {
            "codes": torch.from_numpy(rows),
            "scored": torch.from_numpy(np.stack([unscored, widths], axis=1)),
            "position": torch.from_numpy(np.stack([starts, self.lengths[clips]], axis=1)),
            "labels": {
                name: torch.from_numpy(values[clips]) for name, values in self.table.labels.items()
            },
        }


class CropBatches(_RowDataset):
    """Training batches: item b is a whole batch, a function of (seed, b, rank, world_size) alone, for any b >= 0.

    One pass takes every clip ceil(length / crop_samples) times, in an order of its own; `len` is one process's batches
    of a pass, and numbers beyond it go on with the next pass. Rows hold `receptive_field - 1` unscored samples of real
    context, or begin at the clip's beginning, where silence is the exact context and everything is scored.

    Args:
        table: The clips.
        receptive_field: Input samples one output depends on.
        crop_samples: Scored samples per row; a row from the clip's beginning scores its context as well.
        batch_size: Rows.
        seed: Decides orders and crops.
        rank: This process's number.
        world_size: Processes that share the batches.
        tail: Samples of silence behind each clip that count as its own.
        label_dropout: Share of the rows whose labels are not told.
    """

    def __init__(
        self,
        table: ClipTable,
        receptive_field: int,
        crop_samples: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        tail: int = 0,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__(table)
        self.lengths, self.label_dropout = table.lengths + tail, label_dropout
        _require_positive(
            receptive_field=receptive_field, crop_samples=crop_samples, batch_size=batch_size
        )
        self.receptive_field, self.crop_samples, self.batch_size = (
            receptive_field,
            crop_samples,
            batch_size,
        )
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._units = np.repeat(np.arange(len(table)), -(-self.lengths // crop_samples))
        self._batches = math.ceil(len(self._units) / batch_size)  # of a pass, over all processes
        self._planned: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return math.ceil(self._batches / self.world_size)

    def __getitem__(self, index: int) -> Batch:
        if index < 0:
            raise IndexError(f"Training batches are numbered from 0, but got {index}.")
        number = index * self.world_size + self.rank
        clips = self._plan(number // self._batches)[number % self._batches]
        spans, unscored = self._crops(clips, number)
        batch = self._assemble(clips, spans, unscored, WIDTH_MULTIPLE)
        if self.label_dropout:
            drawn = np.random.default_rng([self.seed, 2, number]).random(len(clips))
            told = torch.from_numpy(drawn >= self.label_dropout)
            batch["labels"] = {
                name: ids.where(told, NOT_TOLD) for name, ids in batch["labels"].items()
            }
        return batch

    def _plan(self, number: int) -> np.ndarray:
        """(batches, B) clips of one pass: shuffled, then alike lengths put together within pools of batches."""
        if self._planned is None or self._planned[0] != number:
            rng = np.random.default_rng([self.seed, 0, number])
            units = np.resize(
                rng.permutation(self._units), self._batches * self.batch_size
            )  # fills the last batch
            pools = np.split(
                units,
                range(POOL_BATCHES * self.batch_size, len(units), POOL_BATCHES * self.batch_size),
            )
            self._planned = (number, np.concatenate([self._arrange(pool, rng) for pool in pools]))
        return self._planned[1]

    def _arrange(self, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lengths = np.minimum(self.lengths[pool], self.crop_samples)
        batches = pool[np.argsort(lengths, kind="stable")].reshape(-1, self.batch_size)
        return batches[rng.permutation(len(batches))]

    def _crops(self, clips: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, 2) spans and (B,) unscored targets.

        Target j, clip position c + j, needs the receptive_field inputs up to position c + j - 1, the first row input
        being c - 1: it is exact from j = receptive_field - 1 on. So s comes first where c = s - (receptive_field - 1).
        """
        lengths = self.lengths[clips]
        room = np.maximum(lengths - self.crop_samples, 0)
        drawn = np.random.default_rng([self.seed, 1, number]).random(len(clips))
        scored = (drawn * (room + 1)).astype(np.int64)  # s, uniform over 0..room
        starts = np.maximum(scored - (self.receptive_field - 1), 0)
        stops = np.minimum(scored + self.crop_samples, lengths)
        unscored = np.where(starts == 0, 0, self.receptive_field - 1)
        return np.stack([starts, stops], axis=1), unscored


class ClipBatches(_RowDataset):
    """Whole clips, everything scored, sorted by length; each process has its own share and no clip comes twice."""

    def __init__(
        self, table: ClipTable, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(table)
        self.order = np.argsort(table.lengths, kind="stable")[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, but got the index {index}.")
        clips = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        spans = np.stack([np.zeros_like(clips), self.table.lengths[clips]], axis=1)
        return self._assemble(clips, spans, np.zeros_like(clips), multiple=1)


class ResumableSampler(Sampler[int]):
    """Batch numbers from where training stands to the end of that epoch.

    Its length is the whole epoch's even when an iteration starts inside: Lightning counts the batches done before it.

    Args:
        length: Batches of an epoch.
        position: Tells, when an iteration starts, how many batches are done in all.
    """

    def __init__(self, length: int, position: Callable[[], int]) -> None:
        self.length, self.position = length, position

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        start = self.position()
        return iter(range(start, (start // self.length + 1) * self.length))


# --- The data module -------------------------------------------------------------------------------------------------


def _require_positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"--data.{name} must be above 0, but got {value}.")


class AudioDataModule(LightningDataModule):
    """A folder of audio as batches of mu-law codes: prepared once, labelled, split by clip and cropped.

    Args:
        root: Folder of audio, searched recursively for .wav, .flac, .ogg, .mp3, .aiff and .aif.
        sample_rate: Rate of the codes in Hz; files at other rates are resampled.
        prepare: A prepare.py, run as `python PREPARE --out ROOT` when root holds no audio yet.
        label_pattern: Regular expression with named groups, searched for in the path relative to root; each is a label.
        label_from_folder: Name of the label that is taken from the parent folder's name, such as "speaker".
        metadata: CSV with a header: `path` (relative to root), optionally `split` (train, val, test), every other
            column a label. Found relative to the working folder or to root. Files it does not list are not used.
        label_names: The labels to keep of those found; [] for an unconditional model. All by default.
        val_pattern: Regular expression over the relative path; clips it matches are for validation.
        test_pattern: Regular expression over the relative path; clips it matches are for testing.
        val_fraction: Share of the clips for validation where neither the CSV nor val_pattern says.
        normalize: "peak" (-1 dBFS) or "loudness" (RMS of -23 dBFS, less where that would clip); none by default.
        trim_silence_db: Cut leading and trailing samples that lie this many dB below the clip's peak; off by default.
        crop_samples: Scored samples per training row, beside their context.
        trailing_silence: Seconds of silence behind each training clip, scored like the clip, so that a model of short
            clips learns to stop. Validation and test clips stay as they are.
        label_dropout: Share of the training rows whose labels the model is not told, so that it learns the corpus as a whole
            too, and generate.py can guide it (--guidance). 0.1 is usual.
        batch_size: Rows of a training batch, per process.
        val_batch_size: Clips of a validation or test batch, per process.
        num_workers: Worker processes that cut batches.
        cache_dir: Where prepared codes are kept. Default: `.wavenet-cache` in root, or the user's cache folder where
            root cannot be written.
        seed: Decides the order of the clips and where they are cropped.
    """

    def __init__(
        self,
        root: str,
        sample_rate: int,
        prepare: str | None = None,
        label_pattern: str | None = None,
        label_from_folder: str | None = None,
        metadata: str | None = None,
        label_names: list[str] | None = None,
        val_pattern: str | None = None,
        test_pattern: str | None = None,
        val_fraction: float = 0.05,
        normalize: Literal["peak", "loudness"] | None = None,
        trim_silence_db: float | None = None,
        crop_samples: int = 4096,
        trailing_silence: float = 0.0,
        label_dropout: float = 0.0,
        batch_size: int = 16,
        val_batch_size: int = 16,
        num_workers: int = 1,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _require_positive(
            sample_rate=sample_rate,
            crop_samples=crop_samples,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            trim_silence_db=trim_silence_db,
        )
        self.root, self.sample_rate, self.prepare = Path(root), sample_rate, prepare
        self.label_pattern = _pattern("label_pattern", label_pattern)
        self.label_from_folder, self.metadata, self.label_names = (
            label_from_folder,
            metadata,
            label_names,
        )
        self.val_pattern, self.test_pattern = (
            _pattern("val_pattern", val_pattern),
            _pattern("test_pattern", test_pattern),
        )
        self.val_fraction, self.crop_samples = val_fraction, crop_samples
        self.batch_size, self.val_batch_size, self.num_workers = (
            batch_size,
            val_batch_size,
            num_workers,
        )
        self.trailing_silence, self.cache_dir, self.seed = trailing_silence, cache_dir, seed
        self.label_dropout = label_dropout
        self.decoding = DecodeSettings(sample_rate, normalize, trim_silence_db)
        self.receptive_field: int | None = None  # for use without a trainer
        self._folder: Path | None = None
        self._clips: list[Clip] = []
        self._labels: dict[str, list[str]] = {}
        self._check_settings()

    def _check_settings(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"--data.val_fraction must be at least 0 and below 1, but got {self.val_fraction}."
            )
        for name in ("num_workers", "seed", "trailing_silence"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"--data.{name} must be at least 0, but got {getattr(self, name)}."
                )
        if not 0 <= self.label_dropout < 1:
            raise ValueError(
                f"--data.label_dropout is a share, from 0 to below 1, but got {self.label_dropout}."
            )
        if self.decoding.normalize not in (None, "peak", "loudness"):
            raise ValueError(
                f"--data.normalize takes peak, loudness or nothing, but got {self.decoding.normalize!r}."
            )
        if self.label_pattern is not None and not self.label_pattern.groupindex:
            raise ValueError(
                f"--data.label_pattern {self.label_pattern.pattern!r} has no named group; "
                r"write the part that is the label as (?P<name>...), for instance (?P<digit>\d)_."
            )
        if self.label_pattern is not None and self.label_from_folder is not None:
            raise ValueError(
                "Labels come from --data.label_pattern or --data.label_from_folder, not both; remove one."
            )

    # What there is

    def _list(self) -> tuple[list[str], list[str], Metadata | None]:
        """Files to use, files that the CSV lists but are missing, and the CSV."""
        if not self.root.is_dir():
            found = "is a file" if self.root.exists() else "does not exist"
            raise ValueError(
                f"--data.root '{self.root}' {found}; name the folder that holds the audio."
            )
        metadata = self._read_metadata()
        if metadata is not None:
            missing = [path for path in metadata.paths if not (self.root / path).is_file()]
            return sorted(set(metadata.paths) - set(missing)), missing, metadata
        paths = find_audio(self.root)
        if not paths:
            kinds = " ".join(AUDIO_SUFFIXES)
            raise ValueError(
                f"--data.root '{self.root}' holds no audio ({kinds}): {_describe_contents(self.root)}. "
                "Name another folder, or convert the files to one of these formats."
            )
        return paths, [], None

    def _read_metadata(self) -> Metadata | None:
        if self.metadata is None:
            return None
        places = [Path(self.metadata), self.root / self.metadata]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ValueError(
                f"--data.metadata '{self.metadata}' is neither in the working folder nor in '{self.root}'."
            )
        metadata = read_metadata(path)
        if metadata.has_labels and (self.label_pattern or self.label_from_folder):
            raise ValueError(
                f"'{path}' has label columns, and --data.label_pattern or --data.label_from_folder is set as well; "
                "labels come from one of them: remove the setting or the columns."
            )
        if metadata.splits and (self.val_pattern or self.test_pattern):
            raise ValueError(
                f"'{path}' has a split column; remove it, or --data.val_pattern and --data.test_pattern."
            )
        return metadata

    def _label(self, paths: Sequence[str], metadata: Metadata | None) -> dict[str, dict[str, str]]:
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

    def _split(self, paths: Sequence[str], metadata: Metadata | None) -> dict[str, str]:
        if metadata is not None and metadata.splits:
            return metadata.splits
        test = {path for path in paths if self.test_pattern and self.test_pattern.search(path)}
        rest = [path for path in paths if path not in test]
        if self.val_pattern is not None:
            val = {path for path in rest if self.val_pattern.search(path)}
        else:
            val = hold_out(rest, self.val_fraction)
        return {
            path: "test" if path in test else "val" if path in val else "train" for path in paths
        }

    # Preparing

    def prepare_data(self) -> None:
        """Decode the audio into the cache, unless that is done. Lightning calls it in one process of each node."""
        self._make_audio()
        paths, missing, metadata = self._list()
        self._label(paths, metadata)  # a wrong expression shows itself before hours of decoding
        folder = self._locate(paths, missing)
        fresh = not folder.exists()
        if fresh:
            prepare_clips(self.root, paths, missing, self.decoding, folder)
        self._open(folder, metadata)
        self._report(read_manifest(folder), fresh)

    def _make_audio(self) -> None:
        """Run the corpus's prepare.py where there is no audio yet; a second process waits for the first."""
        if self.prepare is None or (self.root.is_dir() and find_audio(self.root)):
            return
        if not Path(self.prepare).is_file():
            raise ValueError(
                f"'{self.root}' holds no audio, and --data.prepare '{self.prepare}' does not exist."
            )
        name = hashlib.blake2b(os.fsencode(self.root.resolve()), digest_size=8).hexdigest()
        user = os.getuid() if hasattr(os, "getuid") else 0
        with filelock.FileLock(Path(tempfile.gettempdir(), f"wavenet-prepare-{user}-{name}.lock")):
            if self.root.is_dir() and find_audio(self.root):
                return
            logger.info("'%s' holds no audio yet; running %s.", self.root, self.prepare)
            done = subprocess.run(
                [sys.executable, self.prepare, "--out", str(self.root)], check=False
            )
        if done.returncode != 0:
            raise ValueError(
                f"--data.prepare '{self.prepare}' ended with status {done.returncode} (its message is above); "
                f"set that right, or fill '{self.root}' by hand."
            )

    def _cache(self) -> Path:
        if self.cache_dir is not None:
            return Path(self.cache_dir)
        inside = self.root / ".wavenet-cache"
        if os.access(inside if inside.exists() else self.root, os.W_OK):
            return inside
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "wavenet")

    def _locate(self, paths: Sequence[str], missing: Sequence[str]) -> Path:
        """The prepared folder for these files and settings, whether it exists or not."""
        cache = self._cache()
        place = hashlib.blake2b(os.fsencode(self.root.resolve()), digest_size=8).hexdigest()
        digests = digest_files(self.root, paths, cache / f"digests-{place}.json")
        contents = [FORMAT_VERSION, asdict(self.decoding), sorted(digests.items()), sorted(missing)]
        return cache / hashlib.blake2b(json.dumps(contents).encode(), digest_size=16).hexdigest()

    def _report(self, manifest: Mapping[str, Any], fresh: bool) -> None:
        if fresh:
            for entry in manifest["skipped"]:
                logger.warning("Skipped: %s", entry["reason"])
        rates, totals, rate = manifest["rates"], manifest["totals"], self.sample_rate
        others = {hz: count for hz, count in rates.items() if int(hz) != rate}
        if others:
            found = ", ".join(f"{count} at {hz} Hz" for hz, count in others.items())
            logger.info(
                "Resampled %d of %d files to %d Hz: %s.",
                sum(others.values()),
                sum(rates.values()),
                rate,
                found,
            )
        if totals["clipped"]:
            logger.warning(
                "%d samples in %d files lie beyond full scale and were clipped; --data.normalize peak would keep them.",
                *(totals["clipped"], totals["clipped_files"]),
            )
        if self.decoding.trim_silence_db is not None:
            kept, seconds = totals["kept"] / totals["samples"], totals["kept"] / rate
            logger.info(
                "Trimming silence keeps %.1f%% of the audio: %s.", 100 * kept, _clock(seconds)
            )
        logger.info("%s", self._summary(len(manifest["skipped"])))

    def _summary(self, skipped: int) -> str:
        seconds = sum(clip.length for clip in self._clips) / self.sample_rate
        names = ", ".join(f"{name}: {len(values)}" for name, values in self._labels.items())
        count = f"{len(self._labels)} labels" + (f" ({names})" if names else "")
        splits = Counter(clip.split for clip in self._clips)
        shares = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
        total = f"{len(self._clips)} clips, {_clock(seconds)} at {self.sample_rate} Hz"
        return f"{total}, {skipped} skipped, {count}; {shares}."

    def setup(self, stage: str | None = None) -> None:
        """Open the prepared codes, preparing them first where that was not done."""
        if self._folder is not None:
            return
        paths, missing, metadata = self._list()
        folder = self._locate(paths, missing)
        if folder.exists():
            self._open(folder, metadata)
        else:
            self.prepare_data()

    def _open(self, folder: Path, metadata: Metadata | None) -> None:
        entries = read_manifest(folder)["clips"]
        paths = [entry["path"] for entry in entries]
        labels, splits = self._label(paths, metadata), self._split(paths, metadata)
        names = sorted({name for values in labels.values() for name in values})
        self._clips = [
            Clip(**entry, split=splits[entry["path"]], labels=labels[entry["path"]])
            for entry in entries
        ]
        self._labels = {
            name: sort_categories(values[name] for values in labels.values()) for name in names
        }
        self._folder = folder

    # What it offers

    @property
    def labels(self) -> dict[str, list[str]]:
        """Label names and their categories over all splits, in the order that the indices in batches count."""
        self.setup()
        return self._labels

    def clips(self, split: str) -> list[Clip]:
        """The clips of one split, sorted by path. ValueError, saying what to change, if there are none."""
        if split not in SPLITS:
            raise ValueError(f"There is no split '{split}'; it is one of {', '.join(SPLITS)}.")
        self.setup()
        clips = [clip for clip in self._clips if clip.split == split]
        if not clips:
            raise ValueError(self._empty_message(split))
        return clips

    def _empty_message(self, split: str) -> str:
        counts = Counter(clip.split for clip in self._clips)
        found = ", ".join(f"{name}: {counts[name]}" for name in SPLITS)
        pattern = {
            "train": "--data.val_pattern and --data.test_pattern, which take",
            "val": "--data.val_pattern, which takes",
        }
        remedy = (
            f"Change {pattern.get(split, '--data.test_pattern, which takes')} clips by their path"
        )
        if split == "val" and self.val_pattern is None:
            remedy = f"Set --data.val_fraction (now {self.val_fraction}) higher, set --data.val_pattern, or add clips"
        if split == "test" and self.test_pattern is None:
            remedy = "Set --data.test_pattern to an expression that matches the test clips' paths"
        if self.metadata is not None:
            remedy += f", or give lines of '{self.metadata}' the split {split}"
        return f"The split '{split}' has no clips ({found}). {remedy}."

    @property
    def clip_length(self) -> dict[str, Any]:
        """How long the training clips are, by their labels: see `wavenet.conditioning.durations`. The silence behind them counts."""
        table = self.table("train")
        lengths = torch.from_numpy(table.lengths + self._tail)
        return fit_clip_length(
            lengths,
            {name: torch.from_numpy(ids) for name, ids in table.labels.items()},
            self.labels,
        )

    @property
    def _tail(self) -> int:
        return round(self.trailing_silence * self.sample_rate)

    def codes(self, clip: Clip) -> np.ndarray:
        """The codes of one clip: (length,) uint8, read-only, mapped from the file."""
        self.setup()
        assert self._folder is not None
        return np.memmap(
            self._folder / "codes.u8", np.uint8, "r", clip.offset, (clip.length,)
        ).view(np.ndarray)

    def num_samples(self, split: str) -> int:
        """Samples of a split, all clips together."""
        return sum(clip.length for clip in self.clips(split))

    def table(self, split: str) -> ClipTable:
        """The clips of a split as arrays."""
        clips = self.clips(split)
        assert self._folder is not None
        index = {
            name: {value: number for number, value in enumerate(values)}
            for name, values in self._labels.items()
        }
        return ClipTable(
            self._folder / "codes.u8",
            np.array([clip.offset for clip in clips]),
            np.array([clip.length for clip in clips]),
            {
                name: np.array([numbers[clip.labels[name]] for clip in clips])
                for name, numbers in index.items()
            },
        )

    def batches(
        self, split: str = "train", *, receptive_field: int, rank: int = 0, world_size: int = 1
    ) -> CropBatches:
        """Crops of a split, without a trainer; item b is a whole batch."""
        shape = (receptive_field, self.crop_samples, self.batch_size)
        return CropBatches(
            self.table(split), *shape, self.seed, rank, world_size, self._tail, self.label_dropout
        )

    def whole_clips(self, split: str, rank: int = 0, world_size: int = 1) -> ClipBatches:
        """Whole clips of a split, without a trainer; item b is a whole batch. ValueError if a process gets none."""
        table = self.table(split)
        if len(table) < world_size:
            raise ValueError(
                f"The split '{split}' has {len(table)} clips for {world_size} processes; "
                "use fewer devices, or move more clips to that split."
            )
        return ClipBatches(table, self.val_batch_size, rank, world_size)

    # What Lightning asks for

    def train_dataloader(self) -> DataLoader[Batch]:
        """Crops from where the trainer stands. An epoch is the whole run where max_steps is set, otherwise one pass."""
        dataset = self.batches("train", receptive_field=self._receptive_field(), **self._share())
        return self._loader(dataset, self._sampler(len(dataset)))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Whole validation clips, this process's share."""
        return self._loader(self.whole_clips("val", **self._share()))

    def test_dataloader(self) -> DataLoader[Batch]:
        """Whole test clips, this process's share."""
        return self._loader(self.whole_clips("test", **self._share()))

    def _loader(
        self, dataset: Dataset[Batch], sampler: Sampler[int] | None = None
    ) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_size=None,  # an item is a batch already
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _receptive_field(self) -> int:
        if self.trainer is not None and self.trainer.lightning_module is not None:
            return cast(int, self.trainer.lightning_module.receptive_field)
        if self.receptive_field is None:
            raise ValueError(
                "Without a trainer, set the data module's receptive_field (samples) first."
            )
        return self.receptive_field

    def _share(self) -> dict[str, int]:
        trainer = self.trainer
        if trainer is None:
            return {"rank": 0, "world_size": 1}
        connector = getattr(trainer, "_accelerator_connector", None)
        if trainer.world_size > 1 and getattr(connector, "use_distributed_sampler", False):
            raise ValueError(
                "This data module shares clips out among the processes itself; "
                "set --trainer.use_distributed_sampler false, so that Lightning does not do so again."
            )
        return {"rank": trainer.global_rank, "world_size": trainer.world_size}

    def _sampler(self, one_pass: int) -> ResumableSampler:
        trainer = self.trainer
        if trainer is None:
            return ResumableSampler(one_pass, lambda: 0)
        together = trainer.accumulate_grad_batches
        length = trainer.max_steps * together if trainer.max_steps > 0 else one_pass
        return ResumableSampler(
            length, lambda: _batches_done(trainer.global_step, length, together)
        )


def _batches_done(steps: int, length: int, together: int) -> int:
    """Batches that `steps` optimizer steps took: `together` each, but an epoch's last step takes what is left of it."""
    epochs, rest = divmod(steps, math.ceil(length / together))
    return epochs * length + rest * together


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
