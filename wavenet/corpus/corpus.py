"""Owns `Corpus`: a root of audio with its settings, prepared once, its clips by split with labels.

Knows nothing of how clips are decoded or cut, or of models.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavenet.conditioning.durations import ClipLength, fit_clip_length
from wavenet.corpus.batches import (
    FULL_SCALE,
    ClipBatches,
    ClipTable,
)
from wavenet.corpus.decoding import PCM, DecodeSettings
from wavenet.corpus.listing import SPLITS, Files, Listing, remedy, sort_categories
from wavenet.corpus.preparing import (
    AUDIO_NAME,
    Manifest,
    cache_of,
    clock,
    locate,
    make_audio,
    prepare_clips,
    read_manifest,
    recall_skipped,
    report_changes,
    report_skipped,
    sweep,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One prepared file: `path` relative to the root, `length` samples from sample `offset` on."""

    path: str
    offset: int
    length: int
    split: str
    labels: Mapping[str, str] = field(hash=False)


class Corpus:
    """A folder of audio as clips of 16-bit PCM with labels and splits.

    Whatever asks for clips opens the prepared audio, and prepares it first where that is not done.

    Args:
        listing: Which files there are, their labels and their splits.
        decoding: Rate, level and trimming of the prepared audio.
        prepare: A prepare.py, run as `python PREPARE --out ROOT` when root holds no audio yet.
        cache_dir: Where prepared audio is kept; None: in the user's cache folder.
    """

    def __init__(
        self,
        listing: Listing,
        decoding: DecodeSettings,
        prepare: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self.listing, self.decoding = listing, decoding
        self.prepare_script, self.cache_dir = prepare, cache_dir
        self._folder: Path | None = None
        self._clips: list[Clip] = []
        self._labels: dict[str, list[str]] = {}

    @property
    def root(self) -> Path:
        return self.listing.root

    @property
    def sample_rate(self) -> int:
        """In Hz, of the prepared audio."""
        return self.decoding.sample_rate

    # Preparing

    def prepare(self) -> None:
        """Decode the audio into the cache, unless that is done, and tell what there is.

        Raises ValueError for settings that do not fit the files, and OSError where writing fails.
        """
        if self._folder is not None:
            return
        if self.prepare_script is not None:
            make_audio(self.root, self.prepare_script)
        files = self.listing.files()
        self.listing.labels(files.paths, files.metadata)  # errors show before hours of decoding
        sweep(self._cache)
        folder = self._locate(files)
        fresh = not folder.exists()
        if fresh:
            prepare_clips(self.root, files.paths, self.decoding, folder)
        self._report(self._open(folder, files), fresh)

    def open(self) -> None:
        """Open the prepared audio, preparing it first where that was not done."""
        if self._folder is not None:
            return
        files = self.listing.files()
        folder = self._locate(files)
        if folder.exists():
            self._open(folder, files)
        else:
            self.prepare()

    @property
    def _cache(self) -> Path:
        return cache_of(self.root, self.cache_dir)

    def _locate(self, files: Files) -> Path:
        return locate(self.root, files.paths, self.decoding, self._cache)

    def _open(self, folder: Path, files: Files) -> Manifest:
        manifest = read_manifest(folder, files.paths, self.decoding)
        entries, metadata = manifest["clips"], files.metadata
        paths = [entry["path"] for entry in entries]
        labels = self.listing.labels(paths, metadata)
        splits = self.listing.splits(paths, metadata)
        names = sorted({name for values in labels.values() for name in values})
        self._clips = [
            Clip(**entry, split=splits[entry["path"]], labels=labels[entry["path"]])
            for entry in entries
        ]
        self._labels = {
            name: sort_categories(values[name] for values in labels.values()) for name in names
        }
        self._folder = folder
        return manifest

    def _report(self, manifest: Manifest, fresh: bool) -> None:
        (report_skipped if fresh else recall_skipped)(manifest)
        report_changes(manifest)
        skipped = len(manifest["skipped"])
        logger.info("%s", _summary(self._clips, self._labels, self.sample_rate, skipped))
        logger.info("prepared audio: %s", self._folder)

    # What it offers

    @property
    def labels(self) -> dict[str, list[str]]:
        """Label names and their categories over all splits, in the order that ids count."""
        self.open()
        return self._labels

    def has(self, split: str) -> bool:
        """Whether the split has clips."""
        return bool(self.of(split))

    def of(self, split: str) -> list[Clip]:
        """The clips of one split, by path; there may be none."""
        self.open()
        return [clip for clip in self._clips if clip.split == split]

    def clips(self, split: str) -> list[Clip]:
        """The clips of one split, by path. Raises ValueError, saying what to change, for none."""
        if split not in SPLITS:
            raise ValueError(f"There is no split '{split}'; it is one of {', '.join(SPLITS)}.")
        clips = self.of(split)
        if not clips:
            counts = _split_sizes(self._clips)
            found = ", ".join(f"{name}: {counts[name]}" for name in SPLITS)
            raise ValueError(
                f"The split '{split}' has no clips ({found}). {remedy(self.listing, split)}."
            )
        return clips

    def num_samples(self, split: str) -> int:
        """Samples of a split, all clips together."""
        return sum(clip.length for clip in self.clips(split))

    @property
    def audio_path(self) -> Path:
        """The prepared file of 16-bit PCM."""
        self.open()
        assert self._folder is not None
        return self._folder / AUDIO_NAME

    def levels(self, clip: Clip) -> np.ndarray:
        """The 16-bit PCM of one clip: (length,) int16, read-only, mapped from the file."""
        start = clip.offset * PCM.itemsize
        return np.memmap(self.audio_path, PCM, "r", start, (clip.length,)).view(np.ndarray)

    def audio(self, clip: Clip) -> np.ndarray:
        """One clip as (length,) float32 in [-1, 1)."""
        return self.levels(clip).astype(np.float32) / np.float32(FULL_SCALE)

    def table(self, split: str) -> ClipTable:
        """The clips of a split as arrays. Raises ValueError if there are none."""
        clips = self.clips(split)
        ids = {
            name: {category: number for number, category in enumerate(categories)}
            for name, categories in self._labels.items()
        }
        return ClipTable(
            self.audio_path,
            np.array([clip.offset for clip in clips]),
            np.array([clip.length for clip in clips]),
            {
                name: np.array([numbers[clip.labels[name]] for clip in clips])
                for name, numbers in ids.items()
            },
        )

    def clip_length(self, tail: int) -> ClipLength:
        """How long training clips are, with `tail` samples behind each, by their labels.

        Raises ValueError if there are no training clips.
        """
        table = self.table("train")
        lengths = torch.from_numpy(table.lengths + tail)
        ids = {name: torch.from_numpy(numbers) for name, numbers in table.labels.items()}
        return fit_clip_length(lengths, ids, self.labels)

    def whole_clips(
        self, split: str, batch_size: int, rank: int = 0, world_size: int = 1, **how: Any
    ) -> ClipBatches:
        """Whole clips of a split; `how` as `ClipBatches` takes it.

        Raises ValueError if a process gets none.
        """
        batches = ClipBatches(self.table(split), batch_size, rank, world_size, **how)
        if batches.num_pieces < world_size:
            raise ValueError(
                f"The split '{split}' has {len(self.table(split))} clips for {world_size} "
                "processes; use fewer devices, or move more clips to that split."
            )
        return batches


def _split_sizes(clips: Sequence[Clip]) -> Counter[str]:
    return Counter(clip.split for clip in clips)


def _summary(
    clips: Sequence[Clip], labels: Mapping[str, Sequence[str]], sample_rate: int, skipped: int
) -> str:
    """One line: clips, time, rate, files skipped, labels; clips by split."""
    seconds = sum(clip.length for clip in clips) / sample_rate
    names = ", ".join(f"{name}: {len(values)}" for name, values in labels.items())
    count = f"{len(labels)} labels" + (f" ({names})" if names else "")
    sizes = _split_sizes(clips)
    shares = ", ".join(f"{split} {sizes[split]}" for split in SPLITS if sizes[split])
    total = f"{len(clips)} clips, {clock(seconds)} at {sample_rate} Hz"
    return f"{total}, {skipped} skipped, {count}; {shares}."
