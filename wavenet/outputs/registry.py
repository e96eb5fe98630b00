"""Owns the outputs by name, and the way between an output and its lines in config.json."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wavenet.outputs.gaussians import Gaussian, MixtureOfGaussians
from wavenet.outputs.logistics import MixtureOfLogistics
from wavenet.outputs.mulaw import MuLaw
from wavenet.outputs.protocol import Output

OUTPUTS: dict[str, type[Output]] = {
    kind.__name__: kind for kind in (MuLaw, MixtureOfLogistics, Gaussian, MixtureOfGaussians)
}


def output_settings(output: Output) -> dict[str, Any]:
    """{"name": "MuLaw", "classes": 256}: what `output_from` makes the output from again."""
    return {"name": type(output).__name__, **asdict(output)}  # type: ignore[call-overload]


def output_from(settings: Mapping[str, Any]) -> Output:
    """Raises ValueError for a name or a setting that there is not, with those there are."""
    name, fields = settings.get("name"), {k: v for k, v in settings.items() if k != "name"}
    if name not in OUTPUTS:
        raise ValueError(f"There is no output {name!r}; there are: {', '.join(OUTPUTS)}.")
    try:
        return OUTPUTS[name](**fields)
    except TypeError as error:
        raise ValueError(f"The output {name} does not take these settings: {fields}.") from error
