"""Owns what is added before the gates: biases and projected conditions, for all layers at once.

Shapes: B streams, L layers, G gate channels, D condition channels, F frames.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from wavenet.conditioning import Condition
from wavenet.engines.parts import Parts

FRAMES = 64  # of a condition, projected at once: bounds the memory of what is added


def pieces(
    condition: Condition | None, samples: int, most: int
) -> Iterator[tuple[int, int, Condition | None]]:
    """Pieces of a call, of at most `most` samples and FRAMES frames: (start, stop, condition)."""
    start = 0
    while start < samples:
        stop = min(samples, start + most)
        if condition is None:
            yield start, stop, None
        else:
            for first, last, here in condition.pieces(stop - start, FRAMES):
                yield start + first, start + last, here
            condition = condition.after(stop - start)
        start = stop


def as_it_is(rows: Tensor) -> Tensor:
    return rows


class BeforeGate:
    """What each layer adds before its gate whatever its input. Its weights are stacked once.

    halves: how an engine lays out (2G, ...), the filter's half first.
    """

    def __init__(self, parts: Parts, halves: Callable[[Tensor], Tensor] = as_it_is) -> None:
        layers = parts.known().layers
        self._biases = torch.stack([halves(layer.bias) for layer in layers])[:, None]
        steering = [halves(layer.steering) for layer in layers if layer.steering is not None]
        self._weights = torch.cat(steering) if steering else None  # (L * 2G, D)
        self._of: tuple[Tensor | None, int] | None = None  # features and streams of the last call
        self._made = self._biases

    def __call__(self, condition: Condition | None, streams: int) -> Tensor:
        """The condition's frames -> (F, L, B, 2G); (1, L, B, 2G) of a model that nothing steers.

        If the same features tensor comes again, the stored result is returned. Do not change
        features in place, nor the result.
        """
        features = None if condition is None else condition.features
        if self._of is None or self._of[0] is not features or self._of[1] != streams:
            self._of, self._made = (features, streams), self._project(features, streams)
        return self._made

    def _project(self, features: Tensor | None, streams: int) -> Tensor:
        if features is None:
            return self._biases.expand(1, -1, streams, -1)
        assert self._weights is not None
        rows = features.to(self._weights).permute(2, 0, 1) @ self._weights.T  # (F, B, L * 2G)
        return rows.unflatten(2, (len(self._biases), -1)).transpose(1, 2) + self._biases
