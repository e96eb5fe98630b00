"""Owns a small classifier of log-mel spectrograms: which digit, which speaker.

Knows nothing of WaveNet, files or scores. Shapes: N clips, T time, M mel bands, F mel frames,
D features.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.conditioning.filterbank import HTK, mel_bands, spectrum

SILENCE = math.log(1e-5)  # the smallest log-mel power: mu-law rounding near silence is below it
DECIBELS = 10 / math.log(10)  # dB per unit of log-mel power
SHIFT = 8  # frames of 10 ms: the largest shift in time between two clips that are compared
GAIN = 6.0 / DECIBELS  # the augmentation's gain is up to +-6 dB
FEATURES = 64
# Label smoothing. Without it the modified inception score measures how large the logits grow.
SMOOTHING = 0.01


def log_mel(audio: Tensor, sample_rate: int) -> Tensor:
    """audio (N, T) -> natural log of the mel power (N, M, F), at least SILENCE.

    40 bands, 32 ms windows every 10 ms. The bands start at 80 Hz: the codec's silence is a small
    constant, and the window spreads a constant over 62 Hz.
    """
    length = round(0.032 * sample_rate)
    window = torch.hann_window(length, device=audio.device)
    bands = mel_bands(length + 1, 40, sample_rate, low=80.0, scale=HTK).to(audio.device)
    transforms = spectrum(audio, window, 2 * length, sample_rate // 100, centred=True)
    return transforms.abs().square().mT.matmul(bands).mT.log().clamp_min(SILENCE)


class Classifier(nn.Module):
    """log-mel (N, M, F) -> features (N, FEATURES) -> logits, name -> (N, categories).

    Each label has one linear head.
    """

    def __init__(
        self,
        categories: Mapping[str, int],
        bands: int = 40,
        channels: Sequence[int] = (1, 32, 64, 96),
    ) -> None:
        super().__init__()
        blocks = [_halving(before, after) for before, after in pairwise(channels)]
        self.trunk = nn.Sequential(nn.BatchNorm2d(1), *blocks)
        for _ in blocks:
            bands = math.ceil(bands / 2)
        self.features = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(channels[-1] * bands, FEATURES), nn.ReLU()
        )
        self.names = list(categories)
        self.heads = nn.ModuleList(nn.Linear(FEATURES, count) for count in categories.values())

    def forward(self, mel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The features, which the Frechet distance compares, and the logits."""
        # (N, C, bands): the mean over time, because a word may start anywhere in its clip
        hidden = self.trunk(mel.unsqueeze(1)).mean(dim=3)
        features = self.features(hidden.flatten(1))
        return features, {
            name: head(features) for name, head in zip(self.names, self.heads, strict=True)
        }


def _halving(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()
    )


def train_classifier(
    mel: Tensor,
    labels: Mapping[str, Tensor],
    categories: Mapping[str, int],
    *,
    epochs: int = 20,
    seed: int = 0,
) -> Classifier:
    """A classifier of mel (N, M, F), in eval mode; the same seed gives the same classifier.

    labels: name -> (N,) ids. It trains for a fixed number of epochs, with a new random shift and
    gain for each clip in each epoch. The held-out clips are not used to choose anything.
    """
    if epochs < 1:
        raise ValueError(f"The classifier needs at least one epoch, but got {epochs}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(categories, mel.shape[1])
        batch = min(64, len(mel))
        steps = epochs * (len(mel) // batch)
        optimiser = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=max(steps, 2))
        for chosen in _batches(len(mel), batch, epochs):
            _, logits = classifier(augmented(mel[chosen]))
            loss = torch.stack([_loss(logits[name], labels[name][chosen]) for name in labels]).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return classifier.eval()


def _loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits, ids, label_smoothing=SMOOTHING)


def _batches(count: int, size: int, epochs: int) -> Iterator[Tensor]:
    """Rows of full batches, in a new random order each epoch; an incomplete batch is dropped."""
    for _ in range(epochs):
        yield from torch.randperm(count)[: count - count % size].split(size)


def augmented(mel: Tensor) -> Tensor:
    """mel (N, M, F), each clip shifted by up to SHIFT frames, with a gain of up to +-GAIN.

    Frames that enter by the shift are silence.
    """
    frames = torch.arange(mel.shape[2]) + torch.randint(2 * SHIFT + 1, (len(mel), 1))
    index = frames.unsqueeze(1).expand_as(mel)
    moved = F.pad(mel, (SHIFT, SHIFT), value=SILENCE).gather(2, index)
    gain = GAIN * (2 * torch.rand(len(mel), 1, 1) - 1)
    return torch.where(moved > SILENCE, moved + gain, moved).clamp_min(SILENCE)


@torch.no_grad()
def hear(classifier: Classifier, mel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """mel (N, M, F) -> features (N, D) and probabilities, name -> (N, categories); float64."""
    heard = [classifier(chunk) for chunk in mel.split(256)]
    probabilities = {
        n: torch.cat([logits[n] for _, logits in heard]).double().softmax(1)
        for n in classifier.names
    }
    return torch.cat([features for features, _ in heard]).double(), probabilities
