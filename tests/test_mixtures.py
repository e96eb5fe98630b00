"""Properties of the outputs over 16-bit levels: a distribution, whoever draws from it.

An engine in float32 places a value by its own sums, and a level is the value rounded: so a level is
judged by how far the value that float64 makes of the same past lies from it.
"""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    LABELS,
    assert_close,
    shifted,
    small_model,
    some_labels,
    steered,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import arguments, load, network, train, trainer, write_corpus
from tiny_runs import module as data_module
from torch import Tensor

import wavenet
from wavenet import (
    Gaussian,
    MixtureOfGaussians,
    MixtureOfLogistics,
    Sampling,
    WaveNet,
    bits_per_sample,
    generate,
)
from wavenet.engines import build_engine
from wavenet.engines.native.engine import NativeEngine
from wavenet.outputs import Mixture, output_from, output_settings
from wavenet.outputs.pcm import encode_pcm

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
LEVELS = torch.arange(65536)
ONE: list[Mixture] = [MixtureOfLogistics(1), Gaussian()]
MANY: list[Mixture] = [MixtureOfLogistics(3), MixtureOfGaussians(3)]
DEFAULT: list[Mixture] = [MixtureOfLogistics(), MixtureOfGaussians()]
MEANS = [-1.3, -1.0, -0.3, 0.999, 1.0]
LOG_SCALES = [-14.0, -11.5, -9.0, -4.0, 1.0, 20.0]
SEEN = 0.05  # levels that the sums of small_model in float32 may be off by
DRAWN = {F32: 0.98, BF16: 0.98, torch.int8: 0.98}  # share of levels equal, from the same parameters
outputs = pytest.mark.parametrize("output", [*ONE, *MANY], ids=str)


def params_of(output: Mixture, mean: float, log_scale: float, dtype: torch.dtype = F64) -> Tensor:
    """(1, Q, 1) of components that are all the same. The mean is one that float32 has."""
    params = torch.zeros(1, output.channels, 1, dtype=dtype)
    n = output.components
    params[:, -2 * n : -n], params[:, -n:] = float(torch.tensor(mean)), log_scale
    return params


def random_params(output: Mixture, rows: int, seed: int = 0) -> Tensor:
    """(rows, Q) in float64: means in audio's range, scales of tens of levels and more."""
    generator, n = torch.Generator().manual_seed(seed), output.components
    params = torch.randn(rows, output.channels, generator=generator, dtype=F64)
    params[:, -2 * n : -n] *= 0.3
    params[:, -n:] -= 4
    return params


def mixture_model(output: Mixture, dtype: torch.dtype = F64, **other: Any) -> WaveNet:
    """`small_model`, whose means are of a deviation of 0.3 and whose scales lie around e^-4."""
    model, n = small_model(output=output, **other), output.components
    with torch.no_grad():
        for parameter in model.head[3].parameters():
            parameter[-2 * n :] *= 0.15
        model.head[3].bias[-n:] -= 4  # type: ignore[index]
    return model.to(dtype)


def some_levels(batch_size: int, time: int) -> Tensor:
    return torch.randint(65536, (batch_size, time), generator=torch.Generator().manual_seed(1))


def uniforms_of(output: Mixture, batch_size: int, time: int) -> Tensor:
    shape = (batch_size, time, output.uniforms)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


# Levels


def test_levels_are_evenly_spaced_and_come_back() -> None:
    output = MixtureOfLogistics()
    audio = output.decode(LEVELS)
    assert audio.dtype == F32 and audio[0] == -1 and audio[-1] == 1
    assert (audio.double() - (-1 + 2 * LEVELS.double() / 65535)).abs().max() < 1e-7
    assert torch.equal(output.encode(audio), LEVELS)


