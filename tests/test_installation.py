"""What an installation has: recipes by name, their scripts, packages that may be missing."""

import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import small_model
from tiny_runs import REPOSITORY, environment

import wavenet.audio
from wavenet import installation
from wavenet.audio import resample
from wavenet.installation import MissingPackage, recipe, require, script, spelled
from wavenet.terminal import run_command

FSDD = REPOSITORY / "configs" / "fsdd.yaml"


# --- recipes ---


@pytest.mark.parametrize("given", ["fsdd", "fsdd.yaml", "configs/fsdd.yaml"])
def test_a_recipe_is_found_by_its_name_in_any_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe(given).samefile(FSDD)


def test_a_file_here_goes_before_the_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("configs", "fsdd.yaml")
    own.parent.mkdir()
    own.write_text("data:\n")
    Path("fsdd").mkdir()  # a folder is no config
    assert recipe("configs/fsdd.yaml") == own and recipe("fsdd").samefile(FSDD)
    assert recipe("elsewhere/of/mine.yaml") == Path("elsewhere/of/mine.yaml")


def test_a_recipe_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no recipe of that name \(did you mean fsdd\?\)") as told:
        recipe("fssd")
    assert "The recipes are beethoven, default, " in str(told.value)


def test_a_script_is_that_of_the_recipes_where_there_is_none_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "data/instruments/prepare.py"
    assert script(name).samefile(REPOSITORY / name)
    assert script("data/of_nobody/prepare.py") == Path("data/of_nobody/prepare.py")
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text("")
    assert script(name) == Path(name)


# --- commands ---


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        ("train.py", "python train.py"),
        ("/env/bin/wavenet", "wavenet train"),
        (str(installation.PACKAGE / "__main__.py"), "wavenet train"),
        ("/env/lib/pytest/__main__.py", "python train.py"),
    ],
)
def test_a_command_is_told_as_the_user_starts_it(
    begun: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [begun])
    assert spelled("train") == told


def test_without_a_clone_commands_are_those_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "CLONE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["my_program.py"])
    assert spelled("generate") == "wavenet generate"
    assert installation.recipes() == installation.SHIPPED


# --- optional packages ---


def test_what_is_missing_is_named_with_how_to_get_it() -> None:
    with pytest.raises(MissingPackage) as error:
        require("Juggling", "torch", "no_such_package", extra="hub")
    assert str(error.value) == (
        "Juggling needs no_such_package, which this installation has not: "
        "pip install 'wavenet-torch[hub]'"
    )
    assert isinstance(error.value, ImportError), "as programs expect it"
    require("Juggling", "torch", "json")


def test_a_command_tells_what_is_missing_in_one_line() -> None:
    with pytest.raises(SystemExit, match=r"^error: Juggling needs no_such_package"):
        run_command(lambda: require("Juggling", "no_such_package"))


WITHOUT = """
import sys

class Without:
    '''Makes packages unimportable, as where they were never installed.'''

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {gone}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Without())
"""
EXTRAS = {
    "lightning", "pytorch_lightning", "torchaudio", "matplotlib", "jsonargparse", "tensorboard",
    "tqdm", "soxr", "yaml", "huggingface_hub", "onnx", "onnxruntime", "onnxscript", "scipy",
}  # fmt: skip


def without(gone: set[str], program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, where these packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(gone=sorted(gone)) + program],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


CORE = """
import torch, wavenet
model = wavenet.WaveNet.from_pretrained("fsdd")
audio = wavenet.generate(model, seconds=0.05, labels={"digit": "7"}, engine="cached")
chunks = list(wavenet.stream(model, seconds=0.02, chunk_size=64, engine="step"))
bits = wavenet.bits_per_sample(model, audio, {"digit": "7", "speaker": "theo"})
frames = wavenet.Mel(bands=20, hop=64, window=256).spectrogram(audio, 8000)
print(tuple(audio.shape), len(chunks), bool(bits > 0), tuple(frames.shape))

from wavenet.commands import main
main(["generate", "--seconds", "0.05", "--engine", "cached", "--out", "a.wav"])
"""


