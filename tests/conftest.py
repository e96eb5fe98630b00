"""What the tests of the core share: tolerances, settings of torch, small awkward models.

Knows nothing of any one module.

Shapes: B batch, C channels, T time, Q classes.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from wavenet import Condition, Sampling, WaveNet
from wavenet.engines import Engine, EngineState
from wavenet.testing import TOLERANCE

LOGITS = 2.0  # standard deviation of a small model's logits
Interpreter = Callable[..., Any]  # of the fixture `interpreter`
LABELS = {"digit": ["0", "1", "2"], "speaker": ["ann", "bob"]}


WORKER = "PYTEST_XDIST_WORKER"  # set in the processes that pytest-xdist starts
MOST_PROCESSES = 8  # of the suite; each imports torch and Lightning anew


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in a process a core, where pytest-xdist is installed; -n 0: in one."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    on_gpu = "not gpu" not in config.option.markexpr  # which processes would share
    asked = config.getoption("numprocesses", default=0)  # 0: without pytest-xdist
    if whole and not on_gpu and asked is None and WORKER not in os.environ:
        config.option.numprocesses, config.option.dist = "logical", "worksteal"
        config.option.maxprocesses = config.option.maxprocesses or MOST_PROCESSES


@pytest.fixture(autouse=True, scope="session")
def _libraries_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled libraries go to a folder of the session: none of an earlier run is tested."""
    if "WAVENET_CACHE" in os.environ:
        yield
        return
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if WORKER in os.environ else folder  # by all processes of the session
    os.environ["WAVENET_CACHE"] = str(shared / "libraries")
    yield
    del os.environ["WAVENET_CACHE"]


