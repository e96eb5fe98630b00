"""Owns ways of frames to the sample rate that are learned in stages: `Smoothed` and `Transposed`.

Each is a frozen dataclass that stands in `Mel.upsampling`, and makes a module: frames with their
context in, a feature for each sample out. Knows nothing of spectrograms.

Shapes: B batch, M bands, F frames, T samples. Where there is no frame, outside a clip, all bands
are NaN; `Smoothed` alone looks there.
"""

import reprlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_STAGES = 16
LARGEST_SCALE = 4096


@dataclass(frozen=True)
class Stages:
    """What both have in common. One stage after the other multiplies the rate of the frames.

    Args:
        scales: Of the stages; their product is the hop.
        across: Bands that a stage's filter reaches over, an odd number.
    """

    name: str = field(init=False)
    scales: Sequence[int]
    across: int = 1
    context: ClassVar[Any]  # frames on either side that a frame's features depend on

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", type(self).__name__)
        listed = isinstance(self.scales, Sequence) and not isinstance(self.scales, str | bytes)
        if not listed or not 1 <= len(self.scales) <= MOST_STAGES:
            raise ValueError(
                f"{self.name} needs scales, a list of 1 to {MOST_STAGES} whole numbers, but got "
                f"{reprlib.repr(self.scales)}."
            )
        object.__setattr__(self, "scales", tuple(self.scales))
        for scale in self.scales:
            self._require_whole("a scale", scale, 1, LARGEST_SCALE)
        self._require_whole("across", self.across, 1, 1023)
        if self.across % 2 == 0:
            raise ValueError(f"{self.name} needs an odd number for across, not {self.across}.")

    def _require_whole(self, what: str, value: object, low: int, high: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(
                f"{self.name} needs an integer from {low} to {high} for {what}, but got {value!r}."
            )

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return prod(self.scales)

    @abstractmethod
    def module(self, bands: int) -> nn.Module:
        """Frames (B, M, F and `context` on either side) -> (B, M, F * hop)."""


@dataclass(frozen=True)
class Smoothed(Stages):
    """Frames are mixed with their neighbours; each stage repeats them and smooths what it has made.

    A convolution of all bands over 2 `pad` + 1 frames, without bias; then in each stage of scale s
    every column s times, and one filter over `across` bands and 2 s + 1 columns, without bias, for
    all bands. Around a clip, the first convolution sees its first and last frame again, and each
    stage zeros. The upsampling of r9y9/wavenet_vocoder.

    Args:
        pad: Frames on either side that the first convolution sees.
    """

    pad: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_whole("pad", self.pad, 0, 64)

    @property
    def context(self) -> int:
        return self.pad + self.spread

    @property
    def spread(self) -> int:
        """Frames on either side that reach a frame's samples through the stages alone.

        In a stage of scale s, r columns of its output reach over ceil(r / s) + 1 of its input.
        """
        reach = 0
        for scale in reversed(self.scales):
            reach = -(-reach // scale) + 1
        return reach

    def module(self, bands: int) -> nn.Module:
        return _Smoothing(self, bands)


@dataclass(frozen=True)
class Transposed(Stages):
    """Each stage is a transposed convolution of as many columns as its stride, and a ReLU.

    In each stage of scale s one filter over `across` bands and s columns, for all bands, and a
    bias; neighbouring frames do not meet. The upsampling of r9y9/wavenet_vocoder 0.1.1.
    """

    context: ClassVar[int] = 0

    def module(self, bands: int) -> nn.Module:
        return _Transposing(self)


UPSAMPLERS: dict[str, type[Stages]] = {kind.__name__: kind for kind in (Smoothed, Transposed)}


def upsampler_from(settings: Mapping[str, Any]) -> Stages:
    """From {"name": "Smoothed", "scales": [4, 4], ...}, as it stands in files.

    Raises ValueError for a name or a setting that there is not, with those there are.
    """
    name, given = settings.get("name"), {k: v for k, v in settings.items() if k != "name"}
    kind = UPSAMPLERS.get(name) if isinstance(name, str) else None
    if kind is None:
        there = ", ".join(UPSAMPLERS)
        raise ValueError(f"There is no upsampling named {name!r}; there are: {there}.")
    known = [setting.name for setting in fields(kind) if setting.init]
    if not {"scales"} <= set(given) <= set(known):
        raise ValueError(
            f"The upsampling {name} takes {', '.join(known)}, the first of them always, but got "
            f"{reprlib.repr(given)}."
        )
    return kind(**given)


class _Smoothing(nn.Module):
    stages: Any  # a ModuleList

    def __init__(self, settings: Smoothed, bands: int) -> None:
        super().__init__()
        self.settings, across = settings, settings.across
        self.mix = nn.Conv1d(bands, bands, 2 * settings.pad + 1, bias=False)
        self.stages = nn.ModuleList(
            nn.Conv2d(1, 1, (across, 2 * s + 1), padding=(across // 2, s), bias=False)
            for s in settings.scales
        )
        for stage in self.stages:  # the mean of what it sees
            nn.init.constant_(stage.weight, 1 / stage.weight.numel())

    def forward(self, frames: Tensor) -> Tensor:
        """(B, M, F and context on either side) -> (B, M, F * hop)."""
        there = ~frames.isnan().all(dim=1)  # (B, F): whether a frame is inside its clip
        pad, cut = self.settings.pad, self.settings.spread * self.settings.hop
        x = self.mix(_held_beyond(frames, there)).unsqueeze(1)  # (B, 1, M, F)
        there = there[:, None, None, pad : there.shape[1] - pad]
        for scale, stage in zip(self.settings.scales, self.stages, strict=True):
            x = x.where(there, 0).repeat_interleave(scale, -1)
            x, there = stage(x), there.repeat_interleave(scale, -1)
        return x.squeeze(1)[..., cut : x.shape[-1] - cut]


def _held_beyond(frames: Tensor, there: Tensor) -> Tensor:
    """frames (B, M, F), there (B, F) -> the first and the last that are there go on beyond them.

    Zeros in a clip where none is there.
    """
    place = torch.arange(frames.shape[-1], device=frames.device)
    first = there.int().argmax(1, keepdim=True)
    last = place[-1] - there.flip(1).int().argmax(1, keepdim=True)
    nearest = place.clamp(first, last).unsqueeze(1).expand_as(frames)  # (B, M, F)
    return frames.gather(2, nearest).where(there.any(1)[:, None, None], 0)


class _Transposing(nn.Module):
    stages: Any  # a ModuleList

    def __init__(self, settings: Transposed) -> None:
        super().__init__()
        across = settings.across
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(1, 1, (across, s), stride=(1, s), padding=(across // 2, 0))
            for s in settings.scales
        )
        for stage in self.stages:  # the mean over bands, held
            nn.init.constant_(stage.weight, 1 / across)
            nn.init.zeros_(stage.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, M, F) -> (B, M, F * hop)."""
        x = frames.unsqueeze(1)
        for stage in self.stages:
            x = F.relu(stage(x))
        return x.squeeze(1)
