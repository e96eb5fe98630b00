"""The examples run, and models that are built as they are go through the engines that they name."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import (
    LABELS,
    assert_close,
    small_model,
    some_codes,
    some_labels,
    some_uniforms,
)
from torch import nn

import wavenet
from wavenet import Condition, FiLM, Sampling, WaveNet, testing
from wavenet.engines import EngineUnavailable, build_engine, take_apart

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import diffwave  # noqa: E402
import forecast  # noqa: E402
import grow  # noqa: E402
import knob  # noqa: E402
import to_vocoder  # noqa: E402


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


# DiffWave


def test_the_diffwave_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diffwave, "TAKES", 2)
    monkeypatch.setattr(diffwave, "BETAS", torch.linspace(1e-4, 0.3, 6))
    monkeypatch.setattr(diffwave, "FAST", torch.tensor([1e-3, 0.5]))
    diffwave.main(["--steps", "2", "--channels", "4", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    before = float(printed.split("held-out notes: ")[1].split()[0])
    assert 0.9 < before < 1.1 and "after 2 steps" in printed  # it says 0
    assert len(list(tmp_path.glob("*_*.wav"))) == 8 and (tmp_path / "notes.png").exists()
    assert "flute C4" in printed and ": 262 Hz asked for" in printed


@pytest.mark.parametrize("betas", [diffwave.BETAS, diffwave.FAST], ids=["all", "fast"])
def test_one_who_knows_the_noise_is_led_back_to_the_clip(betas: torch.Tensor) -> None:
    clip, levels = torch.randn(2, 50), iter((1 - betas).cumprod(0).flip(0))

    def oracle(x: torch.Tensor, step: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kept = next(levels)
        return (x - kept.sqrt() * clip) / (1 - kept).sqrt()

    drawn = diffwave.draw(oracle, torch.zeros(2, 2, dtype=torch.long), 50, betas)
    assert float((drawn - clip).abs().max()) < 1e-3


def test_each_larger_step_is_told_the_step_of_training_with_as_much_noise() -> None:
    every = torch.arange(1.0, len(diffwave.BETAS) + 1)
    assert torch.equal(diffwave.aligned(diffwave.BETAS), every)
    assert_close(diffwave.aligned(diffwave.FAST), every[7::8])
    others = torch.tensor([1e-3, 0.01, 0.05, 0.2, 0.7])  # of no relation to those of training
    kept, levels = (1 - diffwave.BETAS).cumprod(0), (1 - others).cumprod(0)
    steps = diffwave.aligned(others)
    for step, level in zip(steps, levels, strict=True):
        below = int(step)  # steps are counted from 1
        assert kept[below] < level < kept[below - 1], step
    assert (steps.diff() > 0).all()


def test_noise_has_the_variance_of_its_step_and_leaves_the_rest() -> None:
    x, kept = torch.full((3, 20000), 0.5), torch.tensor([1.0, 0.6, 0.1])
    noisy = diffwave.noised(x, kept, torch.randn_like(x))
    assert torch.allclose(noisy.mean(1), 0.5 * kept.sqrt(), atol=0.03)
    assert torch.allclose(noisy.var(1), 1 - kept, atol=0.03)


def test_diffwave_hears_both_sides_its_step_and_its_labels() -> None:
    torch.manual_seed(0)
    model = diffwave.DiffWave(4, cycles=1, layers_per_cycle=3).eval()
    nn.init.normal_(model.head[-1].weight)
    x, step, labels = torch.randn(1, 40), torch.tensor([7.0]), torch.tensor([[1, 5]])
    with torch.no_grad():
        y = model(x, step, labels)
        other = x.clone()
        other[0, 20] += 1
        moved = (model(other, step, labels) != y)[0].nonzero().flatten()
        assert moved.min() == 13 and moved.max() == 27  # 1 + 2 + 4 on either side
        for changed in ((step + 1, labels), (step, labels + 1)):
            assert not torch.allclose(model(x, *changed), y)


# A forecast


def test_the_forecast_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TRAIN", 5 * forecast.WEEK)
    monkeypatch.setattr(forecast, "TEST", forecast.WEEK)
    forecast.main(["--steps", "2", "--paths", "5", "--out", str(tmp_path / "fan.png")])
    printed = capsys.readouterr().out
    assert "one hour ahead" in printed and "seasonal naive" in printed
    assert (tmp_path / "fan.png").exists()


def small_forecaster() -> forecast.Forecaster:
    torch.manual_seed(0)
    return forecast.Forecaster(channels=5, layers=4).eval()


def test_a_forecaster_is_causal_and_streams() -> None:
    model, x = small_forecaster(), torch.randn(2, 3, 40)
    clock = forecast.clock(torch.arange(1, 41)).expand(2, -1, -1)
    testing.assert_causal(model.network, x, clock)
    testing.assert_streams(model.network, x, clock)


def test_paths_from_a_forked_state_go_on_as_the_whole_series_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast, "HORIZON", 5)
    monkeypatch.setattr(forecast.Normal, "sample", lambda self: self.mean)
    model, series, origins = small_forecaster().double(), forecast.sensors(60).double(), [30, 47]
    monkeypatch.setattr(forecast, "clock", lambda hours: torch.ones(6, len(hours)).double() * hours)
    paths = forecast.forecast(model, series, origins, paths=3)
    assert paths.shape == (2, 3, 3, 5)
    for origin, drawn in zip(origins, paths, strict=True):
        past = series[:, :origin]
        for _ in range(5):
            hours = forecast.clock(torch.arange(1, past.shape[1] + 1))
            with torch.no_grad():
                mean = model(past[None], hours[None]).mean[0, :, -1:]
            past = torch.cat([past, mean], dim=1)
        for path in drawn:
            assert_close(path, past[:, origin:])


def test_crps_is_its_definition_and_coverage_a_share() -> None:
    paths, truth = torch.randn(4, 9, 3, 2), torch.randn(4, 3, 2)
    pairs = (paths[:, :, None] - paths[:, None]).abs().sum((1, 2)) / (9 * 8)
    expected = (paths - truth[:, None]).abs().mean(1) - pairs / 2
    assert abs(forecast.crps(paths, truth) - float(expected.mean())) < 1e-5
    spread = torch.linspace(0, 1, 101).expand(1000, 101)
    assert abs(forecast.coverage(spread, torch.rand(1000)) - 0.8) < 0.05


def test_likelihood_hour_by_hour_is_that_of_all_hours_at_once() -> None:
    model, series = small_forecaster(), forecast.sensors(50)
    state, told = model.init_state(1), []
    for hour in range(49):
        clock = forecast.clock(torch.tensor([hour + 1]))[None]
        with torch.no_grad():
            predicted, state = model.step(series[None, :, hour : hour + 1], state, clock)
            told.append(-predicted.log_prob(series[None, :, hour + 1 : hour + 2]).mean())
    assert abs(forecast.nats(model, series, first=10) - float(torch.stack(told[9:]).mean())) < 1e-5


@pytest.mark.parametrize("layers", [3, 5])
def test_a_deeper_network_begins_as_the_one_that_it_grew_from(layers: int, tmp_path: Path) -> None:
    model = small_model(labels=LABELS, position_hop=16, residual_scale=1.0)
    model.save_pretrained(tmp_path / "small")
    grow.main([str(tmp_path / "small"), "--layers_per_cycle", str(layers), "--out", str(tmp_path)])
    grown, codes, labels = WaveNet.from_pretrained(tmp_path), some_codes(3, 60), some_labels(3)
    assert len(grown.stack.blocks) == 2 * layers
    assert_close(grown(codes, labels), model.float()(codes, labels))
    assert grown.receptive_field - model.receptive_field == 2 * (2**layers - 2**3)


def test_a_network_does_not_grow_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        grow.main(["fsdd", "--layers_per_cycle", "9", "--out", str(tmp_path)])
    assert "has 11 layers a cycle, which can become more, but not 9" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"has residual_scale 0\.8; it must be 1"):
        grow.grow(small_model(), 5)


def test_a_vocoder_keeps_what_a_network_knows_of_sound(tmp_path: Path) -> None:
    """All but what steers it: without its conditions it is the network without its own."""
    model = small_model(labels=LABELS, position_hop=16, dtype=torch.float32)
    model.save_pretrained(tmp_path / "labelled")
    sizes = ["--bands", "6", "--hop", "20", "--window", "50"]
    to_vocoder.main([str(tmp_path / "labelled"), *sizes, "--out", str(tmp_path / "vocoder")])
    vocoder, codes = WaveNet.from_pretrained(tmp_path / "vocoder"), some_codes(2, 61)
    assert vocoder.mel is not None and vocoder.labels == {} and not vocoder.position_hop
    made = wavenet.generate(vocoder, mel=torch.zeros(6, 3))
    assert made.shape == (1, 60)
    with torch.no_grad():
        for network in (model, vocoder):
            for name, weight in network.named_parameters():
                if ".condition." in name:
                    weight.zero_()
        expected = model(codes, some_labels(2))
        assert_close(vocoder(codes, mel=torch.randn(2, 6, 4)), expected)


def test_a_vocoder_without_a_possible_window_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        to_vocoder.main(["fsdd", "--hop", "64", "--window", "8", "--out", str(tmp_path / "x")])
    assert "mel.window must be an integer from 64" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
