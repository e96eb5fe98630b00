"""Properties of the data module: what is found, labelled, split, prepared, cropped, and what is refused.

Audio is synthesised here. Where position matters, a clip's codes are position mod 251 (plus a start of its own),
written as the float samples that those codes decode to, so that every row can be checked sample by sample.
"""

import inspect
import json
import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import lightning
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

import wavenet.training.data
from wavenet.outputs.mulaw import MuLaw
from wavenet.training.data import (
    AudioDataModule,
    ClipBatches,
    CropBatches,
    ResumableSampler,
    find_audio,
    hold_out,
)

CODEC = MuLaw(256)
SILENCE = CODEC.silence
PERIOD = 251  # prime, so that a wrong offset shows
REPOSITORY = Path(wavenet.training.data.__file__).parent.parent


def write_codes(path: Path, codes: np.ndarray, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, CODEC.decode(torch.from_numpy(codes).long()).numpy(), rate, subtype="FLOAT"
    )


def ramp(length: int, start: int = 0) -> np.ndarray:
    return (start + np.arange(length)) % PERIOD


def write_tone(
    path: Path, seconds: float = 0.05, rate: int = 8000, level: float = 0.5, **how: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path,
        level * np.sin(2 * math.pi * 440 * np.arange(round(seconds * rate)) / rate),
        rate,
        **how,
    )


def module(root: Path, **settings: Any) -> AudioDataModule:
    return AudioDataModule(
        str(root), **{"sample_rate": 8000, "num_workers": 0, "val_fraction": 0.0, **settings}
    )


def ready(root: Path, **settings: Any) -> AudioDataModule:
    data = module(root, **settings)
    data.prepare_data()
    data.setup()
    return data


LENGTHS = [3000, 2000, 1200, 700, 500, 300, 130, 40, 7, 1]


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    """Clips whose codes count positions; the folder's name is the number of the clip and the start of its count."""
    for number, length in enumerate(LENGTHS):
        write_codes(tmp_path / "ramps" / str(number) / "clip.wav", ramp(length, number))
    return tmp_path / "ramps"


def crops(
    root: Path, receptive_field: int = 64, rank: int = 0, world_size: int = 1, **settings: Any
) -> CropBatches:
    data = ready(
        root, label_from_folder="clip", **{"crop_samples": 256, "batch_size": 4, **settings}
    )
    return data.batches(receptive_field=receptive_field, rank=rank, world_size=world_size)


def rows(batch: dict[str, Any]) -> Iterator[tuple[np.ndarray, int, int, int]]:
    """Codes, first and last scored target, and clip number of every row."""
    clips = batch["labels"]["clip"]
    for codes, (start, stop), clip in zip(
        batch["codes"], batch["scored"].tolist(), clips.tolist(), strict=True
    ):
        yield codes.numpy(), start, stop, clip


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    pairs = [(a["codes"], b["codes"]), (a["scored"], b["scored"])]
    return all(
        torch.equal(x, y)
        for x, y in [*pairs, *((a["labels"][name], b["labels"][name]) for name in b["labels"])]
    )


# --- Rows: which codes, which scored ---------------------------------------------------------------------------------


def contexts(inputs: np.ndarray, receptive_field: int) -> np.ndarray:
    """One number per input for all that a causal model sees there: a random integer filter, zeros on the left."""
    rng = np.random.default_rng(0)
    values, weights = rng.integers(1, 1 << 20, 256), rng.integers(1, 1 << 20, receptive_field)
    return np.convolve(values[inputs], weights)[: len(inputs)]


@pytest.mark.parametrize("tail", [0, 1, 100, 700])
@pytest.mark.parametrize("receptive_field", [1, 2, 64, 300, 2500])
def test_scored_targets_have_exactly_the_context_they_have_in_the_whole_clip(
    ramps: Path, receptive_field: int, tail: int
) -> None:
    dataset = crops(ramps, receptive_field, trailing_silence=tail / 8000)
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


def test_trailing_silence_is_scored_in_training_and_not_in_validation(tmp_path: Path) -> None:
    for number in range(2):
        write_codes(tmp_path / str(number) / "clip.wav", ramp(50))
    data = ready(tmp_path, trailing_silence=0.01, val_pattern="1/", crop_samples=200, batch_size=1)
    batch = data.batches(receptive_field=10)[0]
    assert batch["scored"].tolist() == [[0, 130]] and (batch["codes"][0, 51:] == SILENCE).all()
    assert data.whole_clips("val")[0]["scored"].tolist() == [[0, 50]]
    with pytest.raises(ValueError, match=r"trailing_silence must be at least 0, but got -1"):
        module(tmp_path, trailing_silence=-1.0)


