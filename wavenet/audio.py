"""Owns the conversion between audio files and tensors: reading, resampling, writing wav.

Knows nothing of codes, models or data sets. Shapes: C channels, T time. torchaudio, soxr, soundfile
and numpy are imported only in the functions that use them: `import wavenet` needs only torch.
"""

import io
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.files import write_whole
from wavenet.installation import require, torchaudio_here
from wavenet.machine import memory, size

if TYPE_CHECKING:
    import numpy as np
    import soundfile

logger = logging.getLogger(__name__)

READ_BLOCK = 1 << 20  # samples read at a time, so that what a header promises allocates nothing
LONGEST = 1 << 31  # samples of one file, all channels together: 37 hours at 16 kHz mono
STREAM_SIZE = 0xFFFFFFFF  # the size in the header of a wav that was written to a pipe: unknown
# The resampling filter bank grows with the terms of the ratio; 44.1 to 192 kHz need at most 640.
LARGEST_DENOMINATOR = 1000
LARGEST_FACTOR = 1000  # between two rates; beyond it, a header's rate is nonsense
RESAMPLERS = ("torchaudio", "soxr")  # the second where the first does not load beside this torch


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """One audio file (wav, flac, ogg, mp3, aiff, any bit depth) -> ((C, T) float32, rate in Hz).

    Integer formats are scaled to [-1, 1); float formats are not scaled. If a file is shorter than
    its header states, the samples that exist are used, with a warning. Raises ValueError, naming
    the file, if it is missing, no file, not audio, empty, longer than `LONGEST`, or has samples
    that are NaN or infinite.
    """
    path = Path(path)
    _refuse_what_cannot_be_opened(path)
    samples, rate, declared = _decode(path)
    if samples.numel() == 0:
        raise ValueError(f"'{path}' is empty (0 samples); record or export it again, or remove it.")
    if not torch.isfinite(samples).all():
        bad = int((~torch.isfinite(samples)).sum())
        raise ValueError(
            f"'{path}' has {bad} samples that are NaN or infinite; repair or remove it."
        )
    if declared > samples.shape[1]:
        logger.warning(
            "'%s' is cut short: its header states about %d samples, the file has %d; using those.",
            *(path, declared, samples.shape[1]),
        )
    return samples, rate


def _refuse_what_cannot_be_opened(path: Path) -> None:
    """Libsndfile would wait at a pipe for ever, and calls every refusal "System error"."""
    try:
        if path.is_file():
            path.open("rb").close()
            return
    except OSError as error:
        raise ValueError(f"'{path}' cannot be opened: {error.strerror}.") from error
    found = "is a pipe, a socket or a device"
    if path.is_dir():
        found = "is a folder"
    elif not path.exists():
        found = "is a link to what does not exist" if path.is_symlink() else "does not exist"
    raise ValueError(f"'{path}' {found}; give the path of an audio file.")


def _decode(path: Path) -> tuple[Tensor, int, int]:
    """(C, T) samples, rate in Hz, and the number of samples per channel that the header states."""
    import numpy as np
    import soundfile

    try:
        # As bytes, for soundfile refuses a name that is not UTF-8.
        with soundfile.SoundFile(path if os.name == "nt" else os.fsencode(path)) as file:
            samples = np.concatenate([*_blocks(file, path)])  # (T, C)
            declared = _declared(file.extra_info, file.frames)
            return torch.from_numpy(samples).T, file.samplerate, declared
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: raw samples, no header
        reason = str(error).split(": ")[-1].strip()
        raise ValueError(
            f"'{path}' cannot be read as audio: {reason.rstrip('.')}. It is damaged or has another "
            "format; export it again, as wav for instance."
        ) from error


