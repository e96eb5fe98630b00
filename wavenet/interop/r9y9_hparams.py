"""Owns the hyperparameters of r9y9/wavenet_vocoder: what network they describe, in our settings.

Those of training and of features are not read. Knows nothing of weights but their names.
"""

import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

from wavenet.conditioning import Mel, Smoothed, Transposed
from wavenet.outputs import (
    FlooredMuLaw,
    Gaussian,
    MixtureOfGaussians,
    MixtureOfLogistics,
    Output,
)
from wavenet.saving import reading

OLDER = {"legacy", "weight_normalization", "upsample_scales", "freq_axis_kernel_size"}
NEWER = {"output_distribution", "upsample_net", "upsample_params", "cin_pad"}
ALWAYS = (
    "input_type", "quantize_channels", "sample_rate", "out_channels", "layers", "stacks",
    "residual_channels", "gate_channels", "skip_out_channels", "kernel_size", "cin_channels",
    "gin_channels",
)  # fmt: skip
LEVELS = 65_536
MOST = 65_536  # of any whole number here; `wavenet.Config` has limits of its own
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A network of theirs.

    legacy: whether it is of the older layout; then halved_skips: s <- (s + h) sqrt(1/2).
    gate: channels after the gate. bands: of mel; 0: none. speaker_channels: 0: no speakers.
    settings: of our `WaveNet`.
    audio: what is to be done with the audio that it makes, in words.
    """

    legacy: bool
    halved_skips: bool
    scalar: bool
    layers: int
    residual: int
    gate: int
    skip: int
    kernel: int
    outputs: int
    bands: int
    speakers: int
    speaker_channels: int
    settings: Mapping[str, Any]
    audio: str

    @property
    def layout(self) -> str:
        return "legacy" if self.legacy else "newer"

    @property
    def upsampling(self) -> Smoothed | Transposed | None:
        mel = self.settings["mel"]
        kind = None if mel is None else mel.upsampling
        return kind if isinstance(kind, Smoothed | Transposed) else None

    def upsampling_layers(self) -> Iterator[tuple[str, tuple[Shape, bool]]]:
        """Name, shape and whether it has a bias, of each layer of the upsampling."""
        up = self.upsampling
        if isinstance(up, Smoothed):
            taps = 2 * up.pad + 1
            yield "upsample_net.conv_in", ((self.bands, self.bands, taps), False)
            for i, scale in enumerate(up.scales):
                shape = (1, 1, up.across, 2 * scale + 1)
                yield f"upsample_net.upsample.up_layers.{2 * i + 1}", (shape, False)
        elif up is not None:
            for i, scale in enumerate(up.scales):
                yield f"upsample_conv.{2 * i}", ((1, 1, up.across, scale), True)

    def upsampling_names(self) -> Iterator[tuple[str, str]]:
        """Their name and ours of each of its weights."""
        ours = iter(range(len(self.upsampling.scales) if self.upsampling else 0))
        for name, (_, bias) in self.upsampling_layers():
            own = "mix" if name.endswith("conv_in") else f"stages.{next(ours)}"
            yield f"{name}.weight", f"{own}.weight"
            if bias:
                yield f"{name}.bias", f"{own}.bias"


class Hparams:
    """The values by name; all that is raised is a ValueError that names where they are from."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    def require(self, *names: str) -> None:
        missing = [name for name in names if name not in self.values]
        if missing:
            raise ValueError(
                f"{self.source} misses {', '.join(missing)}. Give all hyperparameters: the "
                "hparams.json beside the checkpoint, or the preset that it was trained with."
            )

    def refuse(self, name: str, value: Any, allowed: str) -> ValueError:
        return ValueError(
            f"{self.source}: {name} is {reprlib.repr(value)}, but this library reads {allowed}."
        )

    def whole(self, name: str, low: int = 1, high: int = MOST) -> int:
        self.require(name)
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(name, value, f"a whole number from {low} to {high}")
        return value

    def channels(self, name: str) -> int:
        """Of a condition; 0 for none, which is negative there."""
        return max(0, self.whole(name, low=-MOST))

    def choice(self, name: str, *allowed: Any) -> Any:
        self.require(name)
        value = self.values[name]
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise self.refuse(name, value, " or ".join(map(repr, allowed)))
        return value


def read_hparams(
    given: str | os.PathLike[str] | Mapping[str, Any],
) -> tuple[Mapping[str, Any], str]:
    """The values, and what to call them in messages. given: of a JSON file, or themselves."""
    if isinstance(given, Mapping):
        return given, "hparams"
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file of hyperparameters. Give the hparams.json beside the "
            "checkpoint, a preset, or a mapping."
        )
    advice = "Give the hparams.json beside the checkpoint, or the preset it was trained with."
    with reading(path, "a JSON file of hyperparameters", advice):
        return {**json.loads(path.read_bytes())}, str(path)


