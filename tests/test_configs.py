"""Every config trains for two steps on audio in the layout of its corpus; only sizes are reduced.

The runs happen in a folder with copies of configs/ and data/. The corpus's own prepare.py makes the
audio, from sources that are synthesised here for recorded corpora.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
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


def festvox_ru() -> dict[str, str]:
    for number in range(12):
        write_clip(Path("unpacked/wav", f"ru_{number:04d}.wav"), 16000, number)
    prepare("festvox_ru", "--source", "unpacked", "--out", "data/festvox_ru/audio")
    return {}


def vctk() -> dict[str, str]:
    for number in range(12):
        speaker = f"p{number % 2}"
        name = f"{speaker}/{speaker}_{number:03d}_mic1.wav"
        write_clip(Path("VCTK/wav48_silence_trimmed", name), 48000, number)
        wav = Path("VCTK/wav48_silence_trimmed", name)
        soundfile.write(wav.with_suffix(".flac"), *soundfile.read(wav))
        wav.unlink()
    prepare("vctk", "--source", "VCTK", "--out", "data/vctk/audio")
    return {}


def excerpts(corpus: str) -> dict[str, str]:
    for number in range(17):
        write_clip(Path(corpus, f"out{number}.wav"), 16000, number)
    where = ("--source", corpus, "--out", f"data/{corpus}/audio")
    prepare(corpus, *where, "--samples", 1500)
    return {}


def instruments() -> dict[str, str]:
    """The run makes its audio itself, as in a fresh clone."""
    return {}


def any_folder() -> dict[str, str]:
    for number in range(4):
        write_clip(Path("mine", "deep", f"{number}.wav"), 44100 if number % 2 else 16000, number)
    return {"data.root": "mine"}


AUDIO: dict[str, Callable[[], dict[str, str]]] = {
    "default": instruments,
    "fsdd": fsdd,
    "fsdd_vocoder": fsdd,
    "festvox_ru_vocoder": festvox_ru,
    "speech_commands": speech_commands,
    "sc09": speech_commands,
    "youtubemix": partial(excerpts, "youtubemix"),
    "beethoven": partial(excerpts, "beethoven"),
    "vctk": vctk,
    "ljspeech": ljspeech,
    "ljspeech_vocoder": ljspeech,
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
def test_every_config_trains_two_steps(config: Path, workplace: Path) -> None:
    extra = AUDIO.get(config.stem, any_folder)()
    overrides = [f"--{name}={value}" for name, value in {**CHEAP, **extra}.items()]
    train("--config", f"configs/{config.name}", *overrides)
    run = workplace / "runs" / config.stem
    assert load(run / "checkpoints/last.ckpt")["global_step"] == 2
    wanted = yaml.safe_load(config.read_text())
    model = wavenet.WaveNet.from_pretrained(run / "model")
    assert model.sample_rate == wanted["data"]["sample_rate"]
    for name in ("cycles", "layers_per_cycle"):
        assert getattr(model.config, name) == wanted["model"][name]
    used = yaml.safe_load((run / "config.yaml").read_text())
    for section, settings in wanted.items():
        for name, value in settings.items():
            if f"{section}.{name}" in {**CHEAP, **extra}:
                continue
            found = used[section][name]
            if isinstance(value, dict):  # a group: what it leaves out has its default
                found = {key: found[key] for key in value}
            assert found == value, f"{section}.{name}"
    assert (run / "samples/final-0.wav").is_file()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_network_of_every_config_is_built_at_full_size(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    labels: dict[str, list[str]] = {}
    lit = LitWaveNet(
        **settings["model"], sample_rate=settings["data"]["sample_rate"], labels=labels
    )
    with torch.device("meta"):
        lit.configure_model()
    assert 10_000 < lit.network.num_parameters < 100_000_000
    # What lies further back a vocoder hears in the mel spectrogram.
    shortest = 50 if lit.network.mel is None else 30
    assert shortest < lit.network.receptive_field_ms < 1000
    # With shorter crops, most of a row would be context that is not scored.
    assert settings["data"]["crop_samples"] > lit.receptive_field


@pytest.mark.parametrize("name", ["sc09", "youtubemix", "beethoven"])
def test_the_published_baselines_have_their_size(name: str) -> None:
    """Goel et al. 2022 and their code: about 4.2 M parameters, a receptive field of 4093."""
    config = REPOSITORY / "configs" / f"{name}.yaml"
    settings = yaml.safe_load(config.read_text())["model"]
    lit = LitWaveNet(**settings, sample_rate=16000, labels={})
    with torch.device("meta"):
        lit.configure_model()
    assert lit.network.num_parameters == 4_161_792 and lit.receptive_field == 4093
    assert lit.network.output == (wavenet.Linear() if name == "beethoven" else wavenet.MuLaw())
    assert "4,161,792" in (REPOSITORY / "data/README.md").read_text()


def test_the_configs_state_their_receptive_field() -> None:
    for config in CONFIGS:
        text = config.read_text()
        settings = yaml.safe_load(text)
        lit = LitWaveNet(
            **settings["model"], sample_rate=settings["data"]["sample_rate"], labels={}
        )
        with torch.device("meta"):
            lit.configure_model()
        milliseconds = lit.network.receptive_field_ms
        stated = f"receptive field {lit.receptive_field} samples, {milliseconds:.0f} ms"
        assert stated in text, f"{config.name}: {stated}"


@pytest.mark.parametrize(
    "line", ["model:\n  chanels: 3\n", "datas:\n  root: x\n", "trainer:\n  max_step: 3\n"]
)
def test_an_unknown_key_is_refused(
    line: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(line)
    with pytest.raises(SystemExit) as stopped:
        train("--config", "mine.yaml", "--data.root=x", "--data.sample_rate=8000")
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in message
    assert line.replace(":", "").split()[-2] in message
    assert not Path("runs").exists()
