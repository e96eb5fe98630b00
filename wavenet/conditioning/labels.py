"""Owns what steers a model: labels, named categories for a whole clip; the position in the clip. Knows nothing of layers.

Paper: van den Oord et al. 2016, section 2.5. Labels are global conditioning, the position is local: h is the sum of one
embedding per label name and those of the position; each block projects it and adds it before its gate.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

LabelNames = Mapping[str, Sequence[str]]  # {"digit": ["0", "1", ...], "speaker": [...]}
NOT_TOLD = -1  # the id of a label that is left out; see `WaveNet`, unlabelled
FRAMES = 128  # that a position is told apart by, from either end of a clip
SHARES = 32  # of a clip, that a position is told apart by

LabelChoice = Mapping[
    str, "str | Sequence[str]"
]  # {"digit": "7"} for all streams, {"digit": ["7", "8"]} one a stream


def checked_names(labels: LabelNames | None) -> dict[str, list[str]]:
    """A plain copy of the label names. Raises ValueError for an empty or repeated category."""
    names = {
        str(name): [str(category) for category in categories]
        for name, categories in (labels or {}).items()
    }
    for name, categories in names.items():
        if not name.isidentifier():  # a module's name, a column's name, a command line's NAME=VALUE
            raise ValueError(
                f"Label name {name!r} must be letters, digits and underscores, and not begin with a digit."
            )
        if not categories or len(set(categories)) != len(categories):
            raise ValueError(
                f"Label {name!r} needs at least one category, each once, but got {categories}."
            )
    return names


class LabelEmbedding(nn.Module):
    """label ids, name -> (B,) -> condition features h (B, condition_channels, 1).

    unlabelled: whether an id may be NOT_TOLD, which adds nothing.
    """

    def __init__(
        self, labels: LabelNames, condition_channels: int, unlabelled: bool = False
    ) -> None:
        super().__init__()
        self.unlabelled = unlabelled
        self.names = list(
            labels
        )  # a list beside, not a ModuleDict: a label may be called "type", which nn.Module owns
        self.tables = nn.ModuleList(
            nn.Embedding(len(labels[name]), condition_channels) for name in self.names
        )

    def forward(self, labels: Mapping[str, Tensor] | None) -> Tensor:
        """Raises ValueError where a label is missing or not known to the model."""
        given = labels or {}
        if set(given) != set(self.names):
            raise ValueError(
                f"This model is conditioned on the labels {self.names}, but got {list(given)}. "
                "Give each as name -> (batch,) integers; wavenet.label_ids makes them from category names."
            )
        rows = [
            self._row(table, given[name])
            for name, table in zip(self.names, self.tables, strict=True)
        ]
        return torch.stack(rows).sum(0)[..., None]

    def _row(self, table: nn.Module, ids: Tensor) -> Tensor:
        if not self.unlabelled:
            return cast(Tensor, table(ids))
        told = ids != NOT_TOLD
        return cast(Tensor, table(ids.where(told, 0))) * told[:, None]


class PositionEmbedding(nn.Module):
    """Where in its clip a sample lies -> condition features h (B, condition_channels, T).

    A sum of three embeddings: frames since the clip's beginning, frames left to its end, and the share that is over. A frame
    is `hop` samples, counted from the clip's beginning, through which h stays as it is. They begin at zero.
    """

    def __init__(self, hop: int, condition_channels: int) -> None:
        super().__init__()
        self.hop = hop
        self.since = nn.Embedding(FRAMES, condition_channels)  # the last row: so many and more
        self.left = nn.Embedding(FRAMES, condition_channels)
        self.share = nn.Embedding(SHARES, condition_channels)
        for table in (self.since, self.left, self.share):
            nn.init.zeros_(table.weight)

    def forward(self, position: Tensor | None, time: int) -> Tensor:
        """position (B, 2) integers: the first of `time` samples by its place in the clip, and the clip's samples.

        Raises ValueError for a position that is missing or of another shape or type.
        """
        if (
            position is None
            or position.dim() != 2
            or position.shape[1] != 2
            or position.is_floating_point()
        ):
            seen = (
                "none" if position is None else f"shape {tuple(position.shape)} of {position.dtype}"
            )
            raise ValueError(
                f"This model is conditioned on where in its clip a sample lies, but got {seen}. Give position (batch, 2), "
                "integers: the place of the first sample in its clip, and how many samples the clip has."
            )
        start, length = position[:, :1], position[:, 1:].clamp(min=1)
        frame = (start + torch.arange(time, device=position.device)) // self.hop  # (B, T)
        begin = frame * self.hop
        left = (length - begin + self.hop - 1) // self.hop
        rows = (
            self.since(frame.clamp(0, FRAMES - 1)),
            self.left(left.clamp(0, FRAMES - 1)),
            self.share((SHARES * begin // length).clamp(0, SHARES - 1)),
        )
        return torch.stack(rows).sum(0).transpose(1, 2)


def advanced(position: Tensor | None, samples: int) -> Tensor | None:
    """The position so many samples later; None stays None."""
    return None if position is None else position + position.new_tensor([samples, 0])


def label_ids(names: LabelNames, choice: LabelChoice, batch_size: int) -> dict[str, Tensor]:
    """Category names -> integers a model takes: name -> (batch_size,) int64.

    A single category holds for every stream; a sequence gives one a stream. Raises ValueError for an unknown label or
    category, listing those there are, and for a sequence of another length than batch_size.
    """
    ids = {}
    for name, value in choice.items():
        if name not in names:
            known = ", ".join(names) or "none: it was trained without labels"
            raise ValueError(f"The model has no label {name!r}. Its labels are: {known}.")
        values = [value] * batch_size if isinstance(value, str) else [str(item) for item in value]
        if len(values) != batch_size:
            raise ValueError(
                f"Label {name!r} got {len(values)} categories for a batch of {batch_size}: give one for all, or one each."
            )
        categories = list(names[name])
        for item in values:
            if item not in categories:
                raise ValueError(
                    f"Label {name!r} has no category {item!r}. It has: {', '.join(categories)}."
                )
        ids[name] = torch.tensor([categories.index(item) for item in values])
    return ids
