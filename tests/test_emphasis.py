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
from wavenet.conditioning import match_mel
from wavenet.evaluation.clips import Clips, through_codec
from wavenet.outputs.emphasis import deemphasised, emphasised
from wavenet.outputs.pcm import to_pcm
from wavenet.pretrained.card import card
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet

SHARE = 0.85


def noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


def model(**settings: Any) -> WaveNet:
    return small_model(preemphasis=SHARE, sample_rate=RATE, **settings).float()


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 500])
def test_the_filters_are_those_of_torchaudio(samples: int) -> None:
    from torchaudio import functional

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
    silent = float(output.decode(torch.tensor(output.silence)))
    expected = deemphasised(filtered - silent, SHARE).clamp(-1, 1)
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
    silent = float(other.decode(torch.tensor(128)))
    torch.testing.assert_close(made, follows - silent + SHARE * heard[:, -1:])


def test_a_shorter_clip_is_followed_by_silence() -> None:
    made = generate(model(), num_samples=[200, 100], batch_size=2, seed=5)
    torch.testing.assert_close(made[1:, :100], generate(model(), num_samples=100, seed=6))
    assert not made[1, 100:].any()


def test_bits_are_those_of_the_filtered_audio() -> None:
    audio, other = noise(2, 300), small_model(sample_rate=RATE).float()
    filtered = to_pcm(emphasised(audio, SHARE)) / 32768
    expected = wavenet.bits_per_sample(other, filtered)
    assert wavenet.bits_per_sample(model(), audio) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mel", [None, Mel(bands=6, hop=20, window=50)])
@pytest.mark.parametrize("training", [True, False])
def test_rows_hold_the_samples_of_their_clip(
    mel: Mel | None, training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a clip's beginning, and in rows that begin in its midst."""
    monkeypatch.setattr("wavenet.training.data.SHORTEST_PIECE", 256)
    for index in range(4):
        save_audio(tmp_path / f"{index}.wav", noise(1, 3000 + index, seed=index)[0], RATE)
    pattern = r"[23]\.wav"
    data = AudioDataModule(
        root=str(tmp_path), sample_rate=RATE, crop_samples=256, batch_size=2, val_pattern=pattern
    )
    lit = LitWaveNet(
        preemphasis=SHARE, cycles=1, layers_per_cycle=3, mel=mel, sample_rate=RATE, labels={}
    )
    lit.configure_model()
    data.framing, data.receptive_field = lit.framing, lit.receptive_field
    data.setup("fit")
    numbers = (0, 1) if training else (2, 3)
    clips = [load_audio(tmp_path / f"{index}.wav", RATE) for index in numbers]
    wanted = [lit.network.encode(clip).tolist() for clip in clips]
    starts = set()
    for batch in data.train_dataloader() if training else data.val_dataloader():
        for row, place, scored in zip(
            lit._samples(batch), batch["position"], batch["scored"], strict=True
        ):
            (start, length), (first, last) = place.tolist(), scored.tolist()
            whole = next(each for each in wanted if len(each) == length)
            made = row[1:].tolist()[first:last]
            assert made == whole[start + first : start + last] and made
            assert start == 0 or row[0] == whole[start - 1]
            starts.add(start > 0)
    assert starts >= ({True} if training else {True, False})


def test_other_numbers_are_clipped_as_16_bit_audio_is() -> None:
    loud = torch.tensor([[-1.0, 1.0, -1.0, 1.0]])
    assert model().encode(loud).tolist() == [[0, 255, 0, 255]]
    with pytest.raises(ValueError, match="got 1 NaN"):
        model().encode(torch.tensor([0.0, float("nan"), 0.0]))


@pytest.mark.parametrize("shape", [(3,), (0,), (2, 0), (2, 3, 70)])
def test_samples_of_any_shape_become_audio(shape: tuple[int, ...]) -> None:
    samples = torch.full(shape, 128)
    made = model().decode(samples)
    assert made.shape == shape and made.dtype == torch.float32 and not made.any()


def test_audio_becomes_samples_piece_by_piece() -> None:
    network, audio = model(), noise(2, 300)
    pieces = [
        network.encode(audio[:, start : start + 70], audio[:, start - 1 : start] if start else None)
        for start in range(0, 300, 70)
    ]
    assert torch.equal(torch.cat(pieces, dim=1), network.encode(audio))


def test_bits_of_samples_take_the_mel_frames_of_their_audio() -> None:
    network = model(mel=Mel(bands=6, hop=20, window=50))
    samples = network.encode(noise(1, 300))
    frames = network.mel.spectrogram(network.decode(samples), RATE)  # type: ignore[union-attr]
    expected = wavenet.bits_per_sample(network, samples, mel=frames)
    assert wavenet.bits_per_sample(network, samples) == pytest.approx(expected, rel=1e-6)


def test_a_prompt_is_filtered_back_before_it_is_matched() -> None:
    mel = Mel(bands=6, hop=20, window=50)
    network, prompt = model(mel=mel), noise(1, 60)
    frames = mel.spectrogram(noise(1, 240, seed=1), RATE)
    drawn = generate(network, mel=frames, prompt=prompt, seed=3)
    heard = torch.cat([network.decode(network.encode(prompt)), drawn], dim=1)
    expected = match_mel(heard, frames, mel, RATE, passes=1)[:, 60:]
    made = generate(network, mel=frames, prompt=prompt, seed=3, match_mel=1)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)


def test_clips_through_the_samples_and_back_are_near() -> None:
    audio = noise(2, 300)
    clips = Clips(audio, torch.tensor([300, 300]), {})
    error = (through_codec(clips, model()).audio - audio).abs().max()
    assert 0 < error < 0.02


def test_a_card_names_it() -> None:
    text = card("somebody/voice", model()._facts())
    assert "| samples | MuLaw, 256 levels, of audio with preemphasis 0.85 |" in text


def test_it_is_saved_and_left_out_where_there_is_none(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    assert WaveNet.from_pretrained(tmp_path).config.preemphasis == SHARE
    assert "preemphasis" not in small_model().config.settings()


@pytest.mark.parametrize("given", [-0.1, 1, 1.5, "0.85", True, float("nan")])
def test_other_coefficients_are_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"preemphasis=.*a number from 0 to below 1"):
        WaveNet(1, 2, preemphasis=given)
