"""Pre-emphasis: audio is filtered before it becomes samples, and back, in every place that does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model
from tiny_runs import RATE

import wavenet
from wavenet import Mel, MixtureOfLogistics, WaveNet, generate, stream
from wavenet.audio import load_audio, save_audio
from wavenet.outputs import deemphasised, emphasised

SHARE = 0.85


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


def model(**settings: Any) -> WaveNet:
    return small_model(preemphasis=SHARE, sample_rate=RATE, **settings).float()


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 500])
def test_the_filters_are_those_of_torchaudio(samples: int) -> None:
    functional = pytest.importorskip("torchaudio.functional")
    audio = noise(2, samples)
    filtered = emphasised(audio, SHARE)
    torch.testing.assert_close(filtered, functional.preemphasis(audio, SHARE))
    torch.testing.assert_close(
        deemphasised(audio, SHARE), functional.deemphasis(audio, SHARE), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(deemphasised(filtered, SHARE), audio, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 50, 64, 100])
def test_samples_become_audio_piece_by_piece(size: int) -> None:
    network, made, last = model(), [], None
    samples = torch.randint(256, (2, 300))
    for piece in samples.split(size, dim=1):
        made.append(network.decode(piece, last))
        last = made[-1][:, -1:]
    torch.testing.assert_close(torch.cat(made, dim=1), network.decode(samples))


def test_noise_of_the_samples_is_less_where_it_is_high() -> None:
    audio, plain = noise(1, 8000), small_model(sample_rate=RATE).float()
    shares = []
    for network in (plain, model()):
        error = (network.decode(network.encode(audio)) - audio).squeeze()
        power = torch.fft.rfft(error).abs().square()
        shares.append(float(power[2000:].sum() / power[:2000].sum()))
    assert shares[1] < 0.3 * shares[0]


@pytest.mark.parametrize("output", [wavenet.MuLaw(256), MixtureOfLogistics(2)])
def test_generated_audio_is_the_samples_of_the_network_filtered_back(output: Any) -> None:
    """The samples are those of the same network without: only what they mean differs."""
    network = model(output=output)
    other = small_model(sample_rate=RATE, output=output).float()
    filtered = generate(other, num_samples=200, batch_size=2, seed=5)
    expected = deemphasised(filtered, SHARE).clamp(-1, 1)
    made = generate(network, num_samples=200, batch_size=2, seed=5)
    torch.testing.assert_close(made, expected)
    chunks = list(stream(network, num_samples=200, batch_size=2, seed=5, chunk_size=7))
    torch.testing.assert_close(torch.cat(chunks, dim=1), expected)


def test_what_follows_a_prompt_goes_on_from_its_last_sample() -> None:
    network, prompt = model(), noise(1, 100)
    other = small_model(sample_rate=RATE).float()
    follows = generate(other, num_samples=1, prompt=emphasised(prompt, SHARE), seed=6)
    heard = network.decode(network.encode(prompt))
    made = generate(network, num_samples=1, prompt=prompt, seed=6)
    torch.testing.assert_close(made, follows + SHARE * heard[:, -1:])


def test_a_shorter_clip_is_followed_by_silence() -> None:
    made = generate(model(), num_samples=[200, 100], batch_size=2, seed=5)
    torch.testing.assert_close(made[1:, :100], generate(model(), num_samples=100, seed=6))
    assert made[1, 100:].abs().max() < 1e-4


def test_bits_are_those_of_the_filtered_audio() -> None:
    audio, other = noise(2, 300), small_model(sample_rate=RATE).float()
    expected = wavenet.bits_per_sample(other, emphasised(audio, SHARE))
    assert wavenet.bits_per_sample(model(), audio) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mel", [None, Mel(bands=6, hop=20, window=50)])
def test_training_scores_what_bits_per_sample_does(mel: Mel | None, tmp_path: Path) -> None:
    """Every clip from its first sample on, in rows that begin in its midst too."""
    from lightning.pytorch import Trainer

    from wavenet.training.data import AudioDataModule
    from wavenet.training.module import LitWaveNet

    for index in range(4):
        save_audio(tmp_path / f"{index}.wav", noise(1, 3000 + index, seed=index)[0], RATE)
    data = AudioDataModule(
        root=str(tmp_path),
        sample_rate=RATE,
        crop_samples=256,
        batch_size=2,
        val_pattern=r"[23]\.wav",
    )
    module = LitWaveNet(preemphasis=SHARE, cycles=1, layers_per_cycle=3, mel=mel)
    trainer = Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        default_root_dir=tmp_path / "run",
    )  # fmt: skip
    (scores,) = trainer.validate(module, data, verbose=False)
    clips = [load_audio(tmp_path / f"{index}.wav", RATE) for index in (2, 3)]
    counts = torch.tensor([len(clip) for clip in clips])
    each = torch.tensor(wavenet.bits_per_sample(module.network, clips))
    assert scores["val_bits"] == pytest.approx(
        float((each * counts).sum() / counts.sum()), rel=1e-5
    )


def test_it_is_saved_and_left_out_where_there_is_none(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    assert WaveNet.from_pretrained(tmp_path).config.preemphasis == SHARE
    assert "preemphasis" not in small_model().config.settings()


@pytest.mark.parametrize("given", [-0.1, 1, 1.5, "0.85", True, float("nan")])
def test_other_coefficients_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"preemphasis=.*a number from 0 to below 1"):
        WaveNet(1, 2, preemphasis=given)
