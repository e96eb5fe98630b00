"""Owns the mixture of discretised logistics.

Salimans et al. 2017, "PixelCNN++", equations 1 and 2; over 16-bit audio: van den Oord et al. 2018,
"Parallel WaveNet", section 2.1.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.outputs.mixture import Mixture


@dataclass(frozen=True)
class MixtureOfLogistics(Mixture):
    """A mixture of logistics over 65,536 levels. Likelihoods in bits per 16-bit sample.

        p(k) = sum_i w_i [sigma((y_k + d - m_i) / s_i) - sigma((y_k - d - m_i) / s_i)]

    y_k = -1 + 2k / 65535 and d = 1 / 65535; the lowest level reaches down and the highest one up
    for ever. Samples are levels, integers in 0..65535.

    Args:
        mixtures: Logistics, n.
        log_scale_min: Smallest ln s; smaller ones count as this.
    """

    mixtures: int = 10
    log_scale_min: float = -14.0
    deviation: ClassVar[float] = math.pi / math.sqrt(3)

    def __post_init__(self) -> None:
        self._require_valid()

    @property
    def components(self) -> int:
        return self.mixtures

    def log_mass(self, centre: Tensor, width: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """By sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^-(a - b)): nothing cancels."""
        below_upper = F.logsigmoid(width / 2 + centre).where(~highest, 0)
        above_lower = F.logsigmoid(width / 2 - centre).where(~lowest, 0)
        between = torch.log(-torch.expm1(-width)).where(~(lowest | highest), 0)
        return below_upper + above_lower + between

    def quantile(self, uniforms: Tensor) -> Tensor:
        return uniforms.log() - (1 - uniforms).log()
