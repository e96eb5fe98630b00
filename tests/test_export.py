"""torch.export takes `forward` and `step` of the blocks and of a WaveNet, and gives what they give.

A graph of `step` has the state as an input and an output as it is, a tensor or nested tuples, and
takes chunks of any length.
"""

from typing import Any

import pytest
import torch
from conftest import LABELS, assert_close, small_model, some_codes, some_labels
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection, export
from torch.nn.utils.parametrizations import weight_norm

import wavenet
from wavenet import (
    CausalConv1d,
    CausalConvTranspose1d,
    CausalStridedConv1d,
    CentredConv1d,
    Chain,
    Concatenated,
    Delay,
    FiLM,
    GatedBy,
    LookaheadConv1d,
    MixtureOfLogistics,
    Parallel,
    ResidualBlock,
    ResidualStack,
    Scaled,
    Select,
    Stack,
)
from wavenet.testing import cuttings

EXAMPLE = 32  # samples of the example that is traced; not 1, which is taken for a fixed length


class Step(nn.Module):
    """`step` in the place of `forward`, which is what torch.export takes."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, state: Any, condition: Any = None) -> Any:
        steered = () if condition is None else (condition,)
        return self.module.step(x, state, *steered)


def exported(module: nn.Module, *inputs: Any, multiple: int = 1) -> nn.Module:
    """The graph, for the first input of any length, and for what else is as long as it."""
    time, shapes = inputs[0].shape[-1], ShapesCollection()
    length = multiple * Dim("groups", min=1) if multiple > 1 else Dim.DYNAMIC
    for x in inputs:
        if isinstance(x, Tensor) and x.shape[-1] == time:
            shapes[x] = {x.dim() - 1: length}
    program = export(module, inputs, dynamic_shapes=shapes)
    # With a stride torch guards against chunks of one group, of nn.Conv1d too; they are right.
    return program.module(check_guards=multiple == 1)


def streamed(step: nn.Module, state: Any, lengths: list[int], x: Tensor, *steered: Any) -> Tensor:
    """The outputs of an exported step put together; the condition is cut where it is as long."""
    made, start = [], 0
    for n in lengths:
        now = [
            c[..., start : start + n] if isinstance(c, Tensor) and c.shape[-1] == x.shape[-1] else c
            for c in steered
        ]
        y, state = step(x[..., start : start + n], state, *now)
        made.append(outputs(y))
        start += n
    return torch.cat([torch.cat(parts, dim=-1) for parts in zip(*made, strict=True)], dim=1)


def outputs(y: Any) -> tuple[Tensor, ...]:
    return y if isinstance(y, tuple) else (y,)


def block(channels: int) -> wavenet.Block:
    return wavenet.Block(
        dilated=CausalConv1d(channels, 2 * channels, 3, dilation=2),
        steer=FiLM(2, 2 * channels),
        gate=GatedBy(nn.SiLU(), nn.Sigmoid()),
        mix=wavenet.Shortcut(Chain(nn.Conv1d(channels, channels, 1), Scaled(2, channels))),
        skip=nn.Identity(),
    )


def codec() -> Chain:
    return Chain(
        CausalStridedConv1d(3, 4, 4, 2),
        nn.ELU(),
        CausalConv1d(4, 4, 3, dilation=2),
        CausalConvTranspose1d(4, 2, 4, 2),
    )


# Of 3 channels; where it is steered, by 2
MODULES = {
    "convolution": lambda: CausalConv1d(3, 5, 3, dilation=4),
    "kernel of one tap": lambda: CausalConv1d(3, 5, 1),
    "groups and weight norm": lambda: weight_norm(CausalConv1d(3, 6, 2, groups=3)),
    "lookahead beside a delay": lambda: Parallel(Delay(3, 2), LookaheadConv1d(3, 3, 5, 2)),
    "block": lambda: block(3),
    "paper's block": lambda: ResidualBlock(3, 4, 5, 2, 4, condition_channels=2),
    "paper's stack": lambda: ResidualStack([1, 2, 4], 3, 4, 5, 2, condition_channels=2),
    "skips side by side": lambda: Select(Stack([block(3), block(3)], Concatenated()), 1),
    "codec": codec,
}


def steered_by(module: Any, time: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, module.condition_channels, time),) if module.condition_channels else ()


def assert_exports(
    module: Any, example: tuple[Any, ...], clip: tuple[Any, ...], multiple: int = 1
) -> None:
    """Both graphs give forward(*clip), however it is cut. Lengths of example and clip differ."""
    with torch.no_grad():
        expected, time = outputs(module(*clip)), clip[0].shape[-1]
        graph = exported(module, *example, multiple=multiple)
        for made, wanted in zip(outputs(graph(*clip)), expected, strict=True):
            assert_close(made, wanted)
        first = module.init_state(2)
        graph = exported(Step(module), example[0], first, *example[1:], multiple=multiple)
        for lengths in cuttings(time // multiple, (module.receptive_field - 1) // multiple):
            lengths = [multiple * n for n in lengths]
            made = streamed(graph, first, lengths, *clip)
            assert_close(made, torch.cat(expected, dim=1), lengths[:5])


@pytest.mark.parametrize("name", MODULES)
def test_blocks_of_any_length(name: str) -> None:
    module: Any = MODULES[name]().eval()
    example = (torch.randn(2, 3, EXAMPLE), *steered_by(module, 1))
    clip = (torch.randn(2, 3, 48), *steered_by(module, 1))
    assert_exports(module, example, clip, module.chunk_multiple)


def test_a_condition_that_varies_in_time() -> None:
    stack = Stack([block(3), block(3)]).eval()
    example = (torch.randn(2, 3, EXAMPLE), *steered_by(stack, EXAMPLE))
    assert_exports(stack, example, (torch.randn(2, 3, 48), *steered_by(stack, 48)))


def test_what_sees_the_future_exports_its_forward() -> None:
    module = Chain(CentredConv1d(3, 4, 5, dilation=2), nn.GELU()).eval()
    graph = exported(module, torch.randn(2, 3, EXAMPLE))
    with torch.no_grad():
        for time in (1, 5, 48):
            x = torch.randn(2, 3, time)
            assert_close(graph(x), module(x))


@pytest.mark.parametrize(
    "settings",
    [{}, {"labels": LABELS}, {"output": MixtureOfLogistics(2)}],
    ids=["codes", "labels", "16-bit"],
)
def test_a_wavenet_of_any_length(settings: dict[str, Any]) -> None:
    model = small_model(dtype=torch.float32, cycles=1, layers_per_cycle=2, **settings)
    labels = (some_labels(2),) if model.labels else ()
    others = tuple({name: ids.flip(0) for name, ids in given.items()} for given in labels)
    clip = (some_codes(2, 48), *others)  # the labels are inputs too
    assert_exports(model, (some_codes(2, EXAMPLE), *labels), clip)


def test_a_graph_trains_through_its_state() -> None:
    module = ResidualStack([1, 2], 3, 4, 5).train()
    first = module.init_state(2)
    graph = exported(Step(module), torch.randn(2, 3, EXAMPLE), first)
    x = torch.randn(2, 3, 20, requires_grad=True)
    y, state = graph(x[..., :11], first)
    y, _ = graph(x[..., 11:], state)
    y.square().sum().backward()
    other = x.detach().clone().requires_grad_()
    module(other)[..., 11:].square().sum().backward()
    assert other.grad is not None and other.grad[..., :11].abs().max() > 0
    assert_close(x.grad, other.grad)  # type: ignore[arg-type]
