"""Owns the discretised Gaussian and mixtures of them.

Ping et al. 2019, "ClariNet", section 3.1, for the single one. A level's probability is its mass,
not a density, so that likelihoods are bits per 16-bit sample here too.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wavenet.outputs.mixture import Mixture

NARROW = 0.03  # (slope of ln p) * width, under which a difference of CDFs would lose digits


class Gaussians(Mixture):
    """What the two below share: Z is a standard Gaussian."""

    deviation: ClassVar[float] = 1.0

    def log_mass(self, centre: Tensor, width: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        outwards = torch.where(lowest, width / 2 + centre, width / 2 - centre)
        far = centre.abs()  # by symmetry, on the lower side, where the CDF keeps its digits
        narrow = width * far.clamp(min=1) < NARROW
        inside = torch.where(narrow, *_safely(narrow, far, width))
        return torch.where(lowest | highest, _log_cdf(outwards), inside)

    def quantile(self, uniforms: Tensor) -> Tensor:
        return torch.special.ndtri(uniforms)


def _safely(narrow: Tensor, far: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """ln of the mass around -far in both ways, each fed harmless values where it is not taken.

    Otherwise what overflows in the other way would make the gradients NaN.
    """
    thin = _by_density(far.where(narrow, 0), width.where(narrow, NARROW))
    return thin, _by_difference(far.where(~narrow, 0), width.where(~narrow, 1))


def _by_density(far: Tensor, width: Tensor) -> Tensor:
    """The density at the centre times the width, and the next term of the series in the width.

    What follows is less than 1e-8 where far * width and width are under NARROW.
    """
    curvature = torch.log1p((far.square() - 1) * width.square() / 24)
    return width.log() - far.square() / 2 - math.log(2 * math.pi) / 2 + curvature


def _by_difference(far: Tensor, width: Tensor) -> Tensor:
    """ln (Phi(h) - Phi(l)) = ln Phi(h) + ln (1 - e^-d), d = ln Phi(h) - ln Phi(l).

    Where both lie below 0 and their squares may be large, d is far * width and what is left.
    """
    high, low = width / 2 - far, -width / 2 - far
    tail, log_high = high < 0, _log_cdf(high)
    by_squares = far * width + _scaled(high.where(tail, -1)) - _scaled(low.where(tail, -1))
    drop = torch.where(tail, by_squares, log_high - _log_cdf(low))
    return log_high + torch.log(-torch.expm1(-drop))


def _log_cdf(x: Tensor) -> Tensor:
    """ln Phi(x). torch.special.log_ndtr has no gradients for large -x in float32."""
    tail = x < 0
    lower = x.where(tail, -1)
    upper = torch.log1p(-torch.special.erfc(x.where(~tail, 1) / math.sqrt(2)) / 2)
    return torch.where(tail, _scaled(lower) - lower.square() / 2, upper)


def _scaled(x: Tensor) -> Tensor:
    """ln Phi(x) + x^2 / 2, for x below 0."""
    return (torch.special.erfcx(-x / math.sqrt(2)) / 2).log()


@dataclass(frozen=True)
class Gaussian(Gaussians):
    """One Gaussian over 65,536 levels: a mean and a log scale. Bits per 16-bit sample.

        p(k) = Phi((y_k + d - m) / s) - Phi((y_k - d - m) / s)

    y_k = -1 + 2k / 65535 and d = 1 / 65535; the lowest level reaches down and the highest one up
    for ever. Samples are levels, integers in 0..65535.

    Args:
        log_scale_min: Smallest ln s; smaller ones count as this.
    """

    log_scale_min: float = -14.0
    uniforms: ClassVar[int] = 1
    weighted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._require_valid()

    @property
    def components(self) -> int:
        return 1


@dataclass(frozen=True)
class MixtureOfGaussians(Gaussians):
    """A mixture of Gaussians over 65,536 levels; each as `Gaussian`. Bits per 16-bit sample.

    Args:
        mixtures: Gaussians, n.
        log_scale_min: Smallest ln s; smaller ones count as this.
    """

    mixtures: int = 10
    log_scale_min: float = -14.0

    def __post_init__(self) -> None:
        self._require_valid()

    @property
    def components(self) -> int:
        return self.mixtures
