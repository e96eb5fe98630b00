"""Owns the CUDA engine: packs a model's weights for triton_kernel.py, holds the streams' memory, and checks the result.

Weights and past inputs are float32 or bfloat16. Triton is the one thing imported here that is not everywhere.

Shapes: B streams, padded to whole tiles; L layers, K kernel size, C residual, G gate, S skip, H head channels, each padded
with zeros to a power of two; Q classes.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from wavenet.engines import (
    BeforeGate,
    EngineState,
    EngineUnavailable,
    bias_of,
    check_against_model,
    paired,
    prime,
    refuse,
    rounded,
)
from wavenet.engines.triton.kernel import run_streams
from wavenet.layers import CausalConv1d
from wavenet.model import WaveNet
from wavenet.outputs.sampling import Sampling, refuse_not_finite
from wavenet.training.kernels import INTERPRETED, Resources, compiled_resources, padded

PIECE = 128  # columns of the skip and head products at a time
CLOCK = 1 << 30  # time wraps here: a multiple of every ring's size
MULTIPROCESSORS = 132  # of the GPU this was laid out for (H100, H200)
# of the self-check, relative to the largest logit above 1
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


class TritonEngine:
    """Ring buffers of a power of two of slots each: the input of layer l at time t lies in slot first_l + t mod slots_l.

    Args: as `Engine`, and
        tile: streams a program takes, 1 or a power of two of at least 16; chosen from the batch where none are given, and
            smaller where the GPU has no room for the products of so many.
        launch: Triton's num_warps and num_stages; chosen from the tile where none are given.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: WaveNet,
        batch_size: int,
        labels: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
        tile: int | None = None,
        **launch: int,
    ) -> None:
        refuse(model, dtype, "triton", "cpu" if INTERPRETED else "cuda", "CUDA", TOLERANCE)
        self._labels, self._position = labels, model.beginning(batch_size, 1)
        self._model = rounded(model, lambda weight: weight.to(dtype), head=True)
        self._batch_size = batch_size
        tiles = (
            (16, 32, 64) if paired(labels) else (1, 16, 32, 64)
        )  # both streams of a pair lie in one program
        largest = max(tile_for(batch_size), tiles[0])
        smaller = [largest, *(size for size in (16, 1) if size in tiles and size < largest)]
        for self._tile in [tile] if tile else smaller:
            try:
                self._build(dtype, launch)
                break
            except (OutOfResources, CompilationError) as error:
                reason = str(error).strip().splitlines()[-1]
        else:
            raise EngineUnavailable(
                f"The triton engine's kernel for this model does not fit this GPU ({reason}). Narrower layers or "
                "precision='bfloat16' would; engine='torch' runs any model."
            )
        code = torch.full((batch_size,), model.codec.silence, device=self._code.device)
        self.state = EngineState(code, self._model.init_state(batch_size))

    def _build(self, dtype: torch.dtype, launch: Mapping[str, int]) -> None:
        """Packs the weights for tiles of `_tile` streams, and runs them against the model's."""
        self._launch_shape = {**launch_shape(self._tile), **launch}
        self._weights = Packed(
            self._model, self._labels, self._batch_size, self._tile, dtype, self._position
        )
        self._memory = Memory(self._weights)
        self._code = self._memory.tensors["code"]  # (B,) int32, the last code of each stream
        self._time = 0
        check_against_model(
            self, self._model, self._batch_size, TOLERANCE[dtype], "triton", "GPU and driver"
        )

    @property
    def state(self) -> EngineState:
        window, *blocks = (
            ring.index_select(
                0, (self._time + torch.arange(-history, 0, device=ring.device)) % len(ring)
            )
            for ring, history in zip(self._memory.rings(), self._weights.histories, strict=True)
        )
        sizes = (slice(self._batch_size), slice(self._weights.channels))
        window, *blocks = (
            part[:, *sizes].permute(1, 2, 0).contiguous() for part in (window, *blocks)
        )
        return EngineState(self._code[: self._batch_size].long(), (window, tuple(blocks)))

    @state.setter
    def state(self, state: EngineState) -> None:
        self._time = 0
        self._code[: self._batch_size] = state.code
        for ring, history in zip(
            self._memory.rings(), (state.model[0], *state.model[1]), strict=True
        ):
            past = history.shape[-1]
            ring.zero_()
            ring[len(ring) - past :, : self._batch_size, : self._weights.channels] = (
                history.permute(2, 0, 1)
            )

    @torch.no_grad()
    def place(self, position: Tensor) -> None:
        self._position = position.to(self._code.device)
        self._weights.steer(self._labels, self._position, self._batch_size)

    @torch.no_grad()
    def prime(self, codes: Tensor) -> Tensor:
        logits, self.state = prime(self._model, self._labels, self._position, self.state, codes)
        return logits

    @torch.no_grad()
    def force(self, codes: Tensor) -> Tensor:
        """As `prime`, sample by sample in this engine's own arithmetic: what it would draw from."""
        steps, padded = codes.shape[1], len(self._code)
        given = F.pad(
            codes.to(self._code.device, torch.int32).T, (0, padded - len(codes))
        ).contiguous()
        logits = torch.full(
            (steps, padded, self._weights.sizes["Q"]), math.nan, device=given.device
        )
        self._launch(given, steps, Sampling(), forced_logits=logits)
        return logits[:, : len(codes)].permute(1, 2, 0)

    @torch.no_grad()
    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        sampling.require_pairs(self._tile)
        steps, padded = uniforms.shape[1], len(self._code)
        given = uniforms.to(self._code.device, torch.float32).T
        given = F.pad(given, (0, padded - len(uniforms))).contiguous()
        codes = torch.empty((steps, padded), dtype=torch.int32, device=given.device)
        if steps:
            self._launch(codes, steps, sampling, uniforms=given)
            refuse_not_finite(
                self._memory.tensors["logits"][:, : len(uniforms)]
            )  # what is not finite stays so
        return codes[:, : len(uniforms)].T.long()

    def _launch(self, codes: Tensor, steps: int, sampling: Sampling, **given: Tensor) -> None:
        arguments = launch_arguments(self._weights, self._memory, sampling, codes=codes, **given)
        programs = len(self._code) // self._tile
        run_streams[(programs,)](**arguments, time=self._time, steps=steps, **self._launch_shape)
        self._time = (self._time + steps) % CLOCK


