"""Every recipe under configs/ trains for two steps, on audio in its corpus's layout; only what costs time is made smaller.

The runs happen in a folder with copies of the recipes and of data/, where audio is made by the corpus's own prepare.py,
from sources synthesised here for the corpora that are recorded.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from tiny_runs import REPOSITORY, environment, load, train

import wavenet
from wavenet.training.module import LitWaveNet

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
CHEAP = {
    "data.crop_samples": 512,
    "data.batch_size": 2,
    "data.val_batch_size": 2,
    "data.num_workers": 0,
    "model.residual_channels": 4,
    "model.gate_channels": 4,
    "model.skip_channels": 4,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 2,
    "trainer.val_check_interval": 2,
    "trainer.limit_val_batches": 1,
    "trainer.enable_model_summary": "false",
    "samples.seconds": 0.01,
    "samples.count": 1,
}


def write_clip(path: Path, rate: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(rate // 5)
    soundfile.write(
        path, 0.2 * np.sin(np.arange(rate // 5) / (5 + seed % 7)) + 0.02 * noise, rate, "PCM_16"
    )


def prepare(corpus: str, *args: object) -> None:
    command = [sys.executable, f"data/{corpus}/prepare.py", *map(str, args)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def fsdd() -> dict[str, str]:
    for number in range(36):
        digit, speaker, take = number % 3, "jackson" if number % 2 else "theo", number // 6
        write_clip(Path("recordings", f"{digit}_{speaker}_{2 * take}.wav"), 8000, number)
    prepare("fsdd", "--source", "recordings", "--out", "data/fsdd/audio")
    return {}


def speech_commands() -> dict[str, str]:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    names = [f"{word}/{speaker}_nohash_0.wav" for word in words for speaker in ("0a", "1b", "2c")]
    for seed, name in enumerate(names):
        write_clip(Path("unpacked", name), 16000, seed)
    for file, speaker in (("validation_list.txt", "1b"), ("testing_list.txt", "2c")):
        Path("unpacked", file).write_text("".join(f"{name}\n" for name in names if speaker in name))
    prepare("speech_commands", "--source", "unpacked", "--out", "data/speech_commands/audio")
    return {}


def ljspeech() -> dict[str, str]:
    for number in range(12):
        write_clip(Path("LJSpeech-1.1/wavs", f"LJ001-{number:04d}.wav"), 22050, number)
    prepare("ljspeech", "--source", "LJSpeech-1.1", "--out", "data/ljspeech/audio")
    return {}


def instruments() -> dict[str, str]:
    """Made by the run itself, as on the first day."""
    return {}


def any_folder() -> dict[str, str]:
    for number in range(4):
        write_clip(Path("mine", "deep", f"{number}.wav"), 44100 if number % 2 else 16000, number)
    return {"data.root": "mine"}


AUDIO: dict[str, Callable[[], dict[str, str]]] = {
    "default": instruments,
    "fsdd": fsdd,
    "speech_commands": speech_commands,
    "ljspeech": ljspeech,
}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    shutil.copytree(
        REPOSITORY / "data",
        tmp_path / "data",
        ignore=shutil.ignore_patterns("audio", "__pycache__"),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    )
    return tmp_path


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_trains_two_steps(config: Path, workplace: Path) -> None:
    extra = AUDIO.get(config.stem, any_folder)()
    overrides = [f"--{name}={value}" for name, value in {**CHEAP, **extra}.items()]
    train("--config", f"configs/{config.name}", *overrides)
    run = workplace / "runs" / config.stem
    assert load(run / "checkpoints/last.ckpt")["global_step"] == 2
    wanted = yaml.safe_load(config.read_text())
    model = wavenet.WaveNet.from_pretrained(run / "model")
    assert model.sample_rate == wanted["data"]["sample_rate"]
    for name in ("cycles", "layers_per_cycle"):
        assert model.config[name] == wanted["model"][name]
    used = yaml.safe_load((run / "config.yaml").read_text())
    for room, settings in wanted.items():
        for name, value in settings.items():
            if f"{room}.{name}" not in {**CHEAP, **extra}:
                assert used[room][name] == value, f"{room}.{name}"
    assert (run / "samples/final-0.wav").is_file()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_s_network_is_built_at_its_full_size(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    labels: dict[str, list[str]] = {}
    lit = LitWaveNet(
        **settings["model"], sample_rate=settings["data"]["sample_rate"], labels=labels
    )
    with torch.device("meta"):
        lit.configure_model()
    assert 10_000 < lit.network.num_parameters < 100_000_000
    assert 50 < lit.network.receptive_field_ms < 1000
    assert settings["data"]["crop_samples"] > lit.receptive_field, (
        "else most of a row is unscored context"
    )


def test_the_recipes_state_their_receptive_field_as_it_is() -> None:
    for config in CONFIGS:
        text = config.read_text()
        settings = yaml.safe_load(text)
        lit = LitWaveNet(
            **settings["model"], sample_rate=settings["data"]["sample_rate"], labels={}
        )
        with torch.device("meta"):
            lit.configure_model()
        stated = f"receptive field {lit.receptive_field} samples, {lit.network.receptive_field_ms:.0f} ms"
        assert stated in text, f"{config.name}: {stated}"


@pytest.mark.parametrize(
    "line", ["model:\n  chanels: 3\n", "datas:\n  root: x\n", "trainer:\n  max_step: 3\n"]
)
def test_a_key_that_no_setting_has_is_refused(
    line: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(line)
    with pytest.raises(SystemExit) as stopped:
        train("--config", "mine.yaml", "--data.root=x", "--data.sample_rate=8000")
    message = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and line.replace(":", "").split()[-2] in message
        and "Traceback" not in message
    )
    assert not Path("runs").exists()
