"""Containers, strides and lookahead: what is composed of blocks runs step by step like a block."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close, small_model, some_codes, some_uniforms
from torch import Tensor, nn
from torch.nn.utils import weight_norm as older_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from wavenet import (
    Added,
    Block,
    CausalConv1d,
    CausalConvTranspose1d,
    CausalStridedConv1d,
    CentredConv1d,
    Chain,
    Concatenated,
    Delay,
    FiLM,
    Gated,
    LookaheadConv1d,
    Parallel,
    Pointwise,
    Residual,
    ResidualStack,
    Sampling,
    Select,
    Shortcut,
    Stack,
)
from wavenet.engines import build_engine, take_apart
from wavenet.testing import assert_causal, assert_receptive_field, assert_streams

F64 = torch.float64


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# Strides


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_strided_convolution_is_conv1d_on_left_padded_input(
    kernel_size: int, stride: int, dilation: int, groups: int
) -> None:
    conv = CausalStridedConv1d(4, 6, kernel_size, stride, dilation, groups).double()
    x = features(2, 4, 30)
    lead = (kernel_size - 1) * dilation + 1 - stride  # below 0, F.pad takes away
    padded = F.pad(x, (lead, 0))
    expected = F.conv1d(
        padded, conv.weight, conv.bias, stride=stride, dilation=dilation, groups=groups
    )
    assert_close(conv(x), expected)
    assert conv(x).shape == (2, 6, 30 // stride)
    assert_causal(conv, x)
    assert_streams(conv, x)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_the_beginning_of_torchs(
    kernel_size: int, stride: int, dilation: int, groups: int
) -> None:
    conv = CausalConvTranspose1d(4, 6, kernel_size, stride, dilation, groups).double()
    x = features(2, 4, 17)
    theirs = F.conv_transpose1d(
        x, conv.weight, conv.bias, stride=stride, dilation=dilation, groups=groups
    )
    y, both = conv(x), min(17 * stride, theirs.shape[-1])
    assert y.shape == (2, 6, 17 * stride)
    assert_close(y[..., :both], theirs[..., :both])
    assert conv.bias is not None
    assert_close(y[..., both:], conv.bias[:, None].expand(2, 6, 17 * stride - both))
    assert_causal(conv, x)
    assert_streams(conv, x)


def test_weights_move_to_and_from_torchs_strided_layers() -> None:
    for ours, theirs in (
        (CausalStridedConv1d(4, 6, 5, 2), nn.Conv1d(4, 6, 5, 2)),
        (CausalConvTranspose1d(4, 6, 5, 2), nn.ConvTranspose1d(4, 6, 5, 2)),
    ):
        assert isinstance(ours, type(theirs))
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())


def test_a_chunk_that_is_no_whole_number_of_groups_is_refused_with_the_rule() -> None:
    conv, x = CausalStridedConv1d(4, 6, 5, 3).double(), features(2, 4, 10)
    for run in (lambda: conv(x), lambda: conv.step(x, conv.init_state(2))):
        with pytest.raises(ValueError, match=r"stride 3 got 10 samples, but takes multiples of 3"):
            run()
    with pytest.raises(ValueError, match=r"StridedConv1d\.step got a state of shape \(2, 4, 4"):
        conv.step(x[..., :3], features(2, 4, 4))
    with pytest.raises(ValueError, match=r"CausalConvTranspose1d got stride=0"):
        CausalConvTranspose1d(4, 6, 5, 0)


def decoder() -> Chain:
    """Down, a stack, and up again: an encoder and decoder of audio in small."""
    return Chain(
        CausalStridedConv1d(1, 4, 4, 2),
        nn.ELU(),
        CausalStridedConv1d(4, 6, 6, 3),
        ResidualStack([1, 2], 6, 5, 7),
        nn.ReLU(),
        CausalConvTranspose1d(7, 4, 7, 3),
        nn.LeakyReLU(),
        CausalConvTranspose1d(4, 1, 4, 2),
    ).double()


def test_a_decoder_with_strides_streams_without_a_click() -> None:
    module, x = decoder(), features(2, 1, 600)
    assert module.chunk_multiple == 6 and module(x).shape == (2, 1, 600)
    assert_causal(module, x)
    assert_receptive_field(module, x)
    assert_streams(module, x)
    with pytest.raises(ValueError, match="takes multiples of 3"):
        module.step(x[..., :8], module.init_state(2))


@pytest.mark.parametrize(
    "parts",
    [
        [CausalConvTranspose1d(1, 1, 5, 3), CausalConv1d(1, 1, 4, dilation=2)],
        [CausalConvTranspose1d(1, 1, 5, 3), CausalStridedConv1d(1, 1, 5, 2)],
        [CausalStridedConv1d(1, 1, 5, 2), CausalConvTranspose1d(1, 1, 4, 2)],
        [CausalStridedConv1d(1, 1, 2, 2), CausalConvTranspose1d(1, 1, 2, 2), CausalConv1d(1, 1, 2)],
    ],
)
def test_receptive_fields_through_rates_are_what_gradients_reach(parts: list[nn.Module]) -> None:
    assert_receptive_field(Chain(*parts).double(), features(1, 1, 60))


# Containers


def amp(dilation: int, channels: int, knobs: int = 2) -> Block:
    return Block(
        dilated=CausalConv1d(channels, channels, 3, dilation=dilation),
        steer=Added(knobs, channels),
        gate=Chain(nn.Tanh(), FiLM(knobs, channels)),
        mix=Shortcut(Chain(nn.Conv1d(channels, channels, 1), FiLM(knobs, channels))),
        skip=nn.Identity(),
    )


CHAINS: dict[str, tuple[Callable[[], Any], int]] = {  # and how many condition channels it takes
    "one": (lambda: Chain(CausalConv1d(3, 5, 3, dilation=2)), 0),
    "tcn": (
        lambda: Chain(
            *(
                Parallel(
                    nn.Identity(),
                    Chain(
                        CausalConv1d(3, 8, 3, dilation=dilation),
                        nn.ReLU(),
                        nn.Conv1d(8, 3, 1),
                    ),
                )
                for dilation in (1, 2, 4)
            )
        ),
        0,
    ),
    "amp": (
        lambda: Chain(
            nn.Conv1d(3, 5, 1, bias=False),
            Select(Stack(amp(2**layer, 5) for layer in range(3)), 1),
            CausalConv1d(5, 1, 4),
        ),
        2,
    ),
    "concatenated": (
        lambda: Chain(Select(Stack([amp(1, 3), amp(2, 3)], collect=Concatenated()), 1), nn.SiLU()),
        2,
    ),
    "grouped": (
        lambda: Stack(
            Block(
                CausalConv1d(4, 6, 2, dilation=d, groups=2),
                nn.PReLU(6),
                nn.Conv1d(6, 4, 1),
                nn.Conv1d(6, 4, 1),
                Added(2, 6, groups=2),
            )
            for d in (1, 2)
        ),
        2,
    ),
    "filtered first": (
        lambda: Block(
            Chain(FiLM(2, 3), CausalConv1d(3, 8, 3)), Gated(), nn.Identity(), Residual(4, 3)
        ),
        2,
    ),
    "kernel sizes": (
        lambda: Stack(
            Block(
                CausalConv1d(3, 3, k, dilation=d), nn.Softsign(), nn.Identity(), nn.Conv1d(3, 3, 1)
            )
            for k, d in zip((1, 5, 9), (1, 7, 2), strict=True)
        ),
        0,
    ),
    "late": (
        lambda: Parallel(
            Delay(3, 4),
            Chain(LookaheadConv1d(3, 5, 5, 2), nn.GELU(), LookaheadConv1d(5, 3, 3, 2, dilation=2)),
        ),
        0,
    ),
    "mine": (lambda: Chain(CausalConv1d(3, 5, 3), Pointwise(Folded())), 0),
    "weight norm": (
        lambda: Chain(
            weight_norm(CausalConv1d(3, 5, 3, dilation=2)),
            nn.Tanh(),
            weight_norm(CausalStridedConv1d(5, 5, 4, 2)),
            weight_norm(CausalConvTranspose1d(5, 3, 4, 2)),
        ),
        0,
    ),
}


class Folded(nn.Module):
    """Somebody's activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_what_is_composed_streams_and_knows_its_receptive_field(name: str, varying: bool) -> None:
    build, channels = CHAINS[name]
    torch.manual_seed(0)
    module = build().double()
    inputs = [features(2, 4 if name == "grouped" else 3, 60)]
    if channels:
        inputs.append(features(2, channels, 60 if varying else 1, seed=1))
    assert getattr(module, "condition_channels", 0) == channels
    assert module.receptive_field < 60
    assert_causal(module, *inputs)
    assert_receptive_field(module, *inputs)
    assert_streams(module, *inputs)