@pytest.mark.parametrize("tail", [0, 30])
def test_the_position_is_the_first_targets_place_and_the_clips_length(
    ramps: Path, tail: int
) -> None:
    dataset, places = crops(ramps, 40, trailing_silence=tail / 8000), set()
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
    for batch in ready(ramps, val_pattern=".").val_dataloader():
        assert batch["position"].tolist() == [[0, stop] for _, stop in batch["scored"].tolist()]


def test_labels_are_left_out_of_a_share_of_the_training_rows(tmp_path: Path) -> None:
    for index in range(40):
        write_codes(tmp_path / f"{index % 2}" / f"{index}.wav", ramp(60))
    settings = {"label_from_folder": "side", "val_pattern": r"/[0-3]\.wav", "batch_size": 6}
    data = ready(tmp_path, label_dropout=0.25, **settings)
    some, every = (
        made.batches("train", receptive_field=9) for made in (data, ready(tmp_path, **settings))
    )
    dropped = []
    for index in range(200):
        told = some[index]["labels"]["side"] >= 0
        assert torch.equal(some[index]["codes"], every[index]["codes"])
        assert torch.equal(
            some[index]["labels"]["side"][told], every[index]["labels"]["side"][told]
        )
        assert torch.equal(
            some[index]["labels"]["side"],
            data.batches("train", receptive_field=9)[index]["labels"]["side"],
        )
        dropped.append(float((~told).float().mean()))
    assert 0.2 < sum(dropped) / len(dropped) < 0.3 and len(set(dropped)) > 3
    assert min(int(batch["labels"]["side"].min()) for batch in data.val_dataloader()) == 0
    with pytest.raises(ValueError, match="label_dropout is a share"):
        module(tmp_path, label_dropout=1.0)


def test_the_clips_lengths_are_the_training_clips_by_their_labels(tmp_path: Path) -> None:
    for index, length in enumerate([100, 100, 400, 400, 9000]):
        write_codes(
            tmp_path / ("short" if length == 100 else "long") / f"{index}.wav", ramp(length)
        )
    found = ready(
        tmp_path, label_from_folder="kind", val_pattern="4", trailing_silence=100 / 8000
    ).clip_length
    half = math.log(500 / 200) / 2
    assert found["offsets"]["kind"] == pytest.approx([half, -half], abs=1e-3)
    assert (
        found["log_mean"] == pytest.approx(math.log(500 * 200) / 2, abs=1e-3)
        and found["log_std"] == 0
    )


def test_rows_hold_one_clip_from_silence_or_from_the_code_before_and_then_padding(
    ramps: Path,
) -> None:
    dataset = crops(ramps)
    kinds = Counter()
    for batch in map(dataset.__getitem__, range(2 * len(dataset))):
        assert batch["codes"].dtype == torch.uint8 and batch["scored"].dtype == torch.int64
        assert (batch["codes"].shape[1] - 1) % 256 == 0
        for codes, start, stop, number in rows(batch):
            steps = np.diff(codes[1 : stop + 1].astype(int)) % PERIOD
            assert (steps == 1).all(), "targets are consecutive codes of one clip"
            if start == 0:
                assert codes[0] == SILENCE and (stop == 0 or codes[1] == number % PERIOD)
            else:
                assert (int(codes[1]) - int(codes[0])) % PERIOD == 1
            assert (codes[stop + 1 :] == SILENCE).all()
            assert stop <= LENGTHS[number]
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


# --- Determinism -----------------------------------------------------------------------------------------------------


def test_batches_are_the_same_for_every_number_of_workers_and_from_every_start(ramps: Path) -> None:
    dataset = crops(ramps)
    expected = [dataset[b] for b in range(20)]
    for workers, start in ((0, 0), (1, 5), (2, 13)):
        sampler = ResumableSampler(20, lambda start=start: start)
        loaded = list(DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers))
        assert len(loaded) == 20 - start
        assert all(same(a, b) for a, b in zip(loaded, expected[start:], strict=True))


def test_batches_are_the_same_after_pickling_and_the_pickle_is_light(ramps: Path) -> None:
    dataset = crops(ramps)
    dataset[3]
    pickled = pickle.dumps(dataset)
    assert len(pickled) < sum(LENGTHS), "the codes travelled along"
    assert same(pickle.loads(pickled)[3], dataset[3])


def test_another_seed_gives_other_batches_and_the_same_seed_the_same(ramps: Path) -> None:
    a, b, c = (crops(ramps, seed=seed)[0] for seed in (1, 1, 2))
    assert same(a, b) and not torch.equal(a["codes"], c["codes"])


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


