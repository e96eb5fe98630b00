"""Owns how far a clip is from the recording it was made from: spectral distances, and measures of
speech quality from their own packages.

Knows nothing of models or files. The two clips are of one recording, sample for sample: nothing is
aligned. Shapes: T time.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from wavenet.conditioning import Mel

FLOOR_DB = -80.0  # below the recording's loudest point: quieter is silence, and all alike
CEPSTRA = 13  # mel cepstra that are compared, without the 0th, the loudness
LEAST = 2.0  # seconds that STOI and ViSQOL hear
Measure = Callable[[Tensor, Tensor, int], float]  # made (T,), real (T,), rate in Hz


def log_spectral_distance(made: Tensor, real: Tensor, sample_rate: int) -> float:
    """Mean over frames of the root mean square, over frequencies, of the difference in dB.

    (T,) each. Hann windows of 32 ms, a quarter apart; see FLOOR_DB. 0: the same magnitudes.
    Gray and Markel 1976, "Distance measures for speech processing", the log spectral measure d_2.
    """
    window = max(16, round(0.032 * sample_rate))
    spectra = [_magnitudes(audio, window) for audio in _pair(made, real)]
    floor = spectra[1].max().clamp_min(1e-9) * 10 ** (FLOOR_DB / 20)
    one, other = (20 * spectrum.clamp_min(floor).log10() for spectrum in spectra)
    return float((one - other).square().mean(0).sqrt().mean())


def mel_cepstral_distortion(made: Tensor, real: Tensor, sample_rate: int) -> float:
    """(10 sqrt(2) / ln 10) times the mean over frames of |c - c'|, in dB; (T,) each.

    c: CEPSTRA cosine coefficients of 40 log mel bands, ln S(m) = c_0 / 2 + sum_k c_k cos(...), of
    frames of 25 ms every 5 ms. So it is the root mean square, over bands, of the difference of two
    smooth spectra in dB. Kubichek 1993, "Mel-cepstral distance measure for objective speech quality
    assessment". Its value depends on these settings: compare only what was measured alike.
    """
    hop = max(1, round(0.005 * sample_rate))
    mel = Mel(bands=40, hop=hop, window=max(hop, round(0.025 * sample_rate)), floor=1e-4)
    one, other = (
        _cosines(mel.bands) @ mel.spectrogram(audio.float(), sample_rate).double()
        for audio in _pair(made, real)
    )
    scale = 10 * math.sqrt(2) / math.log(10)
    return float(scale * (one - other).norm(dim=0).mean())


def describe_copies(
    clips: Sequence[Tensor], recording: Tensor | None, sample_rate: int
) -> Iterator[str]:
    """A line for each clip that was made from the mel spectrogram of a recording (T,).

    recording: None for clips that were made otherwise; nothing is said of them.
    """
    for clip in clips if recording is not None else ():
        assert recording is not None
        made = torch.nn.functional.pad(clip, (0, max(0, len(recording) - len(clip))))
        pair = (made[: len(recording)], recording, sample_rate)
        yield (
            f"log-spectral distance {log_spectral_distance(*pair):.2f} dB, mel-cepstral distortion "
            f"{mel_cepstral_distortion(*pair):.2f} dB to the recording"
        )


def _pair(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    if made.shape != real.shape or made.dim() != 1 or len(made) == 0:
        raise ValueError(
            "Distances are between two clips of the same samples, (time,) each, but got "
            f"{tuple(made.shape)} and {tuple(real.shape)}."
        )
    return made.double(), real.double()


def _magnitudes(audio: Tensor, window: int) -> Tensor:
    """(bins, frames)"""
    padded = torch.nn.functional.pad(audio, (window // 2, window - window // 2))
    hann = torch.hann_window(window, dtype=audio.dtype)
    hop = max(1, window // 4)
    spectrum = torch.stft(padded, window, hop, window=hann, center=False, return_complex=True)
    return spectrum.abs()


@cache
def _cosines(bands: int) -> Tensor:
    """(CEPSTRA, bands): log bands -> c_1 and on, by the cosine transform of type 2."""
    k, m = torch.arange(1, CEPSTRA + 1)[:, None], torch.arange(bands) + 0.5
    return 2 / bands * torch.cos(math.pi * k * m / bands).double()


# Measures of packages


def _stoi(made: Tensor, real: Tensor, sample_rate: int) -> float:
    """Short-time objective intelligibility, Taal et al. 2011: 0 to 1."""
    from pystoi import stoi

    real, made = (_repeated(audio, sample_rate) for audio in (real, made))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # too little speech: 0.00001, with a warning
        return float(stoi(real.numpy(), made.numpy(), sample_rate))


def _repeated(audio: Tensor, sample_rate: int) -> Tensor:
    """A clip as often as LEAST seconds take: STOI and ViSQOL cannot judge a short word alone."""
    return audio.repeat(math.ceil(LEAST * sample_rate / len(audio)))


def _pesq(made: Tensor, real: Tensor, sample_rate: int) -> float:
    """ITU-T P.862: about 1 to 4.6; P.862.2, wide band, at 16 kHz and above."""
    from pesq import pesq

    from wavenet.audio import resample

    rate, band = (8000, "nb") if sample_rate < 16000 else (16000, "wb")
    real, made = (resample(audio, sample_rate, rate) for audio in (real, made))
    return float(pesq(rate, real.numpy(), made.numpy(), band))


@cache
def _visqol_api() -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="speech")
    return api


def _visqol(made: Tensor, real: Tensor, sample_rate: int) -> float:
    """Chinen et al. 2020, in its mode for speech, at 16 kHz: 1 to 5."""
    from wavenet.audio import resample

    long = [_repeated(audio, sample_rate) for audio in (real, made)]
    clips = [resample(audio, sample_rate, 16000).double().numpy() for audio in long]
    return float(_visqol_api().measure_from_arrays(*clips, 16000).moslqo)


PACKAGES: dict[str, tuple[str, Measure]] = {
    "STOI": ("pystoi", _stoi),
    "PESQ": ("pesq", _pesq),
    "ViSQOL": ("visqol", _visqol),
}


def measures() -> tuple[dict[str, Measure], list[str]]:
    """Every measure by its name; and the names of those whose package is not installed."""
    installed = {
        name: measure for name, (package, measure) in PACKAGES.items() if find_spec(package)
    }
    own: dict[str, Measure] = {
        "LSD": log_spectral_distance,
        "MCD": mel_cepstral_distortion,
    }
    return own | installed, [name for name in PACKAGES if name not in installed]
