"""Properties of the causal blocks: one meaning in two forms; neither sees the future."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LABELS, assert_close, small_model, some_codes, some_labels
from torch import Tensor, nn

from wavenet import (
    Block,
    CausalConv1d,
    CentredConv1d,
    FiLM,
    Gated,
    ResidualBlock,
    ResidualStack,
    dilation_cycles,
)
from wavenet.layers import PassThrough
from wavenet.testing import (
    assert_causal,
    assert_receptive_field,
    assert_streams,
    cuttings,
)

F64, F32 = torch.float64, torch.float32
DILATIONS = [2**power for power in range(10)]


def features(*shape: int, dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def in_pieces(
    step: Callable[..., Any], x: Tensor, state: Any, lengths: Sequence[int], condition: Any = None
) -> tuple[tuple[Tensor, ...], Any]:
    """Concatenated outputs of `step` over x cut into `lengths`, as a tuple, and the last state.

    A condition that varies in time is cut along with x; anything else is passed whole.
    """
    varies = isinstance(condition, Tensor) and condition.shape[-1] == x.shape[-1]
    outputs, start = [], 0
    for length in lengths:
        here = condition[..., start : start + length] if varies else condition
        y, state = step(
            x[..., start : start + length], state, *(() if condition is None else (here,))
        )
        outputs.append(y if isinstance(y, tuple) else (y,))
        start += length
    assert start == x.shape[-1]
    return tuple(torch.cat(parts, dim=-1) for parts in zip(*outputs, strict=True)), state


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from tensors(part)


def block(dtype: torch.dtype = F64, **settings: Any) -> ResidualBlock:
    torch.manual_seed(0)
    sizes = {
        "residual_channels": 5,
        "gate_channels": 7,
        "skip_channels": 17,
        "kernel_size": 3,
        "dilation": 2,
    }
    return ResidualBlock(**{**sizes, "residual_scale": math.sqrt(0.5), **settings}).to(dtype)


def stack(dtype: torch.dtype = F64, **settings: Any) -> ResidualStack:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "dilations": [1, 2, 4, 1, 2],
        "residual_channels": 5,
        "gate_channels": 7,
    }
    return ResidualStack(**{**sizes, "skip_channels": 17, "residual_scale": 0.8, **settings}).to(
        dtype
    )


# What CausalConv1d computes


def double_loop(x: Tensor, weight: Tensor, bias: Tensor, dilation: int, groups: int) -> Tensor:
    """The definition, one multiplication at a time."""
    weight, bias = weight.detach(), bias.detach()
    batch, inputs, time = x.shape
    outputs, per_group, taps = weight.shape
    y = torch.zeros(batch, outputs, time, dtype=x.dtype)
    for b in range(batch):
        for o in range(outputs):
            first = o // (outputs // groups) * per_group
            for t in range(time):
                total = float(bias[o])
                for i in range(per_group):
                    for k in range(taps):
                        when = t - (taps - 1 - k) * dilation
                        total += (
                            float(weight[o, i, k]) * float(x[b, first + i, when])
                            if when >= 0
                            else 0.0
                        )
                y[b, o, t] = total
    assert inputs == per_group * groups
    return y


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_is_the_double_loop(kernel_size: int, dilation: int, groups: int) -> None:
    conv = CausalConv1d(4, 6, kernel_size, dilation=dilation, groups=groups, dtype=F64)
    x = features(2, 4, 11)
    assert conv.bias is not None
    assert_close(conv(x), double_loop(x, conv.weight, conv.bias, dilation, groups))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 7, 512])
@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (3, True), (6, False)])
@pytest.mark.parametrize("dtype", [F64, F32])
def test_convolution_is_conv1d_on_left_padded_input(
    kernel_size: int, dilation: int, groups: int, bias: bool, dtype: torch.dtype
) -> None:
    conv = CausalConv1d(
        6, 12, kernel_size, dilation=dilation, groups=groups, bias=bias, dtype=dtype
    )
    x = features(3, 6, 19, dtype=dtype)
    padded = F.pad(x, ((kernel_size - 1) * dilation, 0))
    assert_close(
        conv(x), F.conv1d(padded, conv.weight, conv.bias, dilation=dilation, groups=groups)
    )


def test_gradients_are_those_of_conv1d_on_left_padded_input() -> None:
    conv, x = CausalConv1d(5, 7, 3, dilation=4, dtype=F64), features(2, 5, 23).requires_grad_()
    towards = features(2, 7, 23, seed=1)
    wanted = [x, *conv.parameters()]
    reference = F.conv1d(F.pad(x, (8, 0)), conv.weight, conv.bias, dilation=4)
    for actual, expected in zip(
        torch.autograd.grad((conv(x) * towards).sum(), wanted),
        torch.autograd.grad((reference * towards).sum(), wanted),
        strict=True,
    ):
        assert_close(actual, expected)


def test_a_convolution_takes_input_that_is_not_contiguous() -> None:
    conv, x = CausalConv1d(5, 7, 2, dilation=3, dtype=F64), features(2, 40, 5)
    assert_close(conv(x.transpose(1, 2)[..., ::2]), conv(x.transpose(1, 2)[..., ::2].contiguous()))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_move_to_and_from_conv1d(groups: int, bias: bool) -> None:
    theirs = nn.Conv1d(6, 9, 3, dilation=2, groups=groups, bias=bias, padding=4)
    ours = CausalConv1d(6, 9, 3, dilation=2, groups=groups, bias=bias)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes
    x = features(2, 6, 15, dtype=F32)
    for source, target in ((theirs, ours), (ours, theirs)):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        assert target.load_state_dict(source.state_dict()).missing_keys == []
        assert_close(ours(x), theirs(x)[..., :15])
    assert isinstance(ours, nn.Conv1d)


def test_sizes_may_be_given_as_tuples_of_one() -> None:
    conv = CausalConv1d(2, 3, (3,), stride=(1,), dilation=(4,))
    assert conv.history == 8 and conv.weight.shape == (3, 2, 3)


# What CausalConv1d refuses


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"stride": 2}, r"stride=2.*Slice the output"),
        ({"stride": (2,)}, r"stride=\(2,\)"),
        ({"padding": 1}, r"padding=1.*Leave them out"),
        ({"padding": 0}, r"padding=0"),
        ({"padding": "same"}, r"padding='same'"),
        ({"padding_mode": "reflect"}, r"padding_mode='reflect'"),
        ({"dilation": (2, 2)}, r"dilation=\(2, 2\).*nn\.Conv2d"),
        ({"dilation": True}, r"dilation=True"),
        ({"dilation": 0}, r"dilation=0"),
        ({"kernel_size": (3, 3)}, r"kernel_size=\(3, 3\).*nn\.Conv2d"),
        ({"kernel_size": (3, 3, 3)}, r"nn\.Conv3d"),
        ({"kernel_size": 0}, r"kernel_size=0"),
        ({"kernel_size": -1}, r"kernel_size=-1"),
        ({"kernel_size": True}, r"kernel_size=True"),
        ({"kernel_size": 2.0}, r"kernel_size=2\.0"),
        ({"kernel_size": [3, 3]}, r"kernel_size=\[3, 3\]"),
    ],
)
def test_arguments_that_are_not_causal_are_refused_with_the_reason(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        CausalConv1d(4, 6, **{"kernel_size": 2, **settings})


@pytest.mark.parametrize(
    ("shape", "channels", "hint"),
    [
        ((2, 30, 5), 5, "transpose"),
        ((5, 30), 5, "unsqueeze\\(0\\)"),
        ((2, 30), 1, "unsqueeze\\(1\\)"),
        ((2, 5, 30, 1), 5, "Conv2d"),
        ((2, 5, 0), 5, "at least one sample"),
        ((2, 6, 30), 5, "number of channels"),
        ((30,), 5, "number of channels"),
    ],
)
def test_features_of_another_shape_are_refused_with_the_likely_mistake(
    shape: tuple[int, ...], channels: int, hint: str
) -> None:
    conv = CausalConv1d(channels, 7, 2)
    with pytest.raises(ValueError, match=hint) as error:
        conv(torch.zeros(shape))
    assert str(shape) in str(error.value) and f"{channels} channels" in str(error.value)
    with pytest.raises(ValueError, match=hint):
        conv.step(torch.zeros(shape), conv.init_state(shape[0]))
    with pytest.raises(ValueError, match=hint):
        ResidualBlock(channels, 7, 3)(torch.zeros(shape))


# Nothing of the future, all of the receptive field


def conv_of(**settings: Any) -> CausalConv1d:
    torch.manual_seed(0)
    return CausalConv1d(6, 9, **{"kernel_size": 3, "dilation": 2, "dtype": F64, **settings})


@pytest.mark.parametrize(
    ("build", "condition"),
    [
        (conv_of, None),
        (lambda: conv_of(groups=3), None),
        (lambda: conv_of(kernel_size=1), None),
        (lambda: block(residual_channels=6), None),
        (lambda: block(residual_channels=6, condition_channels=3), features(2, 3, 13)),
        (lambda: block(residual_channels=6, last=True), None),
        (lambda: stack(residual_channels=6, condition_channels=3), features(2, 3, 13)),
    ],
    ids=["conv", "grouped", "kernel-1", "block", "conditioned-block", "last-block", "stack"],
)
def test_a_change_at_t_leaves_outputs_before_t_bit_identical(
    build: Callable[[], Any], condition: Tensor | None
) -> None:
    assert_causal(build(), features(2, 6, 13), *([] if condition is None else [condition]))


@pytest.mark.parametrize("dtype", [F64, F32])
def test_a_code_changed_at_t_leaves_the_model_before_t_bit_identical(dtype: torch.dtype) -> None:
    model = small_model(dtype=dtype, labels=LABELS)
    assert_causal(model, some_codes(2, 21), some_labels(2))


def reach(x: Tensor, y: Tensor) -> list[int]:
    """The input times that the last output depends on, by gradient."""
    (gradient,) = torch.autograd.grad(y[..., -1].sum(), x)
    return gradient.abs().amax(dim=(0, 1)).nonzero().flatten().tolist()


@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (2, 1), (2, 9), (3, 4), (5, 3)])
def test_the_taps_of_a_convolution_by_gradient(kernel_size: int, dilation: int) -> None:
    conv, x = (
        CausalConv1d(3, 5, kernel_size, dilation=dilation, dtype=F64),
        features(1, 3, 40).requires_grad_(),
    )
    assert reach(x, conv(x)) == [39 - k * dilation for k in reversed(range(kernel_size))]
    assert conv.history == (kernel_size - 1) * dilation


@pytest.mark.parametrize(
    ("kernel_size", "dilations"),
    [(2, [1, 2, 4, 8]), (2, [1, 2, 1, 2]), (3, [1, 2, 4]), (2, [1]), (1, [1, 2])],
)
def test_receptive_field_of_a_stack_is_what_the_gradient_reaches(
    kernel_size: int, dilations: list[int]
) -> None:
    module = stack(dilations=dilations, kernel_size=kernel_size)
    assert_receptive_field(module, features(1, 5, 60))
    assert module.receptive_field == 1 + sum((kernel_size - 1) * dilation for dilation in dilations)


@pytest.mark.parametrize(("kernel_size", "layers"), [(1, 2), (2, 3), (2, 5), (3, 3), (5, 2)])
def test_receptive_field_of_the_model_is_what_the_gradient_reaches(
    kernel_size: int, layers: int
) -> None:
    model, codes, embedded = (
        small_model(kernel_size=kernel_size, layers_per_cycle=layers),
        some_codes(1, 100),
        [],
    )
    model.embedding.register_forward_hook(lambda module, given, output: embedded.append(output))
    logits = model(codes)
    (gradient,) = torch.autograd.grad(logits[..., -1].sum(), embedded)  # (1, T, C)
    reached = gradient.abs().amax(dim=(0, 2)).nonzero().flatten().tolist()
    assert reached == list(range(100 - model.receptive_field, 100))


def test_dilation_cycles_double_and_start_again() -> None:
    assert dilation_cycles(2, 4) == [1, 2, 4, 8, 1, 2, 4, 8]
    assert len(dilation_cycles(3, 10)) == 30 and max(dilation_cycles(3, 10)) == 512


# What the blocks compute


def causal(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    return F.conv1d(
        F.pad(x, ((weight.shape[-1] - 1) * dilation, 0)), weight, bias, dilation=dilation
    )


@pytest.mark.parametrize("condition_time", [None, 1, 19])
@pytest.mark.parametrize("last", [False, True])
def test_a_block_is_its_equations(condition_time: int | None, last: bool) -> None:
    module = block(
        condition_channels=0 if condition_time is None else 3, residual_scale=0.7, last=last
    )
    x, h = (
        features(2, 5, 19),
        None if condition_time is None else features(2, 3, condition_time, seed=1),
    )
    weight = dict(module.named_parameters())
    split = [
        part.detach()
        for part in causal(x, weight["dilated.weight"], weight["dilated.bias"], 2).split(7, dim=1)
    ]
    if h is not None:
        projected = F.conv1d(h, weight["condition.weight"])
        split = [split[0] + projected[:, :7], split[1] + projected[:, 7:]]
    z = torch.tanh(split[0]) * torch.sigmoid(split[1])
    residual, skip = module(x) if h is None else module(x, h)
    assert_close(skip, causal(z, weight["skip.weight"], weight["skip.bias"]))
    if last:
        assert torch.equal(residual, x) and "residual.weight" not in weight
    else:
        assert_close(
            residual, (x + causal(z, weight["residual.weight"], weight["residual.bias"])) * 0.7
        )


def test_dropout_leaves_out_whole_channels_of_a_clip_before_the_convolution_in_training() -> None:
    plain, x = block(), features(64, 5, 19)
    dropped = Block(plain.dilated, plain.gate, plain.skip, plain.mix, dropout=0.25)
    seen: list[Tensor] = []
    plain.dilated.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    residual, _ = dropped(x)
    (read,) = seen
    left = (read == 0).all(-1)
    assert 0.15 < left.double().mean() < 0.35 and len(left.unique(dim=0)) > 10
    assert_close(read[~left], x[~left] / 0.75)
    z = plain.gate(plain.dilated(read))
    assert_close(residual, plain.mix(x, z))  # x itself goes round it whole
    torch.compiler.reset()
    torch.compile(dropped, fullgraph=True, backend="eager")(x)
    assert torch.equal(dropped.eval()(x)[1], plain(x)[1])
    assert dropped.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("condition_channels", [0, 3])
def test_a_stack_is_its_blocks_in_sequence_with_summed_skips(condition_channels: int) -> None:
    module, x = stack(condition_channels=condition_channels), features(2, 5, 19)
    h = features(2, 3, 19, seed=1) if condition_channels else None
    expected = torch.zeros(2, 17, 19, dtype=F64)
    now = x
    for part in module.blocks:
        now, skip = part(now, h)
        expected = expected + skip
    assert_close(module(x, h), expected)
    assert [isinstance(part.residual, PassThrough) for part in module.blocks] == [False] * 4 + [
        True
    ]


def test_every_parameter_of_a_model_learns() -> None:
    model = small_model(labels=LABELS)
    model(torch.arange(256).repeat(6, 1), some_labels(6)).square().sum().backward()
    idle = [
        name
        for name, value in model.named_parameters()
        if value.grad is None or not value.grad.abs().sum() > 0
    ]
    assert idle == []


@pytest.mark.parametrize(
    ("condition_channels", "condition", "message"),
    [
        (0, torch.zeros(2, 3, 1), "no conditioning"),
        (3, None, "got none"),
        (3, torch.zeros(2, 3), r"shape \(2, 3\)"),
        (3, torch.zeros(2, 4, 1), r"\(2, 4, 1\)"),
        (3, torch.zeros(2, 3, 5), r"\(batch, 3, 9 or 1\)"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(
    condition_channels: int, condition: Tensor | None, message: str
) -> None:
    module = block(F32, condition_channels=condition_channels)
    with pytest.raises(ValueError, match=message):
        module(torch.zeros(2, 5, 9), condition)
    with pytest.raises(ValueError, match=message):
        module.step(torch.zeros(2, 5, 9), module.init_state(2), condition)


def test_a_stack_without_dilations_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        stack(dilations=[])


# Steps are forward


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("dilation", DILATIONS)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
def test_steps_of_a_convolution_concatenate_to_forward(
    kernel_size: int, dilation: int, dtype: torch.dtype
) -> None:
    history = (kernel_size - 1) * dilation
    for batch, groups in ((1, 1), (3, 1), (1, 2), (3, 4)):
        conv = CausalConv1d(4, 8, kernel_size, dilation=dilation, groups=groups, dtype=dtype)
        x = features(batch, 4, history + 7, dtype=dtype)
        assert_streams(conv, x, cuts=cuttings(x.shape[-1], history, seed=dilation))


def compositions(total: int) -> Iterator[list[int]]:
    """Every way to write `total` as an ordered sum: every cutting of a clip."""
    if total == 0:
        yield []
    for first in range(1, total + 1):
        yield from ([first, *rest] for rest in compositions(total - first))


@pytest.mark.parametrize(
    "build",
    [conv_of, lambda: conv_of(groups=3), lambda: block(residual_channels=6)],
    ids=["conv", "grouped", "block"],
)
def test_every_cutting_of_a_short_clip_is_forward(build: Callable[[], Any]) -> None:
    module = build()
    all_cuttings = list(compositions(8))
    assert len(all_cuttings) == 2**7
    assert_streams(module, features(2, 6, 8), cuts=all_cuttings)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("condition_time", [0, 1, 37])
@pytest.mark.parametrize(
    ("kernel_size", "dilation", "last"), [(1, 1, False), (2, 8, False), (3, 5, True), (5, 1, False)]
)
def test_steps_of_a_block_concatenate_to_forward(
    kernel_size: int, dilation: int, last: bool, condition_time: int, dtype: torch.dtype
) -> None:
    condition = [features(3, 2, condition_time, dtype=dtype, seed=1)] if condition_time else []
    module = block(
        dtype,
        kernel_size=kernel_size,
        dilation=dilation,
        last=last,
        condition_channels=2 if condition_time else 0,
    )
    assert_streams(module, features(3, 5, 37, dtype=dtype), *condition)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("condition_time", [0, 1, 41])
@pytest.mark.parametrize(("kernel_size", "batch"), [(2, 1), (2, 3), (3, 2), (1, 2)])
def test_steps_of_a_stack_concatenate_to_forward(
    kernel_size: int, batch: int, condition_time: int, dtype: torch.dtype
) -> None:
    condition = [features(batch, 2, condition_time, dtype=dtype, seed=1)] if condition_time else []
    module = stack(dtype, kernel_size=kernel_size, condition_channels=2 if condition_time else 0)
    assert_streams(module, features(batch, 5, 41, dtype=dtype), *condition)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize(("kernel_size", "batch"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_steps_of_a_model_concatenate_to_forward(
    kernel_size: int, batch: int, labels: dict[str, list[str]] | None, dtype: torch.dtype
) -> None:
    model = small_model(dtype=dtype, kernel_size=kernel_size, labels=labels)
    assert_streams(model, some_codes(batch, 43), *([some_labels(batch)] if labels else []))


# The state is a value


STATEFUL: list[Callable[[], Any]] = [
    conv_of,
    lambda: conv_of(kernel_size=1),
    lambda: conv_of(groups=3),
    lambda: block(residual_channels=6),
    lambda: stack(residual_channels=6),
    small_model,
]
STATEFUL_IDS = ["conv", "kernel-1", "grouped", "block", "stack", "model"]


def inputs_of(module: Any, time: int, seed: int = 0) -> Tensor:
    return (
        some_codes(3, time, seed) if hasattr(module, "codec") else features(3, 6, time, seed=seed)
    )


@pytest.mark.parametrize("build", STATEFUL, ids=STATEFUL_IDS)
@pytest.mark.parametrize("n", [1, 3, 30])
def test_step_never_writes_to_the_state_it_was_given(build: Callable[[], Any], n: int) -> None:
    module = build()
    _, state = module.step(inputs_of(module, 9), module.init_state(3))
    before = [part.clone() for part in tensors(state)]
    _, after = module.step(inputs_of(module, n, seed=5), state)
    assert all(torch.equal(now, then) for now, then in zip(tensors(state), before, strict=True))
    assert all(
        new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr() or not old.numel()
        for new, old in zip(tensors(after), tensors(state), strict=True)
    )
    assert (
        any(not torch.equal(new, old) for new, old in zip(tensors(after), before, strict=True))
        or not before[0].numel()
    )


@pytest.mark.parametrize("build", STATEFUL, ids=STATEFUL_IDS)
@pytest.mark.parametrize("n", [1, 3, 30])
def test_state_is_canonical_and_holds_no_memory_but_its_own(
    build: Callable[[], Any], n: int
) -> None:
    module = build()
    start = module.init_state(3)
    _, state = module.step(inputs_of(module, n), start)
    convolutions = [
        part
        for part in module.modules()
        if isinstance(part, CausalConv1d) and part.kernel_size[0] > 1
    ]
    convolutions = convolutions or [module]
    for initial, part, conv in zip(tensors(start), tensors(state), convolutions, strict=True):
        assert part.shape == initial.shape == (3, conv.in_channels, conv.history)
        assert (
            part.is_contiguous() and initial.is_contiguous() and part.dtype == initial.dtype == F64
        )
        assert part.untyped_storage().nbytes() == part.numel() * part.element_size()
        assert not initial.any()


def test_state_is_the_last_inputs_oldest_first() -> None:
    conv, x = conv_of(), features(2, 6, 9)  # history 4
    _, state = conv.step(x, conv.init_state(2))
    assert torch.equal(state, x[..., -4:])
    _, state = conv.step(x[..., :1], conv.init_state(2))
    assert torch.equal(state, F.pad(x[..., :1], (3, 0)))


def test_state_does_not_follow_later_changes_of_the_input() -> None:
    conv, x = conv_of(), features(2, 6, 9)
    _, state = conv.step(x, conv.init_state(2))
    before = state.clone()
    x.zero_()
    assert torch.equal(state, before)


@pytest.mark.parametrize("build", STATEFUL, ids=STATEFUL_IDS)
def test_a_forked_state_goes_both_ways(build: Callable[[], Any]) -> None:
    module = build()
    past, left, right = (
        inputs_of(module, 11),
        inputs_of(module, 7, seed=3),
        inputs_of(module, 5, seed=4),
    )
    _, state = module.step(past, module.init_state(3))
    for future in (left, right, left):
        y, _ = module.step(future, state)
        whole = module(torch.cat([past, future], dim=-1))
        pairs = zip(y, whole, strict=True) if isinstance(y, tuple) else [(y, whole)]
        for actual, expected in pairs:
            assert_close(actual, expected[..., 11:])


def test_init_state_takes_device_and_dtype_and_follows_the_weights() -> None:
    assert conv_of().init_state(2).dtype == F64
    for module in (conv_of(), block(), stack(), small_model()):
        state = module.init_state(2, device="meta", dtype=torch.bfloat16)
        assert all(
            part.dtype == torch.bfloat16 and part.device.type == "meta" for part in tensors(state)
        )


@pytest.mark.parametrize(
    "shape", [(2, 6, 3), (2, 6, 5), (2, 5, 4), (1, 6, 4), (3, 6, 4), (6, 4), (2, 4, 6)]
)
def test_a_state_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(2, 6, 4\).*init_state\(2\)") as error:
        conv_of().step(features(2, 6, 9), torch.zeros(shape, dtype=F64))
    assert str(shape) in str(error.value)


def test_a_stack_state_with_other_parts_is_refused() -> None:
    module = stack()
    with pytest.raises(ValueError, match="4 parts, but has 5 blocks"):
        module.step(features(2, 5, 9), module.init_state(2)[:-1])


# Gradients go through steps


@pytest.mark.parametrize("build", STATEFUL, ids=STATEFUL_IDS)
def test_gradients_through_steps_are_those_of_forward(build: Callable[[], Any]) -> None:
    module = build()
    x = inputs_of(module, 17)
    leaves = [*module.parameters(), *([x.requires_grad_()] if x.is_floating_point() else [])]

    def gradients(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        loss = sum((y * features(*y.shape, seed=7)).sum() for y in outputs)
        assert isinstance(loss, Tensor)
        return torch.autograd.grad(loss, leaves)

    whole = module(x)
    expected = gradients(whole if isinstance(whole, tuple) else (whole,))
    stepped, _ = in_pieces(module.step, x, module.init_state(3), [1, 5, 2, 9])
    for actual, wanted in zip(gradients(stepped), expected, strict=True):
        assert_close(actual, wanted)


def test_gradcheck_through_steps_of_a_block() -> None:
    module = block(residual_channels=2, gate_channels=2, skip_channels=3, condition_channels=2)

    def run(x: Tensor, h: Tensor, state: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return in_pieces(module.step, x, state, [1, 3, 2], h)[0]

    inputs = [features(1, 2, 6), features(1, 2, 6, seed=1), features(1, 2, 4, seed=2)]
    assert torch.autograd.gradcheck(
        run, [*(x.requires_grad_() for x in inputs), *module.parameters()]
    )


# Compilers


@pytest.mark.parametrize(
    "build",
    [*STATEFUL, lambda: block(residual_channels=6, condition_channels=2)],
    ids=[*STATEFUL_IDS, "conditioned-block"],
)
def test_forward_and_step_compile_without_a_graph_break(build: Callable[[], Any]) -> None:
    module = build()
    torch.compiler.reset()
    x = inputs_of(module, 12)
    condition = (features(3, 2, 12),) if getattr(module, "condition_channels", 0) else ()
    expected = module(x, *condition)
    compiled = torch.compile(module, fullgraph=True, backend="eager")(x, *condition)
    stepped, _ = torch.compile(module.step, fullgraph=True, backend="eager")(
        x, module.init_state(3), *condition
    )
    for actual in (compiled, stepped):
        for now, then in (
            zip(actual, expected, strict=True)
            if isinstance(actual, tuple)
            else [(actual, expected)]
        ):
            assert_close(now, then)


def test_a_model_with_labels_compiles_without_a_graph_break() -> None:
    torch.compiler.reset()
    model, codes = small_model(labels=LABELS), some_codes(2, 12)
    compiled = torch.compile(model, fullgraph=True, backend="eager")(codes, some_labels(2))
    assert_close(compiled, model(codes, some_labels(2)))


# Sizes that make no layer


@pytest.mark.parametrize("cycles", [0, -1, 1.5, True, 10**9])
def test_dilations_of_no_whole_number_of_cycles_are_refused(cycles: int) -> None:
    with pytest.raises(ValueError, match="cycles must be an integer from 1 to 1000"):
        dilation_cycles(cycles, 2)
    with pytest.raises(ValueError, match="layers_per_cycle must be an integer from 1 to 1000"):
        dilation_cycles(2, cycles)


@pytest.mark.parametrize("kind", [CausalConv1d, CentredConv1d])
def test_channels_that_are_none_are_refused(kind: type[CausalConv1d]) -> None:
    with pytest.raises(
        ValueError, match=rf"{kind.__name__} got out_channels=-1; it must be an int"
    ):
        kind(3, -1, 3)
    with pytest.raises(ValueError, match="got in_channels=0"):
        kind(0, 3, 3)


@pytest.mark.parametrize("taps", [64, 65, 300])
def test_very_many_taps_are_the_same_sum(taps: int) -> None:
    conv = CausalConv1d(3, 4, taps, dilation=2, dtype=F64)
    x = features(2, 3, 50)
    padded = F.pad(x, (conv.history, 0))
    assert_close(conv(x), F.conv1d(padded, conv.weight, conv.bias, dilation=2))
    (made,), _ = in_pieces(conv.step, x, conv.init_state(2), [20, 30])
    assert_close(made, conv(x))


def test_channels_of_a_film_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="FiLM got channels=-1"):
        FiLM(2, -1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 1, 2**40), r"channels and kernel_size make 1,099,511,627,776 weights"),
        (
            (1, 1, 2, 1, None, 2**31),
            r"make 2,147,483,648 samples of history, but at most 16,777,216",
        ),
        ((2**20, 2**20, 1), r"channels and kernel_size make 1,099,511,627,776 weights"),
    ],
)
def test_more_than_any_machine_has_is_refused_at_once(sizes: tuple[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalConv1d(*sizes)


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (2, 3, 5)])
def test_a_gate_without_two_halves_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Gated takes \(batch, 2 \* channels, time\)"):
        Gated()(torch.zeros(shape))
