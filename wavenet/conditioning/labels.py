"""Owns labels as a condition: named categories of a whole clip, such as its speaker.

Van den Oord et al. 2016, section 2.5, global conditioning: the features are the sum of one
embedding for each label name.
"""

import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

LabelNames = Mapping[str, Sequence[str]]  # {"digit": ["0", "1", ...], "speaker": [...]}
# {"digit": "7"} for all streams, {"digit": ["7", "8"]} one a stream
LabelChoice = Mapping[str, str | Sequence[str]]
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MOST_CLIPS = 2**24  # that labels are given to at once
NO_LABEL = -1  # the id of a label that is left out; see `Config`, unlabelled


def checked_names(labels: LabelNames | None) -> dict[str, list[str]]:
    """A plain copy of the label names.

    Raises ValueError for names or categories of another type, for an empty or repeated category.
    """
    if not isinstance(labels, Mapping | None):
        raise ValueError(
            'labels must be names with their categories, {"digit": ["0", "1"]}, but got '
            f"{reprlib.repr(labels)}."
        )
    return {name: _checked_categories(name, given) for name, given in (labels or {}).items()}


def _checked_categories(name: Any, given: Any) -> list[str]:
    # a module's, a column's name, a command line's NAME=VALUE
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"Label name {reprlib.repr(name)} must be letters, digits and underscores, and not "
            "begin with a digit."
        )
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    if not listed or not all(_is_category(item) for item in given):
        raise ValueError(
            f"Label {name!r} needs a list of categories, which are words or whole numbers, but got "
            f"{reprlib.repr(given)}."
        )
    categories = [str(category) for category in given]
    if not categories or len(set(categories)) != len(categories):
        raise ValueError(
            f"Label {name!r} needs at least one category, each once, but got "
            f"{reprlib.repr(categories)}."
        )
    return categories


def _is_category(item: Any) -> bool:
    return isinstance(item, str | int) and not isinstance(item, bool)


class LabelEmbedding(nn.Module):
    """Label ids, name -> (B,), to condition features (B, D, 1).

    unlabelled: whether an id may be NO_LABEL, which adds nothing.
    """

    def __init__(
        self, labels: LabelNames, condition_channels: int, unlabelled: bool = False
    ) -> None:
        super().__init__()
        self.unlabelled = unlabelled
        # Not a ModuleDict: a label may be called "type", a name that nn.Module has taken.
        self.names = list(labels)
        self.tables = nn.ModuleList(
            nn.Embedding(len(labels[name]), condition_channels) for name in self.names
        )

    def forward(self, labels: Mapping[str, Tensor] | None) -> Tensor:
        """Raises ValueError where a label is missing or not known to the model."""
        given = labels or {}
        if set(given) != set(self.names):
            raise ValueError(
                f"This model is conditioned on the labels {self.names}, but got {list(given)}. "
                "Give each as name -> (batch,) integers; wavenet.label_ids makes them from names "
                "of categories."
            )
        rows = [
            self._row(name, table, _checked_ids(name, given[name]))
            for name, table in zip(self.names, self.tables, strict=True)
        ]
        if len({len(row) for row in rows}) > 1:
            sizes = {name: len(row) for name, row in zip(self.names, rows, strict=True)}
            raise ValueError(f"Each label needs an id for each clip, but there are {sizes}.")
        return torch.stack(rows).sum(0)[..., None]

    def _row(self, name: str, table: nn.Module, ids: Tensor) -> Tensor:
        try:
            if not self.unlabelled:
                return cast(Tensor, table(ids))
            labelled = ids != NO_LABEL
            return cast(Tensor, table(ids.where(labelled, 0))) * labelled[:, None]
        except IndexError as error:
            last = cast(nn.Embedding, table).num_embeddings - 1
            raise ValueError(
                f"Label {name!r} has the ids 0..{last}, but got values from {int(ids.min())} to "
                f"{int(ids.max())}."
            ) from error


def _checked_ids(name: str, ids: Tensor) -> Tensor:
    """(B,) int64. Raises ValueError for another shape or type."""
    if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.dtype not in INTEGERS:
        seen = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"Label {name!r} needs ids (batch,), integers, but got {seen}.")
    return ids.long()


def label_ids(names: LabelNames, choice: LabelChoice, batch_size: int) -> dict[str, Tensor]:
    """Category names -> integers a model takes: name -> (batch_size,) int64.

    A single category holds for every stream; a sequence gives one a stream. Raises ValueError for
    an unknown label or category, listing those there are, for a sequence of another length, and
    for a batch_size outside 1..MOST_CLIPS.
    """
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if not whole or not 1 <= batch_size <= MOST_CLIPS:
        raise ValueError(
            f"batch_size must be an integer from 1 to {MOST_CLIPS}, but got {batch_size!r}."
        )
    if not isinstance(choice, Mapping):
        raise ValueError(f'Labels are given as {{"name": "category"}}, but got {choice!r}.')
    ids = {}
    for name, value in choice.items():
        if name not in names:
            known = ", ".join(names) or "none: it was trained without labels"
            raise ValueError(f"The model has no label {name!r}. Its labels are: {known}.")
        if isinstance(value, str | int):  # 7 is the category "7"
            value = [str(value)] * batch_size
        if not isinstance(value, Sequence):
            raise ValueError(
                f"Label {name!r} takes a category, or a sequence of one for each clip, but got "
                f"{value!r}."
            )
        given = [str(item) for item in value]
        if len(given) != batch_size:
            raise ValueError(
                f"Label {name!r} got {len(given)} categories for a batch of {batch_size}: give one "
                "for all, or one each."
            )
        categories = list(names[name])
        for item in given:
            if item not in categories:
                raise ValueError(
                    f"Label {name!r} has no category {item!r}. It has: {', '.join(categories)}."
                )
        ids[name] = torch.tensor([categories.index(item) for item in given])
    return ids


def with_and_without(
    ids: Mapping[str, Tensor], left_out: Collection[str] | None = None
) -> dict[str, Tensor]:
    """For each stream, two: the first with the labels `ids`, name -> (B,), the second without.

    left_out: the labels that the second is without; None: all of them.
    """
    names = ids if left_out is None else left_out
    return {
        name: torch.stack(
            [value, torch.full_like(value, NO_LABEL) if name in names else value], dim=1
        ).flatten()
        for name, value in ids.items()
    }
