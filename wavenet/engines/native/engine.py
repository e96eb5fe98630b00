"""Owns the compiled engine: packs a model's weights for native.cpp, holds the streams' memory, and checks the result.

The whole loop over N samples runs in C++, one group of streams a thread. Weights and past inputs are float32, bfloat16 or
int8 (a scale a row of weights, and one a stream and layer of inputs); the residual stream, the head and the draw are float32.

Shapes: B streams, L layers, K kernel size, C residual, G gate, S skip channels, H history of a layer, Q classes; C_ is C
padded to whole vectors.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.engines import (
    BeforeGate,
    EngineState,
    bias_of,
    check_against_model,
    paired,
    prime,
    refuse,
    rounded,
)
from wavenet.engines.native.compiler import library
from wavenet.layers import CausalConv1d
from wavenet.model import WaveNet
from wavenet.outputs.sampling import Sampling, refuse_not_finite

SOURCE = Path(__file__).with_name("native.cpp")
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # WEIGHTS in native.cpp
# of the self-check, relative to the largest logit above 1
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.int8: 0.25}


class CSampling(ctypes.Structure):
    """`Sampling` in native.cpp."""

    _fields_ = [("temperature", ctypes.c_float), ("top_k", ctypes.c_int32)]
    _fields_ += [("top_p", ctypes.c_float), ("guidance", ctypes.c_float)]


class CStreams(ctypes.Structure):
    """`Streams` in native.cpp."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        ("time", ctypes.c_int64),
        *[
            (name, ctypes.c_void_p)
            for name in ("weights", "head", "embedding", "before_gate", "biases")
        ],
        *[(name, ctypes.c_void_p) for name in ("ring", "code", "scratch")],
        ("residual_scale", ctypes.c_float),
    ]