def test_a_composed_state_is_a_value_of_the_modules_dtype_and_device() -> None:
    module = decoder()
    for kind, device in ((F64, "cpu"), (torch.bfloat16, "meta")):
        wanted = {} if kind is F64 else {"dtype": kind, "device": device}
        states = [part for part in module.init_state(2, **wanted) if isinstance(part, Tensor)]
        assert len(states) == 4 and {state.dtype for state in states} == {kind}
        assert {state.device.type for state in states} == {device}
    late = Delay(3, 4).double()
    assert late.init_state(2).dtype == F64 and late.init_state(2).shape == (2, 3, 4)
    assert module.init_state(2)[1] == ()


def test_a_chain_compiles_without_a_graph_break() -> None:
    torch.compiler.reset()
    module, x = CHAINS["amp"][0]().double(), features(2, 3, 12)
    knobs = features(2, 2, 1, seed=1)
    expected = module(x, knobs)
    state = module.init_state(2)
    compiled = torch.compile(module, fullgraph=True, backend="eager")(x, knobs)
    stepped, _ = torch.compile(module.step, fullgraph=True, backend="eager")(x, state, knobs)
    assert_close(compiled, expected)
    assert_close(stepped, expected)


def test_stacks_of_different_width_carry_one_sum_of_skips() -> None:
    wide, narrow = Stack([amp(1, 5), amp(2, 5)]).double(), Stack([amp(1, 4), amp(2, 4)]).double()
    x, knobs = features(2, 5, 20), features(2, 2, 1, seed=1)
    between, head = nn.Conv1d(5, 4, 1).double(), nn.Conv1d(5, 4, 1, bias=False).double()
    last, first_skips = wide(x, knobs)
    _, skips = narrow(between(last), knobs, head(first_skips))
    _, own = narrow(between(last), knobs)
    assert_close(skips, head(first_skips) + own)
    concatenated = Stack(narrow.blocks, collect=Concatenated())
    _, parts = concatenated(between(last), knobs, head(first_skips))
    assert parts.shape == (2, 12, 20)
    assert_close(parts.view(2, 3, 4, 20).sum(1), skips)


