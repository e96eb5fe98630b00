"""Owns how each package spells what `offers.py` tries: its modules, and a stream of one.

Knows nothing of what is tried. Needs pytorch-tcn and cached-conv.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cached_conv
import pytorch_tcn
import torch
from pytorch_tcn.buffer import BufferIO
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import wavenet
from wavenet.interop.onnx import flat_state

CHUNK = 8  # samples of a chunk where all are alike
DILATIONS = [1, 3, 9, 2]


class NotOffered(Exception):
    """The package has no spelling of it."""


class Package:
    """Modules, and a stream of one: what `start` gives, `push` goes on with and `fork` copies."""

    distribution: str

    def convolution(self, kernel: int = 5, dilation: int = 2) -> nn.Module:
        """Causal, of 2 channels."""
        raise NotOffered

    def lookahead(self) -> tuple[nn.Module, int]:
        """Of 2 channels, kernel size 5, 2 samples ahead; how many samples late it streams."""
        raise NotOffered

    def strided(self) -> tuple[nn.Module, int]:
        """Of 2 channels, kernel size 4, stride 2; how many outputs late it streams."""
        raise NotOffered

    def transposed(self) -> tuple[nn.Module, int]:
        """As `strided`."""
        raise NotOffered

    def network(self) -> nn.Module:
        """Of 2 channels, kernel size 2 and DILATIONS."""
        raise NotOffered

    def steered(self) -> nn.Module:
        """Of 2 channels, and a condition of 3."""
        raise NotOffered

    def normed(self) -> nn.Module:
        """`convolution` with weight norm."""
        return weight_norm(self.convolution())

    def whole(self, module: nn.Module, x: Tensor, *condition: Tensor) -> Tensor:
        return module(x, *condition)

    def start(self, module: nn.Module, batch: int) -> Any:
        return module

    def push(self, stream: Any, x: Tensor, *condition: Tensor) -> Tensor:
        return stream(x, *condition)

    def fork(self, stream: Any) -> Any:
        return copy.deepcopy(stream)

    def graph(self, module: nn.Module) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """(x, *state) -> (y, *new state), and the first state; () where it has none to give."""
        return module, ()


@dataclass
class Stream:
    module: Any
    state: Any


class Ours(Package):
    distribution = "wavenet-torch"

    class Step(nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module
            self.first, self.rebuild = flat_state(module.init_state(1))

        def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            y, new = self.module.step(x, self.rebuild(state))
            return y, *flat_state(new)[0]

    def convolution(self, kernel: int = 5, dilation: int = 2) -> nn.Module:
        return wavenet.CausalConv1d(2, 2, kernel, dilation=dilation)

    def lookahead(self) -> tuple[nn.Module, int]:
        convolution = wavenet.LookaheadConv1d(2, 2, 5, lookahead=2)
        return convolution, convolution.latency

    def strided(self) -> tuple[nn.Module, int]:
        return wavenet.CausalStridedConv1d(2, 2, 4, 2), 0

    def transposed(self) -> tuple[nn.Module, int]:
        return wavenet.CausalConvTranspose1d(2, 2, 4, 2), 0

    def network(self) -> nn.Module:
        return wavenet.ResidualStack(DILATIONS, 2, 4, 2, kernel_size=2)

    def steered(self) -> nn.Module:
        return wavenet.ResidualStack(DILATIONS, 2, 4, 2, kernel_size=2, condition_channels=3)

    def start(self, module: Any, batch: int) -> Stream:
        return Stream(module, module.init_state(batch))

    def push(self, stream: Stream, x: Tensor, *condition: Tensor) -> Tensor:
        y, stream.state = stream.module.step(x, stream.state, *condition)
        return y

    def fork(self, stream: Stream) -> Stream:
        return Stream(stream.module, stream.state)

    def graph(self, module: nn.Module) -> tuple[nn.Module, tuple[Tensor, ...]]:
        step = self.Step(module)
        return step, tuple(step.first)


class PytorchTCN(Package):
    """One convolution can be given its state as a `BufferIO`; the network keeps its own."""

    distribution = "pytorch-tcn"

    class Step(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            buffers = BufferIO(state)
            return self.module(x, inference=True, buffer_io=buffers), *buffers.out_buffers

    class Hidden(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x, inference=True)

    def convolution(self, kernel: int = 5, dilation: int = 2) -> nn.Module:
        return pytorch_tcn.TemporalConv1d(2, 2, kernel, dilation=dilation)

    def lookahead(self) -> tuple[nn.Module, int]:
        return pytorch_tcn.TemporalConv1d(2, 2, 5, lookahead=2), 2

    def strided(self) -> tuple[nn.Module, int]:
        return pytorch_tcn.TemporalConv1d(2, 2, 4, stride=2), 0

    def transposed(self) -> tuple[nn.Module, int]:
        return pytorch_tcn.TemporalConvTranspose1d(2, 2, 4, stride=2), 0

    def network(self, **settings: Any) -> nn.Module:
        widths = [2] * len(DILATIONS)
        return pytorch_tcn.TCN(2, widths, 2, DILATIONS, use_norm=None, **settings).eval()

    def steered(self) -> nn.Module:
        return self.network(embedding_shapes=[(3,)])

    def start(self, module: Any, batch: int) -> Any:
        if not isinstance(module, pytorch_tcn.TCN):
            return Stream(module, BufferIO())
        module.reset_buffers()
        return module

    def push(self, stream: Any, x: Tensor, *condition: Tensor) -> Tensor:
        if not isinstance(stream, Stream):
            return stream(x, *condition, inference=True)
        y = stream.module(x, inference=True, buffer_io=stream.state)
        stream.state.step()
        return y

    def fork(self, stream: Stream) -> Stream:
        buffers = list(stream.state.in_buffers)
        stream.state = BufferIO(buffers)
        return Stream(stream.module, BufferIO(buffers))

    def graph(self, module: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network takes no `BufferIO` (TCN.forward has no such argument)."""
        if isinstance(module, pytorch_tcn.TCN):
            return self.Hidden(self.start(module, 1)), ()
        return self.Step(module), (torch.zeros_like(module.buffer),)


