"""Owns the settings of a `.nam` WaveNet, which of them fit together, and how a file has them.

How a file is read: `reading`.

Shapes: C channels of an array, G its bottleneck (after the gate), D condition channels.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from wavenet.interop.nam.activations import Written, by_name

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
SLICING = "slice_channels_uniform"
MOST_REACH = 2**22  # samples: 87 s at 48 kHz


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
