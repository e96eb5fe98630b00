"""Owns how a feed-forward network is read: the blocks it is made of, written into a `Program`.

Beside `parts` the one file of the engines that names a network's attributes. It goes through a
network as `step` does, with signals in the place of tensors and leaves in the place of states. A
module of one's own takes part by a method that does the same:

    def traced(self, reader, x, state, condition=None):
        first, second = state
        h = reader.step(self.conv, x, first)
        return reader.step(self.stack, h, second, condition)

Shapes: B batch, C channels, T time, D condition channels, H history, K taps.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wavenet.engines.parts import computed
from wavenet.engines.program import Leaf, Program, Signal
from wavenet.engines.protocol import EngineUnavailable
from wavenet.layers import (
    Added,
    AddedBy,
    Blended,
    Block,
    CausalConv1d,
    Chain,
    Concatenated,
    Delay,
    FiLM,
    Gated,
    GatedBy,
    LookaheadConv1d,
    Parallel,
    PassThrough,
    Pointwise,
    Residual,
    ResidualBlock,
    ResidualStack,
    Scaled,
    Select,
    Shortcut,
    Stack,
    Summed,
    Unconditional,
)

LARGEST = torch.finfo(torch.float32).max
GATES = (Gated, GatedBy, Blended)


class Unreadable(Exception):
    """A part that there are no instructions for; the message is its name and what it is."""


def copied(network: nn.Module) -> Any:
    """In float32 and without dropout; later changes to the network do not reach it."""
    own = computed(network)
    own = copy.deepcopy(network) if own is network else own
    return own.float().eval().requires_grad_(False)


def read(network: Any, engine: str) -> tuple[Program, Any]:
    """A network with `init_state` and `step`, as `copied` made it -> its program, its outputs.

    The outputs are signals as `step` returns tensors: one, or a tuple of them.
    Raises EngineUnavailable for a part that the engine of that name cannot run, by its name.
    """
    program, reader = Program(), Reader()
    reader.program, reader.names = program, {id(part): n for n, part in network.named_modules()}
    leaves = numbered(network.init_state(1))
    try:
        x = program.load(_width(network))
        steered = getattr(network, "condition_channels", 0)
        condition = program.load(steered) if steered else None
        outputs = reader.step(network, x, leaves, condition)
    except Unreadable as refused:
        raise EngineUnavailable(
            f"The {engine} engine does not run this model: {refused}. Run it in PyTorch, by its "
            "step (engine='torch')."
        ) from None
    for signal in flat(outputs):
        program.store(signal)
    return program.without_unread(), outputs


def flat(tree: Any) -> Iterator[Any]:
    """The tensors, leaves or signals of nested tuples, in order."""
    if isinstance(tree, Tensor | Leaf | Signal):
        yield tree
    else:
        for part in tree:
            yield from flat(part)


def rebuilt(tree: Any, values: Iterator[Any]) -> Any:
    """The nested tuples again, with these values in order."""
    if isinstance(tree, Tensor | Leaf | Signal):
        return next(values)
    return tuple(rebuilt(part, values) for part in tree)


def numbered(state: Any) -> Any:
    """A state of one stream, with a `Leaf` for each tensor (1, C, H)."""
    for tensor in (tensors := list(flat(state))):
        if tensor.dim() != 3:
            raise ValueError(
                f"A state is of tensors (batch, channels, history), but got {tuple(tensor.shape)}."
            )
    return rebuilt(state, (Leaf(i, *t.shape[1:]) for i, t in enumerate(tensors)))


class Reader:
    """Writes a program; to a network's parts what `step` is to their tensors."""

    program: Program
    names: dict[int, str]  # of the network's modules, by their id

    def step(
        self, part: Any, x: Signal, state: Any = (), condition: Signal | None = None, *more: Any
    ) -> Any:
        """What the part makes of x: a signal, or a tuple of them.

        more: what the part's `step` takes too, such as the skips before a `Stack`.
        """
        if type(part) in READERS:
            return READERS[type(part)](self, part, x, state, condition, *more)
        if hasattr(part, "traced"):
            return part.traced(self, x, state, condition, *more)
        raise Unreadable(self.refusal(part))

    def each(self, kind: str, *sources: Signal, constants: Any = ()) -> Signal:
        """See `Program.each`."""
        if len(widths := {source.channels for source in sources}) > 1:
            raise Unreadable(f"signals of {min(widths)} and {max(widths)} channels meet in it")
        return self.program.each(kind, *sources, constants=constants)

    def scaled(self, x: Signal, scale: float) -> Signal:
        return x if scale == 1 else self.each("SCALE", x, constants=[scale])

    def refusal(self, part: Any, what: str = "") -> str:
        name = self.names.get(id(part))
        where = f" (its part '{name}')" if name else ""
        return f"there are no instructions for {type(part).__name__}{what}{where}"


