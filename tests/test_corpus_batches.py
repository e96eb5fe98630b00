"""Properties of batches: which samples a row holds, which are scored, and what decides them."""

import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_corpora import (
    LENGTHS,
    PERIOD,
    SILENCE,
    crops,
    prepared,
    ramp,
    rows,
    same,
    write_codes,
    write_ramps,
)
from torch.utils.data import DataLoader

from wavenet.corpus import (
    ClipBatches,
    Framing,
    ResumableSampler,
    batch_loader,
    batches,
)


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    return write_ramps(tmp_path / "ramps")


def contexts(inputs: np.ndarray, receptive_field: int) -> np.ndarray:
    """One number per input for all that a causal model sees there.

    A random integer filter, with zeros on the left.
    """
    rng = np.random.default_rng(0)
    values, weights = rng.integers(1, 1 << 20, 256), rng.integers(1, 1 << 20, receptive_field)
    return np.convolve(values[inputs], weights)[: len(inputs)]


@pytest.mark.parametrize("tail", [0, 1, 100, 700])
@pytest.mark.parametrize("receptive_field", [1, 2, 64, 300, 2500])
def test_scored_targets_have_exactly_the_context_they_have_in_the_whole_clip(
    ramps: Path, receptive_field: int, tail: int
) -> None:
    dataset = crops(ramps, receptive_field, tail=tail)
    middles = 0
    for batch in map(dataset.__getitem__, range(2 * len(dataset))):
        for codes, start, stop, number in rows(batch):
            clip = np.concatenate([ramp(LENGTHS[number], number), np.full(tail, SILENCE)])
            whole = contexts(np.concatenate([[SILENCE], clip[:-1]]), receptive_field)
            seen, targets = contexts(codes[:-1], receptive_field), codes[1:]
            allowed = set(zip(whole.tolist(), clip.tolist(), strict=True))
            assert allowed.issuperset(
                zip(seen[start:stop].tolist(), targets[start:stop].tolist(), strict=True)
            )
            if start > 0:
                middles += 1
                assert start == receptive_field - 1 and stop - start == 256
                assert tail or seen[start - 1] not in whole, "an exact target was left unscored"
    assert middles > 0 or receptive_field in (1, 2500)


@pytest.mark.parametrize("tail", [0, 30])
def test_the_position_is_the_first_targets_place_and_the_clips_length(
    ramps: Path, tail: int
) -> None:
    dataset, places = crops(ramps, 40, tail=tail), set()
    for batch in map(dataset.__getitem__, range(2 * len(dataset))):
        for (codes, start, _, number), (place, length) in zip(
            rows(batch), batch["position"].tolist(), strict=True
        ):
            assert length == LENGTHS[number] + tail and (place == 0) == (start == 0)
            assert codes[1] == (number + place) % PERIOD, (
                "the code is the clip's own number and its place"
            )
            places.add(place)
    assert len(places) > 5
    whole = prepared(ramps, val_pattern=".").whole_clips("val", 16)
    for batch in map(whole.__getitem__, range(len(whole))):
        assert batch["position"].tolist() == [[0, stop] for _, stop in batch["scored"].tolist()]


def test_rows_hold_one_clip_from_silence_or_from_the_code_before_and_then_go_on(
    ramps: Path,
) -> None:
    dataset = crops(ramps)
    kinds = Counter()
    for batch in map(dataset.__getitem__, range(2 * len(dataset))):
        assert batch["audio"].dtype == torch.int16 and batch["scored"].dtype == torch.int64
        assert (batch["audio"].shape[1] - 1) % 256 == 0
        for (codes, start, stop, number), (place, length) in zip(
            rows(batch), batch["position"].tolist(), strict=True
        ):
            inside = length - place  # targets before the clip's end
            steps = np.diff(codes[1 : inside + 1].astype(int)) % PERIOD
            assert (steps == 1).all(), "targets are consecutive codes of one clip"
            if start == 0:
                assert codes[0] == SILENCE and codes[1] == number % PERIOD
            else:
                assert (int(codes[1]) - int(codes[0])) % PERIOD == 1
            assert (codes[inside + 1 :] == SILENCE).all()
            assert stop <= inside and length == LENGTHS[number]
            kinds["middle" if start else "whole" if stop == LENGTHS[number] else "beginning"] += 1
    assert set(kinds) == {"middle", "whole", "beginning"}


def test_every_sample_of_every_clip_comes_up_for_scoring(tmp_path: Path) -> None:
    write_codes(tmp_path / "0" / "clip.wav", ramp(250))
    dataset = crops(tmp_path, receptive_field=5, crop_samples=20)
    scored = [
        codes[start + 1 : stop + 1] for b in range(80) for codes, start, stop, _ in rows(dataset[b])
    ]
    assert set(np.concatenate(scored).tolist()) == set(range(250))


