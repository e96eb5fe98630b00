"""Owns the categorical output over mu-law codes: audio to codes and back, likelihood, draw.

Knows nothing of models or files.

Source: ITU-T G.711's companding curve as WaveNet uses it (van den Oord et al. 2016, section
2.2), with the rounding of `torchaudio.functional.mu_law_encoding`, code for code.
"""

import math
import reprlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavenet import ops
from wavenet.outputs.protocol import Output, checked_audio, require_tensor
from wavenet.outputs.sampling import Sampling

MOST_CLASSES = 65_536  # the levels of 16-bit audio


@dataclass(frozen=True)
class MuLaw(Output):
    """A categorical distribution over `classes` mu-law codes (mu = classes - 1).

    codes = floor((f(audio) + 1) / 2 * mu + 1/2),   f(x) = sign(x) ln(1 + mu |x|) / ln(1 + mu)
    """

    classes: int = 256
    uniforms: ClassVar[int] = 1
    categorical: ClassVar[bool] = True
    rounding: ClassVar[float] = 0.5  # what is added before the floor

    def __post_init__(self) -> None:
        whole = isinstance(self.classes, int) and not isinstance(self.classes, bool)
        if not whole or not 2 <= self.classes <= MOST_CLASSES:
            raise ValueError(
                "MuLaw needs an integer number of classes of at least 2 and at most "
                f"{MOST_CLASSES}, but got {reprlib.repr(self.classes)}."
            )

    @property
    def channels(self) -> int:
        """Q: one logit a code."""
        return self.classes

    @property
    def levels(self) -> int:
        return self.classes

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

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (integers in 0..classes - 1) -> audio, float32, the same shape.

        Raises ValueError for other codes.
        """
        require_tensor("MuLaw.decode", codes)
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(
                f"MuLaw.decode takes integer codes in 0..{self.classes - 1}, but got {codes.dtype}."
            )
        codes = codes.to(torch.int64)
        if codes.numel() and (codes.min() < 0 or codes.max() >= self.classes):
            raise ValueError(
                f"MuLaw({self.classes}).decode takes codes in 0..{self.classes - 1}, "
                f"but got values from {int(codes.min())} to {int(codes.max())}."
            )
        compressed = codes.float() / self.mu * 2 - 1
        return (
            torch.sign(compressed)
            * (torch.exp(compressed.abs() * math.log1p(self.mu)) - 1)
            / self.mu
        )

    def embedding(self, width: int) -> nn.Module:
        """A table: codes (...) -> features (..., width)."""
        return nn.Embedding(self.classes, width)

    def nats(self, params: Tensor, samples: Tensor) -> Tensor:
        """Logits (B, Q, T), codes (B, T) -> -ln p of each code, (B, T), at least in float32."""
        return ops.cross_entropy(params, samples.long())

    def draw(self, params: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """Logits (B, Q), uniforms (B, 1) -> codes (B,): `Sampling.draw`."""
        return sampling.draw(params, uniforms[:, 0])


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
