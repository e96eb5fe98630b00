"""Properties of `wavenet.training.kernels`: the fused block is the plain one, compiled or not.

In values and gradients. The kernels run on the CPU in Triton's interpreter, in a process of their
own; the tests marked `gpu` run the real ones.
"""

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from conftest import LABELS, Interpreter, assert_close, small_model, some_codes, some_labels
from tiny_runs import module, network, trainer, write_corpus
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from wavenet import Block, CausalConv1d, FiLM, Gated, ResidualBlock, Stack, WaveNet
from wavenet.training.kernels import _delayed_product, fuse, fused_units, residual_units, resources
from wavenet.training.module import training_loss

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
SHARED_LIMIT = {
    80: 163 * 1024,
    90: 227 * 1024,
}  # bytes of shared memory a block may have, CUDA programming guide


class Case(NamedTuple):
    """A block and its input. In float64 a tile has 64 times, and a product up to 16 channels."""

    channels: int
    gates: int
    kernel_size: int
    dilation: int
    batch: int
    time: int
    scale: float = 1.0


CASES = {
    "one-past-a-tile": Case(5, 7, 2, 3, 1, 65, 0.8),
    "one-tap": Case(17, 5, 1, 1, 3, 33),
    "one-sample": Case(33, 5, 2, 4, 3, 1, 0.8),
    "dilation-beyond-the-clip": Case(5, 17, 3, 40, 3, 33),
    "dilation-of-the-clip": Case(4, 3, 2, 12, 2, 12, 0.8),
    "several-products": Case(33, 17, 3, 7, 2, 70, 0.8),
    "whole-tiles": Case(16, 16, 2, 64, 2, 128),
}


def features(*shape: int, dtype: torch.dtype = F64, seed: int = 0, device: str = "cpu") -> Tensor:
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
        .to(dtype)
        .to(device)
    )


def blocks(case: Case, condition_time: int, last: bool, dtype: torch.dtype) -> tuple[Stack, Stack]:
    """A stack of one plain block in float64, and of the fused one with the same weights."""
    torch.manual_seed(0)
    sizes = (
        case.channels,
        case.gates,
        6,
        case.kernel_size,
        case.dilation,
        3 if condition_time else 0,
        case.scale,
        last,
    )
    plain = Stack([ResidualBlock(*sizes)]).to(dtype)
    fused = copy.deepcopy(plain)
    fuse(fused)
    return plain.double(), fused


def outputs_and_gradients(
    block: nn.Module, x: Tensor, condition: Tensor | None
) -> dict[str, Tensor]:
    """By name: both outputs of a block, and the gradients of all that goes in.

    The gradients are of a sum of the outputs with random weights.
    """
    inputs = {"x": x, **({} if condition is None else {"condition": condition})}
    inputs = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    residual, skip = block(*inputs.values())
    loss = sum((y * features(*y.shape, seed=7).to(y)).sum() for y in (residual, skip))
    leaves = {**inputs, **dict(block.named_parameters())}
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {"residual": residual, "skip": skip, **dict(zip(leaves, gradients, strict=True))}


def assert_fused_is_plain(
    case: Case, condition_time: int, dtype: torch.dtype, device: str = "cpu"
) -> None:
    for last in (False, True):
        plain, fused = (block.to(device) for block in blocks(case, condition_time, last, dtype))
        x = features(case.batch, case.channels, case.time, dtype=dtype, device=device)
        shape = (case.batch, 3, condition_time)
        condition = features(*shape, dtype=dtype, seed=1, device=device) if condition_time else None
        expected = outputs_and_gradients(
            plain, x.double(), None if condition is None else condition.double()
        )
        for name, actual in outputs_and_gradients(fused, x, condition).items():
            assert_close(
                actual, expected[name].to(dtype), f"{name} {'of the last block' if last else ''}"
            )


# The block


