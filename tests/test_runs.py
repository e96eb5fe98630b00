"""Folders of runs: names, locks, leftovers; what a folder's own config.yaml may say."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import REPOSITORY, environment

from wavenet.files import THIS_MACHINE, scratch
from wavenet.training.arguments import complete_arguments
from wavenet.training.runs import RUN_VARIABLE, Claim, new_folder

DEFAULT = REPOSITORY / "configs" / "default.yaml"
HOLD = """
import os, sys, time
from wavenet.training.runs import Claim
with Claim() as claim:
    run = claim.take("runs", None, sys.argv[1])
    if sys.argv[2] == "with a worker" and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print(run, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUN_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def checkpoint(here: Path) -> Path:
    path = Path("runs/a/checkpoints/last.ckpt")
    path.parent.mkdir(parents=True)
    path.touch()
    return path


# --- names ---


@pytest.mark.parametrize("name", ["../esc", "/tmp/esc", "a/b", "a\\b", "", " ", ".", "..", "a\0b"])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(here: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a folder in 'runs'"):
        new_folder(Path("runs"), name)
    assert not list(here.rglob("*"))


@pytest.mark.parametrize("name", ["a", "a.b", "..a", "a b", "ä-1"])
def test_any_other_name_is_that_of_a_folder(here: Path, name: str) -> None:
    assert new_folder(Path("runs"), name) == Path("runs", name)
    assert new_folder(Path("runs"), name) == Path("runs", f"{name}-2")


@pytest.mark.parametrize("runs", ["", " "])
def test_an_empty_folder_of_runs_is_refused(here: Path, runs: str) -> None:
    with Claim() as claim, pytest.raises(ValueError, match="--runs is empty"):
        claim.take(runs, "a", None)
    assert not list(here.iterdir())


def test_the_working_folder_may_be_that_of_all_runs(here: Path) -> None:
    with Claim() as claim:
        assert claim.take(".", "a", None) == Path("a") and (here / "a").is_dir()


# --- one process at a time ---


def held(checkpoint: Path, how: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(checkpoint), how],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "runs/a\n"
    return process


@pytest.mark.parametrize("how", ["alone", "with a worker"])
def test_a_run_that_is_being_trained_is_refused_until_its_process_dies(
    checkpoint: Path, how: str
) -> None:
    """A worker that outlives its killed parent for some seconds does not hold the run."""
    process = held(checkpoint, how)
    try:
        with (
            pytest.raises(ValueError, match="runs/a is being trained by another process"),
            Claim() as second,
        ):
            second.take("runs", None, str(checkpoint))
        process.kill()
        process.wait(timeout=60)
        with Claim() as third:
            assert third.take("runs", None, str(checkpoint)) == Path("runs/a")
        assert not Path("runs/a/.lock").exists() and checkpoint.is_file()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_the_processes_that_lightning_starts_share_the_run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Claim() as first:
        first.take("runs", None, str(checkpoint))
        assert os.environ[RUN_VARIABLE] == "runs/a"  # what they inherit
        with Claim() as child:
            assert child.take("runs", None, str(checkpoint)) == Path("runs/a")
        assert Path("runs/a/.lock").exists()
    assert RUN_VARIABLE not in os.environ


def test_a_resumed_run_sweeps_what_killed_processes_left_and_nothing_else(checkpoint: Path) -> None:
    run = checkpoint.parent.parent
    (run / "model").mkdir()
    end = f"{THIS_MACHINE}12345678.part"  # of the folders that files.write_whole makes
    stale = [checkpoint.with_name(f".last.ckpt.{end}"), run / f"model/.config.json.{end}"]
    kept = [checkpoint, run / ".notes", run / "model/config.json", run / ".git.ignore.me"]
    for path in stale:
        path.mkdir()
    for path in kept:
        path.touch()
    with Claim() as first:
        first.take("runs", None, str(checkpoint))
        assert not [path for path in stale if path.exists()]
        assert all(path.exists() for path in kept)
        os.environ.pop(RUN_VARIABLE)
        with scratch(checkpoint) as live:
            with pytest.raises(ValueError, match="being trained"), Claim() as second:
                second.take("runs", None, str(checkpoint))
            assert live.exists()


@pytest.mark.parametrize("trained", [False, True])
def test_a_new_run_that_failed_before_its_first_step_leaves_no_folder(
    here: Path, trained: bool
) -> None:
    def fail() -> None:
        with Claim() as claim:
            run = claim.take("runs", "a", None)
            (run / "config.yaml").touch()
            claim.trained = lambda: trained
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert Path("runs/a").exists() is trained


# --- what a run's own config may say ---

PLAIN: dict[str, Any] = {
    "seed_everything": 0,
    "runs": "runs",
    "name": "a",
    "ckpt_path": None,
    "weights_only": None,
    "data": {"root": "audio", "prepare": None, "label_pattern": r"(?P<a>[a-z]+)_{2}", "seed": 0},
    "model": {"output": {"name": "MuLaw", "classes": 256}, "betas": [0.9, 0.99]},
    "trainer": {"logger": None, "strategy": "ddp", "accelerator": "cpu", "devices": "auto"},
}
CLASS = {"class_path": "evil.Code", "init_args": {}}
INNER = "{class_path: evil.Code}"
KNOWN = "lightning.pytorch.callbacks.EarlyStopping"
CODE: dict[str, dict[str, Any]] = {
    "a callback": {"trainer": {"callbacks": [CLASS]}},
    "a callback by name": {"trainer": {"callbacks": "evil.Code"}},
    "a logger": {"trainer": {"logger": CLASS}},
    "a plugin": {"trainer": {"plugins": [CLASS]}},
    "a strategy by name": {"trainer": {"strategy": "evil.Strategy"}},
    "a profiler": {"trainer": {"profiler": CLASS}},
    "an accelerator": {"trainer": {"accelerator": CLASS}},
    "a class as text": {"trainer": {"logger": INNER}},
    "a class in a setting": {"model": {"output": {"name": CLASS}}},
    "a class as text in a setting": {"model": {"output": INNER}},
    "an escaped text": {"model": {"output": r'{"class\u005fpath": evil.Code}'}},
    "a class as a section": {"model": CLASS},
    "a file as a section": {"model": "other.yaml"},
    "a path of names": {"trainer.callbacks": [CLASS]},
    "a path in a section": {"trainer": {"logger.class_path": "evil.Code"}},
    "one more": {"trainer": {"callbacks+": CLASS}},
    "a class in a known class": {
        "trainer": {"callbacks": {"class_path": KNOWN, "init_args": {"monitor": CLASS}}}
    },
    "pickles": {"weights_only": False},
    "an optimiser": {"optimizer": CLASS},
    "another config": {"config": "other.yaml"},
}


def resumed(checkpoint: Path, settings: dict[str, Any] | str, *more: str) -> list[str]:
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (checkpoint.parent.parent / "config.yaml").write_text(text)
    return complete_arguments(["--ckpt_path", str(checkpoint), *more], DEFAULT)


def test_plain_settings_and_known_classes_are_taken(checkpoint: Path) -> None:
    known = {"class_path": KNOWN, "init_args": {"monitor": "val_bits"}}
    trainer = {**PLAIN["trainer"], "callbacks": [known]}
    own = resumed(checkpoint, {**PLAIN, "trainer": trainer})
    assert own == ["fit", "--config", "runs/a/config.yaml", "--ckpt_path", str(checkpoint)]


@pytest.mark.parametrize("how", CODE)
def test_code_in_a_runs_own_config_is_refused_unless_it_is_named(
    checkpoint: Path, how: str
) -> None:
    settings = {**PLAIN, **CODE[how]}
    with pytest.raises(ValueError, match=r"config.yaml was refused: \S+ in it is not a plain"):
        resumed(checkpoint, settings)
    named = ["--config", "runs/a/config.yaml"]
    assert resumed(checkpoint, settings, *named)[1:3] == ["--ckpt_path", str(checkpoint)]


def test_a_file_beside_the_config_does_not_stand_for_a_word(checkpoint: Path) -> None:
    Path("runs/a/ddp").write_text(INNER)
    with pytest.raises(ValueError, match=r"trainer\.strategy in it"):
        resumed(checkpoint, PLAIN)


def test_tags_of_python_are_refused_and_not_run(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="not plain YAML"):
        resumed(checkpoint, "name: !!python/object/apply:os.mkdir [ran]")
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_script_that_only_a_runs_own_config_names_is_refused(
    checkpoint: Path, command: str
) -> None:
    def complete(prepare: Path, *more: str) -> list[str]:
        settings = {**PLAIN, "data": {"root": "audio", "prepare": str(prepare)}}
        (checkpoint.parent.parent / "config.yaml").write_text(yaml.safe_dump(settings))
        return complete_arguments([command, "--ckpt_path", str(checkpoint), *more], DEFAULT)

    script, shipped = Path("runs/a/prepare.py"), REPOSITORY / "data/instruments/prepare.py"
    script.touch()
    with pytest.raises(ValueError, match=r"names a script, data.prepare 'runs/a/prepare.py'"):
        complete(script)
    assert complete(shipped)
    assert complete(script, "--data.prepare=runs/a/prepare.py")
    Path("audio").mkdir()
    Path("audio/a.wav").touch()
    assert complete(script), "with audio there, no script is run"
