"""Owns the reference engine: the whole receptive field through the model for every sample.

Slow, obviously right, and for any model.
"""

from typing import Any

import torch
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.parts import Parts
from wavenet.engines.protocol import (
    EngineState,
    drawn,
    require_condition,
    require_samples,
    require_sampling,
    uniforms_by_sample,
)
from wavenet.outputs import Sampling, require_finite


class NaiveEngine:
    """Keeps every input since the start, and asks the model again for each sample."""

    def __init__(self, parts: Parts, batch_size: int, dtype: torch.dtype, group: int = 1) -> None:
        self._parts, self._group = parts.copied(dtype), group
        self.condition_dtype = dtype
        shape = (batch_size * group, 1)
        self._inputs = torch.full(shape, parts.output.silence, device=parts.device)
        self._features: Tensor | None = (
            None  # (streams, D, inputs - 1), of the inputs that were fed
        )
        self._before: Any = None  # the state before the first of the inputs; None is the zero state

    @property
    def state(self) -> EngineState:
        before = self._before or self._parts.network.init_state(len(self._inputs))
        inputs = self._inputs.clone()  # no inference tensor leaves the engine
        if inputs.shape[1] > 1:
            fed = None if self._features is None else Condition(self._features.clone(), 1)
            _, before = self._parts.network.predict_step(inputs[:, :-1], before, fed)
        return EngineState(inputs[:, -1], before)

    @state.setter
    def state(self, state: EngineState) -> None:
        self._inputs, self._before = state.last[:, None].clone(), state.model
        self._features = None

    @torch.inference_mode()
    def prime(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        require_condition(self._parts, condition, len(self._inputs), samples.shape[1])
        require_samples(self._parts, samples)
        self._hear(samples.to(self._inputs.device), condition)
        return self._params(self._inputs[:, :-1])[..., -samples.shape[1] :]

    @torch.inference_mode()
    def sample(
        self, uniforms: Tensor, sampling: Sampling, condition: Condition | None = None
    ) -> Tensor:
        require_sampling(self._parts.output, sampling, self._group)
        require_condition(self._parts, condition, len(self._inputs), uniforms.shape[1])
        start = self._inputs.shape[1]
        given = uniforms_by_sample(uniforms, self._parts.output).to(self._inputs.device)
        for u in given.unbind(1):
            self._feed(condition)
            params = self._params(self._inputs, last=True)
            require_finite(params)
            sample = drawn(self._parts.output, params, u, sampling, self._group)
            sample = sample.repeat_interleave(self._group)
            self._inputs = torch.cat([self._inputs, sample[:, None]], dim=1)
            condition = None if condition is None else condition.after(1)
        return self._inputs[:: self._group, start:].clone()

    def _hear(self, samples: Tensor, condition: Condition | None) -> None:
        """Takes samples as the next inputs, and what steers the ones before them."""
        self._feed(condition, samples.shape[1])
        self._inputs = torch.cat([self._inputs, samples], dim=1)

    def _feed(self, condition: Condition | None, samples: int = 1) -> None:
        if condition is None:
            return
        kind = next(self._parts.network.parameters()).dtype
        more = condition.over(samples).to(self._inputs.device, kind).expand(-1, -1, samples)
        before = [] if self._features is None else [self._features]
        self._features = torch.cat([*before, more], dim=-1)

    def _params(self, inputs: Tensor, last: bool = False) -> Tensor:
        """(streams, Q, T) of all inputs, or (streams, Q) of the last one."""
        network, features = self._parts.network, self._features
        if self._before is not None:
            steered = None if features is None else Condition(features, 1)
            params, _ = network.predict_step(inputs, self._before, steered)
        else:  # once the receptive field is full, what lies before it changes nothing
            first = max(0, inputs.shape[1] - self._parts.receptive_field) if last else 0
            steered = None if features is None else Condition(features[..., first:], 1)
            params = network.predict(inputs[:, first:], steered)
        return params[..., -1] if last else params
