"""Owns how long a corpus's clips are: ln(samples) is normal, about a mean plus an offset for each category of each label.

Knows nothing of files or networks. A model that is conditioned on its position in the clip draws its clips' lengths from it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# {"log_mean", "log_std": floats, "offsets": {"digit": [a float a category]}}, of ln(samples)
ClipLength = Mapping[str, Any]

ROUNDS = 20  # of the fit, each taking the labels in turn
WIDEST = 2.0  # standard deviations: no draw lies further out


def fit_clip_length(
    lengths: Tensor, ids: Mapping[str, Tensor], categories: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """lengths (N,) in samples and each clip's categories, name -> (N,) integers -> plain numbers, fit for JSON.

    Least squares, one label after the other. A category that no clip has gets no offset.
    """
    logs = lengths.double().clamp(min=1).log()
    mean = logs.mean()
    offsets = {
        name: torch.zeros(len(values), dtype=torch.float64) for name, values in categories.items()
    }
    rest = logs - mean
    for _ in range(ROUNDS):
        for name, table in offsets.items():
            rest += table[ids[name]]
            counts = ids[name].bincount(minlength=len(table)).clamp(min=1)
            table.copy_(ids[name].bincount(rest, len(table)) / counts)
            rest -= table[ids[name]]
    numbers = {"log_mean": float(mean), "log_std": float(rest.std(correction=0))}
    return {
        **{name: round(value, 4) for name, value in numbers.items()},
        "offsets": {
            name: [round(value, 4) for value in table.tolist()] for name, table in offsets.items()
        },
    }


def draw_lengths(
    clip_length: ClipLength, ids: Mapping[str, Tensor], batch_size: int, seed: int
) -> Tensor:
    """Lengths in samples, (batch_size,) int64, the i-th from seed + i. ids: name -> (batch_size,)."""
    logs = torch.full((batch_size,), clip_length["log_mean"], dtype=torch.float64)
    for name, offsets in clip_length["offsets"].items():
        logs += torch.tensor(offsets, dtype=torch.float64)[ids[name].cpu()]
    noise = [
        torch.randn((), generator=torch.Generator().manual_seed(seed + index))
        for index in range(batch_size)
    ]
    logs += clip_length["log_std"] * torch.stack(noise).double().clamp(-WIDEST, WIDEST)
    return logs.exp().round().long().clamp(min=1)


def checked_clip_length(
    given: ClipLength | None, labels: Mapping[str, Sequence[str]]
) -> dict[str, Any] | None:
    """A plain copy. Raises ValueError for anything but what `fit_clip_length` gives for these labels."""
    if given is None:
        return None
    try:
        numbers = {name: float(given[name]) for name in ("log_mean", "log_std")}
        offsets = {
            str(name): [float(value) for value in values]
            for name, values in given["offsets"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"clip_length must be what fit_clip_length gives, but got {given!r} ({error!r})."
        ) from error
    finite = all(
        math.isfinite(value)
        for value in [*numbers.values(), *(x for row in offsets.values() for x in row)]
    )
    if not finite or {name: len(row) for name, row in offsets.items()} != {
        name: len(row) for name, row in labels.items()
    }:
        raise ValueError(
            f"clip_length {given!r} does not belong to the labels {dict(labels)!r}, or is not finite."
        )
    return {**numbers, "offsets": offsets}
