"""Owns 16-bit PCM as an output's samples. Knows nothing of where the audio comes from."""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from wavenet.outputs.emphasis import emphasised
from wavenet.outputs.protocol import Output

LEVELS = 1 << 16  # of 16-bit audio
FULL_SCALE = LEVELS // 2  # the level of 1.0
SAMPLE_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # smallest first


def encode_pcm(output: Output, pcm: Tensor) -> Tensor:
    """pcm int16, any shape -> `output.encode(pcm / 32768)`, in the smallest type that holds them.

    Read from a table of what the output makes of each level, which is made on the CPU: every device
    gives the same samples, and none waits for another.
    """
    if pcm.dtype != torch.int16:
        raise ValueError(f"16-bit PCM is a tensor of torch.int16, but got {pcm.dtype}.")
    return _table(cast(Hashable, output), pcm.device)[pcm.int() + FULL_SCALE]


def encode_emphasised(
    output: Output, audio: Tensor, coefficient: float, before: Tensor | None = None
) -> Tensor:
    """Audio (..., T) -> the samples of what the filter makes of it, rounded to 16-bit PCM.

    before (..., 1): the audio before the first sample. Samples as `encode_pcm` gives them.
    """
    return encode_pcm(output, to_pcm(emphasised(audio, coefficient, before)))


def to_pcm(audio: Tensor) -> Tensor:
    """Audio -> the nearest 16-bit PCM; what lies beyond [-1, 1) is clipped."""
    steps = (FULL_SCALE * audio).round().clamp(-FULL_SCALE, FULL_SCALE - 1)
    return steps.to(torch.int16)


def encode_scaled_pcm(output: Output, pcm: Tensor, extremes: Tensor, inside: Tensor) -> Tensor:
    """pcm (B, T) int16 of clips that are scaled to [-1, 1] by their extremes, as samples (B, T).

        audio = 2 (pcm - low) / (high - low) - 1,   outside the clips: the output's silence

    extremes (B, 2): low and high of each whole clip; a constant clip is all -1.
    inside (B, T): whether a sample lies in its clip.

    Source: Goel et al. 2022 (SaShiMi), whose code adds 1e-6 to the divisor, in audio from -1 to 1.
    """
    low, high = (extremes.float() / FULL_SCALE).split(1, dim=1)
    audio = 2 * (pcm.float() / FULL_SCALE - low) / (high - low + 1e-6) - 1
    return output.encode(audio).where(inside, output.silence)


@lru_cache(maxsize=16)
def _table(output: Any, device: torch.device) -> Tensor:
    """(65536,): the sample of level i at i + 32768."""
    levels = torch.arange(-FULL_SCALE, FULL_SCALE)
    samples = output.encode(levels.float() / FULL_SCALE)
    return samples.to(device, _smallest_type(int(samples.min()), int(samples.max())))


def _smallest_type(low: int, high: int) -> torch.dtype:
    fits = (
        kind
        for kind in SAMPLE_TYPES
        if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max
    )
    return next(fits)
