"""Owns the parts that a `Block` is built from: what steers it, its gate, and its residual.

Shapes: B batch, C residual channels, G gate channels, D condition channels, T time.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wavenet import ops
from wavenet.layers.convolution import CausalConv1d, one_size
from wavenet.layers.pointwise import applied, is_pointwise


class Unconditional(nn.Module):
    """The steering of a block that nothing steers: h -> h."""

    condition_channels = 0
    pointwise = True

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """Raises ValueError where a condition is given all the same."""
        if condition is not None:
            raise ValueError(
                "This block has no conditioning, but got a condition of shape "
                f"{tuple(condition.shape)}. Build it with condition_channels, or leave the "
                "condition out."
            )
        return h


class Added(CausalConv1d):
    """h + V c: a 1x1 convolution of the condition is added before the gate.

    Van den Oord et al. 2016, equation 3. Parameter: weight V (channels, D / groups, 1), no bias.
    """

    pointwise = True

    def __init__(self, condition_channels: int, channels: int, groups: int = 1) -> None:
        super().__init__(condition_channels, channels, 1, groups=groups, bias=False)

    @property
    def condition_channels(self) -> int:
        return self.in_channels

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """h (B, channels, T), condition (B, D, T or 1) -> (B, channels, T)."""
        return ops.added(h, self.steering(condition, h.shape[-1]))

    def steering(self, condition: Tensor | None, time: int) -> Tensor:
        """V c (B, channels, time or 1). Raises ValueError for a condition of another shape."""
        return self._convolve(checked_condition(condition, self.in_channels, time))


class AddedBy(nn.Module):
    """h + part(c): as `Added`, around any part without memory that makes it of the condition.

    part: c (B, D, T or 1) -> (B, channels, T or 1), such as Chain(nn.Conv1d(D, 8, 1), nn.Tanh(),
        nn.Conv1d(8, channels, 1)); one that is steered itself gets c for that too.
    """

    def __init__(self, condition_channels: int, part: nn.Module) -> None:
        super().__init__()
        self.condition_channels = one_size("AddedBy", "condition_channels", condition_channels)
        self.part = part

    @property
    def pointwise(self) -> bool:
        return is_pointwise(self.part)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """h (B, channels, T), condition (B, D, T or 1) -> (B, channels, T)."""
        condition = checked_condition(condition, self.condition_channels, h.shape[-1])
        return ops.added(h, applied(self.part, condition, condition))


class FiLM(nn.Conv1d):
    """h * scale + shift, both a 1x1 convolution of the condition (Perez et al. 2018, equation 2).

    Parameters: weight (2 * channels, D / groups, 1) and bias (2 * channels), the scale's half
    first. The scale begins near 1 and the shift near 0, so that a new block starts as one without
    it.
    """

    pointwise = True

    def __init__(self, condition_channels: int, channels: int, groups: int = 1) -> None:
        one_size("FiLM", "condition_channels", condition_channels)
        width = 2 * one_size("FiLM", "channels", channels)
        super().__init__(condition_channels, width, 1, groups=groups)
        with torch.no_grad():
            assert self.bias is not None
            self.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    @property
    def condition_channels(self) -> int:
        return self.in_channels

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """h (B, channels, T), condition (B, D, T or 1) -> (B, channels, T)."""
        condition = checked_condition(condition, self.in_channels, h.shape[-1])
        scale, shift = _of_condition(self, condition).chunk(2, dim=1)
        return h * scale + shift


class Scaled(nn.Conv1d):
    """h * scale: `FiLM` without its shift.

    Parameters: weight (channels, D / groups, 1) and bias (channels), which begins at 1.
    """

    pointwise = True

    def __init__(self, condition_channels: int, channels: int, groups: int = 1) -> None:
        one_size("Scaled", "condition_channels", condition_channels)
        one_size("Scaled", "channels", channels)
        super().__init__(condition_channels, channels, 1, groups=groups)
        with torch.no_grad():
            assert self.bias is not None
            self.bias.fill_(1)

    @property
    def condition_channels(self) -> int:
        return self.in_channels

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        """h (B, channels, T), condition (B, D, T or 1) -> (B, channels, T)."""
        condition = checked_condition(condition, self.in_channels, h.shape[-1])
        return h * _of_condition(self, condition)


def _of_condition(convolution: nn.Conv1d, condition: Tensor) -> Tensor:
    """The 1x1 convolution of a condition (B, D, T or 1)."""
    return ops.convolution(
        condition, convolution.weight, convolution.bias, dilation=1, groups=convolution.groups
    )


def checked_condition(condition: Tensor | None, channels: int, time: int) -> Tensor:
    """The condition. Raises ValueError for one that is missing or not (B, channels, time or 1)."""
    if (
        condition is None
        or condition.dim() != 3
        or condition.shape[1] != channels
        or condition.shape[2] not in (1, time)
    ):
        seen = "none" if condition is None else f"shape {tuple(condition.shape)}"
        raise ValueError(
            f"This block needs a condition of shape (batch, {channels}, {time} or 1), but got "
            f"{seen}."
        )
    return condition


class Gated(nn.Module):
    """tanh(filter) * sigmoid(gate), of the first and the second half of the channels.

    Van den Oord et al. 2016, equation 2: (B, 2G, T) -> (B, G, T).
    """

    pointwise = True

    def forward(self, h: Tensor) -> Tensor:
        """Raises ValueError for an odd number of channels, or another shape."""
        if h.dim() != 3 or h.shape[1] % 2:
            raise ValueError(
                f"Gated takes (batch, 2 * channels, time), but got {tuple(h.shape)}: one half of "
                "the channels is the filter, the other the gate."
            )
        return ops.gated(h)


class GatedBy(nn.Module):
    """activation(first half) * gate(second half) of the channels; `Gated` for any two activations.

    (B, 2G, T) -> (B, G, T).
    """

    pointwise = True

    def __init__(self, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.activation, self.gate = activation, gate

    def forward(self, h: Tensor) -> Tensor:
        filtered, gate = h.chunk(2, dim=1)
        return self.activation(filtered) * self.gate(gate)


class Blended(GatedBy):
    """g * activation(f) + (1 - g) * f, with f the first half and g = gate(second half)."""

    def forward(self, h: Tensor) -> Tensor:
        filtered, gate = h.chunk(2, dim=1)
        share = self.gate(gate)
        return share * self.activation(filtered) + (1 - share) * filtered


class Residual(CausalConv1d):
    """(x + W z) * scale: a 1x1 convolution W of the gate's output z is added to the input x.

    scale: sqrt(0.5) keeps the variance constant over depth. Parameters: weight (C, G, 1), bias.
    """

    pointwise = True

    def __init__(self, gate_channels: int, residual_channels: int, scale: float = 1.0) -> None:
        super().__init__(gate_channels, residual_channels, 1)
        self.scale = scale

    @classmethod
    def of(cls, convolution: nn.Conv1d, scale: float = 1.0) -> Self:
        """Around a 1x1 convolution (in G, out C), whose parameters it takes over."""
        if convolution.kernel_size != (1,) or convolution.groups != 1:
            raise ValueError(
                f"A residual is a 1x1 convolution without groups, but got {convolution}."
            )
        if parametrize.is_parametrized(convolution):
            raise ValueError(
                "A residual takes a convolution's parameters over, but those of this one are "
                "computed by a parametrization, such as weight norm. Give Shortcut(convolution) "
                "instead, or parametrize the block's `mix` afterwards."
            )
        made = cls(convolution.in_channels, convolution.out_channels, scale)
        made.weight, made.bias = convolution.weight, convolution.bias
        return made

    def forward(self, x: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        """x (B, C, T), z (B, G, T) -> (B, C, T)."""
        residual = ops.added(x, self._convolve(z))
        return residual if self.scale == 1.0 else residual * self.scale


class Shortcut(nn.Module):
    """x + part(z): a residual around any part without memory; `Residual` where it is a 1x1 alone.

    part: z (B, G, T) -> (B, C, T), such as Chain(nn.Conv1d(G, C, 1), FiLM(D, C)), which is then
        steered by the block's condition, or nn.Identity() for a block that adds z as it is.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    @property
    def pointwise(self) -> bool:
        return is_pointwise(self.part)

    @property
    def condition_channels(self) -> int:
        return getattr(self.part, "condition_channels", 0)

    def forward(self, x: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, C, T), z (B, G, T), condition (B, D, T or 1) -> (B, C, T)."""
        return ops.added(x, applied(self.part, z, condition))


class PassThrough(nn.Module):
    """The residual of a stack's last block: x as it came, since nobody reads what z would add."""

    pointwise = True

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x
