"""Owns the ways to run a model sample by sample, and the choice among them.

For the same model, uniforms and condition every engine gives the same samples as `naive`, up to
ties within float error. An engine is handed a model's parts and a `Condition`: it does not know
what the condition was made from. Knows nothing of seeds, prompts or files.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from wavenet.engines.parts import Network, Parts, quantised_copy, take_apart
from wavenet.engines.protocol import (
    Engine,
    EngineFailed,
    EngineState,
    EngineUnavailable,
    Streamer,
    TeacherForced,
)
from wavenet.engines.streaming import build_streamer
from wavenet.model import WaveNet
from wavenet.trials import reason_of

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "EngineFailed",
    "EngineState",
    "EngineUnavailable",
    "Network",
    "Parts",
    "Streamer",
    "TeacherForced",
    "build_engine",
    "build_streamer",
    "quantised_copy",
    "take_apart",
]
logger = logging.getLogger(__name__)

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int8": torch.int8,
}
EngineKind = Callable[..., Engine]  # (parts, batch_size, dtype, group)


def _naive() -> EngineKind:
    from wavenet.engines.naive import NaiveEngine

    return NaiveEngine


def _step() -> EngineKind:
    from wavenet.engines.stepped import SteppedEngine

    return SteppedEngine


def _cached() -> EngineKind:
    from wavenet.engines.cached import CachedEngine

    return CachedEngine


def _native() -> EngineKind:
    from wavenet.engines.native.engine import NativeEngine

    return NativeEngine


def _triton() -> EngineKind:
    try:
        from wavenet.engines.triton.trial import tried_engine
    except ImportError as error:
        raise EngineUnavailable(
            f"The triton engine needs Triton, which cannot be imported here ({error}). It comes "
            "with torch for CUDA on Linux; engine='cached' runs everywhere."
        ) from error
    return tried_engine


ENGINES: dict[str, Callable[[], EngineKind]] = {
    "naive": _naive,
    "step": _step,
    "cached": _cached,
    "native": _native,
    "triton": _triton,
}
OLDER_NAMES = {"torch": "cached"}


class Rung(NamedTuple):
    """An engine that `auto` tries: on the model's device or on the CPU."""

    engine: str
    device: str
    how: str  # it works
    instead: str  # what is said of the next one where this one is not available


STEP = "one call of the model a sample"
CPU = [
    Rung(
        "native",
        "cpu",
        "compiled for this model and CPU",
        "cached; the native engine would be several times as fast",
    ),
    Rung("cached", "cpu", "", f"{STEP}; the cached engine is faster"),
    Rung("step", "cpu", STEP, ""),
]
ON_CUDA = [
    Rung(
        "triton",
        "cuda",
        "one kernel for a chunk of samples",
        "a CUDA graph a step; the triton engine was tried first",
    ),
    Rung("cached", "cuda", "a CUDA graph a step", f"{STEP}; the cached engine is faster"),
    Rung("step", "cuda", STEP, "the CPU computes, slower than a GPU that works"),
]
NOT_IN_FLOAT64 = ("native", "triton")
# Streams for which `auto` leaves a GPU. One program computes a stream, sample after sample: by a
# count of waits and loads 110 us in bfloat16 and 200 us in float32 a sample of the reference model,
# however many streams there are. The native engine takes 31 and 49 us for one stream, and 8 to 13 a
# stream for many, on one core (measured). No GPU has been timed: benchmarks/gpu.py does.
FEW = 8
FOR_FEW = "compiled for this model and CPU: faster than a GPU for so few streams, by count"


