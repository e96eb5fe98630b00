"""The two recordings of a capture: read, checked, and aligned. Knows nothing of models."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from wavenet.audio import read_audio

logger = logging.getLogger(__name__)

LATEST = 0.5  # seconds of latency that are looked for
HEARD = 30.0  # seconds of the recordings that are compared to find it
RISE, BEGINS = 64, 0.3  # samples before the peak, and its share, at which a response begins
LEAST = 12.0  # how far the peak of a response stands out of the rest, at the least
CLIPPED = 0.999  # a sample of this level has met full scale


def read_pair(source: Path, target: Path, sample_rate: int) -> tuple[Tensor, Tensor, int]:
    """What went into an amplifier and what came out, (T,) each, aligned, and the latency removed.

    Raises ValueError for recordings at another rate, of different lengths, of several channels,
    with NaN, silent or clipped, and for two that do not belong together or drift apart.
    """
    sounds = {}
    for path in (source, target):
        audio, rate = read_audio(path)
        if rate != sample_rate:
            raise ValueError(
                f"'{path}' is at {rate} Hz, and the model is to be at {sample_rate} Hz. Record "
                f"both at that rate, or train at the recordings' rate: --sample_rate {rate}."
            )
        if len(audio) > 1:
            raise ValueError(f"'{path}' has {len(audio)} channels; a capture takes one.")
        sounds[path] = _sound(audio[0], path)
    x, y = sounds[source], sounds[target]
    if len(x) != len(y):
        raise ValueError(
            f"'{source}' has {len(x):,} samples and '{target}' {len(y):,}: they were not recorded "
            "together. Cut both to the same beginning and end."
        )
    late = latency(x, y, sample_rate)
    logger.info("latency: %d samples (%.2f ms), removed", late, 1000 * late / sample_rate)
    return x[: len(x) - late], y[late:], late


def _sound(audio: Tensor, path: Path) -> Tensor:
    if bool(torch.isnan(audio).any()):
        raise ValueError(f"'{path}' has NaN samples. Record it again.")
    peak = float(audio.abs().max())
    if peak < 1e-4:
        raise ValueError(f"'{path}' is silent (its loudest sample is {peak:g}). Record it again.")
    if (flat := int((audio.abs() >= CLIPPED).sum())) > 10:
        raise ValueError(
            f"'{path}' is clipped: {flat:,} samples are at full scale. Record it at a lower level."
        )
    return audio


def latency(x: Tensor, y: Tensor, sample_rate: int) -> int:
    """Samples by which y, (T,), comes after x, (T,).

    Where the response of y to x begins, a sample less: nothing may come before its cause. The
    response is their cross-correlation with all frequencies made equally loud (PHAT; Knapp and
    Carter 1976, "The generalized correlation method for estimation of time delay").

    Raises ValueError where there is no peak, where y comes first, and where the latency at the end
    is another than at the beginning.
    """
    window = min(len(x), round(HEARD * sample_rate))
    first, last = (
        _onset(x[part], y[part], round(LATEST * sample_rate)) - 1
        for part in (slice(0, window), slice(len(x) - window, None))
    )
    if abs(first - last) > 2:
        raise ValueError(
            f"The recordings drift apart: the output comes {first} samples late at the beginning "
            f"and {last} at the end. Record both with the same clock, in one sitting."
        )
    if first < 0:
        raise ValueError(
            f"The output comes {-first} samples before the input: the files are misaligned, or "
            "were given the other way round."
        )
    return first


def _onset(x: Tensor, y: Tensor, latest: int) -> int:
    """Where the response of y to x, up to `latest` samples before or after it, begins."""
    size, fade = 2 * len(x), torch.hann_window(len(x), dtype=torch.float64)
    x, y = x * fade, y * fade  # both are cut at one place, which would look like a response at 0
    spectrum = torch.fft.rfft(y, size) * torch.fft.rfft(x, size).conj()
    response = torch.fft.irfft(spectrum / spectrum.abs().clamp_min(1e-9), size)
    response = torch.cat([response[-latest:], response[: latest + 1]]).abs()
    place = int(response.argmax())
    before = response[max(0, place - RISE) : place + 1]
    begins = place - len(before) + 1 + int((before > BEGINS * response[place]).nonzero()[0])
    stands_out = float(response[place] / response.square().mean().sqrt())
    if stands_out < LEAST:
        raise ValueError(
            f"The output has nothing of the input within {latest} samples (its response stands out "
            f"by {stands_out:.1f}, and {LEAST:.0f} is the least): these two recordings do not "
            "belong together, or are further apart."
        )
    return begins - latest
