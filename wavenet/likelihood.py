"""Owns the exact likelihood of a clip: every sample, from silence context.

    bits per sample = -1/T sum_t log2 p(x_t | x_0, ..., x_{t-1})

Of the output's samples: 8 bits is the uniform guess over 256 mu-law codes, 16 the one over 65,536
levels, and the two do not compare. Knows nothing of training or files.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wavenet.conditioning import advanced, label_ids
from wavenet.model import WaveNet


def nats_per_sample(
    model: WaveNet,
    codes: Tensor,
    labels: Mapping[str, Tensor] | None = None,
    chunk_size: int = 16384,
    lengths: Tensor | None = None,
) -> Tensor:
    """Samples (B, T) -> -ln p of each, (B, T), in chunks of `chunk_size` through `model.step`.

    lengths (B,): of the clips, for a model with a position_hop; T where none are given.
    Memory grows with chunk_size and not with T, but for the result. The value does not depend on
    chunk_size.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, but got {chunk_size}.")
    codes = codes.long()
    silence = codes.new_full((codes.shape[0], 1), model.output.silence)
    inputs = torch.cat([silence, codes[:, :-1]], dim=1)
    state = model.init_state(codes.shape[0])
    position = model.beginning(len(codes), codes.shape[1] if lengths is None else lengths)
    nats = []
    pieces = zip(inputs.split(chunk_size, dim=1), codes.split(chunk_size, dim=1), strict=True)
    for given, wanted in pieces:
        params, state = model.step(given, state, labels, position=position)
        position = advanced(position, given.shape[1])
        nats.append(model.output.nats(params, wanted))
    return torch.cat(nats, dim=1)


@torch.inference_mode()
def bits_per_sample(
    model: WaveNet,
    audio: Tensor,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    *,
    lengths: Sequence[int] | Tensor | None = None,
    chunk_size: int = 16384,
) -> float:
    """Mean bits per sample over every sample of every clip, exact for clips of any length.

    Args:
        model: in the dtype and on the device to be judged.
        audio: (T,) or (B, T) in [-1, 1] at the model's sample rate; or samples, integers of the
            same shape.
        labels: category names, {"digit": "7"} for all clips or {"digit": ["7", "8"]}.
        lengths: samples of each clip where they differ; what lies beyond is not counted.
        chunk_size: samples a forward pass; memory for time, the value stays the same.

    Raises ValueError for an empty clip, NaN, samples that the output has not, lengths that do not
    fit, unknown or missing labels.
    """
    clips = audio.unsqueeze(0) if audio.dim() == 1 else audio
    if clips.dim() != 2 or clips.shape[1] == 0:
        raise ValueError(
            f"bits_per_sample takes audio of shape (time,) or (batch, time), but got "
            f"{tuple(audio.shape)}."
        )
    levels = model.output.levels
    counts = torch.as_tensor([clips.shape[1]] * len(clips) if lengths is None else lengths)
    if counts.shape != (len(clips),) or counts.min() < 1 or counts.max() > clips.shape[1]:
        raise ValueError(
            f"lengths must be {len(clips)} numbers in 1..{clips.shape[1]}, but got "
            f"{counts.tolist()}."
        )
    if not clips.is_floating_point() and not 0 <= int(clips.min()) <= int(clips.max()) < levels:
        raise ValueError(
            f"Samples of {type(model.output).__name__} are integers in 0..{levels - 1}, but got "
            f"values from {int(clips.min())} to {int(clips.max())}."
        )
    device = next(model.parameters()).device
    codes = (model.output.encode(clips) if clips.is_floating_point() else clips).to(device)
    given = label_ids(model.labels, labels or {}, len(clips))
    ids = {name: value.to(device) for name, value in given.items()}
    nats = nats_per_sample(model, codes, ids, chunk_size, counts.to(device)).double()
    counted = torch.arange(clips.shape[1], device=device) < counts.to(device)[:, None]
    return float(nats[counted].sum() / counted.sum() / math.log(2))