def test_a_lookahead_is_a_centred_convolution_later() -> None:
    late = LookaheadConv1d(3, 4, 5, 4, dilation=2).double()
    centred = CentredConv1d(3, 4, 5, dilation=2).double()
    centred.load_state_dict(late.state_dict())
    x = features(2, 3, 30)
    assert late.latency == 4
    assert_close(late(F.pad(x, (0, 4)))[..., 4:], centred(x))


def test_a_deep_stack_knows_its_receptive_field() -> None:
    one = CausalConv1d(1, 1, 2)
    assert Chain(*[one] * 3000).receptive_field == 3001
    assert Chain(Chain(*[one] * 1500), *[one] * 1500).receptive_field == 3001


def test_latencies_add_up_and_pass_through_strides() -> None:
    late = LookaheadConv1d(3, 3, 3, 2)
    assert Chain(late, nn.Tanh(), late).latency == 4
    assert Chain(late, CausalStridedConv1d(3, 3, 2, 2), late).latency == 2 + 2 * 2
    assert Chain(CausalConvTranspose1d(3, 3, 4, 4), late).latency * 4 == 2
    assert Parallel(Delay(3, 2), late).latency == 2 and Delay(3, 2).receptive_field == 1


# What cannot run step by step is refused by name


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.Conv1d(3, 3, 3, padding=1), r"Conv1d with kernel_size 3.*Use CausalConv1d"),
        (nn.Conv1d(3, 3, 1, padding=1), r"Conv1d with kernel_size 1, stride 1 and padding \(1,\)"),
        (nn.ConvTranspose1d(3, 3, 1), r"Use CausalConvTranspose1d"),
        (CentredConv1d(3, 3, 3), r"CentredConv1d sees future samples"),
        (nn.GroupNorm(1, 3), r"GroupNorm takes its mean over time"),
        (nn.BatchNorm1d(3), r"BatchNorm1d in training takes its mean over time. Call eval"),
        (nn.Sequential(CausalConv1d(3, 3, 2), nn.Tanh()), r"plain nn.Sequential.*Use Chain"),
        (Folded(), r"Folded has neither init_state and step.*wavenet\.Pointwise\(Folded"),
    ],
)
def test_a_part_with_an_unknown_memory_is_refused_by_name(part: nn.Module, message: str) -> None:
    chain = Chain(nn.Tanh(), part)
    assert chain(torch.randn(2, 3, 9)).shape[:2] == (2, 3)
    with pytest.raises(ValueError, match=f"Chain, part 1: .*{message}"):
        chain.init_state(2)
    with pytest.raises(ValueError, match=message):
        chain.step(torch.randn(2, 3, 9), ((), ()))


