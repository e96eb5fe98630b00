"""Properties of the data module: its flags, its batches under a trainer, what it tells."""

import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonargparse
import lightning
import numpy as np
import pytest
import torch
from tiny_corpora import LENGTHS, crops, ramp, write_codes, write_ramps, write_tone

from wavenet.corpus import Framing
from wavenet.outputs.mulaw import MuLaw
from wavenet.training.data import AudioDataModule, _batches_done
from wavenet.training.exchange import CorpusFacts, ModelFacts


def module(root: Path, **settings: Any) -> AudioDataModule:
    return AudioDataModule(
        str(root), **{"sample_rate": 8000, "num_workers": 0, "val_fraction": 0.0, **settings}
    )


def ready(root: Path, **settings: Any) -> AudioDataModule:
    data = module(root, **settings)
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    return write_ramps(tmp_path / "ramps")


def test_the_clips_lengths_are_the_training_clips_by_their_labels(tmp_path: Path) -> None:
    for index, length in enumerate([100, 100, 400, 400, 9000]):
        write_codes(
            tmp_path / ("short" if length == 100 else "long") / f"{index}.wav", ramp(length)
        )
    found = ready(
        tmp_path, label_from_folder="kind", val_pattern="4", trailing_silence=100 / 8000
    ).clip_length
    half = math.log(500 / 200) / 2
    assert found.offsets["kind"] == pytest.approx([half, -half], abs=1e-3)
    assert found.log_mean == pytest.approx(math.log(500 * 200) / 2, abs=1e-3) and found.log_std == 0


def test_trailing_silence_is_scored_in_training_and_not_in_validation(tmp_path: Path) -> None:
    for number in range(2):
        write_codes(tmp_path / str(number) / "clip.wav", ramp(50))
    data = ready(tmp_path, trailing_silence=0.01, val_pattern="1/", crop_samples=200, batch_size=1)
    batch = data.batches(receptive_field=10)[0]
    assert batch["scored"].tolist() == [[0, 130]] and (batch["audio"][0, 51:] == 0).all()
    assert data.whole_clips("val")[0]["scored"].tolist() == [[0, 50]]
    with pytest.raises(ValueError, match=r"trailing_silence must be at least 0, but got -1"):
        module(tmp_path, trailing_silence=-1.0)


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
        assert torch.equal(some[index]["audio"], every[index]["audio"])
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


def test_loaders_work_without_a_trainer(ramps: Path) -> None:
    data = ready(ramps, val_pattern="^0/", test_pattern="^1/", num_workers=1)
    with pytest.raises(ValueError, match="receptive_field"):
        data.train_dataloader()
    data.receptive_field = 10
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.batches(receptive_field=10))
    assert [batch["scored"].tolist() for batch in data.val_dataloader()] == [[[0, 3000]]]
    assert [batch["scored"].tolist() for batch in data.test_dataloader()] == [[[0, 2000]]]


def test_an_epochs_last_step_may_take_fewer_batches() -> None:
    done = [_batches_done(steps, length=5, together=2) for steps in range(7)]
    assert done == [0, 2, 4, 5, 7, 9, 10]


def test_the_split_does_not_depend_on_other_settings(tmp_path: Path) -> None:
    for number in range(12):
        write_tone(tmp_path / f"{number}.wav")
    held = [
        {clip.path for clip in ready(tmp_path, val_fraction=0.25, **settings).clips("val")}
        for settings in ({}, {"seed": 7, "batch_size": 2}, {"normalize": "peak"})
    ]
    assert len(held[0]) == 3 and held[0] == held[1] == held[2]


def test_audio_of_a_clip(ramps: Path) -> None:
    data = ready(ramps)
    for number, clip in enumerate(data.clips("train")):
        audio = data.audio(clip)
        assert audio.dtype == np.float32 and audio.min() >= -1 and audio.max() < 1
        codes = MuLaw().encode(torch.from_numpy(audio)).numpy()
        assert (codes == ramp(LENGTHS[number], number)).all()


# --- What data and model tell each other ------------------------------------------------------


def test_the_facts_are_those_of_the_corpus(ramps: Path) -> None:
    data = ready(ramps, label_from_folder="clip", label_dropout=0.5, trailing_silence=0.1)
    names = {"clip": [str(number) for number in range(len(LENGTHS))]}
    assert data.facts == CorpusFacts(8000, names, True, data.clip_length)
    assert data.facts.clip_length.log_mean == pytest.approx(
        np.log(np.array(LENGTHS) + 800).mean(), abs=1e-3
    )
    assert not ready(ramps, label_from_folder="clip").facts.unlabelled


