"""Owns how the settings of a `.nam` WaveNet are read from a file's `config`, with old keys or new.

A key that is not known here may change what the model computes, so it is refused by name.
"""

from collections.abc import Callable
from typing import Any

from wavenet.interop.nam.activations import Written, checked_activation, is_number
from wavenet.interop.nam.settings import (
    FILMS,
    SLICING,
    ArraySettings,
    FilmSettings,
    HeadSettings,
    LayerSettings,
    Settings,
)

GATINGS = ("none", "gated", "blended")
REQUIRED = object()


class Keys:
    """A mapping of the file, read key by key; what is left at the end is refused by name."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{where} must be an object, but is {_short(values)}.")
        self.left, self.where = dict(values), where

    def __contains__(self, name: str) -> bool:
        return self.left.get(name) is not None

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        value = self.left.pop(name, None)
        if value is None and default is REQUIRED:
            raise ValueError(f"{self.where} has no {name}.")
        return default if value is None else value

    def whole(self, name: str, default: Any = REQUIRED) -> int:
        return whole(self.take(name, default), f"{self.where}.{name}")

    def number(self, name: str, default: Any = REQUIRED) -> float:
        value = self.take(name, default)
        if not is_number(value):
            raise ValueError(f"{self.where}.{name} must be a number, but is {_short(value)}.")
        return float(value)

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}.{name} must be true or false, but is {_short(value)}.")
        return value

    def wholes(self, name: str) -> tuple[int, ...]:
        values = self.take(name)
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{self.where}.{name} must be a list of integers, not {_short(values)}."
            )
        return tuple(whole(value, f"{self.where}.{name}") for value in values)

    def inner(self, name: str, default: Any = REQUIRED) -> "Keys":
        return Keys(self.take(name, default), f"{self.where}.{name}")

    def each(self, name: str, count: int, default: Any, read: Callable[[Any, str], Any]) -> list:
        """A value for each of `count` layers, from one for all or from a list."""
        values = self.left.pop(name, default)
        many = values if isinstance(values, list) else [values] * count
        if len(many) != count:
            raise ValueError(f"{self.where}.{name} has {len(many)} entries for {count} layers.")
        return [read(value, f"{self.where}.{name}[{i}]") for i, value in enumerate(many)]

    def done(self) -> None:
        if self.left:
            raise ValueError(f"{self.where} has keys that are not known here: {sorted(self.left)}.")


def whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"{where} must be an integer of at least 1, but is {_short(value)}.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def read_settings(config: Any, condition: Settings | None = None) -> Settings:
    """A file's `config`, without its condition_dsp -> settings. Raises ValueError by the key."""
    keys = Keys(config, "config")
    keys.left.pop("condition_dsp", None)
    layers = keys.take("layers")
    if not isinstance(layers, list):
        raise ValueError(f"config.layers must be a list, but is {_short(layers)}.")
    arrays = [_read_array(Keys(array, f"layers[{i}]")) for i, array in enumerate(layers)]
    head = (
        _read_head(keys.inner("head"), arrays[-1] if arrays else None) if "head" in keys else None
    )
    keys.left.pop("head", None)
    settings = Settings(
        tuple(arrays), keys.number("head_scale"), head, keys.whole("in_channels", 1), condition
    )
    keys.done()
    return settings


def _read_array(keys: Keys) -> ArraySettings:
    channels, dilations = keys.whole("channels"), keys.wholes("dilations")
    size, kernel, bias, spread = _read_array_head(keys)
    one, two = keys.inner("layer1x1", {}), keys.inner("head1x1", {})
    layer1x1 = (one.flag("active", True), one.whole("groups", 1))
    head1x1 = (two.flag("active", False), two.whole("out_channels", 1), two.whole("groups", 1))
    films = {name: _read_film(keys, name) for name in FILMS}
    settings = ArraySettings(
        input_size=keys.whole("input_size"),
        condition_size=keys.whole("condition_size"),
        channels=channels,
        bottleneck=keys.whole("bottleneck", channels),
        layers=_read_layers(keys, dilations),
        head_size=size,
        head_kernel=kernel,
        head_bias=bias,
        head_dilation=spread,
        groups_input=keys.whole("groups_input", 1),
        groups_mixin=keys.whole("groups_input_mixin", 1),
        layer1x1_groups=layer1x1[1] if layer1x1[0] else None,
        head1x1=head1x1[1:] if head1x1[0] else None,
        films={name: film for name, film in films.items() if film is not None},
        sizes=_read_sizes(keys, channels),
    )
    for part in (one, two, keys):
        part.done()
    return settings