@pytest.mark.parametrize("dtype", [F64, F32])
def test_audio_becomes_the_nearest_level(dtype: torch.dtype) -> None:
    output = MixtureOfLogistics()
    audio = (2 * torch.rand(5000, generator=torch.Generator().manual_seed(0)) - 1).to(dtype)
    levels = output.encode(audio)
    assert (output.decode(levels) - audio).abs().max() < 1 / 65535 + 1e-7
    assert output.encode(torch.tensor([-7.0, 7.0])).tolist() == [0, 65535]
    assert output.silence == int(output.encode(torch.zeros(1))) == 32768


def test_pcm_has_a_level_each_but_that_0_and_1_share_one() -> None:
    """And they come in the smallest type that holds them."""
    pcm = torch.arange(-32768, 32768, dtype=torch.int16)
    levels = encode_pcm(MixtureOfLogistics(), pcm)
    assert levels.dtype == torch.int32
    assert torch.equal(levels.diff() == 0, pcm[1:] == 1) and int(levels.diff().max()) == 1


def test_what_is_no_audio_and_no_level_is_refused() -> None:
    output = MixtureOfLogistics()
    with pytest.raises(ValueError, match=r"MixtureOfLogistics.encode .*1 NaN"):
        output.encode(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match=r"MixtureOfLogistics.encode takes floating-point audio"):
        output.encode(torch.tensor([3]))
    with pytest.raises(ValueError, match=r"levels in 0\.\.65535, but got values from -1 to 5"):
        output.decode(torch.tensor([-1, 5]))
    with pytest.raises(ValueError, match=r"levels in 0\.\.65535, but got torch.float32"):
        output.decode(torch.zeros(2))
    with pytest.raises(
        ValueError, match=r"integer levels in 0\.\.65535, but got values from 0 to 65536"
    ):
        bits_per_sample(mixture_model(output), torch.tensor([0, 65536]))


@pytest.mark.parametrize("output", [*ONE, *MANY, *DEFAULT], ids=str)
def test_an_output_comes_back_from_its_settings(output: Mixture) -> None:
    assert output_from(output_settings(output)) == output
    assert getattr(wavenet, type(output).__name__) is type(output)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixtures": 0}, "at least 1 and at most 1000, but got 0"),
        ({"mixtures": 2.5}, "at least 1 and at most 1000, but got 2.5"),
        ({"log_scale_min": 0.0}, "log_scale_min in -40..0"),
        ({"log_scale_min": math.nan}, "log_scale_min in -40..0"),
    ],
)
def test_fields_that_make_no_distribution_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureOfLogistics(**fields)


# Likelihood


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize("mean", MEANS)
@outputs
def test_probabilities_of_all_levels_sum_to_one(
    output: Mixture, mean: float, log_scale: float
) -> None:
    for dtype, tolerance in ((F64, 1e-12), (F32, 1e-5)):
        params = params_of(output, mean, log_scale, dtype)
        total = output.nats(params, LEVELS[None]).double().neg().exp().sum()
        assert abs(float(total) - 1) < tolerance, dtype


def edges_cdf(output: Mixture, mean: float, log_scale: float) -> Tensor:
    """The CDF at the 65,537 edges of the levels, the outermost ones at infinity. Plain."""
    edges = (2 * torch.arange(65537, dtype=F64) - 1) / 65535 - 1
    edges[0], edges[-1] = -math.inf, math.inf
    z = (edges - float(torch.tensor(mean))) / math.exp(log_scale)
    if isinstance(output, MixtureOfLogistics):
        return z.sigmoid()
    return torch.special.erfc(-z / math.sqrt(2)) / 2