def build_engine(
    model: WaveNet | Parts,
    batch_size: int,
    *,
    group: int = 1,
    engine: str = "auto",
    precision: str = "float32",
) -> Engine:
    """The engine of that name for `batch_size` draws at a time, on the model's device.

    group: streams that share each draw, 1 or 2; see `Engine`. `auto` takes the fastest engine that
    runs the model here, on the CPU where none runs on the model's device, and logs which and why.
    precision: "float32", "bfloat16" or "float64", of weights and activations, or "int8", which the
    native engine alone has.
    Threads of the CPU engines: at most torch.get_num_threads(), and as many as they gain by.
    Raises ValueError for an unknown engine or precision, and EngineUnavailable, which is one too,
    where a named engine is not available, with the remedy.
    """
    engine = engine_name(engine)
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}; there are: {', '.join(PRECISIONS)}.")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, but got {batch_size!r}.")
    if group not in (1, 2):
        raise ValueError(f"A group is of 1 stream, or of 2 for guidance, but got group={group!r}.")
    if precision == "int8":
        if engine not in ("auto", "native"):
            raise ValueError(
                f"Only the native engine computes in int8; the {engine} engine has float32 and "
                "bfloat16."
            )
        engine = "native"
    parts = take_apart(model)
    if engine == "auto":
        return _best(parts, batch_size, group, precision)
    return _built(engine, parts, batch_size, group, precision)


def engine_name(name: str) -> str:
    """The name as `ENGINES` has it, or "auto". Raises ValueError for one that there is not."""
    name = OLDER_NAMES.get(name, name)
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"Unknown engine {name!r}; there are: auto, {', '.join(ENGINES)}.")
    return name


def _best(parts: Parts, batch_size: int, group: int, precision: str) -> Engine:
    """The first engine of the ladder that can be built, with a log line for every one that cannot.

    Warnings where one should have worked here.
    """
    ladder, failed = _ladder(parts.device, precision, batch_size * group), []
    for rung in ladder:
        try:
            engine = _built(rung.engine, parts.on(rung.device), batch_size, group, precision)
        except (EngineUnavailable, MemoryError, torch.OutOfMemoryError) as error:
            if rung is ladder[-1]:
                raise
            expected = isinstance(error, EngineUnavailable) and not isinstance(error, EngineFailed)
            level = logging.INFO if expected else logging.WARNING
            failed.append((level, rung, _first_line(error)))
        else:
            how = _said_of(failed) or rung.how
            level = max([logging.INFO, *(level for level, _, _ in failed)])
            about = f"{precision}, batch {batch_size}"
            logger.log(level, "engine: %s (%s), %s", rung.engine, how, about)
            return engine
    raise AssertionError("a ladder has a last rung")


def _said_of(failed: Sequence[tuple[int, Rung, str]]) -> str:
    """Why the engine that is taken is not the fastest; all rungs before the last have a line each.

    failed: how loud, rung, reason.
    """
    for level, rung, reason in failed[:-1]:
        logger.log(level, "engine: not %s on %s: %s", rung.engine, rung.device, reason)
    return f"{failed[-1][1].instead}, but: {failed[-1][2]}" if failed else ""


def _ladder(device: torch.device, precision: str, streams: int) -> list[Rung]:
    """From the fastest down, on that device and then on the CPU; of FEW streams native first."""
    known = {"cpu": CPU, "cuda": [*ON_CUDA, *CPU]}.get(device.type)
    if device.type == "cuda" and streams <= FEW:
        instead = "one kernel for a chunk of samples; for few streams the CPU was tried first"
        known = [CPU[0]._replace(how=FOR_FEW, instead=instead), *ON_CUDA, *CPU[1:]]
    rungs = known or [rung._replace(device=device.type) for rung in CPU if rung.engine != "native"]
    if precision == "float64":
        rungs = [rung for rung in rungs if rung.engine not in NOT_IN_FLOAT64]
    if rungs[0].engine == "cached":
        fastest = f"cached, the fastest there is for {precision} on {device}"
        rungs = [rungs[0]._replace(how=fastest), *rungs[1:]]
    return rungs


def _built(name: str, parts: Parts, batch_size: int, group: int, precision: str) -> Engine:
    """Raises ValueError for what the engine refuses by name, EngineFailed for all that befalls it.

    Compilers, drivers and libraries raise what they like. A lack of memory is raised as it is.
    """
    try:
        return ENGINES[name]()(parts, batch_size, PRECISIONS[precision], group)
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise EngineFailed(
            f"The {name} engine cannot be built here ({reason_of(error)}).\nengine='auto' takes "
            "another, and says which."
        ) from error


def _first_line(error: BaseException) -> str:
    """Of a message that says itself what is wrong; else with the error's name."""
    return str(error).splitlines()[0] if isinstance(error, ValueError) else reason_of(error)