@pytest.mark.parametrize("condition", ["none", "whole-clip", "over-time"])
@pytest.mark.parametrize("case", CASES)
def test_fused_values_and_gradients_are_those_of_autograd(
    interpreter: Interpreter, case: str, condition: str
) -> None:
    condition_time = {"none": 0, "whole-clip": 1, "over-time": CASES[case].time}[condition]
    interpreter(assert_fused_is_plain, CASES[case], condition_time, F64)


@pytest.mark.parametrize("case", ["one-past-a-tile", "several-products"])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_fused_values_and_gradients_in_lower_precision(
    interpreter: Interpreter, case: str, dtype: torch.dtype
) -> None:
    interpreter(assert_fused_is_plain, CASES[case], 1, dtype)


def assert_fused_stack_is_plain(condition_time: int, last: bool, read: str) -> None:
    """Three blocks, of which the outputs named in `read` have a loss."""
    torch.manual_seed(0)
    plain = Stack(
        [
            ResidualBlock(17, 5, 6, 2, dilation, 3 if condition_time else 0, 0.8, last and not left)
            for dilation, left in ((1, 2), (40, 1), (3, 0))
        ]
    ).double()
    fused = copy.deepcopy(plain)
    fuse(fused)
    x, given = features(2, 17, 35).requires_grad_(), []
    if condition_time:
        given = [features(2, 3, condition_time, seed=1).requires_grad_()]
    results = []
    for stack in (plain, fused):
        outputs = dict(zip(("residual", "skips"), stack(x, *given), strict=True))
        loss = sum((outputs[name] * features(*outputs[name].shape, seed=7)).sum() for name in read)
        leaves = {
            "x": x,
            **dict(zip(["condition"], given, strict=False)),
            **dict(stack.named_parameters()),
        }
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        zeros = [torch.zeros_like(leaf) for leaf in leaves.values()]
        pairs = zip(gradients, zeros, strict=True)
        found = [zero if gradient is None else gradient for gradient, zero in pairs]
        results.append({**outputs, **dict(zip(leaves, found, strict=True))})
    for name, value in results[1].items():
        assert_close(value, results[0][name], name)
    for name, _ in fused.named_parameters():
        as_the_weight_is = results[1][name].is_contiguous()
        assert as_the_weight_is or "skip" in name, f"autograd would copy the gradient of {name}"


@pytest.mark.parametrize("read", [["residual", "skips"], ["skips"], ["residual"]], ids="-".join)
@pytest.mark.parametrize("last", [False, True], ids=["goes on", "last"])
@pytest.mark.parametrize("condition_time", [0, 1, 35], ids=["none", "whole-clip", "over-time"])
def test_fused_stacks_are_plain_ones_whichever_output_is_read(
    interpreter: Interpreter, condition_time: int, last: bool, read: list[str]
) -> None:
    interpreter(assert_fused_stack_is_plain, condition_time, last, read)


def assert_chained_as_plain() -> None:
    """A stack whose skips are no products, and that gets the skips of another."""
    torch.manual_seed(0)
    blocks = [ResidualBlock(5, 7, 7, dilation=dilation) for dilation in (1, 2)]
    for block in blocks:
        block.skip = nn.Identity()
    plain = Stack(blocks).double()
    fused = copy.deepcopy(plain)
    fuse(fused)
    x, skips = features(2, 5, 20), features(2, 7, 20, seed=1)
    for found, expected in zip(fused(x, None, skips), plain(x, None, skips), strict=True):
        assert_close(found, expected)


def test_fused_stacks_collect_skips_that_are_no_products(interpreter: Interpreter) -> None:
    interpreter(assert_chained_as_plain)


def _computed_in_autocast(fused: bool) -> dict[str, Tensor]:
    plain, block = blocks(CASES["several-products"], 1, False, F32)
    with torch.autocast("cpu", BF16):
        x, h = features(2, 33, 70, dtype=BF16), features(2, 3, 1, dtype=F32, seed=1)
        return outputs_and_gradients(block if fused else plain.float(), x, h)


