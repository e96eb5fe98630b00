"""Owns the way from one audio file to 16-bit PCM at the corpus's rate.

Knows nothing of corpora or models. The work is done on floats in [-1, 1], of shape
(T,); the last step rounds them as `wavenet.audio.pcm16` does, so a 16-bit mono file at the corpus's
own rate, neither trimmed nor normalised, is kept bit for bit.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavenet.audio import pcm16, read_audio, resample
from wavenet.corpus.checks import require_positive, require_whole
from wavenet.installation import MissingPackage

PCM = np.dtype("<i2")  # of the prepared file
PEAK_DBFS = -1.0
LOUDNESS_DBFS = -23.0  # RMS
PCM_BLOCK = 1 << 20  # samples; bounds the float64 audio held at a time


@dataclass(frozen=True)
class DecodeSettings:
    """What decides the prepared samples of a file, beside its contents.

    sample_rate: in Hz; files at other rates are resampled.
    normalize: "peak" (-1 dBFS), "loudness" (RMS of -23 dBFS, less where that would clip) or None.
    trim_silence_db: cut both ends where they lie so many dB below the peak; None cuts nothing.

    Raises ValueError, naming the flag, for anything else.
    """

    sample_rate: int
    normalize: str | None = None
    trim_silence_db: float | None = None

    def __post_init__(self) -> None:
        require_whole(sample_rate=self.sample_rate)
        require_positive(sample_rate=self.sample_rate)
        if self.trim_silence_db is not None:
            require_positive(trim_silence_db=self.trim_silence_db)
        if self.normalize not in (None, "peak", "loudness"):
            raise ValueError(
                f"--data.normalize takes peak, loudness or nothing, but got {self.normalize!r}."
            )


@dataclass(frozen=True)
class Decoded:
    """One file's samples, with what was done to it; or why it was skipped."""

    levels: np.ndarray  # (T,) int16, little-endian
    rate: int = 0  # Hz, of the file
    samples: int = 0  # before trimming, at the prepared rate
    clipped: int = 0  # samples beyond full scale
    resampled: bool = False
    skipped: str | None = None


def decode_clip(path: Path, settings: DecodeSettings) -> Decoded:
    """Read, mix down, resample, trim, normalise and round one file. A file of no use says why.

    Raises MissingPackage where nothing is installed that resamples: the file is of use then.
    """
    try:
        return _decode(path, settings)
    except MissingPackage:
        raise
    except (ValueError, OSError) as error:
        reason = str(error)
    except MemoryError:
        reason = "there is not enough memory for all of it; split it into shorter files."
    named = reason if str(path) in reason else f"'{path}': {reason}"
    return Decoded(np.empty(0, PCM), skipped=named)


def _decode(path: Path, settings: DecodeSettings) -> Decoded:
    audio, rate = read_audio(path)
    audio = resample(audio.mean(dim=0), rate, settings.sample_rate)
    samples = len(audio)
    if settings.trim_silence_db is not None:
        audio = trim_silence(audio, settings.trim_silence_db)
    audio = normalize_audio(audio, settings.normalize)
    clipped = int((audio.abs() > 1).sum())
    return Decoded(_to_pcm(audio), rate, samples, clipped, rate != settings.sample_rate)


def trim_silence(audio: Tensor, below_peak_db: float) -> Tensor:
    """(T,) -> (T',): from the first to the last sample within `below_peak_db` dB of the peak."""
    loud = torch.nonzero(audio.abs() >= audio.abs().max() * 10 ** (-below_peak_db / 20))
    return audio[int(loud[0]) : int(loud[-1]) + 1]


def normalize_audio(audio: Tensor, how: str | None) -> Tensor:
    """(T,) -> (T,): peak at -1 dBFS, or RMS at -23 dBFS unless that clips, or as it is.

    Silence stays silence.
    """
    peak = float(audio.abs().max())
    if how is None or peak == 0:
        return audio
    if how == "peak":
        return audio * (10 ** (PEAK_DBFS / 20) / peak)
    rms = float(audio.double().square().mean().sqrt())
    return audio * min(10 ** (LOUDNESS_DBFS / 20) / rms, 1 / peak)


def _to_pcm(audio: Tensor) -> np.ndarray:
    levels = np.empty(len(audio), PCM)
    for start in range(0, len(audio), PCM_BLOCK):
        block = slice(start, start + PCM_BLOCK)
        levels[block] = pcm16(audio[block]).numpy()
    return levels
