"""Owns the exact likelihood of a clip: every sample, from silence context.

    bits per sample = -1/T sum_t log2 p(x_t | x_0, ..., x_{t-1})

Of the output's samples: 8 bits is the uniform guess over 256 mu-law codes, 16 the one over 65,536
levels, and the two do not compare. Knows nothing of training or files.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from wavenet.conditioning import LabelChoice, label_ids, mel_clips, require_mel
from wavenet.model import WaveNet
from wavenet.outputs import require_scale

logger = logging.getLogger(__name__)

AT_ONCE = 16  # clips that go through the network together
STEREO = 0.5  # correlation of two clips, from which on they may be the channels of one


def nats_per_sample(
    model: WaveNet,
    codes: Tensor,
    labels: Mapping[str, Tensor] | None = None,
    chunk_size: int = 16384,
    lengths: Tensor | None = None,
    mel: Tensor | None = None,
) -> Tensor:
    """Samples (B, T) -> -ln p of each, (B, T), in chunks of `chunk_size` through the model's step.

    lengths (B,): of the clips, for a model with a position_hop; T where none are given.
    mel (B, bands, F): of the clips, F = ceil(T / hop), for a model with mel.
    Memory grows with chunk_size, and not with T or, beyond AT_ONCE clips, with B, but for the
    result. The value does not depend on chunk_size. Raises ValueError for samples that the model's
    output does not have, and for labels or frames of another number of clips.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be an integer of at least 1, but got {chunk_size!r}.")
    if not isinstance(codes, Tensor) or codes.dim() != 2 or codes.numel() == 0:
        seen = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
        raise ValueError(f"nats_per_sample takes samples (batch, time), but got {seen}.")
    model.output.decode(codes)  # raises ValueError for samples that there are not
    codes = codes.long()
    silence = codes.new_full((codes.shape[0], 1), model.output.silence)
    inputs = torch.cat([silence, codes[:, :-1]], dim=1)
    if mel is not None and model.mel is not None:
        require_mel(model.mel, mel, codes.shape[1])
    for name, given in [*(labels or {}).items(), ("mel", mel)]:
        if given is not None and len(given) != len(codes):
            raise ValueError(f"{name} is of {len(given)} clips, and the samples of {len(codes)}.")
    ends = _counts(codes, lengths).to(codes.device)
    rows = []
    for some in torch.arange(len(codes), device=codes.device).split(AT_ONCE):
        named = {name: ids[some] for name, ids in (labels or {}).items()}
        timeline = model.timeline(named, ends[some], None if mel is None else mel[some])
        state = model.init_state(len(some))
        nats = []
        for start in range(0, codes.shape[1], chunk_size):
            stop = min(start + chunk_size, codes.shape[1])
            condition = timeline.between(start, stop)
            params, state = model.predict_step(inputs[some, start:stop], state, condition)
            nats.append(model.output.nats(params, codes[some, start:stop]))
        rows.append(torch.cat(nats, dim=1))
    return torch.cat(rows)


@overload
def bits_per_sample(
    model: WaveNet,
    audio: Tensor,
    labels: LabelChoice | None = ...,
    *,
    lengths: Sequence[int] | Tensor | None = ...,
    mel: Tensor | Sequence[Tensor] | None = ...,
    chunk_size: int = ...,
) -> float: ...
@overload
def bits_per_sample(
    model: WaveNet,
    audio: Sequence[Tensor],
    labels: LabelChoice | None = ...,
    *,
    mel: Tensor | Sequence[Tensor] | None = ...,
    chunk_size: int = ...,
) -> list[float]: ...
@torch.inference_mode()
def bits_per_sample(
    model: WaveNet,
    audio: Tensor | Sequence[Tensor],
    labels: LabelChoice | None = None,
    *,
    lengths: Sequence[int] | Tensor | None = None,
    mel: Tensor | Sequence[Tensor] | None = None,
    chunk_size: int = 16384,
) -> float | list[float]:
    """Bits per sample over every sample, exact for clips of any length.

    Args:
        model: in the dtype and on the device to be judged.
        audio: (T,) or (B, T) in [-1, 1] at the model's sample rate, or samples, integers of the
            same shape: their mean over all clips is returned. A sequence of clips (T,), of any
            lengths: a figure for each is returned. Audio of one channel: (2, T) are two clips.
        labels: category names, {"digit": "7"} for all clips or {"digit": ["7", "8"]}.
        lengths: samples of each clip of (B, T) where they differ; what lies beyond is not counted.
        mel: log mel frames of the clips for a model with mel, (B, bands, F) or one (bands, F) each;
            those of the audio itself where none are given.
        chunk_size: samples a forward pass; memory for time, the value stays the same.

    Raises ValueError for an empty clip, NaN, audio scaled like integers, samples that the output
    has not, lengths that do not fit, unknown or missing labels.
    """
    if not isinstance(audio, Tensor):
        clips, counts = _stacked(audio, lengths)
    else:
        clips = _checked_clips(audio)
        counts = _counts(clips, lengths)
        if lengths is None:
            _name_stereo(clips)
    device = next(model.parameters()).device
    codes = (model.encode(clips) if clips.is_floating_point() else clips).to(device)
    given = label_ids(model.labels, labels or {}, len(clips))
    ids = {name: value.to(device) for name, value in given.items()}
    frames = _mel(model, clips, counts, mel)
    nats = nats_per_sample(model, codes, ids, chunk_size, counts.to(device), frames).double()
    counted = torch.arange(clips.shape[1], device=device) < counts.to(device)[:, None]
    sums = nats.where(counted, 0).sum(1).cpu() / math.log(2)
    if not isinstance(audio, Tensor):
        return (sums / counts).tolist()
    return float(sums.sum() / counts.sum())


