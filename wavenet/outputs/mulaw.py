"""Owns the categorical output over mu-law codes: audio to codes and back.

Knows nothing of models or files.

Source: ITU-T G.711's companding curve as WaveNet uses it (van den Oord et al. 2016, section
2.2), with the rounding of `torchaudio.functional.mu_law_encoding`, code for code.
"""

import math
import reprlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wavenet.outputs.codes import Codes
from wavenet.outputs.protocol import checked_audio


@dataclass(frozen=True)
class MuLaw(Codes):
    """A categorical distribution over `classes` mu-law codes (mu = classes - 1).

    codes = floor((f(audio) + 1) / 2 * mu + 1/2),   f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu)
    """

    rounding: ClassVar[float] = 0.5  # what is added before the floor

    @property
    def mu(self) -> int:
        return self.classes - 1

    @property
    def silence(self) -> int:
        """The code of audio 0.0, which a model reads first (128 for 256 classes)."""
        return math.floor(self.mu / 2 + self.rounding)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio in [-1, 1] (floating point; clipped beyond) -> codes, int64, the same shape.

        Raises ValueError for NaN and for audio that is not floating point.
        """
        audio = checked_audio(audio, "MuLaw")
        compressed = torch.sign(audio) * torch.log1p(self.mu * audio.abs()) / math.log1p(self.mu)
        codes = ((compressed + 1) / 2 * self.mu + self.rounding).to(torch.int64)
        return codes.clamp(max=self.classes - 1)

    def _audio(self, codes: Tensor) -> Tensor:
        compressed = codes.float() / self.mu * 2 - 1
        return (
            torch.sign(compressed)
            * (torch.exp(compressed.abs() * math.log1p(self.mu)) - 1)
            / self.mu
        )


@dataclass(frozen=True)
class FlooredMuLaw(MuLaw):
    """The same over codes that are rounded down, as `nnmnkwii.preprocessing.mulaw_quantize` does.

    codes = min(floor((f(audio) + 1) / 2 * mu), classes - 1)

    Models that were trained on such codes take them to mean what they mean in that package. Its
    silence is 127 for mu = 255, and 128 for mu = 256.

    Args:
        classes: Codes.
        compression: mu: classes - 1, or classes. None: classes - 1.
    """

    compression: int | None = None
    rounding: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compression is None:
            object.__setattr__(self, "compression", self.classes - 1)
        elif self.compression not in (self.classes - 1, self.classes):
            raise ValueError(
                f"FlooredMuLaw needs a compression of {self.classes - 1} or {self.classes}, mu of "
                f"its {self.classes} classes, but got {reprlib.repr(self.compression)}."
            )

    @property
    def mu(self) -> int:
        assert self.compression is not None
        return self.compression