def _read_array_head(keys: Keys) -> tuple[int, int, bool, int]:
    """(out_channels, kernel_size, bias, dilation) of its head, from newer keys or older."""
    if "head" not in keys:
        if "head_size" not in keys:
            raise ValueError(f"{keys.where} has no head, and no head_size as older files have.")
        return keys.whole("head_size"), 1, keys.flag("head_bias"), 1
    head = keys.inner("head")
    read = head.whole("out_channels"), head.whole("kernel_size"), head.flag("bias")
    spread = head.whole("head_dilation", 1)
    head.done()
    return *read, spread


def _read_layers(keys: Keys, dilations: tuple[int, ...]) -> tuple[LayerSettings, ...]:
    count = len(dilations)
    if ("kernel_size" in keys) == ("kernel_sizes" in keys):
        raise ValueError(f"{keys.where} must have one of kernel_size and kernel_sizes.")
    name = "kernel_sizes" if "kernel_sizes" in keys else "kernel_size"
    kernels = keys.each(name, count, None, whole)
    keys.left.pop("kernel_size", None)
    keys.left.pop("kernel_sizes", None)
    activations = keys.each("activation", count, None, checked_activation)
    gated = keys.flag("gated", False)  # of older files
    gatings = keys.each("gating_mode", count, "gated" if gated else "none", _gating)
    seconds = keys.each("secondary_activation", count, None, lambda value, where: (value, where))
    return tuple(
        LayerSettings(kernel, dilation, act, gating, _secondary(gating, *second))
        for kernel, dilation, act, gating, second in zip(
            kernels, dilations, activations, gatings, seconds, strict=True
        )
    )


def _gating(value: Any, where: str) -> str:
    if value not in GATINGS:
        raise ValueError(f"{where} is {_short(value)}; known are {', '.join(GATINGS)}.")
    return value


def _secondary(gating: str, value: Any, where: str) -> Written | None:
    """Of a gate; a layer without one may have anything there."""
    if gating == "none":
        return None
    return checked_activation("Sigmoid" if value is None else value, where)


def _read_film(keys: Keys, name: str) -> FilmSettings | None:
    value = keys.left.pop(name, None)
    if value in (None, False):
        return None
    film = Keys(value, f"{keys.where}.{name}")
    active = film.flag("active", True)
    settings = FilmSettings(film.flag("shift", True), film.whole("groups", 1))
    film.done()
    return settings if active else None


def _read_sizes(keys: Keys, channels: int) -> tuple[int, ...] | None:
    if "slimmable" not in keys:
        keys.left.pop("slimmable", None)
        return None
    slimmable = keys.inner("slimmable")
    if (method := slimmable.take("method")) != SLICING:
        raise ValueError(f"{slimmable.where}.method is {_short(method)}; known is {SLICING!r}.")
    kwargs = slimmable.inner("kwargs", {})
    given = "allowed_channels" in kwargs
    sizes = kwargs.wholes("allowed_channels") if given else tuple(range(1, channels + 1))
    for training_only in ("boosting", "init_strategy"):
        kwargs.left.pop(training_only, None)
    kwargs.done()
    slimmable.done()
    if list(sizes) != sorted(set(sizes)) or sizes[-1] != channels:
        raise ValueError(
            f"{kwargs.where}.allowed_channels must ascend to the array's {channels} channels, but "
            f"is {list(sizes)}."
        )
    return sizes


def _read_head(keys: Keys, last: ArraySettings | None) -> HeadSettings:
    implied = keys.left.pop("in_channels", None)  # of older files
    if implied is not None and last is not None and implied != last.head_size:
        raise ValueError(f"head.in_channels is {implied}, but {last.head_size} channels come in.")
    settings = HeadSettings(
        keys.whole("channels"),
        keys.whole("out_channels"),
        keys.wholes("kernel_sizes"),
        checked_activation(keys.take("activation"), "head.activation"),
    )
    keys.done()
    return settings
