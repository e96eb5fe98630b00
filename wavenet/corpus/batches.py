"""Owns the way from prepared 16-bit PCM to batches of it: cropping, order, padding, workers.

Knows nothing of files' names, labels' names, models or what they make of the audio: of a network it
knows the receptive field and, where features are made of the audio frame by frame, their framing.
Every batch is a pure function of (settings, seed, batch number, rank), so that a resumed run reads
what the uninterrupted one would have read, whatever the number of workers.

Shapes: B rows of a batch, W targets of a row. A row holds the sample before its first target, its
targets, and what a framing asks for around these.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from wavenet.conditioning import NO_LABEL
from wavenet.corpus.augmenting import UNAUGMENTED, Augment, Change
from wavenet.corpus.checks import require_positive
from wavenet.corpus.decoding import PCM

FULL_SCALE = 1 << 15  # the level of 1.0
POOL_BATCHES = 32  # batches whose clips are sorted by length together
WIDTH_MULTIPLE = 256  # training rows come in few distinct widths, for torch.compile
LARGEST_BATCH = 1 << 31  # samples
LARGEST_PASS = 100_000_000  # crops
LARGEST_MESSAGE = 1 << 20  # bytes of samples; more are faster through a shared file

# "audio": (B, before + W + after) int16, see `Framing`; "scored": (B, 2) int64, the range of the
# targets that have their whole context; "labels": {name: (B,) int64}; "position": (B, 2) int64, the
# place of the first target in its clip, and the clip's samples; of scaled clips, "extremes": (B, 2)
# int16, the lowest and the highest sample of the whole clip
Batch = dict[str, Any]


@dataclass(frozen=True)
class Framing:
    """What a row holds around its targets, and where these may begin and end.

    hop: samples of a frame; a row's first target begins one, counted from the clip's beginning,
        and its targets, with padding, are whole frames.
    before, after: samples of the clip that come before a row's first target, at least the one that
        it is predicted from, and behind its last.
    """

    hop: int = 1
    before: int = 1
    after: int = 0


PLAIN = Framing()  # the sample before the first target, and the targets


@dataclass(frozen=True)
class Scoring:
    """How clips are scored, where it is not as they are and from the zero state.

    scaled: batches tell each clip's lowest and highest sample, to be scaled by.
    silence: samples of silence that are read before a clip's first sample, which is predicted from
        them alone; 0: none but the one that a zero state begins with.
    """

    scaled: bool = False
    silence: int = 0

    @property
    def first(self) -> int:
        """Where in a clip the targets of its first row begin."""
        return min(0, 1 - self.silence)


AS_THEY_ARE = Scoring()


@dataclass(frozen=True)
class ClipTable:
    """Clips of one prepared file as arrays, light to send to a worker process."""

    audio_path: Path  # 16-bit PCM
    offsets: np.ndarray  # (N,) int64, in samples
    lengths: np.ndarray  # (N,) int64, in samples
    labels: dict[str, np.ndarray]  # category indices, (N,) int64 each

    def __len__(self) -> int:
        return len(self.offsets)


class _RowDataset(Dataset[Batch]):
    """Cuts rows out of a prepared file. Each process that reads opens the map for itself."""

    def __init__(self, table: ClipTable, framing: Framing, scoring: Scoring) -> None:
        self.table, self.framing, self.scoring = table, framing, scoring
        self._audio: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_audio": None}  # a map would be pickled as the whole file

    def _assemble(
        self,
        clips: np.ndarray,
        lengths: np.ndarray,
        spans: np.ndarray,
        unscored: np.ndarray,
        multiple: int,
        changes: Sequence[Change] | None = None,
    ) -> Batch:
        """Rows whose targets are clip[start:stop), the first `unscored` of them context.

        Args:
            clips: (B,) rows of the table.
            lengths: (B,) of the clips, with what silence counts as their own.
            spans: (B, 2) start and stop in the clip.
            unscored: (B,) targets at the row's beginning that lack context.
            multiple: W is rounded up to the whole frames that hold a multiple of it.
            changes: of the clips, one each; None: they are as they are.
        """
        starts, widths = spans[:, 0], spans[:, 1] - spans[:, 0]
        unit = math.ceil(multiple / self.framing.hop) * self.framing.hop
        width = math.ceil(int(widths.max()) / unit) * unit
        labels = {name: values[clips] for name, values in self.table.labels.items()}
        extremes = {"extremes": self._extremes(clips)} if self.scoring.scaled else {}
        return {
            "audio": torch.from_numpy(self._cut(clips, starts, width, changes)),
            "scored": torch.from_numpy(_pairs(unscored, widths)),
            "position": torch.from_numpy(_pairs(starts, lengths)),
            "labels": {name: torch.from_numpy(ids) for name, ids in labels.items()},
            **extremes,
        }

    def _extremes(self, clips: np.ndarray) -> Tensor:
        """(B, 2) int16, of the whole clips."""
        offsets, ends = self.table.offsets[clips], (self.table.offsets + self.table.lengths)[clips]
        audio = [self._pcm[start:end] for start, end in zip(offsets, ends, strict=True)]
        return torch.tensor([[clip.min(), clip.max()] for clip in audio], dtype=torch.int16)

    @property
    def _pcm(self) -> np.ndarray:
        """All prepared audio, opened in the process that reads it."""
        if self._audio is None:
            self._audio = np.memmap(self.table.audio_path, PCM, "r").view(np.ndarray)
        return self._audio

    def _cut(
        self,
        clips: np.ndarray,
        starts: np.ndarray,
        width: int,
        changes: Sequence[Change] | None,
    ) -> np.ndarray:
        """(B, before + width + after) int16; silence, which is 0, before a clip and behind it.

        clip       ... c-1 |  c   c+1  ...                 c = start; with before = 1, after = 0:
        row            c-1    c   c+1  ...                 0 for c-1 where c = 0
        targets               c   c+1  ...                 target j comes from the samples before it
        """
        long, pcm = self.framing.before + width + self.framing.after, self._pcm
        firsts = starts - self.framing.before
        if changes is not None:
            return self._changed(clips, firsts, long, changes)
        ends, offsets = self.table.lengths[clips] - firsts, self.table.offsets[clips]
        if firsts.min() >= 0 and ends.min() >= long:  # the usual case, at once
            every = np.ndarray((len(pcm) - long + 1, long), PCM, pcm, strides=pcm.strides * 2)
            return every[offsets + firsts]
        rows = np.zeros((len(clips), long), PCM)
        spans = zip(rows, offsets.tolist(), firsts.tolist(), ends.tolist(), strict=True)
        for row, offset, first, end in spans:
            start, stop = max(0, -first), max(0, min(end, long))
            if start < stop:
                row[start:stop] = pcm[offset + first + start : offset + first + stop]
        return rows

    def _changed(
        self, clips: np.ndarray, firsts: np.ndarray, long: int, changes: Sequence[Change]
    ) -> np.ndarray:
        """As `_cut`, of changed clips: `long` samples of each from `firsts` on."""
        offsets, ends = self.table.offsets[clips], (self.table.offsets + self.table.lengths)[clips]
        where = zip(offsets.tolist(), ends.tolist(), firsts.tolist(), changes, strict=True)
        return np.stack(
            [change.cut(self._pcm[begin:end], first, long) for begin, end, first, change in where]
        )


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(B,), (B,) -> (B, 2) int64; np.stack takes five times as long."""
    pairs = np.empty((len(first), 2), np.int64)
    pairs[:, 0], pairs[:, 1] = first, second
    return pairs


