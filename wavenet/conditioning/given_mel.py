"""Owns mel frames as a user gives them: of whole clips, or as they come. Knows nothing of features.

Shapes: B batch, M bands, F frames.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wavenet.conditioning.mel import Mel, require_mel, within_silence


class MelClips:
    """Log mel frames of whole clips, silence around them.

    counts (B,): frames of each clip.
    """

    def __init__(self, mel: Mel, frames: Tensor, counts: Tensor) -> None:
        self._mel, self._frames, self.counts = mel, frames, counts

    def __call__(self, first: int, count: int) -> Tensor:
        """The frames first to first + count - 1, (B, M, count)."""
        return within_silence(self._mel, self._frames, first, count)

    def require(self, lengths: Tensor) -> None:
        """Raises ValueError where a clip of so many samples (B,) has more frames than are given."""
        for length, count in zip(lengths.tolist(), self.counts.tolist(), strict=True):
            if self._mel.frames_of(length) > count:
                raise ValueError(
                    f"The mel spectrogram has {count} frames with a hop of {self._mel.hop}: "
                    f"{count * self._mel.hop} samples, but {length} are to be made of it. Give at "
                    f"least {self._mel.frames_of(length)} frames, or ask for less."
                )


class MelFeed:
    """Log mel frames as they come: asked for in order, and forgotten once they are not needed.

    pieces: of frames (M, n) or (B, M, n). Waits for those that are asked for. Raises ValueError for
    pieces of another shape when they come.
    """

    def __init__(self, mel: Mel, pieces: Iterator[Tensor], batch_size: int) -> None:
        self._mel, self._pieces, self._batch_size = mel, pieces, batch_size
        self._kept = torch.empty(batch_size, mel.bands, 0)
        self._first = 0  # the number of the first frame that is kept
        self._ended = False

    def reach(self, start: int, samples: int) -> int:
        """How many samples from `start` on have frames, at most so many. 0: there are no more."""
        self._wait_for(self._mel.frames_of(start + samples))
        return max(0, min(samples, self._come * self._mel.hop - start))

    def __call__(self, first: int, count: int) -> Tensor:
        """The frames first to first + count - 1, (B, M, count); silence where there are none."""
        self._wait_for(first + count)
        frames = within_silence(self._mel, self._kept, first - self._first, count)
        gone = min(max(0, first - self._first), self._kept.shape[-1])
        self._kept, self._first = self._kept[..., gone:].clone(), self._first + gone
        return frames

    @property
    def _come(self) -> int:
        return self._first + self._kept.shape[-1]

    def _wait_for(self, frames: int) -> None:
        while not self._ended and self._come < frames:
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
                return
            more = _batch_of(self._mel, piece, self._batch_size).float().cpu()
            self._kept = torch.cat([self._kept, more], dim=-1)


def mel_frames(
    mel: Mel, given: Tensor | Sequence[Tensor] | Iterator[Tensor], batch_size: int
) -> MelClips | MelFeed:
    """Frames of a batch from what a user has of them; see `wavenet.stream`.

    Raises ValueError for frames of another shape, of another number of bands, or not finite.
    """
    if isinstance(given, Iterator):
        return MelFeed(mel, given, batch_size)
    return mel_clips(mel, given, batch_size)


def mel_clips(mel: Mel, given: Tensor | Sequence[Tensor], batch_size: int) -> MelClips:
    """The same of whole clips: (M, F) of all, (B, M, F), or a sequence of one (M, F) each."""
    if isinstance(given, Tensor):
        frames = _batch_of(mel, given, batch_size)
        return MelClips(mel, frames, torch.tensor([frames.shape[2]] * batch_size))
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise ValueError(
            "mel must be a tensor of log mel frames, a sequence of one for each clip, or an "
            f"iterator of frames as they come, but got {type(given).__name__}."
        )
    if len(given) != batch_size:
        raise ValueError(
            f"There are {len(given)} mel spectrograms for a batch of {batch_size}: give one for "
            "all as a tensor, or one each."
        )
    each = [_batch_of(mel, frames, 1) for frames in given]
    counts = torch.tensor([frames.shape[2] for frames in each])
    longest = int(counts.max())
    whole = torch.cat([within_silence(mel, frames, 0, longest) for frames in each])
    return MelClips(mel, whole, counts)


def _batch_of(mel: Mel, frames: Tensor, batch_size: int) -> Tensor:
    """(M, F) of all clips or (B, M, F) -> (B, M, F)."""
    if not isinstance(frames, Tensor):
        raise ValueError(f"Log mel frames must be a tensor, but got {type(frames).__name__}.")
    each = frames.unsqueeze(0) if frames.dim() == 2 else frames
    require_mel(mel, each)
    if len(each) not in (1, batch_size) or each.shape[2] == 0:
        raise ValueError(
            f"A mel spectrogram is ({mel.bands}, frames) or ({batch_size}, {mel.bands}, frames) of "
            f"at least one frame for a batch of {batch_size}, but got {tuple(frames.shape)}."
        )
    finite = torch.isfinite(each)
    if not finite.all():
        wrong = int((~finite).any(1).any(0).nonzero()[0])
        raise ValueError(
            f"The mel spectrogram has {int((~finite).sum())} values that are NaN or infinite, the "
            f"first in frame {wrong}. {mel.source} makes frames without them."
        )
    return each.expand(batch_size, -1, -1)
