"""Properties of reading, resampling and writing audio files. All audio is synthesised here."""

import logging
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from wavenet.audio import load_audio, read_audio, resample, save_audio


def tone(
    seconds: float = 0.5, rate: int = 16000, hz: float = 440.0, level: float = 0.5
) -> np.ndarray:
    return level * np.sin(2 * math.pi * hz * np.arange(round(seconds * rate)) / rate)


def frequency(audio: torch.Tensor, rate: int) -> float:
    """The strongest frequency in Hz, interpolated between bins by zero padding."""
    padded = torch.fft.rfft(
        audio.double() * torch.hann_window(len(audio), dtype=torch.float64), n=2**19
    ).abs()
    return float(padded.argmax()) * rate / 2**19


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", "PCM_U8", 1 / 100),
        (".wav", "PCM_16", 1 / 32768),
        (".wav", "PCM_24", 1e-6),
        (".wav", "FLOAT", 1e-7),
        (".wav", "DOUBLE", 1e-7),
        (".flac", "PCM_16", 1 / 32768),
        (".aiff", "PCM_16", 1 / 32768),
        (".ogg", "VORBIS", 0.05),
        (".mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_every_format_gives_back_the_audio(
    tmp_path: Path, suffix: str, subtype: str, tolerance: float
) -> None:
    path, audio = tmp_path / f"a{suffix}", tone()
    soundfile.write(path, audio, 16000, subtype=subtype)
    samples, rate = read_audio(path)
    assert rate == 16000 and samples.dtype == torch.float32
    assert samples.shape == (1, len(audio))
    np.testing.assert_allclose(samples[0, 1000:-1000], audio[1000:-1000], atol=tolerance)


def test_channels_are_kept_by_read_and_averaged_by_load(tmp_path: Path) -> None:
    path, left = tmp_path / "a.wav", tone()
    soundfile.write(path, np.stack([left, np.zeros_like(left)], axis=1), 16000, subtype="FLOAT")
    assert read_audio(path)[0].shape == (2, len(left))
    np.testing.assert_allclose(load_audio(path), left / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11127, 22050, 44100, 48000, 96000])
def test_resampling_keeps_pitch_level_and_duration(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, rate), rate)
    audio = load_audio(path, 16000)
    assert len(audio) == pytest.approx(16000, abs=20)
    assert frequency(audio, 16000) == pytest.approx(440, rel=1e-3)
    assert float(audio[2000:-2000].abs().max()) == pytest.approx(0.5, abs=0.01)


def test_resampling_removes_frequencies_above_the_new_nyquist_frequency() -> None:
    audio = resample(torch.from_numpy(tone(0.5, 44100, hz=7000)), 44100, 8000)
    assert float(audio[200:-200].abs().max()) < 0.02


def test_resampling_is_logged_with_both_rates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.1, 22050), 22050)
    with caplog.at_level(logging.INFO, "wavenet"):
        load_audio(path, 22050)
        assert not caplog.records
        load_audio(path, 8000)
    assert "22050 Hz to 8000 Hz" in caplog.text and "a.wav" in caplog.text


@pytest.mark.parametrize("rate", [0, -8000, 16000.0, True])
def test_a_rate_that_is_not_a_positive_whole_number_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="positive whole number of Hz"):
        resample(torch.zeros(10), 8000, rate)


