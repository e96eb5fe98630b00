"""Owns the tests that we use on ourselves, for other people's modules: causal, and as streamed.

    wavenet.testing.assert_causal(module, x)        # no output sees a later input
    wavenet.testing.assert_streams(module, x)       # the steps put together are forward

Inputs are what `forward` takes. Those as long as the first one along the last axis are taken to
vary in time; others, such as labels or (B, D, 1), hold all the time. Outputs are a tensor, or a
tuple of tensors, with time as the last axis. Knows nothing of any module but these names:
`forward`, `init_state(batch_size)`, `step(x, state, ...)`, `receptive_field`, `chunk_multiple`.

Shapes: B batch, T time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Largest difference allowed between two ways to the same value, relative to the largest value where
# that is above 1.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 4e-2,
}
MOST_TIMES = 24  # at which assert_causal changes the input
MOST_STEPS = 300  # of a cutting one by one


def assert_causal(module: nn.Module, *inputs: Any, lookahead: int = 0) -> None:
    """Every output depends on inputs up to its own time only, whatever comes later.

    The inputs are changed from a time t on, for up to 24 times t, and outputs before t must stay
    the same to the bit. Where a module takes whole groups of inputs alone (`chunk_multiple`), an
    output may see its whole group. Where the module says its `receptive_field`, and the input is
    longer, `assert_receptive_field` runs.

    Args:
        inputs: of `forward`, at random; the first (B, ..., T) with T >= 2.
        lookahead: how many later inputs an output may see.

    Raises AssertionError that says which output saw the future, where, and by how much; ValueError
    for inputs or a module with which nothing can be tested.
    """
    time, multiple = _time(inputs), _said(module, "chunk_multiple", 1)
    with torch.no_grad():
        before = _outputs(module, inputs)
        for which in _varying(inputs, time):
            for t in _times(time):
                after = _outputs(module, _changed_from(inputs, which, t), check=False)
                if t == 0 and all(map(torch.equal, after, before)):
                    raise AssertionError(
                        f"No output depends on input {which}, so that nothing was tested."
                    )
                whole = max(0, t - lookahead) // multiple * multiple
                for number, (new, old) in enumerate(zip(after, before, strict=True)):
                    kept, what = whole * old.shape[-1] // time, f"input {which} from time {t} on"
                    _require_unchanged(new, old, kept, what, number)
    claimed = _said(module, "receptive_field", None)
    if isinstance(claimed, int) and not lookahead and time > claimed and _is_float(inputs[0]):
        assert_receptive_field(module, *inputs)


def assert_receptive_field(
    module: nn.Module, *inputs: Any, receptive_field: int | None = None
) -> None:
    """As many inputs reach an output as the module says, measured by gradient.

    Args:
        inputs: of `forward`; the first is floating-point and longer than the receptive field.
        receptive_field: in samples; None: as module.receptive_field says.

    Raises AssertionError with both numbers; ValueError for an input that is too short.
    """
    claimed = module.receptive_field if receptive_field is None else receptive_field
    time, x = _time(inputs), inputs[0]
    if not _is_float(x) or time <= claimed:  # type: ignore[operator]
        raise ValueError(
            f"To measure a receptive field of {claimed} samples the input must be floating-point "
            f"and longer, but it is {x.dtype} of {time} samples."
        )
    x = x.detach().clone().requires_grad_()
    period = getattr(getattr(module, "timing", None), "period", 1)
    spans = []
    for y in _as_tuple(module(x, *inputs[1:])):
        for m in range(y.shape[-1] - period, y.shape[-1]):
            (gradient,) = torch.autograd.grad(y[..., m].sum(), x, retain_graph=True)
            reached = gradient.flatten(0, -2).abs().amax(dim=0).nonzero().flatten()
            spans += [int(reached[-1] - reached[0]) + 1] if len(reached) else []
    measured = max(spans, default=0)
    if measured != claimed:
        raise AssertionError(
            f"{type(module).__name__} says that its receptive field is {claimed} samples, but "
            f"gradients of its last output reach over {measured}."
        )


def assert_streams(
    module: nn.Module,
    *inputs: Any,
    cuts: Sequence[Sequence[int]] | None = None,
    tolerance: float | None = None,
) -> None:
    """However the input is cut in time, the outputs of `step` put together are `forward`.

    Starting from `init_state(B)`. Also: `step` does not write to the state that it was given, so
    that a state can be kept and gone on from twice.

    Args:
        inputs: of `forward`, at random; the first (B, ..., T) with T >= 2.
        cuts: lengths of the chunks, for each way of cutting; None: whole, one by one, just under
            and over the receptive field, and at random (`cuttings`).
        tolerance: largest difference allowed, relative to the largest value where that is above
            1; None: by dtype, 1e-5 in float32.

    Raises AssertionError that says at which time, in which chunk and by how much the two differ;
    ValueError for inputs or a module with which nothing can be tested.
    """
    time, multiple = _time(inputs), _said(module, "chunk_multiple", 1)
    with torch.no_grad():
        whole = _outputs(module, inputs)
        if all(bool((y == y.flatten()[0]).all()) for y in whole):
            raise ValueError("The output is the same number everywhere, which tests nothing.")
        if cuts is None:
            history = (_said(module, "receptive_field", None) or 8) - 1
            cuts = [
                [multiple * n for n in lengths]
                for lengths in cuttings(time // multiple, history // multiple)
            ]
        for lengths in cuts:
            stepped = _in_pieces(module, inputs, time, lengths)
            for number, (made, expected) in enumerate(zip(stepped, whole, strict=True)):
                _require_close(made, expected, list(lengths), number, tolerance)


def cuttings(time: int, history: int, seed: int = 0) -> list[list[int]]:
    """Ways to cut `time` samples: whole, one by one, just under or over the history, at random.

    One by one only where that is at most a few hundred steps.
    """
    generator = torch.Generator().manual_seed(seed)
    random: list[int] = []
    while sum(random) < time:
        random.append(int(torch.randint(1, max(3, history + 3), (), generator=generator)))
    sizes = {size for size in (history - 1, history, history + 1) if 1 <= size < time}
    even = [[size] * (time // size + 1) for size in sorted(sizes) if time // size <= MOST_STEPS]
    ones = [[1] * time] if time <= MOST_STEPS else [[1] * MOST_STEPS + [time - MOST_STEPS]]
    return [
        [time],
        *ones,
        *(_ending_at(time, lengths) for lengths in (*even, random, random[::-1])),
    ]


def _ending_at(time: int, lengths: Sequence[int]) -> list[int]:
    kept: list[int] = []
    for length in lengths:
        if left := min(length, time - sum(kept)):
            kept.append(left)
    return kept


# What is given and what comes out


def _time(inputs: Sequence[Any]) -> int:
    if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].dim() < 2:
        raise ValueError("Give what forward takes; the first input is a tensor (batch, ..., time).")
    if inputs[0].shape[-1] < 2:
        raise ValueError(f"An input of {inputs[0].shape[-1]} samples tests nothing; give more.")
    return inputs[0].shape[-1]


def _said(module: nn.Module, name: str, default: Any) -> Any:
    """What the module says of itself; the default where it does not, or cannot."""
    try:
        return getattr(module, name, default)
    except ValueError:  # a Chain with a part that it does not know
        return default


def _varying(inputs: Sequence[Any], time: int) -> list[int]:
    """Which inputs vary in time."""
    return [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.shape[-1] == time]


def _is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _as_tuple(y: Any) -> tuple[Tensor, ...]:
    outputs = tuple(y) if isinstance(y, tuple | list) else (y,)
    if not all(isinstance(output, Tensor) and output.dim() > 0 for output in outputs):
        raise ValueError(
            "The module's output must be a tensor, or a tuple of tensors, with time as the last "
            f"axis, but got {[type(output).__name__ for output in outputs]}."
        )
    return outputs


def _outputs(module: nn.Module, inputs: Sequence[Any], check: bool = True) -> tuple[Tensor, ...]:
    made = _as_tuple(module(*inputs))
    if check and not all(map(torch.equal, _as_tuple(module(*inputs)), made)):
        raise ValueError(
            f"{type(module).__name__} makes two different outputs of the same input, so that "
            "nothing can be compared; call eval() if it has dropout, and give finite inputs."
        )
    return made


# Causal


def _times(time: int) -> list[int]:
    """Times at which an input is changed: all, or some, the first and the last among them."""
    if time <= MOST_TIMES:
        return list(range(time))
    return [round(i * (time - 1) / (MOST_TIMES - 1)) for i in range(MOST_TIMES)]


def _changed_from(inputs: Sequence[Any], which: int, t: int) -> list[Any]:
    changed = list(inputs)
    x = changed[which].clone()
    later = x[..., t:]
    if x.is_floating_point():
        later.copy_(1 + later.roll(1, dims=0) - 0.7 * later)
    else:
        least, most = int(x.min()), int(x.max())
        later.copy_((later - least + 1 + (most - least) // 2) % (most - least + 1) + least)
    changed[which] = x
    return changed


def _require_unchanged(new: Tensor, old: Tensor, kept: int, what: str, number: int) -> None:
    moved = (new[..., :kept] != old[..., :kept]).flatten(0, -2).any(dim=0).nonzero().flatten()
    if len(moved):
        first = int(moved[0])
        by = (new - old)[..., first].abs().max()
        raise AssertionError(
            f"It sees the future: output {number} changed at time {first}, by {float(by):.3g}, "
            f"when {what} was changed; so did {len(moved)} of the {kept} outputs before."
        )


# Streams


def _in_pieces(
    module: Any, inputs: Sequence[Any], time: int, lengths: Sequence[int]
) -> tuple[Tensor, ...]:
    if sum(lengths) != time:
        raise ValueError(f"A cutting of {sum(lengths)} samples was given for {time}.")
    varying, made = _varying(inputs, time), []
    state, start = module.init_state(len(inputs[0])), 0
    for length in lengths:
        x, *rest = [
            value[..., start : start + length] if i in varying else value
            for i, value in enumerate(inputs)
        ]
        kept = [tensor.clone() for tensor in _tensors(state)]
        y, after = module.step(x, state, *rest)
        if not all(map(torch.equal, _tensors(state), kept)):
            raise AssertionError(
                f"{type(module).__name__}.step wrote to the state that it was given, at time "
                f"{start}; it must return a new one."
            )
        made.append(_as_tuple(y))
        state, start = after, start + length
    return tuple(torch.cat(parts, dim=-1) for parts in zip(*made, strict=True))


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        yield from _tensors(list(state.values()))
    elif isinstance(state, tuple | list):
        for part in state:
            yield from _tensors(part)


def _require_close(
    made: Tensor, expected: Tensor, lengths: list[int], number: int, tolerance: float | None
) -> None:
    shown = [*map(str, lengths[:6]), *["..."] * (len(lengths) > 6)]
    cut = f"cut into [{', '.join(shown)}]"
    if made.shape != expected.shape or made.dtype != expected.dtype:
        raise AssertionError(
            f"Output {number} of the steps is {made.dtype} {tuple(made.shape)}, {cut}, but that of "
            f"forward is {expected.dtype} {tuple(expected.shape)}."
        )
    allowed = TOLERANCE.get(expected.dtype, 0.0) if tolerance is None else tolerance
    allowed *= max(1.0, float(expected.abs().max()))
    difference = (made - expected).abs().flatten(0, -2).amax(dim=0)  # (T,)
    wrong = (~(difference <= allowed)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        chunk, into = _place(lengths, first * sum(lengths) // len(difference))
        raise AssertionError(
            f"The steps are not forward: output {number} differs from time {first} on, by "
            f"{float(difference[first]):.3g} there and at most {float(difference.max()):.3g} "
            f"(allowed {allowed:.1g}), at sample {into} of chunk {chunk}, {cut}."
        )


def _place(lengths: Sequence[int], time: int) -> tuple[int, int]:
    """The chunk in which an input time lies, and how far into it."""
    start = 0
    for chunk, length in enumerate(lengths):
        if time < start + length:
            return chunk, time - start
        start += length
    return len(lengths) - 1, lengths[-1] - 1