def test_a_batch_norm_that_is_not_training_may_stream() -> None:
    chain = Chain(CausalConv1d(3, 4, 3), nn.BatchNorm1d(4)).double()
    chain(features(8, 3, 20))
    assert_streams(chain.eval(), features(2, 3, 20))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"skip": CausalConv1d(3, 3, 2)}, r"Only the dilated part .* CausalConv1d has a state"),
        ({"gate": nn.Conv1d(3, 3, 3, padding=1)}, r"Only the dilated part .* kernel_size 3"),
        ({"dilated": nn.Conv1d(3, 3, 3, padding=1)}, r"dilated part cannot step: Conv1d with"),
        ({"dilated": LookaheadConv1d(3, 3, 3, 1)}, r"LookaheadConv1d has a latency of 1 samples"),
        ({"dilated": CentredConv1d(3, 3, 3)}, r"CentredConv1d sees future samples"),
    ],
)
def test_a_block_with_a_second_memory_is_refused_by_name(
    parts: dict[str, nn.Module], message: str
) -> None:
    usual = {"dilated": CausalConv1d(3, 3, 2), "gate": nn.Tanh(), "skip": nn.Identity()}
    block = Block(**{**usual, **parts})
    assert block(torch.randn(2, 3, 9))[1].shape == (2, 3, 9)
    with pytest.raises(ValueError, match=message):
        block.init_state(2)


def test_a_subclass_that_computes_something_else_has_no_step() -> None:
    class Mean(CausalConv1d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) - x.mean(dim=-1, keepdim=True)

    with pytest.raises(ValueError, match="Mean has a forward of its own, but the step of Causal"):
        Mean(3, 3, 2).init_state(1)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ((nn.Identity(), LookaheadConv1d(3, 3, 3, 2)), r"latencies of 0 and 2.*Delay\(channels, 2"),
        ((nn.Identity(), CausalStridedConv1d(3, 3, 2, 2)), r"make 1 and 1/2 outputs for each"),
    ],
)
def test_branches_that_do_not_lie_side_by_side_are_refused(
    branches: tuple[nn.Module, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Parallel(*branches).init_state(1)
    with pytest.raises(ValueError, match=message):
        _ = Parallel(*branches).receptive_field


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Chain(), "A Chain got no parts"),
        (lambda: Chain([nn.Tanh()]), r"got a list. Unpack a list with a star: Chain\(\*parts\)"),
        (lambda: Chain(FiLM(2, 3), FiLM(1, 3)), "different numbers of channels: FiLM 2, FiLM 1"),
        (
            lambda: Chain(nn.Tanh())(features(1, 3, 9), features(1, 2, 1)),
            r"No part of this Chain is steered, but it got a condition of shape \(1, 2, 1\)",
        ),
        (
            lambda: Chain(nn.Tanh()).step(features(1, 3, 9), ((), ())),
            "Chain.step got a state of 2 parts, but has 1 parts",
        ),
        (lambda: LookaheadConv1d(3, 3, 3, 5), r"lookahead=5; .* from 0 to .* = 2"),
        (lambda: Delay(3, 0), "Delay got samples=0"),
        (
            lambda: Block(CausalConv1d(3, 3, 2), FiLM(2, 3), nn.Identity(), steer=Added(1, 3)),
            "Added 1, FiLM 2",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(run: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run()


def test_a_condition_for_the_gate_alone_is_required_and_checked() -> None:
    block = Block(CausalConv1d(3, 3, 2), Chain(nn.Tanh(), FiLM(2, 3)), nn.Identity())
    x = torch.randn(1, 3, 9)
    block(x, torch.randn(1, 2, 1))
    with pytest.raises(ValueError, match="needs a condition of shape"):
        block(x)


# Weight norm


def test_an_engine_runs_a_model_with_weight_norm_as_it_is() -> None:
    model, uniforms = small_model(dtype=torch.float32), some_uniforms(2, 40)
    for part in model.modules():
        if isinstance(part, CausalConv1d):
            weight_norm(part)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("original0"):
                parameter.mul_(1.1)
    expected = build_engine(model, 2, engine="naive", precision="float64")
    codes = expected.sample(uniforms, Sampling())
    for name in ("step", "cached", "native"):
        engine = build_engine(model, 2, engine=name, precision="float32")
        assert torch.equal(engine.sample(uniforms, Sampling()), codes), name
    assert take_apart(model).weights is not None
    assert_streams(model, some_codes(2, 40))
    assert any(name.endswith("original0") for name, _ in model.named_parameters())


def test_the_older_weight_norm_is_refused_with_the_newer() -> None:
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"parametrizations\.weight"):
        older_weight_norm(CausalConv1d(3, 3, 2))


def test_a_residual_does_not_take_over_computed_parameters() -> None:
    computed = weight_norm(nn.Conv1d(3, 3, 1))
    with pytest.raises(ValueError, match=r"Give Shortcut\(convolution\) instead"):
        Block(CausalConv1d(3, 3, 2), nn.Tanh(), nn.Identity(), computed)
    block = Block(CausalConv1d(3, 3, 2), nn.Tanh(), nn.Identity(), Shortcut(computed)).double()
    assert_streams(block, features(2, 3, 12))
