"""Owns the feed-forward loop's side in Python: a network's program and weights for native.cpp.

Audio in, audio out, block by block: what `step` computes, without PyTorch. One library, compiled
once, runs the programs of all networks. Knows no blocks: `reading` wrote the program.

Shapes: B streams, C channels, H history, D condition channels, n samples.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from wavenet.engines.check import check_against_step, require_streamable
from wavenet.engines.native import SOURCE
from wavenet.engines.native.compiler import library
from wavenet.engines.program import KINDS, Instruction, Program, Signal
from wavenet.engines.protocol import EngineUnavailable
from wavenet.engines.reading import copied, flat, read, rebuilt

NOWHERE = (-1, 0, 0, 0)  # a signal that there is not
LINE = 16  # floats of a cache line
MOST_AHEAD = 2048  # samples behind a history, until it moves back to the front of its row


class CSignal(ctypes.Structure):
    """`Signal` in native.cpp."""

    _fields_ = [(name, ctypes.c_int32) for name in ("buffer", "first", "channels", "delay")]


class CInstruction(ctypes.Structure):
    """`Instruction` in native.cpp."""

    _fields_ = [("kind", ctypes.c_int32), ("sources", ctypes.c_int32)]
    _fields_ += [("first_source", ctypes.c_int64), ("numbers", ctypes.c_int64)]
    _fields_ += [("out", CSignal), ("plus", CSignal)]


class CBuffer(ctypes.Structure):
    """`Buffer` in native.cpp."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("offset", "stride", "history", "room", "planes")
    ]


class CPort(ctypes.Structure):
    """`Port` in native.cpp."""

    _fields_ = [("data", ctypes.c_void_p)]
    _fields_ += [(name, ctypes.c_int64) for name in ("stream", "channel", "time")]


class CProgram(ctypes.Structure):
    """`Program` in native.cpp."""

    _fields_ = [("instructions", ctypes.c_void_p), ("length", ctypes.c_int64)]
    _fields_ += [("sources", ctypes.c_void_p), ("buffers", ctypes.c_void_p)]
    _fields_ += [("buffer_count", ctypes.c_int64), ("numbers", ctypes.c_void_p)]


class CStreams(ctypes.Structure):
    """`Streams` in native.cpp."""

    _fields_ = [("first", ctypes.c_int64), ("count", ctypes.c_int64)]
    _fields_ += [("memory", ctypes.c_void_p), ("memory_floats", ctypes.c_int64)]
    _fields_ += [("at", ctypes.c_void_p), ("scratch", ctypes.c_void_p)]


