"""Properties of trials: what befalls one befalls its own process, and what it found is kept."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import A100, LABELS, Interpreter, plant_gpus, small_model, some_uniforms

from wavenet import MixtureOfLogistics, Sampling, WaveNet, trials
from wavenet.engines import EngineUnavailable, take_apart
from wavenet.trials import Verdict, verdict

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
SMALL = {
    "cycles": 1,
    "layers_per_cycle": 1,
    "residual_channels": 6,
    "gate_channels": 5,
    "skip_channels": 8,
    "labels": {"digit": ["0", "1"]},
    "condition_channels": 3,
}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the verdicts of a test are."""
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "verdicts"


def tried(name: str, path: Path, **given: Any) -> Verdict:
    return verdict(f"trial_stubs:{name}", {"counted": str(path / "counted"), **given}, CPU)


def test_a_good_trial_is_done_once(tmp_path: Path, kept: Path) -> None:
    assert [tried("good", tmp_path) for _ in range(3)] == [Verdict(True, "")] * 3
    assert (tmp_path / "counted").read_text() == "cpu\n"
    (path,) = kept.iterdir()
    content = json.loads(path.read_text())
    names = {"good", "reason", "gpu", "capability", "driver", "torch", "triton", "source", "given"}
    assert names <= content.keys() and content["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize("changed", ["given", "torch", "gpu", "source"])
def test_another_machine_version_or_size_has_a_trial_of_its_own(
    tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: list[int] = []
    monkeypatch.setattr(trials, "_tried", lambda *_: (Verdict(True, str(count.append(1))), True))
    tried("good", tmp_path)
    if changed == "torch":
        monkeypatch.setattr(trials, "version", lambda name: "0.0")
    if changed == "gpu":
        plant_gpus(monkeypatch, A100)
        facts = trials._machine(GPU)
        assert facts["gpu"] == A100[0] and facts["capability"] == [8, 0]
        monkeypatch.setattr(trials, "_machine", lambda device: facts)
    if changed == "source":
        monkeypatch.setattr(trials, "_source", lambda trial: "other")
    tried("good", tmp_path, **({"size": 2} if changed == "given" else {}))
    assert len(count) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("wrong", "RuntimeError: off by 1e+00 (allowed: 1e-04): residual"),
        ("killed", "its check was ended by SIGKILL"),
        ("crashed", "its check was ended by SIGSEGV"),
        ("leaving", "its check ended with status 3: no message"),
        ("not_there", "AttributeError: module 'trial_stubs' has no attribute 'not_there'"),
    ],
)
def test_what_befalls_a_trial_is_its_verdict_and_is_kept(
    tmp_path: Path, kept: Path, name: str, reason: str
) -> None:
    found = tried(name, tmp_path)
    (path,) = kept.iterdir()
    assert found == Verdict(False, f"{reason}; kept in {path}")
    path.write_text(json.dumps({"good": False, "reason": "as it is kept"}))
    assert tried(name, tmp_path).reason == f"as it is kept; kept in {path}"


def test_a_trial_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "LIMIT", 5.0)
    begin = time.monotonic()
    assert tried("hanging", tmp_path).reason.startswith("its check did not end within 5 s")
    assert time.monotonic() - begin < 12
    started = int((tmp_path / "counted").read_text())
    for _ in range(50):
        state = Path(f"/proc/{started}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(started, 9)
    pytest.fail("the process that the trial had started goes on")


@pytest.mark.parametrize("name", ["short_of_memory", "taken"])
def test_a_gpu_that_others_use_gives_no_lasting_verdict(
    tmp_path: Path, kept: Path, name: str
) -> None:
    assert not tried(name, tmp_path).good
    assert not kept.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"good": true}', "\0"])