@pytest.mark.parametrize("log_scale", [-12.0, -10.4, -5.0, 1.0])
@pytest.mark.parametrize("mean", MEANS)
@outputs
def test_a_probability_is_a_difference_of_two_values_of_the_cdf(
    output: Mixture, mean: float, log_scale: float
) -> None:
    found = output.nats(params_of(output, mean, log_scale), LEVELS[None])[0].neg().exp()
    expected = edges_cdf(output, mean, log_scale).diff()
    assert (found - expected).abs().max() < 1e-10
    assert expected.max() > 1e-6


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize("mean", MEANS)
@outputs
def test_float32_and_its_gradients_are_those_of_float64(
    output: Mixture, mean: float, log_scale: float
) -> None:
    """At every 97th level, the outermost ones among them, and near the mean."""
    near = round((mean + 1) * 32767.5) + torch.arange(-40, 41)
    levels = torch.cat([LEVELS[::97], LEVELS[-1:], near.clamp(0, 65535)])
    found = []
    for dtype in (F64, F32):
        params = params_of(output, mean, log_scale, dtype).expand(-1, -1, len(levels))
        params = params.clone().requires_grad_()
        nats = output.nats(params, levels[None])
        (gradients,) = torch.autograd.grad(nats.sum(), params)
        assert nats.dtype == dtype and nats.isfinite().all() and gradients.isfinite().all()
        found.append((nats.detach().double(), gradients.double()))
    for exact, close in zip(*found, strict=True):
        assert ((exact - close).abs() / exact.abs().clamp(min=1)).max() < 2e-4


@settings(max_examples=150, deadline=None)
@given(
    mean=st.floats(-10, 10, width=32),
    log_scale=st.floats(-1e6, 1e6, width=32),
    logit=st.floats(-1e4, 1e4, width=32),
    level=st.sampled_from([0, 1, 32767, 32768, 40000, 65534, 65535]),
)
def test_nothing_makes_a_likelihood_or_a_gradient_that_is_not_finite(
    mean: float, log_scale: float, logit: float, level: int
) -> None:
    for output in (*ONE, *MANY):
        params = params_of(output, mean, log_scale, F32)
        params[:, 0] += logit
        params.requires_grad_()
        nats = output.nats(params, torch.tensor([[level]]))
        (gradients,) = torch.autograd.grad(nats.sum(), params)
        assert nats.isfinite().all() and gradients.isfinite().all() and nats.min() > -1e-6
        uniforms = torch.tensor([[0.0] * output.uniforms, [1 - 2**-24] * output.uniforms])
        drawn = output.draw(params[..., 0].detach().expand(2, -1), uniforms, Sampling(1.3))
        assert 0 <= int(drawn.min()) <= int(drawn.max()) <= 65535


@pytest.mark.parametrize("output", MANY, ids=str)
def test_a_mixture_weighs_its_components(output: Mixture) -> None:
    params, n = random_params(output, 4), output.components
    single = type(output)(mixtures=1)  # type: ignore[call-arg]
    weights, expected = params[:, :n].softmax(-1), torch.zeros(4, 65536, dtype=F64)
    for i in range(n):
        alone = params[:, [i, n + i, 2 * n + i], None].expand(-1, -1, 65536)
        expected += weights[:, i : i + 1] * single.nats(alone, LEVELS[None]).neg().exp()
    assert_close(output.nats(params[..., None], LEVELS[None]).neg().exp(), expected)


# Draw


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@outputs
def test_drawn_levels_have_the_distribution(output: Mixture, temperature: float) -> None:
    """Kolmogorov and Smirnov's bound, for a chance of one in a million to fail a right one."""
    count, (row,) = 20000, random_params(output, 1, seed=5)
    uniforms = uniforms_of(output, count, 1)[:, 0]
    drawn = output.draw(row.expand(count, -1), uniforms, Sampling(temperature))
    n, warm = output.components, row.clone()
    warm[: -2 * n] /= temperature
    warm[-n:] += math.log(temperature)
    cdf = output.nats(warm[None, :, None], LEVELS[None])[0].neg().exp().cumsum(0)
    found = drawn.bincount(minlength=65536).cumsum(0) / count
    assert (found - cdf).abs().max() < math.sqrt(math.log(2e6) / (2 * count))
    assert len(drawn.unique()) > 500 and drawn.dtype == torch.int64


