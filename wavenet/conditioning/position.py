"""Owns the position in the clip as a condition: how far a clip is, counted from both ends.

Shapes: B batch, D condition channels, F frames, T time.
"""

import torch
from torch import Tensor, nn

FRAMES = 128  # frames with a row of their own, counted from either end of a clip
SHARES = 32  # equal parts of a clip, each with a row of its own


class PositionEmbedding(nn.Module):
    """Where in its clip a sample lies -> condition features (B, D, T).

    A sum of three embeddings: frames since the clip's beginning, frames left to its end, and the
    share that is over. A frame is `hop` samples, counted from the clip's beginning; its features
    hold for all of it. All features are zero at first.
    """

    def __init__(self, hop: int, condition_channels: int) -> None:
        super().__init__()
        self.hop = hop
        self.since = nn.Embedding(FRAMES, condition_channels)  # the last row: so many and more
        self.left = nn.Embedding(FRAMES, condition_channels)
        self.share = nn.Embedding(SHARES, condition_channels)
        for table in (self.since, self.left, self.share):
            nn.init.zeros_(table.weight)

    def forward(self, position: Tensor | None, time: int) -> Tensor:
        """Features of each of `time` samples, (B, D, time).

        position: (B, 2) integers, the place of the first sample in its clip and the samples of the
            clip. Raises ValueError where it is missing or of another shape or type.
        """
        if position is None or not _is_position(position):
            seen = "none" if position is None else f"{tuple(position.shape)} of {position.dtype}"
            raise ValueError(
                "This model is conditioned on where in its clip a sample lies, but got a position "
                f"of {seen}. Give position (batch, 2), integers: the place of the first sample in "
                "its clip, and how many samples the clip has."
            )
        start, length = position[:, :1], position[:, 1:]
        frame = (start + torch.arange(time, device=position.device)) // self.hop  # (B, T)
        return self._features(frame, length)

    def frames(self, lengths: Tensor, first: int, count: int) -> Tensor:
        """Features of the frames `first` and on of clips of so many samples (B,): (B, D, count)."""
        frame = torch.arange(first, first + count, device=self.since.weight.device)
        return self._features(frame.expand(len(lengths), -1), lengths.to(frame.device)[:, None])

    def _features(self, frame: Tensor, length: Tensor) -> Tensor:
        """frame (B, X), length (B, 1) -> (B, D, X)."""
        begin, length = frame * self.hop, length.clamp(min=1)
        left = (length - begin + self.hop - 1) // self.hop
        rows = (
            self.since(frame.clamp(0, FRAMES - 1)),
            self.left(left.clamp(0, FRAMES - 1)),
            self.share((SHARES * begin // length).clamp(0, SHARES - 1)),
        )
        return torch.stack(rows).sum(0).transpose(1, 2)


def _is_position(position: Tensor) -> bool:
    shaped = position.dim() == 2 and position.shape[1] == 2
    return shaped and not position.is_floating_point()


def advanced(position: Tensor | None, samples: int) -> Tensor | None:
    """The position so many samples later; None stays None."""
    return None if position is None else position + position.new_tensor([samples, 0])
