"""Owns the settings of a `.nam` WaveNet: a file's `config`, with old keys or new, read and written.

A key that is not known here may change what the model computes, so it is refused by name.

Shapes: C channels of an array, G its bottleneck (after the gate), D condition channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from wavenet.interop.nam.activations import Written, by_name, checked_activation, is_number

FILMS = (  # in the order of their weights
    "conv_pre_film",
    "conv_post_film",
    "input_mixin_pre_film",
    "input_mixin_post_film",
    "activation_pre_film",
    "activation_post_film",
    "layer1x1_post_film",
    "head1x1_post_film",
)
GATINGS = ("none", "gated", "blended")
SLICING = "slice_channels_uniform"
MOST_REACH = 2**22  # samples: 87 s at 48 kHz
REQUIRED = object()


@dataclass(frozen=True)
class FilmSettings:
    shift: bool = True
    groups: int = 1


@dataclass(frozen=True)
class LayerSettings:
    """Of one block. gating: none, gated (act * act2) or blended."""

    kernel_size: int
    dilation: int
    activation: Written
    gating: str = "none"
    secondary: Written | None = None


@dataclass(frozen=True)
class ArraySettings:
    """Of a stack of blocks, with the 1x1 before it and the head convolution behind.

    layer1x1_groups: None for blocks that add z as it is.
    head1x1: its channels and groups; None where z itself is summed.
    films: by their names in FILMS.
    sizes: how many channels the array may be sliced to; None for one that is not slimmable.
    """

    input_size: int
    condition_size: int
    channels: int
    bottleneck: int
    layers: tuple[LayerSettings, ...]
    head_size: int
    head_kernel: int = 1
    head_bias: bool = False
    head_dilation: int = 1
    groups_input: int = 1
    groups_mixin: int = 1
    layer1x1_groups: int | None = 1
    head1x1: tuple[int, int] | None = None
    films: dict[str, FilmSettings] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None

    @property
    def term_size(self) -> int:
        """Channels of what its blocks give to the head."""
        return self.bottleneck if self.head1x1 is None else self.head1x1[0]

    @property
    def past(self) -> int:
        """How many earlier inputs an output depends on."""
        layers = sum((layer.kernel_size - 1) * layer.dilation for layer in self.layers)
        return layers + (self.head_kernel - 1) * self.head_dilation


@dataclass(frozen=True)
class HeadSettings:
    """Behind all arrays: an activation and a convolution with bias, once for each kernel size."""

    channels: int
    out_channels: int
    kernel_sizes: tuple[int, ...]
    activation: Written


@dataclass(frozen=True)
class Settings:
    """Of a whole model. condition: of the model that makes the condition from the input."""

    arrays: tuple[ArraySettings, ...]
    head_scale: float = 1.0
    head: HeadSettings | None = None
    in_channels: int = 1
    condition: "Settings | None" = None

    def __post_init__(self) -> None:
        if not self.arrays:
            raise ValueError("layers is empty; a WaveNet needs at least one array of layers.")
        made = self.in_channels if self.condition is None else self.condition.out_channels
        if self.reach > MOST_REACH:
            raise ValueError(
                f"kernel sizes and dilations make a receptive field of {self.reach:,} samples, but "
                f"at most {MOST_REACH:,} are possible."
            )
        before: ArraySettings | None = None
        for index, array in enumerate(self.arrays):
            self._require_fit(f"layers[{index}]", array, before, made)
            before = array

    def _require_fit(
        self, where: str, array: ArraySettings, before: ArraySettings | None, made: int
    ) -> None:
        comes = self.in_channels if before is None else before.channels
        pairs = [("input_size", array.input_size, comes, "channels come in")]
        pairs.append(("condition_size", array.condition_size, made, "channels condition it"))
        if before is not None:
            pairs.append(
                ("channels for the head", array.term_size, before.head_size, "were made before it")
            )
        if array.layer1x1_groups is None:
            pairs.append(("bottleneck", array.bottleneck, array.channels, "are added to"))
        for name, seen, there, what in pairs:
            if seen != there:
                raise ValueError(f"{where}: {name} is {seen}, but {there} {what}.")
        needed = {
            "layer1x1_post_film": array.layer1x1_groups,
            "head1x1_post_film": array.head1x1,
        }
        for name, needs in needed.items():
            if name in array.films and needs is None:
                raise ValueError(f"{where}: {name} needs {name.split('_')[0]} to be active.")
        for layer in array.layers:
            slopes = layer.activation.get("negative_slopes", [0])
            if len(slopes) not in (1, array.bottleneck):
                raise ValueError(
                    f"{where}: PReLU has {len(slopes)} slopes for {array.bottleneck} channels."
                )

    @property
    def disputed(self) -> list[str]:
        """What neural-amp-modeler's trainer and its plugins compute differently, in words.

        Seen in the trainer's version 0.13 and in the plugins' core beside it.
        """
        found = []
        for index, array in enumerate(self.arrays):
            if array.layer1x1_groups is None:
                found.append(f"layers[{index}] has no layer1x1: plugins then leave x as it is")
            gatings = {layer.gating for layer in array.layers}
            if "layer1x1_post_film" in array.films and gatings != {"blended"}:
                found.append(
                    f"layers[{index}] has layer1x1_post_film: plugins leave it out of layers that "
                    "are not blended"
                )
        return found

    @property
    def reach(self) -> int:
        """The most input samples that one output depends on, as neural-amp-modeler counts them."""
        past = sum(array.past for array in self.arrays)
        past += 0 if self.head is None else sum(size - 1 for size in self.head.kernel_sizes)
        return 1 + past + (0 if self.condition is None else self.condition.reach - 1)

    @property
    def out_channels(self) -> int:
        return self.arrays[-1].head_size if self.head is None else self.head.out_channels

    def sliced(self, size: float) -> "Settings":
        """With fewer channels: size 0 the fewest allowed, 1 all.

        Array i gets the entry floor(size * n) of its n allowed channels, or the last; its
        bottleneck follows in proportion. Raises ValueError for a model that cannot be sliced.
        """
        self._require_sliceable()
        channels = [
            array.channels if array.sizes is None else _chosen(array.sizes, size)
            for array in self.arrays
        ]
        if channels == [array.channels for array in self.arrays]:
            return self
        arrays = []
        for index, array in enumerate(self.arrays):
            last = index == len(self.arrays) - 1
            bottleneck = max(1, array.bottleneck * channels[index] // array.channels)
            arrays.append(
                replace(
                    array,
                    input_size=channels[index - 1] if index else array.input_size,
                    channels=channels[index],
                    bottleneck=channels[index] if array.layer1x1_groups is None else bottleneck,
                    head_size=array.head_size if last else channels[index + 1],
                    sizes=None,
                )
            )
        return replace(self, arrays=tuple(arrays))

    def _require_sliceable(self) -> None:
        if all(array.sizes is None for array in self.arrays):
            raise ValueError("This model is not slimmable; it has one size alone.")
        for index, array in enumerate(self.arrays):
            grouped = {array.groups_input, array.groups_mixin, array.layer1x1_groups or 1}
            grouped |= {1 if array.head1x1 is None else array.head1x1[1]}
            if grouped != {1}:
                raise ValueError(f"layers[{index}] has groups, with which it cannot be sliced.")
            if array.head_kernel > 1:
                raise ValueError(
                    f"layers[{index}] has a head of {array.head_kernel} taps, with which it cannot "
                    "be sliced."
                )
        if self.head is not None:
            raise ValueError("A model with a head behind its arrays cannot be sliced.")


def _chosen(sizes: tuple[int, ...], size: float) -> int:
    return sizes[min(int(size * len(sizes)), len(sizes) - 1)]


# Reading


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


# Writing


def written_settings(settings: Settings) -> dict[str, Any]:
    """The file's `config`, without condition_dsp, with the keys of version 0.7."""
    config: dict[str, Any] = {
        "layers": [_written_array(array) for array in settings.arrays],
        "head": None,
        "head_scale": settings.head_scale,
    }
    if settings.head is not None:
        head = settings.head
        config["head"] = {
            "channels": head.channels,
            "activation": by_name(head.activation),
            "out_channels": head.out_channels,
            "kernel_sizes": list(head.kernel_sizes),
        }
    return config | ({"in_channels": settings.in_channels} if settings.in_channels > 1 else {})


