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


def plain() -> wavenet.WaveNet:
    return wavenet.WaveNet(1, 3, residual_channels=5, gate_channels=7, skip_channels=9)


def with_a_residual_in_the_last_layer() -> wavenet.WaveNet:
    model = plain()
    last = wavenet.ResidualBlock(5, 7, 9, dilation=4)
    model.stack = wavenet.Stack([*list(model.stack.blocks)[:-1], last])
    return model


def with_a_layer_that_passes_through() -> wavenet.WaveNet:
    model = plain()
    model.stack.blocks[1] = wavenet.ResidualBlock(5, 7, 9, dilation=2, last=True)
    return model


def with_another_head() -> wavenet.WaveNet:
    model = plain()
    model.head[0] = nn.Tanh()
    return model


def with_a_dilated_input() -> wavenet.WaveNet:
    model = plain()
    model.input = wavenet.CausalConv1d(5, 5, 2, dilation=3)
    return model


class Louder(wavenet.WaveNet):
    def embed(self, samples: torch.Tensor) -> torch.Tensor:
        return 2 * super().embed(samples)


REFUSED = {
    "layer 1 has no residual": with_a_layer_that_passes_through,
    "head is Tanh, CausalConv1d": with_another_head,
    "input convolution has a dilation": with_a_dilated_input,
    "Louder has a embed of its own": lambda: Louder(1, 3, residual_channels=5),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_models_that_only_look_like_the_papers_go_through_the_general_engine(reason: str) -> None:
    torch.manual_seed(0)
    model, uniforms = REFUSED[reason](), some_uniforms(2, 30)
    for name in ("cached", "native"):
        with pytest.raises(EngineUnavailable, match=reason):
            build_engine(model, 2, engine=name)
    codes = [
        build_engine(model, 2, engine=name).sample(uniforms, Sampling())
        for name in ("naive", "auto")
    ]
    assert torch.equal(codes[0], codes[1])


def test_a_residual_that_nobody_reads_changes_nothing_in_any_engine() -> None:
    torch.manual_seed(0)
    model, uniforms = with_a_residual_in_the_last_layer(), some_uniforms(2, 60)
    codes = [
        build_engine(model, 2, engine=name).sample(uniforms, Sampling())
        for name in ("naive", "step", "cached", "native")
    ]
    assert torch.equal(codes[0], codes[1])
    for other in codes[2:]:  # float32 may part on an edge
        assert (other == codes[0]).float().cumprod(dim=1).mean() > 0.8


def test_a_condition_of_ones_own_stands_in_the_place_of_labels() -> None:
    model = wavenet.WaveNet(1, 1, labels={"digit": ["0", "1"]}, unlabelled=True)
    condition = Condition(torch.zeros(2, 32, 1))
    audio = wavenet.generate(model, num_samples=9, batch_size=2, condition=condition)
    assert audio.shape == (2, 9)
    with pytest.raises(ValueError, match="takes the place of labels"):
        wavenet.generate(model, num_samples=9, labels={"digit": "0"}, condition=condition)
    with pytest.raises(ValueError, match=r"has 3 frames .* Give hop"):
        wavenet.generate(model, num_samples=9, condition=Condition(torch.zeros(1, 32, 3)))


def test_a_framed_condition_of_ones_own_is_cut_for_each_chunk() -> None:
    model = wavenet.WaveNet(1, 3, labels={"digit": ["0", "1"]})
    condition = Condition(torch.randn(1, 32, 20), hop=16, offset=5)
    audio = [
        wavenet.generate(model, num_samples=200, condition=condition, engine=name)
        for name in ("naive", "step", "cached")
    ]
    chunks = wavenet.stream(
        model, num_samples=200, chunk_size=37, condition=condition, engine="cached"
    )
    assert torch.equal(torch.cat(list(chunks), dim=1), audio[2])
    assert torch.equal(audio[0], audio[1])
    assert (audio[2] == audio[0]).float().cumprod(dim=1).mean() > 0.8
