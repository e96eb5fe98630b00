"""Owns the ways to stream a feed-forward network, audio in and audio out, and the choice of one.

    amp = build_streamer(nam.load("amp.nam"))
    y = amp.process(x)                     # the next n samples (1, 1, n), any n; it keeps its state

For the same network and audio both give the same audio, up to the rounding of float32.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wavenet.engines.protocol import EngineFailed, EngineUnavailable, Streamer
from wavenet.engines.reading import copied
from wavenet.trials import reason_of

logger = logging.getLogger(__name__)


class TorchStreamer:
    """One call of the network's `step` a block: any network that has one, in PyTorch."""

    def __init__(self, network: nn.Module, batch_size: int = 1) -> None:
        self._network = copied(network)
        self.state = self._network.init_state(batch_size)

    @torch.no_grad()
    def process(self, x: Tensor, condition: Tensor | None = None) -> Any:
        given = [x] if condition is None else [x, condition]
        y, self.state = self._network.step(given[0], self.state, *given[1:])
        return y


def _native() -> Callable[..., Streamer]:
    from wavenet.engines.native.feedforward import NativeStreamer

    return NativeStreamer


STREAMERS: dict[str, Callable[[], Callable[..., Streamer]]] = {
    "native": _native,
    "torch": lambda: TorchStreamer,
}


def build_streamer(network: nn.Module, batch_size: int = 1, *, engine: str = "auto") -> Streamer:
    """What streams the network, `batch_size` streams side by side.

    engine: "native", compiled for this CPU at the first use; "torch", its own `step`; "auto": the
        first of them that runs the network here, with a log line that says which and why.
    Raises ValueError for another engine, and EngineUnavailable where a named one is not available.
    """
    if engine in STREAMERS:
        return STREAMERS[engine]()(network, batch_size)
    if engine != "auto":
        raise ValueError(f"Unknown engine {engine!r}; there are: auto, {', '.join(STREAMERS)}.")
    try:
        streamer = _on_a_cpu(network, batch_size)
    except EngineUnavailable as error:
        level = logging.WARNING if isinstance(error, EngineFailed) else logging.INFO
        logger.log(level, "engine: torch, the model's step, since: %s", str(error).splitlines()[0])
        return TorchStreamer(network, batch_size)
    logger.info("engine: native (compiled for this CPU), float32, batch %d", batch_size)
    return streamer


def _on_a_cpu(network: nn.Module, batch_size: int) -> Streamer:
    """Raises EngineUnavailable for all that keeps the native engine from running the network."""
    if any(parameter.device.type != "cpu" for parameter in network.parameters()):
        raise EngineUnavailable("The native engine runs on the CPU, but the model is elsewhere.")
    try:
        return STREAMERS["native"]()(network, batch_size)
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise EngineFailed(f"it cannot be built here ({reason_of(error)})") from error
