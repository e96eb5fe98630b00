"""The command `generate.py`: what it reads, what it writes, and what it says where it cannot."""

import base64
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import small_model
from tiny_runs import RATE, REPOSITORY, arguments, environment, start, train, write_corpus

import wavenet
import wavenet.results
from wavenet.audio import load_audio, pcm16
from wavenet.commands import generate as command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run was made, of digits 0 and 1 by speakers a and b. Not written to."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        train(*arguments(write_corpus(place / "corpus")))
    return place / "runs" / "default"


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`python generate.py ARGS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> None:
        monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, args)])
        command.main()

    return run


def samples(path: Path) -> np.ndarray:
    """Of a 16-bit wav at the model's rate, in one channel."""
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.format, info.subtype) == (RATE, 1, "WAV", "PCM_16")
    return soundfile.read(path, dtype="int16")[0]


def expected(folder: Path, seconds: float, **settings: object) -> np.ndarray:
    """What the library gives for the same, as 16-bit samples of each clip."""
    model = wavenet.WaveNet.from_pretrained(folder / "model")
    audio = wavenet.generate(model, seconds=seconds, **settings)  # type: ignore[arg-type]
    return (audio.double() * 32768).round().clamp(-32768, 32767).short().numpy()


# --- what it writes ---


def test_the_command_writes_a_wav_of_the_length_asked_for_and_prints_its_path(
    finished: Path, tmp_path: Path
) -> None:
    args = [
        "--checkpoint",
        str(finished),
        "--seconds",
        "0.1",
        "--labels",
        "digit=1,speaker=a",
        "--seed",
        "3",
    ]
    process = subprocess.run(
        [sys.executable, str(REPOSITORY / "generate.py"), *args],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "generated.wav\n" and "Traceback" not in process.stderr
    heard = samples(tmp_path / "generated.wav")
    assert len(heard) == 800 and len(np.unique(heard)) > 50
    assert np.array_equal(
        heard, expected(finished, 0.1, labels={"digit": "1", "speaker": "a"}, seed=3)[0]
    )


@pytest.mark.parametrize("which", ["", "model", "checkpoints/best.ckpt"])
def test_a_run_its_export_and_its_best_checkpoint_sound_the_same(
    finished: Path, tmp_path: Path, generate: Callable[..., None], which: str
) -> None:
    generate("--checkpoint", finished / which, "--seconds", 0.02, "--out", "x.wav")
    assert np.array_equal(samples(tmp_path / "x.wav"), expected(finished, 0.02)[0])


def test_the_newest_run_is_taken(
    finished: Path, tmp_path: Path, generate: Callable[..., None]
) -> None:
    for name, factor in (("old", 0.0), ("new", 1.0)):
        model = wavenet.WaveNet.from_pretrained(finished / "model")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        model.save_pretrained(tmp_path / "runs" / name / "model")
        time.sleep(0.02)
    generate("--seconds", 0.02)
    assert np.array_equal(
        samples(tmp_path / "generated.wav"), expected(tmp_path / "runs/new", 0.02)[0]
    )
    assert not np.array_equal(
        samples(tmp_path / "generated.wav"), expected(tmp_path / "runs/old", 0.02)[0]
    )


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(
    finished: Path, tmp_path: Path, generate: Callable[..., None]
) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate(
            "--checkpoint", finished, "--seconds", 0.05, "--seed", seed, "--out", f"{name}.wav"
        )
    contents = [(tmp_path / f"{name}.wav").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]


def test_a_batch_is_numbered_files_each_as_its_seed_alone(
    finished: Path,
    tmp_path: Path,
    generate: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    generate(
        "--checkpoint",
        finished,
        "--seconds",
        0.05,
        "--batch",
        3,
        "--seed",
        7,
        "--out",
        "deep/x.wav",
    )
    names = [f"deep/x-{index}.wav" for index in range(3)]
    assert capsys.readouterr().out.split() == names
    for index, name in enumerate(names):
        generate(
            "--checkpoint", finished, "--seconds", 0.05, "--seed", 7 + index, "--out", "one.wav"
        )
        assert (tmp_path / "one.wav").read_bytes() == (tmp_path / name).read_bytes()


def test_earlier_results_are_kept(
    finished: Path, tmp_path: Path, generate: Callable[..., None]
) -> None:
    for batch in (1, 2, 1, 2):
        generate("--checkpoint", finished, "--seconds", 0.01, "--batch", batch)
    names = ["generated.wav", "generated_2-0.wav", "generated_2-1.wav", "generated_3.wav"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *names,
        "generated_4-0.wav",
        "generated_4-1.wav",
    ]


def test_labels_change_what_is_drawn_and_temperature_zero_needs_no_seed(
    finished: Path, tmp_path: Path, generate: Callable[..., None]
) -> None:
    def bytes_of(name: str, *args: object) -> bytes:
        generate("--checkpoint", finished, "--seconds", 0.1, "--out", f"{name}.wav", *args)
        return (tmp_path / f"{name}.wav").read_bytes()

    both = [bytes_of(digit, "--labels", f"digit={digit},speaker=a") for digit in "01"]
    assert both[0] != both[1]
    cold = [
        bytes_of(f"cold{seed}", "--labels=digit=0,speaker=a", "--temperature=0", "--seed", seed)
        for seed in (1, 2)
    ]
    assert cold[0] == cold[1] != both[0]
    assert bytes_of("top", "--labels=digit=0,speaker=a", "--top-k=1") == cold[0]


def test_plot_writes_a_picture_of_every_clip(
    finished: Path,
    tmp_path: Path,
    generate: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    generate("--checkpoint", finished, "--seconds", 0.1, "--batch", 2, "--plot", "pictures/two.png")
    assert capsys.readouterr().out.split()[-1] == "pictures/two.png"
    header = (tmp_path / "pictures/two.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    assert width > 400 and height > 300


# --- the bundled model ---


def test_with_no_run_the_bundled_model_speaks_and_says_so_in_a_line(
    tmp_path: Path, generate: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="wavenet.checkpoints"):
        generate("--labels", "digit=7,speaker=jackson", "--seconds", 0.05, "--engine=torch")
    said = [
        record.getMessage() for record in caplog.records if record.name == "wavenet.checkpoints"
    ]
    assert len(said) == 1 and "bundled model fsdd" in said[0] and "python train.py" in said[0]
    audio = wavenet.generate(
        wavenet.WaveNet.from_pretrained("fsdd"),
        seconds=0.05,
        labels={"digit": "7", "speaker": "jackson"},
        engine="torch",
    )
    assert np.array_equal(samples(tmp_path / "generated.wav"), pcm16(audio[0]).numpy())


def test_clips_of_drawn_lengths_are_written_each_up_to_its_end(
    tmp_path: Path, generate: Callable[..., None]
) -> None:
    generate(
        "--seconds",
        0.01,
        "--labels",
        "digit=7,speaker=jackson",
        "--engine=torch",
        "--out",
        "prompt.wav",
    )
    how = ["--labels", "digit=7,speaker=nicolas", "--prompt", "prompt.wav"]
    generate(*how, "--batch", 2, "--seed", 3, "--out", "some.wav")
    lengths = []
    for index in range(2):
        generate(*how, "--seed", 3 + index, "--out", "one.wav")
        one = samples(tmp_path / "one.wav")
        assert np.array_equal(one, samples(tmp_path / f"some-{index}.wav")) and len(one) > 1000
        lengths.append(len(one))
    assert lengths[0] != lengths[1]


def test_the_bundled_model_is_named_and_a_run_goes_before_it(
    finished: Path, tmp_path: Path, generate: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    wavenet.WaveNet.from_pretrained(finished / "model").save_pretrained(
        tmp_path / "runs" / "mine" / "model"
    )
    generate("--seconds", 0.02, "--out", "run.wav")
    assert np.array_equal(samples(tmp_path / "run.wav"), expected(finished, 0.02)[0])
    assert "bundled" not in caplog.text
    with pytest.raises(
        SystemExit, match=r"error: Label 'digit' has no category '12'.*0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    ):
        generate("--checkpoint", "fsdd", "--labels", "digit=12")


# --- the gallery ---


def test_gallery_writes_one_page_with_a_clip_for_every_combination(
    finished: Path,
    tmp_path: Path,
    generate: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = [
        "--checkpoint",
        finished,
        "--seconds",
        0.05,
        "--temperature",
        0.7,
        "--seed",
        4,
        "--engine=torch",
    ]
    generate(*clip, "--gallery", "deep/out")
    assert capsys.readouterr().out == "deep/out/index.html\n"
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")] == [
        "deep/out/index.html"
    ]
    page = (tmp_path / "deep/out/index.html").read_text()
    sounds = [
        base64.b64decode(text) for text in re.findall(r'"data:audio/wav;base64,([^"]+)"', page)
    ]
    assert len(sounds) == 4, "two digits by two speakers"
    for index, labels in enumerate(
        ["digit=0,speaker=a", "digit=0,speaker=b", "digit=1,speaker=a", "digit=1,speaker=b"]
    ):
        generate(*clip, "--seed", 4 + index, "--labels", labels, "--out", "one.wav")
        assert (tmp_path / "one.wav").read_bytes() == sounds[index]
    generate(*clip, "--gallery", "deep/out", "--labels", "speaker=b")
    assert (tmp_path / "deep/out/index.html").read_text().count("<audio") == 2


# --- prompts ---


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    """A second and a half, stereo, at 44.1 kHz: a tone on the left, silence on the right."""
    tone = 0.8 * np.sin(2 * np.pi * 440 * np.arange(66150) / 44100)
    soundfile.write(tmp_path / "prompt.wav", np.stack([tone, 0 * tone], axis=1), 44100, "PCM_24")
    return tmp_path / "prompt.wav"


def test_a_prompt_of_any_rate_opens_the_result_and_is_gone_on_from(
    finished: Path, tmp_path: Path, prompt: Path, generate: Callable[..., None]
) -> None:
    labels = {"digit": "0", "speaker": "b"}
    generate(
        "--checkpoint",
        finished,
        "--seconds",
        0.05,
        "--prompt",
        prompt,
        "--out",
        "x.wav",
        "--labels=digit=0,speaker=b",
    )
    heard = samples(tmp_path / "x.wav")
    assert len(heard) == 12000 + 400
    opening = load_audio(prompt, RATE)
    codec = wavenet.MuLaw()
    assert np.abs(heard[:12000] / 32768 - codec.decode(codec.encode(opening)).numpy()).max() < 1e-4
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(12000) / RATE)
    assert np.abs(heard[200:11800] / 32768 - tone[200:11800]).max() < 0.02, (
        "mixed down and resampled"
    )
    assert np.array_equal(heard[12000:], expected(finished, 0.05, prompt=opening, labels=labels)[0])
    assert not np.array_equal(heard[12000:], expected(finished, 0.05, labels=labels)[0]), (
        "the prompt is heard"
    )


def test_every_clip_of_a_batch_opens_with_the_prompt(
    finished: Path, tmp_path: Path, prompt: Path, generate: Callable[..., None]
) -> None:
    generate(
        "--checkpoint",
        finished,
        "--seconds",
        0.05,
        "--prompt",
        prompt,
        "--out",
        "x.wav",
        "--batch",
        2,
    )
    one, two = samples(tmp_path / "x-0.wav"), samples(tmp_path / "x-1.wav")
    assert np.array_equal(one[:12000], two[:12000]) and not np.array_equal(one[12000:], two[12000:])


# --- what it says where it cannot ---


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--labels", "digit=9"], r"'9'.*0, 1"),
        (["--labels", "instrument=tuba"], r"instrument.*digit.*speaker"),
        (["--labels", "digit=0,digit"], r"NAME=VALUE"),
        (["--seconds", "0"], r"at least one sample"),
        (["--seconds", "-1"], r"at least one sample"),
        (["--batch", "0"], r"batch_size"),
        (["--temperature", "-1"], r"temperature"),
        (["--top-k", "-1"], r"top_k"),
        (["--top-p", "0"], r"top_p"),
        (["--prompt", "nowhere.wav"], r"nowhere\.wav.*does not exist"),
        (["--mel-from", "nowhere.wav"], "not conditioned on mel spectrograms; leave mel out"),
        (["--checkpoint", "nowhere"], r"nowhere: there is no such model"),
        (["--out", "x.mp3"], r"--out 'x\.mp3' is not a \.wav file"),
        (["--out", "."], r"--out '\.' is a folder"),
        (["--out", "/proc/x.wav"], r"--out '/proc/x\.wav' cannot be written in the folder"),
        (["--plot", "p.jpg"], r"--plot 'p\.jpg' is not a \.png file"),
        (["--plot", "/proc/p.png"], r"--plot '/proc/p\.png' cannot be written in the folder"),
        (["--gallery", "/proc/g"], r"--gallery '/proc/g/index\.html' cannot be written in the"),
        (["--labels", "digit=0,digit=1"], r"has a label twice"),
        (["--labels", "digit=0, digit=1"], r"has a label twice"),
        (["--threads", "100000"], r"--threads must be at least 1 and at most \d+.*\d+ cores"),
        (["--seed", str(2**64)], rf"seed must be from 0 to {2**64 - 1}"),
        (["--seed", str(2**64 - 1), "--batch", "2"], rf"seed must be from 0 to {2**64 - 2}"),
        (["--seed", "-1"], r"seed must be from 0 to"),
        (["--gallery", "g", "--seed", str(2**64 - 3)], rf"seed must be from 0 to {2**64 - 4}"),
        (["--seconds", "1e300"], r"at most \d+, but got seconds=1e\+300"),
        (["--seconds", "1e308"], r"at most \d+, but got seconds=1e\+308"),
        (["--seconds", "1e12"], r"at most \d+, but got seconds=1000000000000"),
        (["--seconds", "1e10"], r"need 640 TB of memory, and this machine has .*--out -"),
        (["--gallery", "g", "--seconds", "1e10"], r"need 2\.56e\+03 PB|need 2\.56 PB"),
        (["--batch", "1000000"], r"batch_size is at most 65536.*seed=65536"),
        (["--checkpoint", ""], r"has no config\.json"),
        (["--gallery", "g", "--out", "a.wav"], r"leave out --out, --batch"),
        (["--gallery", "g", "--batch", "2"], r"leave out --out, --batch"),
        (["--gallery", "g", "--seconds", "inf"], r"a file needs an end"),
        (["--gallery", "g", "--labels", "digit=9"], r"'9'.*0, 1"),
        (["--engine", "fast"], r"fast.*auto"),
        (["--device", "tpu9"], r"--device tpu9.*give cpu"),
        (["--device", "cuda:99"], r"--device cuda:99.*give cpu"),
        (["--device", "meta"], r"--device meta is not available.*give cpu"),
        (["--device", "hpu"], r"--device hpu is not available.*give cpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_message_and_leaves_nothing(
    finished: Path,
    tmp_path: Path,
    generate: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    says: str,
) -> None:
    given = args if args[0] == "--checkpoint" else ["--checkpoint", str(finished), *args]
    with pytest.raises(SystemExit) as stopped:
        generate("--seconds", 0.01, *given)
    message = stopped.value.code if isinstance(stopped.value.code, str) else capsys.readouterr().err
    assert stopped.value.code not in (0, None)
    assert "error: " in message and re.search(says, message), message
    assert list(tmp_path.rglob("*.*")) == []


def test_a_folder_without_any_run_says_what_to_type(
    tmp_path: Path, generate: Callable[..., None]
) -> None:
    with pytest.raises(
        SystemExit, match=r"(?s)no trained model in here yet.*python train\.py.*--checkpoint fsdd"
    ):
        generate("--runs", "here")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_export_is_named(
    finished: Path, tmp_path: Path, generate: Callable[..., None]
) -> None:
    wavenet.WaveNet.from_pretrained(finished / "model").save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        SystemExit, match=r"error: model/model\.safetensors is not a whole safetensors file"
    ):
        generate("--checkpoint", "model")


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, generate: Callable[..., None]
) -> None:
    torch.save(
        {"state_dict": {}, "hyper_parameters": {}, "extra": Payload(tmp_path / "ran")},
        tmp_path / "x.ckpt",
    )
    with pytest.raises(SystemExit, match=r"error: x\.ckpt was refused"):
        generate("--checkpoint", "x.ckpt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "x.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists(), "the payload works where it is let"


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("flags", [["--out=x.mp3"], ["--plot=x.jpg"], ["--gallery=/proc/g"]])
def test_a_wrong_place_is_refused_before_the_model_is_loaded(
    finished: Path,
    generate: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
) -> None:
    monkeypatch.setattr(command, "load_model", lambda source: pytest.fail("it was loaded"))
    with pytest.raises(SystemExit, match="error: --"):
        generate("--checkpoint", finished, *flags)


def test_what_cannot_be_written_in_the_end_is_kept_and_named(
    finished: Path,
    tmp_path: Path,
    generate: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = wavenet.results.write_whole

    def full(path: Path, content: bytes) -> None:
        if Path(path).parent.name == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(wavenet.results, "write_whole", full)
    clip = ["--checkpoint", finished, "--seconds", 0.02]
    with pytest.raises(SystemExit) as stopped:
        generate(*clip, "--batch", 2, "--out", "full/x.wav")
    for index in range(2):
        assert (
            f"'full/x-{index}.wav' could not be written: No space left on device. Free some space "
            f"there, or give another place. What was made is in '{tmp_path}/x-{index}.wav'."
        ) in str(stopped.value.code)
        assert np.array_equal(
            samples(tmp_path / f"x-{index}.wav"), expected(finished, 0.02, seed=index)[0]
        )
    with pytest.raises(SystemExit, match=f"What was made is in '{tmp_path}/index.html'"):
        generate(*clip, "--gallery", "full")
    assert "<audio" in (tmp_path / "index.html").read_text()
    assert capsys.readouterr().out == ""


def test_two_at_once_write_two_files(finished: Path, tmp_path: Path) -> None:
    clip = ["--checkpoint", finished, "--seconds=1", "--engine=cached"]
    both = [start(tmp_path, *clip, f"--seed={seed}", script="generate.py") for seed in (0, 1)]
    texts = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    names = {text.splitlines()[-1] for text in texts}
    assert names == {"generated.wav", "generated_2.wav"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_an_error_while_drawing_leaves_no_empty_file(
    tmp_path: Path, generate: Callable[..., None]
) -> None:
    model = small_model(dtype=torch.float32)
    with torch.no_grad():
        model.head[3].bias.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    for engine in ("naive", "step", "cached", "native", "auto"):
        with pytest.raises(SystemExit, match=r"error: The model's (logits|weight).* not finite"):
            generate("--checkpoint", "broken", "--seconds", 0.01, "--engine", engine)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_picture_of_very_many_clips_shows_the_first(
    finished: Path, tmp_path: Path, generate: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    clip = ["--checkpoint", finished, "--seconds", 0.01]
    generate(*clip, "--batch", 18, "--plot", "p.png")
    assert "the picture shows the first 16 of 18 clips" in caplog.text
    assert len(list(tmp_path.glob("*.wav"))) == 18


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_was_made(
    finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(tmp_path, "--checkpoint", finished, "--seconds=3600", script="generate.py")
    assert process.stdout is not None
    seen = ""
    while "generating:" not in seen:
        character = process.stdout.read(1)
        assert character, seen
        seen += character
    time.sleep(0.3)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert (
        process.returncode == 128 + number
        and "what was made so far is written" in text
        and "Traceback" not in text
    )
    assert 256 <= len(samples(tmp_path / "generated.wav")) < 3600 * RATE


def pipe(cwd: Path, *args: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "generate.py"), *map(str, args), "--out", "-"],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_out_to_stdout_is_the_raw_pcm_of_the_wav(finished: Path, tmp_path: Path) -> None:
    clip = ["--checkpoint", finished, "--seconds", "0.5", "--seed", "3"]
    raw, _ = pipe(tmp_path, *clip).communicate(timeout=60)
    start(tmp_path, *clip, "--out=a.wav", script="generate.py").wait()
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert np.array_equal(np.frombuffer(raw, "<i2"), expected) and len(expected) == RATE // 2


def test_a_stream_without_end_flows_until_ctrl_c_or_until_the_player_leaves(
    finished: Path, tmp_path: Path
) -> None:
    for leave in ("ctrl-c", "close"):
        process = pipe(tmp_path, "--checkpoint", finished, "--seconds", "inf")
        assert process.stdout is not None and process.stderr is not None
        assert len(process.stdout.read(2 * 4 * RATE)) == 2 * 4 * RATE
        if leave == "ctrl-c":
            process.send_signal(signal.SIGINT)
            process.stdout.read()
        process.stdout.close()
        process.wait(timeout=60)
        said = process.stderr.read().decode()
        assert "Traceback" not in said and "Error" not in said
        assert process.returncode == (130 if leave == "ctrl-c" else 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("--out - >&-", 1, "error: --out - writes to stdout, but it is closed"),
        ("--out - > /dev/full", 1, "error: the stream could not be written: No space left on"),
        ("--out a.wav > /dev/full", 1, "error: stdout could not be written: No space left on"),
        ("--out a.wav >&- 2>&-", 0, ""),
        ("--out a.wav | true", 0, "100% of 1,600 samples"),
        ("--help | true", 0, ""),
        ("--out - | head -c 100 > first.pcm", 0, " a second"),
    ],
)
def test_a_stdout_that_takes_nothing_is_a_clear_error_or_a_quiet_end(
    finished: Path, tmp_path: Path, line: str, status: int, says: str
) -> None:
    run = f"{sys.executable} {REPOSITORY}/generate.py --checkpoint {finished} --seconds 0.2 {line}"
    done = subprocess.run(
        ["bash", "-c", f"{run}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (tmp_path / "a.wav").exists() == ("a.wav" in line)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out=-", "--batch=2"], "leave out --batch"),
        (["--out=-", "--plot=a.png"], "leave out --batch and --plot"),
        (["--seconds=inf"], "a file needs an end"),
        (["--seconds=nan"], "a file needs an end"),
        (["--threads=0"], "at least 1"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    finished: Path, tmp_path: Path, args: list[str], said: str
) -> None:
    process = start(tmp_path, "--checkpoint", finished, *args, script="generate.py")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and said in text and "Traceback" not in text


def test_native_without_a_compiler_says_what_to_install(finished: Path, tmp_path: Path) -> None:
    clip = ["--checkpoint", finished, "--seconds=0.05"]
    process = start(
        tmp_path, *clip, "--engine=native", script="generate.py", CXX="no-such-compiler"
    )
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "apt install g++" in text and "Traceback" not in text
    process = start(tmp_path, *clip, script="generate.py", CXX="no-such-compiler")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "engine: cached" in text and "apt install g++" in text