def _width(part: Any) -> int:
    """Channels that a part takes. Raises Unreadable where nothing says how many."""
    for candidate in _first_parts(part):
        if type(candidate) in GATES:
            break
        channels = getattr(candidate, "in_channels", getattr(candidate, "channels", None))
        if isinstance(channels, int):
            return channels
    raise Unreadable(
        f"how many channels a {type(part).__name__} takes is not known; put a convolution first, "
        "or give it the attribute in_channels"
    )


def _first_parts(part: Any) -> Iterator[Any]:
    """The part, or those that it is made of, from the first on."""
    inside: dict[type, Callable[[Any], Sequence[Any]]] = {
        Chain: lambda chain: chain.parts,
        Parallel: lambda branches: branches.parts,
        nn.Sequential: list,
        Stack: lambda stack: stack.blocks[:1],
        ResidualStack: lambda stack: stack.blocks[:1],
        Block: lambda block: [block.dilated],
        ResidualBlock: lambda block: [block.dilated],
        Select: lambda select: [select.module],
        Pointwise: lambda wrapper: [wrapper.module],
    }
    if type(part) not in inside:
        yield part
        return
    for inner in inside[type(part)](part):
        yield from _first_parts(inner)


# Convolutions


def _convolution(r: Reader, conv: Any, x: Signal, state: Any, condition: Any) -> Signal:
    return _product(r, conv, _taps(r, conv, x, state))


def _taps(r: Reader, conv: Any, x: Signal, state: Any) -> list[Signal]:
    """What each tap reads, oldest first."""
    past, spread = [(conv.kernel_size[0] - 1 - k) for k in range(conv.kernel_size[0])], 0
    if past[0]:
        if not isinstance(state, Leaf):
            raise Unreadable(r.refusal(conv, " without a past"))
        x, spread = r.program.remembered(x, state), conv.dilation[0]
    return [x.late(steps * spread) for steps in past]


def _product(r: Reader, conv: Any, taps: Sequence[Signal], plus: Signal | None = None) -> Signal:
    """plus + the convolution's weights times its taps, group by group."""
    weight, bias = conv.weight.mT.flatten(1), conv.bias  # (out, K * in / groups), tap by tap
    if conv.groups == 1:
        return r.program.product(taps, weight, bias, plus)
    out, rows, inner = r.program.new(len(weight)), len(weight) // conv.groups, conv.weight.shape[1]
    for group in range(conv.groups):
        here = slice(group * rows, (group + 1) * rows)
        r.program.product(
            [tap.part(group * inner, inner) for tap in taps],
            weight[here],
            None if bias is None else bias[here],
            None if plus is None else plus.part(group * rows, rows),
            out.part(group * rows, rows),
        )
    return out


def _delay(r: Reader, delay: Any, x: Signal, state: Any, condition: Any) -> Signal:
    return r.program.remembered(x, state).late(delay.samples)


# What a condition steers