@pytest.fixture(autouse=True)
def _reproducible_torch() -> Iterator[None]:
    """Fixed seed, one thread (small tensors gain nothing from more), and no TF32 on any device."""
    threads, tf32 = (
        torch.get_num_threads(),
        (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    """Calls a test's function in a process where Triton interprets.

    The variable counts only before triton is first imported.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        patch.setenv("TRITON_INTERPRET", "1")
        assert process.submit(_start_interpreting).result()
        patch.undo()
        yield lambda function, *args: process.submit(function, *args).result()


def _start_interpreting() -> bool:
    from wavenet.triton_common import INTERPRETED

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # memory that no kernel has written is NaN
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return INTERPRETED and bool(torch.empty(3).isnan().all())


WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]  # what a torch was built for


def plant_gpus(patch: pytest.MonkeyPatch, *gpus: tuple[str, tuple[int, int]]) -> None:
    """From now on torch says that there are these GPUs: name and compute capability of each."""

    def index(device: Any = None) -> int:
        return (
            0 if device is None else (torch.device("cuda", device) if isinstance(device, int)
            else torch.device(device)).index or 0
        )  # fmt: skip

    found = {
        "is_available": lambda: bool(gpus),
        "device_count": lambda: len(gpus),
        "get_device_name": lambda device=None: gpus[index(device)][0],
        "get_device_properties": lambda device=None: SimpleNamespace(multi_processor_count=132),
        "get_device_capability": lambda device=None: gpus[index(device)][1],
        "get_arch_list": lambda: WHEEL,
        "is_bf16_supported": lambda *_, **__: True,  # it counts emulation
    }
    for name, function in found.items():
        patch.setattr(torch.cuda, name, function)


T4, RTX2080 = ("Tesla T4", (7, 5)), ("NVIDIA GeForce RTX 2080", (7, 5))
A100, H100 = ("NVIDIA A100", (8, 0)), ("NVIDIA H100", (9, 0))
V100, GTX1080 = ("Tesla V100", (7, 0)), ("NVIDIA GeForce GTX 1080", (6, 1))


def assert_close(actual: Tensor, expected: Tensor, where: object = "") -> None:
    """Same shape and dtype, and equal within the dtype's tolerance."""
    assert actual.shape == expected.shape, (
        f"{where}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    assert actual.dtype == expected.dtype, f"{where}: {actual.dtype}, expected {expected.dtype}"
    if not expected.numel():
        return
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((actual.detach() - expected.detach()).abs().max())
    assert error <= TOLERANCE[expected.dtype] * scale, (
        f"{where}: error {error:.2e} at values up to {scale:.2g}"
    )


def small_model(
    seed: int = 0, dtype: torch.dtype = torch.float64, codes: int = 256, **settings: Any
) -> WaveNet:
    """A model of odd sizes, with large weights: a code depends on all of the receptive field.

    The logits are scaled to a deviation of LOGITS: codes drawn from them are neither noise nor
    always the same.
    """
    sizes = {
        "cycles": 2,
        "layers_per_cycle": 3,
        "kernel_size": 2,
        "sample_rate": 8000,
        "residual_scale": 0.8,
    }
    channels = {
        "residual_channels": 5,
        "gate_channels": 7,
        "skip_channels": 17,
        "head_channels": 11,
    }
    model = WaveNet(**{**sizes, **channels, "condition_channels": 3, **settings}).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            fan_in = 3 if "embedding" in name else max(1, parameter[0].numel())
            parameter.copy_(0.3 * values if parameter.dim() == 1 else 1.7 * values / fan_in**0.5)
        labels = {
            name: torch.arange(8) % len(categories) for name, categories in model.labels.items()
        }
        logits = model(
            some_codes(8, 64) % codes, labels, some_mel(model, 8, 64), model.beginning(8, 64)
        )
        for parameter in model.head[3].parameters():
            parameter.mul_(LOGITS / logits.std())
    return model.to(dtype).eval()


def some_mel(model: WaveNet, batch_size: int, time: int) -> Tensor | None:
    """Log mel frames from silence up to a magnitude of 1; None for a model without mel."""
    if model.mel is None:
        return None
    shape = (batch_size, model.mel.bands, model.mel.frames_of(time))
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) * model.mel.silence


def some_labels(batch_size: int) -> dict[str, Tensor]:
    """Ids for LABELS that differ between neighbouring streams."""
    streams = torch.arange(batch_size)
    return {"digit": streams % 3, "speaker": (streams + 1) % 2}


class Steered:
    """An engine, and a condition that holds for ever: what most tests want of one."""

    def __init__(self, engine: Any, condition: Condition | None = None) -> None:
        self.engine, self.condition = engine, condition

    @property
    def state(self) -> EngineState:
        return self.engine.state

    @state.setter
    def state(self, state: EngineState) -> None:
        self.engine.state = state

    def prime(self, samples: Tensor) -> Tensor:
        return self.engine.prime(samples, self.condition)

    def teacher_forced(self, samples: Tensor) -> Tensor:
        return self.engine.teacher_forced(samples, self.condition)

    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        return self.engine.sample(uniforms, sampling, self.condition)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def steered(engine: Engine, model: WaveNet, batch_size: int) -> Steered:
    """The engine, steered by `some_labels` where the model has labels."""
    if not model.labels:
        return Steered(engine)
    device = next(model.parameters()).device
    labels = {name: ids.to(device) for name, ids in some_labels(batch_size).items()}
    with torch.no_grad():
        return Steered(engine, model.condition(labels))


def some_codes(batch_size: int, time: int, seed: int = 1) -> Tensor:
    return torch.randint(256, (batch_size, time), generator=torch.Generator().manual_seed(seed))


def some_uniforms(batch_size: int, time: int, seed: int = 2) -> Tensor:
    return torch.rand(batch_size, time, generator=torch.Generator().manual_seed(seed))


def shifted(model: WaveNet, codes: Tensor) -> Tensor:
    """What the model reads when it predicts `codes`: silence, then all but the last."""
    return torch.cat([codes.new_full((len(codes), 1), model.codec.silence), codes[:, :-1]], dim=1)