def _refuse_large_batch(rows: int, samples: int, remedy: str) -> None:
    if rows * samples > LARGEST_BATCH:
        raise ValueError(
            f"A batch of {rows} rows of up to {samples:,} samples is {rows * samples:,} samples, "
            f"but at most {LARGEST_BATCH:,} are possible; {remedy}."
        )


class CropBatches(_RowDataset):
    """Training batches: item b is a whole batch, a function of (seed, b, rank, world_size) alone.

    Any b >= 0 will do. One pass takes every clip ceil(length / crop_samples) times, in an order of
    its own; `len` is one process's batches of a pass, and numbers beyond it go on with the next
    pass. Rows hold `receptive_field - 1` unscored samples of real context, or begin at the clip's
    beginning, where silence is the exact context and everything is scored.

    Args:
        table: The clips.
        receptive_field: Input samples one output depends on.
        crop_samples: Scored samples per row; a row from the clip's beginning scores its context
            as well.
        batch_size: Rows.
        seed: Decides orders and crops.
        rank: This process's number.
        world_size: Processes that share the batches.
        tail: Samples of silence behind each clip that count as its own.
        label_dropout: Share of the rows that are left without labels.
        framing: What rows hold around their targets.
        scoring: How clips are scored.
        label_dropout_each: Share of the rows that are left without a label, for each label by
            itself.
        augment: How clips are changed. A pass takes each as often as if none were.
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
        framing: Framing = PLAIN,
        scoring: Scoring = AS_THEY_ARE,
        label_dropout_each: float = 0.0,
        augment: Augment = UNAUGMENTED,
    ) -> None:
        super().__init__(table, framing, scoring)
        require_positive(
            receptive_field=receptive_field, crop_samples=crop_samples, batch_size=batch_size
        )
        self.lengths, self.tail, self.augment = table.lengths + tail, tail, augment
        self.label_dropout, self.label_dropout_each = label_dropout, label_dropout_each
        self.receptive_field, self.crop_samples = receptive_field, crop_samples
        self.batch_size = batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        crops = -(-self.lengths // crop_samples)
        self._check_sizes(int(crops.sum()))
        self._units = np.repeat(np.arange(len(table)), crops)
        self._batches = math.ceil(len(self._units) / batch_size)  # of a pass, over all processes
        self._planned: tuple[int, np.ndarray] | None = None

    def _check_sizes(self, crops: int) -> None:
        if crops > LARGEST_PASS:
            raise ValueError(
                f"--data.crop_samples {self.crop_samples} cuts the training clips into {crops:,} "
                f"crops, but at most {LARGEST_PASS:,} are possible; set it higher."
            )
        widest = min(self.crop_samples + self.receptive_field - 1, int(self.lengths.max()))
        _refuse_large_batch(
            self.batch_size, widest, "lower --data.batch_size or --data.crop_samples"
        )

    def __len__(self) -> int:
        return math.ceil(self._batches / self.world_size)

    def __getitem__(self, index: int) -> Batch:
        if index < 0:
            raise IndexError(f"Training batches are numbered from 0, but got {index}.")
        number = index * self.world_size + self.rank
        clips = self._plan(number // self._batches)[number % self._batches]
        changes, lengths = self._changes(clips, number)
        spans, unscored = self._crops(lengths, number)
        batch = self._assemble(clips, lengths, spans, unscored, WIDTH_MULTIPLE, changes)
        if self.label_dropout or self.label_dropout_each:
            batch["labels"] = self._without_some(batch["labels"], number)
        return batch

    def _changes(
        self, clips: np.ndarray, number: int
    ) -> tuple[Sequence[Change] | None, np.ndarray]:
        """How the clips are changed, and their lengths (B,) after that, with the tail."""
        if not self.augment:
            return None, self.lengths[clips]
        changes = self.augment.drawn(np.random.default_rng([self.seed, 3, number]), len(clips))
        plain = self.table.lengths[clips].tolist()
        lengths = [change.length(samples) for change, samples in zip(changes, plain, strict=True)]
        return changes, np.array(lengths) + self.tail

    def _without_some(self, labels: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """The labels but for those that are left out, all of a row together or one by itself."""
        together, each = (np.random.default_rng([self.seed, key, number]) for key in (2, 4))
        kept, shape = together.random(self.batch_size) >= self.label_dropout, (len(labels), -1)
        drawn = each.random(len(labels) * self.batch_size).reshape(shape)
        labelled = torch.from_numpy(kept & (drawn >= self.label_dropout_each))
        pairs = zip(labels.items(), labelled, strict=True)
        return {name: ids.where(told, NO_LABEL) for (name, ids), told in pairs}

    def _plan(self, number: int) -> np.ndarray:
        """(batches, B) clips of one pass: shuffled, then like lengths together within pools."""
        if self._planned is None or self._planned[0] != number:
            rng = np.random.default_rng([self.seed, 0, number])
            whole = self._batches * self.batch_size  # more than the units, where the last is short
            units = np.resize(rng.permutation(self._units), whole)
            pool = POOL_BATCHES * self.batch_size
            pools = np.split(units, range(pool, len(units), pool))
            self._planned = (number, np.concatenate([self._arrange(pool, rng) for pool in pools]))
        return self._planned[1]

    def _arrange(self, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lengths = np.minimum(self.lengths[pool], self.crop_samples)
        batches = pool[np.argsort(lengths, kind="stable")].reshape(-1, self.batch_size)
        return batches[rng.permutation(len(batches))]

    def _crops(self, lengths: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Of clips of these lengths (B,), with their tails: (B, 2) spans, (B,) unscored targets."""
        room = np.maximum(lengths - self.crop_samples, 0)
        drawn = np.random.default_rng([self.seed, 1, number]).random(len(lengths))
        scored = (drawn * (room + 1)).astype(np.int64)  # the first, uniform over 0..room
        starts = _first_targets(scored, self.receptive_field, self.framing, self.scoring)
        stops = np.minimum(scored + self.crop_samples, lengths)
        unscored = np.where((starts == 0) & (self.scoring.first == 0), 0, scored - starts)
        return _pairs(starts, stops), unscored


