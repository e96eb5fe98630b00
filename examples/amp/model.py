"""The model of a captured amplifier: neural-amp-modeler's network, with knobs where it has some.

    python examples/amp/model.py amp/model.nam amp/model.onnx

writes one step as ONNX: a block of audio, the knobs and the state in, audio and the state out.

Shapes: B batch, K knobs, T time.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavenet.interop import nam, onnx

State = Any  # the network's


class Amp(nn.Module):
    """A network of neural-amp-modeler's: audio (B, 1, T), knobs (B, K, T or 1) -> audio (B, 1, T).

    The knobs, each scaled to [-1, 1], are further channels beside the audio: they come into the
    first layer, and with the audio they condition every layer, which they steer by what FiLM
    settings of the network say. Without knobs (K = 0) it is the network itself.

    Args:
        network: whose metadata has "knobs", the least and the greatest value of each by its name,
            where it takes more channels than one.
    """

    in_channels = 1  # of audio
    slope: Tensor
    offset: Tensor

    def __init__(self, network: nam.NAM) -> None:
        super().__init__()
        self.network, self.knobs = network, _ranges(network)
        low, high = (torch.tensor([end[i] for end in self.knobs.values()]) for i in (0, 1))
        self.register_buffer("slope", 2 / (high - low), persistent=False)
        self.register_buffer("offset", -self.slope * low - 1, persistent=False)

    @classmethod
    def of(
        cls,
        settings: nam.Settings,
        sample_rate: int = 48_000,
        knobs: Mapping[str, tuple[float, float]] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Amp":
        """A new one. settings: without knobs, such as nam.PRESETS["feather"]."""
        about = dict(metadata or {})
        if knobs:
            settings = _with_knobs(settings, len(knobs))
            about["knobs"] = {name: list(ends) for name, ends in knobs.items()}
        return cls(nam.NAM(settings, sample_rate, about))

    @property
    def condition_channels(self) -> int:
        """K."""
        return len(self.knobs)

    @property
    def receptive_field(self) -> int:
        return self.network.receptive_field

    @property
    def sample_rate(self) -> float:
        """Hz."""
        return self.network.sample_rate

    def turned(self, knobs: Mapping[str, float]) -> Tensor:
        """Where they stand, (1, K, 1). Raises ValueError for other knobs, and out of range."""
        if set(knobs) != set(self.knobs):
            raise ValueError(
                f"The model has {_named(self.knobs)}, but got {_named(knobs)}. Give each once, "
                "as in --knobs drive=5,tone=3."
            )
        for name, (low, high) in self.knobs.items():
            if not low <= knobs[name] <= high:
                raise ValueError(
                    f"{name} is {knobs[name]:g}, but was recorded from {low:g} to {high:g} alone."
                )
        return torch.tensor([float(knobs[name]) for name in self.knobs]).view(1, -1, 1)

    def _with(self, x: Tensor, knobs: Tensor | None) -> Tensor:
        """(B, 1 + K, T): what the network takes."""
        if knobs is None:
            return x
        place = knobs * self.slope[:, None] + self.offset[:, None]
        return torch.cat([x, place.expand(-1, -1, x.shape[-1])], dim=1)

    def forward(self, x: Tensor, knobs: Tensor | None = None) -> Tensor:
        return self.network(self._with(x, knobs))

    def valid(self, x: Tensor, knobs: Tensor | None = None) -> Tensor:
        """The outputs whose whole context is in x: (B, 1, T - receptive_field + 1)."""
        return self.network.valid(self._with(x, knobs))

    def init_state(self, batch_size: int, **settings: Any) -> State:
        """After silence, with every knob in the middle."""
        return self.network.init_state(batch_size, **settings)

    def step(self, x: Tensor, state: State, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next n samples (B, 1, n), knobs (B, K, n or 1) -> the next n, the new state."""
        return self.network.step(self._with(x, knobs), state)

    def traced(self, reader: Any, x: Any, state: State, knobs: Any = None) -> Any:
        """As `step`, of signals: how a compiled engine reads it (see `wavenet.engines.reading`)."""
        if knobs is not None:
            place = reader.program.product([knobs], self.slope.diag(), self.offset)
            x = reader.program.joined([x, place])
        return self.network.traced(reader, x, state)


def _with_knobs(settings: nam.Settings, count: int) -> nam.Settings:
    """Of a network that takes so many channels beside the audio, all of which condition it."""
    first, *others = settings.arrays
    arrays = [replace(first, input_size=1 + count), *others]
    film = {"activation_pre_film": nam.FilmSettings()}
    arrays = [replace(array, condition_size=1 + count, films=film) for array in arrays]
    return replace(settings, arrays=tuple(arrays), in_channels=1 + count)


def _ranges(network: nam.NAM) -> dict[str, tuple[float, float]]:
    """The knobs of its metadata. Raises ValueError where they do not fit the network."""
    said, count = network.metadata.get("knobs", {}), network.settings.in_channels - 1
    try:
        knobs = {str(name): (float(low), float(high)) for name, (low, high) in said.items()}
    except (AttributeError, TypeError, ValueError):
        knobs = {}
    if len(knobs) != count or any(not low < high for low, high in knobs.values()):
        raise ValueError(
            f"The network takes {count} knobs beside the audio, but its metadata say {said!r}; "
            'there must be as many, such as {"drive": [0, 10]}. Train it with train.py.'
        )
    return knobs


def _named(knobs: Mapping[str, Any]) -> str:
    return f"the knobs {', '.join(knobs)}" if knobs else "no knobs"


def load(path: Path) -> Amp:
    """The amplifier of a `.nam` file, in eval mode. Raises ValueError, which names the file."""
    network = nam.load(path)
    network = network.resized(1) if isinstance(network, nam.Container) else network
    try:
        return Amp(network).eval()
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be played here: {error}") from error


def export(amp: Amp, path: Path) -> None:
    """One step as ONNX: `x` (1, 1, n), `condition` (1, K, 1) with knobs, and the state -> `y`."""
    place = {name: (low + high) / 2 for name, (low, high) in amp.knobs.items()}
    knobs = [amp.turned(place)] if place else []
    onnx.export(amp, path, 0.1 * torch.randn(1, 1, 64), *knobs)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a captured amplifier as ONNX.")
    parser.add_argument("model", type=Path, help="a .nam file")
    parser.add_argument("out", type=Path, help="the .onnx file; beside it a .npz, the first state")
    args = parser.parse_args(arguments)
    try:
        amp = load(args.model)
        export(amp, args.out)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    knobs = f"condition: {', '.join(amp.knobs)}, in this order" if amp.knobs else "no condition"
    print(f"{args.out} ({knobs}), {args.out.with_suffix('.npz')}")


if __name__ == "__main__":
    main()
