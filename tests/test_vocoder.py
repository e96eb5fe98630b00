"""A vocoder at the command line: mel frames from a recording, a file or a pipe; distances."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import small_model
from test_generate_command import command, samples
from tiny_runs import RATE, REPOSITORY, environment

import wavenet
from wavenet import Mel, WaveNet
from wavenet.audio import load_audio, pcm16, save_audio
from wavenet.conditioning.filterbank import SLANEY
from wavenet.evaluation.distances import log_spectral_distance, measures, mel_cepstral_distortion
from wavenet.frames import piped_frames, read_frames

MEL = Mel(bands=6, hop=40, window=80)


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`python generate.py --checkpoint model ARGS`, in a folder with a vocoder and a recording."""
    monkeypatch.chdir(tmp_path)
    small_model(mel=MEL, sample_rate=RATE).float().save_pretrained("model")
    save_audio("in.wav", some_sound(0.1), RATE)

    def run(*args: object) -> None:
        line = ["generate.py", "--checkpoint", "model", *map(str, args)]
        monkeypatch.setattr(sys, "argv", line)
        command.main()

    return run


def some_sound(seconds: float, seed: int = 0) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * math.pi * 440 * time) + 0.02 * noise


def model_and_frames() -> tuple[WaveNet, torch.Tensor]:
    frames = MEL.spectrogram(load_audio("in.wav", RATE), RATE)
    return WaveNet.from_pretrained("model"), frames


