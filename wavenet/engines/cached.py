"""Owns the cached engine in plain PyTorch: any device, any dtype.

A sample costs one step of each layer instead of the whole receptive field (Le Paine et al. 2016,
"Fast WaveNet Generation Algorithm"). What is done to make that step cheap:

- All taps but the newest are known before the sample is: one gather from the ring buffers and one
  batched product give every layer's share of them at once, off the chain of layers (as NVIDIA's
  nv-wavenet does on the GPU).
- A column of ones beside the gate outputs carries the biases of the 1x1 products.
- The skips are one product over all layers' gate outputs.
- On CUDA the step is captured once in a graph and replayed: some two hundred small kernels a sample
  cost one launch.

Shapes: B streams, L layers, K taps, C residual, G gate, S skip channels, H history of a layer,
Q parameters of a sample's distribution, F frames of a condition, n samples of a call.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.before_gate import FRAMES, BeforeGate, pieces
from wavenet.engines.check import require_known
from wavenet.engines.parts import Parts
from wavenet.engines.protocol import (
    EngineState,
    drawn,
    primed,
    require_condition,
    require_sampling,
    uniforms_by_sample,
)
from wavenet.machine import on_device, threads_for
from wavenet.outputs import Sampling, require_finite
from wavenet.trials import reason_of

logger = logging.getLogger(__name__)

CHUNK = 1024  # samples a call of the step's loop


class CachedEngine:
    """Ring buffers: layer l's input at time t lies in slot offset_l + t mod H_l.

    Input t - H_l lay there before.
    """

    @torch.inference_mode()
    def __init__(self, parts: Parts, batch_size: int, dtype: torch.dtype, group: int = 1) -> None:
        require_known(parts, "cached")
        self._parts, self._group = parts.copied(dtype), group
        self.condition_dtype = dtype
        self._streams = batch_size * group
        self._weights = Packed(self._parts)
        self._memory = Memory(self._weights, self._streams)
        self._before_gate = BeforeGate(self._parts)
        self._device = parts.device
        self._captures = self._device.type == "cuda"  # until a capture has failed
        self._graphs: dict[tuple[Sampling, int], Captured] = {}
        self._inputs: Inputs | None = None
        last = torch.full((self._streams,), parts.output.silence, device=parts.device)
        self.state = EngineState(last, self._parts.network.init_state(self._streams))

    @property
    def state(self) -> EngineState:
        memory = self._memory
        window, blocks = memory.window_value(), memory.histories(self._time)
        return EngineState(memory.last.clone(), (window, blocks))

    @state.setter
    @torch.inference_mode()
    def state(self, state: EngineState) -> None:
        self._time = 0  # the buffers stay where they are: a captured graph knows their places
        window, blocks = state.model
        self._memory.last.copy_(state.last)
        self._memory.window.copy_(window.transpose(1, 2).reshape(self._streams, -1))
        self._memory.ring.copy_(torch.cat([block.permute(2, 0, 1) for block in blocks]))

    @torch.inference_mode()
    def prime(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        params, self.state = primed(self._parts, self.state, samples, condition)
        return params

    @torch.inference_mode()
    def sample(
        self, uniforms: Tensor, sampling: Sampling, condition: Condition | None = None
    ) -> Tensor:
        require_sampling(self._parts.output, sampling, self._group)
        require_condition(self._parts, condition, self._streams, uniforms.shape[1])
        given = uniforms_by_sample(uniforms, self._parts.output).to(self._memory.last.device)
        samples = []
        for start, stop, here in pieces(condition, given.shape[1], CHUNK):
            before = self._before_gate(here, self._streams)
            frames = _frame_of_each(here, stop - start)
            run = self._replayed if self._captures else self._stepped
            samples.append(run(given[:, start:stop], sampling, before, frames))
        return torch.cat(samples, dim=1) if samples else given[..., 0].long()

    def _stepped(
        self, uniforms: Tensor, sampling: Sampling, before: Tensor, frames: list[int]
    ) -> Tensor:
        """Each step's operations called one by one. before: (F, L, B, 2G)."""
        steps = uniforms.shape[1]
        reads, writes = self._weights.slots(self._time, steps)
        shape = (steps, self._streams // self._group)
        samples = torch.empty(shape, dtype=torch.int64, device=self._memory.last.device)
        by_frame, last = before.unbind(), self._memory.last[:: self._group]  # views, taken once
        rows = zip(uniforms.unbind(1), reads, writes, frames, samples, strict=True)
        with threads_for(self._streams):
            for u, read, write, frame, out in rows:
                params = self._step(u, read, write, by_frame[frame], sampling)
                out.copy_(last)
        require_finite(params)  # once a call, not once a sample: what is not finite stays so
        self._time += steps
        return samples.T.contiguous()

    def _replayed(
        self, uniforms: Tensor, sampling: Sampling, before: Tensor, frames: list[int]
    ) -> Tensor:
        """The same from a captured step, which finds its row of the call's inputs by a counter.

        Where the step cannot be captured, this call's and all later ones' are called one by one.
        """
        steps = uniforms.shape[1]
        inputs = self._inputs = self._inputs or self._make_inputs(uniforms)
        kept = inputs.keep(before, frames)
        inputs.row.zero_()  # a capture's steps read rows too, from the first one on
        if (sampling, kept) not in self._graphs:
            start = self.state
            try:
                self._graphs[sampling, kept] = self._capture(sampling)
            except Exception as error:
                self._captures, self.state = False, start
                logger.warning(
                    "engine: no CUDA graph (%s); each step's operations are called one by one",
                    reason_of(error),
                )
                return self._stepped(uniforms, sampling, before, frames)
            self.state = start
        graph = self._graphs[sampling, kept]
        inputs.take(uniforms, *self._weights.slots(self._time, steps))
        for _ in range(steps):
            graph.replay()
        require_finite(graph.params)
        self._time += steps
        return inputs.samples[:steps, :: self._group].T.contiguous()

    def _make_inputs(self, uniforms: Tensor) -> "Inputs":
        reads, writes = self._weights.slots(0, 1)
        zeros = self._memory.last.new_zeros
        return Inputs(
            row=zeros(1),
            uniforms=uniforms.new_zeros((CHUNK, len(uniforms), uniforms.shape[2])),
            reads=zeros((CHUNK, reads.shape[1])),
            writes=zeros((CHUNK, writes.shape[1])),
            samples=zeros((CHUNK, self._streams)),
            frames=zeros(CHUNK),
        )

    def _capture(self, sampling: Sampling) -> "Captured":
        """Runs the step aside first, as a capture demands; the state is then another."""
        with on_device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self._counted_step(sampling)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                params = self._counted_step(sampling)
        return Captured(graph.replay, params)

    def _counted_step(self, sampling: Sampling) -> Tensor:
        """The step of the row that the counter shows."""
        inputs = self._inputs
        assert inputs is not None
        u, read, write, frame = (
            rows.index_select(0, inputs.row)
            for rows in (inputs.uniforms, inputs.reads, inputs.writes, inputs.frames)
        )
        before = inputs.before if len(inputs.before) == 1 else inputs.before.index_select(0, frame)
        params = self._step(u[0], read[0], write[0], before[0], sampling)
        inputs.samples.index_copy_(0, inputs.row, self._memory.last[None])
        inputs.row.add_(1)
        return params

    def _step(
        self, u: Tensor, read: Tensor, write: Tensor, before: Tensor, sampling: Sampling
    ) -> Tensor:
        """Feeds the last samples, draws the next; returns the params of the draw, (B, Q)."""
        params = self._params(read, write, before)
        sample = drawn(self._parts.output, params, u, sampling, self._group)
        self._memory.last.copy_(
            sample if self._group == 1 else sample.repeat_interleave(self._group)
        )
        return params

    def _params(self, read: Tensor, write: Tensor, before: Tensor) -> Tensor:
        """before: (L, B, 2G), what is added before the gates."""
        weights, memory = self._weights, self._memory
        self._feed_input()
        past = self._past(read, before)
        for layer, (now, filter_, gate, z, z1, residual) in enumerate(memory.layers):
            torch.addmm(past[layer], memory.x[layer], now, out=memory.h)
            torch.mul(filter_.tanh_(), gate.sigmoid_(), out=z)
            if residual is not None:
                torch.addmm(
                    memory.x[layer], z1, residual, beta=weights.scale, out=memory.x[layer + 1]
                )
        if len(memory.ring):
            memory.ring.index_copy_(0, write, memory.x)
        skips = torch.mm(memory.gates.flatten(1), weights.skip).relu_()
        hidden = torch.addmm(weights.hidden_bias, skips, weights.hidden).relu_()
        return torch.addmm(weights.out_bias, hidden.to(weights.out.dtype), weights.out)

    def _feed_input(self) -> None:
        """The input convolution over the embedded samples (B, K * C), oldest first."""
        weights, memory = self._weights, self._memory
        window = torch.cat([memory.window, weights.embed(memory.last)], dim=1)
        memory.window.copy_(window[:, memory.x.shape[2] :])
        torch.addmm(weights.input_bias, window, weights.input, out=memory.x[0])

    def _past(self, read: Tensor, before: Tensor) -> Tensor:
        """What is added before the gates and all taps but the newest, (L, B, 2G)."""
        ring = self._memory.ring
        if not len(ring):
            return before
        taps = ring.index_select(0, read).view(len(before), -1, *ring.shape[1:])  # (L, K - 1, B, C)
        return torch.baddbmm(before, taps.transpose(1, 2).flatten(2), self._weights.past_taps)


def _frame_of_each(condition: Condition | None, samples: int) -> list[int]:
    if condition is None or condition.hop == 0:
        return [0] * samples
    return [(condition.offset + t) // condition.hop for t in range(samples)]


class Packed:
    """A model's weights in the layout of the engine's products, each (inputs, outputs)."""

    def __init__(self, parts: Parts) -> None:
        weights = parts.known()
        layers, device = weights.layers, parts.device
        self.embed = weights.embed
        self.input, self.input_bias = _rows(weights.input), weights.input_bias
        dilated = torch.stack([layer.taps for layer in layers])  # (L, 2G, C, K)
        self.past_taps = dilated[..., :-1].permute(0, 3, 2, 1).flatten(1, 2)  # (L, (K-1) C, 2G)
        self.now_taps = dilated[..., -1].transpose(1, 2).contiguous()  # (L, C, 2G)
        self.scale = next((layer.scale for layer in layers if layer.mix is not None), 1.0)
        self.residuals = [
            None
            if layer.mix is None or layer.mix_bias is None
            else self.scale * _with_bias(layer.mix, layer.mix_bias)
            for layer in layers
        ]
        skips = [_with_bias(layer.skip, layer.skip_bias) for layer in layers]
        self.skip = torch.cat(skips)  # (L * (G + 1), S)
        self.hidden, self.hidden_bias = weights.hidden.T.contiguous(), weights.hidden_bias
        self.out, self.out_bias = weights.out.T.contiguous(), weights.out_bias
        history = [layer.history for layer in layers]
        dilation = torch.tensor([layer.dilation for layer in layers])
        taps = torch.arange(dilated.shape[-1] - 1, 0, -1)
        self.histories = torch.tensor(history, device=device)
        self.offsets = torch.tensor([0, *history[:-1]], device=device).cumsum(0)
        self._delays = (dilation[:, None] * taps).to(device)  # (L, K - 1), oldest first

    def slots(self, time: int, steps: int) -> tuple[Tensor, Tensor]:
        """For each of the steps from `time` on, the slots of the ring to read and to write.

        (steps, L * (K - 1)) taps, oldest first, and (steps, L).
        """
        if not int(self.histories.sum()):
            nothing = self.offsets.expand(steps, -1)
            return nothing[:, :0], nothing
        times = time + torch.arange(steps, device=self.offsets.device)
        reads = (times[:, None, None] - self._delays) % self.histories[:, None]
        writes = times[:, None] % self.histories + self.offsets
        return (reads + self.offsets[:, None]).flatten(1), writes


class Memory:
    """What the streams remember, the buffers of one step, and each layer's views of them."""

    def __init__(self, weights: Packed, streams: int) -> None:
        layers, channels, double_gate = weights.now_taps.shape
        gate = double_gate // 2
        new = weights.now_taps.new_empty
        self._offsets, self._histories = weights.offsets.tolist(), weights.histories.tolist()
        self.ring = new(sum(self._histories), streams, channels)
        self.window = new(streams, weights.input.shape[0] - channels)
        self.last = weights.offsets.new_zeros(streams)
        self.x = new(layers, streams, channels)  # each layer's input
        self.h = new(streams, double_gate)
        self.gates = torch.ones_like(new(streams, layers, gate + 1))  # the last column stays 1
        filter_, gate_half = self.h.split(gate, dim=1)
        self.layers = [
            (
                weights.now_taps[layer],
                filter_,
                gate_half,
                self.gates[:, layer, :-1],
                self.gates[:, layer],
                residual,
            )
            for layer, residual in enumerate(weights.residuals)
        ]

    def histories(self, time: int) -> tuple[Tensor, ...]:
        """Each layer's last inputs (B, C, H), oldest first, at that time."""
        order = torch.arange(max(self._histories), device=self.ring.device)
        slots = [
            offset + (time + order[:history]) % history if history else order[:0]
            for offset, history in zip(self._offsets, self._histories, strict=True)
        ]
        return tuple(_value(self.ring[slot].permute(1, 2, 0)) for slot in slots)

    def window_value(self) -> Tensor:
        """The input convolution's last inputs (B, C, K - 1), oldest first."""
        window = self.window.view(len(self.window), -1, self.ring.shape[2])
        return _value(window.transpose(1, 2))


class Inputs:
    """What a captured step reads, one row for each step of a call, and the samples it leaves."""

    def __init__(self, **rows: Tensor) -> None:
        self.row = rows["row"]  # (1,), which is next
        self.uniforms = rows["uniforms"]  # (CHUNK, B, U)
        self.reads, self.writes = rows["reads"], rows["writes"]  # as from `Packed.slots`
        self.samples = rows["samples"]  # (CHUNK, streams)
        self.frames = rows["frames"]  # (CHUNK,), which frame of `before`
        self._kept: dict[int, Tensor] = {}  # by frames: a captured graph knows their places
        self.frames_kept = 0

    @property
    def before(self) -> Tensor:
        """(1 or FRAMES, L, B, 2G), what is added before the gates in each frame."""
        return self._kept[self.frames_kept]

    def keep(self, before: Tensor, frames: list[int]) -> int:
        """Takes what is added before the gates; returns for how many frames its buffer has room."""
        self.frames[: len(frames)] = torch.tensor(frames)
        self.frames_kept = 1 if len(before) == 1 else FRAMES
        if self.frames_kept not in self._kept:
            self._kept[self.frames_kept] = before.new_zeros((self.frames_kept, *before.shape[1:]))
        self.before[: len(before)] = before
        return self.frames_kept

    def take(self, uniforms: Tensor, reads: Tensor, writes: Tensor) -> None:
        steps = uniforms.shape[1]
        self.uniforms[:steps], self.reads[:steps] = uniforms.transpose(0, 1), reads
        self.writes[:steps] = writes
        self.row.zero_()


class Captured(NamedTuple):
    """A step of all streams, to be replayed, and where its params lie."""

    replay: Callable[[], None]
    params: Tensor


def _value(buffer: Tensor) -> Tensor:
    """A contiguous copy: nothing that later sampling writes to leaves the engine."""
    return buffer.clone(memory_format=torch.contiguous_format)


def _rows(weight: Tensor) -> Tensor:
    """A convolution's weight (out, in, K) -> (K * in, out), oldest tap first."""
    return weight.permute(2, 1, 0).flatten(0, 1)


def _with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution (out, in) -> (in + 1, out), its bias the last row."""
    return torch.cat([weight.T, bias[None]])
