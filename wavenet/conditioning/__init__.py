"""Owns what steers a model: labels of a whole clip, the position in it, mel, and `Condition`.

Everything becomes condition features here, above the engines. Knows nothing of layers or models.
"""

from wavenet.conditioning.condition import (
    Condition,
    FrameSource,
    Given,
    Made,
    Source,
    Timeline,
    beside,
)
from wavenet.conditioning.durations import (
    ClipLength,
    checked_clip_length,
    draw_lengths,
    fit_clip_length,
)
from wavenet.conditioning.given_mel import MelClips, MelFeed, mel_clips, mel_frames
from wavenet.conditioning.labels import (
    NO_LABEL,
    LabelChoice,
    LabelEmbedding,
    LabelNames,
    checked_names,
    label_ids,
    with_and_without,
)
from wavenet.conditioning.matching import MelPass, match_mel, matched, unmatchable
from wavenet.conditioning.mel import (
    Mel,
    MelFeatures,
    checked_mel,
    require_mel,
    within_silence,
)
from wavenet.conditioning.position import PositionEmbedding, advanced
from wavenet.conditioning.upsampling import Smoothed, Transposed

__all__ = [
    "NO_LABEL",
    "ClipLength",
    "Condition",
    "FrameSource",
    "Given",
    "LabelChoice",
    "LabelEmbedding",
    "LabelNames",
    "Made",
    "Mel",
    "MelClips",
    "MelFeatures",
    "MelFeed",
    "MelPass",
    "PositionEmbedding",
    "Smoothed",
    "Source",
    "Timeline",
    "Transposed",
    "advanced",
    "beside",
    "checked_clip_length",
    "checked_mel",
    "checked_names",
    "draw_lengths",
    "fit_clip_length",
    "label_ids",
    "match_mel",
    "matched",
    "mel_clips",
    "mel_frames",
    "require_mel",
    "unmatchable",
    "with_and_without",
    "within_silence",
]
