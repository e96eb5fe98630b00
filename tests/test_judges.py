"""Properties of the judges: inputs, that each learns reproducibly, their vote, their cache."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wavenet import MuLaw
from wavenet.evaluation import judges
from wavenet.evaluation.cepstra import cepstra
from wavenet.evaluation.classifier import SHIFT, SILENCE, augmented, log_mel
from wavenet.evaluation.judges import KINDS, VOTE, ensemble, voted
from wavenet.evaluation.learning import Judge, hear, learned
from wavenet.evaluation.scores import nearest_distances, shares
from wavenet.evaluation.waveform import WaveformClassifier, loudest

RATE = 8000
COUNTS = {"digit": 3, "speaker": 2}


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
    return audio + 0.02 * torch.randn(90, 1600, generator=generator), labels


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_judge_learns_a_separable_corpus_the_same_way_each_time(kind: type[Judge]) -> None:
    (audio, labels), (new, new_labels) = tones(0), tones(1)
    state = torch.get_rng_state()
    heard = hear(learned(kind, audio, labels, COUNTS, RATE, epochs=12, seed=3), new)
    first, again, other = (
        learned(kind, audio, labels, COUNTS, RATE, epochs=1, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for name, count in COUNTS.items():
        assert heard[name].shape == (90, count) and heard[name].dtype == torch.float64
        assert heard[name].sum(1).sub(1).abs().max() < 1e-9
        assert shares(heard[name].argmax(1), new_labels[name])[0].fraction > 0.95
    heard = hear(first, new)
    assert torch.equal(hear(again, new)["digit"], heard["digit"])
    draws = bool(list(first.parameters()))  # the nearest clips are what they are
    assert torch.equal(hear(other, new)["digit"], heard["digit"]) != draws


def test_a_clip_is_judged_the_same_in_every_batch() -> None:
    (audio, labels), (new, _) = tones(0), tones(1)
    for kind in KINDS.values():
        judge = learned(kind, audio, labels, COUNTS, RATE, epochs=1)
        together, alone = hear(judge, new)["digit"], hear(judge, new[7:8])["digit"]
        assert (together[7:8] - alone).abs().max() < 1e-5


def test_the_vote_is_the_majoritys_and_without_one_the_mean_probability_decides() -> None:
    def judge(*rows: list[float]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    heard = [
        judge([0.6, 0.4, 0.0], [0.9, 0.1, 0.0]),
        judge([0.6, 0.4, 0.0], [0.1, 0.8, 0.1]),
        judge([0.0, 0.0, 1.0], [0.0, 0.4, 0.6]),
    ]
    found = voted(heard)
    assert found.argmax(1).tolist() == [0, 1]
    assert found.sum(1).tolist() == pytest.approx([1, 1]) and found[0, 0] > 0.6


def test_judges_are_kept_by_what_they_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path))
    (audio, labels), (new, _) = tones(0), tones(1)
    first = ensemble(audio, labels, COUNTS, RATE, epochs=1)
    assert first.names == [VOTE, *KINDS] and set(first.hear(new)) == {VOTE, *KINDS}
    trained: list[type[Judge]] = []
    monkeypatch.setattr(
        judges, "learned", lambda kind, *a, **how: trained.append(kind) or learned(kind, *a, **how)
    )
    again = ensemble(audio, labels, COUNTS, RATE, epochs=1)
    assert not trained
    for name, heard in first.hear(new).items():
        assert torch.equal(again.hear(new)[name]["digit"], heard["digit"])
    kept = sorted(tmp_path.rglob("*.safetensors"))
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    ensemble(audio, labels, COUNTS, RATE, epochs=1)
    assert len(trained) == 1  # the damaged one
    others = [{"seed": 1}, {"epochs": 2}]
    for how in others:
        ensemble(audio, labels, COUNTS, RATE, **{"epochs": 1, **how})
    ensemble(audio + 1e-4, labels, COUNTS, RATE, epochs=1)
    assert len(trained) == 1 + 3 * 3
    with pytest.raises(ValueError, match="judges need at least one epoch, but got 0"):
        ensemble(audio, labels, COUNTS, RATE, epochs=0)


def test_the_loudest_stretch_is_found_and_lies_in_the_middle() -> None:
    audio = torch.zeros(2, 1000)
    audio[0, 700:740], audio[1, 10:50] = 1.0, -1.0
    found = loudest(audio, 100)
    assert found.shape == (2, 100) and (found.abs().sum(1) == 40).all()
    assert 25 <= int(found[0].argmax()) <= 35
    assert torch.equal(loudest(audio, 2000), audio)


def test_raw_samples_are_heard_alike_at_every_level() -> None:
    judge = WaveformClassifier(COUNTS, RATE).eval()
    audio, _ = tones(0)
    one, other = (hear(judge, level * audio)["digit"] for level in (1.0, 0.1))
    assert (one - other).abs().max() < 1e-4


def test_cepstra_are_of_the_sound_and_neither_of_its_place_nor_of_its_level() -> None:
    word = torch.randn(1, 1600) * torch.linspace(0.2, 1, 1600)
    early, late = (torch.nn.functional.pad(word, ends) for ends in ((800, 2400), (2400, 800)))
    found = cepstra(log_mel(torch.cat([early, late, 0.5 * early]), RATE))
    assert (found[0] - found[1]).abs().max() < 1e-3 and (found[0] - found[2]).abs().max() < 1e-3
    twice = cepstra(log_mel(torch.cat([word, word], dim=1), RATE))
    assert float(twice[0, -1] - found[0, -1]) == pytest.approx(math.log(2), abs=0.1)


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