def test_without_training_clips_the_facts_say_nothing_of_lengths(ramps: Path) -> None:
    assert ready(ramps, test_pattern=".").facts == CorpusFacts(8000, {}, False, None)


def test_the_framing_without_a_trainer_can_be_set(ramps: Path) -> None:
    data = ready(ramps, val_pattern="^0/")
    (clip,) = data.clips("val")
    data.framing = Framing(hop=7, before=3, after=2)
    (batch,) = data.val_dataloader()
    whole = 7 * math.ceil(clip.length / 7) + 2 - clip.length
    wanted = np.pad(data.corpus.levels(clip), (3, whole))
    np.testing.assert_array_equal(batch["audio"][0], wanted)


def test_under_a_trainer_the_model_says_the_framing_and_the_receptive_field(ramps: Path) -> None:
    data = ready(ramps)
    data.receptive_field = 5
    model = SimpleNamespace(model_facts=ModelFacts(300, Framing(8, 16, 4)))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=1,
        global_rank=0,
        max_steps=1,
        global_step=0,
        accumulate_grad_batches=1,
        lightning_module=model,
    )
    dataset = data.train_dataloader().dataset
    assert dataset.receptive_field == 300 and dataset.framing == Framing(8, 16, 4)


# --- Under Lightning's trainer ----------------------------------------------------------------


def digest(batch: dict[str, Any]) -> int:
    return hash((batch["audio"].numpy().tobytes(), batch["scored"].numpy().tobytes()))


class Recorder(lightning.pytorch.LightningModule):
    """Learns nothing; notes a digest of every batch it is given."""

    model_facts = ModelFacts(64, Framing())

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
        world_size=2,
        global_rank=1,
        _accelerator_connector=connector,
        lightning_module=None,
        state=SimpleNamespace(fn="validate"),
    )
    data.trainer = trainer  # type: ignore[assignment]
    with pytest.raises(ValueError, match="use_distributed_sampler false"):
        data.val_dataloader()
    connector.use_distributed_sampler = False
    assert (
        sum(len(batch["scored"]) for batch in data.val_dataloader()) == 2
    )  # of 5, the second process's share


# --- Settings ---------------------------------------------------------------------------------


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
        ({"sample_rate": 10**12}, "sample_rate must be at most 1000000, but got 1000000000000"),
        ({"sample_rate": 8000.5}, "sample_rate must be a whole number, but got 8000.5"),
        ({"crop_samples": 10**9}, "crop_samples must be at most 100000000, but got 1000000000"),
        ({"batch_size": 10**9}, "batch_size must be at most 65536, but got 1000000000"),
        ({"val_batch_size": 10**9}, "val_batch_size must be at most 65536"),
        ({"num_workers": 10**6}, "num_workers must be at most 256, but got 1000000"),
        ({"trailing_silence": math.inf}, "trailing_silence must be at most 3600, but got inf"),
        ({"trailing_silence": math.nan}, "trailing_silence must be at least 0, but got nan"),
        ({"normalize": "rms"}, "takes peak, loudness or nothing"),
        ({"label_pattern": r"(\d)_"}, "has no named group"),
        ({"label_pattern": r"(?P<digit>"}, "is not a regular expression"),
        ({"val_pattern": "["}, "--data.val_pattern '\\[' is not a regular expression"),
        ({"label_pattern": r"(?P<a>.)", "label_from_folder": "b"}, "not from both"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **settings)


def test_every_setting_has_a_help_text_for_the_command_line() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(AudioDataModule, "data")
    settings = [action for action in parser._actions if action.dest.startswith("data.")]
    flags = dict.fromkeys(".".join(action.dest.split(".")[:2]) for action in settings)
    names = inspect.signature(AudioDataModule).parameters
    assert sorted(flags) == sorted(f"data.{name}" for name in names)
    assert [action.dest for action in settings if not action.help] == []


@pytest.mark.parametrize(
    "name",
    [
        *("crop_samples", "batch_size", "val_batch_size", "num_workers"),
        *("trailing_silence", "label_dropout", "label_dropout_each"),
    ],
)
def test_a_setting_left_empty_in_a_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--data.{name} is empty. Give it a value"):
        module(tmp_path, **{name: None})
