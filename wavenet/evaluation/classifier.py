"""Owns the judge that looks at log-mel spectrograms: which digit, which speaker.

Knows nothing of WaveNet, files or scores. Shapes: N clips, T time, M mel bands, F mel frames,
D features.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.conditioning.filterbank import HTK, mel_bands, spectrum
from wavenet.evaluation.learning import Judge, Labels, fit

SILENCE = math.log(1e-5)  # the smallest log-mel power: mu-law rounding near silence is below it
DECIBELS = 10 / math.log(10)  # dB per unit of log-mel power
SHIFT = 8  # frames of 10 ms: the largest shift in time between two clips that are compared
GAIN = 6.0 / DECIBELS  # the augmentation's gain is up to +-6 dB
FEATURES = 64
BANDS = 40


def log_mel(audio: Tensor, sample_rate: int) -> Tensor:
    """audio (N, T) -> natural log of the mel power (N, M, F), at least SILENCE.

    BANDS bands, 32 ms windows every 10 ms. The bands start at 80 Hz: the codec's silence is a small
    constant, and the window spreads a constant over 62 Hz.
    """
    length = round(0.032 * sample_rate)
    window = torch.hann_window(length, device=audio.device)
    bands = mel_bands(length + 1, BANDS, sample_rate, low=80.0, scale=HTK).to(audio.device)
    transforms = spectrum(audio, window, 2 * length, sample_rate // 100, centred=True)
    return transforms.abs().square().mT.matmul(bands).mT.log().clamp_min(SILENCE)


class Classifier(Judge):
    """audio (N, T) -> logits, name -> (N, categories), by a network on its log-mel spectrogram.

    Each label has one linear head on the same features (N, FEATURES).
    """

    def __init__(
        self,
        categories: Mapping[str, int],
        sample_rate: int,
        clips: int = 0,
        channels: Sequence[int] = (1, 32, 64, 96),
    ) -> None:
        super().__init__(categories, sample_rate, clips)
        blocks = [_halving(before, after) for before, after in pairwise(channels)]
        self.trunk = nn.Sequential(nn.BatchNorm2d(1), *blocks)
        bands = BANDS
        for _ in blocks:
            bands = math.ceil(bands / 2)
        self.summary = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(channels[-1] * bands, FEATURES), nn.ReLU()
        )
        self.heads = nn.ModuleList(nn.Linear(FEATURES, count) for count in categories.values())

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        return self.of_mel(log_mel(audio, self.sample_rate))

    def of_mel(self, mel: Tensor) -> dict[str, Tensor]:
        """As `forward`, of log-mel (N, M, F)."""
        features = self._features(mel)
        return {
            name: head(features) for name, head in zip(self.categories, self.heads, strict=True)
        }

    def features(self, audio: Tensor) -> Tensor:
        """audio (N, T) -> (N, FEATURES), which the Frechet distance compares."""
        return self._features(log_mel(audio, self.sample_rate))

    def _features(self, mel: Tensor) -> Tensor:
        # (N, C, bands): the mean over time, because a word may start anywhere in its clip
        hidden = self.trunk(mel.unsqueeze(1)).mean(dim=3)
        return self.summary(hidden.flatten(1))

    def learn(self, audio: Tensor, labels: Labels, epochs: int) -> None:
        """With a new random shift and gain for each clip in each epoch."""
        mel = log_mel(audio, self.sample_rate)
        fit(self, self.of_mel, mel, augmented, labels, epochs=epochs, batch=64)


def _halving(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()
    )


def augmented(mel: Tensor) -> Tensor:
    """mel (N, M, F), each clip shifted by up to SHIFT frames, with a gain of up to +-GAIN.

    Frames that enter by the shift are silence.
    """
    frames = torch.arange(mel.shape[2]) + torch.randint(2 * SHIFT + 1, (len(mel), 1))
    index = frames.unsqueeze(1).expand_as(mel)
    moved = F.pad(mel, (SHIFT, SHIFT), value=SILENCE).gather(2, index)
    gain = GAIN * (2 * torch.rand(len(mel), 1, 1) - 1)
    return torch.where(moved > SILENCE, moved + gain, moved).clamp_min(SILENCE)
