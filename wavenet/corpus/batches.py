"""Owns the way from prepared 16-bit PCM to batches of samples: cropping, encoding, order, padding.

Knows nothing of files' names, labels' names or models: of a network it knows the receptive field
and the output, which encodes. Every batch is a pure function of (settings, seed, batch number,
rank), so that a resumed run reads what the uninterrupted one would have read, whatever the number
of workers.

Shapes: B rows of a batch, W targets of a row. A row holds W + 1 samples; its inputs are row[:-1],
its targets row[1:].
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from wavenet.conditioning import NO_LABEL
from wavenet.corpus.checks import require_positive
from wavenet.corpus.decoding import PCM
from wavenet.outputs import Output

LEVELS = 1 << 16  # of 16-bit audio
FULL_SCALE = 1 << 15  # the level of 1.0
POOL_BATCHES = 32  # batches whose clips are sorted by length together
WIDTH_MULTIPLE = 256  # training rows come in few distinct widths, for torch.compile
LARGEST_BATCH = 1 << 31  # samples
LARGEST_PASS = 100_000_000  # crops
LARGEST_MESSAGE = 1 << 19  # bytes of samples; more are faster through a shared file
SAMPLE_TYPES = (np.uint8, np.int8, np.int16, np.int32, np.int64)  # the smallest first

# "codes": (B, W + 1) uint8 for mu-law, "scored": (B, 2) int64, "labels": {name: (B,) int64},
# "position": (B, 2) int64, each row's first target by its place in the clip, and the clip's
# samples; with `Framing`, "audio": (B, before + whole frames over W + after) int16
Batch = dict[str, Any]


@dataclass(frozen=True)
class Encoder:
    """16-bit audio to an output's samples, by a table of what it makes of each level.

    The table is made when it is first used and is never pickled: each process makes its own.
    """

    output: Output

    def __getstate__(self) -> dict[str, Any]:
        return {"output": self.output}

    @cached_property
    def table(self) -> np.ndarray:
        """(65536,): the sample of level i at table[i], from the end for i < 0, as NumPy counts."""
        levels = torch.arange(LEVELS)
        levels[FULL_SCALE:] -= LEVELS
        samples = self.output.encode(levels.float() / FULL_SCALE).numpy()
        ends = (samples.min(), samples.max(), self.output.silence)
        return samples.astype(
            next(
                kind
                for kind in SAMPLE_TYPES
                if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max
            )
        )

    def encode(self, levels: np.ndarray) -> np.ndarray:
        """(T,) int16 -> (T,) samples of the table's type."""
        samples = np.empty(len(levels), self.table.dtype)
        self.encode_into(levels, samples)
        return samples

    def encode_into(self, levels: np.ndarray, samples: np.ndarray) -> None:
        """The same, into `samples`. Levels count as unsigned: NumPy's fastest way to take."""
        np.take(self.table, levels.view("<u2"), out=samples, mode="wrap")


