"""Owns the model of a `.nam` file, built from `wavenet.layers`: audio in, audio out.

What is in the file and how it is written: `settings` and `file`.

Shapes: B batch, C channels, G bottleneck channels, D condition channels, T time.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.interop.nam.activations import activation, written_activation
from wavenet.interop.nam.settings import (
    FILMS,
    ArraySettings,
    FilmSettings,
    HeadSettings,
    LayerSettings,
    Settings,
)
from wavenet.layers import (
    Added,
    AddedBy,
    Blended,
    Block,
    CausalConv1d,
    Chain,
    FiLM,
    GatedBy,
    Residual,
    Scaled,
    Shortcut,
    Stack,
    check_features,
)

State = tuple[Any, ...]
DEFAULT_RATE = 48_000  # Hz, of files that do not say


class NAM(nn.Module):
    """A WaveNet of neural-amp-modeler: audio (B, 1, T) -> audio (B, 1, T).

    Arrays of blocks of different width on one residual stream, whose skips are carried on:

        x, h = 1x1(audio), 0
        for each array:  x, h = stack(1x1(x), condition, h);  h = head convolution of h
        y = head_scale * h, then the head's convolutions, if there are any

    The condition is the audio itself, or what a model of its own (`condition_dsp`) makes of it.
    Before the first sample the model has heard receptive_field - 1 samples of silence, as the
    plugins have: its input is padded, not each layer.

    Args:
        settings: such as PRESETS["standard"].
        sample_rate: Hz; of the audio that it takes.
        metadata: what a file says of the amplifier, JSON values by name.
    """

    def __init__(
        self,
        settings: Settings,
        sample_rate: float = DEFAULT_RATE,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.sample_rate, self.metadata = sample_rate, dict(metadata or {})
        self.head_scale = settings.head_scale
        self._settings = settings
        self.arrays: Any = nn.ModuleList(_Array(array) for array in settings.arrays)
        self.head: Chain | None = None if settings.head is None else _head(settings)
        self.condition_dsp: NAM | None = None
        if settings.condition is not None:
            self.condition_dsp = NAM(settings.condition, sample_rate)

    @property
    def settings(self) -> Settings:
        """As it is now: slopes of a PReLU, and head_scale, are learned or read with the weights."""
        arrays = [array.settings_now for array in self.arrays]
        condition = None if self.condition_dsp is None else self.condition_dsp.settings
        head = self._settings.head
        if head is not None and self.head is not None:
            head = replace(head, activation=written_activation(self.head.parts[0]))
        now = replace(self._settings, arrays=tuple(arrays), head=head, condition=condition)
        return replace(now, head_scale=self.head_scale)

    @property
    def receptive_field(self) -> int:
        """The most input samples that one output depends on, as neural-amp-modeler counts them."""
        return self._settings.reach

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T), both 1. ValueError for another shape."""
        check_features(x, self._settings.in_channels)
        return self.valid(F.pad(x, (self.receptive_field - 1, 0)))

    def valid(self, x: Tensor) -> Tensor:
        """(B, in_channels, T) -> (B, out_channels, T - receptive_field + 1).

        The outputs whose whole context is in x, as of a crop of a recording. Raises ValueError for
        another shape, and for x shorter than the receptive field.
        """
        check_features(x, self._settings.in_channels)
        if x.shape[-1] < self.receptive_field:
            raise ValueError(
                f"x has {x.shape[-1]} samples, fewer than the receptive field of "
                f"{self.receptive_field}: there is no output whose context is all there."
            )
        return self._from_nothing(x)[..., self.receptive_field - 1 :]

    def _from_nothing(self, x: Tensor) -> Tensor:
        """Without the silence before, of which each layer's own padding is no substitute."""
        condition = x if self.condition_dsp is None else self.condition_dsp._from_nothing(x)
        heard = None
        for array in self.arrays:
            x, heard = array(x, condition, heard)
        return self._scaled(heard)

    def _scaled(self, heard: Tensor | None) -> Tensor:
        assert heard is not None
        y = self.head_scale * heard
        return y if self.head is None else self.head(y)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """The state after receptive_field - 1 samples of silence."""
        weight = next(self.parameters())
        silence = weight.new_zeros(1, self._settings.in_channels, self.receptive_field - 1)
        state = self._nothing()
        if silence.shape[-1]:
            _, state = self.step(silence, state)
        return _mapped(
            state,
            lambda part: part.expand(batch_size, *part.shape[1:]).clone().to(device, dtype),
        )

    def _nothing(self) -> State:
        """Zeros in every layer, of a batch of 1."""
        condition = () if self.condition_dsp is None else self.condition_dsp._nothing()
        head = () if self.head is None else self.head.init_state(1)
        return (*(array.init_state(1) for array in self.arrays), condition, head)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The next n samples (B, 1, n) and the state -> the next n of audio, the new state."""
        check_features(x, self._settings.in_channels)
        *pasts, condition_state, head_state = state
        condition, heard, states = x, None, []
        if self.condition_dsp is not None:
            condition, condition_state = self.condition_dsp.step(x, condition_state)
        for array, past in zip(self.arrays, pasts, strict=True):
            (x, heard), past = array.step(x, past, condition, heard)
            states.append(past)
        assert heard is not None
        y = self.head_scale * heard
        if self.head is not None:
            y, head_state = self.head.step(y, head_state)
        return y, (*states, condition_state, head_state)

    @property
    def in_channels(self) -> int:
        return self._settings.in_channels

    def traced(self, reader: Any, x: Any, state: Any, condition: Any = None) -> Any:
        """As `step`, of signals: how a compiled engine reads it (see `wavenet.engines.reading`)."""
        *pasts, condition_state, head_state = state
        condition, heard = x, None
        if self.condition_dsp is not None:
            condition = self.condition_dsp.traced(reader, x, condition_state)
        for array, past in zip(self.arrays, pasts, strict=True):
            x, heard = array.traced(reader, x, past, condition, heard)
        y = reader.scaled(heard, self.head_scale)
        return y if self.head is None else reader.step(self.head, y, head_state)

    def in_file_order(self) -> Iterator[nn.Conv1d]:
        """The convolutions in the order of a file's weights; condition_dsp has its own."""
        for array in self.arrays:
            yield from array.in_file_order()
        if self.head is not None:
            yield from (part for part in self.head.parts if isinstance(part, nn.Conv1d))

    def resized(self, size: float) -> "NAM":
        """A model of fewer channels, sliced from this one: 0 the smallest, 1 all.

        Raises ValueError for a model that is not slimmable, and for another size.
        """
        checked_size(size)
        small = NAM(self.settings.sliced(size), self.sample_rate, self.metadata)
        if small.condition_dsp is not None and self.condition_dsp is not None:
            small.condition_dsp.load_state_dict(self.condition_dsp.state_dict())
        with torch.no_grad():
            for ours, theirs in zip(small.in_file_order(), self.in_file_order(), strict=True):
                out, inner, _ = ours.weight.shape
                ours.weight.copy_(theirs.weight[:out, :inner])
                if ours.bias is not None and theirs.bias is not None:
                    ours.bias.copy_(theirs.bias[:out])
        return small.to(next(self.parameters()))


