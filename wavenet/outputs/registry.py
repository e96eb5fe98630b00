"""Owns the outputs by name, and the way between an output and its lines in config.json."""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, cast

from wavenet.outputs.gaussians import Gaussian, MixtureOfGaussians
from wavenet.outputs.linear import Linear
from wavenet.outputs.logistics import MixtureOfLogistics
from wavenet.outputs.mulaw import FlooredMuLaw, MuLaw
from wavenet.outputs.protocol import Output

OUTPUTS: dict[str, type[Output]] = {
    kind.__name__: kind
    for kind in (MuLaw, FlooredMuLaw, Linear, MixtureOfLogistics, Gaussian, MixtureOfGaussians)
}
OUTPUT_HAS = ("channels", "levels", "silence", "encode", "decode", "embedding", "nats", "draw")


def output_settings(output: Output) -> dict[str, Any]:
    """{"name": "MuLaw", "classes": 256}: what `output_from` makes the output from again."""
    return {"name": type(output).__name__, **asdict(output)}  # type: ignore[call-overload]


def output_from(settings: Mapping[str, Any]) -> Output:
    """Raises ValueError for a name or a setting that there is not, with those there are."""
    name = settings.get("name")
    given = {k: v for k, v in settings.items() if k != "name"}
    if name is None:
        raise ValueError(
            f"No output has just these settings: {given}. The outputs, and what each takes: "
            f"{'; '.join(map(_signature, OUTPUTS.values()))}."
        )
    kind = OUTPUTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"There is no output {name!r}; there are: {', '.join(OUTPUTS)}.")
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"The output {name} does not take these settings: {given}.") from error


def _signature(kind: type[Output]) -> str:
    """`MuLaw(classes)`."""
    return f"{kind.__name__}({', '.join(field.name for field in fields(kind))})"  # type: ignore[arg-type]


def checked_output(given: Any) -> Output:
    """The output, also of its settings as they stand in files. Raises ValueError for others."""
    if isinstance(given, Mapping):
        return output_from(given)
    if isinstance(given, type) or not all(hasattr(given, name) for name in OUTPUT_HAS):
        raise ValueError(
            f"output must be the distribution of a sample, such as MuLaw(256), or its settings, "
            f"such as {output_settings(MuLaw())}, but got {reprlib.repr(given)}."
        )
    return cast(Output, given)
