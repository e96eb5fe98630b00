"""Owns the judge that looks at raw samples: which digit, which speaker, without a spectrogram.

Knows nothing of WaveNet, files or scores. Shapes: N clips, T time, C channels.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.conditioning.filterbank import HTK
from wavenet.evaluation.learning import Judge, Labels, fit

STRIDE = 0.001  # seconds between the outputs of the first convolution
WINDOW = 0.016  # seconds that it sees
HEARD = 0.64  # seconds of a clip that are looked at, the loudest
SHIFT = 0.05  # seconds: the augmentation's largest shift
# dB that the augmentation's noise lies below a clip at least, and how much more at most
LOUDEST_NOISE, NOISE_RANGE = 15.0, 35.0
CHANNELS = (48, 64, 96, 96)
# Pitches that the first convolution begins with: in Hz; as a share of the sample rate
LOWEST, HIGHEST = 100.0, 0.475


class WaveformClassifier(Judge):
    """audio (N, T) -> logits, name -> (N, categories).

    After Dai et al. 2017 ("Very deep convolutional neural networks for raw waveforms"): a long
    first convolution, then short ones with pooling between. The first begins as cosines and sines
    of pitches evenly spaced on the mel scale, and learns from there.
    """

    def __init__(self, categories: Mapping[str, int], sample_rate: int, clips: int = 0) -> None:
        super().__init__(categories, sample_rate, clips)
        first, *rest = CHANNELS
        window, stride = round(WINDOW * sample_rate), max(1, round(STRIDE * sample_rate))
        begin = nn.Conv1d(1, first, window, stride=stride, padding=window // 2)
        begin.weight.data = _waves(first, window, sample_rate)
        layers = [*_rectified(begin), nn.MaxPool1d(4)]
        before = first
        for index, channels in enumerate(rest):
            layers += _rectified(nn.Conv1d(before, channels, 5, padding=2))
            layers += [nn.MaxPool1d(2)] if index < len(rest) - 1 else []
            before = channels
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.3)
        self.heads = nn.ModuleList(nn.Linear(2 * before, count) for count in categories.values())

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        return self.of_loudest(self.loudest(audio))

    def loudest(self, audio: Tensor) -> Tensor:
        """audio (N, T) -> (N, HEARD), where each clip is loudest; short clips as they are."""
        return loudest(audio, round(HEARD * self.sample_rate))

    def of_loudest(self, audio: Tensor) -> dict[str, Tensor]:
        """Of the loudest part of each clip, which is brought to one level."""
        level = audio.square().mean(1, keepdim=True).sqrt().clamp_min(1e-4)
        hidden = self.trunk((audio / level).unsqueeze(1))
        summary = self.dropout(torch.cat([hidden.mean(2), hidden.amax(2)], dim=1))
        return {name: head(summary) for name, head in zip(self.categories, self.heads, strict=True)}

    def learn(self, audio: Tensor, labels: Labels, epochs: int) -> None:
        """With a new random shift and noise for each clip in each epoch."""
        heard = self.loudest(audio)
        fit(self, self.of_loudest, heard, self.changed, labels, epochs=epochs, batch=32)

    def changed(self, audio: Tensor) -> Tensor:
        """(N, HEARD), shifted in time, with white noise."""
        shift = round(SHIFT * self.sample_rate)
        places = torch.arange(audio.shape[1]) + torch.randint(2 * shift + 1, (len(audio), 1))
        moved = F.pad(audio, (shift, shift)).gather(1, places)
        below = LOUDEST_NOISE + NOISE_RANGE * torch.rand(len(audio), 1)
        level = moved.square().mean(1, keepdim=True).sqrt() * 10 ** (-below / 20)
        return moved + level * torch.randn_like(moved)


def _rectified(convolution: nn.Conv1d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm1d(convolution.out_channels), nn.ReLU()]


def _waves(channels: int, window: int, sample_rate: int) -> Tensor:
    """(channels, 1, window): cosines, then sines, under a Hann window."""
    low, high = HTK.mel(LOWEST), HTK.mel(HIGHEST * sample_rate)
    pitches = HTK.hertz(torch.linspace(low, high, channels // 2))
    time = (torch.arange(window) - window / 2) / sample_rate
    phases = 2 * math.pi * pitches[:, None] * time
    waves = torch.cat([phases.cos(), phases.sin()]) * torch.hann_window(window)
    return waves.unsqueeze(1) / math.sqrt(window)


def loudest(audio: Tensor, samples: int) -> Tensor:
    """audio (N, T) -> (N, samples): the stretch of each clip with the most energy.

    Where several have as much, as of a word with silence around it, the middle one.
    """
    if audio.shape[1] <= samples:
        return audio
    energy = F.pad(audio.double().square().cumsum(1), (1, 0))
    inside = energy[:, samples:] - energy[:, :-samples]
    most = inside >= 0.999 * inside.amax(1, keepdim=True)
    first = (most * torch.arange(inside.shape[1])).sum(1) // most.sum(1)
    return audio.gather(1, first[:, None] + torch.arange(samples))