@outputs
def test_tails_fall_on_the_outermost_levels(output: Mixture) -> None:
    for mean, level in ((-1.1, 0), (1.1, 65535)):
        params = params_of(output, mean, -5.0)[..., 0].expand(500, -1)
        drawn = output.draw(params, uniforms_of(output, 500, 1)[:, 0], Sampling())
        assert (drawn == level).float().mean() > 0.99


@outputs
def test_no_temperature_takes_the_mean_of_the_likeliest_component(output: Mixture) -> None:
    params, n = random_params(output, 50), output.components
    best = params[:, : -2 * n].argmax(-1) if output.weighted else torch.zeros(50, dtype=torch.long)
    means = params[:, -2 * n : -n].gather(1, best[:, None])[:, 0]
    for temperature in (0.0, 1e-30):
        drawn = output.draw(params, uniforms_of(output, 50, 1)[:, 0], Sampling(temperature))
        assert torch.equal(drawn, output.encode(means))


@pytest.mark.parametrize("engine", ["naive", "step", "cached", "native"])
@outputs
def test_ways_to_draw_that_need_logits_are_refused_by_name(output: Mixture, engine: str) -> None:
    model = mixture_model(output, F32, labels=LABELS, unlabelled=True)
    for knob in ({"top_k": 5}, {"top_p": 0.9}, {"guidance": 1.0}):
        ((name, value),) = knob.items()
        message = f"{name}={value}: {type(output).__name__} is a continuous .* Leave out {name}"
        with pytest.raises(ValueError, match=message):
            generate(model, num_samples=4, engine=engine, **knob)
        with pytest.raises(ValueError, match=message):
            output.draw(random_params(output, 1), torch.rand(1, output.uniforms), Sampling(**knob))
        built = build_engine(model, 1, engine=engine, group=2)
        condition = model.condition(some_labels(2))
        with pytest.raises(ValueError, match=message):
            built.sample(uniforms_of(output, 1, 4), Sampling(**knob), condition)
    assert generate(model, num_samples=4, engine=engine).shape == (1, 4)


# A model


@pytest.mark.parametrize("output", [*ONE, *DEFAULT], ids=str)
def test_an_untrained_model_is_near_the_uniform_guess_of_16_bits(output: Mixture) -> None:
    torch.manual_seed(0)
    model = WaveNet(1, 4, residual_channels=16, gate_channels=16, skip_channels=32, output=output)
    tone = 0.3 * torch.sin(torch.arange(1500) * 0.1)
    noise = 2 * torch.rand(1500) - 1
    for audio in (tone, noise, torch.zeros(1500)):
        assert 15 < bits_per_sample(model, audio) < 16.7


@outputs
def test_bits_are_the_same_exact_and_chunked(output: Mixture) -> None:
    model, levels = mixture_model(output, labels=LABELS), some_levels(2, 90)
    named = {"digit": ["0", "1"], "speaker": ["bob", "ann"]}
    with torch.no_grad():
        nats = output.nats(model(shifted(model, levels), some_labels(2)), levels)
    expected = float(nats.mean()) / math.log(2)
    for chunk_size in (1, 13, 90, 1000):
        bits = bits_per_sample(model, levels, named, chunk_size=chunk_size)
        assert bits == pytest.approx(expected, rel=1e-12)
    assert bits_per_sample(model, output.decode(levels), named) == pytest.approx(expected)


def test_a_model_is_saved_with_its_output(tmp_path: Path) -> None:
    model = mixture_model(MixtureOfLogistics(3, -12.0), F32)
    model.save_pretrained(tmp_path)
    again = WaveNet.from_pretrained(tmp_path)
    assert again.config == model.config and again.output == MixtureOfLogistics(3, -12.0)
    levels = some_levels(2, 30)
    assert torch.equal(again(levels), model(levels))


def test_parameters_are_float32_under_autocast_and_in_a_model_of_bfloat16() -> None:
    """A mean in bfloat16 would be one of 256 between 1/2 and 1."""
    model, levels = mixture_model(MixtureOfLogistics(3), F32), some_levels(3, 60)
    exact = model(levels)
    with torch.autocast("cpu", torch.bfloat16):
        assert_rounded_inside_alone(model(levels), exact)
    assert_rounded_inside_alone(model.to(BF16)(levels), exact)


