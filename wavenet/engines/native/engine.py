"""Owns the compiled engine: packs weights for native.cpp, holds the streams' memory, checks itself.

The whole loop over n samples runs in C++, one part of the streams a thread. Weights and past inputs
are float32, bfloat16 or int8 (a scale for each row of weights, and one for each stream and layer of
inputs); the residual stream, the head and the draw are float32.

Shapes: B streams, L layers, K taps, C residual, G gate, S skip channels, H history of a layer,
Q parameters of a sample, U uniforms, F frames of a condition; C_ is C padded to whole vectors.
"""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.before_gate import FRAMES, BeforeGate
from wavenet.engines.check import check_against_model, require_output, require_supported
from wavenet.engines.native import SOURCE
from wavenet.engines.native.compiler import library
from wavenet.engines.parts import Parts, Weights, quantised_copy
from wavenet.engines.protocol import (
    EngineState,
    primed,
    require_condition,
    require_samples,
    require_sampling,
    uniforms_by_sample,
)
from wavenet.machine import threads_for
from wavenet.outputs import Codes, Mixture, Sampling, require_finite

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # WEIGHTS in native.cpp
WIDEST = 16  # floats of the widest vector in native.cpp: the logits fill whole vectors
# of the self-check, relative to the largest logit above 1
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.int8: 0.25}


class CSampling(ctypes.Structure):
    """`Sampling` in native.cpp."""

    _fields_ = [("temperature", ctypes.c_float), ("top_k", ctypes.c_int32)]
    _fields_ += [("top_p", ctypes.c_float), ("guidance", ctypes.c_float)]


class CStreams(ctypes.Structure):
    """`Streams` in native.cpp."""

    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("batch", "group", "time")],
        *[(name, ctypes.c_void_p) for name in ("weights", "head", "embedding", "before_gate")],
        *[(name, ctypes.c_int64) for name in ("hop", "offset")],
        *[(name, ctypes.c_void_p) for name in ("biases", "ring", "last", "scratch")],
        ("residual_scale", ctypes.c_float),
    ]


