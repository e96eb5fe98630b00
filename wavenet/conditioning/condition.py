"""Owns `Condition`: all that an engine knows of what steers a model, whatever it was made from.

Shapes: B batch, D condition channels, F frames, T time.
"""

from collections.abc import Callable, Iterator
from math import gcd
from typing import NamedTuple, Protocol, Self

from torch import Tensor, cat

FrameSource = Callable[[int, int], Tensor]  # first frame, count -> features (B, D, count)


class Condition(NamedTuple):
    """Features, each frame of which holds for `hop` samples.

    Do not write to features that an engine was given: it keeps what it made of them. Make a new
    condition instead.

        hop 4, offset 1:   frame     0       1       2
                           sample    0 1 2 | 3 4 5 6 | 7 ...   one sample of frame 0 has gone by

    features: (B, D, F).
    hop: samples of a frame; 0: the one frame holds for ever.
    offset: samples of the first frame that lie before the next sample, 0 <= offset < hop.
    """

    features: Tensor
    hop: int = 0
    offset: int = 0

    def over(self, samples: int) -> Tensor:
        """The features of each of the next samples, (B, D, samples); (B, D, 1) for hop 0."""
        self.require(samples)
        if self.hop == 0:
            return self.features
        here = self.first(samples).features
        each = here if self.hop == 1 else here.repeat_interleave(self.hop, -1)
        return each[..., self.offset : self.offset + samples]

    def require(self, samples: int) -> None:
        """Raises ValueError for another shape, and where the frames end before so many samples."""
        if self.features.dim() != 3:
            raise ValueError(
                "A condition's features are (batch, channels, frames), but got "
                f"{tuple(self.features.shape)}."
            )
        frames = self.features.shape[-1]
        if self.hop == 0 and (frames != 1 or self.offset):
            raise ValueError(
                f"A condition with hop 0 is one frame that holds for ever, but it has {frames} "
                f"frames and offset {self.offset}. Give hop, the samples of a frame."
            )
        if self.hop == 0:
            return
        if not 0 <= self.offset < self.hop:
            raise ValueError(
                f"offset must lie in 0..{self.hop - 1}, the samples of a frame, but got "
                f"{self.offset}."
            )
        here = frames_of(samples, self.hop, self.offset)
        if frames < here:
            raise ValueError(
                f"{samples} samples from sample {self.offset} of a frame on reach over {here} "
                f"frames of {self.hop}, but the condition has {frames}. Give as many frames as the "
                "samples need."
            )

    def first(self, samples: int) -> Self:
        """The same, without frames that the next samples do not reach; itself for hop 0."""
        if self.hop == 0:
            return self
        frames = frames_of(samples, self.hop, self.offset)
        return type(self)(self.features[..., :frames], self.hop, self.offset)

    def after(self, samples: int) -> Self:
        """What steers the samples behind the next so many."""
        if self.hop == 0:
            return self
        gone, offset = divmod(self.offset + samples, self.hop)
        return type(self)(self.features[..., gone:], self.hop, offset)

    def pieces(self, samples: int, frames: int) -> Iterator[tuple[int, int, Self]]:
        """Cuts the next `samples` samples into pieces of at most `frames` frames.

        Yields (start, stop, condition) for each piece.
        """
        if self.hop == 0:
            yield 0, samples, self  # itself: engines see that they have projected it
            return
        start, rest = 0, self
        while start < samples:
            stop = min(samples, start + frames * self.hop - rest.offset)
            yield start, stop, rest.first(stop - start)
            start, rest = stop, rest.after(stop - start)


def frames_of(samples: int, hop: int, offset: int) -> int:
    """How many frames so many samples reach over; 1 for hop 0."""
    return -(-(offset + samples) // hop) if hop else 1


class Timeline(Protocol):
    """What steers clips that begin together, from their first sample on."""

    def between(self, start: int, stop: int) -> Condition | None:
        """The condition of the clips' samples start to stop - 1; None: nothing steers them."""
        ...


class Given:
    """A condition that was made beforehand, of the clips' first sample and on."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition

    def between(self, start: int, stop: int) -> Condition | None:
        return self._condition.after(start).first(stop - start)


class Source(NamedTuple):
    """What makes condition features piece by piece: memory for the piece alone.

    frames: first frame, count -> features (B, D, count).
    hop: samples of a frame.
    """

    frames: FrameSource
    hop: int

    def between(self, start: int, stop: int, hop: int) -> Tensor:
        """Features of the samples start to stop - 1, whole multiples of `hop`, one each `hop`."""
        first, each = start // self.hop, self.hop // hop
        features = self.frames(first, -(-stop // self.hop) - first)
        if each > 1:
            features = features.repeat_interleave(each, -1)
        skipped = (start - first * self.hop) // hop
        return features[..., skipped : skipped + (stop - start) // hop]


class Made:
    """Conditions made piece by piece.

    constant: (B, D, 1), of labels and of whatever else holds for the whole clip; None: nothing.
    added: features (B, D, ...) that are added to it, of the position for instance.
    beside: features (B, E, ...) that stand behind both, of mel for instance.
    """

    def __init__(
        self, constant: Tensor | None, added: Source | None = None, beside: Source | None = None
    ) -> None:
        self._constant, self._added, self._beside = constant, added, beside
        self._hop = gcd(*(source.hop for source in (added, beside) if source is not None))
        self._held = None if constant is None else Condition(constant)

    def between(self, start: int, stop: int) -> Condition | None:
        if not self._hop:
            return self._held  # one object for all pieces: engines project it once
        first, last = start // self._hop * self._hop, -(-stop // self._hop) * self._hop
        features = self._constant
        if self._added is not None:
            placed = self._added.between(first, last, self._hop)
            features = placed if features is None else placed + features
        if self._beside is not None:
            more = self._beside.between(first, last, self._hop)
            features = more if features is None else beside(features, more)
        assert features is not None
        return Condition(features, self._hop, start - first)


def beside(features: Tensor, more: Tensor) -> Tensor:
    """Features (B, D, X) and (B, E, Y) of the same time -> (B, D + E, ...); one frame is held."""
    frames = max(features.shape[-1], more.shape[-1])
    return cat([features.expand(-1, -1, frames), more.expand(-1, -1, frames)], dim=1)