def test_an_epochs_last_step_may_take_fewer_batches() -> None:
    done = [wavenet.training.data._batches_done(steps, length=5, together=2) for steps in range(7)]
    assert done == [0, 2, 4, 5, 7, 9, 10]


# --- Validation and test ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_scores_every_sample_of_every_clip_once(ramps: Path, world_size: int) -> None:
    data = ready(ramps, label_from_folder="clip", val_pattern=".", val_batch_size=3)
    seen = []
    for rank in range(world_size):
        share = data.whole_clips("val", rank, world_size)
        assert isinstance(share, ClipBatches)
        for b in range(len(share)):
            batch = share[b]
            assert batch["codes"].shape[1] - 1 == batch["scored"].max()
            for codes, start, stop, number in rows(batch):
                assert start == 0 and codes[0] == SILENCE
                assert (codes[1 : stop + 1] == ramp(LENGTHS[number], number)).all()
                assert (codes[stop + 1 :] == SILENCE).all()
                seen.append(number)
        with pytest.raises(IndexError):
            share[len(share)]
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_fewer_validation_clips_than_processes_is_an_error(ramps: Path) -> None:
    data = ready(ramps, val_pattern="^[01]/")
    with pytest.raises(ValueError, match="2 clips for 3 processes"):
        data.whole_clips("val", 0, 3)


def test_loaders_work_without_a_trainer(ramps: Path) -> None:
    data = ready(ramps, val_pattern="^0/", test_pattern="^1/", num_workers=1)
    with pytest.raises(ValueError, match="receptive_field"):
        data.train_dataloader()
    data.receptive_field = 10
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.batches(receptive_field=10))
    assert [batch["scored"].tolist() for batch in data.val_dataloader()] == [[[0, 3000]]]
    assert [batch["scored"].tolist() for batch in data.test_dataloader()] == [[[0, 2000]]]


# --- Under Lightning's trainer ---------------------------------------------------------------------------------------


def digest(batch: dict[str, Any]) -> int:
    return hash((batch["codes"].numpy().tobytes(), batch["scored"].numpy().tobytes()))


class Recorder(lightning.pytorch.LightningModule):
    """Learns nothing; notes a digest of every batch it is given."""

    receptive_field = 64

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[int] = []

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        self.seen.append(digest(batch))
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    data: AudioDataModule, folder: Path, checkpoint: Path | None = None, **settings: Any
) -> list[int]:
    trainer = lightning.pytorch.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"use_distributed_sampler": False, **settings},
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "last.ckpt")
    return recorder.seen


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("together", [1, 2])
def test_a_resumed_run_reads_what_the_uninterrupted_one_reads(
    ramps: Path, tmp_path: Path, together: int
) -> None:
    settings = {"label_from_folder": "clip", "crop_samples": 256, "batch_size": 4}
    dataset = crops(ramps)
    one_pass = len(dataset)
    total, half = 2 * one_pass // together + 3, one_pass // together - 2
    whole = fit(
        ready(ramps, **settings), tmp_path, max_steps=total, accumulate_grad_batches=together
    )
    begun = fit(
        ready(ramps, **settings), tmp_path, max_steps=half, accumulate_grad_batches=together
    )
    checkpoint = tmp_path / "last.ckpt"
    resumed = fit(
        ready(ramps, **settings),
        tmp_path,
        checkpoint,
        max_steps=total,
        accumulate_grad_batches=together,
    )
    assert len(whole) == total * together and len(begun) == half * together
    assert begun + resumed == whole
    assert whole == [digest(dataset[b]) for b in range(total * together)]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_max_steps_an_epoch_is_one_pass_and_resumes_likewise(
    ramps: Path, tmp_path: Path
) -> None:
    settings = {"label_from_folder": "clip", "crop_samples": 256, "batch_size": 4}
    dataset = crops(ramps)
    whole = fit(ready(ramps, **settings), tmp_path, max_epochs=3)
    begun = fit(ready(ramps, **settings), tmp_path, max_epochs=2)
    resumed = fit(ready(ramps, **settings), tmp_path, tmp_path / "last.ckpt", max_epochs=3)
    assert whole == [digest(dataset[b]) for b in range(3 * len(dataset))]
    assert begun + resumed == whole


def test_lightnings_own_sharding_is_refused_where_there_are_several_processes(ramps: Path) -> None:
    data = ready(ramps, val_pattern="^[0-4]/")
    connector = SimpleNamespace(use_distributed_sampler=True)
    trainer = SimpleNamespace(
        world_size=2, global_rank=1, _accelerator_connector=connector, lightning_module=None
    )
    data.trainer = trainer  # type: ignore[assignment]
    with pytest.raises(ValueError, match="use_distributed_sampler false"):
        data.val_dataloader()
    connector.use_distributed_sampler = False
    assert (
        sum(len(batch["scored"]) for batch in data.val_dataloader()) == 2
    )  # of 5, the second process's share


