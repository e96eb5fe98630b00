"""Owns the containers that hand state through what they hold: `Chain`, `Parallel`, and what joins.

What is composed of them has `forward`, `init_state`, `step`, `receptive_field` and `latency` by
composition, so that nobody writes `step` twice. A part is a module with `init_state` and `step`
(ours, or one's own), or one without memory: an activation, a 1x1 nn.Conv1d, `FiLM`, `Pointwise`.
Any other module takes part in `forward`, and is refused by name where state is asked for.

Shapes: B batch, C channels, T time, D condition channels.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet import ops
from wavenet.layers.convolution import BlockState, check_features, one_size
from wavenet.layers.pointwise import (
    advanced,
    applied,
    is_pointwise,
    refuse_condition,
    shared_condition,
    started,
)
from wavenet.layers.timing import Timed, Timing, timing_of

State = Any  # a tensor, or a tuple of states; () where there is nothing to remember


class _Container(nn.Module, Timed):
    """Parts, each with its state."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        name = type(self).__name__
        if not parts:
            raise ValueError(f"A {name} got no parts; it needs at least one.")
        for part in parts:
            if not isinstance(part, nn.Module):
                raise ValueError(
                    f"{name} takes modules, one by one, but got a {type(part).__name__}. Unpack a "
                    f"list with a star: {name}(*parts)."
                )
        for index, part in enumerate(parts):
            self.add_module(str(index), part)
        self.condition_channels = shared_condition(parts)

    @property
    def parts(self) -> list[nn.Module]:
        named = self._modules.items()  # named_children would leave out what stands twice
        return [part for name, part in named if name.isdigit() and part is not None]

    @property
    def pointwise(self) -> bool:
        """Whether no part remembers anything."""
        return all(is_pointwise(part) for part in self.parts)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[State, ...]:
        """Zeros, one state a part in their order; () for a part without memory.

        Raises ValueError for a part that cannot run step by step, by its name.
        """
        states = []
        for index, part in enumerate(self.parts):
            try:
                states.append(started(part, batch_size, device, dtype))
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}, part {index}: {error}") from error
        return tuple(states)

    def _check(self, state: Sequence[State], condition: Tensor | None) -> None:
        parts = len(self.parts)
        if not isinstance(state, Sequence) or len(state) != parts:
            seen = f"{len(state)} parts" if isinstance(state, Sequence) else type(state).__name__
            raise ValueError(
                f"{type(self).__name__}.step got a state of {seen}, but has {parts} parts, one "
                "state each. Start from init_state(batch_size)."
            )
        self._check_condition(condition)

    def _check_condition(self, condition: Tensor | None) -> None:
        if not self.condition_channels:
            refuse_condition(type(self).__name__, condition)


class Chain(_Container):
    """Parts in sequence, each taking what the one before it made: y = f_n(... f_2(f_1(x))).

    An `nn.Sequential` that also runs piece by piece. Parts with `condition_channels`, such as
    `FiLM` or a `ResidualStack`, get the condition too.
    """

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        return reduce(Timing.then, map(timing_of, self.parts))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Any:
        """x (B, C, T), condition (B, D, T or 1) -> what the last part makes."""
        self._check_condition(condition)
        for part in self.parts:
            x = applied(part, x, condition)
        return x

    def step(
        self, x: Tensor, state: tuple[State, ...], condition: Tensor | None = None
    ) -> tuple[Any, tuple[State, ...]]:
        """The next n inputs and the state -> the next outputs, the new state.

        n is a multiple of `chunk_multiple`: 1, unless a part has a stride.
        """
        self._check(state, condition)
        states = []
        for part, past in zip(self.parts, state, strict=True):
            x, past = advanced(part, x, past, condition)
            states.append(past)
        return x, tuple(states)


class Parallel(_Container):
    """Branches that get the same input, and whose outputs are joined; y = join(f_1(x), f_2(x), ...)

    A residual is Parallel(nn.Identity(), f): x + f(x).

    Args:
        branches: that make equally many outputs, of the same latency; otherwise `timing`,
            `init_state` and `step` raise ValueError. `Delay` makes a branch later.
        join: a list of their outputs -> one: `Summed()`, or `Concatenated()` of their channels.
    """

    def __init__(self, *branches: nn.Module, join: nn.Module | None = None) -> None:
        super().__init__(*branches)
        self.join = Summed() if join is None else join

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        return reduce(Timing.beside, map(timing_of, self.parts))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Any:
        """x (B, C, T), condition (B, D, T or 1) -> the branches' outputs, joined."""
        self._check_condition(condition)
        return self.join([applied(part, x, condition) for part in self.parts])

    def init_state(self, batch_size: int, **settings: Any) -> tuple[State, ...]:
        """As for `Chain`."""
        states = super().init_state(batch_size, **settings)
        _ = self.timing  # refuses branches that do not lie side by side
        return states

    def step(
        self, x: Tensor, state: tuple[State, ...], condition: Tensor | None = None
    ) -> tuple[Any, tuple[State, ...]]:
        """As for `Chain`."""
        self._check(state, condition)
        made = [
            advanced(part, x, past, condition) for part, past in zip(self.parts, state, strict=True)
        ]
        return self.join([y for y, _ in made]), tuple(past for _, past in made)


class Summed(nn.Module):
    """A list of (B, S, T) -> their sum."""

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        return reduce(ops.added, outputs)


class Concatenated(nn.Module):
    """A list of (B, S_l, T) -> (B, sum of S_l, T)."""

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(outputs), dim=1)


class Select(nn.Module, Timed):
    """One of several outputs of a module: Select(stack, 1) hands on a `Stack`'s skips alone."""

    def __init__(self, module: nn.Module, index: int) -> None:
        super().__init__()
        self.module, self.index = module, index

    @property
    def condition_channels(self) -> int:
        return getattr(self.module, "condition_channels", 0)

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        return timing_of(self.module)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """As the module's, without its other outputs."""
        return applied(self.module, x, condition)[self.index]

    def init_state(self, batch_size: int, **settings: Any) -> State:
        """The module's."""
        return started(self.module, batch_size, **settings)

    def step(self, x: Tensor, state: State, condition: Tensor | None = None) -> tuple[Any, State]:
        """As the module's, without its other outputs."""
        outputs, state = advanced(self.module, x, state, condition)
        return outputs[self.index], state


class Delay(nn.Module, Timed):
    """y[t] = x[t - samples], zeros before the first: for the earlier branch of a `Parallel`.

    Its output belongs to the input at t - samples, so its latency is `samples`.
    """

    zero: Tensor

    def __init__(self, channels: int, samples: int) -> None:
        super().__init__()
        self.channels = one_size("Delay", "channels", channels)
        self.samples = one_size("Delay", "samples", samples)
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # dtype, device of a state

    @property
    def timing(self) -> Timing:  # type: ignore[override]
        late = self.samples
        return Timing((lambda first, last: (first - late, last - late),), Fraction(late))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, T) -> the same shape."""
        check_features(x, self.channels)
        return F.pad(x, (self.samples, 0))[..., : x.shape[-1]]

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> BlockState:
        """Zeros (B, channels, samples)."""
        return self.zero.new_zeros(
            (batch_size, self.channels, self.samples), device=device, dtype=dtype
        )

    def step(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """The next n >= 1 inputs and the state -> n outputs and the new state."""
        check_features(x, self.channels)
        seen = torch.cat([state, x], dim=-1)
        n = x.shape[-1]
        return seen[..., :n], seen[..., n:].clone()
