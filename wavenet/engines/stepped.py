"""Owns the general engine: any model that can run step by step, one call of it for each sample.

It needs `Network.predict_step` alone: blocks of any kind, conditions by any part, any output. Slow:
every module of the model is called for every sample.
"""

from typing import Any

import torch
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.parts import Parts
from wavenet.engines.protocol import (
    EngineState,
    drawn,
    in_dtype_of,
    primed,
    require_condition,
    require_sampling,
    uniforms_by_sample,
)
from wavenet.machine import threads_for
from wavenet.outputs import Sampling, require_finite


class SteppedEngine:
    """Its state is the model's own, as `predict_step` gives it."""

    @torch.no_grad()
    def __init__(self, parts: Parts, batch_size: int, dtype: torch.dtype, group: int = 1) -> None:
        self._parts, self._group, streams = parts.copied(dtype), group, batch_size * group
        self.condition_dtype = dtype
        last = torch.full((streams,), parts.output.silence, device=parts.device)
        self.state = EngineState(last, self._parts.network.init_state(streams))

    @torch.no_grad()
    def prime(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        params, self.state = primed(self._parts, self.state, samples, condition)
        return params

    @torch.no_grad()
    def sample(
        self, uniforms: Tensor, sampling: Sampling, condition: Condition | None = None
    ) -> Tensor:
        require_sampling(self._parts.output, sampling, self._group)
        require_condition(self._parts, condition, len(self.state.last), uniforms.shape[1])
        last, state = self.state
        condition = None if condition is None else in_dtype_of(self._parts, condition)
        given = uniforms_by_sample(uniforms, self._parts.output).to(last.device)
        samples = []
        with threads_for(len(last)):
            for u in given.unbind(1):
                params, state = self._step(last, state, condition)
                samples.append(drawn(self._parts.output, params, u, sampling, self._group))
                last = samples[-1].repeat_interleave(self._group)
                condition = None if condition is None else condition.after(1)
        if samples:
            require_finite(params)  # once a call, not once a sample: what is not finite stays so
        self.state = EngineState(last, state)
        return torch.stack(samples, dim=1) if samples else last.new_empty(len(given), 0)

    def _step(self, last: Tensor, state: Any, condition: Condition | None) -> tuple[Tensor, Any]:
        """Feeds each stream's last sample -> params (streams, Q), new state."""
        params, state = self._parts.network.predict_step(last[:, None], state, condition)
        return params[..., 0], state