# --- Files found, labels, splits -------------------------------------------------------------------------------------


def test_audio_is_found_recursively_by_any_case_of_suffix_and_hidden_files_are_not(
    tmp_path: Path,
) -> None:
    names = ["a.wav", "b/c.FLAC", "b/d/e.ogg", "f.mp3", "g.aiff", "h.AIF"]
    for name in [*names, "notes.txt", "._a.wav", ".wavenet-cache/x.wav", "b/.hidden/y.wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert find_audio(tmp_path) == sorted(names)


def test_labels_come_from_named_groups_of_the_path(tmp_path: Path) -> None:
    for name in ("10_ann_0.wav", "9_bob_0.wav", "2_ann_1.wav"):
        write_tone(tmp_path / "deep" / name)
    data = ready(tmp_path, label_pattern=r"(?P<digit>\d+)_(?P<speaker>[a-z]+)_")
    assert data.labels == {"digit": ["2", "9", "10"], "speaker": ["ann", "bob"]}
    assert {clip.path: clip.labels for clip in data.clips("train")} == {
        "deep/10_ann_0.wav": {"digit": "10", "speaker": "ann"},
        "deep/2_ann_1.wav": {"digit": "2", "speaker": "ann"},
        "deep/9_bob_0.wav": {"digit": "9", "speaker": "bob"},
    }


def test_labels_come_from_the_parent_folder_over_all_splits(tmp_path: Path) -> None:
    for name in ("x/ann/0.wav", "bob/0.wav", "bob/1.wav"):
        write_tone(tmp_path / name)
    data = ready(tmp_path, label_from_folder="speaker", val_pattern="ann")
    assert data.labels == {"speaker": ["ann", "bob"]}
    assert [clip.labels for clip in data.clips("train")] == [{"speaker": "bob"}] * 2
    assert data.whole_clips("val")[0]["labels"]["speaker"].tolist() == [0]


def test_labels_and_splits_come_from_a_csv_and_only_its_files_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.wav", "b/c.wav", "d.wav", "unlisted.wav"):
        write_tone(tmp_path / name)
    table = "\ufeffpath,split,note,player\na.wav,train,C4,ann\n./b/c.wav,val,D4,bob\nd.wav,test,C4,bob\n"
    table += "gone.wav,train,E4,x\n"
    (tmp_path / "clips.csv").write_text(table, encoding="utf-8")
    with caplog.at_level(logging.INFO, "wavenet"):
        data = ready(tmp_path, metadata="clips.csv")
    assert data.labels == {"note": ["C4", "D4"], "player": ["ann", "bob"]}
    splits = {
        split: [clip.path for clip in data.clips(split)] for split in ("train", "val", "test")
    }
    assert splits == {"train": ["a.wav"], "val": ["b/c.wav"], "test": ["d.wav"]}
    assert (
        "gone.wav' does not exist" in caplog.text
        and "3 clips" in caplog.text
        and "1 skipped" in caplog.text
    )


def test_a_csv_without_split_or_label_columns_leaves_them_to_the_settings(tmp_path: Path) -> None:
    for name in ("a_1.wav", "b_2.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "clips.csv").write_text("path\na_1.wav\nb_2.wav\n")
    data = ready(
        tmp_path,
        metadata=str(tmp_path / "clips.csv"),
        label_pattern=r"(?P<take>\d)",
        val_pattern="^b",
    )
    assert data.labels == {"take": ["1", "2"]}
    assert [clip.path for clip in data.clips("val")] == ["b_2.wav"]


def test_test_clips_are_never_validated_on(tmp_path: Path) -> None:
    for number in range(6):
        write_tone(tmp_path / f"{number}.wav")
    data = ready(tmp_path, test_pattern="[01]", val_pattern="[12]")
    splits = {
        split: [clip.path[0] for clip in data.clips(split)] for split in ("train", "val", "test")
    }
    assert splits == {"train": ["3", "4", "5"], "val": ["2"], "test": ["0", "1"]}


def test_the_held_out_fraction_depends_on_each_path_alone() -> None:
    paths = [f"clip{number}.wav" for number in range(200)]
    held = hold_out(paths, 0.1)
    assert len(held) == 20 and held == hold_out(paths[::-1], 0.1)
    assert len(hold_out(paths[:101], 0.1)) == 11, "rounded up"
    fewer = hold_out(paths[:-20], 0.1)
    assert len(held ^ (fewer | (held & set(paths[-20:])))) <= 2, (
        "taking files away hardly moves the others"
    )
    assert hold_out(paths[:2], 0.99) < set(paths[:2]) and hold_out(
        paths[:1], 0.5
    ) == set() == hold_out([], 0.5)


def test_the_split_does_not_depend_on_other_settings(tmp_path: Path) -> None:
    for number in range(12):
        write_tone(tmp_path / f"{number}.wav")
    held = [
        {clip.path for clip in ready(tmp_path, val_fraction=0.25, **settings).clips("val")}
        for settings in ({}, {"seed": 7, "batch_size": 2}, {"normalize": "peak"})
    ]
    assert len(held[0]) == 3 and held[0] == held[1] == held[2]


# --- Decoding --------------------------------------------------------------------------------------------------------


def test_codes_are_those_of_the_mu_law_codec_and_cannot_be_written(ramps: Path) -> None:
    data = ready(ramps)
    clips = data.clips("train")
    assert data.num_samples("train") == sum(LENGTHS) == sum(clip.length for clip in clips)
    for number, clip in enumerate(clips):
        assert (data.codes(clip) == ramp(LENGTHS[number], number)).all()
    with pytest.raises(ValueError, match="read-only"):
        data.codes(clips[0])[0] = 1


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT"])
def test_every_bit_depth_is_used(tmp_path: Path, subtype: str) -> None:
    write_tone(tmp_path / "a.wav", subtype=subtype)
    data = ready(tmp_path)
    audio = CODEC.decode(torch.from_numpy(data.codes(data.clips("train")[0]).copy()))
    expected = 0.5 * np.sin(2 * math.pi * 440 * np.arange(400) / 8000)
    np.testing.assert_allclose(audio, expected, atol=0.03)


def test_stereo_at_another_rate_is_mixed_down_and_resampled_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.wav", "b.wav"):
        wave = np.sin(2 * math.pi * 440 * np.arange(44100) / 44100)
        soundfile.write(tmp_path / name, np.stack([wave, 0 * wave], axis=1), 44100)
    write_tone(tmp_path / "c.wav")
    with caplog.at_level(logging.INFO, "wavenet"):
        data = ready(tmp_path)
    clip = data.clips("train")[0]
    assert clip.length == 8000
    audio = CODEC.decode(torch.from_numpy(data.codes(clip).copy()))
    assert float(audio[1000:-1000].abs().max()) == pytest.approx(0.5, abs=0.03)
    assert int(torch.fft.rfft(audio).abs().argmax()) == 440
    lines = [record.message for record in caplog.records if "Resampled" in record.message]
    assert lines == ["Resampled 2 of 3 files to 8000 Hz: 2 at 44100 Hz."]


def test_samples_beyond_full_scale_are_clipped_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 1.5, -2.0, 1.0]), 8000, subtype="FLOAT")
    data = ready(tmp_path)
    assert data.codes(data.clips("train")[0]).tolist() == [128, 255, 0, 255]
    assert "2 samples in 1 files lie beyond full scale" in caplog.text


