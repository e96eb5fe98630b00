"""Owns the categorical output over codes of equal width: audio to codes and back.

Knows nothing of models or files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wavenet.outputs.codes import Codes
from wavenet.outputs.protocol import checked_audio


@dataclass(frozen=True)
class Linear(Codes):
    """A categorical distribution over `classes` codes, each an equal part of [-1, 1].

        code = min(floor((audio + 1) / 2 * classes), classes - 1),   audio = 2 code / classes - 1

    8-bit linear audio, as SampleRNN (Mehri et al. 2017) and SaShiMi (Goel et al. 2022) have it for
    piano music; mu-law spends its codes where speech needs them.
    """

    @property
    def silence(self) -> int:
        """The code of audio 0.0, which a model reads first (128 for 256 classes)."""
        return self.classes // 2

    def encode(self, audio: Tensor) -> Tensor:
        """Audio in [-1, 1] (floating point; clipped beyond) -> codes, int64, the same shape.

        Raises ValueError for NaN and for audio that is not floating point.
        """
        shares = (checked_audio(audio, "Linear") + 1) / 2
        return (shares * self.classes).to(torch.int64).clamp(max=self.classes - 1)

    def _audio(self, codes: Tensor) -> Tensor:
        return 2 * codes.float() / self.classes - 1
