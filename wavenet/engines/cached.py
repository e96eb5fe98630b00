"""Owns the cached engine in plain PyTorch: any model, any device, any dtype.

A sample costs one step of each layer instead of the whole receptive field (Le Paine et al. 2016, "Fast WaveNet Generation
Algorithm"). What is done to make that step cheap:

- All taps but the newest are known before the sample is: one gather from the ring buffers and one batched product give
  every layer's share of them at once, off the chain of layers (as NVIDIA's nv-wavenet does on the GPU).
- A column of ones beside the gate outputs carries the biases of the 1x1 products.
- The skips are one product over all layers' gate outputs.
- On CUDA the step is captured once in a graph and replayed: some two hundred small kernels a sample cost one launch.

Shapes: B streams, L layers, K kernel size, C residual, G gate, S skip channels, H history of a layer, Q classes.
"""

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor

from wavenet.engines import BeforeGate, EngineState, bias_of, prime
from wavenet.layers import CausalConv1d
from wavenet.model import WaveNet
from wavenet.outputs.sampling import Sampling, refuse_not_finite

CHUNK = 1024  # samples a call of the step's loop


class TorchEngine:
    """Ring buffers: layer l's input at time t lies in slot offset_l + t mod H_l, where input t - H_l lay before."""

    @torch.inference_mode()
    def __init__(
        self,
        model: WaveNet,
        batch_size: int,
        labels: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> None:
        self._model = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
        self._labels, self._position = labels, model.beginning(batch_size, 1)
        self._batch_size = batch_size
        self._pack()
        self._allocate()
        self._graphs: dict[Sampling, Captured] = {}
        self._inputs: Inputs | None = None
        device = next(model.parameters()).device
        code = torch.full((batch_size,), model.codec.silence, device=device)
        self.state = EngineState(code, self._model.init_state(batch_size))

    @property
    def state(self) -> EngineState:
        histories = [
            self._ring[offset + (self._time + torch.arange(h, device=self._ring.device)) % h]
            if h
            else self._ring[:0]
            for offset, h in zip(self._offsets.tolist(), self._histories.tolist(), strict=True)
        ]
        blocks = tuple(_value(history.permute(1, 2, 0)) for history in histories)
        window = self._window.view(self._batch_size, -1, self._embedding.shape[1])
        return EngineState(self._code.clone(), (_value(window.transpose(1, 2)), blocks))

    @state.setter
    @torch.inference_mode()
    def state(self, state: EngineState) -> None:
        self._time = 0  # the buffers stay where they are: a captured graph knows their places
        self._code.copy_(state.code)
        self._window.copy_(state.model[0].transpose(1, 2).reshape(self._batch_size, -1))
        self._ring.copy_(torch.cat([block.permute(2, 0, 1) for block in state.model[1]]))

    @torch.inference_mode()
    def place(self, position: Tensor) -> None:
        self._position = position.to(self._code.device)
        self._bias.copy_(self._before_gate(self._labels, self._batch_size, self._position))

    @torch.inference_mode()
    def prime(self, codes: Tensor) -> Tensor:
        logits, self.state = prime(self._model, self._labels, self._position, self.state, codes)
        return logits

    @torch.inference_mode()
    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        uniforms = uniforms.to(self._code.device)
        run = self._replayed if self._code.is_cuda else self._stepped
        return torch.cat([run(piece, sampling) for piece in uniforms.split(CHUNK, dim=1)], dim=1)

    def _stepped(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """Each step's operations called one by one."""
        steps = uniforms.shape[1]
        reads, writes = self._slots(steps)
        codes = torch.empty((steps, self._batch_size), dtype=torch.int64, device=self._code.device)
        for u, read, write, out in zip(uniforms.unbind(1), reads, writes, codes, strict=True):
            logits = self._step(u, read, write, sampling)
            out.copy_(self._code)
        if steps:
            refuse_not_finite(logits)  # once a call, not once a sample: what is not finite stays so
        self._time += steps
        return codes.T.contiguous()

    def _replayed(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """The same from a captured step, which finds its row of the call's inputs by a counter on the device."""
        steps, inputs = uniforms.shape[1], self._inputs or self._make_inputs(uniforms.dtype)
        inputs.row.zero_()
        if sampling not in self._graphs:
            self._graphs[sampling] = self._capture(sampling)
        reads, writes = self._slots(steps)
        inputs.uniforms[:steps], inputs.reads[:steps], inputs.writes[:steps] = (
            uniforms.T,
            reads,
            writes,
        )
        inputs.row.zero_()
        graph = self._graphs[sampling]
        for _ in range(steps):
            graph.replay()
        if steps:
            refuse_not_finite(graph.logits)
        self._time += steps
        return inputs.codes[:steps].T.contiguous()

    def _make_inputs(self, dtype: torch.dtype) -> "Inputs":
        """dtype: of the uniforms."""
        reads, writes = self._slots(1)
        zeros, shape = self._code.new_zeros, (CHUNK, self._batch_size)
        indices = zeros(CHUNK, reads.shape[1]), zeros(CHUNK, writes.shape[1])
        self._inputs = Inputs(zeros(1), zeros(shape, dtype=dtype), *indices, zeros(shape))
        return self._inputs

    def _capture(self, sampling: Sampling) -> "Captured":
        """Runs the step aside first, as a capture demands, and puts the streams back where they were."""
        before, aside = self.state, torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._counted_step(sampling)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._counted_step(sampling)
        self.state, self._time = before, 0
        return Captured(graph.replay, logits)

    def _counted_step(self, sampling: Sampling) -> Tensor:
        """The step of the row that the counter shows."""
        inputs = self._inputs
        assert inputs is not None
        u, read, write = (
            rows.index_select(0, inputs.row)[0]
            for rows in (inputs.uniforms, inputs.reads, inputs.writes)
        )
        logits = self._step(u, read, write, sampling)
        inputs.codes.index_copy_(0, inputs.row, self._code[None])
        inputs.row.add_(1)
        return logits

    def _step(self, u: Tensor, read: Tensor, write: Tensor, sampling: Sampling) -> Tensor:
        """Feeds the last code, draws the next; returns the logits it was drawn from (B, Q)."""
        logits = self._logits(read, write)
        self._code.copy_(sampling.draw(logits, u))
        return logits

    def _logits(self, read: Tensor, write: Tensor) -> Tensor:
        self._feed_input()
        past = self._past(read)
        for layer, (now, filter_, gate, z, z1, residual) in enumerate(self._layers):
            torch.addmm(past[layer], self._x[layer], now, out=self._h)
            torch.mul(filter_.tanh_(), gate.sigmoid_(), out=z)
            if residual is not None:
                torch.addmm(self._x[layer], z1, residual, beta=self._scale, out=self._x[layer + 1])
        if len(self._ring):
            self._ring.index_copy_(0, write, self._x)
        skips = torch.mm(self._gates.flatten(1), self._skip).relu_()
        hidden = torch.addmm(self._head_bias, skips, self._head).relu_()
        return torch.addmm(self._out_bias, hidden, self._out)

    def _feed_input(self) -> None:
        """The input convolution over the embedded codes (B, K * C), oldest first."""
        window = torch.cat([self._window, self._embedding[self._code]], dim=1)
        self._window.copy_(window[:, self._embedding.shape[1] :])
        torch.addmm(self._input_bias, window, self._input, out=self._x[0])

    def _past(self, read: Tensor) -> Tensor:
        """bias + condition + all taps but the newest, (L, B, 2G)."""
        if not len(self._ring):
            return self._bias
        taps = self._ring.index_select(0, read).view(
            len(self._layers), -1, *self._ring.shape[1:]
        )  # (L, K - 1, B, C)
        return torch.baddbmm(self._bias, taps.transpose(1, 2).flatten(2), self._past_taps)

    def _slots(self, steps: int) -> tuple[Tensor, Tensor]:
        """For each step, the slots to read, (steps, L * (K - 1)) taps oldest first, and those to write, (steps, L)."""
        if not len(self._ring):
            nothing = self._offsets.expand(steps, -1)
            return nothing[:, :0], nothing
        times = self._time + torch.arange(steps, device=self._ring.device)
        reads = (times[:, None, None] - self._delays) % self._histories[:, None] + self._offsets[
            :, None
        ]
        writes = times[:, None] % self._histories + self._offsets
        return reads.flatten(1), writes

    def _pack(self) -> None:
        """Weights in the layout of the products above, each (inputs, outputs)."""
        model, blocks = self._model, list(self._model.stack.blocks)
        self._embedding = model.embedding.weight
        self._input, self._input_bias = _rows(model.input.weight), bias_of(model.input)
        dilated = torch.stack([block.dilated.weight for block in blocks])  # (L, 2G, C, K)
        self._past_taps = (
            dilated[..., :-1].permute(0, 3, 2, 1).flatten(1, 2)
        )  # (L, (K - 1) * C, 2G)
        self._now_taps = dilated[..., -1].transpose(1, 2).contiguous()  # (L, C, 2G)
        self._scale = blocks[0].residual_scale
        self._residuals = [
            None if block.residual is None else self._scale * _with_bias(block.residual)
            for block in blocks
        ]
        self._skip = torch.cat([_with_bias(block.skip) for block in blocks])  # (L * (G + 1), S)
        hidden, out = (cast(CausalConv1d, model.head[index]) for index in (1, 3))
        self._head, self._head_bias = _rows(hidden.weight), bias_of(hidden)
        self._out, self._out_bias = _rows(out.weight), bias_of(out)
        self._before_gate = BeforeGate(model)
        self._bias = _value(self._before_gate(self._labels, self._batch_size, self._position))
        history = [block.dilated.history for block in blocks]
        dilation = torch.tensor([block.dilated.dilation[0] for block in blocks])
        taps = torch.arange(model.input.kernel_size[0] - 1, 0, -1)
        device = self._embedding.device
        self._histories = torch.tensor(history, device=device)
        self._offsets = torch.tensor([0, *history[:-1]], device=device).cumsum(0)
        self._delays = (dilation[:, None] * taps).to(device)  # (L, K - 1), oldest first

    def _allocate(self) -> None:
        """The buffers of one step, and for each layer the views that its step works on."""
        layers, channels, double_gate = self._now_taps.shape
        gate = double_gate // 2
        new = self._now_taps.new_empty
        index = self._offsets.new_zeros
        self._ring = new(int(self._histories.sum()), self._batch_size, channels)
        self._window = new(self._batch_size, self._input.shape[0] - channels)
        self._code = index(self._batch_size)
        self._x = new(layers, self._batch_size, channels)  # each layer's input
        self._h = new(self._batch_size, double_gate)
        self._gates = torch.ones_like(
            new(self._batch_size, layers, gate + 1)
        )  # the last column stays 1
        filter_, gate_half = self._h.split(gate, dim=1)
        self._layers = [
            (
                self._now_taps[layer],
                filter_,
                gate_half,
                self._gates[:, layer, :-1],
                self._gates[:, layer],
                residual,
            )
            for layer, residual in enumerate(self._residuals)
        ]


class Inputs(NamedTuple):
    """What a captured step reads, one row a step of a call, and the codes it leaves there."""

    row: Tensor  # (1,), which is next
    uniforms: Tensor  # (CHUNK, B)
    reads: Tensor  # as from `_slots`
    writes: Tensor
    codes: Tensor  # (CHUNK, B)


class Captured(NamedTuple):
    """A step of all streams, to be replayed, and where its logits lie."""

    replay: Callable[[], None]
    logits: Tensor


def _value(buffer: Tensor) -> Tensor:
    """A contiguous copy: nothing that later sampling writes to, and no inference tensor, leaves the engine."""
    return buffer.clone(memory_format=torch.contiguous_format)


def _rows(weight: Tensor) -> Tensor:
    """A convolution's weight (out, in, K) -> (K * in, out), oldest tap first."""
    return weight.permute(2, 1, 0).flatten(0, 1)


def _with_bias(convolution: CausalConv1d) -> Tensor:
    """A 1x1 convolution -> (in + 1, out), its bias the last row."""
    return torch.cat([_rows(convolution.weight), bias_of(convolution)[None]])
