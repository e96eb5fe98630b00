"""Properties of the classifier: what it hears is in its input, it learns what can be told apart, one seed gives one."""

import math

import torch
from torch import Tensor

from wavenet import MuLaw
from wavenet.evaluation.classifier import SHIFT, SILENCE, augmented, hear, log_mel, train_classifier
from wavenet.evaluation.scores import accuracy, nearest_distances

RATE = 8000


def test_augmentation_moves_within_bounds_and_leaves_silence_silent() -> None:
    mel = torch.full((50, 3, 41), SILENCE)
    mel[:, :, 20] = 0.0
    moved = augmented(mel)
    places, gains = moved.amax(1).argmax(1), moved.amax((1, 2))
    assert moved.min() == SILENCE and ((moved > SILENCE).sum((1, 2)) == 3).all()
    assert places.min() >= 20 - SHIFT and places.max() <= 20 + SHIFT and len(places.unique()) > 8
    assert gains.abs().max() <= 6 / 10 * math.log(10) and gains.std() > 0.3


def tones(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """90 clips: the digit is the pitch, the speaker whether there is an octave above it."""
    generator = torch.Generator().manual_seed(seed)
    labels = {"digit": torch.arange(90) % 3, "speaker": torch.arange(90) % 2}
    phase = (2 * math.pi * 300 / RATE) * torch.arange(1600) * 1.6 ** labels["digit"].unsqueeze(1)
    audio = 0.3 * phase.sin() + 0.3 * labels["speaker"].unsqueeze(1) * (2 * phase).sin()
    return log_mel(audio + 0.02 * torch.randn(90, 1600, generator=generator), RATE), labels


def test_the_classifier_learns_a_separable_corpus_the_same_way_each_time() -> None:
    (mel, labels), (unheard, theirs) = tones(0), tones(1)
    counts = {"digit": 3, "speaker": 2}
    state = torch.get_rng_state()
    classifier = train_classifier(mel, labels, counts, epochs=15, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    features, heard = hear(classifier, unheard)
    assert min(accuracy(heard, theirs).values()) > 0.95
    again, other = (train_classifier(mel, labels, counts, epochs=15, seed=seed) for seed in (3, 4))
    assert torch.equal(hear(again, unheard)[0], features) and not torch.equal(
        hear(other, unheard)[0], features
    )


def test_a_copy_between_two_frames_is_nearer_than_any_other_clip() -> None:
    corpus = 0.5 * torch.randn(6, 2000) * torch.linspace(1, 0, 2000)
    copy = torch.nn.functional.pad(corpus[3], (33, 0))[:2000]
    queries = log_mel(torch.stack([copy, 0.5 * torch.randn(2000)]), RATE)
    distances = nearest_distances(queries, log_mel(corpus, RATE), SHIFT, SILENCE)
    assert distances[0] < 0.7 * distances[1]


def test_what_the_codec_makes_of_silence_is_silent() -> None:
    codec = MuLaw()
    assert (log_mel(codec.decode(codec.encode(torch.zeros(1, 1600))), RATE) == SILENCE).all()
    assert (log_mel(0.01 * torch.randn(1, 1600), RATE) > SILENCE).double().mean() > 0.9
