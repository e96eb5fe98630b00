"""The examples run, and models that are built as they are go through the engines that they name."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import assert_close, some_codes, some_uniforms
from torch import nn

import wavenet
from wavenet import Condition, FiLM, Sampling
from wavenet.engines import EngineUnavailable, build_engine, take_apart

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import knob  # noqa: E402


def small_knob_model() -> knob.KnobWaveNet:
    torch.manual_seed(0)
    model = knob.KnobWaveNet(
        cycles=1, layers_per_cycle=3, residual_channels=5, gate_channels=7, skip_channels=9
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.double().eval()


def test_the_knob_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    knob.main(["--steps", "2", "--samples", "200"])
    printed = capsys.readouterr().out
    assert "after 2 steps" in printed and "knob 1.00:  800 Hz asked for" in printed


def test_a_model_of_other_parts_is_the_same_in_every_engine_that_runs_it() -> None:
    model, uniforms, codes = small_knob_model(), some_uniforms(3, 40), []
    with torch.no_grad():
        condition = model.turned_to(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    for name in ("naive", "step", "auto"):
        engine = build_engine(model, 3, engine=name, precision="float64")
        codes.append(engine.sample(uniforms, Sampling(), condition))
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])
    turned = Condition(condition.features.flip(0))
    engine = build_engine(model, 3, engine="step", precision="float64")
    assert not torch.equal(engine.sample(uniforms, Sampling(), turned), codes[0])
    given = some_codes(3, 20)
    engine = build_engine(model, 3, engine="step", precision="float64")
    heard = torch.cat([torch.full((3, 1), model.output.silence), given[:, :-1]], dim=1)
    with torch.no_grad():
        assert_close(engine.prime(given, condition), model.predict(heard, condition))


@pytest.mark.parametrize("name", ["cached", "native"])
def test_what_an_engine_cannot_run_it_refuses_by_name(name: str) -> None:
    model = small_knob_model().float()
    assert take_apart(model).weights is None
    with pytest.raises(EngineUnavailable, match=rf"{name} engine .*steer FiLM.*gate Tanh.*'step'"):
        build_engine(model, 3, engine=name)


def test_layers_that_differ_are_refused_by_what_differs() -> None:
    model = wavenet.WaveNet(1, 3, residual_channels=5, gate_channels=7, skip_channels=9)
    wider = wavenet.CausalConv1d(5, 14, 3, dilation=2)
    model.stack.blocks[1].dilated = wider
    for name in ("cached", "native"):
        with pytest.raises(EngineUnavailable, match="layers differ in kernel size"):
            build_engine(model, 1, engine=name)
    codes = [
        build_engine(model, 1, engine=name).sample(some_uniforms(1, 30), Sampling())
        for name in ("naive", "step", "auto")
    ]
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])


def test_generate_takes_a_condition_of_ones_own() -> None:
    model = small_knob_model()
    with torch.no_grad():
        condition = model.turned_to(torch.tensor([0.0, 1.0], dtype=torch.float64))
    settings = {"num_samples": 30, "batch_size": 2, "engine": "step", "precision": "float64"}
    audio = wavenet.generate(model, condition=condition, **settings)
    alone = wavenet.generate(
        model, condition=Condition(condition.features[1:]), **{**settings, "batch_size": 1}, seed=1
    )
    assert torch.equal(audio[1], alone[0])
    assert isinstance(model.stack.blocks[0].steer, FiLM)
    assert isinstance(model.stack.blocks[0].gate, nn.Tanh)
