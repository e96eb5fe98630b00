"""Owns the results of an evaluation of digits as values. Knows nothing of how they were found."""

from dataclasses import dataclass

from wavenet.evaluation.clips import Clips
from wavenet.evaluation.scores import Share


@dataclass(frozen=True)
class Scores:
    """The scores of one set of clips that Kong et al. 2021 and Goel et al. 2022 report for SC09.

    By the log-mel judge.
    """

    fid: float
    inception: float
    modified_inception: float
    am: float


@dataclass(frozen=True)
class Distances:
    """Quartiles of the distance from each clip of a set to its nearest training clip.

    In dB RMS over the log-mel spectrogram.
    """

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True)
class Evaluation:
    """The results of `evaluate`.

    Sets: "training" and "held_out_coded", real clips that went through the model's codec, as those
    it makes do; "held_out", as they are; "generated". Judges: "vote", and each by its name.

    accuracy: set -> label name -> judge -> the clips that it assigns to their label (the label of a
        generated clip is the requested one).
    each: label name -> judge -> the same of generated clips, one for each category.
    confusion: confusion[requested][heard] counts generated clips by digit, by the vote.
    nearer: fraction of generated clips whose distance to the nearest training clip is below the 1st
        percentile of the coded held-out clips' distances.
    """

    accuracy: dict[str, dict[str, dict[str, Share]]]
    each: dict[str, dict[str, list[Share]]]
    confusion: list[list[int]]
    scores: dict[str, Scores]
    distances: dict[str, Distances]
    nearer: float
    generated: Clips