def _written_array(array: ArraySettings) -> dict[str, Any]:
    head = {
        "out_channels": array.head_size,
        "kernel_size": array.head_kernel,
        "bias": array.head_bias,
    } | ({"head_dilation": array.head_dilation} if array.head_dilation > 1 else {})
    out, groups = array.head1x1 or (1, 1)
    return {
        "input_size": array.input_size,
        "condition_size": array.condition_size,
        "head": head,
        "channels": array.channels,
        "kernel_sizes": [layer.kernel_size for layer in array.layers],
        "dilations": [layer.dilation for layer in array.layers],
        "activation": [layer.activation for layer in array.layers],
        "bottleneck": array.bottleneck,
        "head1x1": {
            "active": array.head1x1 is not None,
            "out_channels": out,
            "groups": groups,
        },
        "layer1x1": {
            "active": array.layer1x1_groups is not None,
            "groups": array.layer1x1_groups or 1,
        },
        "groups_input": array.groups_input,
        "groups_input_mixin": array.groups_mixin,
        **{name: _written_film(array.films.get(name)) for name in FILMS},
        "gating_mode": [layer.gating for layer in array.layers],
        "secondary_activation": [layer.secondary for layer in array.layers],
        "slimmable": None
        if array.sizes is None
        else {"method": SLICING, "kwargs": {"allowed_channels": list(array.sizes)}},
    }


def _written_film(film: FilmSettings | None) -> dict[str, Any]:
    there = film or FilmSettings()
    return {"active": film is not None, "shift": there.shift, "groups": there.groups}
