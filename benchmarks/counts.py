"""What the GPU code takes of a GPU, counted without one.

    python benchmarks/counts.py [--config reference] [--only kernels step waits] [--out FOLDER]

- kernels: every Triton kernel, compiled for compute capabilities 8.0 and 9.0: registers and
  spilled bytes of a thread, shared memory of a block, barriers in the text of a layer and of a
  whole step.
- step: the training step in bfloat16 as torch.compile writes it for an H100, plain and with fused
  blocks: launches, Python operators, and the bytes that they read and write a sample. The step is
  traced on the CPU, its graphs are said to be on a GPU, and inductor is asked for its code, which
  is read and not run. What the fused operators launch is counted by running them on tensors without
  values. Clipping, AdamW and the averaged weights are counted operator by operator.
- waits: how often a step of Lightning's, one that logs nothing, asks for the value of a tensor. On
  a GPU the host would wait each time.

Bytes count each tensor once for every kernel that reads or writes it, as if no cache helped, the
weights too. Counts, not speeds: `benchmarks/gpu.py` measures. Prints a table and a JSON line; with
--out, writes counts.json.
"""

import argparse
import copy
import json
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
import triton
from generation import network
from torch import Tensor, nn
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import compile_fx, scheduler
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering
from torch._library.custom_ops import OPDEFS
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from training import RandomAudio
from triton.backends.compiler import GPUTarget

from wavenet import WaveNet
from wavenet.engines.triton.engine import resources as of_sampling
from wavenet.training import kernels, module
from wavenet.training.callbacks import WeightAverage
from wavenet.training.module import LitWaveNet, training_loss
from wavenet.triton_common import Resources

F32, BF16 = torch.float32, torch.bfloat16
NAMES = {F32: "float32", BF16: "bfloat16"}
CAPABILITIES = (80, 90)
TILES = (1, 16, 32, 64)
CUDA = torch.device("cuda", 0)
H100 = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=80 * 2**30,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10,
    L2_cache_size=50 * 2**20,
)
# Of a launched kernel: what hands on a pointer, or memory that is not written, launches nothing.
FREE = (
    *("empty", "new_empty", "empty_like", "empty_strided", "detach", "lift_fresh", "alias"),
    *("device", "promote_types", "_unsafe_view"),
)


# --- Kernels ---


def kernel_rows(config: str) -> Iterator[dict[str, Any]]:
    model = network(config).eval()
    for capability in CAPABILITIES:
        for dtype in (BF16, F32):
            about = {"capability": capability, "dtype": NAMES[dtype]}
            for tile in TILES:
                found = of_sampling(model, tile, tile, dtype, capability)
                layer = next(loop.barriers for loop in found.loops if loop.depth == 2)
                yield {
                    **_taken(found, f"sampling, tile of {tile}"),
                    **about,
                    "barriers_a_layer": layer,
                    "barriers": found.loops[0].barriers,
                }
            settings = model.config.settings()
            sizes = (settings[f"{name}_channels"] for name in ("residual", "gate"))
            for found in kernels.resources(*sizes, settings["kernel_size"], dtype, capability):
                layer = sum(loop.barriers for loop in found.loops if loop.depth == 1)
                yield {
                    **_taken(found, f"training, {found.kernel}"),
                    **about,
                    "barriers_a_layer": layer,
                    "barriers": layer,
                }


def _taken(found: Resources, name: str) -> dict[str, Any]:
    counts = {name: getattr(found, name) for name in ("registers", "spilled", "shared")}
    return {"kernel": name, **counts}


def show_kernel(row: dict[str, Any]) -> None:
    print(
        "sm_{capability} {dtype:<8} {kernel:<33} {registers:>4} registers {spilled:>5} spilled "
        "{shared:>7} shared {barriers_a_layer:>3} barriers a layer {barriers:>4} in a step".format(
            **row
        ),
        flush=True,
    )


# --- The training step ---