def launch_arguments(
    weights: "Packed", memory: "Memory", sampling: Sampling, **given: Tensor
) -> dict[str, Any]:
    """The kernel's arguments by name, all but time and steps. given: codes, and uniforms or forced_logits."""
    return {
        "uniforms": memory.nothing,
        "forced_logits": memory.nothing,
        **given,
        **memory.tensors,
        **weights.tensors,
        **weights.sizes,
        "scale": weights.residual_scale,
        "batch": weights.streams,
        "temperature": float(sampling.temperature),
        "top_k": sampling.top_k,
        "top_p": float(sampling.top_p),
        "guidance": float(sampling.guidance),
        "PIECE": PIECE,
        "ONE": weights.sizes["M"] == 1,
        "FORCED": "forced_logits" in given,
        "GREEDY": sampling.temperature == 0,
        "TOP_K": 0 < sampling.top_k < weights.sizes["Q"],
        "TOP_P": sampling.top_p < 1,
        "GUIDED": sampling.guidance != 0,
    }


class Packed:
    """A model's weights in the kernel's layouts, each (inputs, outputs) with its sides padded. Read only."""

    def __init__(
        self,
        model: WaveNet,
        labels: Mapping[str, Tensor] | None,
        batch_size: int,
        tile: int,
        dtype: torch.dtype,
        position: Tensor | None,
    ) -> None:
        self.streams = -(-batch_size // tile) * tile  # whole tiles
        self.dtype, blocks = dtype, list(model.stack.blocks)
        self.channels = model.input.in_channels
        self.residual_scale = blocks[0].residual_scale
        self.histories = [model.input.history, *(block.dilated.history for block in blocks)]
        self.rings = [triton.next_power_of_2(history + 1) for history in self.histories]
        hidden, out = (cast(CausalConv1d, model.head[index]) for index in (1, 3))
        widths = {
            "C": self.channels,
            "G": blocks[0].skip.in_channels,
            "S": hidden.in_channels,
            "H": out.in_channels,
        }
        self.sizes = {
            "M": tile,
            "L": len(blocks),
            "K": model.input.kernel_size[0],
            "Q": model.codec.classes,
        }
        self.sizes |= {name: padded(width) for name, width in widths.items()}
        input_taps = torch.stack(
            [self._matrix(tap, "C", "C") for tap in model.input.weight.unbind(-1)]
        )
        taps = torch.stack(
            [self._halves(block.dilated.weight) for block in blocks], dim=1
        )  # (K, L, 2, C, G)
        embedding = self._pad(model.embedding.weight, "Q", "C")
        residual, residual_bias = self._residuals(model)
        skip = torch.stack([self._matrix(block.skip.weight[..., 0], "G", "S") for block in blocks])
        self.tensors = {
            "embedding": embedding.to(dtype),
            "first": embedding @ input_taps[-1] + self._row(bias_of(model.input), "C"),
            "input_taps": self._stored(input_taps[:-1]),
            "past_taps": self._stored(taps[:-1].transpose(0, 1)),
            "now_taps": self._stored(taps[-1]),
            "residual": self._stored(residual),
            "residual_bias": residual_bias,
            "skip": self._stored(skip),
            "skip_bias": self._row(
                torch.stack([bias_of(block.skip) for block in blocks]).sum(0), "S"
            ),
            "head": self._stored(self._matrix(hidden.weight[..., 0], "S", "H")),
            "head_bias": self._row(bias_of(hidden), "H"),
            "out": self._stored(self._matrix(out.weight[..., 0], "H", "Q")),
            "out_bias": self._row(bias_of(out), "Q"),
            "rings": self._places(model),
        }
        self._before_gate = BeforeGate(model)
        self.steer(labels, position, batch_size)

    def _residuals(self, model: WaveNet) -> tuple[Tensor, Tensor]:
        """(L, G, C) and biases (L, C), times the residual scale; zeros for the last block, whose residual nobody reads."""
        shape = (self.sizes["L"], self.sizes["G"], self.sizes["C"])
        weights, biases = (model.embedding.weight.new_zeros(size) for size in (shape, shape[::2]))
        for weight, bias, block in zip(weights, biases, model.stack.blocks, strict=True):
            if block.residual is not None:
                weight.copy_(
                    self.residual_scale * self._matrix(block.residual.weight[..., 0], "G", "C")
                )
                bias.copy_(self.residual_scale * self._row(bias_of(block.residual), "C"))
        return weights, biases

    def steer(
        self, labels: Mapping[str, Tensor] | None, position: Tensor | None, batch_size: int
    ) -> None:
        """What is added before the gates: which row is each stream's (B,) int32, and the different rows (U, L, 2, G)."""
        values = self._before_gate(labels, batch_size, position).transpose(0, 1)  # (B, L, 2 G)
        rows, row = values.flatten(1).unique(dim=0, return_inverse=True)
        halves = rows.unflatten(1, (self.sizes["L"], 2, -1))
        row = F.pad(row.to(torch.int32), (0, self.streams - batch_size))
        self.tensors["row"] = row
        self.tensors["constants"] = F.pad(
            halves, (0, self.sizes["G"] - halves.shape[-1])
        ).contiguous()

    def _places(self, model: WaveNet) -> Tensor:
        """(L + 1, 3) int32 for the input convolution and each layer: first slot, slots - 1, dilation."""
        dilations = [1, *(block.dilated.dilation[0] for block in model.stack.blocks)]
        starts = [sum(self.rings[:index]) for index in range(len(self.rings))]
        rows = [
            [start, slots - 1, dilation]
            for start, slots, dilation in zip(starts, self.rings, dilations, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.int32, device=model.embedding.weight.device)

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
    """What the streams remember, and where a step puts what it works on: NaN, since that is written before it is read."""

    def __init__(self, weights: Packed) -> None:
        device, sizes, dtype, streams = (
            weights.tensors["row"].device,
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
            "code": torch.zeros(streams, dtype=torch.int32, device=device),
            "ring": torch.zeros(
                sum(weights.rings), streams, sizes["C"], dtype=dtype, device=device
            ),
            "gates": scratch(sizes["L"], streams, sizes["G"]),
            "skips": scratch(*pieces(sizes["S"])),
            "hidden": scratch(*pieces(sizes["H"])),
            "logits": scratch(*pieces(sizes["Q"]), dtype=torch.float32),
        }

    def rings(self) -> tuple[Tensor, ...]:
        """(slots, B, C) of the input convolution and of each layer."""
        return self.tensors["ring"].split(self._slots)


def tile_for(batch_size: int) -> int:
    """Streams a program takes: one while there is a multiprocessor for each, then tiles that fill the multiprocessors.

    A rule from counting, not from measurement: `benchmarks/gpu.py` times every tile.
    """
    if batch_size <= MULTIPROCESSORS:
        return 1
    return next((tile for tile in (16, 32) if batch_size <= tile * MULTIPROCESSORS), 64)


@torch.no_grad()
def resources(
    model: WaveNet, batch_size: int, tile: int, dtype: torch.dtype, capability: int
) -> Resources:
    """What the kernel takes of a GPU of that compute capability (80, 90), drawing plainly. Needs no GPU."""
    labels = {name: torch.zeros(batch_size, dtype=torch.int64) for name in model.labels}
    kept = rounded(model, lambda weight: weight.to(dtype), head=True)
    weights = Packed(kept, labels, batch_size, tile, dtype, model.beginning(batch_size, 1))
    memory = Memory(weights)
    given = launch_arguments(weights, memory, Sampling(), codes=memory.tensors["code"]) | {
        "time": 0,
        "steps": 1,
    }
    constants = {name: given.pop(name) for name in list(given) if name.isupper()}
    return compiled_resources(run_streams, given, constants, capability, **launch_shape(tile))


def launch_shape(tile: int) -> dict[str, int]:
    """Warps of a program, and how far ahead of the products their weights are fetched."""
    return {"num_warps": 4 if tile <= 16 else 8, "num_stages": 2}