def test_one_pass_takes_every_clip_once_per_crop_length(ramps: Path) -> None:
    dataset = crops(ramps, batch_size=1)
    seen = Counter(clip for b in range(len(dataset)) for *_, clip in rows(dataset[b]))
    assert seen == {number: math.ceil(length / 256) for number, length in enumerate(LENGTHS)}


def test_the_last_batch_of_a_pass_is_filled_with_real_rows(ramps: Path) -> None:
    units = sum(math.ceil(length / 256) for length in LENGTHS)
    for batch_size in (3, 7, 100):
        dataset = crops(ramps, batch_size=batch_size)
        assert len(dataset) == math.ceil(units / batch_size)
        seen = Counter(clip for b in range(len(dataset)) for *_, clip in rows(dataset[b]))
        assert sum(seen.values()) == len(dataset) * batch_size
        assert all(seen[number] >= math.ceil(length / 256) for number, length in enumerate(LENGTHS))


def test_passes_differ_in_order_and_crops(ramps: Path) -> None:
    dataset = crops(ramps)
    first, second = ([dataset[p * len(dataset) + b] for b in range(len(dataset))] for p in (0, 1))
    assert not all(same(a, b) for a, b in zip(first, second, strict=True))


def test_short_clips_share_rows_with_short_clips(tmp_path: Path) -> None:
    for number in range(64):
        write_codes(tmp_path / str(number) / "clip.wav", ramp(4 * number + 1))
    dataset = crops(tmp_path, batch_size=8)
    clips = [sorted(clip for *_, clip in rows(dataset[b])) for b in range(len(dataset))]
    assert sorted(clips) == [list(range(start, start + 8)) for start in range(0, 64, 8)]
    assert clips != sorted(clips), "the order of batches is shuffled"


@pytest.mark.parametrize(
    ("limit", "settings", "message"),
    [
        ("LARGEST_PASS", {}, "crop_samples 256 cuts the training clips into 36 crops, but at most"),
        (
            "LARGEST_BATCH",
            {},
            "A batch of 4 rows of up to 319 samples is 1,276 samples, but at most 34 are possible; "
            "lower --data.batch_size or --data.crop_samples",
        ),
        ("LARGEST_BATCH", {"crop_samples": 10**8}, "4 rows of up to 3,000 samples is 12,000"),
    ],
)
def test_more_than_memory_would_hold_is_refused_before_it_is_made(
    ramps: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    settings: dict[str, int],
    message: str,
) -> None:
    monkeypatch.setattr(batches, limit, 34)
    with pytest.raises(ValueError, match=message):
        crops(ramps, **settings)
    with pytest.raises(ValueError, match=r"10 rows of up to 3,000 .*; lower --data.val_batch_size"):
        monkeypatch.setattr(batches, "LARGEST_BATCH", 29_999)
        prepared(ramps, val_pattern=".").whole_clips("val", 16)


# --- Determinism ------------------------------------------------------------------------------


def test_batches_are_the_same_for_every_number_of_workers_and_from_every_start(ramps: Path) -> None:
    dataset = crops(ramps)
    expected = [dataset[b] for b in range(20)]
    for workers, start in ((0, 0), (1, 5), (2, 13)):
        sampler = ResumableSampler(20, lambda start=start: start)
        loaded = list(DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers))
        assert len(loaded) == 20 - start
        assert all(same(a, b) for a, b in zip(loaded, expected[start:], strict=True))
        loaded = list(batch_loader(dataset, workers, sampler))
        assert len(loaded) == 20 - start
        assert all(same(a, b) for a, b in zip(loaded, expected[start:], strict=True))


def test_batches_are_the_same_after_pickling_and_the_pickle_is_light(ramps: Path) -> None:
    dataset = crops(ramps)
    dataset[3]
    pickled = pickle.dumps(dataset)
    assert len(pickled) < sum(LENGTHS), "the audio travelled along"
    assert same(pickle.loads(pickled)[3], dataset[3])


def test_another_seed_gives_other_batches_and_the_same_seed_the_same(ramps: Path) -> None:
    a, b, c = (crops(ramps, seed=seed)[0] for seed in (1, 1, 2))
    assert same(a, b) and not torch.equal(a["audio"], c["audio"])


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_read_what_one_process_would(ramps: Path, world_size: int) -> None:
    alone = crops(ramps)
    for rank in range(world_size):
        shared = crops(ramps, rank=rank, world_size=world_size)
        assert len(shared) == math.ceil(len(alone) / world_size)
        assert all(same(shared[b], alone[b * world_size + rank]) for b in range(2 * len(shared)))


