"""Owns the reference engine: the whole receptive field through `model.forward` for every sample. Slow, obviously right."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from wavenet.conditioning.labels import advanced
from wavenet.engines import EngineState
from wavenet.model import ModelState, WaveNet
from wavenet.outputs.sampling import Sampling, refuse_not_finite


class NaiveEngine:
    """Keeps every input since the start, and asks the model again for each sample."""

    def __init__(
        self,
        model: WaveNet,
        batch_size: int,
        labels: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> None:
        self._model = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
        self._labels = labels
        device = next(model.parameters()).device
        self._inputs = torch.full((batch_size, 1), model.codec.silence, device=device)
        self._position = model.beginning(batch_size, 1)  # of the first of the inputs' targets
        self._before: ModelState | None = (
            None  # the state before the first of the inputs; None is the zero state
        )

    @property
    def state(self) -> EngineState:
        before = self._before or self._model.init_state(len(self._inputs))
        inputs = self._inputs.clone()  # no inference tensor leaves the engine
        if inputs.shape[1] > 1:
            _, before = self._model.step(
                inputs[:, :-1], before, self._labels, position=self._position
            )
        return EngineState(inputs[:, -1], before)

    @state.setter
    def state(self, state: EngineState) -> None:
        self._position = advanced(self._position, self._inputs.shape[1] - 1)
        self._inputs, self._before = state.code[:, None].clone(), state.model

    def place(self, position: Tensor) -> None:
        self._position = advanced(position.to(self._inputs.device), 1 - self._inputs.shape[1])

    @torch.inference_mode()
    def prime(self, codes: Tensor) -> Tensor:
        self._inputs = torch.cat([self._inputs, codes.to(self._inputs.device)], dim=1)
        return self._logits(self._inputs[:, :-1])[..., -codes.shape[1] :]

    @torch.inference_mode()
    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        start = self._inputs.shape[1]
        for u in uniforms.to(self._inputs.device).unbind(1):
            logits = self._logits(self._inputs, last=True)
            refuse_not_finite(logits)
            code = sampling.draw(logits, u)
            self._inputs = torch.cat([self._inputs, code[:, None]], dim=1)
        return self._inputs[:, start:].clone()

    def _logits(self, inputs: Tensor, last: bool = False) -> Tensor:
        if self._before is not None:
            logits, _ = self._model.step(
                inputs, self._before, self._labels, position=self._position
            )
        else:  # once the receptive field is full, what lies before it changes nothing
            heard = inputs[:, -self._model.receptive_field :] if last else inputs
            position = advanced(self._position, inputs.shape[1] - heard.shape[1])
            logits = self._model(heard, self._labels, position=position)
        return logits[..., -1] if last else logits
