"""Owns a judge without a network: the nearest training clips by their mel cepstra.

Knows nothing of WaveNet, files or scores. Shapes: N clips, R training clips, M mel bands, F mel
frames, D features.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.evaluation.classifier import log_mel
from wavenet.evaluation.learning import Judge, Labels

COEFFICIENTS = 20
PARTS = 12  # of equal length, that the sound of a clip is cut into
FAINT = 3.0 * math.log(10)  # of log power: what lies 30 dB below the loudest frame is not sound
NEIGHBOURS = 5


def cepstra(mel: Tensor) -> Tensor:
    """Log mel (N, M, F) -> (N, D): coefficients of the parts of the sound, and how long it is.

    Mel-frequency cepstral coefficients (Davis and Mermelstein 1980, equation 1): the cosine
    transform of the log mel power. Of the first, which is the level, the mean is taken off.
    """
    bands = torch.arange(mel.shape[1]) + 0.5
    waves = torch.cos(math.pi / mel.shape[1] * torch.arange(COEFFICIENTS)[:, None] * bands)
    return torch.stack([_of_clip(waves @ clip, _sound(clip)) for clip in mel])


def _sound(mel: Tensor) -> slice:
    """The frames of (M, F) from the first that is not faint to the last."""
    power = mel.logsumexp(0)
    heard = (power > power.max() - FAINT).nonzero().flatten()
    return slice(int(heard[0]), int(heard[-1]) + 1)


def _of_clip(coefficients: Tensor, sound: slice) -> Tensor:
    """(COEFFICIENTS, F) -> (D,)."""
    parts = F.adaptive_avg_pool1d(coefficients[None, :, sound], PARTS)[0]
    level = parts[:1] - parts[:1].mean()
    duration = parts.new_tensor([math.log(sound.stop - sound.start)])
    return torch.cat([level.flatten(), parts[1:].flatten(), duration])


class NearestCepstra(Judge):
    """audio (N, T) -> logits, name -> (N, categories): a vote of the nearest training clips.

    Distances are Euclidean, of features with a mean of 0 and a variance of 1 over the training
    clips. A neighbour's vote is the inverse of its distance.
    """

    references: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, categories: Mapping[str, int], sample_rate: int, clips: int = 1) -> None:
        super().__init__(categories, sample_rate, clips)
        features = COEFFICIENTS * PARTS + 1
        self.register_buffer("references", torch.zeros(clips, features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        for name in categories:
            self.register_buffer(f"ids_{name}", torch.zeros(clips, dtype=torch.int64))

    def learn(self, audio: Tensor, labels: Labels, epochs: int) -> None:
        """Keeps the training clips' features; there is nothing to repeat in epochs."""
        features = cepstra(log_mel(audio, self.sample_rate))
        self.mean, self.scale = features.mean(0), features.std(0).clamp_min(1e-6)
        self.references = (features - self.mean) / self.scale
        for name in self.categories:
            setattr(self, f"ids_{name}", labels[name].clone())

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        features = (cepstra(log_mel(audio, self.sample_rate)) - self.mean) / self.scale
        distances = torch.cdist(features, self.references)
        near, which = distances.topk(min(NEIGHBOURS, len(self.references)), largest=False)
        votes = 1 / near.clamp_min(1e-6)
        return {name: self._logits(name, which, votes) for name in self.categories}

    def _logits(self, name: str, which: Tensor, votes: Tensor) -> Tensor:
        ids = getattr(self, f"ids_{name}")[which]  # (N, NEIGHBOURS)
        counted = votes.new_zeros(len(votes), self.categories[name]).scatter_add(1, ids, votes)
        return (counted / votes.sum(1, keepdim=True)).clamp_min(1e-9).log()
