"""Owns the way from a folder of audio to batches: listing, labelling, preparing, cutting.

`Corpus` is the folder with its settings; its audio is decoded once to 16-bit PCM. `CropBatches` and
`ClipBatches` cut its clips, as 16-bit PCM still: what a model makes of it, codes, levels or mel, is
made on the model's device, so that one preparation serves every output.

Knows nothing of networks, training or Lightning. Of a model it knows the receptive field and the
framing of its rows.
"""

from wavenet.corpus.augmenting import UNAUGMENTED, Augment
from wavenet.corpus.batches import (
    Batch,
    ClipBatches,
    ClipTable,
    CropBatches,
    Framing,
    ResumableSampler,
    Scoring,
    batch_loader,
)
from wavenet.corpus.corpus import Clip, Corpus
from wavenet.corpus.decoding import DecodeSettings
from wavenet.corpus.listing import Listing, find_audio, hold_out

__all__ = [
    "UNAUGMENTED",
    "Augment",
    "Batch",
    "Clip",
    "ClipBatches",
    "ClipTable",
    "Corpus",
    "CropBatches",
    "DecodeSettings",
    "Framing",
    "Listing",
    "ResumableSampler",
    "Scoring",
    "batch_loader",
    "find_audio",
    "hold_out",
]