class ClipBatches(_RowDataset):
    """Whole clips in pieces, each sample scored once with its whole context, by length.

    No piece comes twice over all processes. Where there is more than `most` samples, whole pieces
    are left out, those that stay lying evenly over the clips: what they give is still exact, of a
    part of the audio.

    Args: as those of `CropBatches`, and:
        piece: Most scored samples of a row; None: whole clips.
        most: Samples scored in all; None: all that there are.
    """

    def __init__(
        self,
        table: ClipTable,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        framing: Framing = PLAIN,
        scoring: Scoring = AS_THEY_ARE,
        receptive_field: int = 1,
        piece: int | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__(table, framing, scoring)
        clips, firsts, stops = _pieces(table.lengths, piece or int(table.lengths.max()))
        kept = _spread(stops - firsts, most, world_size)
        order = kept[np.argsort((stops - firsts)[kept], kind="stable")][rank::world_size]
        self.clips, self.scored = clips[order], _pairs(firsts[order], stops[order])
        self.num_pieces = len(kept)  # over all processes, as is num_samples
        self.num_samples = int((stops - firsts)[kept].sum())
        self.starts = _first_targets(self.scored[:, 0], receptive_field, framing, scoring)
        rows, widest = min(batch_size, len(order)), (self.scored[:, 1] - self.starts).max(initial=0)
        _refuse_large_batch(rows, int(widest), "lower --data.val_batch_size")
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.clips) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, but got the index {index}.")
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        starts, (firsts, stops) = self.starts[rows], self.scored[rows].T
        clips, spans = self.clips[rows], _pairs(starts, stops)
        return self._assemble(clips, self.table.lengths[clips], spans, firsts - starts, multiple=1)


