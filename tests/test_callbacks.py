"""The files of a run, resuming after kill -9 and Ctrl-C, folders of runs, and two processes."""

import os
import random
import re
import shlex
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import (
    RATE,
    arguments,
    differing,
    finished_run,
    load,
    module,
    prepared_corpus,
    start,
    train,
)

import wavenet
from wavenet.training.callbacks import loudest_part
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet

MAX_STEPS = 120  # of runs that are killed: enough steps that the kill comes before the last one
TIMEOUT = 120  # seconds until a process counts as stuck


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    return finished_run(tmp_path_factory.mktemp("finished"), corpus, ema__decay=0.5)


@pytest.fixture(scope="module")
def board(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "audio": 0})
    events.Reload()
    return events


def output(process: Any) -> str:
    return process.communicate(timeout=TIMEOUT)[0]


def wait_for(path: Path, process: Any) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not path.is_file():
        assert process.poll() is None, f"ended early: {output(process)}"
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.005)


def states(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Averaged weights, current weights and optimiser moments, by name."""
    found = {f"average {name}": value for name, value in checkpoint["state_dict"].items()}
    found |= {f"current {name}": value for name, value in checkpoint["current_model_state"].items()}
    for index, moments in checkpoint["optimizer_states"][0]["state"].items():
        found |= {f"{name} {index}": value for name, value in moments.items()}
    return found


# --- the files of a run ---


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_writes_its_settings_checkpoints_export_and_samples(folder: Path) -> None:
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["model"]["cycles"] == 1 and settings["ema"]["decay"] == 0.5
    assert names(folder / "checkpoints") == ["best.ckpt", "last.ckpt"]
    assert names(folder / "model") == ["config.json", "model.safetensors"]
    stems = ("final", "step-0000002", "step-0000004")
    assert names(folder / "samples") == [f"{stem}-{i}.wav" for stem in stems for i in (0, 1)]
    for path in (folder / "samples").iterdir():
        info = soundfile.info(path)
        assert (info.samplerate, info.frames) == (RATE, 80)
        assert (info.channels, info.subtype) == (1, "PCM_16")


def test_the_export_is_the_best_checkpoint(folder: Path) -> None:
    exported = wavenet.WaveNet.from_pretrained(folder / "model")
    best = load(folder / "checkpoints" / "best.ckpt")["state_dict"]
    assert not differing(
        {f"wavenet.{name}": value for name, value in exported.state_dict().items()}, best
    )
    assert exported.sample_rate == RATE
    assert exported.labels == {"digit": ["0", "1"], "speaker": ["a", "b"]}


def test_the_checkpoint_holds_both_average_and_current_weights(folder: Path) -> None:
    last = load(folder / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 4
    assert differing(last["state_dict"], last["current_model_state"])


def test_the_best_checkpoint_has_the_lowest_validation(
    folder: Path, board: EventAccumulator
) -> None:
    lowest = min(board.Scalars("val_bits"), key=lambda event: event.value)
    step = load(folder / "checkpoints" / "best.ckpt")["global_step"]
    assert step in (lowest.step, lowest.step + 1)


def test_the_scalars_are_on_tensorboard_at_their_steps(board: EventAccumulator) -> None:
    assert {"bits", "val_bits", "samples_seen", "grad_norm"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("bits")] == [0, 1, 2, 3]
    assert len(board.Scalars("val_bits")) == 2
    assert all(5 < event.value < 10 for event in board.Scalars("bits") + board.Scalars("val_bits"))


def test_samples_seen_counts_the_scored_samples(corpus: Path, board: EventAccumulator) -> None:
    data = module(corpus)
    batches = data.batches(receptive_field=9)
    scored = [batches[i]["scored"] for i in range(4)]
    counts = [int((each[:, 1] - each[:, 0]).sum()) for each in scored]
    seen = [event.value for event in board.Scalars("samples_seen")]
    assert seen == [sum(counts[: i + 1]) for i in range(4)]


def test_generated_and_real_audio_and_pictures_are_on_tensorboard(board: EventAccumulator) -> None:
    tags = board.Tags()
    assert set(tags["audio"]) == {"generated/0", "generated/1", "real/0", "real/1"}
    assert set(tags["images"]) == {"generated/pictures", "real/pictures"}
    assert [event.step for event in board.Audio("generated/0")] == [2, 4]
    assert [event.step for event in board.Audio("real/0")] == [2]
    sound = board.Audio("real/1")[0]
    assert (sound.sample_rate, sound.length_frames, sound.content_type) == (RATE, 80, "audio/wav")
    picture = board.Images("generated/pictures")[0]
    assert picture.width > 200 and picture.encoded_image_string.startswith(b"\x89PNG")


def test_the_real_clip_on_tensorboard_is_the_loudest_part_of_a_validation_clip(
    corpus: Path, board: EventAccumulator
) -> None:
    data = module(corpus)
    audio = torch.from_numpy(data.audio(data.clips("val")[0]))
    first = loudest_part(audio, 80)
    wanted = audio[first : first + 80]
    with tempfile.TemporaryFile() as file:
        file.write(board.Audio("real/0")[0].encoded_audio_string)
        file.seek(0)
        logged, _ = soundfile.read(file, dtype="float32")
    assert torch.allclose(torch.from_numpy(logged), wanted, atol=1e-3)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_weights_are_averaged_in_every_precision(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.chdir(tmp_path)
    train(*arguments(corpus, trainer__precision=precision), "--samples.count=0")
    run = tmp_path / "runs" / "default"
    assert (run / "model" / "model.safetensors").is_file()
    train("--ckpt_path=last", "--trainer.max_steps=5", "--samples.count=0")
    assert load(run / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_a_fast_dev_run_leaves_no_files(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(*arguments(corpus), "--trainer.fast_dev_run=2")
    left = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".yaml"] == []


def test_a_run_shorter_than_its_validations_apart_is_validated_and_exported(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    train(*arguments(corpus, trainer__max_steps=1))
    exported = wavenet.WaveNet.from_pretrained(tmp_path / "runs/default/model")
    last = load(tmp_path / "runs/default/checkpoints/last.ckpt")["state_dict"]
    assert not differing(
        {f"wavenet.{name}": value for name, value in exported.state_dict().items()}, last
    )
    assert "bits per sample (uniform: 8.000) over" in capsys.readouterr().out


# --- a folder for every run ---


def test_a_run_never_overwrites_an_earlier_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = arguments(corpus, trainer__max_steps=1)
    train(*short)
    files = [path for path in (tmp_path / "runs/default").rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    train(*short)
    train(*short, "--name", "mine")
    assert names(tmp_path / "runs") == ["default", "default-2", "mine"]
    assert [path.read_bytes() for path in files] == before
    assert sorted(p for p in (tmp_path / "runs/default").rglob("*") if p.is_file()) == sorted(files)


def test_two_runs_that_start_at_once_have_two_folders(corpus: Path, tmp_path: Path) -> None:
    processes = [start(tmp_path, *arguments(corpus, trainer__max_steps=1)) for _ in range(2)]
    for process in processes:
        text = output(process)
        assert process.returncode == 0, text
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["default", "default-2"]
    for name in ("default", "default-2"):
        assert (tmp_path / "runs" / name / "checkpoints/last.ckpt").is_file()


# --- resuming ---

WAYS = {
    "plain": {},
    "accumulating": {"trainer.accumulate_grad_batches": 2},
    "with a worker": {"data.num_workers": 1},
    "accumulating, with a worker": {"trainer.accumulate_grad_batches": 2, "data.num_workers": 1},
}


def run_settings(corpus: Path, way: str) -> list[str]:
    """Validates every 37 batches, an odd number, so that it also happens between accumulations."""
    long = {
        "trainer.max_steps": MAX_STEPS,
        "trainer.val_check_interval": 37,
        "samples.every_n_validations": 0,
    }
    return arguments(corpus, **{**long, **WAYS[way]})


@pytest.mark.parametrize("way", ["plain", "accumulating, with a worker"])
def test_a_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = run_settings(corpus, way)
    train(*settings, "--name=whole")
    process = start(tmp_path, *settings, "--name=killed")
    last = tmp_path / "runs/killed/checkpoints/last.ckpt"
    wait_for(last, process)
    time.sleep(random.random() * 0.3)
    os.killpg(process.pid, signal.SIGKILL)
    output(process)
    reached = load(last)["global_step"]
    assert process.returncode == -signal.SIGKILL and 0 < reached < MAX_STEPS
    train("--ckpt_path", "last", "--name", "killed")
    whole, resumed = load(tmp_path / "runs/whole/checkpoints/last.ckpt"), load(last)
    assert whole["global_step"] == resumed["global_step"] == MAX_STEPS
    assert not differing(states(whole), states(resumed)), f"resumed after step {reached}"
    assert whole["samples_seen"] == resumed["samples_seen"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["killed", "whole"]


@pytest.mark.parametrize("way", ["plain", "accumulating"])
@pytest.mark.parametrize(
    ("batch", "number"),
    [
        *((batch, signal.SIGINT) for batch in (10, 11, 36)),
        (10, signal.SIGTERM),
        (11, signal.SIGUSR1),
    ],
)
def test_a_signal_in_any_batch_saves_and_prints_the_command_that_resumes_exactly(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    interrupt_in: Callable[[int, int], None],
    way: str,
    batch: int,
    number: int,
) -> None:
    """With two batches per step, 10 is a step's first, 11 its second; 36 precedes a validation."""
    monkeypatch.chdir(tmp_path)
    settings = [
        *run_settings(corpus, way),
        "--trainer.max_steps=40",
        "--checkpoint.every_n_steps=100",
    ]
    train(*settings, "--name=whole")
    interrupt_in(batch, number)
    with pytest.raises(SystemExit) as stopped:
        train(*settings)
    assert stopped.value.code == 128 + number
    last = tmp_path / "runs/default/checkpoints/last.ckpt"
    step, command = printed(capsys.readouterr().out)
    assert step == ((batch + 2) // 2 if way == "accumulating" else batch + 1)
    assert step == load(last)["global_step"]
    train(*command)
    whole, resumed = load(tmp_path / "runs/whole/checkpoints/last.ckpt"), load(last)
    assert whole["global_step"] == resumed["global_step"] == 40
    assert not differing(states(whole), states(resumed))
    assert whole["samples_seen"] == resumed["samples_seen"]


def test_ctrl_c_in_a_terminal_also_reaches_the_workers_and_still_saves(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [
        *run_settings(corpus, "with a worker"),
        "--trainer.max_steps=1000",
        "--checkpoint.every_n_steps=7",
    ]
    process = start(tmp_path, *settings)
    last = tmp_path / "runs/default/checkpoints/last.ckpt"
    wait_for(last, process)
    time.sleep(random.random() * 0.1)
    os.killpg(process.pid, signal.SIGINT)
    text = output(process)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in text, text
    step, command = printed(text)
    assert load(last)["global_step"] == step
    train(*command, f"--trainer.max_steps={step + 3}")
    assert load(last)["global_step"] == step + 3


@pytest.fixture
def interrupt_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sends one signal during the training step of the batch with this index."""
    training_step = LitWaveNet.training_step
    armed: list[tuple[int, int]] = []

    def step(self: LitWaveNet, batch: Any, batch_idx: int) -> torch.Tensor:
        if armed and armed[0][0] == batch_idx:
            signal.raise_signal(armed.pop()[1])
        return training_step(self, batch, batch_idx)

    monkeypatch.setattr(LitWaveNet, "training_step", step)
    return lambda batch, number: armed.append((batch, number))


def printed(text: str) -> tuple[int, list[str]]:
    """The step and the arguments in what an interrupted run prints."""
    found = re.search(r"Stopped after step (\d+)\. Resume with: (python train\.py .+)", text)
    assert found is not None, text
    words = shlex.split(found[2])
    assert words[:2] == ["python", "train.py"]
    return int(found[1]), words[2:]


def test_a_resumed_run_continues_its_logs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(*arguments(corpus))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        train("--ckpt_path", "last", "--trainer.max_steps=8")
    about_resuming = [warning for warning in warned if "resum" in str(warning.message)]
    assert not about_resuming, "the run is resumed exactly, so there is nothing to warn about"
    events = EventAccumulator(str(tmp_path / "runs/default"))
    events.Reload()
    seen = [event.value for event in events.Scalars("samples_seen")]
    assert [event.step for event in events.Scalars("samples_seen")] == list(range(8))
    assert seen == sorted(seen) and len(set(seen)) == 8
    assert load(tmp_path / "runs/default/checkpoints/last.ckpt")["global_step"] == 8


def test_a_checkpoint_is_written_in_its_folder_and_renamed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file from another file system is copied, and a kill during the copy leaves half of it."""
    monkeypatch.chdir(tmp_path)
    moved: list[tuple[Path, Path]] = []
    for name in ("rename", "replace"):
        move = getattr(os, name)

        def record(source: Any, target: Any, *args: Any, move: Any = move, **kwargs: Any) -> None:
            moved.append((Path(source).resolve().parent, Path(target).resolve()))
            move(source, target, *args, **kwargs)

        monkeypatch.setattr(os, name, record)
    train(*arguments(corpus, trainer__max_steps=2))
    checkpoints = tmp_path.resolve() / "runs/default/checkpoints"
    places = {target: source for source, target in moved}
    for name in ("last.ckpt", "best.ckpt"):  # from a folder of its own beside it
        assert places[checkpoints / name].parent == checkpoints


def test_a_checkpoint_that_cannot_be_written_leaves_the_previous_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(*arguments(corpus))
    last = tmp_path / "runs/default/checkpoints/last.ckpt"
    before = last.read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, full)
    with pytest.raises(SystemExit, match=r"error: .*No space left on device"):
        train("--ckpt_path", "last", "--trainer.max_steps=8")
    assert last.read_bytes() == before
    assert set(names(last.parent)) <= {"best.ckpt", "last.ckpt"}


# --- two processes ---


def test_two_processes_train_and_validate_like_one(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learning rate of 0 makes the results comparable; 5 validation clips are an odd number."""
    monkeypatch.chdir(tmp_path)
    settings = arguments(
        corpus, data__val_pattern=r"_[45]\.wav$|1_b_3\.wav$", model__weight_decay=0
    )
    process = start(
        tmp_path,
        *settings,
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--model.learning_rate=0",
    )
    text = output(process)
    assert process.returncode == 0, text
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["default"]
    train(*settings, "--name=one", "--model.learning_rate=0")
    figures = []
    for name in ("default", "one"):
        events = EventAccumulator(str(tmp_path / "runs" / name))
        events.Reload()
        figures.append([event.value for event in events.Scalars("val_bits")])
        if name == "default":
            assert len(events.Scalars("bits")) == 4
            seen = [event.value for event in events.Scalars("samples_seen")]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6) and len(figures[0]) == 2
    data = module(corpus, val_pattern=r"_[45]\.wav$|1_b_3\.wav$")
    assert len(data.clips("val")) == 5
    shares = [
        data.batches(receptive_field=9, rank=rank, world_size=2)[0]["scored"] for rank in (0, 1)
    ]
    assert seen[0] == sum(int((share[:, 1] - share[:, 0]).sum()) for share in shares)


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_ends_with_the_weights_of_an_uninterrupted_one(
    corpus: Path, tmp_path: Path
) -> None:
    # final_lr_ratio 1: the schedule must not depend on max_steps, which differs between the runs
    parallel = ("--trainer.devices=2", "--trainer.strategy=ddp", "--model.final_lr_ratio=1")
    settings = [
        *arguments(corpus, trainer__max_steps=3, trainer__val_check_interval=3, samples__count=1),
        *parallel,
    ]
    for command in (
        [*settings, "--name=whole"],
        [*settings, "--name=parts", "--trainer.max_steps=1", "--trainer.val_check_interval=1"],
        [
            "--name=parts",
            "--ckpt_path=last",
            "--trainer.max_steps=3",
            "--trainer.val_check_interval=3",
        ],
    ):
        process = start(tmp_path, *command)
        text = output(process)
        assert process.returncode == 0, text
    whole, parts = (
        load(tmp_path / "runs" / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 3
    assert whole["samples_seen"] == parts["samples_seen"]
    assert not differing(whole["state_dict"], parts["state_dict"])


def test_two_processes_share_the_clips_of_an_epoch(corpus: Path) -> None:
    data: AudioDataModule = module(corpus, crop_samples=2000, batch_size=2)
    rows: list[set[bytes]] = []
    for rank in (0, 1):
        batches = data.batches(receptive_field=9, rank=rank, world_size=2)
        assert len(batches) == 2
        rows.append(
            {
                row[: 1 + stop].numpy().tobytes()
                for i in range(2)
                for row, stop in rows_of(batches[i])
            }
        )
    assert len(rows[0]) == len(rows[1]) == 4 and not rows[0] & rows[1]


def rows_of(batch: dict[str, Any]) -> list[tuple[torch.Tensor, int]]:
    return list(zip(batch["audio"], batch["scored"][:, 1].tolist(), strict=True))


def test_a_run_killed_in_its_last_validation_is_validated_when_it_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = arguments(corpus, trainer__val_check_interval=2, samples__every_n_validations=0)
    train(*settings, "--name=whole")
    scored = LitWaveNet.validation_step

    class Killed(BaseException):
        pass

    def step(lit: LitWaveNet, batch: Any, index: int) -> None:
        if lit.trainer.global_step == 4:
            raise Killed
        scored(lit, batch, index)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LitWaveNet, "validation_step", step)
        train(*settings, "--name=parts")
    train("--ckpt_path=last", "--name=parts")
    whole, parts = (tmp_path / "runs" / name for name in ("whole", "parts"))
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (load(run / "checkpoints" / name) for run in (whole, parts))
        assert one["global_step"] == other["global_step"] == 4
        assert not differing(one["state_dict"], other["state_dict"])
    models = [wavenet.WaveNet.from_pretrained(run / "model") for run in (whole, parts)]
    assert not differing(*(model.state_dict() for model in models))
