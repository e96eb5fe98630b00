"""The capture of an amplifier: its pair, its latency, its training, its export, its errors."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile
import torch

from wavenet.audio import load_audio, save_audio
from wavenet.interop import nam

AMP = Path(__file__).parent.parent / "examples" / "amp"


def example(name: str) -> ModuleType:
    """A file of examples/amp as a module amp_NAME; `train` is another module's name."""
    spec = importlib.util.spec_from_file_location(f"amp_{name}", AMP / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pair, train, play = example("pair"), example("train"), example("play")
import recordings  # noqa: E402  # train has put its folder on the path

RATE = pair.RATE


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    pair.main([str(folder), "--seconds", "2"])
    return folder


def told(*arguments: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        train.main([str(argument) for argument in arguments])
    return str(stopped.value)


def test_the_pair_is_two_recordings_of_one_take(recorded: Path) -> None:
    x, y = (load_audio(recorded / f"{name}.wav", RATE) for name in ("input", "output"))
    assert len(x) == len(y) == 2 * RATE and 0.1 < y.abs().max() < 0.95
    assert not bool(y[: pair.LATENCY - 1].any()), "the output is late"
    assert not torch.equal(pair.played(1.0, 0), pair.played(1.0, 1))


@pytest.mark.parametrize("drive", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("late", [0, 1, 700])
def test_the_latency_is_found_and_nothing_comes_before_its_cause(drive: float, late: int) -> None:
    x = pair.played(2.0, 3)
    y = torch.nn.functional.pad(pair.amplified(x, drive), (late, 0))[: len(x)]
    found = recordings.latency(x, y, RATE)
    assert 0 <= pair.LATENCY + late - found <= 3


def test_a_capture_learns_is_gone_on_with_and_its_file_makes_the_same_audio(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(train, "STEPS", 3)
    monkeypatch.setattr(train, "SCORED", 2048)
    sizes = ("--size", "nano", "--batch", "2", "--held_out", "0.5", "--stft", "0.0002")
    files = (str(recorded / "input.wav"), str(recorded / "output.wav"), "--out", str(tmp_path))
    train.main([*files, *sizes, "--epochs", "1"])
    first = torch.load(tmp_path / "last.ckpt", weights_only=True)
    train.main([*files, *sizes, "--epochs", "2", "--resume"])
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (first["global_step"], last["global_step"]) == (3, 6)
    assert "held-out ESR" in capsys.readouterr().out
    assert (tmp_path / "capture.png").read_bytes().startswith(b"\x89PNG")
    model = nam.load(tmp_path / "model.nam")
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    own = nam.NAM(nam.PRESETS["nano"], RATE)
    own.load_state_dict({name.removeprefix("model."): x for name, x in best.items()})
    x = load_audio(recorded / "input.wav", RATE)[None, None, :9000]
    with torch.no_grad():
        assert torch.allclose(model(x), own(x), atol=1e-6)
    play.main([str(recorded / "input.wav"), str(tmp_path / "model.nam"), str(tmp_path / "o.wav")])
    assert "times as fast as real time; a block lasts 1.33 ms" in capsys.readouterr().out
    with torch.no_grad():
        whole = model(load_audio(recorded / "input.wav", RATE)[None, None])[0, 0]
    assert torch.allclose(load_audio(tmp_path / "o.wav", RATE), whole.clamp(-1, 1), atol=1e-4)


def test_crops_are_the_same_whenever_they_are_asked_for() -> None:
    x = torch.arange(60_000.0)
    one, other = (train.Crops(x, x, 100, 4, epoch=2) for _ in range(2))
    for index in range(4):
        (a, b), (c, _) = one[index], other[index]
        assert torch.equal(a, c) and torch.equal(a[100:], b)
    assert not torch.equal(one[0][0], train.Crops(x, x, 100, 4, epoch=3)[0][0])


def test_the_error_to_signal_ratio() -> None:
    y = torch.randn(1000)
    assert train.esr(y, y) == 0 and train.esr(0 * y, y) == 1
    assert train.esr(0.9 * y, y) == pytest.approx(0.01, rel=1e-4)


def test_a_whole_context_gives_the_outputs_of_forward() -> None:
    model, x = nam.NAM(nam.PRESETS["nano"]), torch.randn(1, 1, 5000)
    with torch.no_grad():
        made = model.valid(x)
        assert made.shape[-1] == 5000 - model.receptive_field + 1
        assert torch.allclose(made, model(x)[..., model.receptive_field - 1 :], atol=1e-6)
    with pytest.raises(ValueError, match="fewer than the receptive field of 4093"):
        model.valid(x[..., :4000])


# --- errors -----------------------------------------------------------------------------------


def test_recordings_at_another_rate_are_refused(recorded: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.wav"
    save_audio(slow, torch.rand(9000) / 2, 44_100)
    message = told(slow, slow)
    assert "at 44100 Hz, and the model is to be at 48000 Hz" in message
    assert "--sample_rate 44100" in message
    assert "at 44100 Hz" in told(recorded / "input.wav", slow)


def test_recordings_of_different_lengths_are_refused(recorded: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    save_audio(short, load_audio(recorded / "output.wav", RATE)[:-100], RATE)
    message = told(recorded / "input.wav", short)
    assert "96,000 samples and" in message and "95,900" in message


def test_misaligned_recordings_are_refused_by_the_offset(recorded: Path, tmp_path: Path) -> None:
    early = tmp_path / "early.wav"
    y = load_audio(recorded / "output.wav", RATE)
    save_audio(early, torch.nn.functional.pad(y[500:], (0, 500)), RATE)
    message = told(recorded / "input.wav", early)
    assert re.search(r"comes 46[3-6] samples before the input", message)


def test_recordings_that_drift_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "HEARD", 1.0)
    x = pair.played(4.0, 3)
    y = pair.amplified(x)
    y = torch.cat([y[: 2 * RATE], y[2 * RATE - 40 : -40]])
    with pytest.raises(
        ValueError, match=r"drift apart: .* 3[4-6] samples late .* and 7[3-6] at the end"
    ):
        recordings.latency(x, y, RATE)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.randn(2 * RATE) / 9, "do not belong together"),
        (torch.zeros(2 * RATE), "is silent"),
        (torch.sin(torch.arange(2 * RATE) / 9) * 2, "is clipped: "),
    ],
)
def test_an_output_that_cannot_be_learned_is_refused(
    recorded: Path, tmp_path: Path, output: torch.Tensor, message: str
) -> None:
    save_audio(tmp_path / "y.wav", output, RATE)
    assert message in told(recorded / "input.wav", tmp_path / "y.wav")


def test_nan_stereo_short_recordings_and_no_run_to_go_on_with_are_refused(
    recorded: Path, tmp_path: Path
) -> None:
    files = (recorded / "input.wav", recorded / "output.wav")
    bad = tmp_path / "nan.wav"
    soundfile.write(bad, torch.full((2 * RATE,), float("nan")).numpy(), RATE, subtype="FLOAT")
    assert "NaN" in told(files[0], bad)
    soundfile.write(bad, torch.rand(2 * RATE, 2).numpy() / 2, RATE)
    assert "has 2 channels" in told(files[0], bad)
    assert "at least" in told(*files, "--held_out", "1.9")
    assert "Leave out --resume" in told(*files, "--held_out", "0.5", "--out", tmp_path, "--resume")


def test_without_auraloss_it_is_said_what_to_do(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "auraloss.freq", None)
    files = (recorded / "input.wav", recorded / "output.wav", "--held_out", "0.5")
    message = told(*files, "--out", tmp_path)
    assert "pip install 'wavenet-torch[amp]'" in message and "--stft 0" in message