def assert_rounded_inside_alone(params: Tensor, exact: Tensor) -> None:
    assert params.dtype == F32
    assert (params - exact).abs().max() < 0.1 * exact.abs().max()
    assert not torch.equal(params, params.to(BF16).float())


# Engines


def distances(
    model: WaveNet, levels: Tensor, uniforms: Tensor, sampling: Sampling, prompt: Tensor
) -> Tensor:
    """(B, T): how far each level is from the value that float64 draws after the same past."""
    output, model = model.output, model.to(F64)
    assert isinstance(output, Mixture)
    heard = torch.cat([prompt, levels], dim=1)
    with torch.no_grad():
        params = model(shifted(model, heard), some_labels(len(levels)) if model.labels else None)
    params = params[..., prompt.shape[1] :].transpose(1, 2).flatten(0, 1)
    logits, means, log_scales = output.split(params)
    noise = output.noise(uniforms.flatten(0, 1))
    values = 32767.5 * (means + sampling.temperature * log_scales.exp() * noise[:, -1:])
    if output.weighted:  # within float error of an edge, either component will do
        nudged = [(noise[:, 0] + nudge).clamp(0, 1) for nudge in (-1e-5, 0, 1e-5)]
        values = values.gather(1, torch.stack([sampling.draw(logits, u) for u in nudged], dim=1))
    lower = levels.flatten()[:, None] - 32768
    values = values.clamp(-32768, 32767)
    outside = torch.maximum(lower - values, values - lower - 1).clamp(min=0)
    return outside.min(dim=1).values.view(levels.shape)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(0.0)], ids=str)
@pytest.mark.parametrize("labels", [None, LABELS], ids=["plain", "labels"])
@outputs
def test_engines_give_the_same_levels_from_the_same_uniforms(
    output: Mixture, labels: Any, sampling: Sampling
) -> None:
    model, uniforms = mixture_model(output, labels=labels), uniforms_of(output, 3, 150)
    prompt, drawn = some_levels(3, 20), []
    for name in ("naive", "step", "cached"):
        engine = steered(build_engine(model, 3, engine=name, precision="float64"), model, 3)
        engine.prime(prompt)
        pieces = [engine.sample(piece, sampling) for piece in uniforms.tensor_split([1, 50], dim=1)]
        drawn.append(torch.cat(pieces, dim=1))
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert distances(model, drawn[0], uniforms, sampling, prompt).max() < 1e-6
    assert min(len(row.unique()) for row in drawn[0]) > 20


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(0.0)], ids=str)
@pytest.mark.parametrize("name", ["cached", "native"])
@outputs
def test_levels_in_float32_are_those_of_float64_but_for_rounding(
    output: Mixture, name: str, sampling: Sampling
) -> None:
    model, uniforms = mixture_model(output, F32, labels=LABELS), uniforms_of(output, 5, 300)
    prompt, engine = some_levels(5, 20), steered(build_engine(model, 5, engine=name), model, 5)
    engine.prime(prompt)
    drawn = torch.cat([engine.sample(x, sampling) for x in uniforms.split(90, dim=1)], dim=1)
    off = distances(model, drawn, uniforms, sampling, prompt)
    print(f"off by {off.max():.4f}, {int((off > 0).sum())} of {off.numel()}")
    assert off.max() < SEEN and (off > 0).float().mean() < 0.05


