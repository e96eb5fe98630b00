"""Properties of the classifier: its input, its augmentation, and that it learns reproducibly."""

import math

import torch
from torch import Tensor

from wavenet import MuLaw
from wavenet.evaluation.classifier import SHIFT, SILENCE, augmented, hear, log_mel, train_classifier
from wavenet.evaluation.scores import accuracy, nearest_distances

RATE = 8000


def test_augmentation_shifts_within_bounds_and_leaves_silence_silent() -> None:
    mel = torch.full((50, 3, 41), SILENCE)
    mel[:, :, 20] = 0.0
    moved = augmented(mel)
    places, gains = moved.amax(1).argmax(1), moved.amax((1, 2))
    assert moved.min() == SILENCE and ((moved > SILENCE).sum((1, 2)) == 3).all()
    assert places.min() >= 20 - SHIFT and places.max() <= 20 + SHIFT and len(places.unique()) > 8
    assert gains.abs().max() <= 6 / 10 * math.log(10) and gains.std() > 0.3


def tones(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """90 clips: the digit is the pitch; the speaker decides whether its octave sounds as well."""
    generator = torch.Generator().manual_seed(seed)
    labels = {"digit": torch.arange(90) % 3, "speaker": torch.arange(90) % 2}
    phase = (2 * math.pi * 300 / RATE) * torch.arange(1600) * 1.6 ** labels["digit"].unsqueeze(1)
    audio = 0.3 * phase.sin() + 0.3 * labels["speaker"].unsqueeze(1) * (2 * phase).sin()
    return log_mel(audio + 0.02 * torch.randn(90, 1600, generator=generator), RATE), labels


def test_the_classifier_learns_a_separable_corpus_the_same_way_each_time() -> None:
    (mel, labels), (new_mel, new_labels) = tones(0), tones(1)
    counts = {"digit": 3, "speaker": 2}
    state = torch.get_rng_state()
    classifier = train_classifier(mel, labels, counts, epochs=15, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    features, probabilities = hear(classifier, new_mel)
    assert min(accuracy(probabilities, new_labels).values()) > 0.95
    again, other = (train_classifier(mel, labels, counts, epochs=15, seed=seed) for seed in (3, 4))
    assert torch.equal(hear(again, new_mel)[0], features)
    assert not torch.equal(hear(other, new_mel)[0], features)


def test_a_copy_shifted_by_a_fraction_of_a_frame_is_nearer_than_noise() -> None:
    corpus = 0.5 * torch.randn(6, 2000) * torch.linspace(1, 0, 2000)
    copy = torch.nn.functional.pad(corpus[3], (33, 0))[:2000]
    queries = log_mel(torch.stack([copy, 0.5 * torch.randn(2000)]), RATE)
    distances = nearest_distances(queries, log_mel(corpus, RATE), SHIFT, SILENCE)
    assert distances[0] < 0.7 * distances[1]


def test_silence_is_still_silent_after_the_codec() -> None:
    codec = MuLaw()
    assert (log_mel(codec.decode(codec.encode(torch.zeros(1, 1600))), RATE) == SILENCE).all()
    assert (log_mel(0.01 * torch.randn(1, 1600), RATE) > SILENCE).double().mean() > 0.9
