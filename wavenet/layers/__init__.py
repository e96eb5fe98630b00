"""Owns the causal blocks: `CausalConv1d`, `ResidualBlock`, `ResidualStack`. Knows nothing of codes, labels or sampling.

Each block has one meaning in two forms. `forward` takes a whole sequence, padded with zeros on the left. `init_state` and
`step` take it piece by piece: for every way of cutting x along time, the concatenated outputs of `step`, starting from
`init_state`, equal `forward(x)`. A state is a value: `step` returns a new one and never writes to the one it was given.

Features come and go as (B, C, T), but lie in memory as rows, (B, T, C), and that is how everything in here is computed: a
convolution is then one matrix product over its stacked taps, which in bfloat16 on a CPU takes a quarter of the time of
F.conv1d, and a compiler keeps the gradients in rows too (benchmarks/results/log.md). `x.mT` goes from one to the other.

Shapes: B batch, C channels, T time, H history = (kernel_size - 1) * dilation.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BlockState = Tensor  # (B, C, H): the last H inputs of the dilated convolution, oldest first
StackState = tuple[BlockState, ...]  # one a block, in block order


def dilation_cycles(cycles: int, layers_per_cycle: int) -> list[int]:
    """1, 2, 4, ..., 2^(layers_per_cycle - 1), repeated `cycles` times (van den Oord et al. 2016, section 2.1)."""
    return [2**layer for _ in range(cycles) for layer in range(layers_per_cycle)]


class CausalConv1d(nn.Conv1d):
    """A dilated convolution whose output at time t sees inputs up to and including t only.

        y[t] = bias + sum_k weight[:, :, k] x[t - (kernel_size - 1 - k) * dilation],   x[t < 0] = 0

        kernel_size 3, dilation 2:        x   0 0 0 0 a b c d e        (H = 4 zeros on the left)
                                                  |   |   |
                                          y           `---`--- y[c] = w0 * 0 + w1 * a + w2 * c

    An `nn.Conv1d` with the same parameters `(out, in / groups, kernel_size)` and the same state_dict keys, so that weights
    move between the two. Output length equals input length.

    Raises ValueError for a stride other than 1, for padding arguments, and for anything but one-dimensional kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: Any = None,
        dilation: int | tuple[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if stride not in (1, (1,)):
            raise ValueError(
                f"CausalConv1d got stride={stride!r}, but only 1 is allowed: its output is as long as its input, so that it "
                "can run sample by sample. Slice the output, y[..., ::stride], or put an nn.Conv1d behind it."
            )
        if padding is not None or padding_mode is not None:
            raise ValueError(
                f"CausalConv1d got padding={padding!r}, padding_mode={padding_mode!r}, but it takes no padding arguments: it "
                "always pads (kernel_size - 1) * dilation zeros on the left and none on the right. Leave them out."
            )
        super().__init__(
            in_channels,
            out_channels,
            _one_size("kernel_size", kernel_size),
            dilation=_one_size("dilation", dilation),
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    @property
    def history(self) -> int:
        """H, how many past inputs an output depends on: (kernel_size - 1) * dilation."""
        return (self.kernel_size[0] - 1) * self.dilation[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T). Raises ValueError for any other shape."""
        check_features(x, self.in_channels)
        return self.over_rows(x.mT).mT

    def over_rows(self, x: Tensor) -> Tensor:
        """As `forward`, (B, T, in_channels) -> (B, T, out_channels), which it does not check."""
        return self._convolve(
            F.pad(x, (0, 0, self.history, 0)) if self.history else x
        )  # by nothing, F.pad copies

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BlockState:
        """The state before the first sample: zeros (B, in_channels, H), which is what left padding means."""
        return self.weight.new_zeros(
            (batch_size, self.in_channels, self.history), device=device, dtype=dtype
        )

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """The next n >= 1 inputs (B, in_channels, n) and the state -> outputs (B, out_channels, n) and the new state."""
        check_features(x, self.in_channels)
        expected = (x.shape[0], self.in_channels, self.history)
        if tuple(state.shape) != expected:
            raise ValueError(
                f"CausalConv1d.step got a state of shape {tuple(state.shape)} beside an input of shape {tuple(x.shape)}, but "
                f"this convolution's state is (batch, channels, history) = {expected}. Start from init_state({x.shape[0]})."
            )
        padded = torch.cat([state, x], dim=-1)
        state = padded[..., x.shape[-1] :].clone(memory_format=torch.contiguous_format)
        return self._convolve(padded.mT).mT, state

    def _convolve(self, padded: Tensor) -> Tensor:
        """padded (B, H + T, C) -> (B, T, out_channels): y[t] = bias + W [x[t - H], ..., x[t - dilation], x[t]]."""
        if self.groups > 1:
            return F.conv1d(
                padded.mT, self.weight, self.bias, dilation=self.dilation, groups=self.groups
            ).mT
        time, taps, dilation = padded.shape[1] - self.history, self.kernel_size[0], self.dilation[0]
        if taps == 1:
            return affine(padded, self.weight[..., 0], self.bias)
        stacked = torch.cat(
            [padded[:, k * dilation : k * dilation + time] for k in range(taps)], dim=-1
        )
        return affine(stacked, torch.cat(self.weight.unbind(-1), dim=1), self.bias)


class ResidualBlock(nn.Module):
    """One gated residual block (van den Oord et al. 2016, equations 2 and 3).

        z        = tanh(W_f * x + V_f h) . sigmoid(W_g * x + V_g h)      `gate`
        residual = (x + W_r z) * residual_scale                          to the next block
        skip     = W_s z                                                 to the head

    `*` is the dilated causal convolution, h the optional conditioning, W_r and W_s are 1x1 convolutions.

    Args:
        residual_channels: channels of x and of the residual.
        gate_channels: channels of z, after the gate; the dilated convolution makes twice as many.
        skip_channels: channels of the skip output.
        kernel_size, dilation: of the causal convolution.
        condition_channels: channels of h; 0 for a block without conditioning.
        residual_scale: factor on the residual; sqrt(0.5) keeps the variance constant over depth.
        last: the last block of a stack has no W_r, since nobody reads its residual; it hands x through.
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
        super().__init__()
        self.condition_channels = condition_channels
        self.residual_scale = residual_scale
        self.dilated = CausalConv1d(
            residual_channels, 2 * gate_channels, kernel_size, dilation=dilation
        )
        self.condition = (
            CausalConv1d(condition_channels, 2 * gate_channels, 1, bias=False)
            if condition_channels
            else None
        )
        self.residual = None if last else CausalConv1d(gate_channels, residual_channels, 1)
        self.skip = CausalConv1d(gate_channels, skip_channels, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, residual_channels, T), condition (B, condition_channels, T or 1) -> residual, skip (B, their channels, T).

        Raises ValueError for wrong shapes, and for a condition that is missing or not expected.
        """
        check_features(x, self.dilated.in_channels)
        residual, z = self.unit(x.mT, self.condition_rows(condition, x.shape[-1]))
        return residual.mT, self.skip.over_rows(z).mT

    def unit(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `forward` over rows, x (B, T, C), condition (B, T or 1, condition_channels) -> residual (B, T, C) and, in the
        place of the skip, which a stack takes of all blocks at once, z (B, T, gate_channels). It checks nothing.

        `wavenet.training.kernels.fuse` puts a fused kernel in its place.
        """
        z = self.gate(self.dilated.over_rows(x), condition)
        return self.add_residual(x, z), z

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BlockState:
        """Zeros (B, residual_channels, H)."""
        return self.dilated.init_state(batch_size, device=device, dtype=dtype)

    def step(
        self, x: Tensor, state: BlockState, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], BlockState]:
        """The next n inputs -> ((residual, skip), new state); condition is (B, condition_channels, n or 1)."""
        (residual, z), state = self.unit_step(x, state, self.condition_rows(condition, x.shape[-1]))
        return (residual.mT, self.skip.over_rows(z).mT), state

    def unit_step(
        self, x: Tensor, state: BlockState, condition: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], BlockState]:
        """To `unit` what `step` is to `forward`; but x is (B, C, n), as a state is."""
        h, state = self.dilated.step(x, state)
        z = self.gate(h.mT, condition)
        return (self.add_residual(x.mT, z), z), state

    def gate(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """(B, T, 2 * gate_channels) -> (B, T, gate_channels): equation 3, the filter's half first."""
        steering = self.steering(condition)
        filter_, gate = (h if steering is None else h + steering).chunk(2, dim=-1)
        # Of half rows of less than 64 channels torch's sigmoid takes seven times as long as of whole ones, on a CPU.
        return _tanh(filter_) * torch.sigmoid(gate.contiguous())

    def steering(self, condition: Tensor | None) -> Tensor | None:
        """V h, what a condition adds before the gate: (B, time or 1, 2 * gate_channels); None for a block without."""
        return (
            None
            if self.condition is None or condition is None
            else self.condition.over_rows(condition)
        )

    def add_residual(self, x: Tensor, z: Tensor) -> Tensor:
        if self.residual is None:
            return x
        residual = x + self.residual.over_rows(z)
        return residual if self.residual_scale == 1.0 else residual * self.residual_scale

    def condition_rows(self, condition: Tensor | None, time: int) -> Tensor | None:
        """condition (B, condition_channels, time or 1) -> (B, time or 1, condition_channels); None for a block without.

        Raises ValueError for one of another shape, missing or not expected.
        """
        seen = "none" if condition is None else f"shape {tuple(condition.shape)}"
        if self.condition is None:
            if condition is None:
                return None
            raise ValueError(
                f"This block has no conditioning, but got a condition of {seen}. "
                "Build it with condition_channels, or leave the condition out."
            )
        if (
            condition is None
            or condition.dim() != 3
            or condition.shape[1] != self.condition_channels
            or condition.shape[2] not in (1, time)
        ):
            raise ValueError(
                f"This block wants a condition of shape (batch, {self.condition_channels}, {time} or 1), but got {seen}."
            )
        return condition.mT


class ResidualStack(nn.Module):
    """Residual blocks in sequence, one a dilation, whose skips are summed.

    Args:
        dilations: one a block, as from `dilation_cycles(3, 10)`.
        others: as for `ResidualBlock`.
    """

    blocks: list[ResidualBlock]

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
        super().__init__()
        if not dilations:
            raise ValueError("ResidualStack got no dilations; it needs at least one block.")
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
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
        )

    @property
    def receptive_field(self) -> int:
        """Input samples that one output depends on: 1 + sum over blocks of (kernel_size - 1) * dilation."""
        return 1 + sum(block.dilated.history for block in self.blocks)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, residual_channels, T), condition (B, condition_channels, T or 1) -> summed skips (B, skip_channels, T)."""
        check_features(x, self.blocks[0].dilated.in_channels)
        gates, rows, condition = [], x.mT, self.blocks[0].condition_rows(condition, x.shape[-1])
        for block in self.blocks:
            rows, z = block.unit(rows, condition)
            gates.append(z)
        return self._sum_skips(gates)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StackState:
        """Zeros: a tuple of (B, residual_channels, H), one a block, in block order."""
        return tuple(
            block.init_state(batch_size, device=device, dtype=dtype) for block in self.blocks
        )

    def step(
        self, x: Tensor, state: StackState, condition: Tensor | None = None
    ) -> tuple[Tensor, StackState]:
        """The next n inputs and the state -> summed skips (B, skip_channels, n) and the new state."""
        if len(state) != len(self.blocks):
            raise ValueError(
                f"ResidualStack.step got a state of {len(state)} parts, but has {len(self.blocks)} blocks, one part each."
            )
        gates, states, condition = [], [], self.blocks[0].condition_rows(condition, x.shape[-1])
        for block, past in zip(self.blocks, state, strict=True):
            (rows, z), past = block.unit_step(x, past, condition)
            x = rows.mT
            gates.append(z)
            states.append(past)
        return self._sum_skips(gates), tuple(states)

    def _sum_skips(self, gates: list[Tensor]) -> Tensor:
        """sum_l W_s,l z_l as one matrix product over all blocks' gates: no skip tensor is written in each block."""
        weight = torch.cat([block.skip.weight for block in self.blocks], dim=1)
        bias = torch.stack(
            [block.skip.bias for block in self.blocks if block.skip.bias is not None]
        ).sum(0)
        z = torch.cat(gates, dim=-1)  # (B, T, L * gate_channels)
        return affine(z, weight.squeeze(-1), bias).mT


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b over rows. Compiled, b is added behind the product, by the kernel that reads it next: within the product
    torch on a CPU first copies b to every row (benchmarks/results/log.md)."""
    if bias is None or not torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    y = F.linear(x, weight)
    return y + bias.to(y.dtype)


def _tanh(x: Tensor) -> Tensor:
    """tanh; compiled as 2 sigmoid(2 x) - 1, whose parts are float32 in registers then: inductor's own tanh takes three times
    as long on a CPU, a fifth of the whole training step (benchmarks/results/log.md)."""
    return 2 * torch.sigmoid(2 * x) - 1 if torch.compiler.is_compiling() else torch.tanh(x)


def _one_size(name: str, size: int | tuple[int]) -> int:
    sizes = size if isinstance(size, tuple) else (size,)
    if len(sizes) != 1:
        raise ValueError(
            f"CausalConv1d got {name}={size!r}, {len(sizes)} sizes, but its kernel is one-dimensional, over time. "
            f"Give one integer; a {len(sizes)}-D kernel belongs to nn.Conv{len(sizes)}d."
        )
    if isinstance(sizes[0], bool) or not isinstance(sizes[0], int) or sizes[0] < 1:
        raise ValueError(f"CausalConv1d got {name}={size!r}; it must be an integer of at least 1.")
    return sizes[0]


def check_features(x: Tensor, channels: int) -> None:
    """nn.Conv1d takes (channels, time) in silence, and (batch, time, channels) too where the sizes happen to agree."""
    if x.dim() == 3 and x.shape[1] == channels and x.shape[2] > 0:
        return
    if x.dim() == 3 and x.shape[1] == channels:
        hint = "There is nothing to convolve: give at least one sample."
    elif x.dim() == 3 and x.shape[2] == channels:
        hint = "This looks like (batch, time, channels): use x.transpose(1, 2)."
    elif x.dim() == 2 and x.shape[0] == channels:
        hint = "This looks like one sequence without its batch: use x.unsqueeze(0)."
    elif x.dim() == 2 and channels == 1:
        hint = "This looks like (batch, time) audio: use x.unsqueeze(1)."
    elif x.dim() == 4:
        hint = "Four dimensions belong to nn.Conv2d; here time is the only axis."
    else:
        hint = "Check the number of channels against the layer before."
    raise ValueError(
        f"Expected features of shape (batch, {channels} channels, time), but got shape {tuple(x.shape)}. {hint}"
    )