def assert_fused_autocasts() -> None:
    expected = _computed_in_autocast(False)
    for name, actual in _computed_in_autocast(True).items():
        assert actual.dtype == expected[name].dtype, name
        assert_close(actual.to(BF16), expected[name].to(BF16), name)


def test_under_autocast_products_are_in_bfloat16_and_weights_have_float32_gradients(
    interpreter: Interpreter,
) -> None:
    expected = _computed_in_autocast(False)
    assert expected["residual"].dtype == BF16 and expected["blocks.0.dilated.weight"].dtype == F32
    interpreter(assert_fused_autocasts)


def assert_operator_is_sound() -> None:
    sizes = {
        "x": (2, 9, 5),
        "taps": (2, 2, 5, 6),
        "bias": (2, 6),
        "condition": (2, 1, 12),
        "mix": (2, 3, 5),
        "mix_bias": (2, 5),
    }
    inputs = [features(*size).requires_grad_() for size in sizes.values()]
    one = [inputs[0], *(features(1, *x.shape[1:]).requires_grad_() for x in inputs[1:3])]
    for arguments, dilations in ((inputs, [2, 4]), ([*one, None, None, None], [2])):
        torch.library.opcheck(
            residual_units, (*arguments, dilations, 0.8)
        )  # raises where a check fails


def test_the_operator_keeps_what_it_tells_torch_of_shapes_aliases_and_gradients(
    interpreter: Interpreter,
) -> None:
    interpreter(assert_operator_is_sound)


def assert_refused(
    condition_channels: int, shape: tuple[int, ...], condition: tuple[int, ...] | None
) -> None:
    block = Stack([ResidualBlock(5, 7, 6, condition_channels=condition_channels)])
    fuse(block)
    block(torch.zeros(shape), None if condition is None else torch.zeros(condition))


