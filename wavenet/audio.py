"""Owns the way between audio files and tensors: reading any format and rate, resampling, writing wav.

Knows nothing of codes, models or data sets. Shapes: C channels, T time. torchaudio, soundfile and numpy are imported
where they are used, so that `import wavenet` needs torch alone.
"""

import io
import logging
import os
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from wavenet.files import write_whole

logger = logging.getLogger(__name__)

STREAM_SIZE = 0xFFFFFFFF  # the size a wav written to a pipe declares: unknown, not a promise
LARGEST_DENOMINATOR = (
    1000  # the filter bank grows with the ratio's terms; 44.1, 48, 96 and 192 kHz need 640 at most
)


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """One audio file (wav, flac, ogg, mp3, aiff, any bit depth) -> ((C, T) float32, sample rate in Hz).

    Integer formats come out in [-1, 1); float formats as they are. A file that ends before its header says is used as
    far as it goes, with a warning. Raises ValueError, naming the file, if it is missing, not audio, empty, or has
    samples that are NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"'{path}' {found}; give the path of an audio file.")
    samples, rate, promised = _decode(path)
    if samples.numel() == 0:
        raise ValueError(f"'{path}' is empty (0 samples); record or export it again, or remove it.")
    if not torch.isfinite(samples).all():
        bad = int((~torch.isfinite(samples)).sum())
        raise ValueError(
            f"'{path}' has {bad} samples that are NaN or infinite; repair or remove it."
        )
    if promised > samples.shape[1]:
        logger.warning(
            "'%s' is cut short: its header promises about %d samples and it holds %d; those are used.",
            *(path, promised, samples.shape[1]),
        )
    return samples, rate


def _decode(path: Path) -> tuple[Tensor, int, int]:
    """(C, T) samples, rate in Hz, and how many samples per channel the header promises."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float32", always_2d=True)  # (T, C)
            return (
                torch.from_numpy(samples).T,
                file.samplerate,
                _promised(file.extra_info, file.frames),
            )
    except soundfile.SoundFileError as error:
        reason = str(error).split(": ")[-1].strip()
        raise ValueError(f"'{path}' cannot be read as audio: {reason}") from error


def _promised(header_log: str, frames: int) -> int:
    """Samples per channel by the header. libsndfile corrects wav and aiff sizes itself and says so in its log."""
    corrected = re.search(r"\b(?:data|SSND) : (\d+) \(should be (\d+)\)", header_log)
    if corrected is None or int(corrected[1]) == STREAM_SIZE or int(corrected[2]) == 0:
        return frames
    return round(frames * int(corrected[1]) / int(corrected[2]))


def resample(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """(..., T) at `from_rate` Hz -> (..., ceil(T * to_rate / from_rate)) at `to_rate` Hz, band-limited.

    Rates with hardly a common divisor (11127 to 16000) use the nearest ratio of denominator up to 1000: off by
    less than a cent in pitch.
    """
    for name, rate in (("from_rate", from_rate), ("to_rate", to_rate)):
        if isinstance(rate, bool) or not isinstance(rate, int) or rate <= 0:
            raise ValueError(f"{name} must be a positive whole number of Hz, but got {rate!r}.")
    if from_rate == to_rate:
        return audio
    import torchaudio

    ratio = Fraction(to_rate, from_rate).limit_denominator(LARGEST_DENOMINATOR)
    if ratio == 0:
        raise ValueError(
            f"Cannot resample from {from_rate} Hz to {to_rate} Hz: the rates differ by more than 1000 times."
        )
    return torchaudio.functional.resample(audio, ratio.denominator, ratio.numerator)


def load_audio(path: str | Path, sample_rate: int | None = None) -> Tensor:
    """One audio file -> (T,) float32 mono (the mean of its channels), resampled to `sample_rate` Hz if that is given.

    Raises ValueError as `read_audio` does.
    """
    samples, rate = read_audio(path)
    mono = samples.mean(dim=0)
    if sample_rate is None or sample_rate == rate:
        return mono
    mono = resample(mono, rate, sample_rate)
    logger.info("'%s': resampled from %d Hz to %d Hz.", path, rate, sample_rate)
    return mono


def save_audio(path: str | Path, audio: Tensor, sample_rate: int) -> None:
    """Write (T,) audio as a 16-bit PCM wav at `sample_rate` Hz, clipped to [-1, 1), creating parent folders.

    The file appears whole or not at all. Raises ValueError for another shape, NaN, and a suffix other than .wav.
    """
    path = Path(path)
    if path.suffix.lower() != ".wav":
        raise ValueError(f"save_audio writes wav files, but got '{path}'; give it the suffix .wav.")
    try:
        content = wav_bytes(audio, sample_rate)
    except ValueError as error:
        raise ValueError(f"'{path}' was not written: {error}") from error
    write_whole(path, content)


def wav_bytes(audio: Tensor, sample_rate: int) -> bytes:
    """(T,) audio -> the bytes of a 16-bit PCM wav at `sample_rate` Hz. Raises ValueError as `pcm16` does."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm16(audio).numpy(), sample_rate, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def pcm16(audio: Tensor) -> Tensor:
    """(T,) audio -> (T,) int16, clipped to [-1, 1). Raises ValueError for another shape or type, and for NaN."""
    if audio.dim() != 1 or not audio.is_floating_point():
        raise ValueError(
            f"one stream of floating-point audio of shape (time,) is wanted, but got {audio.dtype} {tuple(audio.shape)}; "
            "save the streams of a batch one by one."
        )
    audio = audio.detach().cpu().double()
    if torch.isnan(audio).any():
        raise ValueError(f"the audio has {int(torch.isnan(audio).sum())} NaN samples.")
    return (audio * 32768).round().clamp(-32768, 32767).to(torch.int16)


def write_pcm(pipe: int, chunks: Iterable[Tensor]) -> None:
    """Chunks (1, n) -> raw 16-bit little-endian PCM to a file descriptor, each as soon as it is made.

    Returns when the chunks end, or when a player closes the pipe.
    """
    for chunk in chunks:
        left = memoryview(pcm16(chunk[0]).numpy().astype("<i2").tobytes())
        try:
            while left:
                left = left[os.write(pipe, left) :]
        except BrokenPipeError:
            return