class NativeEngine:
    """Streams in groups, a thread each; a group's state lies in ring buffers as `TorchEngine`'s does."""

    @torch.no_grad()
    def __init__(
        self,
        model: WaveNet,
        batch_size: int,
        labels: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> None:
        refuse(model, dtype, "native", "cpu", "the CPU", KINDS)
        self._labels = labels
        self._model = rounded(model, lambda weight: _kept(weight, dtype), head=False)
        lib = _library(model, dtype)
        self._weights = Packed(self._model, lib, dtype)
        together = 2 if paired(labels) else 1  # streams that no two threads may share
        threads = max(1, min(torch.get_num_threads(), batch_size // together))
        self._position = model.beginning(batch_size, 1)
        self._before_gate = BeforeGate(self._model, lambda rows: _halves(rows, self._weights.lanes))
        parts = self._before_gate(labels, batch_size, self._position)
        size = -(-batch_size // (together * threads)) * together
        self._groups = [Group(lib, self._weights, part) for part in parts.split(size, dim=1)]
        self._pool = ThreadPoolExecutor(len(self._groups)) if len(self._groups) > 1 else None
        check_against_model(
            self, self._model, batch_size, TOLERANCE[dtype], "native", "compiler and processor"
        )
        code = torch.full((batch_size,), model.codec.silence)
        self.state = EngineState(code, self._model.init_state(batch_size))

    @property
    def state(self) -> EngineState:
        codes, windows, histories = zip(*(group.state for group in self._groups), strict=True)
        blocks = tuple(torch.cat(parts) for parts in zip(*histories, strict=True))
        return EngineState(torch.cat(codes), (torch.cat(windows), blocks))

    @state.setter
    def state(self, state: EngineState) -> None:
        sizes = [group.batch for group in self._groups]
        codes, windows = state.code.split(sizes), state.model[0].split(sizes)
        blocks = zip(*(block.split(sizes) for block in state.model[1]), strict=True)
        for group, code, window, histories in zip(
            self._groups, codes, windows, blocks, strict=True
        ):
            group.state = (code, window, histories)

    @torch.no_grad()
    def place(self, position: Tensor) -> None:
        self._position = position
        parts = self._before_gate(self._labels, len(position), position)
        for group, part in zip(
            self._groups, parts.split([group.batch for group in self._groups], dim=1), strict=True
        ):
            group.before_gate.copy_(part)

    @torch.no_grad()
    def prime(self, codes: Tensor) -> Tensor:
        logits, self.state = prime(self._model, self._labels, self._position, self.state, codes)
        return logits

    @torch.no_grad()
    def force(self, codes: Tensor) -> Tensor:
        """As `prime`, sample by sample in this engine's own arithmetic: what it would draw from."""
        return self._together(codes.cpu(), lambda group, part: group.force(part))

    @torch.no_grad()
    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        return self._together(
            uniforms.float().cpu(), lambda group, part: group.sample(part, sampling)
        )

    def _together(self, given: Tensor, call: "Callable[[Group, Tensor], Tensor]") -> Tensor:
        """Every group's call on its rows of `given`; C++ runs without the interpreter's lock."""
        parts = given.split([group.batch for group in self._groups])
        if self._pool is None:
            return call(self._groups[0], parts[0])
        return torch.cat(list(self._pool.map(call, self._groups, parts)))


class Packed:
    """A model's weights in the order in which native.cpp reads them. Read only, shared by all groups."""

    def __init__(self, model: WaveNet, lib: ctypes.CDLL, dtype: torch.dtype) -> None:
        self.dtype = dtype  # of weights and past inputs
        self.lanes, self.tile, self.group, self.tail = (
            lib.lanes(),
            lib.tile_vectors(),
            lib.input_group(),
            lib.tail(),
        )
        blocks = list(model.stack.blocks)
        self.residual_scale = blocks[0].residual_scale
        self.histories = [model.input.history, *(block.dilated.history for block in blocks)]
        self.channels, self.classes = model.input.in_channels, model.codec.classes
        products = self._taps(model.input)
        for block in blocks:
            products += [
                self._product(_halves(tap, self.lanes)) for tap in block.dilated.weight.unbind(-1)
            ]
            products += self._taps(block.residual) if block.residual is not None else []
            products += self._taps(block.skip)
        self.weights = _aligned(torch.cat(products))
        hidden, out = (cast(CausalConv1d, model.head[index]) for index in (1, 3))
        self.head = _aligned(
            torch.cat(
                [self._product(layer.weight[..., 0], torch.float32) for layer in (hidden, out)]
            )
        )
        self.embedding = _aligned(self.kept(model.embedding.weight))
        skip = torch.stack([bias_of(block.skip) for block in blocks]).sum(0)
        residuals = [bias_of(block.residual) for block in blocks if block.residual is not None]
        biases = [bias_of(model.input), *residuals, skip, bias_of(hidden), bias_of(out)]
        self.biases = _aligned(torch.cat([self.padded(bias) for bias in biases]))

    def padded(self, rows: Tensor) -> Tensor:
        """Zeros behind the last axis, up to whole vectors."""
        return F.pad(rows, (0, -rows.shape[-1] % self.lanes))

    def _taps(self, convolution: CausalConv1d) -> list[Tensor]:
        return [self._product(tap) for tap in convolution.weight.unbind(-1)]  # oldest first

    def _product(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(out, in) -> flat, [tile][group of inputs][row of the tile][input within the group], int8 with its headers."""
        dtype = dtype or self.dtype
        group = self.group if dtype == self.dtype else 1
        rows = F.pad(weight, (0, -weight.shape[1] % group, 0, -len(weight) % self.lanes))
        tiles = []
        for tile in rows.split(self.tile * self.lanes):
            if dtype == torch.int8:
                q, scales = _quantised(tile, 1)
                tiles += [
                    scales[:, 0].view(torch.int8),
                    (-128 * q.sum(1)).to(torch.int32).view(torch.int8),
                ]
                tile = q
            tiles.append(tile.unflatten(1, (-1, group)).transpose(0, 1).flatten().to(dtype))
        return torch.cat(tiles)

    def kept(self, rows: Tensor) -> Tensor:
        """Inputs (..., C) as the engine keeps them, (..., C_ + tail) of its dtype."""
        if self.dtype != torch.int8:
            return self.padded(rows).to(self.dtype)
        q, scales = _quantised(self.padded(rows).float(), -1)
        tail = F.pad(scales.contiguous().view(torch.int8), (0, self.tail - 4))
        return torch.cat([(q + 128).to(torch.uint8).view(torch.int8), tail], dim=-1)

    def values(self, kept: Tensor) -> Tensor:
        """The inputs (..., C) that `kept` stands for, float32 where they are int8."""
        if self.dtype != torch.int8:
            return kept[..., : self.channels]
        scales = kept[..., -self.tail :][..., :4].contiguous().view(torch.float32)
        return (kept[..., : self.channels].contiguous().view(torch.uint8).float() - 128) * scales


class Group:
    """Some streams of one engine, and the memory they live in."""

    def __init__(self, lib: ctypes.CDLL, weights: Packed, before_gate: Tensor) -> None:
        self.batch = batch = before_gate.shape[1]
        self._library, self._weights = lib, weights
        self.before_gate = _aligned(
            before_gate
        )  # written anew for every frame of a model that knows its position
        row = weights.embedding.shape[1]
        self._ring = _aligned(torch.zeros(sum(weights.histories), batch, row, dtype=weights.dtype))
        self._code = torch.zeros(batch, dtype=torch.int64)
        self._scratch = _aligned(torch.full((lib.scratch_floats(batch),), float("nan")))
        self._c = CStreams(
            batch,
            0,
            *(tensor.data_ptr() for tensor in (weights.weights, weights.head, weights.embedding)),
            *(tensor.data_ptr() for tensor in (self.before_gate, weights.biases)),
            *(tensor.data_ptr() for tensor in (self._ring, self._code, self._scratch)),
            weights.residual_scale,
        )

    @property
    def state(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Last code (B,), window (B, C, K - 1), histories (B, C, H)."""
        window, *blocks = (
            self._weights.values(history.roll(-self._c.time, 0)).permute(1, 2, 0).contiguous()
            for history in self._ring.split(self._weights.histories)
        )
        return self._code.clone(), window, tuple(blocks)

    @state.setter
    def state(self, state: tuple[Tensor, Tensor, Sequence[Tensor]]) -> None:
        code, window, blocks = state
        self._c.time = 0
        self._code.copy_(code)
        self._ring.copy_(self._weights.kept(torch.cat([window, *blocks], dim=-1).permute(2, 0, 1)))

    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        sampling.require_pairs(self.batch)
        uniforms, steps = uniforms.contiguous(), uniforms.shape[1]
        codes = torch.empty(self.batch, steps, dtype=torch.int64)
        how = CSampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.guidance)
        pointers = uniforms.data_ptr(), steps, codes.data_ptr(), ctypes.byref(how)
        done = self._library.sample(ctypes.byref(self._c), steps, *pointers)
        if done < steps:
            refuse_not_finite(torch.tensor(float("nan")))
        return codes

    def force(self, codes: Tensor) -> Tensor:
        codes, steps = codes.contiguous(), codes.shape[1]
        logits = torch.empty(steps, self.batch, self._weights.classes)
        self._library.force(ctypes.byref(self._c), steps, codes.data_ptr(), logits.data_ptr())
        return logits.permute(1, 2, 0)


def _kept(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that the engine keeps of a weight."""
    if dtype != torch.int8:
        return weight.to(dtype)
    q, scales = _quantised(weight, 1)
    return q * scales


def _quantised(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """values = q * scale, q whole numbers in -127..127, one scale along `dim` (kept, of size 1)."""
    scales = values.abs().amax(dim, keepdim=True) / 127
    return (values / scales.clamp(min=1e-30)).round(), scales


def _library(model: WaveNet, dtype: torch.dtype) -> ctypes.CDLL:
    config = model.config
    sizes = {
        name.upper(): config[f"{name}_channels"] for name in ("residual", "gate", "skip", "head")
    }
    dilations = ",".join(str(block.dilated.dilation[0]) for block in model.stack.blocks)
    lib = library(
        SOURCE,
        {
            **sizes,
            "CLASSES": model.codec.classes,
            "KERNEL": config["kernel_size"],
            "DILATIONS": dilations,
            "WEIGHTS": KINDS[dtype],
        },
    )
    return _typed(lib)


def _typed(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    lib.scratch_floats.argtypes, lib.scratch_floats.restype = [integer], integer
    lib.streams_bytes.restype = integer
    lib.sample.argtypes, lib.sample.restype = (
        [pointer, integer, pointer, integer, pointer, pointer],
        integer,
    )
    lib.force.argtypes, lib.force.restype = [pointer, integer, pointer, pointer], None
    assert lib.streams_bytes() == ctypes.sizeof(CStreams)
    return lib


def _halves(rows: Tensor, lanes: int) -> Tensor:
    """(2 G, ...) -> (2 G_, ...): filter and gate each padded to whole vectors."""
    pad = (0, 0) * (rows.dim() - 1) + (0, -(len(rows) // 2) % lanes)
    return torch.cat([F.pad(half, pad) for half in rows.chunk(2)])


def _aligned(tensor: Tensor) -> Tensor:
    """A contiguous copy on a 64-byte boundary, as torch allocates."""
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    assert tensor.data_ptr() % 64 == 0
    return tensor