class Counted(TorchDispatchMode):
    """Counts the operators that would launch something, and the bytes that they touch."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes = Counter[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        fused = name.startswith("_fused_")  # has no meaning without values
        found = None if fused else func(*args, **(kwargs or {}))
        if not func.is_view and name not in FREE:
            self.note(name, (args, kwargs, found))
        return found

    def note(self, name: str, tensors: Any) -> None:
        self.launches[name] += 1
        self.bytes += sum(map(_bytes, tree_leaves(tensors)))


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def step_row(config: str, batch: int, width: int, fused: bool) -> dict[str, Any]:
    """Of a whole step: the loss and its gradients, compiled, and what Lightning does behind it."""
    model, mode = network(config).train(), FakeTensorMode(allow_non_fake_inputs=True)
    after = behind_the_gradients(model)
    inside, total, code = Counted(), Counter[str](), list[str]()
    with (
        patch.object(kernels, "INTERPRETED", True),  # it is on the CPU that the step is traced
        patch.object(kernels, "_product", lambda a, b: a @ b),  # on a GPU one launch, too
    ):
        if fused:
            kernels.fuse(model)
        for part in model.modules():
            for name, weight in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(mode.from_tensor(weight.detach())))
        given = [torch.zeros(batch, width + 1, dtype=torch.uint8), torch.zeros(batch, 2).long()]
        with _written_for_a_gpu(code, total, inside), mode, torch.autocast("cpu", BF16):
            training_loss_of = torch.compile(training_loss, backend=_backend)
            training_loss_of(model, *map(mode.from_tensor, given), {})
    triton_runs = _lines(code, r"\.run\(")
    products = _lines(code, r"extern_kernels\.\w+\(")
    operators = _lines(code, r"= torch\.ops\.wavenet\.")
    launches = triton_runs + products + inside.launches.total() + after.launches.total()
    moved = total["bytes"] + inside.bytes + after.bytes
    return {
        "way": "torch.compile, fused blocks" if fused else "torch.compile",
        "launches": launches,
        "generated_kernels": triton_runs,
        "products": products,
        "of_fused_operators": inside.launches.total(),
        "of_optimiser": after.launches.total(),
        "python_operators": operators,
        "bytes_a_sample": round(moved / (batch * width)),
        "optimiser": dict(after.launches),
        "fused": dict(inside.launches),
    }


def _lines(code: Sequence[str], pattern: str) -> int:
    """In how many lines of code it is found, but for comments."""
    lines = (line.strip() for text in code for line in text.splitlines())
    return sum(bool(re.search(pattern, line)) and not line.startswith("#") for line in lines)


def behind_the_gradients(model: WaveNet) -> Counted:
    """Clipping, fused AdamW and the average of the weights, on tensors that say they are CUDA's."""
    mode, counted = FakeTensorMode(), Counted()

    def like_weights() -> list[Tensor]:
        return [_there(mode, weight) for weight in model.parameters()]

    weights = [nn.Parameter(weight) for weight in like_weights()]
    for weight, gradient in zip(weights, like_weights(), strict=True):
        weight.grad = gradient
    steps = [_there(mode, torch.zeros(())) for _ in weights]
    settings = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "eps": 1e-8}
    no_context = patch.object(fake_tensor, "init_gpu_context", lambda device: None)
    with no_context, mode, counted, torch.no_grad():
        nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)  # as for tensors that are real
        torch._foreach_add_(steps, 1)
        state = ([weight.grad for weight in weights], like_weights(), like_weights(), [], steps)
        torch._fused_adamw_(weights, *state, amsgrad=False, maximize=False, **settings)
        torch._foreach_lerp_(like_weights(), weights, 0.001)
    return counted


def _there(mode: FakeTensorMode, x: Tensor) -> Tensor:
    """A tensor like x without values that says that it is on a GPU."""
    like = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return FakeTensor(mode, like, CUDA)


class _Read(Exception):
    """Inductor has written its code: more is not asked of it."""


def _backend(graph: Any, inputs: Any) -> Any:
    return compile_fx.compile_fx(graph, inputs, inner_compile=_written)


def _written(graph: Any, inputs: Any, **about: Any) -> Callable[..., Any]:
    """As `compile_fx_inner`, but for a GPU, and what comes out computes as the graph says."""
    moved = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
    moved.meta = dict(graph.meta)
    for node in moved.graph.nodes:
        node.meta = {
            name: tree_map(_moved, value) if name in ("val", "example_value") else value
            for name, value in node.meta.items()
        }
        node.kwargs = {name: _moved(value) for name, value in node.kwargs.items()}
    moved.recompile()
    _WRITES[-1](graph)
    try:
        compile_fx.compile_fx_inner(moved, [_moved(value) for value in inputs], **about)
    except Exception as error:
        if _Read.__name__ not in repr(error):
            raise
    return graph.forward


_WRITES: list[Callable[[Any], None]] = []  # what is done with a graph before it is written


def _moved(value: Any) -> Any:
    if isinstance(value, FakeTensor):
        return _there(value.fake_mode, value)
    return CUDA if isinstance(value, torch.device) else value


