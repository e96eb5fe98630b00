"""Owns what all outputs over 16-bit levels share: audio to levels and back, and how they are read.

Knows nothing of distributions, models or files.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from wavenet.outputs.protocol import Output, checked_audio, require_tensor

LEVELS = 1 << 16
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
HALF = (LEVELS - 1) / 2  # levels from audio 0 to audio 1, or to -1: audio is (level - HALF) / HALF
MIDDLE = LEVELS // 2  # floor(HALF * audio) + MIDDLE is the level nearest to it


class Levels(Output):
    """65,536 levels: level k is audio -1 + 2k / 65535. A model reads the audio, not the number.

    16-bit PCM, i / 32768, falls on levels one to one, but that its 0 and its 1 share level 32768.
    """

    categorical: ClassVar[bool] = False

    @property
    def levels(self) -> int:
        return LEVELS

    @property
    def silence(self) -> int:
        """The level of audio 0.0; it lies half a step above it."""
        return MIDDLE

    def encode(self, audio: Tensor) -> Tensor:
        """Audio in [-1, 1] (floating point; clipped beyond) -> the nearest levels, int64.

        Raises ValueError for NaN and for audio that is not floating point.
        """
        return nearest_level(checked_audio(audio, type(self).__name__))

    def decode(self, samples: Tensor) -> Tensor:
        """Levels (integers in 0..65535) -> audio, float32, the same shape.

        Raises ValueError for other levels.
        """
        require_tensor(f"{type(self).__name__}.decode", samples)
        seen = f"{samples.dtype}"
        if samples.dtype in INTEGERS:
            samples = samples.to(torch.int64)
            if not samples.numel() or (samples.min() >= 0 and samples.max() < LEVELS):
                return audio_of(samples, torch.float32)
            seen = f"values from {int(samples.min())} to {int(samples.max())}"
        raise ValueError(
            f"{type(self).__name__}.decode takes integer levels in 0..{LEVELS - 1}, but got {seen}."
        )

    def embedding(self, width: int) -> nn.Module:
        """A 1x1 convolution from one channel: levels (...) -> features (..., width)."""
        return LevelEmbedding(width)


def nearest_level(audio: Tensor) -> Tensor:
    """Any audio -> int64 levels; what lies beyond the outermost ones falls on them."""
    return (HALF * audio).floor().clamp(-MIDDLE, MIDDLE - 1).to(torch.int64) + MIDDLE


def audio_of(levels: Tensor, dtype: torch.dtype) -> Tensor:
    return (2 * levels.to(dtype) - (LEVELS - 1)) / (LEVELS - 1)


class LevelEmbedding(nn.Conv1d):
    """Levels (...) -> w audio + b, (..., width), computed in float32 at least."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width, 1)

    def forward(self, levels: Tensor) -> Tensor:
        weight, bias = self.rows
        wide = torch.promote_types(weight.dtype, torch.float32)
        return (audio_of(levels, wide).unsqueeze(-1) * weight.to(wide) + bias.to(wide)).to(weight)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """w and b, (width,) each."""
        assert self.bias is not None
        return self.weight[:, 0, 0], self.bias
