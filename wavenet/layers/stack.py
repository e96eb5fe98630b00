"""Owns `Stack`, blocks in sequence that carry x and the sum of skips, and the paper's stack.

Shapes: B batch, C residual channels, S skip channels, D condition channels, T time.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from wavenet import ops
from wavenet.layers.block import Block, ResidualBlock
from wavenet.layers.chain import Summed
from wavenet.layers.convolution import BlockState, CausalConv1d
from wavenet.layers.pointwise import applied, shared_condition
from wavenet.layers.timing import Timed, Timing, timing_of

Gates = Sequence[Tensor] | Tensor  # z (B, G, T) of each block, or side by side, (B, L * G, T)
Units = Callable[[Sequence[Block], Tensor, Tensor | None], tuple[Tensor, Gates]]
StackState = tuple[BlockState, ...]  # one a block, in block order


def dilation_cycles(cycles: int, layers_per_cycle: int) -> list[int]:
    """1, 2, 4, ..., 2^(layers_per_cycle - 1), repeated `cycles` times.

    Van den Oord et al. 2016, section 2.1. Raises ValueError for what are no whole numbers.
    """
    for name, value in (("cycles", cycles), ("layers_per_cycle", layers_per_cycle)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
            raise ValueError(f"{name} must be an integer from 1 to 1000, but got {value!r}.")
    return [2**layer for _ in range(cycles) for layer in range(layers_per_cycle)]


def one_by_one(
    blocks: Sequence[Block], x: Tensor, condition: Tensor | None
) -> tuple[Tensor, Gates]:
    """`Block.unit` of one after the other: x (B, C, T) -> the last residual (B, C, T), all z."""
    gates = []
    for block in blocks:
        x, z = block.unit(x, condition)
        gates.append(z)
    return x, gates


class Stack(nn.Module, Timed):
    """Blocks in sequence: each takes the residual of the one before it, and all skips are summed.

    Stacks of different width chain: x goes through a 1x1 convolution between them, and the sum of
    skips is handed on.

    Args:
        blocks: at least one, otherwise ValueError.
        collect: a list of skips, those of the stacks before this one first -> what comes out:
            `Summed()`, or `Concatenated()`.
    """

    blocks: list[Block]  # a ModuleList
    units: Units = staticmethod(one_by_one)  # fused kernels may take its place

    def __init__(self, blocks: Iterable[Block], collect: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]
        if not self.blocks:
            raise ValueError("A stack got no blocks; it needs at least one block.")
        self.collect = Summed() if collect is None else collect

    @property
    def condition_channels(self) -> int:
        """D of the condition that steers all blocks; 0 where none does."""
        return shared_condition(self.blocks)

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        return reduce(Timing.then, map(timing_of, self.blocks))

    def forward(
        self, x: Tensor, condition: Tensor | None = None, skips: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, C, T), condition (B, D, T or 1) -> the last residual (B, C, T), summed skips.

        skips (B, S, T): of the stacks before this one, to which its own are added.
        """
        x, gates = self.units(self.blocks, x, condition)
        return x, self._with_skips(skips, gates, condition)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StackState:
        """Zeros: a tuple of (B, C, H), one a block, in block order."""
        return tuple(
            block.init_state(batch_size, device=device, dtype=dtype) for block in self.blocks
        )

    def step(
        self,
        x: Tensor,
        state: StackState,
        condition: Tensor | None = None,
        skips: Tensor | None = None,
    ) -> tuple[tuple[Tensor, Tensor], StackState]:
        """The next n inputs and the state -> ((the last residual, summed skips), new state)."""
        if len(state) != len(self.blocks):
            raise ValueError(
                f"{type(self).__name__}.step got a state of {len(state)} parts, but has "
                f"{len(self.blocks)} blocks, one part each."
            )
        gates, states = [], []
        for block, past in zip(self.blocks, state, strict=True):
            (x, z), past = block.unit_step(x, past, condition)
            gates.append(z)
            states.append(past)
        return (x, self._with_skips(skips, gates, condition)), tuple(states)

    def _with_skips(self, skips: Tensor | None, gates: Gates, condition: Tensor | None) -> Tensor:
        """skips + sum over blocks of W_s z, or what `collect` makes of them."""
        parts = [block.skip for block in self.blocks]
        before = [] if skips is None else [skips]
        if (
            isinstance(self.collect, Summed)
            and all(map(_is_a_product, parts))
            and len({part.bias is None for part in parts}) == 1
        ):
            biases = [part.bias for part in parts if part.bias is not None]
            total = ops.summed_products(gates, [part.weight for part in parts], biases)
            return self.collect([*before, total]) if before else total
        if isinstance(gates, Tensor):
            gates = gates.chunk(len(parts), dim=1)
        own = [applied(part, z, condition) for part, z in zip(parts, gates, strict=True)]
        return self.collect([*before, *own])


def _is_a_product(part: nn.Module) -> bool:
    plain = (nn.Conv1d.forward, CausalConv1d.forward)
    return (
        isinstance(part, nn.Conv1d)
        and type(part).forward in plain
        and part.kernel_size == part.stride == (1,)
        and part.padding == (0,)
        and part.groups == 1
    )


def residual_blocks(
    dilations: Sequence[int],
    residual_channels: int,
    gate_channels: int,
    skip_channels: int,
    kernel_size: int = 2,
    condition_channels: int = 0,
    residual_scale: float = 1.0,
) -> list[ResidualBlock]:
    """The paper's blocks, one a dilation, of which the last has no residual of its own.

    Arguments as for `ResidualBlock`; dilations as from `dilation_cycles(3, 10)`.
    """
    return [
        ResidualBlock(
            residual_channels,
            gate_channels,
            skip_channels,
            kernel_size,
            dilation,
            condition_channels,
            residual_scale,
            last=index == len(dilations) - 1,
        )
        for index, dilation in enumerate(dilations)
    ]


class ResidualStack(Stack):
    """The paper's stack: `residual_blocks` whose summed skips come out.

    The other arguments are those of `ResidualBlock`.

    Args:
        dilations: one a block, as from `dilation_cycles(3, 10)`.
    """

    def __init__(
        self,
        dilations: Sequence[int],
        residual_channels: int,
        gate_channels: int,
        skip_channels: int,
        kernel_size: int = 2,
        condition_channels: int = 0,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__(
            residual_blocks(
                dilations,
                residual_channels,
                gate_channels,
                skip_channels,
                kernel_size,
                condition_channels,
                residual_scale,
            )
        )

    def forward(  # type: ignore[override]
        self, x: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """x (B, C, T), condition (B, D, T or 1) -> summed skips (B, S, T)."""
        return super().forward(x, condition)[1]

    def step(  # type: ignore[override]
        self, x: Tensor, state: StackState, condition: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """The next n inputs and the state -> summed skips (B, S, n) and the new state."""
        (_, skips), state = super().step(x, state, condition)
        return skips, state
