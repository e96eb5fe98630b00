"""Properties of a model on a GPU that is not the first: what is launched there is launched there.

On the CPU, by stubs: torch.cuda.device notes which GPU is the current one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from conftest import Interpreter, small_model, some_uniforms

from wavenet import Sampling
from wavenet.engines import build_engine, take_apart
from wavenet.training.kernels import Launch

SECOND = torch.device("cuda:1")


class Current:
    """The current GPU, as torch.cuda.device sets it for a while."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.device = torch.device("cuda:0")
        patch.setattr(torch.cuda, "device", self.for_a_while)

    @contextmanager
    def for_a_while(self, device: Any) -> Iterator[None]:
        before, self.device = self.device, torch.device(device)
        yield
        self.device = before


class Kernel:
    """A Triton kernel that notes where it is launched."""

    arg_names = ()

    def __init__(self, current: Current) -> None:
        self.current, self.seen = current, []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *_, **__: self.seen.append(self.current.device)


def test_kernels_of_training_are_launched_on_the_gpu_of_their_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel(Current(monkeypatch))
    Launch((1, 1), (), {}, 4, SECOND).run(kernel)
    assert kernel.seen == [SECOND]
    Launch((1, 1), (), {}, 4, torch.device("cpu")).run(kernel)
    assert kernel.seen == [SECOND, torch.device("cuda:0")]


def assert_the_engine_launches_there() -> None:
    import wavenet.engines.triton.engine as module

    model = small_model(dtype=torch.float32, cycles=1, layers_per_cycle=1)
    engine = module.TritonEngine(take_apart(model), 1, torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        current = Current(patch)
        kernel = Kernel(current)
        patch.setattr(module, "run_streams", kernel)
        engine._device = SECOND
        engine._launch(3, Sampling(), None, samples=torch.zeros(3, 1, dtype=torch.int32))
    assert kernel.seen == [SECOND]


def test_the_sampling_kernel_is_launched_on_the_gpu_of_its_model(interpreter: Interpreter) -> None:
    interpreter(assert_the_engine_launches_there)


class Graph:
    """What torch.cuda.graph and its streams do, but for the work: they note the current GPU."""

    def __init__(self, current: Current, patch: pytest.MonkeyPatch) -> None:
        self.current, self.captured, self.modes = current, [], []
        stream = type("Stream", (), {"wait_stream": lambda *_: None})
        patch.setattr(torch.cuda, "Stream", lambda *_: stream())
        patch.setattr(torch.cuda, "current_stream", lambda *_: stream())
        patch.setattr(torch.cuda, "stream", lambda *_: nullcontext())
        patch.setattr(torch.cuda, "CUDAGraph", lambda: type("Made", (), {"replay": None})())
        patch.setattr(torch.cuda, "graph", self.capture)

    @contextmanager
    def capture(self, graph: Any, capture_error_mode: str = "global") -> Iterator[None]:
        self.captured.append(self.current.device)
        self.modes.append(capture_error_mode)
        yield


def test_a_step_is_captured_on_the_gpu_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured on another one, the graph is empty, and its replays draw nothing."""
    model, uniforms = small_model(), some_uniforms(2, 4)
    engine: Any = build_engine(model, 2, engine="cached", precision="float64")
    engine.sample(uniforms, Sampling())
    engine._device = SECOND
    graph = Graph(Current(monkeypatch), monkeypatch)
    with torch.inference_mode():
        engine._inputs = engine._make_inputs(uniforms[..., None])
        engine._inputs.keep(engine._before_gate(None, 2), [0])
        engine._capture(Sampling())
    assert graph.captured == [SECOND]


def test_other_threads_may_use_the_gpu_while_a_step_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loader that pins memory would end the capture, and the run with it."""
    model, uniforms = small_model(), some_uniforms(2, 4)
    engine: Any = build_engine(model, 2, engine="cached", precision="float64")
    graph = Graph(Current(monkeypatch), monkeypatch)
    with torch.inference_mode():
        engine._inputs = engine._make_inputs(uniforms[..., None])
        engine._inputs.keep(engine._before_gate(None, 2), [0])
        engine._capture(Sampling())
    assert graph.modes == ["thread_local"]