def _added(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    return _product(r, part, [condition], plus=h)


def _added_by(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    return r.each("ADD", h, r.step(part.part, condition, (), condition))


def _film(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    return r.each("MULTIPLY_ADD", h, *_product(r, part, [condition]).halves())


def _scaled_by(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    return r.each("MULTIPLY", h, _product(r, part, [condition]))


# Gates and activations


def _same(r: Reader, part: Any, x: Signal, state: Any, condition: Any) -> Signal:
    return x


def _gated(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    return r.each("GATED", *h.halves())


def _gated_by(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    filtered, gate = h.halves()
    return r.each("MULTIPLY", r.step(part.activation, filtered), r.step(part.gate, gate))


def _blended(r: Reader, part: Any, h: Signal, state: Any, condition: Any) -> Signal:
    filtered, gate = h.halves()
    return r.each("BLEND", r.step(part.gate, gate), r.step(part.activation, filtered), filtered)


def _activation(kind: str) -> "PartReader":
    return lambda r, part, x, state, condition: r.each(kind, x)


def _bent(bends: Callable[[Any], Any]) -> "PartReader":
    """bends: of a part, its bounds low and high and its slopes below and above them."""
    return lambda r, part, x, state, condition: r.each("BENT", x, constants=bends(part))


def _elu(r: Reader, part: Any, x: Signal, state: Any, condition: Any) -> Signal:
    return r.each("ELU", x, constants=[part.alpha])


def _slopes(part: nn.PReLU) -> Tensor:
    zeros = torch.zeros_like(part.weight)
    return torch.stack([zeros, zeros + LARGEST, part.weight, zeros + 1], dim=1)


# Blocks, stacks and containers


def _unit(r: Reader, block: Any, x: Signal, state: Any, condition: Any) -> tuple[Signal, Signal]:
    """A block but for its skip: residual, z."""
    h = r.step(block.dilated, x, state, condition)
    h = r.step(block.steer, h, (), condition)
    z = r.step(block.gate, h, (), condition)
    return _mixed(r, block.mix, x, z, condition), z


def _mixed(r: Reader, mix: Any, x: Signal, z: Signal, condition: Any) -> Signal:
    if type(mix) is Residual:
        return r.scaled(_product(r, mix, [z], plus=x), mix.scale)
    if type(mix) is Shortcut:
        return r.each("ADD", x, r.step(mix.part, z, (), condition))
    if type(mix) is PassThrough:
        return x
    raise Unreadable(r.refusal(mix))


def _block(r: Reader, block: Any, x: Signal, state: Any, condition: Any) -> tuple[Signal, Signal]:
    residual, z = _unit(r, block, x, state, condition)
    return residual, r.step(block.skip, z, (), condition)


def _stack(
    r: Reader, stack: Any, x: Signal, state: Any, condition: Any, skips: Signal | None = None
) -> tuple[Signal, Signal]:
    """skips: of the stacks before this one."""
    if type(stack.collect) not in (Summed, Concatenated):
        raise Unreadable(r.refusal(stack.collect))
    collected = [] if skips is None else [skips]
    for block, past in zip(stack.blocks, state, strict=True):
        if type(block) not in (Block, ResidualBlock):
            raise Unreadable(r.refusal(block))
        x, z = _unit(r, block, x, past, condition)
        if type(stack.collect) is Concatenated:
            collected.append(r.step(block.skip, z, (), condition))
        else:
            collected = [_with_skip(r, block.skip, z, condition, collected)]
    return x, collected[0] if len(collected) == 1 else r.program.joined(collected)


def _with_skip(r: Reader, skip: Any, z: Signal, condition: Any, before: Sequence[Signal]) -> Signal:
    """The sum of skips, with one more."""
    if before and type(skip) in (nn.Conv1d, CausalConv1d) and skip.kernel_size == (1,):
        return _product(r, skip, [z], plus=before[0])
    own = r.step(skip, z, (), condition)
    return r.each("ADD", before[0], own) if before else own


def _residual_stack(r: Reader, stack: Any, x: Signal, state: Any, condition: Any) -> Signal:
    return _stack(r, stack, x, state, condition)[1]


def _chain(r: Reader, chain: Any, x: Any, state: Any, condition: Any) -> Any:
    for part, past in zip(chain.parts, state or [()] * len(chain.parts), strict=True):
        x = r.step(part, x, past, condition)
    return x


def _sequential(r: Reader, parts: Any, x: Any, state: Any, condition: Any) -> Any:
    for part in parts:
        x = r.step(part, x)
    return x


def _parallel(r: Reader, branches: Any, x: Signal, state: Any, condition: Any) -> Signal:
    pasts = state or [()] * len(branches.parts)
    made = [r.step(part, x, p, condition) for part, p in zip(branches.parts, pasts, strict=True)]
    if type(branches.join) is Concatenated:
        return r.program.joined(made)
    if type(branches.join) is not Summed:
        raise Unreadable(r.refusal(branches.join))
    total = made[0]
    for one in made[1:]:
        total = r.each("ADD", total, one)
    return total


def _select(r: Reader, select: Any, x: Signal, state: Any, condition: Any) -> Signal:
    return r.step(select.module, x, state, condition)[select.index]


def _wrapped(r: Reader, wrapper: Any, x: Signal, state: Any, condition: Any) -> Any:
    return r.step(wrapper.module, x, (), condition)


PartReader = Callable[..., Any]  # reader, part, x, state, condition
READERS: dict[type, PartReader] = {
    **dict.fromkeys((CausalConv1d, LookaheadConv1d, nn.Conv1d), _convolution),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, Unconditional), _same),
    Delay: _delay,
    Added: _added,
    AddedBy: _added_by,
    FiLM: _film,
    Scaled: _scaled_by,
    Gated: _gated,
    GatedBy: _gated_by,
    Blended: _blended,
    **dict.fromkeys((Block, ResidualBlock), _block),
    Stack: _stack,
    ResidualStack: _residual_stack,
    Chain: _chain,
    nn.Sequential: _sequential,
    Parallel: _parallel,
    Select: _select,
    Pointwise: _wrapped,
    nn.Tanh: _activation("TANH"),
    nn.Sigmoid: _activation("SIGMOID"),
    nn.SiLU: _activation("SILU"),
    nn.Hardswish: _activation("HARDSWISH"),
    nn.Softsign: _activation("SOFTSIGN"),
    nn.ELU: _elu,
    nn.ReLU: _bent(lambda part: [0.0, LARGEST, 0.0, 1.0]),
    nn.LeakyReLU: _bent(lambda part: [0.0, LARGEST, part.negative_slope, 1.0]),
    nn.PReLU: _bent(_slopes),
    **dict.fromkeys(
        (nn.Hardtanh, nn.ReLU6), _bent(lambda part: [part.min_val, part.max_val, 0.0, 0.0])
    ),
}