def test_the_core_needs_none_of_the_extras(tmp_path: Path) -> None:
    done = without(EXTRAS, CORE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 400) 3 True (1, 20, 7)", "a.wav"]
    assert (tmp_path / "a.wav").stat().st_size == 44 + 2 * 400


LACKS = {
    "train": "Training needs lightning and jsonargparse and tensorboard and tqdm",
    "generate --plot a.png": "--plot needs matplotlib",
    "generate --gallery a": "--gallery needs matplotlib",
    "generate --prompt high.wav": "Resampling audio needs soxr",
    "export fsdd --onnx a.onnx": "The export to ONNX needs onnx and onnxscript and onnxruntime",
}
TELL = """
from wavenet.commands import main
for command in {commands!r}:
    try:
        main(command.split())
    except SystemExit as end:
        print(end.code)
"""


def test_a_command_names_the_extra_that_it_lacks(tmp_path: Path) -> None:
    wavenet.audio.save_audio(tmp_path / "high.wav", torch.zeros(4410), 44100)
    done = without(EXTRAS, TELL.format(commands=list(LACKS)), tmp_path)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == len(LACKS)
    for (command, needs), line in zip(LACKS.items(), told, strict=True):
        extra = "onnx" if "export" in command else "train"
        install = f"pip install 'wavenet-torch[{extra}]'"
        assert needs in line and line.startswith("error: ") and line.endswith(install)
    assert [path.name for path in tmp_path.iterdir()] == ["high.wav"]


# --- resampling without torchaudio ---


@pytest.fixture
def no_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wavenet.audio, "torchaudio_here", lambda: None)


def tones(rate: int, seconds: float = 0.5) -> torch.Tensor:
    """(2, T): two tones below every rate of the test, with soft ends."""
    time = torch.arange(round(rate * seconds)) / rate
    tone = torch.stack([torch.sin(2 * math.pi * hertz * time) for hertz in (440.0, 1234.5)])
    return tone * torch.hann_window(tone.shape[1], periodic=False)


@pytest.mark.parametrize(
    ("before", "after"), [(44100, 8000), (8000, 22050), (16000, 11025), (11127, 16000)]
)
def test_soxr_and_torchaudio_agree_on_audio_within_the_band(
    before: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = tones(before)
    theirs = resample(audio, before, after)
    monkeypatch.setattr(wavenet.audio, "torchaudio_here", lambda: None)
    ours = resample(audio, before, after)
    assert ours.shape == theirs.shape == (2, math.ceil(audio.shape[1] * after / before))
    assert ours.dtype == torch.float32
    assert float((ours - theirs).abs().max()) < 2e-3, "filters of two makers"
    expected = tones(after)
    heard = ours[:, : expected.shape[1]]
    assert float((heard - expected[:, : heard.shape[1]]).abs().max()) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_soxr_keeps_the_shape_and_the_type(dtype: torch.dtype, no_torchaudio: None) -> None:
    made = resample(torch.zeros(2, 3, 101, dtype=dtype), 16000, 8000)
    assert made.shape == (2, 3, 51) and made.dtype == dtype
    assert resample(torch.zeros(1, dtype=dtype), 8000, 16000).shape == (2,)


def test_a_torchaudio_that_does_not_load_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    installation.torchaudio_here.cache_clear()
    monkeypatch.setattr(installation.importlib, "import_module", refuses)
    with caplog.at_level(logging.INFO, "wavenet"):
        assert installation.torchaudio_here() is installation.torchaudio_here() is None
    installation.torchaudio_here.cache_clear()
    assert len(caplog.messages) == 1 and "libcudart.so.13" in caplog.text


# --- export ---


def test_an_export_to_a_folder_is_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wavenet.commands import main

    model = small_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "model")
    main(["export", str(tmp_path / "model"), "--folder", str(tmp_path / "copy")])
    assert capsys.readouterr().out == f"{tmp_path / 'copy'}\n"
    again = wavenet.WaveNet.from_pretrained(tmp_path / "copy")
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