@dataclass(frozen=True)
class Framing:
    """16-bit audio that comes with each row, for features that are made of it frame by frame.

    hop: samples of a frame; a row's first target begins one, counted from the clip's beginning.
    before, after: samples of the clip that come before a row's first frame and behind its last.
    """

    hop: int
    before: int
    after: int


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

    def __init__(self, table: ClipTable, encoder: Encoder, framing: Framing | None = None) -> None:
        self.table, self.encoder, self.framing = table, encoder, framing
        self.lengths = table.lengths  # of the clips, with what silence counts as their own
        self._audio: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_audio": None}  # a map would be pickled as the whole file

    def _assemble(
        self, clips: np.ndarray, spans: np.ndarray, unscored: np.ndarray, multiple: int
    ) -> Batch:
        """Rows whose targets are clip[start:stop), the first `unscored` of them context.

        Args:
            clips: (B,) rows of the table.
            spans: (B, 2) start and stop in the clip.
            unscored: (B,) targets at the row's beginning that lack context.
            multiple: W is rounded up to it.
        """
        starts, widths = spans[:, 0], spans[:, 1] - spans[:, 0]
        width = math.ceil(int(widths.max()) / multiple) * multiple
        labels = {name: values[clips] for name, values in self.table.labels.items()}
        batch = {
            "codes": torch.from_numpy(self._cut(clips, spans, width)),
            "scored": torch.from_numpy(np.stack([unscored, widths], axis=1)),
            "position": torch.from_numpy(np.stack([starts, self.lengths[clips]], axis=1)),
            "labels": {name: torch.from_numpy(ids) for name, ids in labels.items()},
        }
        if self.framing is not None:
            batch["audio"] = torch.from_numpy(self._beside(clips, starts, width, self.framing))
        return batch

    def _beside(
        self, clips: np.ndarray, starts: np.ndarray, width: int, framing: Framing
    ) -> np.ndarray:
        """(B, ...) int16 of the clips around the rows' frames, zeros outside the clips."""
        long = framing.before + math.ceil(width / framing.hop) * framing.hop + framing.after
        rows = np.zeros((len(clips), long), np.int16)
        lengths, offsets = self.table.lengths[clips].tolist(), self.table.offsets[clips].tolist()
        firsts = (starts - framing.before).tolist()
        for row, first, length, offset in zip(rows, firsts, lengths, offsets, strict=True):
            start, stop = max(0, first), min(length, first + long)
            if stop > start:
                row[start - first : stop - first] = self._pcm[offset + start : offset + stop]
        return rows

    @property
    def _pcm(self) -> np.ndarray:
        """All prepared audio, opened in the process that reads it."""
        if self._audio is None:
            self._audio = np.memmap(self.table.audio_path, PCM, "r").view(np.ndarray)
        return self._audio

    def _cut(self, clips: np.ndarray, spans: np.ndarray, width: int) -> np.ndarray:
        """(B, width + 1) samples; silence before the clip, behind it, and as padding.

        clip       ... c-1 |  c   c+1  ...  e-1 | ...      c = start, e = stop
        row            c-1    c   c+1  ...  e-1   padding  with silence for c-1 where c = 0
        inputs         c-1    c   c+1  ...                 target j comes from inputs 0..j
        """
        silence, kind = self.encoder.output.silence, self.encoder.table.dtype
        rows = np.full((len(clips), width + 1), silence, kind)
        ends = np.minimum(spans[:, 1], self.table.lengths[clips])  # a span may go on into silence
        offsets, starts = self.table.offsets[clips].tolist(), spans[:, 0].tolist()
        for row, offset, start, end in zip(rows, offsets, starts, ends.tolist(), strict=True):
            first = int(start == 0)  # before the clip's beginning there is no sample
            if end >= start:
                levels = self._pcm[offset + start - 1 + first : offset + end]
                self.encoder.encode_into(levels, row[first : end - start + 1])
        return rows


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
        encoder: Of the output whose samples the rows hold.
        receptive_field: Input samples one output depends on.
        crop_samples: Scored samples per row; a row from the clip's beginning scores its context
            as well.
        batch_size: Rows.
        seed: Decides orders and crops.
        rank: This process's number.
        world_size: Processes that share the batches.
        tail: Samples of silence behind each clip that count as its own.
        label_dropout: Share of the rows that are left without labels.
        framing: Of features that are made of the audio: rows begin with a frame.
    """

    def __init__(
        self,
        table: ClipTable,
        encoder: Encoder,
        receptive_field: int,
        crop_samples: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        tail: int = 0,
        label_dropout: float = 0.0,
        framing: Framing | None = None,
    ) -> None:
        super().__init__(table, encoder, framing)
        require_positive(
            receptive_field=receptive_field, crop_samples=crop_samples, batch_size=batch_size
        )
        self.lengths, self.label_dropout = table.lengths + tail, label_dropout
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
        spans, unscored = self._crops(clips, number)
        batch = self._assemble(clips, spans, unscored, WIDTH_MULTIPLE)
        if self.label_dropout:
            batch["labels"] = self._without_some(batch["labels"], number)
        return batch

    def _without_some(self, labels: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """The labels, all those of a row left out together."""
        drawn = np.random.default_rng([self.seed, 2, number]).random(self.batch_size)
        labelled = torch.from_numpy(drawn >= self.label_dropout)
        return {name: ids.where(labelled, NO_LABEL) for name, ids in labels.items()}

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

    def _crops(self, clips: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(B, 2) spans and (B,) unscored targets.

        Target j, clip position c + j, needs the receptive_field inputs up to position c + j - 1,
        the first row input being c - 1. The prediction is exact from j = receptive_field - 1 on.
        So, for s to be the first scored sample, the row starts at c = s - (receptive_field - 1), or
        at the beginning of that sample's frame.
        """
        lengths = self.lengths[clips]
        room = np.maximum(lengths - self.crop_samples, 0)
        drawn = np.random.default_rng([self.seed, 1, number]).random(len(clips))
        scored = (drawn * (room + 1)).astype(np.int64)  # s, uniform over 0..room
        starts = np.maximum(scored - (self.receptive_field - 1), 0)
        if self.framing is not None:
            starts -= starts % self.framing.hop
        stops = np.minimum(scored + self.crop_samples, lengths)
        unscored = np.where(starts == 0, 0, scored - starts)
        return np.stack([starts, stops], axis=1), unscored


class ClipBatches(_RowDataset):
    """Whole clips, everything scored, by length; no clip comes twice over all processes.

    Args: as those of `CropBatches`.
    """

    def __init__(
        self,
        table: ClipTable,
        encoder: Encoder,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        framing: Framing | None = None,
    ) -> None:
        super().__init__(table, encoder, framing)
        self.order = np.argsort(table.lengths, kind="stable")[rank::world_size]
        rows, longest = min(batch_size, len(self.order)), int(table.lengths.max())
        _refuse_large_batch(rows, longest, "lower --data.val_batch_size")
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches, but got the index {index}.")
        clips = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        spans = np.stack([np.zeros_like(clips), self.table.lengths[clips]], axis=1)
        return self._assemble(clips, spans, np.zeros_like(clips), multiple=1)


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