@contextmanager
def _written_for_a_gpu(code: list[str], total: Counter[str], inside: Counted) -> Iterator[None]:
    """Inside, a compiled graph's code is added to `code`, its bytes to `total`."""

    def written(lowering: GraphLowering) -> Any:
        code.append(lowering.codegen()[0].value)
        for node in lowering.scheduler.nodes:
            if "wavenet" not in str(getattr(node.node, "op_overload", "")):
                total["bytes"] += node.get_read_write_buffers_sizes()
        raise _Read

    def run_operators(graph: Any) -> None:
        for node in graph.graph.nodes:
            if str(node.target).startswith("wavenet."):
                name = str(node.target).removesuffix(".default").replace(".", "::", 1)
                given = tree_map(
                    lambda x: x.meta["val"] if isinstance(x, torch.fx.Node) else x, node.args
                )
                with inside:
                    OPDEFS[name]._init_fn(*given)

    def launched(launch: Any, kernel: Any) -> None:
        inside.note(kernel.__name__, launch.arguments)

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0
    )
    state = torch.zeros(16, dtype=torch.uint8)
    planted: list[tuple[Any, str, Any]] = [
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_properties", lambda device=None: H100),
        (torch.cuda, "get_device_capability", lambda device=None: (H100.major, H100.minor)),
        (torch.cuda, "get_rng_state", lambda *_: state),
        (torch.cuda, "set_rng_state", lambda *_, **__: None),
        (torch.cuda, "_exchange_device", lambda index: 0),
        (torch.cuda, "_maybe_exchange_device", lambda index: 0),
        (CudaInterface, "is_available", staticmethod(lambda: True)),
        (CudaInterface, "current_device", staticmethod(lambda: 0)),
        (CudaInterface, "get_device_properties", staticmethod(lambda device=None: H100)),
        (CudaInterface, "get_compute_capability", staticmethod(lambda device=None: 90)),
        (scheduler, "has_triton", lambda: True),
        (fake_tensor, "init_gpu_context", lambda device: None),
    ]
    inner = compile_fx.compile_fx_inner

    def with_a_gpu(*given: Any, **about: Any) -> Any:
        with ExitStack() as stack:
            for owner, name, value in planted:
                stack.enter_context(patch.object(owner, name, value))
            return inner(*given, **about)

    before = triton.runtime.driver._active if hasattr(triton.runtime.driver, "_active") else None
    triton.runtime.driver.set_active(driver)
    _WRITES.append(run_operators)
    try:
        with (
            patch.object(compile_fx, "compile_fx_inner", with_a_gpu),
            patch.object(GraphLowering, "compile_to_module", written),
            patch.object(kernels.Launch, "run", launched),
            inductor.patch(fx_graph_cache=False),
            torch._functorch.config.patch(
                enable_autograd_cache=False, force_non_lazy_backward_lowering=True
            ),
        ):
            torch.compiler.reset()
            yield
    finally:
        _WRITES.pop()
        triton.runtime.driver._active = before


def show_step(row: dict[str, Any]) -> None:
    print(
        "{way:<28} {launches:>4} launches ({generated_kernels} generated, {products} products, "
        "{of_fused_operators} of fused operators, {of_optimiser} behind the gradients), "
        "{python_operators} Python operators, {bytes_a_sample:,} bytes a sample".format(**row),
        flush=True,
    )


# --- Waits ---


class Asked(TorchDispatchMode):
    """Notes where in our files, or else in whose, a tensor's value is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            stack = [frame for frame in traceback.extract_stack() if __file__ != frame.filename]
            ours = [frame for frame in stack if "/wavenet/" in frame.filename]
            frame = (ours or stack)[-1]
            self.places.append(f"{Path(frame.filename).name}: {frame.line}")
        return func(*args, **(kwargs or {}))


class EachStep(pl.Callback):
    def __init__(self, asked: Asked) -> None:
        self.asked, self.steps = asked, list[list[str]]()

    def on_train_batch_start(self, *_: Any) -> None:
        self.steps.append(self.asked.places)
        self.asked.places = []


def waits_row() -> dict[str, Any]:
    """Of a step in the middle of a run with averaged weights and clipping, as train.py has them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    sizes = {"cycles": 1, "layers_per_cycle": 2, "residual_channels": 8, "gate_channels": 8}
    lit = LitWaveNet(**sizes, skip_channels=8, warmup_steps=1)
    asked = Asked()
    steps = EachStep(asked)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[steps, WeightAverage(0.999)],
        max_steps=8,
        gradient_clip_val=1.0,
        log_every_n_steps=50,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with patch.dict(module.LOOK_EVERY, {"cpu": module.LOOK_EVERY["cuda"]}), asked:
        trainer.fit(lit, RandomAudio(2, 64, 16000))
    middle = steps.steps[5]
    return {"waits": len(middle), "where": middle}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the GPU code takes, counted without a GPU.")
    parser.add_argument("--config", default="reference")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=16384)
    parts = ("kernels", "step", "waits")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--out", type=Path, help="folder for counts.json")
    args = parser.parse_args()
    found: dict[str, Any] = {"benchmark": "counts", "config": args.config}
    found |= {"torch": torch.__version__, "triton": triton.__version__}
    if "step" in args.only:
        found["step"] = []
        for fused in (True, False):
            found["step"].append(step_row(args.config, args.batch, args.width, fused))
            show_step(found["step"][-1])
    if "waits" in args.only:
        found["waits"] = waits_row()
        print("{waits} waits for the device in a step".format(**found["waits"]))
        print(*(f"    {place}" for place in found["waits"]["where"]), sep="\n")
    if "kernels" in args.only:
        found["kernels"] = []
        for row in kernel_rows(args.config):
            found["kernels"].append(row)
            show_kernel(row)
    print(json.dumps(found))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "counts.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