@pytest.mark.parametrize("dtype", [F32, BF16, torch.int8])
@outputs
def test_native_draws_from_its_parameters_as_the_output_does(
    output: Mixture, dtype: torch.dtype
) -> None:
    """Its own, teacher forced; and they are the model's, but for the dtype's rounding."""
    model, uniforms = mixture_model(output, F32, labels=LABELS), uniforms_of(output, 5, 200)

    def engine() -> Any:
        parts = wavenet.engines.take_apart(model)
        return steered(NativeEngine(parts, 5, dtype), model, 5)

    drawn = engine().sample(uniforms, Sampling(0.9))
    params = engine().teacher_forced(drawn)
    assert_drawn_from(output, params, uniforms, Sampling(0.9), drawn, DRAWN[dtype])
    with torch.no_grad():
        exact = model(shifted(model, drawn), some_labels(5))
    if dtype == F32:
        assert_close(params, exact)
    else:
        error = float((params - exact).abs().max() / exact.abs().max())
        assert 1e-5 < error < {BF16: 0.04, torch.int8: 0.1}[dtype]


def assert_drawn_from(
    output: Mixture,
    params: Tensor,
    uniforms: Tensor,
    sampling: Sampling,
    drawn: Tensor,
    share: float,
) -> None:
    """params (B, Q, T): all levels are the output's or neighbours of them, and most are equal."""
    again = [
        output.draw(params[..., t], uniforms[:, t], sampling) for t in range(uniforms.shape[1])
    ]
    away = (torch.stack(again, dim=1) - drawn).abs()
    assert away.max() <= 1 and (away == 0).float().mean() >= share


@pytest.mark.parametrize("name", ["cached", "native"])
@outputs
def test_a_seed_sounds_the_same_in_every_batch(output: Mixture, name: str) -> None:
    """In float64, and natively to the bit."""
    model = mixture_model(output, F32 if name == "native" else F64)
    how = {"engine": name, "precision": "float32" if name == "native" else "float64"}
    together = generate(model, num_samples=60, batch_size=3, seed=4, **how)
    for index in range(3):
        alone = generate(model, num_samples=60, seed=4 + index, **how)
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(together[0], together[1])
    cut = generate(model, num_samples=[60, 7, 30], batch_size=3, seed=4, **how)
    assert torch.equal(cut[1, :7], together[1, :7]) and cut[1, 7:].abs().max() < 1e-4


# Training


@pytest.mark.parametrize("output", [*DEFAULT, Gaussian()], ids=str)
def test_training_lowers_the_loss(output: Mixture, tmp_path: Path) -> None:
    data, lit, losses = (
        data_module(write_corpus(tmp_path / "audio")),
        network(output=output, learning_rate=0.03),
        [],
    )
    step = type(lit).training_step

    def watched(batch: Any, batch_idx: int) -> Tensor:
        assert lit._samples(batch).dtype == torch.int32
        loss = step(lit, batch, batch_idx)
        losses.append(float(loss.detach()) / math.log(2))
        return loss

    lit.training_step = watched  # type: ignore[method-assign]
    trainer(max_steps=60).fit(lit, data)
    assert 14 < losses[0] < 17 and sum(losses[-5:]) / 5 < losses[0] - 1
    assert lit.hparams["output"] == output_settings(output)


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (
            ["--model.output", "MixtureOfLogistics", "--model.output.mixtures", "3"],
            MixtureOfLogistics(3),
        ),
        (["--model.output", "wavenet.Gaussian"], Gaussian()),
    ],
    ids=["by-name", "by-path"],
)
def test_an_output_is_chosen_on_the_command_line_and_stays_with_the_run(
    flags: list[str],
    output: Mixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    train(*arguments(write_corpus(tmp_path / "audio"), name="run"), *flags)
    run = tmp_path / "runs" / "run"
    assert WaveNet.from_pretrained(run / "model").output == output
    stands = rf"class_path: wavenet\.(\w+\.)*{type(output).__name__}\n"
    assert re.search(stands, (run / "config.yaml").read_text())
    assert "(uniform: 16.000)" in capsys.readouterr().out
    last = run / "checkpoints" / "last.ckpt"
    assert load(last)["hyper_parameters"]["output"] == output_settings(output)
    assert wavenet.checkpoints.load_model(last).output == output
    train("validate", "--ckpt_path", last)
    train("fit", "--ckpt_path", last, "--trainer.max_steps", "5")
    assert load(last)["global_step"] == 5
