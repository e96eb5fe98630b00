"""Owns what mixtures of location and scale over 16-bit levels share: likelihood, draw, first bias.

    p(level) = sum_i w_i P(level - 1/2 < m_i + s_i Z < level + 1/2)

for a standard variable Z that is symmetric about 0. The two outermost levels take the tails. What
Z is, a subclass says. Knows nothing of models, engines or files.

Shapes: B batch, T time, n components, Q parameters, U uniforms.
"""

import math
import reprlib
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from wavenet.outputs.levels import HALF, LEVELS, Levels, nearest_level
from wavenet.outputs.protocol import require_applicable
from wavenet.outputs.sampling import Sampling

LARGEST_LOG_SCALE = 20.0  # far beyond any use; keeps its exponential finite
MOST_COMPONENTS = 1000  # of a mixture; ten are usual


class Mixture(Levels):
    """Parameters Q: weights' logits, means, log scales, n of each; audio is in [-1, 1].

    log_scale_min: what log scales are clamped to below. e^-14 is a thirtieth of a level.
    weighted: whether there are logits; a single component needs none.
    deviation: of Z, whose scale is 1.
    uniforms: the first chooses the component, if there is a choice; the last is its quantile.
    """

    log_scale_min: float
    uniforms: ClassVar[int] = 2
    weighted: ClassVar[bool] = True
    deviation: ClassVar[float]

    @property
    @abstractmethod
    def components(self) -> int:
        """n."""

    @abstractmethod
    def log_mass(self, centre: Tensor, width: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
        """ln P(centre - width / 2 < Z < centre + width / 2), finite, as are its gradients.

        Where lowest, the interval has no lower end; where highest, no upper one.
        """

    @abstractmethod
    def quantile(self, uniforms: Tensor) -> Tensor:
        """The inverse of Z's CDF, for uniforms inside (0, 1)."""

    def _require_valid(self) -> None:
        """Raises ValueError for fields that make no distribution."""
        n, name = self.components, type(self).__name__
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_COMPONENTS:
            raise ValueError(
                f"{name} needs an integer number of mixtures of at least 1 and at most "
                f"{MOST_COMPONENTS}, but got {reprlib.repr(n)}."
            )
        number = isinstance(self.log_scale_min, int | float)
        if not number or not -40 <= self.log_scale_min < 0:
            raise ValueError(
                f"{name} needs a log_scale_min in -40..0, the natural logarithm of the smallest "
                f"scale, but got {self.log_scale_min!r}."
            )

    @property
    def channels(self) -> int:
        """Q."""
        return (3 if self.weighted else 2) * self.components

    def split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """params (B, Q, ...) -> logits (none of them if not weighted), means, log scales (clamped).

        (B, n, ...) each, at least in float32.
        """
        n, params = self.components, params.to(torch.promote_types(params.dtype, torch.float32))
        logits, means, log_scales = params.split([self.channels - 2 * n, n, n], dim=1)
        return logits, means, log_scales.clamp(self.log_scale_min, LARGEST_LOG_SCALE)

    def nats(self, params: Tensor, samples: Tensor) -> Tensor:
        """params (B, Q, T), levels (B, T) -> -ln p of each level, (B, T), at least in float32.

        Divided by ln 2: bits per 16-bit sample. 16 is the uniform guess. They do not compare with
        bits per mu-law code, of which 8 is the uniform guess: a code tells less of the audio.
        """
        logits, means, log_scales = self.split(params)
        level = samples.unsqueeze(1)
        # level - (HALF + HALF * mean), in levels. HALF = 32768 - 1/2: the product by a power of two
        # is exact, so that nothing is lost where the two nearly cancel.
        distance = (level - HALF) - (LEVELS // 2) * means + means / 2
        width = (-log_scales).exp() / HALF  # of a level, in scales
        mass = self.log_mass(distance * width, width, level == 0, level == LEVELS - 1)
        if not self.weighted:
            return -mass.squeeze(1)
        largest = mass.detach().amax(dim=1, keepdim=True)  # beside it, weights would lose digits
        return -torch.logsumexp(logits.log_softmax(dim=1) + (mass - largest), 1) - largest[:, 0]

    def noise(self, uniforms: Tensor) -> Tensor:
        """(..., U) -> the choice's uniform, if there is one, as it is; then Z, by its quantile."""
        wide = uniforms if uniforms.device.type == "mps" else uniforms.double()
        inside = wide[..., -1:].clamp(2**-25, 1 - 2**-24)
        return torch.cat([wide[..., :-1], self.quantile(inside)], dim=-1)

    def draw(self, params: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """params (B, Q), uniforms (B, U) -> levels (B,): m + T s Z of a component, the nearest.

        The component is drawn from softmax(logits / T). T = 0: the mean of the likeliest.
        Raises ValueError for top_k, top_p and guidance.
        """
        require_applicable(self, sampling)
        logits, means, log_scales = self.split(params)
        noise = self.noise(uniforms).to(means)
        if self.weighted:
            chosen = sampling.draw(logits, noise[:, 0]).unsqueeze(1)
            means, log_scales = means.gather(1, chosen), log_scales.gather(1, chosen)
        away = (
            sampling.temperature * log_scales.exp() * noise[:, -1:] if sampling.temperature else 0
        )
        return nearest_level(means + away).squeeze(1)

    def initialise(self, head: nn.Conv1d) -> None:
        """Components side by side over [-1, 1]: untrained, near the uniform guess of 16 bits."""
        n, bias = self.components, head.bias
        assert bias is not None
        deviation = 1 / max(n, 2)  # half the distance between two means
        with torch.no_grad():
            bias[: -2 * n] = 0
            bias[-2 * n : -n] = (2 * torch.arange(n) + 1) / n - 1
            bias[-n:] = math.log(deviation / self.deviation)