@pytest.mark.parametrize(
    ("how", "level", "peak"), [("peak", 0.1, 10 ** (-1 / 20)), ("loudness", 0.9, 0.1001)]
)
def test_normalising_brings_clips_to_one_level(
    tmp_path: Path, how: str, level: float, peak: float
) -> None:
    write_tone(tmp_path / "a.wav", 0.5, level=level, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 8000)
    data = ready(tmp_path, normalize=how)
    tone, silent = data.clips("train")
    audio = CODEC.decode(torch.from_numpy(data.codes(tone).copy()))
    assert float(audio.abs().max()) == pytest.approx(peak, rel=0.03)
    assert set(data.codes(silent).tolist()) == {SILENCE}


def test_loudness_stops_short_of_clipping() -> None:
    click = torch.zeros(8000)
    click[100] = 0.01  # its RMS lies at -79 dBFS; 56 dB more would clip it
    assert float(wavenet.training.data.normalize_audio(click, "loudness").max()) == pytest.approx(
        1.0
    )


def test_trimming_cuts_silence_at_both_ends_only_and_reports_what_it_keeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio = np.full(1000, 1e-4)  # 74 dB below the peak
    audio[300:400] = audio[600:700] = 0.5
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    with caplog.at_level(logging.INFO, "wavenet"):
        assert [clip.length for clip in ready(tmp_path).clips("train")] == [1000], (
            "off unless asked for"
        )
        assert [clip.length for clip in ready(tmp_path, trim_silence_db=60.0).clips("train")] == [
            400
        ]
        assert [clip.length for clip in ready(tmp_path, trim_silence_db=80.0).clips("train")] == [
            1000
        ]
    assert "keeps 40.0% of the audio" in caplog.text


