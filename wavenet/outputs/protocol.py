"""Owns the interface of an output, and the way between an output and its lines in config.json.

Shapes: B batch, T time, Q parameters of one sample's distribution, U uniforms of one sample.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from wavenet.outputs.mulaw import MuLaw
from wavenet.outputs.sampling import Sampling


class Output(Protocol):
    """The distribution of one sample: a frozen dataclass, whose name and fields are saved.

    channels: Q, numbers that the head makes for one sample.
    uniforms: U, random numbers in [0, 1) that drawing one sample takes.
    silence: the sample that a model reads before the first one.
    """

    uniforms: ClassVar[int]

    @property
    def channels(self) -> int: ...

    @property
    def silence(self) -> int: ...

    def encode(self, audio: Tensor) -> Tensor:
        """Audio in [-1, 1], any shape -> samples, the same shape."""
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Samples, any shape -> audio, float32, the same shape."""
        ...

    def embedding(self, width: int) -> nn.Module:
        """What turns samples (B, T) into features (B, T, width)."""
        ...

    def nats(self, params: Tensor, samples: Tensor) -> Tensor:
        """params (B, Q, T), samples (B, T) -> -ln p of each sample, (B, T)."""
        ...

    def draw(self, params: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """params (B, Q), uniforms (B, U) -> samples (B,)."""
        ...


OUTPUTS: dict[str, type[Output]] = {"MuLaw": MuLaw}
OUTPUT_HAS = ("channels", "silence", "encode", "decode", "embedding", "nats", "draw")


def output_settings(output: Output) -> dict[str, Any]:
    """{"name": "MuLaw", "classes": 256}: what `output_from` makes the output from again."""
    return {"name": type(output).__name__, **asdict(output)}  # type: ignore[call-overload]


def output_from(settings: Mapping[str, Any]) -> Output:
    """Raises ValueError for a name or a setting that there is not, with those there are."""
    name, fields = settings.get("name"), {k: v for k, v in settings.items() if k != "name"}
    kind = OUTPUTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"There is no output {name!r}; there are: {', '.join(OUTPUTS)}.")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"The output {name} does not take these settings: {fields}.") from error


def checked_output(given: Any) -> Output:
    """The output, also of its settings as they stand in files. Raises ValueError for others."""
    if isinstance(given, Mapping):
        return output_from(given)
    if isinstance(given, type) or not all(hasattr(given, name) for name in OUTPUT_HAS):
        raise ValueError(
            f"output must be the distribution of a sample, such as MuLaw(256), or its settings, "
            f"such as {output_settings(MuLaw())}, but got {reprlib.repr(given)}."
        )
    return given
