"""Owns what engines require of a model, and how an engine with its own arithmetic checks itself.

Shapes: B streams, Q parameters of a sample's distribution, n samples.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.parts import Parts
from wavenet.engines.protocol import (
    EngineFailed,
    EngineState,
    EngineUnavailable,
    Streamer,
    TeacherForced,
)
from wavenet.engines.reading import flat, rebuilt
from wavenet.outputs import require_finite

CHECKED = 12  # samples of an engine's check against the model
CHECKED_HOP = 5  # samples of a frame of its condition
# samples of a feed-forward network's check against its step: histories move, blocks of any length
CHECKED_BLOCKS = (300, 7, 20)
STREAM_TOLERANCE = 1e-4  # of that, relative to the largest value


def require_supported(
    parts: Parts,
    dtype: torch.dtype,
    name: str,
    device: str,
    where: str,
    kinds: Iterable[torch.dtype],
) -> None:
    """Raises ValueError for what a compiled engine cannot run, by name.

    A model on another device than `device`, called `where`; a dtype not among `kinds`; weights that
    are not finite. Raises EngineUnavailable for parts that it does not know.
    """
    if parts.device.type != device:
        raise ValueError(
            f"The {name} engine runs on {where}, but the model is on {parts.device}: move it with "
            f"model.{device}()."
        )
    *others, last = (str(kind).removeprefix("torch.") for kind in kinds)
    if dtype not in kinds:
        raise ValueError(
            f"The {name} engine computes in {', '.join(others)} or {last}, but precision "
            f"{str(dtype).removeprefix('torch.')} was asked for: the cached engine has it."
        )
    require_known(parts, name)
    _require_finite_weights(parts.network)


def require_streamable(network: Any, batch_size: int, name: str) -> None:
    """Raises ValueError for what a compiled engine cannot stream, by name."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, but got {batch_size!r}.")
    devices = {parameter.device.type for parameter in network.parameters()} - {"cpu"}
    if devices:
        raise ValueError(
            f"The {name} engine runs on the CPU, but the model is on {', '.join(devices)}: move it "
            "with model.cpu()."
        )
    _require_finite_weights(network)


def _require_finite_weights(network: Any) -> None:
    for weight, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"The model's weight {weight} is not finite (NaN or infinity): it is damaged or "
                "its training diverged. Take an earlier checkpoint."
            )


def require_known(parts: Parts, name: str) -> None:
    """Raises EngineUnavailable for parts that the engine of that name does not know."""
    obstacles = list(parts.obstacles)
    if parts.weights is not None:
        obstacles += parts.weights.differing()
    if obstacles:
        raise EngineUnavailable(
            f"The {name} engine does not run this model ({'; '.join(obstacles[:3])}); "
            "engine='step' runs any."
        )


def require_output(parts: Parts, name: str, runs: bool, wanted: str) -> None:
    """Raises EngineUnavailable unless the engine draws from the model's output."""
    if not runs:
        output = parts.output
        raise EngineUnavailable(
            f"The {name} engine draws from {wanted}, but this model's {type(output).__name__} has "
            f"{output.channels} parameters a sample; engine='cached' draws from any output."
        )


def check_against_model(
    engine: TeacherForced, parts: Parts, streams: int, tolerance: float, name: str, where: str
) -> None:
    """The params of the first samples, from a random past, against the model's.

    Leaves the engine in some other state. tolerance: relative to the largest parameter above 1.
    Raises EngineFailed where they differ by more.
    """
    device = parts.device
    generator = torch.Generator(device).manual_seed(0)
    window, blocks = parts.network.init_state(streams)
    last = torch.zeros(streams, dtype=torch.int64, device=device)
    past = (_noise(window.shape, generator), tuple(_noise(x.shape, generator) for x in blocks))
    start = EngineState(last, past)
    shape = (streams, CHECKED)
    samples = torch.randint(parts.output.levels, shape, generator=generator, device=device)
    condition = None
    if parts.condition_channels:
        frames = -(-CHECKED // CHECKED_HOP) + 1
        features = _noise((streams, parts.condition_channels, frames), generator)
        condition = Condition(features, CHECKED_HOP, 2)
    engine.state = start
    mine = engine.teacher_forced(samples, condition)
    engine.state = start
    theirs = engine.prime(samples, condition)
    require_finite(theirs)
    error = float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1))
    if not error <= tolerance:
        raise EngineFailed(
            f"The {name} engine checked itself against model.forward and was off by {error:.1e} of "
            f"the largest logit (allowed: {tolerance:.0e}). Do not use it here: engine='cached' "
            f"gives the right result. Please report this with your {where}."
        )


@torch.no_grad()
def check_against_step(
    streamer: Streamer, network: Any, state: Any, channels: Sequence[int], name: str
) -> None:
    """The outputs and the state after some blocks, from a random past, against those of `step`.

    state: of the network, of as many streams as the streamer has. channels: of x, and of the
    condition where there is one. Leaves the streamer in some other state.
    Raises EngineFailed where they differ by more than STREAM_TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    past = rebuilt(state, (_noise(tensor.shape, generator) for tensor in flat(state)))
    streams = next((len(tensor) for tensor in flat(state)), 1)
    streamer.state = past
    pairs: list[tuple[Tensor, Tensor]] = []
    for samples in CHECKED_BLOCKS:
        given = [_noise((streams, width, samples), generator) for width in channels]
        mine = streamer.process(*given)
        theirs, past = network.step(given[0], past, *given[1:])
        pairs += zip(flat(mine), flat(theirs), strict=True)
    pairs += zip(flat(streamer.state), flat(past), strict=True)
    for mine, theirs in pairs:
        if not theirs.numel():
            continue
        require_finite(theirs)
        error = float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
        if not error <= STREAM_TOLERANCE:
            raise EngineFailed(
                f"The {name} engine checked itself against the model's step and was off by "
                f"{error:.1e} of the largest value (allowed: {STREAM_TOLERANCE:.0e}). Do not use "
                "it here: engine='torch' gives the right result. Please report this with your "
                "compiler and processor."
            )


def _noise(shape: Iterable[int], generator: torch.Generator) -> Tensor:
    """On the generator's device: of many streams a CPU would take seconds."""
    return torch.randn(*shape, generator=generator, device=generator.device)
