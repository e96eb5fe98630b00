"""Owns the dilated convolutions: `CausalConv1d`, which can run step by step, and `CentredConv1d`.

Shapes: B batch, C channels, T time, H history = (kernel_size - 1) * dilation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from wavenet import ops
from wavenet.layers.timing import Timed, Timing

BlockState = Tensor  # (B, C, H): the last H inputs of a dilated convolution, oldest first


MOST_HISTORY = 2**24  # samples: 17 minutes at 16 kHz
MOST_WEIGHTS = 2**31


class PastInputs(Timed):
    """A convolution whose state is its last H inputs: zeros before the first sample."""

    weight: Tensor
    in_channels: int
    history: int

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BlockState:
        """The state before the first sample: zeros (B, in_channels, H), as left padding means."""
        shape = (batch_size, self.in_channels, self.history)
        return self.weight.new_zeros(shape, device=device, dtype=dtype)


class CausalConv1d(nn.Conv1d, PastInputs):
    """A dilated convolution whose output at time t sees inputs up to and including t only.

        y[t] = bias + sum_k weight[:, :, k] x[t - (K - 1 - k) * dilation],   x[t < 0] = 0

        kernel_size K = 3, dilation 2:    x   0 0 0 0 a b c d e        (H = 4 zeros on the left)
                                                  |   |   |
                                          y           `---`--- y[c] = w0 * 0 + w1 * a + w2 * c

    An `nn.Conv1d` with the same parameters `(out, in / groups, K)` and the same state_dict keys,
    so that weights move between the two. Output length equals input length.

    Raises ValueError for a stride other than 1, for padding arguments, and for anything but
    one-dimensional kernels.
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
        kind = type(self).__name__
        _require_no_stride_nor_padding(kind, stride, padding, padding_mode)
        kernel, step, _ = checked_sizes(kind, in_channels, out_channels, kernel_size, dilation)
        super().__init__(
            in_channels,
            out_channels,
            kernel,
            dilation=step,
            groups=groups,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    @property
    def history(self) -> int:  # type: ignore[override]
        """H, how many past inputs an output depends on: (kernel_size - 1) * dilation."""
        return (self.kernel_size[0] - 1) * self.dilation[0]

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        return Timing.past(self.history)

    @property
    def pointwise(self) -> bool:
        """Whether it has nothing to remember: one tap."""
        return not self.history

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T). Raises ValueError for any other shape."""
        check_features(x, self.in_channels)
        return self._convolve(ops.pad_left(x, self.history))

    def init_state(self, batch_size: int, **where: Any) -> BlockState:
        """The state before the first sample: zeros (B, in_channels, H), as left padding means.

        where: device and dtype, those of the weight where none are given.

        Raises ValueError for a subclass that computes something else and has no `step` of its own.
        """
        kind = type(self)
        if kind.forward is not CausalConv1d.forward and kind.step is CausalConv1d.step:
            raise ValueError(
                f"{kind.__name__} has a forward of its own, but the step of CausalConv1d, which "
                "does not compute the same. Give it an init_state and a step of its own too."
            )
        return super().init_state(batch_size, **where)

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """The next n >= 1 inputs (B, in, n) and the state -> outputs (B, out, n), new state."""
        check_features(x, self.in_channels)
        check_state(self, x, state)
        padded = torch.cat([state, x], dim=-1)
        state = padded[..., x.shape[-1] :].clone(memory_format=torch.contiguous_format)
        return self._convolve(padded), state

    def register_forward_pre_hook(self, hook: Any, *args: Any, **settings: Any) -> Any:
        """As torch's, but for the weight norm of older versions, which `step` would not see."""
        if isinstance(hook, WeightNorm):
            raise ValueError(
                "torch.nn.utils.weight_norm renews the weight in forward alone, so that step would "
                "take an old one. Use torch.nn.utils.parametrizations.weight_norm."
            )
        return super().register_forward_pre_hook(hook, *args, **settings)

    def _convolve(self, padded: Tensor) -> Tensor:
        """padded (B, in, H + T) -> (B, out, T)."""
        return ops.convolution(padded, self.weight, self.bias, self.dilation[0], self.groups)