def test_a_damaged_verdict_is_made_again(
    tmp_path: Path, kept: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_tried", lambda *_: (Verdict(True, "new"), True))
    tried("good", tmp_path)
    (path,) = kept.iterdir()
    path.write_text(content)
    assert tried("good", tmp_path) == Verdict(True, "new")
    assert json.loads(path.read_text())["reason"] == "new"


def test_trials_can_be_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    monkeypatch.setenv("WAVENET_SELF_CHECK", "0")
    assert tried("killed", tmp_path).good and not kept.exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "_tried", lambda *_: (Verdict(True, ""), True))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path / "file"))
    assert tried("good", tmp_path).good


# The Triton engine


def triton_trial(settings: dict[str, Any], group: int, batch_size: int = 2) -> None:
    from wavenet.engines.triton import trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "SAMPLES", 3)
        parts = take_apart(WaveNet(**settings))
        given = {"model": parts.settings(), "dtype": "float32"}
        given = json.loads(json.dumps({**given, "batch_size": batch_size, "group": group}))
        trial.the_triton_engine(given, CPU)


@pytest.mark.parametrize(
    ("more", "group"),
    [({}, 1), ({"unlabelled": True}, 2), ({"output": MixtureOfLogistics(2)}, 1)],
    ids=["codes", "guided", "mixture"],
)
def test_the_triton_engine_passes_its_trial(
    interpreter: Interpreter, more: dict[str, Any], group: int
) -> None:
    interpreter(triton_trial, {**SMALL, **more}, group)


def faulty_triton_trial(fault: str) -> None:
    """The teacher-forced kernel is right; the ones that draw are not."""
    import wavenet.engines.triton.engine as engine

    kernel = engine.run_streams

    class Faulty:
        def __getitem__(self, grid: tuple[int]) -> Any:
            def run(**arguments: Any) -> None:
                kernel[grid](**arguments)
                forced, samples = arguments["FORCED"], arguments["samples"]
                if fault == "greedy" and arguments["GREEDY"] and not forced:
                    samples.add_(1).remainder_(256)
                if fault == "top_k" and arguments["TOP_K"]:
                    samples.fill_(3)

            return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run_streams", Faulty())
        triton_trial(SMALL, 1)


@pytest.mark.parametrize("fault", ["greedy", "top_k"])
def test_the_trial_finds_draws_that_are_not_those_of_the_logits(
    interpreter: Interpreter, fault: str
) -> None:
    with pytest.raises(EngineUnavailable, match=r"draws by Sampling.* are not those of its own"):
        interpreter(faulty_triton_trial, fault)


def test_draws_within_rounding_are_taken_for_right() -> None:
    from wavenet.engines.triton.trial import share_apart

    model, uniforms = small_model(), some_uniforms(3, 50)
    params = torch.randn(3, 256, 50).double()
    rows = params.transpose(1, 2).flatten(0, 1)
    how, given = Sampling(), uniforms.flatten()[:, None]
    exact = model.output.draw(rows, given, how).view(3, 50)
    near = model.output.draw(rows, (given + 5e-5).clamp(max=1 - 2**-24), how).view(3, 50)
    arguments = (model.output, params, uniforms[..., None])
    assert share_apart(*arguments, exact, how, 1) == 0
    assert (near != exact).any() and share_apart(*arguments, near, how, 1) == 0
    assert share_apart(*arguments, (exact + 40) % 256, how, 1) > 0.5


@pytest.mark.parametrize("batch", [1, 200])
def test_the_engine_is_not_built_on_a_gpu_where_its_trial_fails(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavenet.engines.parts import Parts
    from wavenet.engines.triton import trial

    plant_gpus(monkeypatch, A100)
    asked: list[Any] = []

    def bad(name: str, given: dict[str, Any], device: torch.device) -> Verdict:
        asked.append((name, json.loads(json.dumps(given)), device))
        return Verdict(False, "its check was ended by SIGSEGV")

    monkeypatch.setattr(trial, "verdict", bad)
    monkeypatch.setattr(Parts, "device", property(lambda parts: GPU))
    model = small_model(dtype=torch.float32, labels=LABELS)
    with pytest.raises(EngineUnavailable, match=r"not work on this GPU \(its check was ended by"):
        trial.tried_engine(take_apart(model), batch, torch.bfloat16)
    ((name, given, device),) = asked
    assert name == "wavenet.engines.triton.trial:the_triton_engine" and device == GPU
    assert given["dtype"] == "bfloat16" and given["batch_size"] == {1: 2, 200: 133}[batch]
    again = WaveNet(**given["model"])
    assert again.config == model.config


# Training


def block_trial(precision: str, fault: bool) -> None:
    import wavenet.training.kernels as kernels
    from wavenet.training import trial

    delayed = kernels._delayed_product
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "LENGTHS", [(33, 40), (5, 2)])
        if fault:
            patch.setattr(kernels, "_delayed_product", lambda x, dh, d: delayed(x, dh, d) * 1.2)
        given = {"model": {**WaveNet(**SMALL).config.settings()}, "precision": precision}
        trial.the_fused_block({**given, "tf32": False}, CPU)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_fused_block_passes_its_trial(interpreter: Interpreter, precision: str) -> None:
    interpreter(block_trial, precision, False)