class Container(nn.Module):
    """Models of one amplifier in several sizes (`SlimmableContainer`); it runs the largest.

    Args:
        models: from small to large, of one sample rate.
        bounds: model i is for sizes below bounds[i]; they ascend, and the last is at least 1.
    """

    def __init__(
        self, models: list[NAM], bounds: list[float], metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        if not models or len(models) != len(bounds):
            raise ValueError(f"A container got {len(models)} models and {len(bounds)} bounds.")
        if list(bounds) != sorted(set(bounds)) or bounds[-1] < 1:
            raise ValueError(f"max_value must ascend to at least 1, but is {list(bounds)}.")
        if len(rates := {model.sample_rate for model in models}) > 1:
            raise ValueError(f"All models must have one sample rate, but have {sorted(rates)} Hz.")
        self.models, self.bounds = nn.ModuleList(models), [float(bound) for bound in bounds]
        self.metadata = dict(metadata or {})

    @property
    def sample_rate(self) -> float:
        """Hz."""
        return self.resized(1).sample_rate

    @property
    def receptive_field(self) -> int:
        """Of the largest."""
        return self.resized(1).receptive_field

    def resized(self, size: float) -> NAM:
        """The model for a size from 0 to 1: the first whose bound is above it, or the last."""
        checked_size(size)
        fits = [i for i, bound in enumerate(self.bounds) if size < bound]
        return self.models[fits[0] if fits else -1]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """As `NAM.forward`, by the largest."""
        return self.resized(1)(x)

    def init_state(self, batch_size: int, **settings: Any) -> State:
        """As `NAM.init_state`, of the largest."""
        return self.resized(1).init_state(batch_size, **settings)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As `NAM.step`, by the largest."""
        return self.resized(1).step(x, state)

    @property
    def in_channels(self) -> int:
        return self.resized(1).in_channels

    def traced(self, reader: Any, x: Any, state: Any, condition: Any = None) -> Any:
        """As `NAM.traced`, of the largest."""
        return self.resized(1).traced(reader, x, state)


def checked_size(size: Any) -> float:
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size <= 1:
        raise ValueError(f"A size is a number from 0 (the smallest) to 1 (all), but got {size!r}.")
    return size


class _Array(nn.Module):
    """A 1x1, a stack of blocks, and the head convolution of its skips."""

    def __init__(self, settings: ArraySettings) -> None:
        super().__init__()
        self._settings = settings
        self.rechannel = nn.Conv1d(settings.input_size, settings.channels, 1, bias=False)
        made = [_layer(settings, layer) for layer in settings.layers]
        self.stack = Stack(block for block, _ in made)
        self._in_file_order = [convolutions for _, convolutions in made]
        self.head = CausalConv1d(
            settings.term_size,
            settings.head_size,
            settings.head_kernel,
            dilation=settings.head_dilation,
            bias=settings.head_bias,
        )

    @property
    def settings_now(self) -> ArraySettings:
        layers = []
        for layer, block in zip(self._settings.layers, self.stack.blocks, strict=True):
            gate = block.gate.parts[0] if isinstance(block.gate, Chain) else block.gate
            if isinstance(gate, GatedBy):
                first, second = gate.activation, written_activation(gate.gate)
                layer = replace(layer, activation=written_activation(first), secondary=second)
            else:
                layer = replace(layer, activation=written_activation(gate))
            layers.append(layer)
        return replace(self._settings, layers=tuple(layers))

    def in_file_order(self) -> Iterator[nn.Conv1d]:
        yield self.rechannel
        for convolutions in self._in_file_order:
            yield from convolutions
        yield self.head

    def forward(self, x: Tensor, condition: Tensor, heard: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, input, T), what arrays before it heard -> x (B, C, T), heard (B, head, T)."""
        x, heard = self.stack(self.rechannel(x), condition, heard)
        return x, self.head(heard)

    def init_state(self, batch_size: int) -> State:
        return self.stack.init_state(batch_size), self.head.init_state(batch_size)

    def step(
        self, x: Tensor, state: State, condition: Tensor, heard: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], State]:
        (x, skips), stack = self.stack.step(self.rechannel(x), state[0], condition, heard)
        y, head = self.head.step(skips, state[1])
        return (x, y), (stack, head)

    def traced(self, reader: Any, x: Any, state: Any, condition: Any, heard: Any) -> Any:
        x = reader.step(self.rechannel, x)
        x, skips = reader.step(self.stack, x, state[0], condition, heard)
        return x, reader.step(self.head, skips, state[1])


