"""Properties of augmentation: what a changed clip is, wherever it is cut, and what batches tell."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_corpora import SHAPE, prepared, same, write_codes, write_ramps, write_tone

from wavenet.corpus import Augment, CropBatches, Framing, batch_loader
from wavenet.corpus.augmenting import LOUDEST, NOISE_RANGE, UNCHANGED, Change
from wavenet.training.data import AudioDataModule

EVERYTHING = Augment(gain_db=6.0, speed=0.05, noise_snr_db=30.0)
SPEEDS = [50, 95, 99, 101, 105, 150]


def tone(samples: int, radians: float = 0.3, level: float = 8000.0) -> np.ndarray:
    return np.rint(level * np.sin(radians * np.arange(samples))).astype(np.int16)


def some_noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-9000, 9000, samples).astype(np.int16)


def whole(change: Change, clip: np.ndarray) -> np.ndarray:
    return change.cut(clip, 0, change.length(len(clip)))


def drawn(augment: Augment, rows: int = 400) -> list[Change]:
    return augment.drawn(np.random.default_rng(3), rows)


# --- A changed clip ---------------------------------------------------------------------------


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_tone_played_at_another_speed_is_a_tone_of_that_pitch_in_place(speed: int) -> None:
    played = whole(Change(speed), tone(5000))
    assert len(played) == math.ceil(5000 * 100 / speed)
    expected = 8000 * np.sin(0.3 * speed / 100 * np.arange(len(played)))
    inside = slice(100, -100)
    assert np.abs(played - expected)[inside].max() < 3  # a level is one


def test_what_would_lie_above_the_band_is_gone_and_not_folded_into_it() -> None:
    above = whole(Change(150), tone(4000, radians=0.8 * math.pi))
    assert np.abs(above[100:-100]).max() < 8000 * 1e-3


@pytest.mark.parametrize("change", [UNCHANGED, Change(96), Change(103, 0.5), Change(150)])
def test_a_row_is_a_piece_of_the_whole_changed_clip_and_silent_around_it(change: Change) -> None:
    clip = some_noise(1234)
    expected = np.concatenate([np.zeros(300), whole(change, clip), np.zeros(999)])
    for first, count in [
        (-300, 40),
        (-5, 900),
        (0, 1),
        (99, 200),
        (700, 300),
        (820, 400),
        (1400, 5),
    ]:
        row = change.cut(clip, first, count)
        assert row.dtype == np.int16
        assert (np.abs(row - expected[first + 300 :][:count]) <= 1).all(), (first, count)


def test_nothing_changed_is_the_clip_bit_for_bit() -> None:
    clip = some_noise(700)
    assert (whole(UNCHANGED, clip) == clip).all()
    assert all(change == UNCHANGED for change in drawn(Augment(gain_db=6.0, share=0.0)))
    assert not Augment() and not Augment(gain_db=6.0, share=0.0) and Augment(noise_snr_db=0.0)


def test_gains_lie_evenly_within_their_range_and_never_clip() -> None:
    gains = 20 * np.log10([change.gain for change in drawn(Augment(gain_db=6.0))])
    assert -6 <= gains.min() < -5.8 and 5.8 < gains.max() <= 6 and abs(gains.mean()) < 0.5
    loud = whole(Change(gain=2.0), tone(1000, level=30000))
    assert loud.max() == LOUDEST and np.corrcoef(loud, tone(1000))[0, 1] > 0.99999
    assert np.abs(whole(Change(gain=0.5), tone(1000)) - tone(1000) / 2).max() <= 0.5


def test_speeds_are_every_whole_percent_within_their_range() -> None:
    assert {change.speed for change in drawn(Augment(speed=0.03))} == set(range(97, 104))


def test_noise_lies_as_far_below_the_row_as_was_drawn_and_only_inside_the_clip() -> None:
    ratios = [change.snr_db for change in drawn(Augment(noise_snr_db=30.0))]
    assert 30 <= min(ratios) < 31 and 29 + NOISE_RANGE < max(ratios) <= 30 + NOISE_RANGE
    clip, change = tone(8000), Change(snr_db=20.0, seed=5)
    row = change.cut(clip, -50, 8100)
    left = row[50:-50] - clip
    assert 20 * math.log10(np.std(clip) / np.std(left)) == pytest.approx(20, abs=0.3)
    assert not row[:50].any() and not row[-50:].any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gain_db": -1}, "augment.gain_db must be a number from 0 to 40, but got -1"),
        ({"gain_db": math.nan}, "augment.gain_db must be a number from 0 to 40, but got nan"),
        ({"speed": 0.6}, r"augment.speed must be a number from 0 to 0\.5, but got 0\.6"),
        ({"speed": 0.004}, r"by whole percents, but got 0\.004: give at least 0\.01, or 0 for"),
        ({"noise_snr_db": True}, "augment.noise_snr_db must be a number from 0 to 120"),
        ({"share": None}, "augment.share must be a number from 0 to 1, but got None"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Augment(**settings)


# --- Batches ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ramps(tmp_path_factory.mktemp("ramps"))


def augmented(root: Path, augment: Augment = EVERYTHING, **settings: Any) -> CropBatches:
    table = prepared(root, label_from_folder="clip").table("train")
    return CropBatches(table, 64, **{**SHAPE, **settings}, augment=augment)


@pytest.mark.parametrize("framing", [Framing(), Framing(16, 30, 20)], ids=["plain", "frames"])
def test_the_position_is_that_in_the_changed_clip(tmp_path: Path, framing: Framing) -> None:
    for number in range(4):
        write_tone(tmp_path / str(number) / "clip.wav", seconds=0.2)
    dataset = augmented(tmp_path, Augment(speed=0.2), tail=70, framing=framing)
    seen = set()
    for batch in map(dataset.__getitem__, range(40)):
        width = batch["audio"].shape[1] - framing.before - framing.after
        for audio, (start, stop), (place, length) in zip(
            batch["audio"].numpy(),
            *(batch[x].tolist() for x in ("scored", "position")),
            strict=True,
        ):
            (speed,) = [s for s in range(80, 121) if math.ceil(1600 * 100 / s) + 70 == length]
            targets = audio[framing.before :][:width]
            then = place + np.arange(width)
            expected = 0.5 * (1 << 15) * np.sin(2 * math.pi * 440 / 8000 * speed / 100 * then)
            inside = (then > 100) & (then < length - 70 - 100)
            assert np.abs(targets - expected)[inside].max(initial=0) < 4
            assert not targets[then >= length - 70].any() and place + stop <= length
            assert stop - start == 256 or start == 0 or place + stop == length
            seen.add(speed)
    assert len(seen) > 20


def test_labels_and_the_order_of_clips_are_those_of_batches_without(ramps: Path) -> None:
    some, plain = augmented(ramps), augmented(ramps, Augment())
    for number in range(2 * len(plain)):
        mine, theirs = some[number], plain[number]
        assert torch.equal(mine["labels"]["clip"], theirs["labels"]["clip"])
    assert not torch.equal(some[0]["audio"], plain[0]["audio"])


def test_rows_that_are_not_chosen_are_those_of_batches_without(ramps: Path) -> None:
    some, plain = augmented(ramps, Augment(gain_db=6.0, share=0.5)), augmented(ramps, Augment())
    kept = [
        torch.equal(mine, theirs)
        for number in range(2 * len(plain))
        for mine, theirs in zip(some[number]["audio"], plain[number]["audio"], strict=True)
    ]
    assert 0.4 < sum(kept) / len(kept) < 0.6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_batch_is_the_same_in_every_order_and_from_every_worker(ramps: Path) -> None:
    dataset = augmented(ramps)
    forwards = [dataset[number] for number in range(6)]
    again = augmented(ramps)
    assert all(same(again[number], forwards[number]) for number in reversed(range(6)))
    loaded = batch_loader(dataset, 2, range(6))  # type: ignore[arg-type]
    assert all(same(one, other) for one, other in zip(loaded, forwards, strict=True))
    other = augmented(ramps, seed=1)
    assert not any(same(other[number], forwards[number]) for number in range(6))


def test_validation_clips_stay_as_they_are_and_extremes_refuse_changes(ramps: Path) -> None:
    def held_out(**settings: Any) -> dict[str, Any]:
        how = {"label_from_folder": "clip", "val_pattern": "^[01]/", "num_workers": 0}
        data = AudioDataModule(str(ramps), 8000, **how, **settings)
        return data.whole_clips("val")[0]

    assert same(held_out(), held_out(augment=EVERYTHING))
    with pytest.raises(ValueError, match=r"protocol sashimi scales.*augment.*Leave one of them"):
        held_out(augment=EVERYTHING, protocol="sashimi")


def test_labels_are_left_out_together_and_each_by_itself(tmp_path: Path) -> None:
    for number in range(8):
        write_codes(tmp_path / f"{number % 2}_{number // 2}.wav", np.arange(60))
    how = {"label_pattern": r"(?P<side>\d)_(?P<take>\d)", "val_fraction": 0.0, "num_workers": 0}
    told = {}
    for each in (0.0, 0.3):
        data = AudioDataModule(
            str(tmp_path), 8000, label_dropout=0.2, label_dropout_each=each, **how
        )
        batches = data.batches(receptive_field=9)
        rows = [torch.stack([*batches[n]["labels"].values()]) >= 0 for n in range(200)]
        told[each] = torch.cat(rows, dim=1)
        assert data.facts.unlabelled
    assert torch.equal(told[0.0][0], told[0.0][1])
    side, take = told[0.3]
    shares = [(~side & ~take), (side & ~take), (~side & take), (side & take)]
    for share, expected in zip(shares, (0.2 + 0.8 * 0.09, 0.168, 0.168, 0.392), strict=True):
        assert float(share.float().mean()) == pytest.approx(expected, abs=0.025)
    assert (told[0.0] | ~told[0.3]).all()  # more is left out, nothing comes back
    assert AudioDataModule(str(tmp_path), 8000, label_dropout_each=0.1, **how).facts.unlabelled