class NativeStreamer:
    """A feed-forward network, compiled for this CPU: the next samples in, the next samples out.

    network: with `init_state` and `step`, of the blocks of `wavenet.layers`, or of what has
        `traced` (see `wavenet.engines.reading`); on the CPU. It is copied, in float32.
    batch_size: streams side by side, in parts on torch.get_num_threads() threads. A stream's
        samples are the same in every batch and however they are cut, to the bit.

    Raises EngineUnavailable for a network with parts that there are no instructions for, by name,
    and where there is no compiler; EngineFailed where its first samples are not those of `step`;
    ValueError for weights that are not finite, and for a network on another device.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, batch_size: int = 1) -> None:
        require_streamable(network, batch_size, "native")
        self._network, self._streams = copied(network), batch_size
        program, self._tree = read(self._network, "native")
        self._library = _library()
        _require_few(program, self._library.most_ports())
        self._layout = Layout(program, self._library)
        self._inputs, self._outputs = program.inputs, program.outputs
        self._memory = torch.full((batch_size, self._layout.floats), float("nan"))
        self._at = self._layout.beginning.repeat(batch_size, 1)
        self._threads = [
            self._thread(rows) for rows in torch.arange(batch_size).chunk(torch.get_num_threads())
        ]
        self._pool = ThreadPoolExecutor(len(self._threads)) if len(self._threads) > 1 else None
        self._ports = (CPort * self._library.most_ports())()
        self._state = self._network.init_state(batch_size)  # for its nested tuples
        check_against_step(self, self._network, self._state, program.inputs, "native")
        self.state = self._state

    def _thread(self, rows: Tensor) -> CStreams:
        scratch = torch.full((self._layout.scratch_floats,), float("nan"))
        streams = CStreams(
            *(int(rows[0]), len(rows), self._memory.data_ptr(), self._layout.floats),
            *(self._at.data_ptr(), scratch.data_ptr()),
        )
        streams.kept = scratch  # as long as the pointer to it
        return streams

    @property
    def state(self) -> Any:
        """Canonical, as the network's `step` takes and returns it: (B, C, H) in nested tuples."""
        made = iter([self._history(index, leaf) for index, leaf in enumerate(flat(self._state))])
        return rebuilt(self._state, made)

    @state.setter
    def state(self, state: Any) -> None:
        given, expected = list(flat(state)), list(flat(self._state))
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (given, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"A state of this network is {len(shapes[1])} tensors of shapes {shapes[1][:3]} "
                f"..., but got {len(shapes[0])} of {shapes[0][:3]} .... Take it from "
                f"init_state({self._streams}), or from step."
            )
        self._at.copy_(self._layout.beginning)
        for index, tensor in enumerate(given):
            if (rows := self._rows(index)) is not None:
                rows[..., : tensor.shape[-1]] = tensor.detach()

    def _rows(self, leaf: int) -> Tensor | None:
        """Where a leaf's samples lie, (B, C, room); None for one without a history."""
        buffer = self._layout.of_leaf.get(leaf)
        if buffer is None:
            return None
        at = self._layout.buffers[buffer]
        rows = self._memory[:, at.offset :][:, : at.planes * at.stride]
        return rows.unflatten(1, (at.planes, at.stride))

    def _history(self, index: int, like: Tensor) -> Tensor:
        rows, history = self._rows(index), like.shape[-1]
        if rows is None:
            return torch.empty(like.shape)
        now = int(self._at[0, self._layout.of_leaf[index]])  # the same for all streams
        return rows[..., now - history : now].clone(memory_format=torch.contiguous_format)

    def process(self, x: Tensor, condition: Tensor | None = None) -> Any:
        """x (B, in, n), any n >= 1, condition (B, D, n or 1) -> what `step` makes: (B, out, n).

        Raises ValueError for other shapes, and for a condition that is missing or not expected.
        """
        given = self._checked(x, condition)
        n = x.shape[-1]
        made = [torch.empty(self._streams, channels, n) for channels in self._outputs]
        for port, tensor in zip(self._ports, [*given, *made], strict=False):
            port.data = tensor.data_ptr()
            port.stream, port.channel, port.time = tensor.stride()
            if tensor.shape[-1] < n:  # a condition that holds all the time
                port.time = 0
        if self._pool is None:
            self._run(self._threads[0], n)
        else:
            list(self._pool.map(lambda streams: self._run(streams, n), self._threads))
        return made[0] if isinstance(self._tree, Signal) else rebuilt(self._tree, iter(made))

    def _run(self, streams: CStreams, n: int) -> None:
        """C++ runs without the interpreter's lock."""
        program = ctypes.byref(self._layout.program)
        self._library.process(program, ctypes.byref(streams), self._ports, n)

    def _checked(self, x: Tensor, condition: Tensor | None) -> list[Tensor]:
        given = [x] if condition is None else [x, condition]
        if len(given) != len(self._inputs):
            seen = "none" if condition is None else f"one of shape {tuple(condition.shape)}"
            wanted = "a condition" if len(self._inputs) == 2 else "no condition"
            raise ValueError(f"This network takes {wanted}, but got {seen}.")
        for tensor, channels, name in zip(given, self._inputs, ("x", "condition"), strict=False):
            shape = tuple(tensor.shape)
            lengths = (x.shape[-1], 1) if tensor is condition else (x.shape[-1],)
            fits = len(shape) == 3 and shape[:2] == (self._streams, channels)
            if not fits or shape[-1] not in lengths or not shape[-1]:
                raise ValueError(
                    f"{name} must have the shape ({self._streams} streams, {channels} channels, "
                    f"{'x.shape[-1] or 1' if tensor is condition else 'n >= 1'}), but has {shape}."
                )
        return [tensor.to("cpu", torch.float32) for tensor in given]


