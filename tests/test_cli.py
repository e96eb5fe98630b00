"""The command `train.py`: arguments it fills in, help, subcommands, and errors in one message."""

import errno
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import A100, H100, RTX2080, T4, plant_gpus
from tiny_corpora import codes_of
from tiny_runs import (
    REPOSITORY,
    arguments,
    environment,
    finished_run,
    load,
    module,
    prepared_corpus,
    train,
    write_corpus,
)

import wavenet
from wavenet.checkpoints import newest_checkpoint
from wavenet.training.advice import explain
from wavenet.training.arguments import complete_arguments
from wavenet.training.cli import default_precision
from wavenet.training.module import LitWaveNet
from wavenet.training.quiet import threads_in_one_line

DEFAULT = Path("configs/default.yaml")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one run was made. Tests do not write to it."""
    place = tmp_path_factory.mktemp("finished")
    finished_run(place, corpus, "--data.test_pattern=_3\\.wav$", samples__count=1)
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder with the finished run, as the working directory."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*args: object) -> str:
    """The message of a run that ends with an error."""
    with pytest.raises(SystemExit) as stopped:
        train(*args)
    message = str(stopped.value.code)
    assert message.startswith("error: ") and message.endswith(
        "\n(WAVENET_TRACEBACK=1 shows where)"
    ), message
    return message.removesuffix("\n(WAVENET_TRACEBACK=1 shows where)")


def refused_in_one_line(*args: object) -> str:
    message = refused(*args)
    assert "\n" not in message
    return message


# --- arguments that are filled in ---


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        ([], ["fit", "--name", "default", "--config", "configs/default.yaml"]),
        (["fit"], ["fit", "--name", "default", "--config", "configs/default.yaml"]),
        (
            ["--a.b", "1"],
            ["fit", "--name", "default", "--config", "configs/default.yaml", "--a.b", "1"],
        ),
        (["--config", "x/mine.yaml"], ["fit", "--name", "mine", "--config", "x/mine.yaml"]),
        (["-c=x/mine.yaml"], ["fit", "--name", "mine", "-c=x/mine.yaml"]),
        (["--name=n"], ["fit", "--config", "configs/default.yaml", "--name=n"]),
        (["--help"], ["fit", "--help"]),
        (["--help-all"], ["fit", "--help-all"]),
        (["test", "--help"], ["test", "--help"]),
        (["--data.root", "x", "-h"], ["fit", "--data.root", "x", "-h"]),
        (
            ["validate", "--ckpt_path=elsewhere.ckpt"],
            ["validate", "--config", "configs/default.yaml", "--ckpt_path=elsewhere.ckpt"],
        ),
    ],
)
def test_fit_and_the_default_config_are_filled_in(given: list[str], completed: list[str]) -> None:
    assert complete_arguments(given, DEFAULT) == completed


@pytest.mark.parametrize("given", [["--config", "fsdd"], ["--config=fsdd"], ["-c", "fsdd"]])
def test_a_recipe_is_named_without_its_path(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    completed = complete_arguments(["validate", *given], REPOSITORY / DEFAULT)
    assert "fsdd" in completed and str(REPOSITORY / "configs/fsdd.yaml") in " ".join(completed)
    with pytest.raises(ValueError, match=r"--config fsd: .*did you mean fsdd"):
        complete_arguments(["--config", "fsd"], REPOSITORY / DEFAULT)


def test_a_script_of_the_working_folder_does_not_stand_in_for_that_of_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = "data/instruments/prepare.py"
    assert "--data.prepare" not in complete_arguments([], REPOSITORY / DEFAULT)
    Path(script).parent.mkdir(parents=True)
    Path(script).write_text("raise SystemExit('not mine')")
    completed = complete_arguments([], REPOSITORY / DEFAULT)
    assert completed[-2:] == ["--data.prepare", str(REPOSITORY / script)]
    named = ["--data.prepare", script]
    assert complete_arguments(named, REPOSITORY / DEFAULT)[-2:] == named, "the user's own wish"
    Path("mine.yaml").write_text(f"data:\n  prepare: {script}\n")
    own = complete_arguments(["--config", "mine.yaml"], REPOSITORY / DEFAULT)
    assert "--data.prepare" not in own, "the user's own config"


def checkpoint(place: Path, name: str, age: int) -> Path:
    path = place / "runs" / name / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path.relative_to(place)


def test_last_is_the_newest_run_of_that_name_with_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new, other = (
        checkpoint(tmp_path, name, age) for name, age in (("a", 3), ("a-2", 2), ("a-b", 1))
    )
    assert newest_checkpoint(Path("runs")) == other
    assert newest_checkpoint(Path("runs"), "a") == new
    for run in (old, new, other):
        (run.parent.parent / "config.yaml").touch()
    own = [
        "fit",
        "--config",
        "runs/a-b/config.yaml",
        "--x=1",
        "--ckpt_path",
        "runs/a-b/checkpoints/last.ckpt",
    ]
    assert complete_arguments(["--ckpt_path", "last", "--x=1"], DEFAULT) == own
    found = complete_arguments(["--config=c/a.yaml", "--ckpt_path=last"], DEFAULT)
    assert found == ["fit", "--config=c/a.yaml", "--ckpt_path", "runs/a-2/checkpoints/last.ckpt"]
    named = complete_arguments(["validate", "--name", "a-2", "--ckpt_path", "last"], DEFAULT)
    assert named[-2:] == ["--ckpt_path", "runs/a-2/checkpoints/last.ckpt"]


@pytest.mark.parametrize(("name", "called"), [((), ""), (("--name=b",), " called b")])
def test_last_without_a_run_names_the_folder_that_was_searched(
    name: tuple[str, ...], called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name:
        checkpoint(tmp_path, "a", 0)
    message = refused_in_one_line("--ckpt_path", "last", *name)
    assert f"there is no run{called} with a checkpoint in runs" in message
    assert not (tmp_path / "runs" / "b").exists()


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu"])
def test_the_default_precision_is_valid(accelerator: str) -> None:
    assert default_precision(accelerator) in ("32-true", "bf16-mixed")


@pytest.mark.parametrize(
    ("gpus", "devices", "precision"),
    [
        ([T4], 1, "32-true"),
        ([RTX2080], "auto", "32-true"),
        ([A100], 1, "bf16-mixed"),
        ([H100], "1", "bf16-mixed"),
        ([A100, T4], 1, "bf16-mixed"),
        ([A100, T4], 2, "32-true"),
        ([A100, T4], -1, "32-true"),
        ([A100, T4], [1], "32-true"),
        ([T4, A100], [1], "bf16-mixed"),
        ([T4, A100], "1,", "bf16-mixed"),
    ],
)
def test_bfloat16_is_the_default_on_gpus_that_compute_in_it_not_on_those_that_emulate_it(
    gpus: list[Any], devices: Any, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_gpus(monkeypatch, *gpus)
    assert default_precision("auto", devices) == precision


# --- help ---


def test_help_shows_the_ways_to_start_and_the_settings() -> None:
    ways = ["python train.py --ckpt_path last", "python train.py validate", "--help-all"]
    settings = ["--data.root", "--model.cycles", "--samples.count", "--trainer.max_steps"]
    for args, says in ((["--help"], [*ways, *settings]), (["validate", "--help"], settings)):
        command = [sys.executable, str(REPOSITORY / "train.py"), *args]
        done = subprocess.run(
            command, env=environment(COLUMNS="120"), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and done.stderr == ""
        for text in says:
            assert text in done.stdout, text
        assert len(done.stdout.splitlines()) <= 150, "three screens"
        places = [done.stdout.index(f"  {name}") for name in settings]
        assert places == sorted(places), "audio and network first, the Trainer's last"
        assert "--trainer.barebones" not in done.stdout


def test_every_setting_of_this_library_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train("fit", "--help-all")
    assert stopped.value.code in (0, None)
    lines = capsys.readouterr().out.splitlines()
    ours = [
        i
        for i, line in enumerate(lines)
        if line.startswith(("  --data.", "  --model.", "  --ema.", "  --samples."))
    ]
    assert len(ours) > 35
    bare = [
        lines[i]
        for i in ours
        if "(" not in " ".join(lines[i : i + 5]) and "output.help" not in lines[i]
    ]  # jsonargparse's own: what a class takes
    assert not bare


@pytest.mark.parametrize(
    "setting, told",
    [
        ("--model.cycle_s=3", "there is no --model.cycle_s (did you mean --model.cycles?)."),
        ("--data.rot=x", "there is no --data.rot (did you mean --data.root?)."),
        ("--nonsense=1", "there is no --nonsense."),
        ("--trainer.max_stepz=2", "(did you mean --trainer.max_steps?)."),
        ("--model.mel.band=4", "--model.mel.band: Mel has no such setting (did you mean bands?)."),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest(
    here: Path, setting: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(setting)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert setting.lstrip("-").split("=")[0].split(".")[-1] in message
    assert told in message and len(message.splitlines()) == 2, message


@pytest.mark.parametrize(
    "setting, can_be",
    [
        ("--model.cycles=many", "a whole number"),
        ("--model.optimizer=sgd", "adam, or adamw"),
        ("--data.normalize=loud", "null, or peak, or loudness"),
        ("--model.output=Gausian", "(did you mean Gaussian?)"),
        ("--model.compile=perhaps", "true or false, or auto"),
    ],
)
def test_a_value_of_the_wrong_kind_is_shown_with_what_it_can_be(
    here: Path, setting: str, can_be: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(setting)
    message = capsys.readouterr().err
    name, value = setting.split("=")
    assert stopped.value.code == 2 and f"{name} is '{value}'; it can be " in message, message
    assert can_be in message and len(message.splitlines()) == 2, message


def test_an_unknown_subcommand_is_refused() -> None:
    with pytest.raises(SystemExit) as stopped:
        train("tset")
    assert "there is no 'tset' (did you mean test?)." in str(stopped.value.code)


def test_one_seed_decides_the_weights_and_the_batches(corpus: Path, here: Path) -> None:
    for name, seed, own in (("a", "3", []), ("b", "3", ["--data.seed=4"])):
        train(
            *arguments(corpus, trainer__max_steps=1),
            f"--name={name}",
            f"--seed_everything={seed}",
            *own,
        )
    seeds = [
        yaml.safe_load((here / "runs" / name / "config.yaml").read_text())["data"]["seed"]
        for name in "ab"
    ]
    assert seeds == [3, 4]


# --- validate and test ---


def printed_bits(text: str, name: str) -> float:
    (line,) = [line for line in text.splitlines() if name in line]
    return float(line.replace("│", " ").replace("┃", " ").split()[-1])


@pytest.mark.parametrize(
    ("command", "name", "split"), [("validate", "val_bits", "val"), ("test", "test_bits", "test")]
)
def test_a_checkpoint_is_scored_with_the_settings_of_its_run(
    corpus: Path,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    split: str,
) -> None:
    before = sorted(place.rglob("*"))
    train(command, "--ckpt_path", "runs/default/checkpoints/best.ckpt")
    shown = printed_bits(capsys.readouterr().out, name)
    model = wavenet.WaveNet.from_pretrained(place / "runs/default/model")
    data = module(corpus, test_pattern=r"_3\.wav$")
    clips = data.clips(split)
    bits = [
        wavenet.bits_per_sample(model, codes_of(data.corpus, clip), clip.labels) for clip in clips
    ]
    exact = sum(each * clip.length for each, clip in zip(bits, clips, strict=True)) / sum(
        c.length for c in clips
    )
    assert shown == pytest.approx(exact, rel=1e-5)
    assert sorted(place.rglob("*")) == before, "scoring leaves nothing behind"


def test_the_config_of_a_run_starts_a_new_run(corpus: Path, place: Path) -> None:
    train("--ckpt_path", "last", "--trainer.max_steps=5")
    settings = yaml.safe_load((place / "runs/default/config.yaml").read_text())
    assert settings["data"]["root"] == str(corpus) and settings["trainer"]["max_steps"] == 5
    train("--config", "runs/default/config.yaml", "--name=again", "--trainer.max_steps=1")
    assert load(place / "runs/again/checkpoints/last.ckpt")["global_step"] == 1
    assert load(place / "runs/default/checkpoints/last.ckpt")["global_step"] == 5


def test_test_without_a_test_split_says_how_to_make_one(place: Path) -> None:
    message = refused_in_one_line("test", "--ckpt_path", "last", "--data.test_pattern=null")
    assert "This data has no test clips" in message and "--data.test_pattern" in message


# --- errors ---


def test_a_missing_folder_is_named(here: Path) -> None:
    message = refused_in_one_line(*arguments(here / "nowhere"))
    assert "nowhere' does not exist; name the folder that holds the audio" in message
    assert not list(here.rglob("*.ckpt"))


def test_an_empty_folder_says_so(here: Path) -> None:
    (here / "empty").mkdir()
    assert "holds no audio (.wav" in refused_in_one_line(*arguments(here / "empty"))


def test_a_folder_without_audio_is_refused_with_the_types_found(here: Path) -> None:
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").write_text("not audio")
    assert "1 of .txt" in refused_in_one_line(*arguments(here / "texts"))


@pytest.mark.parametrize("setting", ["--model.fused=true", "--model.init_from=nowhere/at/all"])
def test_settings_that_cannot_be_used_are_refused_before_a_run_is_created(
    corpus: Path, here: Path, setting: str
) -> None:
    message = refused_in_one_line(*arguments(corpus), setting)
    assert "needs a GPU" in message or "no such model" in message
    assert not list(here.glob("runs/*"))


def test_a_refused_run_leaves_no_folder_and_the_next_run_gets_its_name(
    corpus: Path, here: Path
) -> None:
    refused(*arguments(here / "nowhere"))
    assert not (here / "runs").exists() or not list((here / "runs").iterdir())
    train(*arguments(corpus, trainer__max_steps=1))
    assert [path.name for path in (here / "runs").iterdir()] == ["default"]


def test_a_label_pattern_without_matches_is_refused_with_the_files(
    corpus: Path, here: Path
) -> None:
    message = refused_in_one_line(*arguments(corpus), "--data.label_pattern=(?P<who>x+)_")
    assert "misses 12 of 12 files, such as '0_a_0.wav'" in message


def test_a_missing_checkpoint_is_named(corpus: Path, here: Path) -> None:
    assert "gone.ckpt: there is no such" in refused_in_one_line(
        *arguments(corpus), "--ckpt_path=gone.ckpt"
    )


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused_and_the_other_one_named(
    place: Path, kept: float
) -> None:
    path = place / "runs/default/checkpoints/last.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = refused_in_one_line("--ckpt_path", "last")
    assert "last.ckpt" in message and "best.ckpt" in message
    assert not (place / "runs/default-2").exists()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(
    place: Path, command: str, how: str
) -> None:
    ran = place / "ran"
    path = place / "runs/default/checkpoints/last.ckpt"
    contents = {**load(path), "extra": Payload(ran)}
    if how == "torch":
        torch.save(contents, path)
    else:
        path.write_bytes(pickle.dumps(contents))
    message = refused_in_one_line(command, "--ckpt_path", str(path))
    assert "last.ckpt" in message and "was refused" in message
    assert not ran.exists()
    torch.load(path, weights_only=False) if how == "torch" else pickle.loads(path.read_bytes())
    assert ran.exists(), "the payload works if unpickling is allowed"


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, [1, 2, 3]])
def test_a_file_that_is_not_a_checkpoint_is_refused(place: Path, content: object) -> None:
    torch.save(content, place / "other.ckpt")
    message = refused_in_one_line("validate", "--ckpt_path=other.ckpt")
    assert "other.ckpt is not a training checkpoint of this library" in message


@pytest.mark.parametrize("command", ["fit", "validate"])
@pytest.mark.parametrize("digits", ["78", "789"])
def test_a_checkpoint_of_other_labels_is_refused_with_both(
    place: Path, command: str, digits: str
) -> None:
    """With two digits, the embedding tables have the same size and would load."""
    other = write_corpus(place / "other", digits)
    message = refused_in_one_line(command, "--ckpt_path", "last", f"--data.root={other}")
    assert "'0', '1'" in message and "'7', '8'" in message


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_of_another_sample_rate_is_refused_with_both(
    place: Path, command: str
) -> None:
    message = refused_in_one_line(command, "--ckpt_path", "last", "--data.sample_rate=4000")
    assert "8000" in message and "4000" in message


def test_a_checkpoint_of_another_size_is_refused(place: Path) -> None:
    message = refused_in_one_line("validate", "--ckpt_path", "last", "--model.residual_channels=8")
    assert "residual_channels = 4" in message and "residual_channels = 8" in message


@pytest.mark.parametrize("more", [True, False])
def test_a_checkpoint_whose_weights_are_of_another_model_is_refused(
    place: Path, more: bool
) -> None:
    path = place / "runs/default/checkpoints/last.ckpt"
    contents = load(path)
    if more:
        contents["state_dict"]["wavenet.more"] = torch.zeros(3)
    else:
        del contents["state_dict"]["wavenet.input.bias"]
    torch.save(contents, path)
    message = refused_in_one_line("validate", "--ckpt_path", "last")
    name = r"wavenet.more of shape (3,) is in it" if more else "wavenet.input.bias of shape (4,)"
    assert name in message and "weights are not those of a model of its settings" in message


@pytest.mark.parametrize("value", [3, {"wavenet.input.bias": 1.0}])
def test_a_checkpoint_with_something_else_for_weights_is_refused(
    place: Path, value: object
) -> None:
    path = place / "runs/default/checkpoints/last.ckpt"
    torch.save({**load(path), "current_model_state": value}, path)
    message = refused_in_one_line("fit", "--ckpt_path", "last", "--trainer.max_steps=20")
    assert f"holds {type(value).__name__} where weights should be" in message


@pytest.mark.parametrize("key", ["averaging_state", "optimizer_states", "loops", "callbacks"])
def test_a_checkpoint_whose_other_parts_are_damaged_is_refused(place: Path, key: str) -> None:
    path = place / "runs/default/checkpoints/last.ckpt"
    contents = load(path)
    assert key in contents
    torch.save({**contents, key: 7}, path)
    message = refused_in_one_line("fit", "--ckpt_path", "last", "--trainer.max_steps=20")
    assert "The checkpoint cannot be gone on with" in message and "damaged" in message


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_config_that_is_no_utf8_text_is_named(here: Path, encoding: str) -> None:
    (here / "mine.yaml").write_bytes("# \u00e4\ndata: {}".encode(encoding))
    message = refused_in_one_line("--config", "mine.yaml")
    assert "'mine.yaml' is not UTF-8 text (byte 0x" in message


def test_a_trainer_that_is_no_settings_is_refused(here: Path) -> None:
    (here / "mine.yaml").write_text("trainer: 1.5")
    assert "trainer must be settings by name, but got 1.5" in refused_in_one_line(
        "--config", "mine.yaml", "--data.root=x", "--data.sample_rate=8000"
    )


BAD = {
    "--trainer.enable_checkpointing=false": "a run always keeps its last and its best checkpoint",
    "--trainer.default_root_dir=elsewhere": "a run's folder is RUNS/NAME",
    "--trainer.devices=0": "The --trainer settings do not fit",
    "--trainer.devices=-5": "The --trainer settings do not fit",
    "--trainer.accelerator=tpu": "The --trainer settings do not fit: Requirement",
    "--trainer.accumulate_grad_batches=0": "must be at least 1, but got 0",
    "--trainer.val_check_interval=1.5": "`val_check_interval` should be an integer",
    "--checkpoint.every_n_steps=-1": "--checkpoint.every_n_steps must be at least 1, but got -1",
    "--model.residual_channels=1000000000": "residual_channels=1000000000; it must be an integer",
    "--data.batch_size=1000000000": "--data.batch_size must be at most 65536",
    "--seed_everything=-1": "--seed_everything -1 is not in bounds",
    f"--seed_everything={2**64}": f"--seed_everything {2**64} is not in bounds",
    "--name=../esc": "is not a name for a folder in 'runs'",
}


@pytest.mark.parametrize("setting", BAD)
def test_a_setting_that_cannot_be_is_refused_and_leaves_no_folder(
    corpus: Path, here: Path, setting: str
) -> None:
    assert BAD[setting] in refused_in_one_line(*arguments(corpus), setting)
    assert not list(here.glob("runs/*")) and not list(here.glob("esc"))


@pytest.mark.parametrize("steps", ["1e300", "nan"])
def test_a_number_of_steps_that_is_none_is_refused(
    here: Path, steps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train(f"--trainer.max_steps={steps}")
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "trainer.max_steps" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("section", ["model: [1]", "[1]", "model: x", "a: b: c"])
def test_a_config_of_another_shape_is_refused(
    here: Path, section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.yaml").write_text(section)
    with pytest.raises(SystemExit) as stopped:
        train("--config", "mine.yaml")
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "error: " in message and "Traceback" not in message


@pytest.mark.parametrize("setting", ["trainer.logger", "trainer.enable_progress_bar"])
def test_a_run_without_a_logger_or_a_bar_has_the_same_folder(
    corpus: Path, here: Path, setting: str
) -> None:
    train(*arguments(corpus, trainer__max_steps=2), f"--{setting}=false")
    assert [path.name for path in here.iterdir()] == ["runs"]
    found = {path.name for path in (here / "runs/default").iterdir()}
    assert found >= {"config.yaml", "checkpoints", "model", "samples"}
    assert load(here / "runs/default/checkpoints/last.ckpt")["global_step"] == 2


def test_an_error_that_nothing_foresaw_says_where_and_how_to_see_more(
    corpus: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(LitWaveNet, "training_step", fault)
    message = refused_in_one_line(*arguments(corpus))
    assert "KeyError: 'a fault' (test_cli.py, line" in message
    assert "may be a fault of the program" in message


@pytest.mark.parametrize("saved", [False, True])
def test_a_full_disk_is_told_with_what_there_is_to_resume(here: Path, saved: bool) -> None:
    last = here / "checkpoints/last.ckpt"
    if saved:
        last.parent.mkdir()
        last.touch()
    text = explain(OSError(errno.ENOSPC, "No space left on device"), here)
    assert "The disk is full: free some space." in text
    assert (f"Resume with: python train.py --ckpt_path {last}" in text) is saved
    assert ("There is no checkpoint yet; start the run again." in text) is not saved


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_run_with_closed_streams_trains(corpus: Path, here: Path, streams: str) -> None:
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments(corpus, samples__count=1)]
    done = subprocess.run(
        f"{shlex.join(command)} {streams}",
        shell=True,
        env=environment(),
        cwd=here,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr + done.stdout
    assert load(here / "runs/default/checkpoints/last.ckpt")["global_step"] == 4


def test_code_named_in_a_runs_own_folder_is_not_run(corpus: Path, place: Path) -> None:
    own, ran = place / "runs/default/config.yaml", place / "ran"
    script = place / "runs/default/prepare.py"
    script.write_text(f"open({str(ran)!r}, 'w')")
    settings = yaml.safe_load(own.read_text())
    settings["data"] |= {"root": "nothing", "prepare": str(script)}
    own.write_text(yaml.safe_dump(settings))
    for command in ("fit", "validate", "test"):
        message = refused_in_one_line(command, "--ckpt_path=runs/default/checkpoints/last.ckpt")
        assert "does not come with this program" in message and not ran.exists()
    refused("--ckpt_path=runs/default/checkpoints/last.ckpt", f"--data.prepare={script}")
    assert ran.exists(), "the script runs where the command line names it"


def test_the_traceback_is_shown_on_request(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAVENET_TRACEBACK", "1")
    with pytest.raises(ValueError, match="does not exist"):
        train(*arguments(here / "nowhere"))


def test_an_error_is_the_last_message_of_the_command_and_its_status(here: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments(here / "nowhere")]
    done = subprocess.run(
        command, env=environment(), cwd=here, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: --data.root")


def test_a_thread_that_cannot_write_is_one_line_and_other_errors_are_whole(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard's thread on a full disk."""

    def fail(error: Exception) -> None:
        raise error

    earlier = threading.excepthook
    seen: list[type[BaseException]] = []
    threading.excepthook = lambda args: seen.append(args.exc_type)
    try:
        with threads_in_one_line():
            for error in (OSError(28, "No space left on device"), ZeroDivisionError()):
                thread = threading.Thread(target=fail, args=(error,))
                thread.start()
                thread.join()
    finally:
        threading.excepthook = earlier
    assert "writing beside the run failed: [Errno 28] No space left on device" in caplog.text
    assert "Traceback" not in capsys.readouterr().err + caplog.text
    assert seen == [ZeroDivisionError]


@pytest.mark.parametrize(
    "setting",
    [
        *("data.batch_size", "data.val_fraction", "checkpoint.every_n_steps", "ema.decay"),
        *("samples.count", "model.compile", "model.optimizer", "trainer.accumulate_grad_batches"),
    ],
)
def test_a_setting_without_a_value_is_named(
    corpus: Path, here: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    section, name = setting.split(".")
    (here / "empty.yaml").write_text(f"{section}:\n  {name}:\n")
    kept = [given for given in arguments(corpus) if not given.startswith(f"--{setting}=")]
    with pytest.raises(SystemExit) as stopped:
        train("--config", "empty.yaml", "--data.sample_rate=8000", *kept)
    message = f"{stopped.value} {capsys.readouterr().err}"
    assert f"--{setting} is empty. Give it a value, or leave it out for its default," in message
