"""Owns what the data and the model tell each other before training. Knows no other side of either.

The data module gives `facts`, a `CorpusFacts`; the Lightning module gives `model_facts`, a
`ModelFacts`. Nothing else passes between them but batches.
"""

from dataclasses import dataclass

from wavenet.conditioning.durations import ClipLength
from wavenet.corpus import Framing


@dataclass(frozen=True)
class CorpusFacts:
    """What the data tells the model.

    sample_rate: of the audio, in Hz.
    labels: label names and their categories, in the order that the ids in batches count.
    unlabelled: whether batches leave labels out of some rows.
    clip_length: how long training clips are, by their labels; None where there are none.
    scaled: whether each clip is scaled by its extremes, and begins after silence; see
        `AudioDataModule`'s protocol.
    """

    sample_rate: int
    labels: dict[str, list[str]]
    unlabelled: bool
    clip_length: ClipLength | None
    scaled: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What the model tells the data.

    receptive_field: input samples that one prediction depends on.
    framing: what a batch's rows hold around their targets.
    """

    receptive_field: int
    framing: Framing
