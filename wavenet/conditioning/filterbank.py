"""Owns triangular bands on a mel scale, and the Fourier transforms that they sum.

Knows nothing of logarithms, clips or models. Shapes: M bands, K frequencies, F frames, T time.
torchaudio's `melscale_fbanks` and `Spectrogram` are the reference in the tests.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Scale(NamedTuple):
    """A mel scale, both ways, and whether each band has an area of 1 (else a peak of 1)."""

    mel: Callable[[float], float]  # of a frequency in Hz
    hertz: Callable[[Tensor], Tensor]
    unit_area: bool


LINEAR_TO = 1000.0  # Hz: 15 mel of Slaney's Auditory Toolbox, 200 / 3 Hz each
STEP = math.log(6.4) / 27  # of the logarithm of the frequency, a mel above that


def _slaney_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < LINEAR_TO else 15 + math.log(hertz / LINEAR_TO) / STEP


def _slaney_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 / 3 * mel, LINEAR_TO * torch.exp(STEP * (mel - 15)))


SLANEY = Scale(_slaney_mel, _slaney_hertz, True)
HTK = Scale(  # of the Hidden Markov Model Toolkit
    lambda hertz: 2595 * math.log10(1 + hertz / 700),
    lambda mel: 700 * (10 ** (mel / 2595) - 1),
    False,
)


def mel_bands(
    frequencies: int,
    bands: int,
    sample_rate: int,
    low: float = 0.0,
    high: float | None = None,
    scale: Scale = SLANEY,
) -> Tensor:
    """(K, M) float32: the weight of each of K frequencies, from 0 to half the rate, in each band.

    Band m rises from edge m to edge m + 1 and falls to edge m + 2; the M + 2 edges are evenly
    spaced on the scale from `low` to `high` Hz (half the sample rate where none is given).
    """
    highest = sample_rate // 2
    each = torch.linspace(0, highest, frequencies)
    first, last = scale.mel(low), scale.mel(float(highest) if high is None else high)
    edges = scale.hertz(torch.linspace(first, last, bands + 2))
    steps = edges.diff()
    above = edges - each[:, None]  # (K, M + 2) Hz
    rising, falling = -above[:, :-2] / steps[:-1], above[:, 2:] / steps[1:]
    weights = torch.minimum(rising, falling).clamp_min(0)
    return weights * (2 / (edges[2:] - edges[:-2])) if scale.unit_area else weights


def spectrum(audio: Tensor, window: Tensor, size: int, hop: int, centred: bool = False) -> Tensor:
    """audio (..., T), window (up to size,) -> its Fourier transforms (..., size // 2 + 1, F).

    centred: the first window is centred on the first sample, with zeros before it and at the end.
    """
    made = torch.stft(
        audio.reshape(-1, audio.shape[-1]),
        size,
        hop,
        len(window),
        window,
        center=centred,
        pad_mode="constant",
        return_complex=True,
    )
    return made.reshape(*audio.shape[:-1], *made.shape[1:])