def described(values: Mapping[str, Any], source: str, names: frozenset[str]) -> Network:
    """The network of these hyperparameters. names: of the checkpoint's weights.

    Raises ValueError for what is missing, not supported, or not of the checkpoint's layout.
    """
    given = Hparams(values, source)
    given.require(*ALWAYS)
    legacy = _is_legacy(given, names)
    layers, stacks = given.whole("layers"), given.whole("stacks")
    if layers % stacks:
        raise given.refuse("layers", layers, f"a multiple of stacks, {stacks}")
    gate = given.whole("gate_channels", low=2)
    if gate % 2:
        raise given.refuse("gate_channels", gate, "an even number, halves of a gate")
    bands, speaker_channels = given.channels("cin_channels"), given.channels("gin_channels")
    speakers = _speakers(given, names) if speaker_channels else 0
    output = _output(given, legacy)
    settings: dict[str, Any] = {
        "cycles": stacks,
        "layers_per_cycle": layers // stacks,
        "kernel_size": given.whole("kernel_size"),
        "input_kernel_size": 1,
        "residual_channels": given.whole("residual_channels"),
        "gate_channels": gate // 2,
        "skip_channels": given.whole("skip_out_channels"),
        "sample_rate": given.whole("sample_rate", high=10_000_000),
        "residual_scale": sqrt(0.5),
        "output": output,
        "mel": _mel(given, bands, legacy) if bands else None,
    }
    if speakers:
        named = {"speaker": [str(i) for i in range(speakers)]}
        settings |= {"labels": named, "condition_channels": speaker_channels}
    return Network(
        legacy=legacy,
        halved_skips=given.choice("legacy", True, False) if "legacy" in values else legacy,
        scalar=not output.categorical,
        layers=layers,
        residual=settings["residual_channels"],
        gate=gate // 2,
        skip=settings["skip_channels"],
        kernel=settings["kernel_size"],
        outputs=output.channels,
        bands=bands,
        speakers=speakers,
        speaker_channels=speaker_channels,
        settings=settings,
        audio=_audio(values),
    )


def _is_legacy(given: Hparams, names: frozenset[str]) -> bool:
    """Whether the checkpoint is of the older layout, by its weights' names and the settings."""
    by_weights = _layouts_of(names)
    older, newer = sorted(OLDER & given.values.keys()), sorted(NEWER & given.values.keys())
    if older and newer:
        raise ValueError(
            f"{given.source} has settings of the legacy layout ({', '.join(older)}) and of the "
            f"newer one ({', '.join(newer)}). Give those of one."
        )
    if by_weights is None and not older and not newer:
        raise ValueError(
            f"{given.source} does not say which layout the checkpoint has, and its weights do not "
            "tell: add legacy, true or false, for a model of version 0.1.1 or before, or "
            "output_distribution for a later one."
        )
    if by_weights is not None and (older if by_weights == "newer" else newer):
        other = "legacy" if by_weights == "newer" else "newer"
        raise ValueError(
            f"The checkpoint has the {by_weights} layout by its weights "
            f"({_telling(names, by_weights)}), but {given.source} has settings of the {other} one: "
            f"{', '.join(older or newer)}. Give the hyperparameters that it was trained with."
        )
    return by_weights == "legacy" if by_weights is not None else bool(older)


def _layouts_of(names: frozenset[str]) -> str | None:
    """None where both layouts would have these names: a network that nothing steers."""
    return next((which for which in ("legacy", "newer") if _telling(names, which)), None)


def _telling(names: frozenset[str], layout: str) -> str:
    """A name that only that layout has; of the conditions' 1x1s the older alone has biases."""
    condition = ("conv1x1c", "conv1x1g")
    steering = sorted(n for n in names if n.rpartition(".")[0].endswith(condition))
    biased = [n for n in steering if n.endswith(".bias")]
    if layout == "legacy":
        found = sorted(n for n in names if n.startswith("upsample_conv.")) + biased
    else:
        found = sorted(n for n in names if n.startswith("upsample_net."))
        found += [] if biased else steering
    return found[0] if found else ""


def _speakers(given: Hparams, names: frozenset[str]) -> int:
    if "embed_speakers.weight" not in names:
        channels = given.values["gin_channels"]
        raise ValueError(
            f"{given.source}: gin_channels is {channels}, but the checkpoint has no "
            "embed_speakers.weight: it takes a speaker's features from outside, and this library "
            "reads speakers by id alone."
        )
    return given.whole("n_speakers")