class Layout:
    """A program as native.cpp reads it, and where its buffers lie. Shared by threads, read only."""

    def __init__(self, program: Program, lib: ctypes.CDLL) -> None:
        self._rows, block = lib.rows(), lib.block()
        planes, count = program.scratch()
        stride = block + LINE
        self.scratch_floats = count * stride
        self.floats, self.buffers, self.of_leaf = 0, [], {}
        for index, buffer in enumerate(program.buffers):
            if buffer.leaf is None:
                here = CBuffer(planes.get(index, 0) * stride, stride, 0, block, buffer.channels)
            else:
                self.of_leaf[buffer.leaf.place] = index
                here = self._kept(buffer.channels, buffer.leaf.history, block)
            self.buffers.append(here)
        self.beginning = torch.tensor([buffer.history for buffer in self.buffers])
        self._pack(program)

    def _kept(self, channels: int, history: int, block: int) -> CBuffer:
        """A buffer of a stream's own memory."""
        room = history + max(4 * block, min(history, MOST_AHEAD))
        lines = -(-room // LINE)
        lines += (
            5 - lines
        ) % 8  # planes apart in the cache: a block of one takes four lines, or five
        here = CBuffer(self.floats, lines * LINE, history, room, channels)
        self.floats += channels * lines * LINE
        return here

    def _pack(self, program: Program) -> None:
        instructions: list[CInstruction] = []
        sources: list[CSignal] = []
        numbers: list[Tensor] = []
        offset = 0
        for instruction in program.instructions:
            numbers.append(self._numbers(instruction))
            where = instruction.port if instruction.kind in ("LOAD", "STORE") else offset
            kind, count = KINDS.index(instruction.kind), len(instruction.sources)
            out, plus = (CSignal(*(s or NOWHERE)) for s in (instruction.out, instruction.plus))
            instructions.append(CInstruction(kind, count, len(sources), where, out, plus))
            sources += [CSignal(*source) for source in instruction.sources]
            offset += len(numbers[-1])
        self._instructions = _array(CInstruction, instructions)  # kept: C has pointers to them
        self._sources, self._buffers = _array(CSignal, sources), _array(CBuffer, self.buffers)
        self._packed = torch.cat(numbers)
        self.program = CProgram(
            instructions=ctypes.addressof(self._instructions),
            length=len(instructions),
            sources=ctypes.addressof(self._sources),
            buffers=ctypes.addressof(self._buffers),
            buffer_count=len(self.buffers),
            numbers=self._packed.data_ptr(),
        )

    def _numbers(self, instruction: Instruction) -> Tensor:
        """Flat: of a product by tiles of rows, the biases of its rows, then input by input."""
        numbers = instruction.numbers
        if numbers is None:
            return torch.zeros(0)
        if instruction.kind != "PRODUCT":
            return numbers.flatten()
        return torch.cat([tile.mT.flatten() for tile in numbers.split(self._rows)])


def _array(kind: Any, values: Sequence[Any]) -> Any:
    return (kind * len(values))(*values)


def _require_few(program: Program, most: int) -> None:
    ports = len(program.inputs) + len(program.outputs)
    if ports > most:
        raise EngineUnavailable(
            f"The native engine hands over {most} tensors at a time, but this model has {ports} "
            "inputs and outputs. Run it in PyTorch, by its step (engine='torch')."
        )


def _library() -> ctypes.CDLL:
    lib = library(SOURCE, {"FEED_FORWARD": ",".join(KINDS)})
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    lib.process.argtypes, lib.process.restype = [pointer, pointer, pointer, integer], None
    return lib
