"""Owns the program of a feed-forward network: instructions over signals, as an engine runs them.

A `Program` is written once, by `reading`, which goes through a network as its `step` does. It knows
no module: only channels, weights, and which of a network's states each history is.

Shapes: C channels, H history, G groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

KINDS = (  # of instructions, as native.cpp has them
    *("LOAD", "STORE", "PRODUCT", "COPY"),
    *("TANH", "SIGMOID", "SILU", "HARDSWISH", "SOFTSIGN", "SOFTSIGMOID", "RATIONAL_TANH", "ELU"),
    *("BENT", "SCALE", "ADD", "MULTIPLY", "GATED", "MULTIPLY_ADD", "BLEND"),
)


class Signal(NamedTuple):
    """Channels of a buffer, `delay` samples late; what an instruction reads or writes."""

    buffer: int
    first: int
    channels: int
    delay: int = 0

    def part(self, first: int, channels: int) -> "Signal":
        """Some of its channels."""
        return self._replace(first=self.first + first, channels=channels)

    def halves(self) -> tuple["Signal", "Signal"]:
        half = self.channels // 2
        return self.part(0, half), self.part(half, half)

    def late(self, samples: int) -> "Signal":
        return self._replace(delay=self.delay + samples)


class Leaf(NamedTuple):
    """A tensor of a network's state, (B, C, H): the number of its place, in the state's order."""

    place: int
    channels: int
    history: int


@dataclass
class Buffer:
    """leaf: of which it holds the history; None for what one block leaves to nobody."""

    channels: int
    leaf: Leaf | None = None


@dataclass(frozen=True)
class Instruction:
    """out = kind(sources), for each channel of out; see native.cpp for what each kind computes.

    numbers: of a PRODUCT a bias and weights (out, 1 + channels of all sources), else constants
        (out, any); of LOAD and STORE the number of a port.
    plus: what is added to a PRODUCT.
    """

    kind: str
    out: Signal | None
    sources: tuple[Signal, ...] = ()
    plus: Signal | None = None
    numbers: Tensor | None = None
    port: int = 0

    @property
    def inputs(self) -> tuple[Signal, ...]:
        return self.sources if self.plus is None else (*self.sources, self.plus)


@dataclass
class Program:
    """Instructions in order.

    inputs: channels of the tensors that come in, ports 0, 1, ...; outputs: of those that go out, on
    the ports behind.
    """

    instructions: list[Instruction] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def new(self, channels: int, leaf: Leaf | None = None) -> Signal:
        self.buffers.append(Buffer(channels, leaf))
        return Signal(len(self.buffers) - 1, 0, channels)

    def load(self, channels: int) -> Signal:
        """The next tensor that comes in."""
        signal = self.new(channels)
        self.instructions.append(Instruction("LOAD", signal, port=len(self.inputs)))
        self.inputs.append(channels)
        return signal

    def store(self, signal: Signal) -> None:
        """The next tensor that goes out. All that come in are loaded before."""
        port = len(self.inputs) + len(self.outputs)
        self.instructions.append(Instruction("STORE", None, (signal,), port=port))
        self.outputs.append(signal.channels)

    def remembered(self, signal: Signal, leaf: Leaf) -> Signal:
        """The same, with a state's leaf as its past: it can then be read up to H samples late."""
        if self._is_whole(signal) and self._is_scratch(signal):
            self.buffers[signal.buffer].leaf = leaf
            return signal
        return self.each("COPY", signal, out=self.new(signal.channels, leaf))

    def product(
        self,
        sources: Sequence[Signal],
        weight: Tensor,
        bias: Tensor | None = None,
        plus: Signal | None = None,
        out: Signal | None = None,
    ) -> Signal:
        """plus + bias + weight (out, channels of all sources) times the sources."""
        weight = weight.detach().float()
        bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().float()
        out = self.new(len(weight)) if out is None else out
        numbers = torch.cat([bias[:, None], weight], dim=1)
        self.instructions.append(Instruction("PRODUCT", out, tuple(sources), plus, numbers))
        return out

    def each(
        self, kind: str, *sources: Signal, constants: Any = (), out: Signal | None = None
    ) -> Signal:
        """Of each number by itself. constants: the same for all channels, or (channels, any)."""
        channels = sources[0].channels
        assert all(source.channels == channels for source in sources), (kind, sources)
        numbers = torch.as_tensor(constants, dtype=torch.float32).detach()
        out = self.new(channels) if out is None else out
        given = numbers.expand(channels, -1) if numbers.numel() else None
        self.instructions.append(Instruction(kind, out, tuple(sources), None, given))
        return out

    def joined(self, signals: Sequence[Signal]) -> Signal:
        """All channels of all signals, one behind the other."""
        out, first = self.new(sum(signal.channels for signal in signals)), 0
        for signal in signals:
            self.each("COPY", signal, out=out.part(first, signal.channels))
            first += signal.channels
        return out

    def without_unread(self) -> "Program":
        """Without the instructions that nobody needs, such as a last residual's."""
        needed = {index for index, buffer in enumerate(self.buffers) if buffer.leaf is not None}
        kept = []
        for instruction in reversed(self.instructions):
            if instruction.out is None or instruction.out.buffer in needed:
                kept.append(instruction)
                needed |= {signal.buffer for signal in instruction.inputs}
        return replace(self, instructions=kept[::-1])

    def scratch(self) -> tuple[dict[int, int], int]:
        """Buffers without a history -> the first plane of each, and how many planes there are.

        A buffer takes the planes of one that nobody reads any more, so that the scratch stays in
        the nearest cache.
        """
        ends = {signal.buffer: index for index, signal in self._mentions()}
        planes: dict[int, int] = {}
        free: dict[int, list[int]] = {}  # channels -> first planes
        count = 0
        for index, instruction in enumerate(self.instructions):
            over = {s.buffer for s in instruction.inputs if ends[s.buffer] == index}
            replaced = over & self._replaceable(instruction)
            self._give_back(replaced, planes, free)
            out = instruction.out
            if out is not None and out.buffer not in planes and self._is_scratch(out):
                channels = self.buffers[out.buffer].channels
                if free.get(channels):
                    planes[out.buffer] = free[channels].pop()
                else:
                    planes[out.buffer], count = count, count + channels
            self._give_back(over - replaced, planes, free)
        return planes, count

    def _replaceable(self, instruction: Instruction) -> set[int]:
        """The buffers whose place the result may take: each number is read before it is written."""
        if instruction.out is None or not self._is_whole(instruction.out):
            return set()
        product = instruction.kind == "PRODUCT"
        read = {instruction.plus} if product else {*instruction.sources}
        others = {source.buffer for source in instruction.sources} if product else set()
        return {s.buffer for s in read if s is not None and self._is_whole(s)} - others

    def _is_whole(self, signal: Signal) -> bool:
        channels = self.buffers[signal.buffer].channels
        return (signal.first, signal.channels, signal.delay) == (0, channels, 0)

    def _is_scratch(self, signal: Signal) -> bool:
        return self.buffers[signal.buffer].leaf is None

    def _give_back(
        self, buffers: set[int], planes: dict[int, int], free: dict[int, list[int]]
    ) -> None:
        for buffer in sorted(buffers & planes.keys()):
            free.setdefault(self.buffers[buffer].channels, []).append(planes[buffer])

    def _mentions(self) -> Iterator[tuple[int, Signal]]:
        """Every signal that an instruction reads or writes, with the instruction's number."""
        for index, instruction in enumerate(self.instructions):
            yield from ((index, signal) for signal in instruction.inputs)
            if instruction.out is not None:
                yield index, instruction.out
