"""Owns what steers a model: labels, named categories for a whole clip. Knows nothing of layers or audio.

Paper: van den Oord et al. 2016, section 2.5, global conditioning. h is the sum of one embedding per label name; each block
projects it and adds it before its gate.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

LabelNames = Mapping[str, Sequence[str]]  # {"digit": ["0", "1", ...], "speaker": [...]}
LabelChoice = Mapping[str, "str | Sequence[str]"]  # {"digit": "7"} for all streams, {"digit": ["7", "8"]} one a stream


def checked_names(labels: LabelNames | None) -> dict[str, list[str]]:
    """A plain copy of the label names. Raises ValueError for an empty or repeated category."""
    names = {str(name): [str(category) for category in categories] for name, categories in (labels or {}).items()}
    for name, categories in names.items():
        if not name.isidentifier():  # a module's name, a column's name, a command line's NAME=VALUE
            raise ValueError(
                f"Label name {name!r} must be letters, digits and underscores, and not begin with a digit."
            )
        if not categories or len(set(categories)) != len(categories):
            raise ValueError(f"Label {name!r} needs at least one category, each once, but got {categories}.")
    return names


class LabelEmbedding(nn.Module):
    """label ids, name -> (B,) -> condition features h (B, condition_channels, 1)."""

    def __init__(self, labels: LabelNames, condition_channels: int) -> None:
        super().__init__()
        self.names = list(labels)  # a list beside, not a ModuleDict: a label may be called "type", which nn.Module owns
        self.tables = nn.ModuleList(nn.Embedding(len(labels[name]), condition_channels) for name in self.names)

    def forward(self, labels: Mapping[str, Tensor] | None) -> Tensor:
        """Raises ValueError where a label is missing or not known to the model."""
        given = labels or {}
        if set(given) != set(self.names):
            raise ValueError(
                f"This model is conditioned on the labels {self.names}, but got {list(given)}. "
                "Give each as name -> (batch,) integers; wavenet.label_ids makes them from category names."
            )
        return torch.stack([table(given[name]) for name, table in zip(self.names, self.tables, strict=True)]).sum(0)[
            ..., None
        ]


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
                raise ValueError(f"Label {name!r} has no category {item!r}. It has: {', '.join(categories)}.")
        ids[name] = torch.tensor([categories.index(item) for item in values])
    return ids
