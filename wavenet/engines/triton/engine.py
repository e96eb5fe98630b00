"""Owns the CUDA engine: packs weights for kernel.py, holds the streams' memory, checks itself.

Weights and past inputs are float32 or bfloat16. Triton is the one thing imported here that is not
everywhere.

Shapes: B streams, padded to whole tiles; L layers, K taps, C residual, G gate, S skip, H head
channels and Q parameters of a sample, each padded with zeros to a power of two; U uniforms of a
sample, F frames of a condition.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from wavenet.conditioning import Condition
from wavenet.engines.before_gate import BeforeGate, pieces
from wavenet.engines.check import check_against_model, require_output, require_supported
from wavenet.engines.parts import Parts, Weights, quantised_copy, take_apart
from wavenet.engines.protocol import (
    EngineState,
    EngineUnavailable,
    primed,
    require_condition,
    require_samples,
    require_sampling,
    uniforms_by_sample,
)
from wavenet.engines.triton.kernel import run_streams
from wavenet.machine import gpu_name, has_bfloat16, multiprocessors, on_device, without_tf32
from wavenet.model import WaveNet
from wavenet.outputs import Codes, Mixture, Sampling, require_finite
from wavenet.triton_common import INTERPRETED, Resources, compiled_resources, padded

PIECE = 128  # columns of the skip and head products at a time
CLOCK = 1 << 30  # time wraps here: a multiple of every ring's size
MOST_STEPS = 1024  # of a launch: Ctrl-C waits for one, and a GPU with a screen ends longer ones
FOR_EVER = CLOCK  # the hop of a condition that holds: no call is so long
MULTIPROCESSORS = 132  # of the GPU this was laid out for (H100, H200), where there is none
# of the self-check, relative to the largest logit above 1
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


class TritonEngine:
    """Ring buffers of a power of two of slots each.

    The input of layer l at time t lies in slot first_l + t mod slots_l.

    Args: as `Engine`, and
        tile: streams a program takes, 1 or a power of two of at least 16; chosen from the batch
            where none are given, and smaller where the GPU has no room for the products of so many.
        launch: Triton's num_warps and num_stages; chosen from the tile where none are given.
    """

    condition_dtype = torch.float32  # whatever type the weights are kept in

    @torch.no_grad()
    def __init__(
        self,
        parts: Parts,
        batch_size: int,
        dtype: torch.dtype,
        group: int = 1,
        tile: int | None = None,
        **launch: int,
    ) -> None:
        where = "cpu" if INTERPRETED else "cuda"
        require_supported(parts, dtype, "triton", where, "CUDA", TOLERANCE)
        require_gpu(parts.device, dtype)
        output_constants(parts)
        self._device = parts.device
        self._parts = quantised_copy(parts, lambda weight: weight.to(dtype), head=True)
        self._before_gate, self._group = BeforeGate(self._parts), group
        self._streams = batch_size * group
        for self._tile in [tile] if tile else tiles_for(batch_size, group, parts.device):
            try:
                with without_tf32():
                    self._build(dtype, launch)
                break
            except (OutOfResources, CompilationError) as error:
                reason = str(error).strip().splitlines()[-1]
        else:
            raise EngineUnavailable(
                f"The triton engine's kernel for this model does not fit this GPU ({reason}). "
                "Narrower layers or precision='bfloat16' would; engine='cached' runs any size."
            )
        last = torch.full((self._streams,), parts.output.silence, device=self._last.device)
        self.state = EngineState(last, self._parts.network.init_state(self._streams))

    def _build(self, dtype: torch.dtype, launch: Mapping[str, int]) -> None:
        """Packs the weights for tiles of `_tile` streams, and runs them against the model's.

        Both without TF32, whose error is above what the check allows.
        """
        self._launch_shape = {**launch_shape(self._tile, dtype), **launch}
        self._weights = Packed(self._parts, self._streams, self._tile, dtype)
        self._memory = Memory(self._weights)
        self._last = self._memory.tensors["last"]  # (B,) int32, the last sample of each stream
        self._time = 0
        self._before: Tensor | None = None  # what the kernel's constants were made from
        where = "GPU and driver"
        check_against_model(self, self._parts, self._streams, TOLERANCE[dtype], "triton", where)

    @property
    def state(self) -> EngineState:
        window, *blocks = (
            ring.index_select(
                0, (self._time + torch.arange(-history, 0, device=ring.device)) % len(ring)
            )
            for ring, history in zip(self._memory.rings(), self._weights.histories, strict=True)
        )
        sizes = (slice(self._streams), slice(self._weights.channels))
        window, *blocks = (
            part[:, *sizes].permute(1, 2, 0).contiguous() for part in (window, *blocks)
        )
        return EngineState(self._last[: self._streams].long(), (window, tuple(blocks)))

    @state.setter
    def state(self, state: EngineState) -> None:
        self._time = 0
        self._last[: self._streams] = state.last
        for ring, history in zip(
            self._memory.rings(), (state.model[0], *state.model[1]), strict=True
        ):
            past = history.shape[-1]
            ring.zero_()
            ring[len(ring) - past :, : self._streams, : self._weights.channels] = history.permute(
                2, 0, 1
            )

    @torch.no_grad()
    def prime(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        params, self.state = primed(self._parts, self.state, samples, condition)
        return params

    @torch.no_grad()
    def teacher_forced(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        """As `prime`, sample by sample in this engine's own arithmetic."""
        require_condition(self._parts, condition, self._streams, samples.shape[1])
        require_samples(self._parts, samples)
        steps, padding = samples.shape[1], len(self._last) - len(samples)
        given = F.pad(samples.to(self._last.device, torch.int32).T, (0, padding)).contiguous()
        shape = (steps, len(self._last), self._weights.sizes["Q"])
        params = torch.full(shape, math.nan, device=given.device)
        self._launch(steps, Sampling(), condition, samples=given, forced_params=params)
        return params[:, : len(samples), : self._parts.output.channels].permute(1, 2, 0)

    @torch.no_grad()
    def sample(
        self, uniforms: Tensor, sampling: Sampling, condition: Condition | None = None
    ) -> Tensor:
        require_sampling(self._parts.output, sampling, self._group)
        require_condition(self._parts, condition, self._streams, uniforms.shape[1])
        if self._group > 1 and self._tile == 1:
            raise ValueError("Guidance draws from pairs of streams: they need tiles of 16 or more.")
        output = self._parts.output
        given = output.noise(uniforms_by_sample(uniforms, output)).transpose(0, 1)  # (n, B, U)
        given = given.to(self._last.device, torch.float32).repeat_interleave(self._group, dim=1)
        given = F.pad(given, (0, 0, 0, len(self._last) - self._streams)).contiguous()
        samples = torch.empty(given.shape[:2], dtype=torch.int32, device=given.device)
        if len(given):
            self._launch(len(given), sampling, condition, samples=samples, noise=given)
            # What is not finite stays so: once a call is enough.
            require_finite(self._memory.tensors["params"][:, : self._streams])
        return samples[:, : self._streams : self._group].T.long()

    def _launch(
        self, steps: int, sampling: Sampling, condition: Condition | None, **given: Tensor
    ) -> None:
        """given: the kernel's tensors of (steps, ...), read and written."""
        programs = len(self._last) // self._tile
        for start, stop, steered in pieces(condition, steps, MOST_STEPS):
            here = steered or Condition(self._last[:0])
            self._steer(steered)
            rows = {name: tensor[start:stop] for name, tensor in given.items()}
            arguments = launch_arguments(self._weights, self._memory, sampling, self._group, **rows)
            with on_device(self._device):
                run_streams[(programs,)](
                    **arguments,
                    time=self._time,
                    steps=stop - start,
                    hop=here.hop or FOR_EVER,
                    offset=here.offset,
                    **self._launch_shape,
                )
            self._time = (self._time + stop - start) % CLOCK

    def _steer(self, condition: Condition | None) -> None:
        before = self._before_gate(condition, self._streams)
        if before is not self._before:
            self._before = before
            self._weights.steer(before, holds=condition is not None and condition.hop == 0)