def _output(given: Hparams, legacy: bool) -> Output:
    kind = given.choice("input_type", "raw", "mulaw-quantize")
    classes, channels = given.whole("quantize_channels"), given.whole("out_channels")
    if kind == "mulaw-quantize":
        if channels != classes:
            raise given.refuse("out_channels", channels, f"quantize_channels, {classes}, of codes")
        return FlooredMuLaw(classes, classes if legacy else classes - 1)
    given.choice("quantize_channels", LEVELS)
    given.require("log_scale_min")
    least, smallest = given.values["log_scale_min"], -40
    if isinstance(least, bool) or not isinstance(least, int | float) or not smallest <= least < 0:
        raise given.refuse("log_scale_min", least, f"a number from {smallest} to below 0")
    normal = not legacy and "output_distribution" in given.values
    shape = given.choice("output_distribution", "Logistic", "Normal") if normal else "Logistic"
    if shape == "Normal" and channels == 2:
        return Gaussian(least)
    if channels % 3:
        raise given.refuse("out_channels", channels, "3 for each of a mixture (2 for one Normal)")
    mixture = MixtureOfLogistics if shape == "Logistic" else MixtureOfGaussians
    return mixture(channels // 3, least)


def _mel(given: Hparams, bands: int, legacy: bool) -> Mel:
    hop = _hop(given)
    plain: dict[str, Any] = {"bands": bands, "hop": hop, "window": hop, "given": True}
    if not given.choice("upsample_conditional_features", True, False):
        return Mel(upsampling="hold", **plain)
    if legacy:
        stages = _stages(given, given.values.get("freq_axis_kernel_size", 3), given.values, hop)
        return Mel(upsampling=Transposed(*stages), **plain)
    given.choice("upsample_net", "ConvInUpsampleNetwork")
    given.require("upsample_params")
    params = given.values["upsample_params"]
    if not isinstance(params, Mapping):
        raise given.refuse("upsample_params", params, "a mapping of settings")
    supported = {
        "mode": "nearest",
        "upsample_activation": "none",
        "upsample_activation_params": {},
        "cin_channels": bands,
        "cin_pad": given.whole("cin_pad", low=0, high=64),
    }
    known = {"upsample_scales", "freq_axis_kernel_size", *supported}
    for name, value in params.items():
        whole_name = f"upsample_params.{name}"
        if name not in known:
            raise given.refuse(whole_name, value, f"of upsample_params {', '.join(sorted(known))}")
        if name in supported and value != supported[name]:
            raise given.refuse(whole_name, value, repr(supported[name]))
    stages = _stages(given, params.get("freq_axis_kernel_size", 1), params, hop)
    return Mel(upsampling=Smoothed(*stages, pad=given.whole("cin_pad", low=0, high=64)), **plain)


def _stages(
    given: Hparams, across: Any, params: Mapping[str, Any], hop: int
) -> tuple[list[int], int]:
    """The scales, which make the hop, and the bands that a filter reaches over."""
    scales = params.get("upsample_scales")
    whole = isinstance(scales, list | tuple) and all(type(s) is int and s > 0 for s in scales)
    if not whole or not scales or prod(scales) != hop:
        raise given.refuse("upsample_scales", scales, f"whole numbers whose product is {hop}, hop")
    if type(across) is not int or across < 1 or across % 2 == 0:
        raise given.refuse("freq_axis_kernel_size", across, "an odd number of bands")
    return list(scales), across


def _hop(given: Hparams) -> int:
    """Samples of a frame: hop_size, or frame_shift_ms where that is null."""
    if given.values.get("hop_size") is not None:
        return given.whole("hop_size")
    given.require("hop_size", "frame_shift_ms")
    shift = given.values["frame_shift_ms"]
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not 0 < shift < 1000:
        raise given.refuse("frame_shift_ms", shift, "milliseconds, where hop_size is null")
    return max(1, int(shift / 1000 * given.whole("sample_rate", high=10_000_000)))


def _audio(values: Mapping[str, Any]) -> str:
    """What the program does with the audio that its network has made, for a log line."""
    done = []
    if (name := values.get("postprocess")) not in (None, "", "none"):
        done.append(f"apply {name}")
    gain = values.get("global_gain_scale", 1.0)
    if isinstance(gain, int | float) and gain > 0 and gain != 1:
        done.append(f"divide by global_gain_scale, {gain}")
    if not done:
        return "Its audio is used as it comes."
    return f"To the audio that it makes, {' and then '.join(done)}."