def _checked_clips(audio: Any) -> Tensor:
    """(B, T) of (T,) or (B, T). Raises ValueError for another shape or type."""
    if not isinstance(audio, Tensor) or audio.is_complex() or audio.dtype == torch.bool:
        seen = audio.dtype if isinstance(audio, Tensor) else type(audio).__name__
        raise ValueError(
            "bits_per_sample takes a tensor of audio in floating point, or of samples as integers, "
            f"or a list of them, but got {seen}."
        )
    clips = audio.unsqueeze(0) if audio.dim() == 1 else audio
    if clips.dim() != 2 or clips.shape[1] == 0:
        raise ValueError(
            f"bits_per_sample takes audio of shape (time,) or (batch, time), but got "
            f"{tuple(audio.shape)}."
        )
    require_scale(clips, "What bits_per_sample scores")
    return clips


def _stacked(clips: Any, lengths: Any) -> tuple[Tensor, Tensor]:
    """Clips (T,) of different lengths -> (B, T), and the samples of each."""
    if not isinstance(clips, Sequence) or isinstance(clips, str | bytes) or not clips:
        _checked_clips(clips)  # raises
    if lengths is not None:
        raise ValueError("A list of clips has their lengths: leave out lengths.")
    rows = [_checked_clips(clip) for clip in clips]
    if any(len(row) != 1 for row in rows) or len({row.is_floating_point() for row in rows}) > 1:
        seen = ", ".join(f"{tuple(clip.shape)} {clip.dtype}" for clip in clips[:4])
        raise ValueError(
            "A list of clips has one clip (time,) in each place, all of audio or all of samples, "
            f"but got {seen}."
        )
    counts = torch.tensor([row.shape[1] for row in rows])
    joined = torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
    return joined, counts


def _name_stereo(clips: Tensor) -> None:
    """A line in the log where two clips look like the channels of one."""
    if len(clips) != 2 or not clips.is_floating_point() or clips.shape[1] < 2:
        return
    alike = float(torch.corrcoef(clips.float())[0, 1])
    if alike > STEREO:
        logger.warning(
            "these two clips are much alike (correlation %.2f): (2, time) is two clips, not "
            "stereo; of stereo audio give the mean, audio.mean(0)",
            alike,
        )


def _mel(
    model: WaveNet,
    clips: Tensor,
    counts: Tensor,
    given: Tensor | Sequence[Tensor] | None,
) -> Tensor | None:
    """Frames (B, bands, F) of the clips, given or their own; None for a model without mel."""
    model.require_mel(given if model.mel is None else clips)
    if model.mel is None:
        return None
    if given is None:
        audio = clips if clips.is_floating_point() else model.decode(clips)
        given = [
            model.mel.spectrogram(clip[:count], model.sample_rate)
            for clip, count in zip(audio, counts.tolist(), strict=True)
        ]
    frames = mel_clips(model.mel, given, len(clips))
    frames.require(counts)
    return frames(0, model.mel.frames_of(clips.shape[1]))


def _counts(clips: Tensor, lengths: Sequence[int] | Tensor | None) -> Tensor:
    """Samples of each clip (B,). Raises ValueError for lengths that do not fit."""
    batch, time = clips.shape
    if lengths is None:
        return torch.full((batch,), time)
    try:
        counts = torch.as_tensor(lengths)
        kinds = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
        fit = counts.shape == (batch,) and counts.dtype in kinds
        fit = fit and bool((counts >= 1).all() and (counts <= time).all())
    except (TypeError, ValueError, RuntimeError):  # torch makes no tensor of it
        fit = False
    if not fit:
        raise ValueError(
            f"lengths must be {batch} numbers in 1..{time}, whole ones, but got {lengths!r}."
        )
    return counts