def _blocks(file: "soundfile.SoundFile", path: Path) -> Iterator["np.ndarray"]:
    """(n, C) float32 each, until the file ends; the last one has 0 samples."""
    # soundfile seeks to where it stands after each read. An mp3 decoder forgets its past then.
    file.seekable = lambda: False
    there = memory(torch.device("cpu"))
    # half of the memory: the blocks are put together
    left, frames = min(LONGEST, there / 8), max(READ_BLOCK // file.channels, 1)
    while left >= 0:
        block = file.read(frames, dtype="float32", always_2d=True)
        yield block
        if not len(block):
            return
        left -= block.size
    raise ValueError(
        f"'{path}' holds more than {min(LONGEST, int(there / 8)):,} samples (channels times time), "
        f"the most that are read here, with {size(there)} of memory; split it into shorter files."
    )


def _declared(header_log: str, frames: int) -> int:
    """Samples per channel that the header states.

    libsndfile corrects the sizes of wav and aiff files itself; the stated size is only in its log.
    """
    corrected = re.search(r"\b(?:data|SSND) : (\d+) \(should be (\d+)\)", header_log)
    if corrected is None or int(corrected[1]) == STREAM_SIZE or int(corrected[2]) == 0:
        return frames
    return round(frames * int(corrected[1]) / int(corrected[2]))


def resample(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """(..., T) at `from_rate` Hz -> (..., ceil(T * to_rate / from_rate)), band-limited.

    By `resampler()`. If the exact ratio of the rates has a denominator above 1000 (11127 to
    16000 Hz), the nearest ratio with a smaller one is used: an error in pitch of less than a cent.
    Raises ValueError for rates that differ by a factor of more than 1000, for more than `LONGEST`
    samples, and (a MissingPackage) where no resampler is installed.
    """
    for name, rate in (("from_rate", from_rate), ("to_rate", to_rate)):
        if isinstance(rate, bool) or not isinstance(rate, int) or rate <= 0:
            raise ValueError(f"{name} must be a positive whole number of Hz, but got {rate!r}.")
    if not isinstance(audio, Tensor) or not audio.is_floating_point():
        seen = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
        raise ValueError(f"resample takes a tensor of floating-point audio, but got {seen}.")
    if audio.dim() == 0 or audio.numel() == 0:
        raise ValueError(
            "resample takes audio (..., time) of at least one sample, but got "
            f"{tuple(audio.shape)}."
        )
    if from_rate == to_rate:
        return audio
    if max(from_rate, to_rate) > LARGEST_FACTOR * min(from_rate, to_rate):
        raise ValueError(
            f"Cannot resample from {from_rate} Hz to {to_rate} Hz: the rates differ by a factor of "
            f"more than {LARGEST_FACTOR}."
        )
    _require_memory(audio, from_rate, to_rate)
    ratio = Fraction(to_rate, from_rate).limit_denominator(LARGEST_DENOMINATOR)
    if resampler() == "soxr":
        return _by_soxr(audio, ratio)
    resampled: Tensor = torchaudio_here().functional.resample(  # type: ignore[union-attr]
        audio, ratio.denominator, ratio.numerator
    )
    return resampled


def resampler() -> str:
    """What `resample` uses here, one of RESAMPLERS. Raises MissingPackage where there is none."""
    if torchaudio_here() is not None:
        return "torchaudio"
    require("Resampling audio", "soxr")
    return "soxr"


def _by_soxr(audio: Tensor, ratio: Fraction) -> Tensor:
    """On the CPU and without gradients. The length is as torchaudio's, which rounds up."""
    import soxr

    wanted = math.ceil(audio.shape[-1] * ratio)
    floats = audio.detach().cpu().to(torch.promote_types(audio.dtype, torch.float32))
    rows = floats.reshape(-1, audio.shape[-1]).numpy()
    made = [
        torch.from_numpy(soxr.resample(row, ratio.denominator, ratio.numerator, "VHQ"))
        for row in rows
    ]
    fitted = [F.pad(row, (0, max(0, wanted - len(row))))[:wanted] for row in made]
    return torch.stack(fitted).reshape(*audio.shape[:-1], wanted).to(audio)


def _require_memory(audio: Tensor, from_rate: int, to_rate: int) -> None:
    samples, there = audio.numel() * to_rate // from_rate, memory(torch.device("cpu"))
    if samples > min(LONGEST, there / 4):
        raise ValueError(
            f"At {to_rate} Hz instead of {from_rate} Hz the audio has {samples:,} samples, which "
            f"take {size(4 * samples)}; at most {LONGEST:,} are possible, and this machine has "
            f"{size(there)} of memory. Split it into shorter files."
        )


def load_audio(path: str | Path, sample_rate: int | None = None) -> Tensor:
    """One audio file -> (T,) float32 mono (the mean of its channels), at `sample_rate` Hz if given.

    Raises ValueError as `read_audio` does.
    """
    samples, rate = read_audio(path)
    mono = samples.mean(dim=0)
    if sample_rate is None or sample_rate == rate:
        return mono
    try:
        mono = resample(mono, rate, sample_rate)
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be used: {error}") from error
    logger.info("'%s': resampled from %d Hz to %d Hz.", path, rate, sample_rate)
    return mono


def save_audio(path: str | Path, audio: Tensor, sample_rate: int) -> None:
    """Writes (T,) audio as a 16-bit PCM wav at `sample_rate` Hz, clipped to [-1, 1).

    Creates parent folders. The file appears complete or not at all. Raises ValueError for another
    shape, for NaN, and for a suffix other than .wav.
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
    """(T,) audio -> a 16-bit PCM wav at `sample_rate` Hz.

    Raises ValueError as `pcm16` does, and for a rate that no wav file has.
    """
    import soundfile

    is_whole = isinstance(sample_rate, int) and not isinstance(sample_rate, bool)
    if not is_whole or not 0 < sample_rate < 2**31:
        raise ValueError(f"the rate must be a whole number of Hz from 1, but is {sample_rate!r}.")

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm16(audio).numpy(), sample_rate, subtype="PCM_16", format="WAV")
    return buffer.getvalue()


def pcm16(audio: Tensor) -> Tensor:
    """(T,) audio -> (T,) int16, clipped to [-1, 1).

    Raises ValueError for another shape or type, and for NaN.
    """
    if not isinstance(audio, Tensor):
        raise ValueError(f"a tensor of audio is needed, but got a {type(audio).__name__}.")
    if audio.dim() != 1 or not audio.is_floating_point():
        raise ValueError(
            "one stream of floating-point audio of shape (time,) is needed, but got "
            f"{audio.dtype} {tuple(audio.shape)}; save the streams of a batch one by one."
        )
    audio = audio.detach().cpu().double()
    if torch.isnan(audio).any():
        raise ValueError(f"the audio has {int(torch.isnan(audio).sum())} NaN samples.")
    return (audio * 32768).round().clamp(-32768, 32767).to(torch.int16)


def write_pcm(pipe: int, chunks: Iterable[Tensor]) -> None:
    """Writes chunks (1, n) to a file descriptor as raw 16-bit little-endian PCM, each immediately.

    Returns when the chunks end, or when the reader closes the pipe. Raises OSError where the pipe
    takes no more for another reason.
    """
    for chunk in chunks:
        left = memoryview(pcm16(chunk[0]).numpy().astype("<i2").tobytes())
        try:
            while left:
                left = left[os.write(pipe, left) :]
        except BrokenPipeError:
            return
        except OSError as error:
            raise OSError(f"the stream could not be written: {error.strerror}.") from error