def test_the_trial_finds_a_gradient_of_the_fused_block_that_is_off(
    interpreter: Interpreter,
) -> None:
    with pytest.raises(RuntimeError, match=r"off by .*gradient of blocks\.0\.dilated\.weight"):
        interpreter(block_trial, "32-true", True)


def test_the_trial_finds_what_a_kernel_does_not_write(interpreter: Interpreter) -> None:
    with pytest.raises(RuntimeError, match="off by nan"):
        interpreter(unwritten_trial)


def unwritten_trial() -> None:
    import wavenet.training.kernels as kernels

    with pytest.MonkeyPatch.context() as patch:
        launch = kernels.Launch.run
        patch.setattr(
            kernels.Launch,
            "run",
            lambda self, kernel: launch(self._replace(grid=(self.grid[0], 2)), kernel),
        )
        block_trial("32-true", False)


@pytest.mark.parametrize(
    "more",
    [{}, {"position_hop": 16}, {"output": MixtureOfLogistics(2)}, {"mel": {"bands": 8, "hop": 64}}],
    ids=["codes", "position", "mixture", "mel"],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_compiled_step_has_a_trial_of_any_model(
    more: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wavenet.training import trial

    parts = take_apart(WaveNet(**SMALL, **more))
    given = json.loads(json.dumps({"model": parts.settings(), "precision": precision}))
    given["fused"] = False
    monkeypatch.setattr(torch, "compile", lambda function: function)
    trial.the_compiled_step(given, CPU)

    def wrong(function: Any) -> Any:
        return lambda network, *batch: (
            function(network, *batch) + 0.1 * (network.head[3].weight.sum())
        )

    monkeypatch.setattr(torch, "compile", wrong)
    with pytest.raises(RuntimeError, match=r"off by"):
        trial.the_compiled_step(given, CPU)


def test_training_asks_for_a_trial_of_each_way_and_steps_down_where_it_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from wavenet.training import fast, trial

    plant_gpus(monkeypatch, A100)
    asked: list[tuple[str, Any]] = []

    def bad(name: str, given: dict[str, Any], device: torch.device) -> Verdict:
        asked.append((name.partition(":")[2], json.loads(json.dumps(given)).get("fused")))
        good = name.endswith("the_fused_block")
        return Verdict(good, "" if good else "its check did not end within 120 s")

    monkeypatch.setattr(trial, "verdict", bad)
    monkeypatch.setattr("wavenet.training.kernels.fuse", lambda network: None)
    model = small_model(dtype=torch.float32)
    ways = [fast.Way(True, True), fast.Way(True, False), fast.Way(False, False)]
    loss = fast.FastLoss(
        lambda network: network, model, ways, lambda way: trial.tried(way, model, GPU, "32-true")
    )
    assert loss.way == ways[-1]
    assert asked == [
        ("the_fused_block", None),
        ("the_compiled_step", True),
        ("the_compiled_step", False),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile with fused blocks does not work here (its check did not end within 120 s). "
        "Training goes on with torch.compile alone.",
        "torch.compile does not work here (its check did not end within 120 s). Training goes on "
        "without it.",
    ]