def _layer(array: ArraySettings, layer: LayerSettings) -> tuple[Block, list[nn.Conv1d]]:
    """A block, and its convolutions in the order of a file's weights."""
    inner, steered = array.bottleneck, array.condition_size
    wide = inner if layer.gating == "none" else 2 * inner
    conv = CausalConv1d(
        array.channels, wide, layer.kernel_size, dilation=layer.dilation, groups=array.groups_input
    )
    widths = {
        "conv_pre_film": array.channels,
        "conv_post_film": wide,
        "input_mixin_pre_film": steered,
        "input_mixin_post_film": wide,
        "activation_pre_film": wide,
        "activation_post_film": inner,
        "layer1x1_post_film": array.channels,
        "head1x1_post_film": array.term_size,
    }
    films = {
        name: _film(steered, widths[name], array.films[name])
        for name in FILMS
        if name in array.films
    }
    mixed, mixer = _mixin(array, wide, films)
    residual, mix = _mix(array, films)
    term = None
    if array.head1x1 is not None:
        term = nn.Conv1d(inner, array.head1x1[0], 1, groups=array.head1x1[1])
    block = Block(
        dilated=_chain(films.get("conv_pre_film"), conv, films.get("conv_post_film")),
        steer=_chain(mixed, films.get("activation_pre_film")),
        gate=_chain(_gate(layer), films.get("activation_post_film")),
        mix=mix,
        skip=_chain(term or nn.Identity(), films.get("head1x1_post_film")),
    )
    ordered = [conv, mixer, residual, term, *films.values()]
    return block, [part for part in ordered if part is not None]