def launch_arguments(
    weights: "Packed", memory: "Memory", sampling: Sampling, group: int, **given: Tensor
) -> dict[str, Any]:
    """The kernel's arguments by name, but for time, steps, hop and offset.

    given: samples, and noise or forced_params.
    """
    return {
        "noise": memory.nothing,
        "forced_params": memory.nothing,
        **given,
        **memory.tensors,
        **weights.tensors,
        **weights.sizes,
        "scale": weights.residual_scale,
        "log_scale_min": weights.log_scale_min,
        "batch": weights.streams,
        "rows": weights.rows,
        "temperature": float(sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": float(sampling.top_p),
        "guidance": float(sampling.guidance),
        "PIECE": PIECE,
        "ONE": weights.sizes["M"] == 1,
        "FORCED": "forced_params" in given,
        "GREEDY": sampling.temperature == 0,
        "TOP_K": 0 < sampling.top_k < weights.sizes["Q"],
        "TOP_P": sampling.top_p < 1,
        "GUIDED": group == 2 and "forced_params" not in given,
    }


class Packed:
    """Weights in the kernel's layouts, each (inputs, outputs) with its sides padded. Read only."""

    def __init__(self, parts: Parts, streams: int, tile: int, dtype: torch.dtype) -> None:
        self._streams, weights = streams, parts.known()
        self.streams = -(-streams // tile) * tile  # whole tiles
        self.dtype, layers = dtype, weights.layers
        self.residual_scale = next((x.scale for x in layers if x.mix is not None), 1.0)
        self.histories = weights.histories
        self.rings = [triton.next_power_of_2(history + 1) for history in self.histories]
        given = weights.sizes
        self.channels = given["residual"]
        self.sizes = {
            "M": tile,
            "L": len(layers),
            "K": given["kernel"],
            "K_INPUT": given["input_kernel"],
            "Q": padded(given["params"]),
        }
        widths = {"C": "residual", "G": "gate", "S": "skip", "H": "head"}
        self.sizes |= {name: padded(given[width]) for name, width in widths.items()}
        constants = output_constants(parts)
        self.log_scale_min = constants.pop("log_scale_min")
        self.sizes |= constants
        self.tensors = {
            **self._body(weights),
            **self._head(weights),
            "rings": self._places(weights),
        }

    def _body(self, weights: Weights) -> dict[str, Tensor]:
        layers = weights.layers
        matrices = [self._matrix(tap, "C", "C") for tap in weights.input.unbind(-1)]
        input_taps = torch.stack(matrices)
        taps = torch.stack([self._halves(x.taps) for x in layers], dim=1)  # (K, L, 2, C, G)
        embedding = F.pad(weights.embedding, (0, self.sizes["C"] - self.channels))
        # What a code adds to the input convolution; of levels, the last row alone has the bias.
        first = embedding @ input_taps[-1]
        first[slice(None) if weights.tabulated else -1] += self._row(weights.input_bias, "C")
        residual, residual_bias = self._residuals(weights)
        skip = torch.stack([self._matrix(layer.skip, "G", "S") for layer in layers])
        skip_bias = torch.stack([layer.skip_bias for layer in layers]).sum(0)
        return {
            "embedding": embedding.to(self.dtype) if weights.tabulated else embedding,
            "first": first,
            "input_taps": self._stored(input_taps[:-1]),
            "past_taps": self._stored(taps[:-1].transpose(0, 1)),
            "now_taps": self._stored(taps[-1]),
            "residual": self._stored(residual),
            "residual_bias": residual_bias,
            "skip": self._stored(skip),
            "skip_bias": self._row(skip_bias, "S"),
        }

    def _head(self, weights: Weights) -> dict[str, Tensor]:
        return {
            "head": self._stored(self._matrix(weights.hidden, "S", "H")),
            "head_bias": self._row(weights.hidden_bias, "H"),
            "out": self._stored(self._matrix(weights.out, "H", "Q")),
            "out_bias": self._row(weights.out_bias, "Q"),
        }

    def _residuals(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """(L, G, C) and biases (L, C), times the residual scale.

        Zeros for a block without a residual of its own: the last one's nobody reads.
        """
        shape = (self.sizes["L"], self.sizes["G"], self.sizes["C"])
        made, biases = (weights.embedding.new_zeros(size) for size in (shape, shape[::2]))
        for rows, bias, layer in zip(made, biases, weights.layers, strict=True):
            if layer.mix is not None and layer.mix_bias is not None:
                rows.copy_(self.residual_scale * self._matrix(layer.mix, "G", "C"))
                bias.copy_(self.residual_scale * self._row(layer.mix_bias, "C"))
        return made, biases

    def steer(self, before: Tensor, holds: bool = False) -> None:
        """Takes what is added before the gates, (F, L, B, 2 G).

        It becomes `row`, which of the rows is each stream's, (B,) int32, and `constants`, the
        different rows, (F, rows, L, 2, G). Streams share a row that is one in memory, and equal
        ones of a condition that holds for ever: to compare them, the host waits for the GPU.
        """
        values = before.transpose(1, 2)  # (F, B, L, 2 G)
        row = torch.arange(self._streams, device=values.device)
        if values.stride(1) == 0 or self._streams == 1:
            values, row = values[:, :1], torch.zeros_like(row)
        elif holds:
            rows, row = values[0].flatten(1).unique(dim=0, return_inverse=True)
            values = rows.unflatten(1, (self.sizes["L"], -1))[None]
        halves = values.unflatten(3, (2, -1))
        self.tensors["row"] = F.pad(row.to(torch.int32), (0, self.streams - self._streams))
        padding = (0, self.sizes["G"] - halves.shape[-1])
        self.tensors["constants"] = F.pad(halves, padding).contiguous()
        self.rows = values.shape[1]

    def _places(self, weights: Weights) -> Tensor:
        """(L + 1, 3) int32, of the input convolution and each layer.

        First slot, slots - 1, dilation.
        """
        dilations = [1, *(layer.dilation for layer in weights.layers)]
        starts = [sum(self.rings[:index]) for index in range(len(self.rings))]
        rows = zip(starts, [slots - 1 for slots in self.rings], dilations, strict=True)
        device = weights.embedding.device
        return torch.tensor(list(rows), dtype=torch.int32, device=device)

    def _stored(self, weights: Tensor) -> Tensor:
        """In the engine's dtype; never empty, since a kernel wants a pointer."""
        return (
            weights.to(self.dtype).contiguous()
            if weights.numel()
            else weights.new_zeros(1, dtype=self.dtype)
        )

    def _halves(self, weight: Tensor) -> Tensor:
        """A dilated convolution's (2 G, C, K) -> (K, 2, C, G)."""
        halves = [
            torch.stack([self._matrix(half, "C", "G") for half in tap.chunk(2)])
            for tap in weight.unbind(-1)
        ]
        return torch.stack(halves)

    def _matrix(self, weight: Tensor, rows: str, columns: str) -> Tensor:
        """(out, in) -> (in, out), padded."""
        return self._pad(weight.T, rows, columns)

    def _pad(self, matrix: Tensor, rows: str, columns: str) -> Tensor:
        """Zeros up to the kernel's sizes of those names."""
        right, below = self.sizes[columns] - matrix.shape[1], self.sizes[rows] - matrix.shape[0]
        return F.pad(matrix, (0, right, 0, below)).contiguous()

    def _row(self, vector: Tensor, size: str) -> Tensor:
        return F.pad(vector, (0, self.sizes[size] - len(vector)))


class Memory:
    """What the streams remember, and where a step puts what it works on.

    The latter is NaN at first, since it is written before it is read.
    """

    def __init__(self, weights: Packed) -> None:
        device, sizes, dtype, streams = (
            weights.tensors["rings"].device,
            weights.sizes,
            weights.dtype,
            weights.streams,
        )

        def scratch(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.full(shape, math.nan, dtype=dtype, device=device)

        def pieces(size: int) -> tuple[int, int, int]:
            """(number of pieces, B, width): how `_dense` leaves its outputs."""
            return size // min(size, PIECE), streams, min(size, PIECE)

        self._slots = weights.rings
        self.nothing = scratch(
            1, dtype=torch.float32
        )  # for an argument that a launch has no use for
        self.tensors = {
            "last": torch.zeros(streams, dtype=torch.int32, device=device),
            "ring": torch.zeros(
                sum(weights.rings), streams, sizes["C"], dtype=dtype, device=device
            ),
            "gates": scratch(sizes["L"], streams, sizes["G"]),
            "skips": scratch(*pieces(sizes["S"])),
            "hidden": scratch(*pieces(sizes["H"])),
            "params": scratch(*pieces(sizes["Q"]), dtype=torch.float32),
        }

    def rings(self) -> tuple[Tensor, ...]:
        """(slots, B, C) of the input convolution and of each layer."""
        return self.tensors["ring"].split(self._slots)


def require_gpu(device: torch.device, dtype: torch.dtype) -> None:
    """Raises EngineUnavailable for a GPU that does not compute in that dtype."""
    if device.type == "cuda" and dtype == torch.bfloat16 and not has_bfloat16(device):
        raise EngineUnavailable(
            f"The triton engine computes in bfloat16 on GPUs that have it, but "
            f"{gpu_name(device)} has not: precision='float32' runs there."
        )


def output_constants(parts: Parts) -> dict[str, Any]:
    """What the kernel is told of the model's output; see "Outputs" in kernel.py.

    Raises EngineUnavailable for an output that the kernel does not know.
    """
    output, codes = parts.output, parts.output.channels
    if isinstance(output, Mixture):
        n, smallest = output.components, float(output.log_scale_min)
        facts = {"MIXTURES": n, "MEANS": output.channels - 2 * n, "NOISE": output.uniforms}
        return {**facts, "log_scale_min": smallest}
    fits = isinstance(output, Codes) and codes >= 16 and codes & (codes - 1) == 0
    require_output(parts, "triton", fits, "mixtures and from 16, 32, 64, ... mu-law codes")
    return {"MIXTURES": 0, "MEANS": 0, "NOISE": 1, "log_scale_min": 0.0}


def tiles_for(batch_size: int, group: int, device: torch.device) -> list[int]:
    """Streams a program takes, to be tried in turn: the best, then smaller ones.

    All streams of a group lie in one program.
    """
    allowed = (1, 16, 32, 64) if group == 1 else (16, 32, 64)
    best = max(tile_for(batch_size * group, device), allowed[0])
    return [best, *(size for size in (16, 1) if size in allowed and size < best)]


def tile_for(streams: int, device: torch.device) -> int:
    """Streams a program takes: one while there is a multiprocessor for each, then larger tiles.

    A rule from counting, not from measurement: `benchmarks/gpu.py` times every tile.
    """
    return next(tile for tile, most in most_streams(device).items() if streams <= most)


def most_streams(device: torch.device) -> dict[int, float]:
    """By tile, from the smallest on: up to how many streams it is the one to take."""
    programs = multiprocessors(device) if device.type == "cuda" else MULTIPROCESSORS
    return {**{tile: tile * programs for tile in (1, 16, 32)}, 64: math.inf}


@torch.no_grad()
def resources(
    model: WaveNet, streams: int, tile: int, dtype: torch.dtype, capability: int
) -> Resources:
    """What the kernel takes of a GPU of that compute capability (80, 90). Needs no GPU.

    Drawing plainly, with a condition that holds for ever.
    """
    parts = quantised_copy(take_apart(model), lambda weight: weight.to(dtype), head=True)
    weights = Packed(parts, streams, tile, dtype)
    condition = None
    if parts.condition_channels:
        condition = Condition(torch.zeros(streams, parts.condition_channels, 1))
    weights.steer(BeforeGate(parts)(condition, streams))
    memory = Memory(weights)
    given = launch_arguments(weights, memory, Sampling(), 1, samples=memory.tensors["last"])
    given |= {"time": 0, "steps": 1, "hop": FOR_EVER, "offset": 0}
    constants = {name: given.pop(name) for name in list(given) if name.isupper()}
    return compiled_resources(
        run_streams, given, constants, capability, **launch_shape(tile, dtype)
    )


def launch_shape(tile: int, dtype: torch.dtype) -> dict[str, int]:
    """Warps of a program, and how far ahead of the products their weights are fetched.

    By 2 stages they are waited for as soon as they are asked for; by 3, a layer later: there is
    room for that in bfloat16, up to tiles of 32. Where 4 warps have the registers that a program
    needs, they wait less for each other than 8. Both by count (benchmarks/counts.py).
    """
    narrow = dtype == torch.bfloat16
    ahead = narrow and tile in (16, 32)
    return {"num_warps": 4 if narrow and tile == 1 else 8, "num_stages": 3 if ahead else 2}
