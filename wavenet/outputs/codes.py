"""Owns what categorical outputs over codes share: a logit each, a table that reads them, the draw.

Knows nothing of how audio becomes codes, nor of models or files.
"""

import reprlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavenet import ops
from wavenet.outputs.protocol import Output, require_tensor
from wavenet.outputs.sampling import Sampling

MOST_CLASSES = 65_536  # the levels of 16-bit audio


@dataclass(frozen=True)
class Codes(Output):
    """A categorical distribution over `classes` codes, 0..classes - 1 from the lowest audio on."""

    classes: int = 256
    uniforms: ClassVar[int] = 1
    categorical: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.classes, int) and not isinstance(self.classes, bool)
        if not whole or not 2 <= self.classes <= MOST_CLASSES:
            raise ValueError(
                f"{type(self).__name__} needs an integer number of classes of at least 2 and at "
                f"most {MOST_CLASSES}, but got {reprlib.repr(self.classes)}."
            )

    @property
    def channels(self) -> int:
        """Q: one logit a code."""
        return self.classes

    @property
    def levels(self) -> int:
        return self.classes

    def decode(self, samples: Tensor) -> Tensor:
        """Codes (integers in 0..classes - 1) -> audio, float32, the same shape.

        Raises ValueError for other codes.
        """
        name, allowed = type(self).__name__, f"codes in 0..{self.classes - 1}"
        require_tensor(f"{name}.decode", samples)
        if samples.is_floating_point() or samples.is_complex() or samples.dtype == torch.bool:
            raise ValueError(f"{name}.decode takes integer {allowed}, but got {samples.dtype}.")
        samples = samples.to(torch.int64)
        if samples.numel() and (samples.min() < 0 or samples.max() >= self.classes):
            raise ValueError(
                f"{name}({self.classes}).decode takes {allowed}, "
                f"but got values from {int(samples.min())} to {int(samples.max())}."
            )
        return self._audio(samples)

    @abstractmethod
    def _audio(self, codes: Tensor) -> Tensor:
        """int64 codes in range -> audio, float32."""
        ...

    def embedding(self, width: int) -> nn.Module:
        """A table: codes (...) -> features (..., width)."""
        return nn.Embedding(self.classes, width)

    def nats(self, params: Tensor, samples: Tensor) -> Tensor:
        """Logits (B, Q, T), codes (B, T) -> -ln p of each code, (B, T), at least in float32."""
        return ops.cross_entropy(params, samples.long())

    def draw(self, params: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """Logits (B, Q), uniforms (B, 1) -> codes (B,): `Sampling.draw`."""
        return sampling.draw(params, uniforms[:, 0])