def _pieces(lengths: np.ndarray, piece: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip, first sample and end of each piece of at most so many samples, (N,) each."""
    counts = -(-lengths // piece)
    clips = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
    firsts = number * piece
    return clips, firsts, np.minimum(firsts + piece, lengths[clips])


def _spread(sizes: np.ndarray, most: int | None, least: int) -> np.ndarray:
    """Numbers of the pieces that are kept, evenly over all: about `most` samples.

    least: pieces that are kept at least.
    """
    count = len(sizes)
    if most is not None and sizes.sum() > most:
        count = min(count, max(least, int(count * most // sizes.sum())))
    return ((2 * np.arange(count) + 1) * len(sizes)) // (2 * count)


def _first_targets(
    scored: np.ndarray, receptive_field: int, framing: Framing, scoring: Scoring
) -> np.ndarray:
    """Where rows begin, for their first scored samples (B,) to have their whole context.

    Target j, clip position c + j, needs the receptive_field inputs up to position c + j - 1, the
    first row input being c - 1. The prediction is exact from j = receptive_field - 1 on. So the row
    starts at c = scored - (receptive_field - 1), or at the beginning of that sample's frame, or
    with the clip.
    """
    starts = np.maximum(scored - (receptive_field - 1), scoring.first)
    return starts - starts % framing.hop


# --- Through worker processes -----------------------------------------------------------------


class ResumableSampler(Sampler[int]):
    """Batch numbers from where training stands to the end of that epoch.

    Its length is the whole epoch's even when an iteration starts inside: Lightning counts the
    batches done before it.

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


def batch_loader(
    dataset: Dataset[Batch], num_workers: int, sampler: Sampler[int] | None = None
) -> DataLoader[Batch]:
    """A loader whose items are the dataset's batches, cut by `num_workers` processes."""
    return DataLoader(
        dataset,
        batch_size=None,  # an item is a batch already
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_ready_to_send,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _ready_to_send(batch: Any) -> Any:
    return batch if get_worker_info() is None else _Parcel(batch)


class _Parcel:
    """A batch on its way out of a worker process; it arrives as the batch itself.

    Every tensor sent takes a shared file and a connection of its own, about a millisecond. So the
    small tensors go as arrays in the message, and the samples do too until a copy costs more.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        tensors = {
            name: value if value.nbytes > LARGEST_MESSAGE else value.numpy()
            for name, value in self.batch.items()
            if name != "labels"
        }
        return _unpacked, (tensors, {name: x.numpy() for name, x in self.batch["labels"].items()})


def _unpacked(tensors: dict[str, Tensor | np.ndarray], labels: dict[str, np.ndarray]) -> Batch:
    batch: Batch = {name: torch.as_tensor(value) for name, value in tensors.items()}
    return batch | {"labels": {name: torch.from_numpy(ids) for name, ids in labels.items()}}