class CentredConv1d(CausalConv1d):
    """A dilated convolution whose output at time t sees as far ahead as back.

        y[t] = bias + sum_k weight[:, :, k] x[t + (k - (K - 1) / 2) * dilation]

    For models that see the whole clip at once (DiffWave, Kong et al. 2021). kernel_size K is odd,
    otherwise ValueError. It looks ahead, so it has no `step`: asking for one raises ValueError.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **settings: Any):
        super().__init__(in_channels, out_channels, kernel_size, **settings)
        if self.kernel_size[0] % 2 == 0:
            raise ValueError(
                f"CentredConv1d got kernel_size={kernel_size}; it must be odd, to have a middle."
            )

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        ahead = self.history // 2
        return Timing((lambda first, last: (first - ahead, last + ahead),))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T). Raises ValueError for any other shape."""
        check_features(x, self.in_channels)
        before = ops.pad_left(x, self.history // 2)
        return self._convolve(nn.functional.pad(before, (0, self.history // 2)))

    def init_state(self, batch_size: int, **_: Any) -> BlockState:
        """Raises ValueError: there is no state."""
        raise ValueError(
            "CentredConv1d sees future samples, so it has no state and cannot run step by step. "
            "Use forward on the whole sequence, or build the block with CausalConv1d."
        )

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """Raises ValueError, as `init_state` does."""
        raise ValueError(
            "CentredConv1d sees future samples, so it cannot run step by step. "
            "Use forward on the whole sequence, or build the block with CausalConv1d."
        )


class LookaheadConv1d(CausalConv1d):
    """A `CausalConv1d` whose output at time t belongs to the input at time t - lookahead.

    It computes what `CausalConv1d` computes: a stream cannot see the future, it can only answer
    late. What it adds is that it says so: `latency`, which `Chain` adds up and `Parallel` compares.

        kernel_size 3, lookahead 1:   x   a b c d e
                                          |_|_|
                                      y       `---  y[2] = w0 a + w1 b + w2 c, belongs to b

    With half of the history as lookahead it is a `CentredConv1d`, `lookahead` samples later.

    Args:
        lookahead: from 0 to (kernel_size - 1) * dilation, otherwise ValueError.
        settings: as for `CausalConv1d`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, lookahead: int, **settings: Any
    ):
        super().__init__(in_channels, out_channels, kernel_size, **settings)
        whole = isinstance(lookahead, int) and not isinstance(lookahead, bool)
        if not whole or not 0 <= lookahead <= self.history:
            raise ValueError(
                f"LookaheadConv1d got lookahead={lookahead!r}; it must be an integer from 0 to "
                f"(kernel_size - 1) * dilation = {self.history}."
            )
        self.lookahead = lookahead

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        return Timing.past(self.history, self.lookahead)


def _require_no_stride_nor_padding(kind: str, stride: Any, padding: Any, mode: Any) -> None:
    if stride not in (1, (1,)):
        raise ValueError(
            f"{kind} got stride={stride!r}, but only 1 is allowed: its output is as long as its "
            "input, so that it can run sample by sample. Slice the output, y[..., ::stride], or "
            "use CausalStridedConv1d."
        )
    if padding is not None or mode is not None:
        raise ValueError(
            f"{kind} got padding={padding!r}, padding_mode={mode!r}, but it takes no padding "
            "arguments: how many zeros it pads follows from kernel_size and dilation. "
            "Leave them out."
        )


def checked_sizes(
    kind: str,
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int],
    dilation: int | tuple[int],
    stride: int | tuple[int] = 1,
) -> tuple[int, int, int]:
    """Kernel size, dilation and stride as integers. Raises ValueError for what is none, or huge."""
    kernel, spread, step = (
        one_size(kind, name, size)
        for name, size in (
            ("kernel_size", kernel_size),
            ("dilation", dilation),
            ("stride", stride),
        )
    )
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        one_size(kind, name, channels)
    require_possible(kind, in_channels * out_channels * kernel, (kernel - 1) * spread)
    return kernel, spread, step


def one_size(kind: str, name: str, size: int | tuple[int]) -> int:
    sizes = size if isinstance(size, tuple) else (size,)
    if len(sizes) != 1:
        raise ValueError(
            f"{kind} got {name}={size!r}, {len(sizes)} sizes, but its kernel is one-dimensional, "
            f"over time. Give one integer; a {len(sizes)}-D kernel belongs to "
            f"nn.Conv{len(sizes)}d."
        )
    if isinstance(sizes[0], bool) or not isinstance(sizes[0], int) or sizes[0] < 1:
        raise ValueError(f"{kind} got {name}={size!r}; it must be an integer of at least 1.")
    return sizes[0]


def require_possible(kind: str, weights: int, history: int) -> None:
    """Sizes that are allowed one by one may together ask for more than any machine has."""
    for sizes, count, unit, most in (
        ("channels and kernel_size", weights, "weights", MOST_WEIGHTS),
        ("kernel_size and dilation", history, "samples of history", MOST_HISTORY),
    ):
        if count > most:
            raise ValueError(
                f"{kind}'s {sizes} make {count:,} {unit}, but at most {most:,} are possible."
            )


def check_state(convolution: Any, x: Tensor, state: BlockState) -> None:
    """Raises ValueError for anything but the convolution's (batch, channels, history)."""
    expected = (x.shape[0], convolution.in_channels, convolution.history)
    if not isinstance(state, Tensor) or tuple(state.shape) != expected:
        seen = f"shape {tuple(state.shape)}" if isinstance(state, Tensor) else f"type {type(state)}"
        raise ValueError(
            f"{type(convolution).__name__}.step got a state of {seen} beside an input of "
            f"shape {tuple(x.shape)}, but this convolution's state is (batch, channels, "
            f"history) = {expected}. Start from init_state({x.shape[0]})."
        )


def check_features(x: Tensor, channels: int) -> None:
    """Raises ValueError for anything but (batch, channels, time), with the likely mistake.

    nn.Conv1d takes (channels, time) without a word, and (batch, time, channels) too where the sizes
    happen to agree.
    """
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
        f"Expected features of shape (batch, {channels} channels, time), but got shape "
        f"{tuple(x.shape)}. {hint}"
    )
