"""Owns what every engine is: its interface, its state, and the error of one that is not available.

Shapes: B draws, G streams in a group, B * G streams, n samples, Q parameters of a sample's
distribution, U uniforms of a sample.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from wavenet.conditioning import Condition
from wavenet.engines.parts import Parts
from wavenet.outputs import Output, Sampling, guided, require_applicable


class EngineUnavailable(ValueError):
    """An engine is not available on this machine or for this model; `auto` then takes another."""


class EngineFailed(EngineUnavailable, RuntimeError):
    """An engine that should run here could not be built, or failed its own check."""


class EngineState(NamedTuple):
    """All that an engine remembers, in the model's canonical form.

    It can be taken from one engine and given to another.

    last: (streams,) int64, the last sample, not yet fed to the model (silence at first).
    model: the model's state before that sample.
    """

    last: Tensor
    model: tuple[Tensor, tuple[Tensor, ...]]


class Engine(Protocol):
    """Streams side by side, B * group of them; those of a group share each sample that is drawn.

    group 1: each stream has its own samples. group 2, for guidance: of each two streams, the
    parameters of the first are pushed away from those of the second (see `wavenet.outputs.guided`)
    before a sample is drawn, and both are fed it.

    Weights are copied when the engine is built: later changes to the model do not reach it. A model
    with a condition needs one in every call, with B * group rows. Its first frame belongs to the
    first sample of that call.

    condition_dtype: what a condition's features are best made in; others are converted.
    """

    state: EngineState
    condition_dtype: torch.dtype

    def __init__(
        self, parts: Parts, batch_size: int, dtype: torch.dtype, group: int = 1
    ) -> None: ...

    def prime(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        """Teacher forced, in parallel over time: the next n samples of each stream, given.

        (streams, n) -> their params (streams, Q, n); params[..., i] tell of samples[:, i].
        """
        ...

    def sample(
        self, uniforms: Tensor, sampling: Sampling, condition: Condition | None = None
    ) -> Tensor:
        """Free running: uniforms (B, n) or (B, n, U), in [0, 1) -> the next n samples (B, n)."""
        ...


class TeacherForced(Engine, Protocol):
    """An engine with an arithmetic of its own, which can be compared with the model's."""

    def teacher_forced(self, samples: Tensor, condition: Condition | None = None) -> Tensor:
        """As `prime`, sample by sample in this engine's own arithmetic."""
        ...


class Streamer(Protocol):
    """A feed-forward network that keeps its own state: audio in, audio out, block by block.

    Made of a network with `init_state` and `step`, of which it begins in the first state. Later
    changes to the network do not reach it.

    state: canonical, as `step` takes and returns it; it can be taken from one streamer and given to
        another, or to `step`.
    """

    state: Any

    def __init__(self, network: nn.Module, batch_size: int = 1) -> None: ...

    def process(self, x: Tensor, condition: Tensor | None = None) -> Any:
        """The next n >= 1 samples x (B, in, n), condition (B, D, n or 1) -> those of `step`.

        (B, out, n), or a tuple of such tensors.
        """
        ...


def uniforms_by_sample(uniforms: Tensor, output: Output) -> Tensor:
    """uniforms (B, n) or (B, n, U) -> (B, n, U). Raises ValueError for another number a sample."""
    shaped = uniforms.unsqueeze(-1) if uniforms.dim() == 2 else uniforms
    if shaped.dim() != 3 or shaped.shape[-1] != output.uniforms:
        raise ValueError(
            f"{type(output).__name__} draws a sample from {output.uniforms} uniforms, so they must "
            f"have the shape (batch, time, {output.uniforms}), but got {tuple(uniforms.shape)}."
        )
    return shaped


def drawn(
    output: Output, params: Tensor, uniforms: Tensor, sampling: Sampling, group: int
) -> Tensor:
    """params (B * group, Q), uniforms (B, U) -> samples (B,)."""
    if group == 2:
        params = guided(params, sampling.guidance)
    return output.draw(params, uniforms, sampling)


def require_condition(
    parts: Parts, condition: Condition | None, streams: int, samples: int
) -> None:
    """Raises ValueError for a condition that is missing, not expected, too short or misshapen."""
    channels = parts.condition_channels
    if condition is None and not channels:
        return
    if condition is None or condition.features.shape[:2] != (streams, channels):
        seen = "none" if condition is None else f"one of shape {tuple(condition.features.shape)}"
        wanted = f"of shape ({streams}, {channels}, frames)" if channels else "at all: none"
        raise ValueError(
            f"This model takes a condition {wanted}, but got {seen}. "
            "Make it by model.condition or model.timeline."
        )
    condition.require(samples)


def require_samples(parts: Parts, samples: Tensor) -> None:
    """Raises ValueError for samples that the output does not have: an engine may not look again."""
    parts.output.decode(samples)


def require_sampling(output: Output, sampling: Sampling, group: int) -> None:
    """Raises ValueError for a way to draw that the output has not.

    And where guidance is asked for and streams do not come in pairs.
    """
    require_applicable(output, sampling)
    if sampling.guidance and group != 2:
        raise ValueError(
            f"guidance={sampling.guidance} draws from pairs of streams, one conditional and one "
            f"unconditional, but this engine's groups are of {group}: build it with group=2."
        )


def primed(
    parts: Parts, before: EngineState, samples: Tensor, condition: Condition | None
) -> tuple[Tensor, EngineState]:
    """`Engine.prime` by the model itself: the params, and the state that the model leaves.

    Raises ValueError as `require_condition` and `require_samples` do.
    """
    require_condition(parts, condition, len(before.last), samples.shape[1])
    require_samples(parts, samples)
    samples = samples.to(before.last.device)
    inputs = torch.cat([before.last[:, None], samples[:, :-1]], dim=1)
    steered = None if condition is None else in_dtype_of(parts, condition)
    state = _of_dtype(before.model, next(parts.network.parameters()).dtype)
    params, state = parts.network.predict_step(inputs, state, steered)
    return params, EngineState(samples[:, -1], state)


def in_dtype_of(parts: Parts, condition: Condition) -> Condition:
    """The condition on the network's device and in its dtype."""
    like = next(parts.network.parameters())
    return condition._replace(features=condition.features.to(like))


def _of_dtype(state: Any, dtype: torch.dtype) -> Any:
    if isinstance(state, Tensor):
        return state.to(dtype)
    return tuple(_of_dtype(part, dtype) for part in state)