def test_a_recording_is_made_again_from_its_mel_spectrogram_and_compared(
    generate: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    generate("--mel-from", "in.wav", "--out", "out.wav", "--plot", "out.png", "--seed", 3)
    model, frames = model_and_frames()
    expected = wavenet.generate(model, mel=frames, seed=3)[0]
    assert len(expected) == 800
    assert np.array_equal(samples(Path("out.wav")), pcm16(expected).numpy())
    assert Path("out.png").read_bytes()[:4] == b"\x89PNG"
    *_, last = capsys.readouterr().out.splitlines()
    recording = load_audio("in.wav", RATE)
    distances = [
        measure(expected, recording, RATE)
        for measure in (log_spectral_distance, mel_cepstral_distortion)
    ]
    assert last == (
        f"log-spectral distance {distances[0]:.2f} dB, "
        f"mel-cepstral distortion {distances[1]:.2f} dB to the recording"
    )


@pytest.mark.parametrize("kind", ["npy", "pt", "batched.pt"])
def test_frames_come_from_a_file(generate: Callable[..., None], kind: str) -> None:
    model, frames = model_and_frames()
    path = Path(f"mel.{kind}")
    if kind == "npy":
        np.save(path, frames.double().numpy())
    else:
        torch.save(frames[None] if "batched" in kind else frames, path)
    generate("--mel", path, "--out", "out.wav", "--seconds", 0.05)
    expected = wavenet.generate(model, mel=frames, seconds=0.05)[0]
    assert np.array_equal(samples(Path("out.wav")), pcm16(expected).numpy())


@pytest.mark.parametrize("out", ["-", "out.wav"])
def test_frames_come_through_a_pipe(generate: Callable[..., None], out: str) -> None:
    """With --out - too, the samples leave as the frames come."""
    model, frames = model_and_frames()
    line = [sys.executable, str(REPOSITORY / "generate.py"), "--checkpoint", "model"]
    done = subprocess.run(
        [*line, "--mel", "-", "--out", out],
        input=frames.T.contiguous().numpy().tobytes(),
        capture_output=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    made = np.frombuffer(done.stdout, "<i2") if out == "-" else samples(Path("out.wav"))
    assert np.array_equal(made, pcm16(wavenet.generate(model, mel=frames)[0]).numpy())


def test_a_copy_is_matched_to_its_frames(generate: Callable[..., None]) -> None:
    generate("--mel-from", "in.wav", "--out", "out.wav", "--match-mel", 2)
    model, frames = model_and_frames()
    expected = wavenet.generate(model, mel=frames, match_mel=2)[0]
    away = samples(Path("out.wav")).astype(int) - pcm16(expected).numpy()
    assert len(away) == 800 and abs(away).max() <= 1  # pieces add up in another order


@pytest.mark.parametrize("sizes", [[24, 24], [1, 47], [25, 23], [48]])
def test_frames_are_put_together_however_a_pipe_cuts_them(sizes: list[int]) -> None:
    frames = torch.rand(6, 2)
    content, (reader, writer) = frames.T.contiguous().numpy().tobytes(), os.pipe()
    made = []
    pieces = piped_frames(MEL, reader)
    for size in sizes:
        os.write(writer, content[:size])
        content = content[size:]
        if size >= 24:
            made.append(next(pieces))
    os.close(writer)
    made += list(pieces)
    os.close(reader)
    assert torch.equal(torch.cat(made, dim=1), frames)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mel", "x.wav"], r"'x\.wav' is neither a \.npy nor a \.pt file"),
        (["--mel", "x.npy"], r"'x\.npy' is no file"),
        (["--mel", "bands.npy"], r"shape \(5, 9\), but this model takes \(6 bands, frames\)\."),
        (["--mel", "turned.npy"], "It looks transposed"),
        (["--mel", "damaged.npy"], "cannot be read as frames"),
        (["--mel", "code.pt"], "cannot be read as frames"),
        (["--mel", "nan.npy"], "12 values that are NaN or infinite"),
        (["--mel-from", "none.wav"], "does not exist"),
        (["--mel-from", "in.wav", "--mel", "bands.npy"], "give one of them"),
        (["--mel-from", "in.wav", "--seconds", "9"], r"20 frames with a hop of 40: 800 samples"),
        ([], "is conditioned on log mel spectrograms of 6 bands with a hop of 40"),
        (["--mel-from", "in.wav", "--gallery", "g"], "--gallery draws clips of its own"),
    ],
    ids=str,
)
def test_frames_that_cannot_be_used_are_refused_in_one_line(
    generate: Callable[..., None], args: list[str], message: str, tmp_path: Path
) -> None:
    np.save("bands.npy", np.zeros((5, 9), np.float32))
    np.save("turned.npy", np.zeros((9, 6), np.float32))
    np.save("nan.npy", np.full((6, 2), np.nan))
    Path("damaged.npy").write_bytes(b"\x93NUMPY\x01")
    torch.save(Path("code"), "code.pt")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit, match=message) as stopped:
        generate(*args)
    assert str(stopped.value).startswith("error: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_pipe_that_ends_within_a_frame_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, bytes(30))
    os.close(writer)
    pieces = piped_frames(MEL, reader)
    next(pieces)
    with pytest.raises(ValueError, match=r"ended within a frame: 6 bytes, .* 6 bands has 24"):
        next(pieces)
    os.close(reader)


def test_a_model_without_mel_refuses_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("in.wav", np.zeros(100), RATE)
    small_model(sample_rate=RATE).float().save_pretrained("model")
    line = ["generate.py", "--checkpoint", "model", "--mel-from", "in.wav"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit, match="not conditioned on mel spectrograms; leave mel out"):
        command.main()


# --- distances ---


@pytest.mark.parametrize("measure", [log_spectral_distance, mel_cepstral_distortion])
def test_a_distance_is_zero_for_the_same_and_grows_with_noise(
    measure: Callable[[torch.Tensor, torch.Tensor, int], float],
) -> None:
    real = some_sound(0.5)
    noise = some_sound(0.5, seed=9) - some_sound(0.5, seed=8)
    distances = [measure(real + level * noise, real, RATE) for level in (0.0, 0.1, 1.0, 5.0)]
    assert distances[0] == 0 and distances == sorted(distances) and distances[1] > 0.01


def test_a_gain_is_as_many_decibels_and_changes_no_cepstrum() -> None:
    real = torch.randn(RATE, generator=torch.Generator().manual_seed(1)) * 0.1
    assert log_spectral_distance(2 * real, real, RATE) == pytest.approx(6.02, abs=0.01)
    assert mel_cepstral_distortion(2 * real, real, RATE) == pytest.approx(0, abs=1e-4)


def test_cepstral_distortion_is_the_rms_of_a_ripple_in_decibels() -> None:
    """A ripple of 3 dB along the mel bands is 3 / sqrt(2) dB from the flat spectrum."""
    real = torch.randn(2 * RATE, generator=torch.Generator().manual_seed(2)) * 0.1
    mels = [SLANEY.mel(hertz) for hertz in torch.fft.rfftfreq(len(real), 1 / RATE).tolist()]
    share = torch.tensor(mels) / mels[-1]  # 0 to 1 along the bands
    ripple = 3 * torch.cos(2 * torch.pi * share)
    made = torch.fft.irfft(torch.fft.rfft(real) * 10 ** (ripple / 20))
    assert mel_cepstral_distortion(made, real, RATE) == pytest.approx(3 / 2**0.5, rel=0.05)


def test_clips_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the same samples.*\(5,\) and \(6,\)"):
        log_spectral_distance(torch.zeros(5), torch.zeros(6), RATE)


def test_measures_of_packages_are_there_or_named_as_missing() -> None:
    there, missing = measures()
    assert {"LSD", "MCD"} <= set(there) and {*there, *missing} == {
        "LSD", "MCD", "STOI", "PESQ", "ViSQOL",
    }  # fmt: skip


def test_a_file_of_frames_runs_no_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save(Harm(), tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    for name in ("x.pt", "x.npy"):
        with pytest.raises(ValueError, match="cannot be read as frames"):
            read_frames(tmp_path / name, MEL)
    assert not (tmp_path / "harm").exists()


# --- evaluation ---


def test_griffin_lim_is_in_step_with_its_recording() -> None:
    """Moved by a quarter of a hop either way, it fits worse."""
    from wavenet.evaluation.vocoder import griffin_lim

    mel, real = Mel(bands=40, hop=64, window=256), torch.zeros(4000)
    for start in range(200, 4000, 400):  # clicks that ring
        real[start : start + 60] += (
            0.5 * torch.sin(torch.arange(60) * 0.9) * 0.95 ** torch.arange(60)
        )
    made = griffin_lim(mel, mel.spectrogram(real, RATE), RATE)[: len(real)]
    assert made.shape == real.shape
    distances = [
        mel_cepstral_distortion(torch.roll(made, shift), real, RATE) for shift in (-16, 0, 16)
    ]
    assert distances[1] == min(distances)


def test_copies_are_made_in_each_way_and_scored(
    generate: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    from wavenet.evaluation.vocoder import main

    for index in range(3):
        save_audio(f"real/{index}.wav", some_sound(0.05 + 0.013 * index, seed=index), RATE)
    main(["--checkpoint", "model", "--root", "real", "--clips", "2", "--out", "judged"])
    printed = capsys.readouterr().out
    assert [line.split("  ")[0] for line in printed.splitlines()[1:7]] == [
        "model", "model, matched", "Griffin-Lim", "Griffin-Lim, matched", "noise, matched",
        "samples and back",
    ]  # fmt: skip
    scores = json.loads(Path("judged/vocoder.json").read_text())["scores"]
    assert scores["model"]["LSD"]["clips"] == 2
    assert scores["samples and back"]["MCD"]["mean"] < scores["model"]["MCD"]["mean"]
    assert scores["model, matched"]["LSD"] != scores["model"]["LSD"]
    assert Path("judged/vocoder.png").read_bytes()[:4] == b"\x89PNG"


def test_copies_of_a_model_that_cannot_be_matched_are_as_they_are_drawn() -> None:
    from wavenet.evaluation.vocoder import copies

    model = small_model(mel=Mel(bands=6, hop=40, window=60), sample_rate=RATE).float()
    made = copies(model, [some_sound(0.05)])
    assert [*made] == ["model", "Griffin-Lim", "samples and back"]
    with pytest.raises(ValueError, match="overlap by half at least"):
        copies(model, [some_sound(0.05)], passes=1)


def test_the_picture_shows_the_loudest_part_of_a_long_clip() -> None:
    from wavenet.evaluation.vocoder import _loudest

    audio = torch.zeros(1000)
    audio[700:800] = 0.5
    assert _loudest(audio, 100) == slice(700, 800)
    assert len(audio[_loudest(audio, 5000)]) == 1000


def test_a_model_without_mel_is_no_vocoder(tmp_path: Path) -> None:
    from wavenet.evaluation.vocoder import main

    small_model(sample_rate=RATE).float().save_pretrained(tmp_path / "model")
    save_audio(tmp_path / "real" / "0.wav", some_sound(0.05), RATE)
    with pytest.raises(SystemExit, match="error: This model has no mel"):
        main(["--checkpoint", str(tmp_path / "model"), "--root", str(tmp_path / "real")])


@pytest.mark.parametrize(
    ("mel", "clips"),
    [
        (MEL, "--mel-from in.wav --match-mel 10"),
        (Mel(bands=6, hop=40, window=60), "--mel-from in.wav"),
        (Mel(bands=6, hop=40, window=80, given=True), "--mel frames.npy"),
        (None, "--batch 4 --seconds 2"),
    ],
)
def test_a_finished_run_names_the_command_that_makes_a_copy(mel: Mel | None, clips: str) -> None:
    from wavenet.training.cli import summary

    lines = summary(Path("runs/x"), small_model(mel=mel), 4, "3 bits").splitlines()
    (line,) = [line for line in lines if line.startswith("hear more")]
    assert line.endswith(f"generate.py --checkpoint runs/x/model {clips}")
