"""Owns the cached engine in plain PyTorch: any model, any device, any dtype.

A sample costs one step of each layer instead of the whole receptive field (Le Paine et al. 2016, "Fast WaveNet Generation
Algorithm"). What is done to make that step cheap:

- All taps but the newest are known before the sample is: one gather from the ring buffers and one batched product give
  every layer's share of them at once, off the chain of layers (as NVIDIA's nv-wavenet does on the GPU).
- A column of ones beside the gate outputs carries the biases of the 1x1 products.
- The skips are one product over all layers' gate outputs.

Shapes: B streams, L layers, K kernel size, C residual, G gate, S skip channels, H history of a layer, Q classes.
"""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from wavenet.distributions import Sampling, refuse_not_finite
from wavenet.engines import EngineState, before_gate, bias_of
from wavenet.layers import CausalConv1d
from wavenet.model import WaveNet


class TorchEngine:
    """Ring buffers: layer l's input at time t lies in slot offset_l + t mod H_l, where input t - H_l lay before."""

    @torch.inference_mode()
    def __init__(
        self, model: WaveNet, batch_size: int, labels: Mapping[str, Tensor] | None, dtype: torch.dtype
    ) -> None:
        self._model = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
        self._labels = labels
        self._batch_size = batch_size
        self._pack()
        self._allocate()
        device = next(model.parameters()).device
        code = torch.full((batch_size,), model.codec.silence, device=device)
        self.state = EngineState(code, self._model.init_state(batch_size))

    @property
    def state(self) -> EngineState:
        histories = [
            self._ring[offset + (self._time + torch.arange(h, device=self._ring.device)) % h] if h else self._ring[:0]
            for offset, h in zip(self._offsets.tolist(), self._histories.tolist(), strict=True)
        ]
        blocks = tuple(_value(history.permute(1, 2, 0)) for history in histories)
        window = self._window.view(self._batch_size, -1, self._embedding.shape[1])
        return EngineState(self._code.clone(), (_value(window.transpose(1, 2)), blocks))

    @state.setter
    def state(self, state: EngineState) -> None:
        self._time = 0
        self._code = state.code.clone()
        self._window = state.model[0].transpose(1, 2).reshape(self._batch_size, -1)
        self._ring = torch.cat([block.permute(2, 0, 1) for block in state.model[1]])

    @torch.inference_mode()
    def prime(self, codes: Tensor) -> Tensor:
        codes = codes.to(self._code.device)
        inputs = torch.cat([self._code[:, None], codes[:, :-1]], dim=1)
        logits, model_state = self._model.step(inputs, self.state.model, self._labels)
        self.state = EngineState(codes[:, -1], model_state)
        return logits

    @torch.inference_mode()
    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        steps = uniforms.shape[1]
        reads, writes = self._slots(steps)
        codes = torch.empty((steps, self._batch_size), dtype=torch.int64, device=self._code.device)
        rows = zip(uniforms.to(self._code.device).unbind(1), reads, writes, codes.unbind(0), strict=True)
        for u, read, write, out in rows:
            logits = self._logits(read, write)
            self._code = out.copy_(sampling.draw(logits, u))
        if steps:
            refuse_not_finite(logits)  # once a call, not once a sample: what is not finite stays so
        self._code = self._code.clone()
        self._time += steps
        return codes.T.contiguous()

    def _logits(self, read: Tensor, write: Tensor) -> Tensor:
        """One step: feeds the last code, returns logits (B, Q)."""
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
        self._window = window[:, self._embedding.shape[1] :]
        torch.addmm(self._input_bias, window, self._input, out=self._x[0])

    def _past(self, read: Tensor) -> Tensor:
        """bias + condition + all taps but the newest, (L, B, 2G)."""
        if not len(self._ring):
            return self._bias
        taps = self._ring.index_select(0, read).view(len(self._layers), -1, *self._ring.shape[1:])  # (L, K - 1, B, C)
        return torch.baddbmm(self._bias, taps.transpose(1, 2).flatten(2), self._past_taps)

    def _slots(self, steps: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """For each step, the slots to read, (L * (K - 1),) taps oldest first, and those to write, (L,)."""
        if not len(self._ring):
            return (self._offsets,) * steps, (self._offsets,) * steps
        times = self._time + torch.arange(steps, device=self._ring.device)
        reads = (times[:, None, None] - self._delays) % self._histories[:, None] + self._offsets[:, None]
        writes = times[:, None] % self._histories + self._offsets
        return reads.flatten(1).unbind(0), writes.unbind(0)

    def _pack(self) -> None:
        """Weights in the layout of the products above, each (inputs, outputs)."""
        model, blocks = self._model, list(self._model.stack.blocks)
        self._embedding = model.embedding.weight
        self._input, self._input_bias = _rows(model.input.weight), bias_of(model.input)
        dilated = torch.stack([block.dilated.weight for block in blocks])  # (L, 2G, C, K)
        self._past_taps = dilated[..., :-1].permute(0, 3, 2, 1).flatten(1, 2)  # (L, (K - 1) * C, 2G)
        self._now_taps = dilated[..., -1].transpose(1, 2).contiguous()  # (L, C, 2G)
        self._scale = blocks[0].residual_scale
        self._residuals = [
            None if block.residual is None else self._scale * _with_bias(block.residual) for block in blocks
        ]
        self._skip = torch.cat([_with_bias(block.skip) for block in blocks])  # (L * (G + 1), S)
        hidden, out = (cast(CausalConv1d, model.head[index]) for index in (1, 3))
        self._head, self._head_bias = _rows(hidden.weight), bias_of(hidden)
        self._out, self._out_bias = _rows(out.weight), bias_of(out)
        self._bias = before_gate(model, self._labels, self._batch_size)
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
        self._x = new(layers, self._batch_size, channels)  # each layer's input
        self._h = new(self._batch_size, double_gate)
        self._gates = torch.ones_like(new(self._batch_size, layers, gate + 1))  # the last column stays 1
        filter_, gate_half = self._h.split(gate, dim=1)
        self._layers = [
            (self._now_taps[layer], filter_, gate_half, self._gates[:, layer, :-1], self._gates[:, layer], residual)
            for layer, residual in enumerate(self._residuals)
        ]


def _value(buffer: Tensor) -> Tensor:
    """A contiguous copy: nothing that later sampling writes to, and no inference tensor, leaves the engine."""
    return buffer.clone(memory_format=torch.contiguous_format)


def _rows(weight: Tensor) -> Tensor:
    """A convolution's weight (out, in, K) -> (K * in, out), oldest tap first."""
    return weight.permute(2, 1, 0).flatten(0, 1)


def _with_bias(convolution: CausalConv1d) -> Tensor:
    """A 1x1 convolution -> (in + 1, out), its bias the last row."""
    return torch.cat([_rows(convolution.weight), bias_of(convolution)[None]])
