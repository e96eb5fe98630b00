"""Owns the trial of the Triton engine, in a process of its own, before it draws anything.

Its logits against the model's, as whenever it is built, and its draws, in every way that the
model's output can be drawn from, against `Output.draw` of its own logits.

Shapes: B streams, n samples, Q parameters of a sample.
"""

from typing import Any

import torch
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.parts import Parts, take_apart
from wavenet.engines.protocol import EngineFailed, drawn, uniforms_by_sample
from wavenet.engines.triton.engine import TritonEngine, most_streams, require_gpu, tiles_for
from wavenet.model import WaveNet
from wavenet.outputs import Output, Sampling
from wavenet.trials import verdict

TRIAL = f"{__name__}:the_triton_engine"
SAMPLES = 24  # of each stream and way of drawing
EDGE = 1e-4  # of a uniform: where float32 and its sums may draw the next code
MOST_APART = 0.02  # share of draws that may differ otherwise: of top_p, where a code is just kept
CATEGORICAL = [Sampling(), Sampling(0.0), Sampling(0.8, top_k=7), Sampling(1.1, 0, 0.8)]
LEVELS = [Sampling(), Sampling(0.0), Sampling(0.7)]


def tried_engine(parts: Parts, batch_size: int, dtype: torch.dtype, group: int = 1) -> TritonEngine:
    """A `TritonEngine`, where its trial on this GPU was good. Raises EngineFailed where it was not.

    A network that is not built from settings alone is not tried: the engine's own check remains.
    """
    settings = parts.settings()
    if parts.device.type == "cuda" and settings is not None:
        require_gpu(parts.device, dtype)
        streams = smallest_for(tiles_for(batch_size, group, parts.device)[0], parts.device)
        given = {
            "model": settings,
            "dtype": str(dtype).removeprefix("torch."),
            "batch_size": -(-streams // group),
            "group": group,
        }
        found = verdict(TRIAL, given, parts.device)
        if not found.good:
            raise EngineFailed(
                f"The triton engine does not work on this GPU ({found.reason}). engine='cached' "
                "does its work, more slowly."
            )
    return TritonEngine(parts, batch_size, dtype, group)


def smallest_for(tile: int, device: torch.device) -> int:
    """The fewest streams, from 2 on, that the tile is chosen for."""
    return (
        2
        if tile == 1
        else 1 + max(int(most) for other, most in most_streams(device).items() if other < tile)
    )


def the_triton_engine(given: dict[str, Any], device: torch.device) -> None:
    """A `Trial`: of a model of those settings with random weights. Raises where it is wrong."""
    torch.manual_seed(0)
    model = WaveNet(**given["model"]).to(device).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5 if weight.dim() > 1 else 1.0)  # else all codes are about as likely
    parts, group = take_apart(model), given["group"]
    streams = given["batch_size"] * group
    engine = TritonEngine(parts, given["batch_size"], getattr(torch, given["dtype"]), group)
    condition = some_condition(parts, streams, device)
    output = parts.output
    for sampling in CATEGORICAL if output.categorical else LEVELS:
        how = Sampling(sampling.temperature, sampling.top_k, sampling.top_p)
        if group == 2 and output.categorical:
            how = Sampling(how.temperature, how.top_k, how.top_p, guidance=0.5)
        _require_draws(engine, output, how, streams // group, group, condition)


def _require_draws(
    engine: TritonEngine,
    output: Output,
    sampling: Sampling,
    batch_size: int,
    group: int,
    condition: Condition | None,
) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (batch_size, SAMPLES, output.uniforms)
    uniforms, start = torch.rand(shape, generator=generator), engine.state
    samples = engine.sample(uniforms, sampling, condition)
    engine.state = start
    params = engine.teacher_forced(samples.repeat_interleave(group, dim=0), condition)
    engine.state = start
    apart = share_apart(output, params, uniforms.to(samples.device), samples, sampling, group)
    if not apart <= MOST_APART:
        raise EngineFailed(
            f"The triton engine's draws by {sampling} are not those of its own logits: "
            f"{apart:.0%} differ"
        )


def share_apart(
    output: Output,
    params: Tensor,
    uniforms: Tensor,
    samples: Tensor,
    sampling: Sampling,
    group: int,
) -> float:
    """Of samples (B, n), the share that no rounding explains.

    params (B * group, Q, n), uniforms (B, n, U). Rounding explains one that `Output.draw` gives for
    a uniform EDGE away, or that lies between two of those; of levels, one level more or less.
    """
    rows = params.transpose(1, 2).unflatten(0, (-1, group)).transpose(1, 2).flatten(0, 2)
    given = uniforms_by_sample(uniforms, output).flatten(0, 1)
    near = [
        drawn(output, rows, (given + shift).clamp(0, 1 - 2**-24), sampling, group)
        for shift in (-EDGE, 0.0, EDGE)
    ]
    found, slack = samples.flatten(), 0 if output.categorical else 1
    if sampling.temperature == 0 and output.categorical:
        return float((found != near[1]).double().mean())
    expected = torch.stack(near)
    within = (found >= expected.amin(0) - slack) & (found <= expected.amax(0) + slack)
    return float((~within).double().mean())


def some_condition(parts: Parts, streams: int, device: torch.device) -> Condition | None:
    """Noise, over some frames; None for a model that nothing steers."""
    if not parts.condition_channels:
        return None
    generator = torch.Generator().manual_seed(2)
    shape = (streams, parts.condition_channels, SAMPLES // 5 + 2)
    return Condition(torch.randn(shape, generator=generator).to(device), 5, 2)
