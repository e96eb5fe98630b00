"""Owns the ways to run a model sample by sample, and the choice among them.

For the same model, uniforms and condition every engine gives the same samples as `naive`, up to
ties within float error. An engine is handed a model's parts and a `Condition`: it does not know
what the condition was made from. Knows nothing of seeds, prompts or files.
"""

import logging
from collections.abc import Callable

import torch

from wavenet.engines.parts import Network, Parts, quantised_copy, take_apart
from wavenet.engines.protocol import Engine, EngineState, EngineUnavailable, TeacherForced
from wavenet.model import WaveNet

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "EngineState",
    "EngineUnavailable",
    "Network",
    "Parts",
    "TeacherForced",
    "build_engine",
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
        from wavenet.engines.triton.engine import TritonEngine
    except ImportError as error:
        raise EngineUnavailable(
            f"The triton engine needs Triton, which cannot be imported here ({error}). It comes "
            "with torch for CUDA on Linux; engine='cached' runs everywhere."
        ) from error
    return TritonEngine


ENGINES: dict[str, Callable[[], EngineKind]] = {
    "naive": _naive,
    "step": _step,
    "cached": _cached,
    "native": _native,
    "triton": _triton,
}
OLDER_NAMES = {"torch": "cached"}

# By device: the engine that `auto` takes first, how it works, and what is said where it is not
# available.
FASTEST = {
    "cpu": (
        "native",
        "compiled for this model and CPU",
        "cached; the native engine would be several times as fast",
    ),
    "cuda": (
        "triton",
        "one kernel for a chunk of samples",
        "a CUDA graph a step; the triton engine was tried first",
    ),
}


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
    runs the model here, and logs which and why. precision: "float32", "bfloat16" or "float64", of
    weights and activations, or "int8", which the native engine alone has.
    Threads of the CPU engines: torch.get_num_threads().
    Raises ValueError for an unknown engine or precision, and where a named engine is not available,
    with the remedy.
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
    return ENGINES[engine]()(parts, batch_size, PRECISIONS[precision], group)


def engine_name(name: str) -> str:
    """The name as `ENGINES` has it, or "auto". Raises ValueError for one that there is not."""
    name = OLDER_NAMES.get(name, name)
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"Unknown engine {name!r}; there are: auto, {', '.join(ENGINES)}.")
    return name


def _best(parts: Parts, batch_size: int, group: int, precision: str) -> Engine:
    """`native` on a CPU or `triton` on CUDA, else `cached`, else `step`; a log line says which."""
    device, kind = parts.device, PRECISIONS[precision]
    why = f"cached, the fastest there is for {precision} on {device}"
    candidates = []
    if precision != "float64" and device.type in FASTEST:
        name, how, instead = FASTEST[device.type]
        candidates.append((name, how, instead))
    candidates.append(("cached", "", "one call of the model a sample; the cached engine is faster"))
    for name, how, instead in candidates:
        try:
            engine = ENGINES[name]()(parts, batch_size, kind, group)
        except EngineUnavailable as error:
            why = f"{instead}, but: {str(error).splitlines()[0]}"
        else:
            logger.info("engine: %s (%s), %s, batch %d", name, how or why, precision, batch_size)
            return engine
    logger.info("engine: step (%s), %s, batch %d", why, precision, batch_size)
    return ENGINES["step"]()(parts, batch_size, kind, group)
