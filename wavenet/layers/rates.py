"""Owns the causal convolutions that change the rate: with a stride, and transposed.

Chunks: the length of every input of `CausalStridedConv1d` is a multiple of its stride S, so that
n samples become n / S and no half-filled group waits between chunks. `CausalConvTranspose1d` takes
any n and makes n * S. Shapes: B batch, C channels, T time, K kernel size, S stride, H history.
"""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.layers.convolution import (
    BlockState,
    PastInputs,
    check_features,
    check_state,
    checked_sizes,
)
from wavenet.layers.timing import Timing


class CausalStridedConv1d(nn.Conv1d, PastInputs):
    """One output for each group of S inputs, that sees its group and what was before, no more.

        y[m] = bias + sum_k weight[:, :, k] x[m S + S - 1 - (K - 1 - k) * dilation],  x[t < 0] = 0

        K = 4, S = 2:   x   0 0 a b c d e f          (H = (K - 1) * dilation + 1 - S zeros)
                            `-----|
                                `-----|   y[1] = w0 a + w1 b + w2 c + w3 d
                                    `-----|

    An `nn.Conv1d` with the same parameters and state_dict keys. The output comes as soon as its
    group is whole. K may be less than S: then some inputs are not read.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        kind = type(self).__name__
        sizes = (in_channels, out_channels, kernel_size, dilation, stride)
        kernel, spread, step = checked_sizes(kind, *sizes)
        super().__init__(
            in_channels, out_channels, kernel, step, dilation=spread, groups=groups, bias=bias
        )

    @property
    def history(self) -> int:  # type: ignore[override]
        """H, past inputs before a group that its output depends on; 0 where it sees less."""
        return max(0, self._lead)

    @property
    def _lead(self) -> int:
        return (self.kernel_size[0] - 1) * self.dilation[0] + 1 - self.stride[0]

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        stride, back = self.stride[0], (self.kernel_size[0] - 1) * self.dilation[0]

        def reach(first: int, last: int) -> tuple[int, int]:
            return first * stride + stride - 1 - back, last * stride + stride - 1

        return Timing((reach,), rate=Fraction(1, stride), multiple=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T / S).

        Raises ValueError for another shape, and for a T that is no multiple of S.
        """
        self._check(x)
        return self._convolve(F.pad(x, (self.history, 0)))

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """The next n inputs, a multiple of S, and the state -> outputs (B, out, n / S), state."""
        self._check(x)
        check_state(self, x, state)
        padded = torch.cat([state, x], dim=-1)
        return self._convolve(padded), padded[..., x.shape[-1] :].clone()

    def _check(self, x: Tensor) -> None:
        check_features(x, self.in_channels)
        if x.shape[-1] % self.stride[0]:
            raise ValueError(
                f"{type(self).__name__} with stride {self.stride[0]} got {x.shape[-1]} samples, "
                f"but takes multiples of {self.stride[0]}: each group of {self.stride[0]} makes "
                "one output. Pad the end of a clip, and cut a stream at whole groups."
            )

    def _convolve(self, padded: Tensor) -> Tensor:
        skipped = padded[..., max(0, -self._lead) :]
        return F.conv1d(skipped, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class CausalConvTranspose1d(nn.ConvTranspose1d, PastInputs):
    """S outputs for each input, which see that input and those before it, no more.

        y[m] = bias + sum over t, k with t S + k * dilation = m of weight[:, :, k] x[t]

        K = 4, S = 2:   x     a       b       c
                        y   w0 a, w1 a, w2 a + w0 b, w3 a + w1 b, w2 b + w0 c, ...

    An `nn.ConvTranspose1d` with the same parameters `(in, out / groups, K)` and state_dict keys; of
    its output the first T * S samples. The state is the last H = ceil(((K - 1) * dilation + 1) / S)
    - 1 inputs, so that chunks join without a click.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        kind = type(self).__name__
        sizes = (in_channels, out_channels, kernel_size, dilation, stride)
        kernel, spread, step = checked_sizes(kind, *sizes)
        super().__init__(
            in_channels, out_channels, kernel, step, groups=groups, bias=bias, dilation=spread
        )

    @property
    def history(self) -> int:  # type: ignore[override]
        """H, how many past inputs an output depends on."""
        return self._back // self.stride[0]

    @property
    def _back(self) -> int:
        return (self.kernel_size[0] - 1) * self.dilation[0]

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        stride = self.stride[0]
        taps = [k * self.dilation[0] for k in range(self.kernel_size[0])]

        def reach(first: int, last: int) -> tuple[int, int]:
            ends = {*range(first, min(last, first + stride - 1) + 1)}
            ends |= {*range(max(first, last - stride + 1), last + 1)}
            read = [(m - k) // stride for m in ends for k in taps if (m - k) % stride == 0]
            return min(read, default=last // stride), max(read, default=last // stride)

        return Timing((reach,), rate=Fraction(stride), period=stride)

    def forward(self, x: Tensor, output_size: None = None) -> Tensor:  # type: ignore[override]
        """(B, in_channels, T) -> (B, out_channels, T * S). Raises ValueError for another shape."""
        check_features(x, self.in_channels)
        return self._convolve(x, 0)

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """The next n >= 1 inputs and the state -> outputs (B, out, n * S) and the new state."""
        check_features(x, self.in_channels)
        check_state(self, x, state)
        seen = torch.cat([state, x], dim=-1)
        return self._convolve(seen, self.history), seen[..., x.shape[-1] :].clone()

    def _convolve(self, x: Tensor, past: int) -> Tensor:
        """x (B, in, past + n) -> the outputs of the last n, (B, out, n * S)."""
        stride = self.stride[0]
        missing = max(0, stride - 1 - self._back)  # behind the last tap, where only the bias is
        y = F.conv_transpose1d(
            x, self.weight, self.bias, stride, 0, missing, self.groups, self.dilation
        )
        return y[..., past * stride : x.shape[-1] * stride]
