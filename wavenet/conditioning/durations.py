"""Owns how long a corpus's clips are: `ClipLength`, fitted to a corpus and drawn from.

A model that knows its position in the clip draws the lengths of its clips from it.
Knows nothing of files or networks.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ROUNDS = 20  # of the fit, each taking the labels in turn
LONGEST = 2**31  # samples of a clip that is drawn
WIDEST = 2.0  # standard deviations: no draw lies further out


@dataclass(frozen=True)
class ClipLength:
    """ln(samples) is normal, about a mean plus an offset for each category of each label.

    log_mean, log_std: of ln(samples).
    offsets: label name -> one number for each of its categories.
    """

    log_mean: float
    log_std: float
    offsets: Mapping[str, Sequence[float]] = field(default_factory=dict)


def fit_clip_length(
    lengths: Tensor, ids: Mapping[str, Tensor], categories: Mapping[str, Sequence[str]]
) -> ClipLength:
    """lengths (N,) in samples and each clip's categories, name -> (N,) integers.

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
    return ClipLength(
        round(float(mean), 4),
        round(float(rest.std(correction=0)), 4),
        {name: [round(value, 4) for value in table.tolist()] for name, table in offsets.items()},
    )


def draw_lengths(
    clip_length: ClipLength, ids: Mapping[str, Tensor], batch_size: int, seed: int
) -> Tensor:
    """Lengths in samples, (batch_size,) int64, the i-th from seed + i.

    ids: name -> (batch_size,).
    """
    logs = torch.full((batch_size,), clip_length.log_mean, dtype=torch.float64)
    for name, offsets in clip_length.offsets.items():
        logs += torch.tensor(offsets, dtype=torch.float64)[ids[name].cpu()]
    noise = [
        torch.randn((), generator=torch.Generator().manual_seed(seed + index))
        for index in range(batch_size)
    ]
    logs += clip_length.log_std * torch.stack(noise).double().clamp(-WIDEST, WIDEST)
    return logs.exp().round().long().clamp(min=1)


def checked_clip_length(
    given: ClipLength | Mapping[str, Any] | None, labels: Mapping[str, Sequence[str]]
) -> ClipLength | None:
    """A plain copy, also of the same as a mapping, as it stands in files.

    Raises ValueError for anything but what `fit_clip_length` gives for these labels.
    """
    if given is None:
        return None
    try:
        fields = vars(given) if isinstance(given, ClipLength) else given
        made = ClipLength(
            _number(fields["log_mean"]),
            _number(fields["log_std"]),
            {name: [_number(value) for value in row] for name, row in fields["offsets"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            "clip_length must be what fit_clip_length gives, but got "
            f"{reprlib.repr(given)} ({error!r:.200})."
        ) from error
    _require_these_labels(made, labels)
    _require_possible(made)
    return made


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{reprlib.repr(value)} is no number")
    return float(value)


def _require_these_labels(made: ClipLength, labels: Mapping[str, Sequence[str]]) -> None:
    numbers = [made.log_mean, made.log_std, *(x for row in made.offsets.values() for x in row)]
    sizes, wanted = ({n: len(row) for n, row in rows.items()} for rows in (made.offsets, labels))
    if sizes != wanted or not all(math.isfinite(number) for number in numbers):
        raise ValueError(
            f"{reprlib.repr(made)} does not belong to the labels {reprlib.repr(dict(labels))}, or "
            "is not finite. clip_length must be what fit_clip_length gives for these labels."
        )


def _require_possible(made: ClipLength) -> None:
    longest = made.log_mean + sum(max(row) for row in made.offsets.values())
    if made.log_std < 0 or longest + WIDEST * made.log_std > math.log(LONGEST):
        raise ValueError(
            f"clip_length must have a log_std of at least 0 and give clips of at most {LONGEST} "
            f"samples, but got {reprlib.repr(made)}."
        )