@pytest.mark.parametrize("audio", [torch.zeros(10).long(), [0.0, 0.1], None])
def test_what_is_no_audio_is_not_resampled(audio: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a tensor of floating-point audio, but got"):
        resample(audio, 8000, 4000)
    for shape in ((0,), ()):
        with pytest.raises(ValueError, match="at least one sample"):
            resample(torch.zeros(shape), 8000, 4000)


def make_text(path: Path) -> None:
    path.write_text("this is not audio\n" * 20)


def make_nothing(path: Path) -> None:
    path.touch()


def make_header_only(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16000)


def make_nan(path: Path) -> None:
    soundfile.write(path, np.array([0.0, math.nan, math.inf, 0.1]), 16000, subtype="FLOAT")


def header(path: Path, at: int, value: int) -> None:
    """A short 16 kHz wav whose header states something else at that place."""
    soundfile.write(path, tone(0.1), 16000)
    content = bytearray(path.read_bytes())
    content[at : at + 4] = value.to_bytes(4, "little")
    path.write_bytes(content)


def make_zero_hertz(path: Path) -> None:
    header(path, 24, 0)


def make_16_megahertz(path: Path) -> None:
    header(path, 24, 16_000_000)


def make_flac_of_months(path: Path) -> None:
    """Its header states 2**36 - 1 samples: 256 GiB."""
    soundfile.write(path, tone(0.1), 16000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (make_text, "cannot be read as audio"),
        (make_nothing, "cannot be read as audio"),
        (make_header_only, "0 samples"),
        (make_nan, "2 samples that are NaN or infinite"),
        (make_zero_hertz, "cannot be read as audio: .* It is damaged or has another format"),
        (make_16_megahertz, "cannot be used: .*16000000 Hz to 8000 Hz.*factor of more than 1000"),
        (os.mkfifo, "is a pipe, a socket or a device"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_unusable_file_is_refused_by_name_and_reason(
    tmp_path: Path, make: object, reason: str
) -> None:
    path = tmp_path / "broken.wav"
    make(path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=reason) as raised:
        load_audio(path, 8000)
    assert "broken.wav" in str(raised.value)


def test_raw_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(100))
    with pytest.raises(ValueError, match=r"x\.raw' cannot be read as audio"):
        load_audio(tmp_path / "x.raw")


def test_more_audio_than_memory_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "x.wav", tone(1.0), 16000)
    monkeypatch.setattr("wavenet.audio.READ_BLOCK", 1000)
    monkeypatch.setattr("wavenet.audio.memory", lambda device: 128_000.0)
    assert len(load_audio(tmp_path / "x.wav")) == 16000
    with pytest.raises(
        ValueError, match=r"x\.wav.*33000 Hz.*33,000 samples, which take 132 kB; .* has 128 kB of"
    ):
        load_audio(tmp_path / "x.wav", 33000)
    monkeypatch.setattr("wavenet.audio.memory", lambda device: 100_000.0)
    message = r"x\.wav' holds more than 12,500 samples .* with 100 kB of memory"
    with pytest.raises(ValueError, match=message):
        load_audio(tmp_path / "x.wav")


def test_a_file_read_block_by_block_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "x.wav", np.stack([tone(), -tone()], axis=1), 16000)
    whole, _ = read_audio(tmp_path / "x.wav")
    monkeypatch.setattr("wavenet.audio.READ_BLOCK", 999)
    monkeypatch.setattr(soundfile.SoundFile, "frames", property(lambda file: 2**60))
    assert torch.equal(read_audio(tmp_path / "x.wav")[0], whole)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".mp3"])
def test_the_samples_of_a_truncated_file_are_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    soundfile.write(whole, tone(1.0), 16000)
    load_audio(whole)
    assert not caplog.records
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    audio = load_audio(cut)
    assert 4000 < len(audio) < 12000
    stated = re.search(rf"'{cut}' is cut short: its header states about (\d+) samples", caplog.text)
    assert stated is not None and int(stated[1]) == pytest.approx(16000, abs=10)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".aiff"])
def test_reading_by_blocks_leaves_no_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    noise = 0.1 * np.random.default_rng(0).standard_normal((50_000, 2))
    soundfile.write(path, noise, 16000)
    with soundfile.SoundFile(path) as file:
        whole = file.read(dtype="float32", always_2d=True)
    monkeypatch.setattr("wavenet.audio.READ_BLOCK", 7000)
    np.testing.assert_array_equal(read_audio(path)[0], whole.T)


def test_saving_and_loading_16_bit_audio_changes_nothing(tmp_path: Path) -> None:
    audio = torch.arange(-32768, 32768, dtype=torch.float32) / 32768
    save_audio(tmp_path / "deep" / "er" / "a.wav", audio, 22050)
    samples, rate = read_audio(tmp_path / "deep" / "er" / "a.wav")
    assert rate == 22050 and soundfile.info(tmp_path / "deep" / "er" / "a.wav").subtype == "PCM_16"
    assert torch.equal(samples[0], audio)


def test_saving_clips_samples_beyond_full_scale(tmp_path: Path) -> None:
    save_audio(tmp_path / "a.wav", torch.tensor([2.0, -3.0, math.inf, 0.0]), 8000)
    assert read_audio(tmp_path / "a.wav")[0][0].tolist() == [
        32767 / 32768,
        -1.0,
        32767 / 32768,
        0.0,
    ]


@pytest.mark.parametrize(
    ("name", "audio", "message"),
    [
        ("a.wav", torch.zeros(2, 10), r"shape \(time,\)"),
        ("a.wav", torch.zeros(10, dtype=torch.int16), "floating-point"),
        ("a.wav", torch.tensor([0.0, math.nan]), "1 NaN"),
        ("a.wav", [0.0], "a tensor of audio is needed, but got a list"),
        ("a.mp3", torch.zeros(10), "suffix .wav"),
    ],
)
def test_saving_refuses_invalid_audio_and_other_formats(
    tmp_path: Path, name: str, audio: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_audio(tmp_path / name, audio, 8000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [0, -1, 1.5, True, None, "8000", 2**40])
def test_saving_at_a_rate_that_no_file_has_is_refused(tmp_path: Path, rate: int) -> None:
    with pytest.raises(
        ValueError, match=r"a\.wav' was not written: the rate must be a whole number"
    ):
        save_audio(tmp_path / "a.wav", torch.zeros(10), rate)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    save_audio(path, torch.zeros(10), 8000)
    before = path.read_bytes()

    def fail_when_flushed(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail_when_flushed)
    with pytest.raises(OSError, match="no space left"):
        save_audio(path, torch.ones(10), 8000)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
