"""Properties of outputs: what is saved of them; only they know how many codes there are."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import small_model, some_uniforms
from torch import Tensor

from wavenet import Linear, MuLaw, Sampling, WaveNet, bits_per_sample, generate
from wavenet.engines import EngineUnavailable, build_engine
from wavenet.outputs import guided, output_from, output_settings, require_finite
from wavenet.saving import read_folder


def with_classes(classes: int, dtype: torch.dtype = torch.float32) -> WaveNet:
    return small_model(dtype=dtype, output=MuLaw(classes), codes=classes)


@pytest.mark.parametrize("classes", [2, 64, 256])
def test_an_output_comes_back_from_its_settings(classes: int) -> None:
    settings = output_settings(MuLaw(classes))
    assert settings == {"name": "MuLaw", "classes": classes}
    assert output_from(json.loads(json.dumps(settings))) == MuLaw(classes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "Laplace"}, "no output 'Laplace'; there are: MuLaw"),
        ({}, "No output has just these settings"),
        ({"name": "MuLaw", "levels": 3}, "MuLaw does not take these settings: {'levels': 3}"),
        ({"name": "MuLaw", "classes": 1}, "at least 2"),
    ],
)
def test_an_output_that_there_is_not_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        output_from(settings)


def test_a_model_of_another_number_of_codes_is_saved_with_its_output(tmp_path: Path) -> None:
    model = with_classes(64)
    model.save_pretrained(tmp_path)
    again = WaveNet.from_pretrained(tmp_path)
    assert again.output == MuLaw(64) and again.config == model.config
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["output"] == {"name": "MuLaw", "classes": 64}
    assert config["codec"]["classes"] == 64, "older libraries refuse it by this"
    assert "output" not in read_folder(tmp_path, list(config["model"])).settings


def test_a_folder_of_an_older_library_has_no_output_and_is_mu_laws(tmp_path: Path) -> None:
    model = small_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["output"]
    path.write_text(json.dumps(config))
    assert WaveNet.from_pretrained(tmp_path).config == model.config


def test_engines_agree_on_another_number_of_codes() -> None:
    model, uniforms = with_classes(64, torch.float64), some_uniforms(3, 60)
    codes = [
        build_engine(model, 3, engine=name, precision="float64").sample(uniforms, Sampling())
        for name in ("naive", "step", "cached")
    ]
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])
    assert codes[0].max() < 64 and len(codes[0].unique()) > 20
    native = build_engine(model.float(), 3, engine="native").sample(uniforms, Sampling())
    assert (native == codes[0]).float().cumprod(dim=1).mean() > 0.8  # may part on an edge


def test_a_number_of_codes_that_fills_no_vectors_is_refused_by_name_and_auto_goes_on() -> None:
    model = with_classes(100)
    with pytest.raises(EngineUnavailable, match=r"native engine .*multiple of 16 .*has 100"):
        build_engine(model, 1, engine="native")
    audio = generate(model, num_samples=20)
    assert torch.equal(audio, generate(model, num_samples=20, engine="cached"))


def test_bits_of_another_number_of_codes_are_under_its_uniform_guess() -> None:
    model = WaveNet(1, 2, residual_channels=5, gate_channels=5, skip_channels=5, output=MuLaw(64))
    with torch.no_grad():
        for parameter in model.head[3].parameters():
            parameter.zero_()
    assert bits_per_sample(model, torch.zeros(30)) == pytest.approx(math.log2(64))


def test_guidance_pushes_the_first_of_each_two_away_from_the_second() -> None:
    params = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 2.0], [1.0, 3.0]])
    assert guided(params, 0.5).tolist() == [[1.5, 0.0], [2.5, 1.5]]
    assert torch.equal(guided(params, 0.0), params[::2])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_params_that_are_not_finite_are_refused(bad: float) -> None:
    params: Tensor = torch.zeros(2, 5)
    require_finite(params)
    params[1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        require_finite(params)


def test_uniforms_of_another_number_a_sample_are_refused() -> None:
    engine = build_engine(small_model(), 2, engine="cached", precision="float64")
    with pytest.raises(ValueError, match=r"from 1 uniforms.*\(2, 5, 3\)"):
        engine.sample(torch.rand(2, 5, 3), Sampling())


# Codes of equal width


@pytest.mark.parametrize("classes", [2, 256, 1000])
def test_linear_codes_are_equal_parts_of_the_audio(classes: int) -> None:
    output = Linear(classes)
    codes = torch.arange(classes)
    lower = 2 * codes.double() / classes - 1
    assert torch.equal(output.encode(lower + 0.001 / classes), codes)
    assert torch.equal(output.encode(lower + 1.999 / classes), codes)
    assert torch.equal(output.encode(torch.tensor([-5.0, 1.0])), torch.tensor([0, classes - 1]))
    assert output.silence == int(output.encode(torch.zeros(1)))
    assert float(output.decode(torch.tensor(output.silence))) == 0
    if math.log2(classes).is_integer():  # else float32 may lie just under a part's edge
        assert torch.equal(output.encode(output.decode(codes)), codes)


def test_linear_codes_are_drawn_by_every_engine_and_saved(tmp_path: Path) -> None:
    model = small_model(dtype=torch.float32, output=Linear(256))
    expected = generate(model, num_samples=60, seed=3, engine="naive")
    for engine in ("cached", "native"):
        assert torch.equal(generate(model, num_samples=60, seed=3, engine=engine), expected)
    model.save_pretrained(tmp_path)
    assert WaveNet.from_pretrained(tmp_path).output == Linear(256)


def test_linear_codes_have_other_words_for_what_they_refuse() -> None:
    with pytest.raises(ValueError, match="Linear needs an integer number of classes"):
        Linear(1)
    with pytest.raises(ValueError, match=r"Linear\(256\).decode takes codes in 0..255, .* -1 to 4"):
        Linear().decode(torch.tensor([-1, 4]))
    with pytest.raises(ValueError, match=r"Linear.decode takes integer codes in 0..255, but got"):
        Linear().decode(torch.zeros(2))
