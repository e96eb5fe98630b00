"""Properties of failures: where a fast way fails, a slower one does the work and says why.

Each failure is planted by a stub, on the CPU.
"""

import logging
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import A100, GTX1080, RTX2080, T4, V100, plant_gpus, small_model, some_uniforms
from tiny_runs import arguments, module, network, train, trainer, write_corpus

import wavenet.engines
import wavenet.training.callbacks
from wavenet import ResidualBlock, Sampling, Stack
from wavenet.checkpoints import to_device
from wavenet.engines import ENGINES, FEW, EngineUnavailable, build_engine
from wavenet.engines.cached import CachedEngine
from wavenet.engines.native.engine import NativeEngine
from wavenet.engines.parts import Parts
from wavenet.engines.stepped import SteppedEngine
from wavenet.training.cli import accelerator_for

F32 = torch.float32
Stub = Callable[..., Any]

# What has been seen on machines with a GPU, and what Python itself may raise.
FAILURES = {
    "no C compiler": RuntimeError("Failed to find C compiler. Please specify via CC environment"),
    "no Python.h": subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c", "-lcuda"]),
    "no libcuda": AssertionError("libcuda.so cannot found!\nPossible files are located at []"),
    "ptxas": RuntimeError("PTXAS error: Internal Triton PTX codegen error\nptxas fatal"),
    "no key": KeyError("sm_120"),
    "no file": FileNotFoundError(2, "No such file or directory", "ptxas"),
}


def failing(error: BaseException) -> Stub:
    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]


# Engines


