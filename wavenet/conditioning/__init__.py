"""Owns what steers a model: labels of a whole clip, the position in the clip, and `Condition`.

Everything becomes condition features here, above the engines. Knows nothing of layers or models.
"""

from wavenet.conditioning.condition import Condition, Given, Made, Timeline
from wavenet.conditioning.durations import (
    ClipLength,
    checked_clip_length,
    draw_lengths,
    fit_clip_length,
)
from wavenet.conditioning.labels import (
    NO_LABEL,
    LabelChoice,
    LabelEmbedding,
    LabelNames,
    checked_names,
    label_ids,
    with_and_without,
)
from wavenet.conditioning.position import PositionEmbedding, advanced

__all__ = [
    "NO_LABEL",
    "ClipLength",
    "Condition",
    "Given",
    "LabelChoice",
    "LabelEmbedding",
    "LabelNames",
    "Made",
    "PositionEmbedding",
    "Timeline",
    "advanced",
    "checked_clip_length",
    "checked_names",
    "draw_lengths",
    "fit_clip_length",
    "label_ids",
    "with_and_without",
]