class CachedConv(Package):
    """What is trained and what streams are two modules; both are here, with the same weights."""

    distribution = "cached-conv"

    class Twin(nn.Module):
        def __init__(self, build: Callable[[], Any]) -> None:
            super().__init__()
            cached_conv.use_cached_conv(False)
            self.plain = build()
            cached_conv.use_cached_conv(True)
            self.cached = build()
            self.cached.load_state_dict(self.plain.state_dict())

    def convolution(self, kernel: int = 5, dilation: int = 2) -> nn.Module:
        return self.Twin(lambda: self._convolution(kernel, dilation))

    def _convolution(self, kernel: int, dilation: int, mode: str = "causal", **more: int) -> Any:
        padding = cached_conv.get_padding(kernel, dilation=dilation, mode=mode)
        return cached_conv.Conv1d(2, 2, kernel, padding=padding, dilation=dilation, **more)

    def normed(self) -> nn.Module:
        return self.Twin(lambda: weight_norm(self._convolution(5, 2)))

    def _late(self, build: Callable[[], Any]) -> tuple[nn.Module, int]:
        twin = self.Twin(build)
        return twin, twin.cached.cumulative_delay

    def lookahead(self) -> tuple[nn.Module, int]:
        return self._late(lambda: self._convolution(5, 1, mode="centered"))

    def strided(self) -> tuple[nn.Module, int]:
        return self._late(lambda: self._convolution(4, 1, stride=2))

    def transposed(self) -> tuple[nn.Module, int]:
        return self._late(lambda: cached_conv.ConvTranspose1d(2, 2, 4, stride=2, padding=1))

    def network(self) -> nn.Module:
        return self.Twin(
            lambda: cached_conv.CachedSequential(*(self._convolution(2, d) for d in DILATIONS))
        )

    def whole(self, module: Any, x: Tensor, *condition: Tensor) -> Tensor:
        return module.plain(x)

    def start(self, module: Any, batch: int) -> Any:
        for part in module.cached.modules():
            if hasattr(part, "initialized"):
                part.initialized = 0
        return module.cached

    def graph(self, module: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
        self.start(module, 1)(torch.zeros(1, 2, CHUNK))  # makes the buffers
        for buffer in module.cached.buffers():
            buffer.zero_()
        return module.cached, ()


class Torch(Package):
    """nn.Conv1d behind zeros on the left. It has no state: every chunk begins with silence."""

    distribution = "torch"

    def convolution(self, kernel: int = 5, dilation: int = 2, **more: int) -> nn.Module:
        zeros = nn.ConstantPad1d(((kernel - 1) * dilation, 0), 0.0)
        return nn.Sequential(zeros, nn.Conv1d(2, 2, kernel, dilation=dilation, **more))

    def normed(self) -> nn.Module:
        padded = self.convolution()
        weight_norm(padded[1])
        return padded

    def lookahead(self) -> tuple[nn.Module, int]:
        return nn.Conv1d(2, 2, 5, padding=2), 0

    def strided(self) -> tuple[nn.Module, int]:
        return self.convolution(4, 1, stride=2), 0

    def transposed(self) -> tuple[nn.Module, int]:
        return nn.ConvTranspose1d(2, 2, 4, stride=2, padding=1), 0

    def network(self) -> nn.Module:
        return nn.Sequential(*(self.convolution(2, dilation) for dilation in DILATIONS))


PACKAGES = (Ours(), PytorchTCN(), CachedConv(), Torch())