def _mixin(
    array: ArraySettings, wide: int, films: dict[str, FiLM | Scaled]
) -> tuple[nn.Module, nn.Conv1d]:
    """What adds a 1x1 of the condition, and that 1x1."""
    before, after = films.get("input_mixin_pre_film"), films.get("input_mixin_post_film")
    if before is None and after is None:
        plain = Added(array.condition_size, wide, array.groups_mixin)
        return plain, plain
    mixer = nn.Conv1d(array.condition_size, wide, 1, groups=array.groups_mixin, bias=False)
    return AddedBy(array.condition_size, _chain(before, mixer, after)), mixer


def _mix(
    array: ArraySettings, films: dict[str, FiLM | Scaled]
) -> tuple[nn.Conv1d | None, nn.Module]:
    """The 1x1 of the residual, if there is one, and what adds it to x."""
    film = films.get("layer1x1_post_film")
    if array.layer1x1_groups is None:
        return None, Shortcut(nn.Identity())
    if film is None and array.layer1x1_groups == 1:
        plain = Residual(array.bottleneck, array.channels)
        return plain, plain
    conv = nn.Conv1d(array.bottleneck, array.channels, 1, groups=array.layer1x1_groups)
    return conv, Shortcut(_chain(conv, film))


def _film(steered: int, channels: int, film: FilmSettings) -> FiLM | Scaled:
    return (FiLM if film.shift else Scaled)(steered, channels, film.groups)


def _gate(layer: LayerSettings) -> nn.Module:
    first = activation(layer.activation)
    if layer.secondary is None:
        return first
    kind = Blended if layer.gating == "blended" else GatedBy
    return kind(first, activation(layer.secondary))


def _head(settings: Settings) -> Chain:
    head: HeadSettings = settings.head  # type: ignore[assignment]
    parts: list[nn.Module] = []
    channels = settings.arrays[-1].head_size
    for index, kernel in enumerate(head.kernel_sizes):
        last = index == len(head.kernel_sizes) - 1
        out = head.out_channels if last else head.channels
        parts += [activation(head.activation), CausalConv1d(channels, out, kernel)]
        channels = out
    return Chain(*parts)


def _chain(*parts: nn.Module | None) -> nn.Module:
    there = [part for part in parts if part is not None]
    return there[0] if len(there) == 1 else Chain(*there)


def _mapped(state: Any, function: Any) -> Any:
    if isinstance(state, Tensor):
        return function(state)
    return tuple(_mapped(part, function) for part in state)