# --- Preparing once --------------------------------------------------------------------------------------------------


def refuse(*args: object) -> Any:
    raise AssertionError("decoded again")


def prepared_folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_preparing_again_reads_nothing_and_other_labels_or_splits_decode_nothing(
    ramps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(ramps)
    monkeypatch.setattr(wavenet.training.data, "decode_clip", refuse)
    monkeypatch.setattr(wavenet.training.data, "_digest", refuse)
    data = ready(ramps, label_from_folder="clip", val_fraction=0.2)
    assert len(data.clips("val")) == 2 and len(data.labels["clip"]) == len(LENGTHS)
    later = module(ramps)
    later.setup("fit")  # as in a process that did not prepare
    assert later.num_samples("train") == sum(LENGTHS)


def test_a_changed_file_is_prepared_anew_and_a_touched_one_is_not(
    ramps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(ramps)
    os.utime(ramps / "9" / "clip.wav", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(wavenet.training.data, "decode_clip", refuse)
        ready(ramps)
    write_codes(ramps / "9" / "clip.wav", ramp(5, 100))
    assert (ready(ramps).codes(ready(ramps).clips("train")[9]) == ramp(5, 100)).all()
    assert len(prepared_folders(ramps / ".wavenet-cache")) == 2


def test_settings_that_change_codes_have_folders_of_their_own(ramps: Path) -> None:
    lengths = [
        ready(ramps, **settings).num_samples("train") for settings in ({}, {"sample_rate": 4000})
    ]
    assert lengths[1] == sum(math.ceil(length / 2) for length in LENGTHS)
    ready(ramps, normalize="peak")
    assert len(prepared_folders(ramps / ".wavenet-cache")) == 3


def test_the_manifest_says_what_lies_where(ramps: Path, tmp_path: Path) -> None:
    (ramps / "broken.wav").write_text("no")
    ready(ramps, cache_dir=str(tmp_path / "cache"))
    assert not (ramps / ".wavenet-cache").exists()
    (folder,) = prepared_folders(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["codes.u8", "manifest.json"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["settings"] == {"sample_rate": 8000, "normalize": None, "trim_silence_db": None}
    assert [clip["length"] for clip in manifest["clips"]] == LENGTHS
    assert [clip["offset"] for clip in manifest["clips"]] == np.cumsum([0, *LENGTHS[:-1]]).tolist()
    assert [entry["path"] for entry in manifest["skipped"]] == ["broken.wav"]
    assert (folder / "codes.u8").stat().st_size == sum(LENGTHS)


def test_a_codes_file_of_the_wrong_size_is_refused(ramps: Path) -> None:
    ready(ramps)
    (folder,) = prepared_folders(ramps / ".wavenet-cache")
    with (folder / "codes.u8").open("ab") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"100 codes instead of .* delete that folder"):
        ready(ramps)


def test_a_root_that_cannot_be_written_is_prepared_in_the_users_cache(
    ramps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != ramps)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert ready(ramps).num_samples("train") == sum(LENGTHS)
    assert (
        len(prepared_folders(tmp_path / "home" / "wavenet")) == 1
        and not (ramps / ".wavenet-cache").exists()
    )


def run(code: str, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    program = (
        "import sys\nfrom wavenet.training.data import AudioDataModule\nimport wavenet.training.data\n"
        + code
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


PREPARE_SLOWLY = """
import time
decode = wavenet.training.data.decode_clip
def slow(path, settings):
    time.sleep(0.05)
    return decode(path, settings)
wavenet.training.data.decode_clip = slow
prepare = wavenet.training.data.prepare_clips
def tell(*arguments):
    print("begins", flush=True)
    prepare(*arguments)
wavenet.training.data.prepare_clips = tell
data = AudioDataModule(sys.argv[1], 8000, val_fraction=0.0, num_workers=0)
data.prepare_data()
print(data.num_samples("train"))
"""


def test_two_processes_that_prepare_at_once_agree_and_leave_one_folder(ramps: Path) -> None:
    processes = [run(PREPARE_SLOWLY, str(ramps)) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [output.split()[-1] for output in outputs] == [str(sum(LENGTHS))] * 2
    assert len(prepared_folders(ramps / ".wavenet-cache")) == 1


def test_the_loser_of_a_race_uses_what_the_winner_made(
    ramps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = wavenet.training.data._publish

    def come_second(temporary: Path, target: Path) -> None:
        monkeypatch.setattr(wavenet.training.data, "_publish", publish)
        ready(ramps)
        publish(temporary, target)

    monkeypatch.setattr(wavenet.training.data, "_publish", come_second)
    data = ready(ramps)
    assert (data.codes(data.clips("train")[2]) == ramp(LENGTHS[2], 2)).all()
    assert len(prepared_folders(ramps / ".wavenet-cache")) == 1


def test_a_killed_preparation_leaves_nothing_that_is_used_and_is_swept_away_in_time(
    ramps: Path,
) -> None:
    process = run(PREPARE_SLOWLY, str(ramps))
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    (left,) = prepared_folders(ramps / ".wavenet-cache")
    assert not (left / "manifest.json").exists()
    assert ready(ramps).num_samples("train") == sum(LENGTHS)
    assert left.exists(), "it might have been another process's that is at work"
    for path in (left / "codes.u8", left):
        os.utime(path, (0, 0))
    write_tone(ramps / "10" / "new.wav")
    ready(ramps)
    assert not left.exists()


PREPARE_ON_A_FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
AudioDataModule(sys.argv[1], 8000).prepare_data()
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(ramps: Path) -> None:
    process = run(PREPARE_ON_A_FULL_DISK, str(ramps))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "Could not write the prepared codes to" in output and "Free space there" in output
    assert prepared_folders(ramps / ".wavenet-cache") == []


# --- The corpus's own prepare.py -------------------------------------------------------------------------------------

CORPUS = """
import sys, time, pathlib, numpy, soundfile
assert sys.argv[1] == "--out"
root = pathlib.Path(sys.argv[2])
root.mkdir(parents=True)  # a second run would fail here
time.sleep(0.5)
soundfile.write(root / "made.wav", numpy.zeros(800), 8000)
"""


def test_the_corpus_is_made_once_even_by_two_processes_at_once(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(CORPUS)
    code = "AudioDataModule(sys.argv[1], 8000, sys.argv[2], val_fraction=0.0).prepare_data()"
    processes = [
        run(code, str(tmp_path / "new" / "audio"), str(tmp_path / "prepare.py")) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert ready(tmp_path / "new" / "audio").num_samples("train") == 800


def test_a_corpus_that_is_there_is_not_made_again(ramps: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("raise SystemExit(3)")
    assert ready(ramps, prepare=str(tmp_path / "prepare.py")).num_samples("train") == sum(LENGTHS)


def test_a_prepare_script_that_fails_or_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match=r"prepare.py' ended with status 3"):
        module(tmp_path / "audio", prepare=str(tmp_path / "prepare.py")).prepare_data()
    with pytest.raises(ValueError, match=r"other.py' does not exist"):
        module(tmp_path / "audio", prepare=str(tmp_path / "other.py")).prepare_data()


# --- What is skipped, and what is refused ----------------------------------------------------------------------------


def test_each_unusable_file_is_skipped_with_one_warning_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tone(tmp_path / "good.wav", 1.0)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "zero.flac").touch()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, math.nan]), 8000, subtype="FLOAT")
    with caplog.at_level(logging.INFO, "wavenet"):
        data = ready(tmp_path)
    assert [clip.path for clip in data.clips("train")] == ["good.wav"]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    for name, reason in {
        "text.wav": "cannot be read as audio",
        "zero.flac": "cannot be read as audio",
        "gone.wav": "does not exist",
        "empty.wav": "0 samples",
        "nan.wav": "NaN",
    }.items():
        assert [reason in line for line in warnings if name in line] == [True], name
    assert len(warnings) == 5
    assert "1 clips, 0:00:01 at 8000 Hz, 5 skipped, 0 labels; train 1." in caplog.text


def test_a_summary_counts_clips_time_and_labels(
    ramps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "wavenet"):
        ready(ramps, label_from_folder="clip", val_pattern="^[12]/")
    assert (
        "10 clips, 0:00:01 at 8000 Hz, 0 skipped, 1 labels (clip: 10); train 8, val 2."
        in caplog.text
    )


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere' does not exist"):
        module(tmp_path / "nowhere").prepare_data()


def test_a_root_without_audio_is_refused_with_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no audio \(.wav .*: it is empty"):
        module(tmp_path).prepare_data()
    (tmp_path / "a.m4a").touch()
    with pytest.raises(ValueError, match=r"holds no audio \(.wav .*: it holds 1 of .m4a"):
        module(tmp_path).prepare_data()


def test_a_root_without_one_usable_file_is_refused_with_reasons_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.wav").write_text("no")
    with pytest.raises(
        ValueError, match=r"None of the 1 audio files .* can be used:\n.*a.wav' cannot be read"
    ):
        module(tmp_path).prepare_data()
    assert prepared_folders(tmp_path / ".wavenet-cache") == []


@pytest.mark.parametrize(
    ("settings", "split", "remedy"),
    [
        ({}, "val", "Set --data.val_fraction .now 0.0. higher"),
        ({"val_pattern": "nothing"}, "val", "Change --data.val_pattern"),
        ({"val_pattern": "."}, "train", "Change --data.val_pattern"),
        ({}, "test", "Set --data.test_pattern"),
        ({"metadata": "clips.csv"}, "test", "clips.csv' the split test"),
        ({}, "valid", "one of train, val, test"),
    ],
)
def test_an_empty_split_says_what_to_change(
    tmp_path: Path, settings: dict[str, str], split: str, remedy: str
) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text("path,split\na.wav,train\n")
    data = ready(tmp_path, **settings)
    with pytest.raises(ValueError, match=remedy):
        data.clips(split)


def test_a_label_pattern_that_misses_names_files_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1_a.wav", "x.wav", "y.wav"):
        write_tone(tmp_path / name)
    monkeypatch.setattr(wavenet.training.data, "decode_clip", refuse)
    for pattern in (r"(?P<digit>\d)_", r"(?P<digit>\d)?.*\.wav"):
        with pytest.raises(
            ValueError, match=r"misses 2 of 3 files, such as 'x.wav', 'y.wav'"
        ) as raised:
            module(tmp_path, label_pattern=pattern).prepare_data()
        assert repr(pattern) in str(raised.value)


def test_a_file_without_a_folder_has_no_folder_label(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"1 of 1 files lie directly in the root, such as 'a.wav'"):
        module(tmp_path, label_from_folder="speaker").prepare_data()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na.wav,x\n", "needs one named 'path'"),
        ("", "needs one named 'path'"),
        ("path,label\n", "lists no files"),
        (
            "path,split\na.wav,training\n",
            "line 2 has the split 'training'; write train, val or test",
        ),
        ("path,label\na.wav,\n", "line 2 has no value for label"),
        ("path,label\na.wav,x,y\n", "more values than the header"),
        ("path,label\na.wav,x\na.wav,y\n", "line 3 lists 'a.wav' a second time"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused(tmp_path: Path, table: str, message: str) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        module(tmp_path, metadata="clips.csv").prepare_data()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 0}, "sample_rate must be above 0"),
        ({"crop_samples": 0}, "crop_samples must be above 0"),
        ({"batch_size": -1}, "batch_size must be above 0"),
        ({"val_batch_size": 0}, "val_batch_size must be above 0"),
        ({"trim_silence_db": -40.0}, "trim_silence_db must be above 0"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"normalize": "rms"}, "takes peak, loudness or nothing"),
        ({"label_pattern": r"(\d)_"}, "has no named group"),
        ({"label_pattern": r"(?P<digit>"}, "is not a regular expression"),
        ({"val_pattern": "["}, "--data.val_pattern '\\[' is not a regular expression"),
        ({"label_pattern": r"(?P<a>.)", "label_from_folder": "b"}, "not both"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **settings)


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ("path,label\na.wav,x\n", {"label_from_folder": "b"}, "labels come from one of them"),
        ("path,split\na.wav,val\n", {"val_pattern": "a"}, "has a split column"),
        (None, {}, "neither in the working folder nor in"),
    ],
)
def test_a_csv_and_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, table: str | None, settings: dict[str, str], message: str
) -> None:
    write_tone(tmp_path / "a.wav")
    if table is not None:
        (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        module(tmp_path, metadata="clips.csv", **settings).prepare_data()


def test_every_setting_has_a_help_text_for_the_command_line() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(AudioDataModule, "data")
    settings = [action for action in parser._actions if action.dest.startswith("data.")]
    assert [action.dest for action in settings] == [
        f"data.{name}" for name in inspect.signature(AudioDataModule).parameters
    ]
    assert [action.dest for action in settings if not action.help] == []


def test_label_names_choose_among_the_labels_found(tmp_path: Path) -> None:
    for name in ("0_ann_0.wav", "1_bob_1.wav", "0_bob_2.wav"):
        soundfile.write(tmp_path / name, 0.1 * np.random.default_rng(0).standard_normal(400), 8000)
    pattern = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_"
    settings = {"root": str(tmp_path), "sample_rate": 8000, "label_pattern": pattern}
    assert AudioDataModule(**settings, label_names=["speaker"]).labels == {
        "speaker": ["ann", "bob"]
    }
    assert AudioDataModule(**settings, label_names=[]).labels == {}
    with pytest.raises(ValueError, match=r"\['note'\].*\['digit', 'speaker'\]"):
        _ = AudioDataModule(**settings, label_names=["note"]).labels
