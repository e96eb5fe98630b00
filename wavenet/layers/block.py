"""Owns `Block`, equations 2 and 3 of WaveNet over parts handed in, and the paper's own block.

Shapes: B batch, C residual, G gate, S skip and D condition channels, T time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet import ops
from wavenet.layers.convolution import BlockState, CausalConv1d
from wavenet.layers.parts import Added, Gated, PassThrough, Residual, Unconditional
from wavenet.layers.pointwise import (
    applied,
    can_step,
    require_no_memory,
    shared_condition,
    stepped,
    takes_condition,
    why_not,
)
from wavenet.layers.timing import Timed, Timing, timing_of


class Block(nn.Module, Timed):
    """One residual block (van den Oord et al. 2016, equations 2 and 3).

        z        = gate(steer(W * x, c))   paper: tanh(W_f * x + V_f c) . sigmoid(W_g * x + V_g c)
        residual = mix(x, z)               paper: x + W_r z, to the next block
        skip     = W_s z                   to the head

    `*` is the dilated convolution and c the condition. Only `dilated` may remember. Any part that
    has `condition_channels` gets the condition, as in a `Chain`: gate=Chain(Gated(), FiLM(D, G)).

    Args:
        dilated: x (B, C, T) -> (B, 2G, T): `CausalConv1d`, `CentredConv1d` for whole clips only, or
            a `Chain` without latency.
        gate: (B, 2G, T) -> z (B, G, T): `Gated`; or an activation, such as nn.Tanh(), for a block
            without a gate, whose dilated convolution then makes G channels.
        skip: z -> (B, S, T): a 1x1 convolution, or nn.Identity().
        mix: (x, z) -> residual (B, C, T): `Residual`, `Shortcut`, or a 1x1 convolution, which is
            added to x; None hands x through.
        steer: (W * x, c) -> the same shape: `Added` or `FiLM`; None for a block without condition.
        dropout: share of x's channels that `dilated` does without, whole channels of a clip, while
            the block trains (Bai et al. 2018, section 3.4); x goes round it whole. Of single values
            a neighbour in time would tell most, and on a CPU drawing them takes half a step.

    In state_dict, steer is called `condition` and mix is called `residual`.

    Raises ValueError for parts that expect conditions of different width. A `dilated` with a
    latency, which x and the condition would not share, is refused where state is asked for.
    """

    dilated: Any
    condition: Any
    residual: Any
    skip: Any
    gate: Any

    def __init__(
        self,
        dilated: nn.Module,
        gate: nn.Module,
        skip: nn.Module,
        mix: nn.Module | None = None,
        steer: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dilated, self.dropout = dilated, dropout
        self.condition = Unconditional() if steer is None else steer
        self.residual = _residual(mix)
        self.skip = skip
        self.gate = gate
        self._steered_elsewhere = any(map(takes_condition, (dilated, gate, self.residual, skip)))
        _ = self.condition_channels  # refuses parts that differ in it

    @property
    def steer(self) -> Any:
        return self.condition

    @property
    def condition_channels(self) -> int:
        """D; 0 for a block without condition."""
        return shared_condition((self.steer, self.dilated, self.gate, self.mix, self.skip))

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        timing = timing_of(self.dilated)
        if timing.latency:
            raise ValueError(
                f"The block's dilated {type(self.dilated).__name__} has a latency of "
                f"{timing.latency} samples, but x and the condition have none. Build such a block "
                "of Chain and Parallel, with a Delay beside it."
            )
        return timing

    @property
    def mix(self) -> Any:
        return self.residual

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, C, T), condition (B, D, T or 1) -> residual (B, C, T), skip (B, S, T).

        Raises ValueError for wrong shapes, and for a condition that is missing or not expected.
        """
        residual, z = self.unit(x, condition)
        return residual, applied(self.skip, z, condition)

    def unit(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The block but for its skip: x (B, C, T) -> residual (B, C, T), z (B, G, T)."""
        x, kept = ops.for_two(x)
        if self.training and self.dropout:
            x = F.dropout1d(x, self.dropout)
        return self._after(kept, applied(self.dilated, x, condition), condition)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BlockState:
        """Zeros (B, C, H): only the dilated convolution remembers.

        Raises ValueError for any other part that does.
        """
        if not can_step(self.dilated):
            raise ValueError(f"A block's dilated part cannot step: {why_not(self.dilated)}")
        for part in (self.steer, self.gate, self.mix, self.skip):
            require_no_memory(part)
        _ = self.timing  # refuses a latency
        return self.dilated.init_state(batch_size, device=device, dtype=dtype)

    def step(
        self, x: Tensor, state: BlockState, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], BlockState]:
        """The next n inputs -> ((residual, skip), new state); condition is (B, D, n or 1)."""
        (residual, z), state = self.unit_step(x, state, condition)
        return (residual, applied(self.skip, z, condition)), state

    def unit_step(
        self, x: Tensor, state: BlockState, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], BlockState]:
        """To `unit` what `step` is to `forward`."""
        h, state = stepped(self.dilated, x, state, condition)
        return self._after(x, h, condition), state

    def _after(self, x: Tensor, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self._steered_elsewhere:  # then `steer` takes the condition, or refuses it
            z, handed_on = ops.for_two(self.gate(self.steer(h, condition)))
            return self.mix(x, z), handed_on
        h = self.steer(h, condition) if takes_condition(self.steer) else h
        z, handed_on = ops.for_two(applied(self.gate, h, condition))
        mixed = self.mix(x, z, condition) if takes_condition(self.mix) else self.mix(x, z)
        return mixed, handed_on


def _residual(mix: nn.Module | None) -> nn.Module:
    if mix is None:
        return PassThrough()
    takes_z_alone = isinstance(mix, nn.Conv1d) and not isinstance(mix, Residual)
    return Residual.of(mix) if takes_z_alone else mix  # type: ignore[arg-type]


class ResidualBlock(Block):
    """The paper's block: a gated causal convolution, a condition added before the gate.

    Args:
        residual_channels: C, channels of x and of the residual.
        gate_channels: G, channels of z, after the gate; the dilated convolution makes 2G.
        skip_channels: S, channels of the skip.
        kernel_size: taps of the causal convolution.
        dilation: samples from one of its taps to the next.
        condition_channels: D; 0 for a block without condition.
        residual_scale: factor on the residual; sqrt(0.5) keeps the variance constant over depth.
        last: the last block of a stack has no W_r, since nobody reads its residual; x is handed on.
    """

    def __init__(
        self,
        residual_channels: int,
        gate_channels: int,
        skip_channels: int,
        kernel_size: int = 2,
        dilation: int = 1,
        condition_channels: int = 0,
        residual_scale: float = 1.0,
        last: bool = False,
    ) -> None:
        dilated = CausalConv1d(residual_channels, 2 * gate_channels, kernel_size, dilation=dilation)
        steer = Added(condition_channels, 2 * gate_channels) if condition_channels else None
        mix = None if last else Residual(gate_channels, residual_channels, residual_scale)
        skip = CausalConv1d(gate_channels, skip_channels, 1)
        super().__init__(dilated, Gated(), skip, mix, steer)