class NativeEngine:
    """Streams in parts, a thread each; their past lies in ring buffers, as `CachedEngine`'s."""

    condition_dtype = torch.float32  # whatever type the weights are kept in

    @torch.no_grad()
    def __init__(self, parts: Parts, batch_size: int, dtype: torch.dtype, group: int = 1) -> None:
        require_supported(parts, dtype, "native", "cpu", "the CPU", KINDS)
        constants = macros(parts, dtype)
        self._parts = quantised_copy(parts, lambda weight: _kept(weight, dtype), head=False)
        self._group, self._streams = group, batch_size * group
        streams = self._streams
        lib = _typed(library(SOURCE, constants))
        weights = Packed(self._parts, Vectors.of(lib), dtype)
        self._weights = weights
        self._before_gate = BeforeGate(self._parts, weights.halves)
        threads = max(1, min(torch.get_num_threads(), batch_size))
        size = -(-batch_size // threads) * group  # no two threads share a group
        sizes = [len(rows) for rows in torch.arange(streams).split(size)]
        self._threads = [ThreadStreams(lib, weights, rows, group) for rows in sizes]
        self._before: Tensor | None = None  # what the threads have been steered by
        self._pool = ThreadPoolExecutor(len(sizes)) if len(sizes) > 1 else None
        where = "compiler and processor"
        check_against_model(self, self._parts, streams, TOLERANCE[dtype], "native", where)
        last = torch.full((streams,), parts.output.silence)
        self.state = EngineState(last, self._parts.network.init_state(streams))

    @property
    def state(self) -> EngineState:
        states = [part.state for part in self._threads]
        codes, windows, histories = zip(*states, strict=True)
        blocks = tuple(torch.cat(parts) for parts in zip(*histories, strict=True))
        return EngineState(torch.cat(codes), (torch.cat(windows), blocks))

    @state.setter
    def state(self, state: EngineState) -> None:
        sizes = [part.batch for part in self._threads]
        codes, windows = state.last.split(sizes), state.model[0].split(sizes)
        blocks = zip(*(block.split(sizes) for block in state.model[1]), strict=True)
        for part, *state_of_part in zip(self._threads, codes, windows, blocks, strict=True):
            part.state = tuple(state_of_part)

    @torch.no_grad()
    def prime(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        params, self.state = primed(self._parts, self.state, samples, condition)
        return params

    @torch.no_grad()
    def teacher_forced(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        """As `prime`, sample by sample in this engine's own arithmetic."""
        require_condition(self._parts, condition, self._streams, samples.shape[1])
        require_samples(self._parts, samples)
        return self._together(
            samples.cpu(), condition, 1, lambda part, rows: part.teacher_forced(rows)
        )

    @torch.no_grad()
    def sample(
        self, uniforms: Tensor, sampling: Sampling, condition: Condition | None = None
    ) -> Tensor:
        require_sampling(self._parts.output, sampling, self._group)
        require_condition(self._parts, condition, self._streams, uniforms.shape[1])
        output = self._parts.output
        given = output.noise(uniforms_by_sample(uniforms, output)).float().cpu()
        if not given.shape[1]:
            return given[..., 0].long()
        return self._together(
            given, condition, self._group, lambda part, rows: part.sample(rows, sampling)
        )

    def _together(
        self,
        given: Tensor,
        condition: Condition | None,
        shared: int,
        call: "Callable[[ThreadStreams, Tensor], Tensor]",
    ) -> Tensor:
        """Each thread's call on its rows of `given`, (streams / shared, n, ...), frame by frame."""
        whole, made = condition or Condition(given.new_empty(0)), []
        with threads_for(1):  # this engine's own threads have the cores
            for start, stop, here in whole.pieces(given.shape[1], FRAMES):
                steered = None if condition is None else here
                before = self._before_gate(steered, self._streams)
                made.append(self._at_once(given[:, start:stop], before, here, shared, call))
        return made[0] if len(made) == 1 else torch.cat(made, dim=-1)

    def _at_once(
        self,
        given: Tensor,
        before: Tensor,
        condition: Condition,
        shared: int,
        call: "Callable[[ThreadStreams, Tensor], Tensor]",
    ) -> Tensor:
        """C++ runs without the interpreter's lock. before: (F, L, B, 2 G_)."""
        sizes = [part.batch for part in self._threads]
        rows = given.split([size // shared for size in sizes])
        if before is not self._before:
            self._before = before
            for part, here in zip(self._threads, before.split(sizes, dim=2), strict=True):
                part.steer(here)
        for part in self._threads:
            part.stand(condition.hop, condition.offset)
        if self._pool is None:
            return call(self._threads[0], rows[0])
        return torch.cat(list(self._pool.map(call, self._threads, rows)))


class Vectors(NamedTuple):
    """How native.cpp was compiled to read weights; see there."""

    lanes: int  # floats of a vector
    tile: int  # vectors of a tile
    group: int  # inputs that stand together
    tail: int  # elements behind a row of inputs

    @classmethod
    def of(cls, lib: ctypes.CDLL) -> "Vectors":
        return cls(lib.lanes(), lib.tile_vectors(), lib.input_group(), lib.tail())


class Packed:
    """A model's weights as native.cpp reads them, in that order; shared by threads, read only."""

    def __init__(self, parts: Parts, vectors: Vectors, dtype: torch.dtype) -> None:
        self.dtype = dtype  # of weights and past inputs
        self.lanes, self.tile, self.group, self.tail = vectors
        weights = parts.known()
        mixed = [layer for layer in weights.layers if layer.mix is not None]
        self.residual_scale = mixed[0].scale if mixed else 1.0
        self.histories = weights.histories
        self.channels, self.params = weights.sizes["residual"], weights.sizes["params"]
        self.weights = _aligned(torch.cat(self._body(weights)))
        head = [self.product(rows, torch.float32) for rows in (weights.hidden, weights.out)]
        self.head = _aligned(torch.cat(head))
        keep = self.kept if weights.tabulated else self.padded
        self.embedding = _aligned(keep(weights.embedding))
        self.row = self.kept(weights.embedding[:1]).shape[1]  # of an input as it is kept
        skip = torch.stack([layer.skip_bias for layer in weights.layers]).sum(0)
        residuals = [layer.mix_bias for layer in mixed if layer.mix_bias is not None]
        biases = [weights.input_bias, *residuals, skip, weights.hidden_bias, weights.out_bias]
        self.biases = _aligned(torch.cat([self.padded(bias) for bias in biases]))

    def _body(self, weights: Weights) -> list[Tensor]:
        """All products before the head, in the order of a step; taps oldest first."""
        products = [self.product(tap) for tap in weights.input.unbind(-1)]
        for layer in weights.layers:
            products += [self.product(self.halves(tap)) for tap in layer.taps.unbind(-1)]
            products += [self.product(rows) for rows in (layer.mix, layer.skip) if rows is not None]
        return products

    def padded(self, rows: Tensor) -> Tensor:
        """Zeros behind the last axis, up to whole vectors."""
        return F.pad(rows, (0, -rows.shape[-1] % self.lanes))

    def halves(self, rows: Tensor) -> Tensor:
        """(2 G, ...) -> (2 G_, ...): filter and gate each padded to whole vectors."""
        pad = (0, 0) * (rows.dim() - 1) + (0, -(len(rows) // 2) % self.lanes)
        return torch.cat([F.pad(half, pad) for half in rows.chunk(2)])

    def product(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(out, in) -> flat, [tile][group of inputs][row of the tile][input within the group].

        int8 with its headers.
        """
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


class ThreadStreams:
    """The streams of one thread, and the memory they live in."""

    def __init__(self, lib: ctypes.CDLL, weights: Packed, batch: int, group: int) -> None:
        self.batch = batch
        self._library, self._weights = lib, weights
        shape = (sum(weights.histories), batch, weights.row)
        self._ring = _aligned(torch.zeros(shape, dtype=weights.dtype))
        self._last = torch.zeros(batch, dtype=torch.int64)
        self._scratch = _aligned(torch.full((lib.scratch_floats(batch),), float("nan")))
        self._c = CStreams(
            batch=batch,
            group=group,
            time=0,
            weights=weights.weights.data_ptr(),
            head=weights.head.data_ptr(),
            embedding=weights.embedding.data_ptr(),
            biases=weights.biases.data_ptr(),
            ring=self._ring.data_ptr(),
            last=self._last.data_ptr(),
            scratch=self._scratch.data_ptr(),
            residual_scale=weights.residual_scale,
        )

    def steer(self, before_gate: Tensor) -> None:
        """before_gate (F, L, batch, 2 G_): what is added before the gates from now on."""
        self._before_gate = _aligned(before_gate)
        self._c.before_gate = self._before_gate.data_ptr()

    def stand(self, hop: int, offset: int) -> None:
        """The next call begins so far into the first frame, of `hop` samples each."""
        self._c.hop, self._c.offset = hop, offset

    @property
    def state(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Last sample (B,), window (B, C, K - 1), histories (B, C, H)."""
        window, *blocks = (
            self._weights.values(history.roll(-self._c.time, 0)).permute(1, 2, 0).contiguous()
            for history in self._ring.split(self._weights.histories)
        )
        return self._last.clone(), window, tuple(blocks)

    @state.setter
    def state(self, state: tuple[Tensor, Tensor, Sequence[Tensor]]) -> None:
        last, window, blocks = state
        self._c.time = 0
        self._last.copy_(last)
        self._ring.copy_(self._weights.kept(torch.cat([window, *blocks], dim=-1).permute(2, 0, 1)))

    def sample(self, noise: Tensor, sampling: Sampling) -> Tensor:
        """noise (batch / group, n, U) -> samples (batch / group, n)."""
        noise, (rows, steps, _) = noise.contiguous(), noise.shape
        samples = torch.empty(rows, steps, dtype=torch.int64)
        knobs = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.guidance)
        pointers = noise.data_ptr(), samples.data_ptr(), ctypes.byref(CSampling(*knobs))
        done = self._library.sample(ctypes.byref(self._c), steps, *pointers)
        if done < steps:
            require_finite(torch.tensor(float("nan")))
        return samples

    def teacher_forced(self, samples: Tensor) -> Tensor:
        """samples (batch, n) -> params (batch, Q, n)."""
        weights, (samples, steps) = self._weights, (samples.contiguous(), samples.shape[1])
        params = torch.empty(steps, self.batch, -(-weights.params // weights.lanes) * weights.lanes)
        self._library.teacher_forced(
            ctypes.byref(self._c), steps, samples.data_ptr(), params.data_ptr()
        )
        return params[..., : weights.params].permute(1, 2, 0)


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


def output_macros(parts: Parts) -> dict[str, object]:
    """The constants of the model's output in native.cpp, under "Outputs".

    Raises EngineUnavailable for an output that is not among them.
    """
    output = parts.output
    if isinstance(output, Mixture):
        facts = {"MIXTURES": output.components, "NOISE": output.uniforms}
        return {**facts, "LOG_SCALE_MIN": f"{float(output.log_scale_min)!r}f"}
    fits = isinstance(output, Codes) and output.classes % WIDEST == 0
    wanted = f"mixtures and from mu-law codes, a multiple of {WIDEST} of them"
    require_output(parts, "native", fits, wanted)
    return {"MIXTURES": 0, "NOISE": 1}


def macros(parts: Parts, dtype: torch.dtype) -> dict[str, object]:
    """The constants of a model in native.cpp. Raises EngineUnavailable as `output_macros` does."""
    drawn, weights = output_macros(parts), parts.known()
    dilations = ",".join(str(layer.dilation) for layer in weights.layers)
    sizes = {name.upper(): size for name, size in weights.sizes.items()}
    return {**sizes, "DILATIONS": dilations, "WEIGHTS": KINDS[dtype], **drawn}


def _typed(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    lib.scratch_floats.argtypes, lib.scratch_floats.restype = [integer], integer
    lib.streams_bytes.restype = integer
    lib.sample.argtypes, lib.sample.restype = (
        [pointer, integer, pointer, pointer, pointer],
        integer,
    )
    lib.teacher_forced.argtypes = [pointer, integer, pointer, pointer]
    lib.teacher_forced.restype = None
    assert lib.streams_bytes() == ctypes.sizeof(CStreams)
    return lib


def _aligned(tensor: Tensor) -> Tensor:
    """A contiguous copy on a 64-byte boundary, as torch allocates."""
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    assert tensor.data_ptr() % 64 == 0
    return tensor