@pytest.mark.parametrize(
    ("condition_channels", "shape", "condition", "message"),
    [
        (0, (2, 9, 5), None, "looks like"),
        (0, (2, 5, 9), (2, 3, 1), "no conditioning"),
        (3, (2, 5, 9), None, "got none"),
        (3, (2, 5, 9), (2, 3, 5), r"\(batch, 3, 9 or 1\)"),
    ],
)
def test_a_fused_block_refuses_what_the_plain_one_refuses(
    interpreter: Interpreter,
    condition_channels: int,
    shape: tuple[int, ...],
    condition: Any,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        interpreter(assert_refused, condition_channels, shape, condition)


def test_fusing_changes_neither_names_nor_weights_and_is_copied_and_saved(tmp_path: Path) -> None:
    plain, codes = small_model(dtype=F32, labels=LABELS), some_codes(2, 12)
    fused = copy.deepcopy(plain)
    fuse(fused)
    again = copy.deepcopy(fused)
    assert all(model.stack.units is fused_units for model in (fused, again))
    assert plain.stack.units is not fused_units
    assert all(
        copied is not block
        for copied, block in zip(again.stack.blocks, fused.stack.blocks, strict=True)
    )
    assert plain.state_dict().keys() == again.state_dict().keys()
    again.save_pretrained(tmp_path)
    for model in (
        fused,
        again,
        WaveNet.from_pretrained(tmp_path),
    ):  # without a GPU, a fused block is the plain one
        assert torch.equal(model(codes, some_labels(2)), plain(codes, some_labels(2)))


def test_blocks_of_other_parts_are_refused_by_the_parts_name() -> None:
    skip = CausalConv1d(7, 6, 1)
    with pytest.raises(ValueError, match=r"gate is Gated, but block 0 has Tanh.*fused false"):
        fuse(Stack([Block(CausalConv1d(5, 7, 2), nn.Tanh(), skip)]))
    film = Block(CausalConv1d(5, 14, 2), Gated(), skip, steer=FiLM(3, 14))
    with pytest.raises(ValueError, match="steer is Added or Unconditional, but block 1 has FiLM"):
        fuse(Stack([ResidualBlock(5, 7, 6), film]))


@pytest.mark.parametrize(
    "other",
    [
        ResidualBlock(5, 8, 6),
        ResidualBlock(5, 7, 6, kernel_size=3),
        ResidualBlock(5, 7, 6, condition_channels=3),
        ResidualBlock(5, 7, 6, residual_scale=0.5),
        ResidualBlock(5, 7, 6, last=True),
    ],
)
def test_blocks_that_differ_are_refused_by_number(other: Block) -> None:
    alike = [ResidualBlock(5, 7, 6, dilation=dilation) for dilation in (1, 2)]
    fuse(Stack(alike))
    with pytest.raises(ValueError, match=r"block 1 differs from block 0.*fused false"):
        fuse(Stack([alike[0], other, alike[1]]))


def test_weight_gradients_in_bfloat16_are_summed_in_float32() -> None:
    """What reaches into the row before is large here, and taken off again."""
    batch, time, delay = 3, 40, 7
    x, dh = features(batch, time, 5, dtype=BF16), features(batch, time, 6, dtype=BF16, seed=1)
    x[:-1, time - delay :] *= 100
    dh[1:, :delay] *= 100
    found = _delayed_product(x, dh, delay)
    expected = _delayed_product(x.double(), dh.double(), delay)
    assert found.dtype == F32
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < 1e-3, error  # in bfloat16 the two large sums have that much error by themselves


def assert_gradients_keep_their_dtypes(dtype: torch.dtype) -> None:
    sizes = ((2, 9, 5), (2, 2, 5, 6), (2, 6), (2, 1, 12), (2, 3, 5), (2, 5))
    inputs = [features(*size, dtype=dtype).requires_grad_() for size in sizes]
    residual, _, z = residual_units(*inputs, [2, 4], 0.8)
    gradients = torch.autograd.grad(residual.sum() + z.sum(), inputs)
    assert [gradient.dtype for gradient in gradients] == [dtype] * len(inputs)


@pytest.mark.parametrize("dtype", [F64, F32, BF16])
def test_gradients_have_the_dtype_of_what_they_are_of(
    interpreter: Interpreter, dtype: torch.dtype
) -> None:
    interpreter(assert_gradients_keep_their_dtypes, dtype)


# The training step


class Kept(pl.Callback):
    """The last step's loss and gradients."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, lit: Any, optimizer: Any) -> None:
        self.gradients = {f"d {name}": value.grad.clone() for name, value in lit.named_parameters()}

    def on_train_batch_end(self, trainer: pl.Trainer, lit: Any, outputs: Any, *batch: Any) -> None:
        self.loss = outputs["loss"].detach()


def trained(
    corpus: Path, backend: str = "inductor", steps: int = 2, **settings: Any
) -> dict[str, Tensor]:
    """Loss, gradients and weights after two steps in float64.

    Two, since only the second starts from the optimiser's moments of the first.
    """
    torch.compiler.reset()
    kept, lit, compile_function = Kept(), network(**settings), torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch,
            "compile",
            lambda function: compile_function(function, backend=backend, fullgraph=True),
        )
        trainer(callbacks=[kept], max_steps=steps, precision="64-true", gradient_clip_val=1.0).fit(
            lit, module(corpus)
        )
    assert settings.get("fused", False) == (lit.network.stack.units is fused_units)
    return {"loss": kept.loss, **kept.gradients, **lit.network.state_dict()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def assert_same_training(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys() and len(actual) > 40
    for name, value in actual.items():
        assert_close(value, expected[name], name)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_training_step_is_the_plain_one(corpus: Path, backend: str) -> None:
    settings = {"position_hop": 16}
    assert_same_training(
        trained(corpus, backend, compile=True, **settings),
        trained(corpus, compile=False, **settings),
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_a_fused_training_step_is_the_plain_one(
    interpreter: Interpreter, corpus: Path, compiled: bool
) -> None:
    interpreter(assert_fused_trains_as_plain, corpus, compiled)


def assert_fused_trains_as_plain(corpus: Path, compiled: bool) -> None:
    settings = {"position_hop": 16} if compiled else {}
    actual = trained(corpus, backend="aot_eager", compile=compiled, fused=True, **settings)
    assert_same_training(actual, trained(corpus, compile=False, fused=False, **settings))


def assert_few_graphs(fused: bool, position_hop: int) -> None:
    """Batches of a few widths, as the data module makes them.

    The second width makes the width a variable of the compiled step; others compile nothing more.
    """
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = small_model(
        dtype=F32, labels=LABELS, cycles=1, layers_per_cycle=2, position_hop=position_hop
    ).train()
    position = torch.tensor([[0, 900], [70, 800]]) if position_hop else None
    if fused:
        fuse(model)
    compiled = torch.compile(training_loss, backend=counter, fullgraph=True)
    graphs = []
    for width in (256, 512, 256, 768, 512):
        scored = torch.tensor([[0, width], [20, width - 3]])
        with torch.autocast("cpu", BF16):
            loss = compiled(
                model, some_codes(2, width + 1).byte(), scored, some_labels(2), position
            )
        loss.backward()
        graphs.append(counter.frame_count)
    assert graphs == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("position_hop", [0, 16])
def test_a_step_compiles_without_a_graph_break_and_only_twice_for_all_widths(
    position_hop: int,
) -> None:
    assert_few_graphs(False, position_hop)


def test_a_fused_step_compiles_without_a_graph_break_and_only_twice_for_all_widths(
    interpreter: Interpreter,
) -> None:
    interpreter(assert_few_graphs, True, 16)


# What the kernels take of a GPU


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("channels", [32, 64, 128], ids=["default", "reference", "wide"])
def test_kernels_compile_for_gpus_that_are_not_here(channels: int, capability: int) -> None:
    for dtype in (BF16, F32):
        taken = resources(channels, channels, 2, dtype, capability)
        print(f"sm_{capability} {dtype}", *taken, sep="\n")
        assert len(taken) == 3
        for kernel in taken:
            assert 0 < kernel.registers <= 255 and 0 < kernel.shared <= SHARED_LIMIT[capability]
            assert kernel.spilled <= 64, kernel


# The real kernels

REAL = {
    "reference": Case(64, 64, 2, 512, 8, 5000),
    "wide": Case(128, 128, 2, 256, 2, 3001, math.sqrt(0.5)),
    "odd": Case(33, 17, 3, 100, 3, 1999, 0.8),
    **CASES,
}


@pytest.mark.gpu
@pytest.mark.parametrize("condition", ["none", "whole-clip", "over-time"])
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("case", REAL)
def test_fused_values_and_gradients_on_a_gpu(case: str, dtype: torch.dtype, condition: str) -> None:
    condition_time = {"none": 0, "whole-clip": 1, "over-time": REAL[case].time}[condition]
    assert_fused_is_plain(REAL[case], condition_time, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_fused_step_on_a_gpu_is_the_plain_one(dtype: torch.dtype, compiled: bool) -> None:
    torch.compiler.reset()
    plain = (
        small_model(dtype=F32, labels=LABELS, residual_channels=33, gate_channels=32).cuda().train()
    )
    fused = copy.deepcopy(plain)
    fuse(fused)
    labels = {name: ids.cuda() for name, ids in some_labels(3).items()}
    codes, scored = (
        some_codes(3, 1025).byte().cuda(),
        torch.tensor([[0, 1024], [20, 1000], [0, 7]], device="cuda"),
    )
    loss_function = torch.compile(training_loss, fullgraph=True) if compiled else training_loss
    results = []
    for model, function in ((plain, training_loss), (fused, loss_function)):
        with torch.autocast("cuda", dtype, enabled=dtype == BF16):
            loss = function(model, codes, scored, labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append(
            {"loss": loss, **dict(zip(dict(model.named_parameters()), gradients, strict=True))}
        )
    for name, actual in results[1].items():
        difference = float((actual - results[0][name]).norm() / results[0][name].norm())
        assert difference < (1e-4 if dtype == F32 else 0.05), f"{name}: {difference:.1e}"