def test_a_sampler_goes_on_from_its_position_to_the_end_of_that_epoch() -> None:
    done = 0
    sampler = ResumableSampler(10, lambda: done)
    read = []
    for done in (0, 7, 10, 25):  # noqa: B007 (the sampler reads it)
        read.append(list(sampler))
        assert len(sampler) == 10
    assert read == [list(range(10)), [7, 8, 9], list(range(10, 20)), [25, 26, 27, 28, 29]]


@pytest.mark.parametrize("largest_message", [0, 1 << 20])
def test_a_batch_from_a_worker_is_the_same_in_a_message_and_through_a_shared_file(
    ramps: Path, monkeypatch: pytest.MonkeyPatch, largest_message: int
) -> None:
    monkeypatch.setattr(batches, "LARGEST_MESSAGE", largest_message)
    dataset = crops(ramps)
    for number, batch in enumerate(batch_loader(dataset, 1)):
        assert same(batch, dataset[number])
        assert batch["audio"].is_shared() == (largest_message == 0)
        tensors = [batch["audio"], batch["scored"], batch["position"], batch["labels"]["clip"]]
        assert type(batch) is dict and {type(tensor) for tensor in tensors} == {torch.Tensor}
        for tensor in tensors:
            tensor[0] = 1
            assert (tensor[0] == 1).all()


# --- Whole clips ------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_scores_every_sample_of_every_clip_once(ramps: Path, world_size: int) -> None:
    data = prepared(ramps, label_from_folder="clip", val_pattern=".")
    seen = []
    for rank in range(world_size):
        share = data.whole_clips("val", 3, rank, world_size)
        assert isinstance(share, ClipBatches)
        for b in range(len(share)):
            batch = share[b]
            assert batch["audio"].shape[1] - 1 == batch["scored"].max()
            for codes, start, stop, number in rows(batch):
                assert start == 0 and codes[0] == SILENCE
                assert (codes[1 : stop + 1] == ramp(LENGTHS[number], number)).all()
                assert (codes[stop + 1 :] == SILENCE).all()
                seen.append(number)
        with pytest.raises(IndexError):
            share[len(share)]
    assert sorted(seen) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("hop", [1, 16])
@pytest.mark.parametrize("world_size", [1, 2])
def test_validation_in_pieces_scores_every_sample_once_with_its_whole_context(
    ramps: Path, world_size: int, hop: int
) -> None:
    data = prepared(ramps, label_from_folder="clip", val_pattern=".")
    field, piece = 40, 96
    counts = [np.zeros(length, int) for length in LENGTHS]
    cut = {"receptive_field": field, "piece": piece, "framing": Framing(hop)}
    for rank in range(world_size):
        share = data.whole_clips("val", 3, rank, world_size, **cut)
        for batch in map(share.__getitem__, range(len(share))):
            assert batch["audio"].shape[1] - 1 <= piece + field + 2 * hop
            for (codes, start, stop, number), (place, length) in zip(
                rows(batch), batch["position"].tolist(), strict=True
            ):
                assert length == LENGTHS[number] and place % hop == 0
                assert place == 0 or start >= field - 1, "each scored sample has its context"
                counts[number][place + start : place + stop] += 1
                expected = ramp(LENGTHS[number], number)[place : place + stop]
                assert (codes[1 : stop + 1] == expected).all()
    assert all((count == 1).all() for count in counts)


def test_a_part_of_the_held_out_audio_lies_evenly_over_all_clips(ramps: Path) -> None:
    data = prepared(ramps, label_from_folder="clip", val_pattern=".")
    whole = data.whole_clips("val", 3, receptive_field=40, piece=96)
    assert whole.num_samples == sum(LENGTHS)
    part = data.whole_clips("val", 3, receptive_field=40, piece=96, most=whole.num_samples // 4)
    assert 0.1 < part.num_samples / whole.num_samples < 0.4
    places = np.array(
        sorted(
            (clip, first)
            for clip, (first, _) in zip(part.clips.tolist(), part.scored.tolist(), strict=True)
        )
    )
    every = np.array(
        sorted(
            (clip, first)
            for clip, (first, _) in zip(whole.clips.tolist(), whole.scored.tolist(), strict=True)
        )
    )
    number = [int(np.flatnonzero((every == place).all(1))[0]) for place in places]
    assert number[0] > 0 and number[-1] < len(every) - 1
    assert max(np.diff(number)) - min(np.diff(number)) <= 1, "the same distance everywhere"
    least = data.whole_clips("val", 3, 1, 2, receptive_field=40, piece=96, most=1)
    assert least.num_pieces == 2, "a piece for each process"


def test_fewer_validation_clips_than_processes_is_an_error(ramps: Path) -> None:
    data = prepared(ramps, val_pattern="^[01]/")
    with pytest.raises(ValueError, match="2 clips for 3 processes"):
        data.whole_clips("val", 16, 0, 3)
