"""The command `wavenet`: one of several by name, each as from its own place, exports that speak."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from tiny_runs import REPOSITORY, environment

import wavenet
from wavenet import MixtureOfLogistics
from wavenet.audio import load_audio, save_audio
from wavenet.commands import COMMANDS, DECIDES, entry, main
from wavenet.engines import build_engine
from wavenet.interop import nam
from wavenet.outputs import Sampling
from wavenet.version import __version__

LABELS = {"digit": ["0", "1", "2"], "speaker": ["ann", "bob"]}


def ended(*arguments: str) -> int | str | None:
    """What the command ends its process with."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


# --- which ---


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_help_lists_the_commands(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(*arguments) == 0
    text = capsys.readouterr().out
    assert "usage: wavenet COMMAND" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  ")] == [*COMMANDS]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["trian"],
            "wavenet has no command 'trian' (did you mean train?). The commands are train,",
        ),
        (["generate.py"], "(did you mean generate?)"),
        (["xyz"], "wavenet has no command 'xyz'. The commands are train, generate, evaluate,"),
        (["evaluate", "digit"], "wavenet evaluate has no command 'digit' (did you mean digits?)"),
    ],
)
def test_a_misspelt_command_is_answered_with_the_nearest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(*arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""


@pytest.mark.parametrize(
    "command",
    ["generate", "evaluate digits", "evaluate vocoder", "export", "play"],
)
def test_each_command_tells_its_usage_by_its_own_name(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(*command.split(), "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: wavenet {command} ")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"wavenet {__version__}\n"


def test_python_m_wavenet_is_the_command(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "wavenet", "generate", "--help"]
    done = subprocess.run(
        program, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: wavenet generate "), "as it was started"
    assert callable(entry)


HELP = """
import sys
from wavenet.commands import main
for command in ("--help", "generate --help", "export --help", "play --help"):
    try:
        main(command.split())
    except SystemExit as end:
        assert end.code == 0
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_help_imports_neither_lightning_nor_pictures() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], env=environment(), capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.splitlines()[-1].split())
    heavy = {"lightning", "matplotlib", "torchaudio", "jsonargparse", "tensorboard", "triton"}
    assert "wavenet" in imported and imported & heavy == set()


# --- play ---


def test_play_is_the_command_of_nam(tmp_path: Path) -> None:
    nam.save(nam.NAM(nam.PRESETS["nano"], sample_rate=48000), tmp_path / "amp.nam")
    save_audio(tmp_path / "in.wav", torch.linspace(-0.5, 0.5, 4800), 48000)
    names = [str(tmp_path / name) for name in ("in.wav", "amp.nam", "out.wav")]
    assert ended("play", *names, "--engine", "torch") == 0
    assert load_audio(tmp_path / "out.wav").shape == (4800,)


# --- export ---


def spoken(folder: Path, *more: str) -> np.ndarray:
    """What run.py says, without this library on its path: 16-bit samples."""
    given = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "run.py", "model.onnx", "out.wav", *more],
        cwd=folder, env=given, check=True, timeout=120,
    )  # fmt: skip
    with wave.open(str(folder / "out.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.mark.parametrize("more", [{}, {"preemphasis": 0.85}])
def test_a_planned_clip_speaks_from_its_file_as_the_engines_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, float]
) -> None:
    sizes = {"layers_per_cycle": 2, "position_hop": 16, **more}
    model = small_model(dtype=torch.float32, labels=LABELS, **sizes)
    model.save_pretrained(tmp_path / "model")
    target = tmp_path / "made" / "model.onnx"
    clip = ["--labels", "digit=1,speaker=bob", "--seconds", "0.01"]
    main(["export", str(tmp_path / "model"), "--onnx", str(target), *clip])
    assert f"hear it: python {target.with_name('run.py')} {target} out.wav" in (
        capsys.readouterr().out
    )
    heard = spoken(target.parent)
    ids = {"digit": torch.tensor([1]), "speaker": torch.tensor([1])}
    uniforms = torch.from_numpy(np.random.default_rng(0).random(80)).float()[None]
    with torch.no_grad():
        condition = model.condition(ids, position=torch.tensor([[0, 80]]), time=80)
        engine = build_engine(model, 1, engine="step", precision="float32")
        expected = model.decode(engine.sample(uniforms, Sampling(), condition))[0].clamp(-1, 1)
    assert len(heard) == 80
    assert float((torch.from_numpy(heard / 32767) - expected).abs().max()) < 1 / 32767


@pytest.fixture
def quick_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the exporter, which takes seconds: the file says what it was given."""

    def export(model: wavenet.WaveNet, path: Path, condition: object) -> None:
        path.write_text(f"{model.receptive_field} {condition}")

    monkeypatch.setattr("wavenet.interop.onnx.export", export)


def test_a_files_own_run_py_is_written_anew_but_no_other(tmp_path: Path, quick_onnx: None) -> None:
    model = small_model(dtype=torch.float32, layers_per_cycle=1, cycles=1)
    model.save_pretrained(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "model.onnx")]
    main(command)
    main(command)
    assert (tmp_path / "run.py").read_bytes() == (
        REPOSITORY / "examples/speak_onnx.py"
    ).read_bytes()
    (tmp_path / "run.py").write_text("print('mine')\n")
    before = (tmp_path / "model.onnx").stat().st_mtime_ns
    assert "'{}' is a file of another kind".format(tmp_path / "run.py") in str(ended(*command))
    assert (tmp_path / "run.py").read_text() == "print('mine')\n"
    assert (tmp_path / "model.onnx").stat().st_mtime_ns == before


def test_what_run_py_cannot_draw_comes_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_onnx: None
) -> None:
    model = small_model(dtype=torch.float32, layers_per_cycle=1, output=MixtureOfLogistics(2))
    model.save_pretrained(tmp_path / "model")
    main(["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "model.onnx")])
    assert capsys.readouterr().out == f"{tmp_path / 'model.onnx'}\n"
    assert not (tmp_path / "run.py").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Nothing is asked for: give --folder DIR, --onnx FILE or --web FOLDER."),
        (["--onnx", "model.pt"], "ONNX files end in .onnx, but got 'model.pt'."),
        (["--onnx", "a.onnx", "--labels", "digit=9"], "Label 'digit' has no category '9'."),
    ],
)
def test_an_export_that_cannot_be_made_is_refused_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_model(dtype=torch.float32, labels=LABELS).save_pretrained("model")
    text = str(ended("export", "model", *arguments))
    assert text.startswith("error: ") and said in text, text
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_vocoder_is_exported_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mel = wavenet.Mel(bands=6, hop=40, window=80)
    small_model(mel=mel).float().save_pretrained("model")
    assert "steered by mel frames" in str(ended("export", "model", "--onnx", "a.onnx"))


@pytest.mark.parametrize(
    ("given", "born"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_threads_of_a_training_sleep_soon_unless_somebody_has_decided(
    given: dict[str, str], born: str, tmp_path: Path
) -> None:
    """Beside other work, threads that look all the time take each other's cores."""
    variables = {name: value for name, value in os.environ.items() if name not in DECIDES}
    (tmp_path / "torch.py").write_text(  # in place of torch: what it would find
        "import os, sys\n"
        "sys.exit(f\"BORN {os.getenv('GOMP_SPINCOUNT')} {os.getenv('OMP_WAIT_POLICY')}\")\n"
    )
    for command in (["-m", "wavenet", "train"], [str(REPOSITORY / "train.py")]):
        done = subprocess.run(
            [sys.executable, *command],
            env={**variables, **given, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stderr.strip() == f"BORN {born}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["trian"]])
def test_the_command_itself_does_not_wait_for_torch(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = subprocess.run(
        [sys.executable, "-m", "wavenet", *arguments],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "torch was imported" not in done.stderr
    assert "wavenet" in done.stdout or "did you mean train?" in done.stderr


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    code = (
        "import sys, wavenet\n"
        "assert 'torch' not in sys.modules\n"
        "missing = [name for name in wavenet.__all__ if not hasattr(wavenet, name)]\n"
        "assert not missing and set(wavenet.__all__) <= set(dir(wavenet)), missing\n"
        "assert wavenet.engines.build_engine and wavenet.testing\n"
        "assert not hasattr(wavenet, 'nothing') and not hasattr(wavenet, '__wrapped__')\n"
        "from wavenet import *\n"
        "assert WaveNet is wavenet.model.WaveNet\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
