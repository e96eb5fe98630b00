"""A source of known entropy: the bits of a trained model come within 2% of it, and not below it.

The source is an autoregression on its own mu-law codes, so it has no state hidden from the model:

    x_t = 2 r cos(w) d(c_{t-1}) - r^2 d(c_{t-2}) + sigma n_t,    c_t = encode(x_t)

with d = decode and n_t normal.

p(c_t | c_{t-1}, c_{t-2}) is then exactly the normal probability of the interval of audio that
encodes to c_t. There is silence before the first sample, as for the model. The mean of -log2 p over
a realisation estimates the entropy rate.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import pytest
import soundfile
import torch
from tiny_corpora import codes_of
from tiny_runs import RATE, module, trainer
from torch import Tensor

import wavenet
from wavenet.likelihood import nats_per_sample
from wavenet.training.callbacks import WeightAverage, averaged_network
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet

CODEC = wavenet.MuLaw()
RADIUS, ANGLE = 0.9, 2 * math.pi * 0.05  # a resonance at a twentieth of the sample rate
SIGMA = 0.05
CLIPS, LENGTH = 160, 8000
STEPS = 600


def edges() -> Tensor:
    """(Q - 1,) float64: the audio at the border of every two neighbouring codes.

    The inverse of the codec's curve, half-way between the codes.
    """
    between = (torch.arange(1, CODEC.classes, dtype=torch.float64) - 0.5) / CODEC.mu * 2 - 1
    return torch.sign(between) * torch.expm1(between.abs() * math.log1p(CODEC.mu)) / CODEC.mu


def predicted(codes: Tensor) -> Tensor:
    """codes (B, T) -> the mean of x_{t+1} given the codes up to t, (B, T) float64."""
    audio = CODEC.decode(codes).double()
    silence = CODEC.decode(torch.tensor([CODEC.silence])).double()
    earlier = torch.cat([silence.expand(len(codes), 1), audio[:, :-1]], dim=1)
    return 2 * RADIUS * math.cos(ANGLE) * audio - RADIUS**2 * earlier


def exact_bits(codes: Tensor) -> Tensor:
    """codes (B, T) -> -log2 p of each code given the previous ones, (B, T) float64."""
    silence = codes.new_full((len(codes), 1), CODEC.silence)
    mean = predicted(torch.cat([silence, codes[:, :-1]], dim=1))
    limits = torch.cat([torch.tensor([-math.inf]), edges(), torch.tensor([math.inf])])
    # Intervals above the mean are mirrored below it: differences of cdfs near 1 lose precision.
    low, high = (limits[codes + side] - mean for side in (0, 1))
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    p = torch.special.ndtr(high / SIGMA) - torch.special.ndtr(low / SIGMA)
    return -torch.log2(p)


def draw(clips: int, length: int, seed: int) -> Tensor:
    """Codes (clips, length) drawn from the source."""
    generator = torch.Generator().manual_seed(seed)
    noise = SIGMA * torch.randn(clips, length, dtype=torch.float64, generator=generator)
    codes = torch.full((clips, 2), CODEC.silence)
    drawn = []
    for t in range(length):
        codes = torch.stack(
            [codes[:, 1], CODEC.encode(predicted(codes)[:, 1] + noise[:, t])], dim=1
        )
        drawn.append(codes[:, 1])
    return torch.stack(drawn, dim=1)


@dataclass(frozen=True)
class Mean:
    value: float
    error: float  # standard error

    @classmethod
    def of_clips(cls, values: Tensor) -> "Mean":
        """The mean of values (B, T) with independent rows."""
        means = values.mean(dim=1)
        return cls(float(means.mean()), float(means.std() / math.sqrt(len(means))))


def test_the_probabilities_of_the_source_are_those_of_its_codes() -> None:
    """They sum to one after any two codes, and agree with the frequencies of many draws."""
    for first, second in ((128, 128), (10, 250), (200, 180), (255, 255)):
        history = torch.tensor([[first, second]])
        mean = predicted(history)[0, 1]
        every_code = torch.cat([history.expand(256, 2), torch.arange(256)[:, None]], dim=1)
        p = 2 ** -exact_bits(every_code)[:, 2]
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(200_000, dtype=torch.float64, generator=generator)
        draws = mean + SIGMA * noise
        frequencies = torch.bincount(CODEC.encode(draws), minlength=256) / len(draws)
        assert float((frequencies - p).abs().max()) < 5 * 0.5 / math.sqrt(len(draws))


def test_the_source_uses_many_codes_and_is_far_from_uniform() -> None:
    codes = draw(16, 4000, seed=0)
    assert len(codes.unique()) > 200
    assert 3 < Mean.of_clips(exact_bits(codes)).value < 7


def written(codes: Tensor, folder: Path) -> tuple[AudioDataModule, Tensor]:
    """The data module of the codes as float wav files, and its validation codes."""
    for number, clip in enumerate(CODEC.decode(codes)):
        soundfile.write(folder / f"{number:03d}.wav", clip.numpy(), RATE, "FLOAT")
    data = module(
        folder, label_pattern=None, val_pattern=r"0[0-2]\d\.wav", crop_samples=1024, batch_size=8
    )
    clips = data.clips("val")
    held_out = torch.stack([codes_of(data.corpus, clip) for clip in clips]).long()
    numbers = [int(Path(clip.path).stem) for clip in clips]
    assert torch.equal(held_out, codes[numbers]), "the files keep the codes unchanged"
    return data, held_out


@pytest.mark.slow
def test_bits_per_sample_come_within_two_percent_of_the_entropy_and_not_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, held_out = written(draw(CLIPS, LENGTH, seed=1), tmp_path)
    pl.seed_everything(0, verbose=False)
    lit = LitWaveNet(
        cycles=1,
        layers_per_cycle=2,
        residual_channels=32,
        gate_channels=32,
        skip_channels=64,
        learning_rate=5e-3,
        warmup_steps=100,
        weight_decay=0.0,
    )
    runner = trainer(max_steps=STEPS, callbacks=[WeightAverage(decay=0.98)], gradient_clip_val=1.0)
    runner.fit(lit, data)
    (metrics,) = trainer(limit_val_batches=None).validate(lit, data, verbose=False)
    with torch.no_grad():
        model_bits = nats_per_sample(averaged_network(runner, lit), held_out).double() / math.log(2)
    exact = exact_bits(held_out)
    entropy, above = Mean.of_clips(exact), Mean.of_clips(model_bits - exact)
    longer = Mean.of_clips(exact_bits(draw(256, 4000, seed=2)))
    with capsys.disabled():
        print(
            f"\nentropy rate {longer.value:.4f} +- {longer.error:.4f} bits (other realisation), "
            f"{entropy.value:.4f} +- {entropy.error:.4f} (held out); "
            f"validation {metrics['val_bits']:.4f}, above the entropy by "
            f"{above.value:.4f} +- {above.error:.4f}, {100 * above.value / entropy.value:.2f}%"
        )
    assert metrics["val_bits"] == pytest.approx(float(model_bits.mean()), rel=1e-5)
    assert abs(entropy.value - longer.value) < 4 * math.hypot(entropy.error, longer.error)
    assert above.value < 0.02 * entropy.value
    assert above.value > -3 * above.error