@pytest.mark.parametrize("failure", FAILURES)
def test_auto_takes_a_slower_engine_whatever_an_engine_raises_when_it_is_built(
    failure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    error = FAILURES[failure]
    monkeypatch.setitem(ENGINES, "native", lambda: failing(error))
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine = build_engine(small_model(dtype=F32), 1)
    assert isinstance(engine, CachedEngine)
    (said,) = warnings_of(caplog)
    assert said.startswith("engine: cached (") and said.endswith("float32, batch 1")
    assert type(error).__name__ in said and str(error).splitlines()[0] in said
    assert "\n" not in said


@pytest.mark.parametrize("failure", FAILURES)
def test_a_named_engine_that_cannot_be_built_says_why_and_what_to_do(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "native", lambda: failing(FAILURES[failure]))
    with pytest.raises(EngineUnavailable, match=r"engine=.auto. takes another") as raised:
        build_engine(small_model(dtype=F32), 1, engine="native")
    assert "The native engine cannot be built here" in str(raised.value)
    assert str(FAILURES[failure]).splitlines()[0] in str(raised.value)


def test_auto_leaves_an_engine_that_fails_its_own_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wavenet.engines.native.engine as native

    monkeypatch.setitem(native.TOLERANCE, F32, 0.0)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine = build_engine(small_model(dtype=F32), 1)
    assert isinstance(engine, CachedEngine)
    (said,) = warnings_of(caplog)
    assert "The native engine checked itself against model.forward and was off by" in said
    with pytest.raises(EngineUnavailable, match=r"native engine checked itself .* report this"):
        build_engine(small_model(dtype=F32), 1, engine="native")


def test_each_step_down_has_a_line_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(ENGINES, "native", lambda: failing(RuntimeError("first reason")))
    monkeypatch.setitem(ENGINES, "cached", lambda: failing(RuntimeError("second reason")))
    with caplog.at_level(logging.INFO, logger="wavenet"):
        assert isinstance(build_engine(small_model(dtype=F32), 1), SteppedEngine)
    first, last = warnings_of(caplog)
    assert "native" in first and "first reason" in first and "second" not in first
    assert last.startswith("engine: step (") and "second reason" in last


def test_a_gpu_on_which_nothing_runs_leaves_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The ladder of a GPU to its end; the model only says that it is on one."""
    model, tried = small_model(dtype=F32), []
    monkeypatch.setattr(
        Parts,
        "device",
        property(lambda parts: torch.device("cuda" if parts.network is model else "cpu")),
    )

    def only_on_the_cpu(name: str) -> Stub:
        kind = ENGINES[name]

        def build(parts: Parts, *args: Any) -> Any:
            tried.append((name, parts.device.type))
            if parts.device.type == "cuda":
                raise RuntimeError(f"CUDA error: no kernel image, {name}")
            return kind()(parts, *args)

        return lambda: build

    for name in ("triton", "cached", "step", "native"):
        monkeypatch.setitem(ENGINES, name, only_on_the_cpu(name))
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine = build_engine(model, FEW + 1)
    on_gpu = [(name, "cuda") for name in ("triton", "cached", "step")]
    assert tried == [*on_gpu, ("native", "cpu")]
    first, second, last = warnings_of(caplog)
    assert first.startswith("engine: not triton on cuda: ") and "no kernel image, triton" in first
    assert second.startswith("engine: not cached on cuda: ") and "no kernel image, cached" in second
    assert last.startswith("engine: native (the CPU computes") and "image, step" in last
    expected = build_engine(small_model(dtype=F32), FEW + 1, engine="native")
    uniforms = some_uniforms(FEW + 1, 50)
    assert torch.equal(engine.sample(uniforms, Sampling()), expected.sample(uniforms, Sampling()))


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (FEW, 1), (FEW // 2, 2)])
def test_few_streams_of_a_model_on_a_gpu_are_drawn_by_the_cpu(
    batch: int, group: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model(dtype=F32)
    device = property(lambda parts: torch.device("cuda" if parts.network is model else "cpu"))
    monkeypatch.setattr(Parts, "device", device)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        assert isinstance(build_engine(model, batch, group=group), NativeEngine)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("engine: native (") and "faster than a GPU for so few streams" in said


def test_few_streams_are_drawn_by_the_gpu_where_the_cpu_has_no_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, built = small_model(dtype=F32), object()
    monkeypatch.setattr(Parts, "device", property(lambda parts: torch.device("cuda")))
    monkeypatch.setattr(Parts, "on", lambda parts, device: parts)
    monkeypatch.setitem(ENGINES, "native", lambda: failing(EngineUnavailable("no g++")))
    monkeypatch.setitem(ENGINES, "triton", lambda: lambda *given: built)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        assert build_engine(model, 1) is built
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("engine: triton (one kernel for a chunk") and said.count("no g++") == 1


def test_what_no_engine_can_do_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "native", lambda: failing(ValueError("not finite: damaged")))
    with pytest.raises(ValueError, match=r"^not finite: damaged$"):
        build_engine(small_model(dtype=F32), 1)
    monkeypatch.setitem(ENGINES, "native", lambda: failing(torch.OutOfMemoryError("no room")))
    with pytest.raises(torch.OutOfMemoryError):
        build_engine(small_model(dtype=F32), 1, engine="native")
    assert isinstance(build_engine(small_model(dtype=F32), 1), CachedEngine)


def test_a_step_that_cannot_be_captured_is_run_operation_by_operation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a stream, from a capture that had run some steps already."""
    model, uniforms = small_model(), some_uniforms(3, 60)
    expected = build_engine(model, 3, engine="cached", precision="float64").sample(
        uniforms, Sampling()
    )

    def torn(engine: CachedEngine, sampling: Sampling) -> Any:
        for _ in range(2):
            engine._counted_step(sampling)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    engine: Any = build_engine(model, 3, engine="cached", precision="float64")
    monkeypatch.setattr(CachedEngine, "_capture", torn)
    pieces = [engine.sample(uniforms[:, :20], Sampling())]
    engine._captures = True
    with caplog.at_level(logging.INFO, logger="wavenet"):
        pieces += [engine.sample(piece, Sampling()) for piece in uniforms[:, 20:].split(20, dim=1)]
    assert torch.equal(torch.cat(pieces, dim=1), expected)
    (said,) = warnings_of(caplog)
    assert "no CUDA graph" in said and "operation not permitted" in said


@pytest.mark.parametrize("gpu", [T4, RTX2080])
def test_triton_draws_in_bfloat16_only_where_a_gpu_computes_in_it(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavenet.engines.triton.engine import require_gpu

    plant_gpus(monkeypatch, gpu, A100)
    with pytest.raises(EngineUnavailable, match=rf"bfloat16.*{gpu[0]}.*7\.5.*float32"):
        require_gpu(torch.device("cuda:0"), torch.bfloat16)
    require_gpu(torch.device("cuda:0"), F32)
    require_gpu(torch.device("cuda:1"), torch.bfloat16)


@pytest.mark.parametrize("gpu", [V100, GTX1080])
def test_generate_leaves_a_gpu_that_torch_was_not_built_for(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plant_gpus(monkeypatch, gpu)
    with pytest.raises(ValueError, match=rf"--device cuda .*{gpu[0]}.* for CUDA 12\.6.*give cpu"):
        to_device(small_model(), "cuda")
    with caplog.at_level(logging.INFO, logger="wavenet"):
        model = to_device(small_model(), "auto")
    assert next(model.parameters()).device.type == "cpu"
    (said,) = warnings_of(caplog)
    assert gpu[0] in said and "CUDA 12.6" in said and said.startswith("drawing on the CPU: ")


def test_generate_leaves_a_gpu_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Torch says that it is there, and its first use fails: here since there is no driver."""
    plant_gpus(monkeypatch, A100)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        model = to_device(small_model(), "auto")
    assert next(model.parameters()).device.type == "cpu"
    (said,) = warnings_of(caplog)
    assert said.startswith("drawing on the CPU: ")


# Training


@pytest.mark.parametrize("gpu", [V100, GTX1080])
def test_train_leaves_a_gpu_that_torch_was_not_built_for(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plant_gpus(monkeypatch, gpu)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        assert accelerator_for("auto", 1) == "cpu"
    (said,) = warnings_of(caplog)
    assert gpu[0] in said and "CUDA 12.6" in said and said.startswith("training on the CPU: ")
    for named in ("gpu", "cuda"):
        with pytest.raises(ValueError, match=rf"--trainer.accelerator {named}: {gpu[0]}.*cpu"):
            accelerator_for(named, 1)
    assert accelerator_for("cpu", 1) == "cpu"


def test_train_keeps_a_gpu_that_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plant_gpus(monkeypatch, T4, V100)
    assert [accelerator_for(name, 1) for name in ("auto", "gpu", "mps")] == ["auto", "gpu", "mps"]
    assert accelerator_for("auto", [1]) == "cpu" and accelerator_for("auto", [0]) == "auto"


@pytest.mark.parametrize(
    ("gpu", "precision", "message"),
    [
        (T4, "bf16-mixed", r"Tesla T4 \(compute capability 7\.5\) has no bfloat16.*32-true"),
        (A100, "16-mixed", r"computes in float32 and bfloat16, but this run is in 16-mixed"),
        (A100, "16-true", r"computes in float32 and bfloat16, but this run is in 16-true"),
    ],
)
def test_fused_blocks_are_refused_in_a_precision_they_have_not(
    gpu: Any, precision: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wavenet.training.fast as fast

    plant_gpus(monkeypatch, gpu)
    monkeypatch.setattr(fast, "BY_ITSELF", {"compile": {"cuda"}, "fused": {"cuda"}})
    device = torch.device("cuda:0")
    with pytest.raises(ValueError, match=rf"--model\.fused true: .*{message}"):
        fast.ways("auto", True, device, precision)
    assert [tuple(way) for way in fast.ways("auto", "auto", device, precision)] == [
        (True, False),
        (False, False),
    ]


def test_the_ladder_of_training_is_fused_and_compiled_then_compiled_then_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wavenet.training.fast as fast

    plant_gpus(monkeypatch, A100)
    device, rungs = torch.device("cuda:0"), [(True, False), (False, False)]
    assert [tuple(way) for way in fast.ways("auto", "auto", device, "bf16-mixed")] == rungs
    monkeypatch.setattr(fast, "BY_ITSELF", {"compile": {"cuda"}, "fused": {"cuda"}})
    assert [tuple(way) for way in fast.ways("auto", "auto", device, "bf16-mixed")] == [
        (True, True),
        *rungs,
    ]
    asked = [tuple(way) for way in fast.ways("auto", True, device, "bf16-mixed")]
    assert asked == [(True, True), (False, True)]
    assert fast.ways(False, "auto", device, "32-true") == [(False, False)]


@pytest.mark.parametrize(("left", "compiles"), [(4000, True), (3999, False), (math.inf, True)])
def test_a_step_is_compiled_by_itself_where_the_run_is_long_enough(
    left: float, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wavenet.training.fast as fast

    plant_gpus(monkeypatch, A100)
    device = torch.device("cuda:0")
    assert fast.ways("auto", False, device, "bf16-mixed", left)[0].compiled == compiles
    assert fast.ways(True, False, device, "bf16-mixed", left) == [(True, False)]


def test_bfloat16_that_is_emulated_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wavenet.training.fast as fast

    plant_gpus(monkeypatch, T4, A100)
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        fast.warn_of_emulation(torch.device("cuda:1"), "bf16-mixed")
        fast.warn_of_emulation(torch.device("cuda:0"), "32-true")
        fast.warn_of_emulation(torch.device("cpu"), "bf16-mixed")
        assert warnings_of(caplog) == []
        fast.warn_of_emulation(torch.device("cuda:0"), "bf16-mixed")
    (said,) = warnings_of(caplog)
    assert "Tesla T4" in said and "--trainer.precision 32-true" in said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def breaking(where: str) -> Stub:
    """A torch.compile whose code fails in its forward pass, in its backward pass, or later."""

    def compiled(function: Stub) -> Stub:
        calls: list[int] = []

        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if where == "forward" or (where == "later" and len(calls) > 3):
                raise RuntimeError("backend='inductor' raised:\nRuntimeError: Failed to find C")
            loss = function(*args, **kwargs)
            return Broken.apply(loss) if where == "backward" else loss

        return run

    return compiled


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("PTXAS error: Internal Triton PTX codegen error")


def trained(corpus: Path, **settings: Any) -> Any:
    lit = network(**settings)
    trainer(max_steps=6).fit(lit, module(corpus))
    return lit


@pytest.mark.parametrize("where", ["forward", "backward", "later"])
def test_a_compiled_step_that_fails_is_computed_without_and_the_run_goes_on(
    corpus: Path,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wavenet.training.fast as fast

    expected = trained(corpus, compile=False)
    monkeypatch.setattr(torch, "compile", breaking(where))
    monkeypatch.setattr(fast, "obstacle_to_triton", lambda device: None)
    monkeypatch.setattr(fast, "BY_ITSELF", {"compile": {"cpu"}, "fused": set()})
    monkeypatch.setattr(fast, "WORTH_COMPILING", 0)
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        lit = trained(corpus)
    for name, weight in lit.network.state_dict().items():
        assert torch.equal(weight, expected.network.state_dict()[name]), name
    (said,) = warnings_of(caplog)
    reason = "PTXAS error" if where == "backward" else "Failed to find C"
    assert said.startswith("torch.compile does not work here") and reason in said
    assert said.endswith("Training goes on without it.") and "\n" not in said


def test_a_compiled_step_that_was_asked_for_says_why_it_fails_and_what_to_do(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", breaking("forward"))
    with pytest.raises(ValueError, match=r"--model\.compile true: .*Failed to find C.*auto"):
        trained(corpus, compile=True)


def plain(network: Any, x: torch.Tensor) -> torch.Tensor:
    return (network.blocks[0].skip.weight.sum() * x).sum()


def fast_loss(monkeypatch: pytest.MonkeyPatch, *broken: str, ways: list[tuple[bool, bool]]) -> Any:
    """A `FastLoss` of a small stack, of whose ways the broken ones fail."""
    import wavenet.training.fast as fast
    import wavenet.training.kernels as kernels

    def fuse(network: Any) -> None:
        if "fuse" in broken:
            raise ImportError("no module named triton")
        network.units = "fused"

    def compiled(function: Stub) -> Stub:
        def run(network: Any, x: torch.Tensor) -> torch.Tensor:
            if "compile" in broken or (
                getattr(network, "units", "") == "fused" and "fused" in broken
            ):
                raise RuntimeError("PTXAS error")
            return function(network, x)

        return run

    monkeypatch.setattr(kernels, "fuse", fuse)
    monkeypatch.setattr(torch, "compile", compiled)
    stack = Stack([ResidualBlock(5, 7, 6)])
    return fast.FastLoss(plain, stack, [fast.Way(*way) for way in ways]), stack


LADDER = [(True, True), (True, False), (False, False)]
FUSED, COMPILED = "torch.compile with fused blocks", "torch.compile"


@pytest.mark.parametrize(
    ("broken", "lines", "way"),
    [
        ([], [], (True, True)),
        (["fused"], [f"{FUSED} does not work here (RuntimeError: PTXAS error). Training goes on "
                     "with torch.compile alone."], (True, False)),
        (["fuse"], [f"{FUSED} does not work here (ImportError: no module named triton). Training "
                    "goes on with torch.compile alone."], (True, False)),
        (["compile"], [f"{FUSED} does not work here (RuntimeError: PTXAS error). Training goes on "
                       "with torch.compile alone.",
                       f"{COMPILED} does not work here (RuntimeError: PTXAS error). Training goes "
                       "on without it."], (False, False)),
    ],
    ids=["nothing", "fused step", "fusing", "compiling"],
)  # fmt: skip
def test_training_steps_down_one_rung_a_line(
    broken: list[str],
    lines: list[str],
    way: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        loss, stack = fast_loss(monkeypatch, *broken, ways=LADDER)
        values = [loss(stack, torch.full((3,), float(x))) for x in (1, 2)]
    assert warnings_of(caplog) == lines and tuple(loss.way) == way
    assert torch.equal(values[1], plain(stack, torch.full((3,), 2.0))) and values[0].requires_grad
    assert (vars(stack).get("units") == "fused") == way[1]


def test_a_lack_of_memory_is_no_reason_to_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slower takes more of it."""
    loss, stack = fast_loss(monkeypatch, ways=LADDER)
    loss._plain = loss._loss = failing(torch.OutOfMemoryError("no room"))
    with pytest.raises(torch.OutOfMemoryError):
        loss(stack, torch.ones(3))


@pytest.mark.parametrize("stage", ["validation", "end"])
def test_samples_never_end_a_run(
    corpus: Path,
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        wavenet.training.callbacks, "generate", failing(RuntimeError("PTXAS error"))
    )
    every = {"validation": 1, "end": 0}[stage]
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        train("fit", *arguments(corpus, samples__every_n_validations=every), "--name=run")
    said = [line for line in warnings_of(caplog) if "samples" in line]
    assert len(said) == {"validation": 3, "end": 1}[stage]
    assert all("RuntimeError: PTXAS error" in line for line in said)
    assert (tmp_path / "runs" / "run" / "model" / "model.safetensors").is_file()
    assert "hear more" in capsys.readouterr().out


def test_a_run_says_once_why_a_slow_engine_draws_its_samples(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ENGINES, "native", lambda: failing(RuntimeError("PTXAS error")))
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        train("fit", *arguments(corpus), "--name=run")
    said = [line for line in warnings_of(caplog) if "PTXAS error" in line]
    assert len(said) == 1 and said[0].startswith("engine: cached")
    assert len(list((tmp_path / "runs" / "run" / "samples").iterdir())) == 6


def test_a_real_compiler_that_is_hidden_does_not_end_a_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Inductor itself, without a C++ compiler."""
    import torch._inductor.config

    import wavenet.training.fast as fast

    torch.compiler.reset()
    monkeypatch.setattr(fast, "obstacle_to_triton", lambda device: None)
    monkeypatch.setattr(fast, "BY_ITSELF", {"compile": {"cpu"}, "fused": set()})
    monkeypatch.setattr(fast, "WORTH_COMPILING", 0)
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        lit = trained(corpus)
    (said,) = warnings_of(caplog)
    assert "torch.compile does not work here" in said and "compiler" in said
    assert lit.trainer.global_step == 6
