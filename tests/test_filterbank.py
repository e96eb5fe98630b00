"""Mel bands and spectra against torchaudio's, which is the reference: within 1e-5 in float32."""

import pytest
import torch
import torchaudio

from wavenet import Mel
from wavenet.conditioning.filterbank import HTK, SLANEY, Scale, mel_bands, spectrum

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize(
    ("scale", "names"),
    [(SLANEY, ("slaney", "slaney")), (HTK, (None, "htk"))],
    ids=["slaney", "htk"],
)
@pytest.mark.parametrize(
    ("rate", "frequencies", "bands", "low", "high"),
    [
        (8000, 129, 20, 0.0, None),
        (22050, 513, 80, 40.0, 7600.0),
        (11025, 201, 40, 80.0, None),  # an odd rate
        (48000, 1025, 128, 0.0, 24000.0),
    ],
)
def test_bands_are_those_of_torchaudio(
    scale: Scale,
    names: tuple[str | None, str],
    rate: int,
    frequencies: int,
    bands: int,
    low: float,
    high: float | None,
) -> None:
    ours = mel_bands(frequencies, bands, rate, low, high, scale)
    top = float(rate // 2) if high is None else high
    theirs = torchaudio.functional.melscale_fbanks(frequencies, low, top, bands, rate, *names)
    assert ours.dtype == torch.float32 and ours.shape == (frequencies, bands)
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("shape", [(900,), (2, 900), (2, 3, 900)])
@pytest.mark.parametrize("centred", [False, True])
def test_spectra_are_those_of_torchaudio(shape: tuple[int, ...], centred: bool) -> None:
    audio = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    ours = spectrum(audio, torch.hann_window(200), 256, 64, centred)
    theirs = torchaudio.transforms.Spectrogram(
        256, 200, 64, power=None, center=centred, pad_mode="constant"
    )(audio)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_log_mel_frames_of_loud_and_faint_audio_are_those_of_torchaudio() -> None:
    mel, generator = Mel(bands=80, hop=256, window=1024), torch.Generator().manual_seed(1)
    audio = torch.randn(3, 8192, generator=generator) * torch.tensor([[0.5], [1e-2], [1e-4]])
    transform = torchaudio.transforms.MelSpectrogram(
        22050, 1024, hop_length=256, n_mels=80, power=1.0, center=False, norm="slaney",
        mel_scale="slaney",
    )  # fmt: skip
    expected = transform(audio).clamp_min(mel.floor).log()
    torch.testing.assert_close(mel.windowed(audio, 22050), expected, **CLOSE)
