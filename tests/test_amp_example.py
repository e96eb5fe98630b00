"""The capture of an amplifier: recordings, their alignment, training, export, playing, errors."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from wavenet import testing
from wavenet.audio import read_audio, save_audio
from wavenet.engines import build_streamer
from wavenet.interop import nam

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
from amp import model, pair, play, recordings, train  # noqa: E402

RATE = 48_000
SECONDS = 7.0
QUICK = ["--size", "nano", "--held_out", "0.3", "--epochs", "1", "--batch", "1", "--crop", "4096"]


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of two steps, and pictures in one test alone."""
    monkeypatch.setattr(train, "STEPS", 2)
    if "trains_and_its_file" not in request.node.name:
        monkeypatch.setattr(train, "save_figure", lambda path, figure: None)
        monkeypatch.setattr(train, "overview", lambda *_: None)
        monkeypatch.setattr(train, "error_spectrograms", lambda *_: None)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with input.wav and output.wav of the synthesised amplifier."""
    folder = tmp_path_factory.mktemp("pair")
    pair.main([str(folder), "--seconds", str(SECONDS)])
    return folder


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of four recordings with two knobs."""
    folder = tmp_path_factory.mktemp("knobs")
    pair.main([str(folder), "--seconds", "5", "--settings", "4"])
    return folder / "recordings.csv"


def heard(folder: Path) -> tuple[Tensor, Tensor]:
    return read_audio(folder / "input.wav")[0][0], read_audio(folder / "output.wav")[0][0]


def perturbed(network: nam.NAM) -> nam.NAM:
    """With weights so large that every part counts."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.head_scale = 0.1
    return network


def small_amp(knobs: dict[str, tuple[float, float]] | None = None) -> model.Amp:
    """Of two arrays, as the presets, but of two layers each: a receptive field of 47 samples."""
    torch.manual_seed(1)
    arrays = [
        replace(array, layers=tuple(replace(array.layers[0], dilation=d) for d in dilations))
        for array, dilations in zip(nam.PRESETS["nano"].arrays, ([1, 16], [2, 4]), strict=True)
    ]
    settings = replace(nam.PRESETS["nano"], arrays=tuple(arrays))
    amp = model.Amp.of(settings, RATE, knobs, {"name": "small"})
    perturbed(amp.network)
    return amp.eval()


# Recordings


def test_the_pair_is_two_recordings_of_one_length_within_full_scale(recorded: Path) -> None:
    x, y = heard(recorded)
    assert len(x) == len(y) == SECONDS * RATE
    assert 0.3 < x.abs().max() < 0.95 and 0.2 < y.abs().max() < 0.95
    assert not torch.equal(pair.played(0.5, 0), pair.played(0.5, 1))


def test_nothing_comes_out_before_the_latency_and_the_cabinet_rings_for_20_ms() -> None:
    click = torch.zeros(4000)
    click[100] = 0.01
    still = pair.amplified(torch.zeros(4000))
    answer = (pair.amplified(click) - still).abs()
    assert answer[: 100 + pair.LATENCY].max() < 1e-3 * answer.max() < answer[100 + pair.LATENCY]
    ends = int((answer > 1e-4 * answer.max()).nonzero()[-1])
    assert 0.010 * RATE < ends - 100 - pair.LATENCY < 0.030 * RATE


def test_the_amplifier_is_not_linear_and_not_symmetric() -> None:
    x = pair.played(0.5, 2)
    once, twice = pair.amplified(x), pair.amplified(2 * x)
    assert train.esr(2 * once, twice) > 0.01
    assert train.esr(-once, pair.amplified(-x)) > 0.001


@pytest.mark.parametrize("knobs", [(4, 5), (10, 0), (0, 10)])
def test_the_latency_is_found_wherever_the_knobs_stand(knobs: tuple[float, float]) -> None:
    x = pair.played(10.0, 3)
    y = -pair.amplified(x, *knobs)  # and whichever way round the speaker is
    assert abs(recordings.latency(x, y, RATE) - pair.LATENCY) <= recordings.EARLY


def test_the_latency_is_found_under_noise_and_behind_silence() -> None:
    x = torch.cat([torch.zeros(RATE), pair.played(4.0, 3), torch.zeros(RATE)])
    y = torch.cat([torch.zeros(9000), pair.amplified(x)])[: len(x)]
    y = y + 0.003 * torch.randn(len(y))
    assert abs(recordings.latency(x, y, RATE) - 9000 - pair.LATENCY) <= 3


def test_what_is_removed_leaves_nothing_before_its_cause(recorded: Path) -> None:
    [one] = recordings.read_pair(recorded / "input.wav", recorded / "output.wav", RATE)
    x, y = heard(recorded)
    assert pair.LATENCY - 2 * recordings.EARLY <= one.late <= pair.LATENCY
    assert torch.equal(one.y, y[one.late :]) and torch.equal(one.x, x[: len(x) - one.late])
    [given] = recordings.read_pair(recorded / "input.wav", recorded / "output.wav", RATE, 5)
    assert given.late == 5 and torch.equal(given.y, y[5:])


def test_a_table_gives_every_recording_its_knobs_and_one_latency(turned: Path) -> None:
    found = recordings.read_table(turned, RATE)
    assert [list(one.knobs.values()) for one in found] == [[0, 0], [10, 10], [0, 10], [10, 0]]
    assert len({one.late for one in found}) == 1 and found[0].late <= pair.LATENCY
    assert torch.equal(found[0].x, found[1].x) and not torch.equal(found[0].y, found[1].y)


# Errors


def test_the_error_to_signal_ratio() -> None:
    y = torch.randn(1000)
    assert train.esr(y, y) == 0 and train.esr(0 * y, y) == pytest.approx(1)
    assert train.esr(0.9 * y, y) == pytest.approx(0.01, rel=1e-4)


def wrong(x: Tensor, y: Tensor, name: str) -> tuple[Tensor, Tensor, int, int]:
    """(x, y, their rates) of recordings that cannot be used."""
    stretched = torch.nn.functional.interpolate(y[None, None], scale_factor=1.0003, mode="linear")
    return {
        "44100": (x, y, 44_100, 44_100),
        "two rates": (x, y, RATE, 44_100),
        "length": (x, y[:-7], RATE, RATE),
        "short": (x[:9000], y[:9000], RATE, RATE),
        "swapped": (y, x, RATE, RATE),
        "unrelated": (x, pair.amplified(pair.played(SECONDS, 9)), RATE, RATE),
        "drift": (x, stretched[0, 0, : len(x)], RATE, RATE),
        "dropout": (x, torch.cat([y[: 4 * RATE], y[4 * RATE + 90 :], y[:90]]), RATE, RATE),
        "early": (x, torch.cat([y[500:], 0 * y[:500]]), RATE, RATE),
        "clipped": (x, 9 * y, RATE, RATE),
        "silent": (x, 1e-5 * y, RATE, RATE),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("44100", r"are at 44100 Hz, but the model is for 48000 Hz\. .* --sample_rate 44100\."),
        ("two rates", r"is at 48000 Hz and '.*' at 44100 Hz\. Record both at 48000 Hz"),
        ("length", r"has 336,000 samples and '.*' has 335,993, but both must have the same"),
        ("short", r"lasts 0\.19 s, but at least 3 s are needed"),
        ("swapped", r"it comes \d\d samples before the input\. The files are misaligned, or were"),
        ("unrelated", r"nothing in it answers the input within 24000 samples: .* do not belong"),
        ("drift", r"it drifts: it comes \d+ samples late at the beginning and \d+ at the end"),
        ("dropout", r"it drifts: it comes 3\d samples late .* and -5\d at the end"),
        ("early", r"it comes 46\d samples before the input"),
        ("clipped", r"output\.wav' is clipped: [\d,]+ samples are at full scale"),
        ("silent", r"output\.wav' is silent: its loudest sample is .*, and 0\.0001 is the least"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused(
    recorded: Path, tmp_path: Path, name: str, message: str
) -> None:
    x, y, *rates = wrong(*heard(recorded), name)
    paths = [tmp_path / "input.wav", tmp_path / "output.wav"]
    for path, sound, rate in zip(paths, (x, y), rates, strict=True):
        save_audio(path, sound, rate)
    with pytest.raises(ValueError, match=message):
        recordings.read_pair(*paths, RATE)


def test_nan_and_stereo_are_refused_by_the_files_name(recorded: Path, tmp_path: Path) -> None:
    import soundfile

    x, y = heard(recorded)
    y[500:503] = torch.nan
    soundfile.write(tmp_path / "output.wav", y.numpy(), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"output\.wav' has 3 samples that are NaN or infinite"):
        recordings.read_pair(recorded / "input.wav", tmp_path / "output.wav", RATE)
    soundfile.write(tmp_path / "output.wav", torch.stack([x, x], dim=1).numpy(), RATE)
    with pytest.raises(ValueError, match=r"output\.wav' has 2 channels, but must have one"):
        recordings.read_pair(recorded / "input.wav", tmp_path / "output.wav", RATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row[:2] for row in rows], r"has the columns input, output .* needs input, "),
        (lambda rows: [*rows[:2], rows[2][:3], *rows[3:]], r"line 3: there must be 4 values"),
        (lambda rows: [*rows[:2], [*rows[2][:3], "loud"]], r"tone is 'loud', but must be a number"),
        (lambda rows: rows[:2], r"drive is 0 in all recordings, so there is nothing to learn"),
        (lambda rows: [], r"has the columns \(none\)"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(turned: Path, change, message: str) -> None:
    with turned.open(newline="") as file:
        rows = change(list(csv.reader(file)))
    other = turned.with_name("other.csv")
    with other.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=message):
        recordings.read_table(other, RATE)


def test_recordings_of_two_sessions_are_refused(turned: Path) -> None:
    y = read_audio(turned.with_name("output_01.wav"))[0][0]
    save_audio(turned.with_name("later.wav"), torch.cat([torch.zeros(500), y])[: len(y)], RATE)
    other = turned.with_name("sessions.csv")
    other.write_text(turned.read_text().replace("output_01.wav", "later.wav"))
    with pytest.raises(ValueError, match=r"latencies from \d+ .* to 5\d+ samples \('later\.wav'\)"):
        recordings.read_table(other, RATE)


# The model


def test_crops_have_their_real_context_and_stay_before_the_held_out_part(recorded: Path) -> None:
    [one] = recordings.read_pair(recorded / "input.wav", recorded / "output.wav", RATE)
    crops = train.Crops([one], torch.ones(1), context=99, crop=4096, count=5, seed=3)
    for x, y, knobs, power in (crops[index] for index in range(5)):
        places = (one.y == y[0]).nonzero().flatten().tolist()
        begin = next(i for i in places if torch.equal(one.y[i : i + 4096], y))
        assert torch.equal(x, one.x[begin - 99 : begin + 4096])
        assert knobs.shape == (0, 1) and power == 1
    assert torch.equal(crops[1][0], crops[1][0]) and not torch.equal(crops[1][0], crops[2][0])


def test_valid_outputs_are_those_of_the_whole_with_its_context() -> None:
    amp, x = small_amp({"drive": (0, 10)}), 0.3 * torch.randn(2, 1, 300)
    knobs = torch.tensor([2.0, 9.0]).view(2, 1, 1)
    context = amp.receptive_field - 1
    with torch.no_grad():
        whole = amp(x, knobs)
        assert_close(amp.valid(x, knobs), whole[..., context:])
    with pytest.raises(ValueError, match="fewer than the receptive field of 47"):
        amp.valid(x[..., :context], knobs)


def test_an_amplifier_without_knobs_is_the_network_itself() -> None:
    amp, x = small_amp(), 0.3 * torch.randn(1, 1, 500)
    with torch.no_grad():
        assert torch.equal(amp(x), amp.network(x))
        assert torch.equal(amp(x, torch.zeros(1, 0, 1)), amp.network(x))
    assert amp.condition_channels == 0 and amp.turned({}).shape == (1, 0, 1)


def test_a_model_with_knobs_streams_while_they_move() -> None:
    amp, x = small_amp({"drive": (0, 10), "tone": (-1, 1)}), 0.3 * torch.randn(1, 1, 400)
    knobs = torch.stack([torch.linspace(0, 10, 400), torch.linspace(1, -1, 400)])[None]
    testing.assert_streams(amp, x, knobs)
    testing.assert_causal(amp, x, knobs)
    with torch.no_grad():
        whole, still = amp(x, knobs).flatten(), amp(x, knobs[..., :1]).flatten()
    assert (whole - still).abs().max() > 0.01
    for engine in ("torch", "native"):
        streamer = build_streamer(amp, engine=engine)
        made, took = play.streamed(streamer, x.flatten(), 64, knobs)
        assert_close(made, whole, engine)
        assert len(took) == 7
        streamer = build_streamer(amp, engine=engine)
        assert_close(play.streamed(streamer, x.flatten(), 64, knobs[..., :1])[0], still, engine)


def test_knobs_are_named_and_kept_with_their_ranges(tmp_path: Path) -> None:
    amp = small_amp({"drive": (0, 10), "tone": (-1, 1)})
    nam.save(amp.network, tmp_path / "amp.nam")
    again, x = model.load(tmp_path / "amp.nam"), 0.3 * torch.randn(1, 1, 300)
    assert again.knobs == {"drive": (0, 10), "tone": (-1, 1)}
    knobs = again.turned({"tone": 0.5, "drive": 3})
    assert knobs.flatten().tolist() == [3, 0.5]
    with torch.no_grad():
        assert_close(again(x, knobs), amp(x, knobs))
    with pytest.raises(ValueError, match=r"has the knobs drive, tone, but got the knobs drive\."):
        again.turned({"drive": 3})
    with pytest.raises(ValueError, match="drive is 11, but was recorded from 0 to 10 alone"):
        again.turned({"drive": 11, "tone": 0})


def test_a_network_whose_knobs_nobody_named_is_refused(tmp_path: Path) -> None:
    network = small_amp({"drive": (0, 10)}).network
    network.metadata.clear()
    nam.save(network, tmp_path / "amp.nam")
    with pytest.raises(ValueError, match=r"amp\.nam' cannot be played here: .* takes 1 knobs"):
        model.load(tmp_path / "amp.nam")


def test_the_onnx_file_takes_the_knobs_as_an_input_and_gives_the_same(tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime

    amp, x = small_amp({"drive": (0, 10), "tone": (0, 10)}), 0.3 * torch.randn(1, 1, 192)
    nam.save(amp.network, tmp_path / "amp.nam")
    model.main([str(tmp_path / "amp.nam"), str(tmp_path / "amp.onnx")])
    session = onnxruntime.InferenceSession(tmp_path / "amp.onnx")
    state, made, places = dict(np.load(tmp_path / "amp.npz")), [], [(2, 7), (9, 1), (5, 5)]
    for block, place in zip(x.split(64, dim=-1), places, strict=True):
        knobs = np.array(place, dtype=np.float32).reshape(1, 2, 1)
        y, *new = session.run(None, {"x": block.numpy(), "condition": knobs, **state})
        state = {f"state_{i}": part for i, part in enumerate(new)}
        made.append(torch.from_numpy(y))
    moved = torch.tensor(places).float().repeat_interleave(64, dim=0).mT[None]
    with torch.no_grad():
        assert_close(torch.cat(made, dim=-1), amp(x, moved))


# The commands


def test_a_capture_trains_and_its_file_plays_what_the_model_plays(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "amp"
    pair_of = [str(recorded / "input.wav"), str(recorded / "output.wav")]
    train.main([*pair_of, "--out", str(out), *QUICK, "--name", "mine", "--preemphasis", "0.85"])
    assert "held-out ESR" in capsys.readouterr().out
    files = {path.name for path in out.iterdir()}
    assert files == {"model.nam", "capture.png", "error.png", "best.ckpt", "last.ckpt"}
    loaded = nam.load(out / "model.nam")
    assert loaded.metadata == {"name": "mine"} and loaded.sample_rate == RATE
    best = torch.load(out / "best.ckpt", weights_only=True)["state_dict"]
    inside = {key.removeprefix("amp.network."): value for key, value in best.items()}
    for name, value in loaded.state_dict().items():
        assert_close(value, inside[name], name)

    play.main([pair_of[0], str(out / "model.nam"), str(tmp_path / "out.wav"), "--block", "4096",
               "--against", pair_of[1]])  # fmt: skip
    printed = capsys.readouterr().out
    assert "7.00 s" in printed and "times as fast as real time" in printed and "ESR" in printed
    x, made = read_audio(pair_of[0])[0], read_audio(tmp_path / "out.wav")[0]
    with torch.no_grad():
        assert (loaded(x[None])[0] - made).abs().max() < 1 / 32768


def test_a_run_goes_on_to_the_weights_of_one_without_a_break(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair_of = [str(recorded / "input.wav"), str(recorded / "output.wav")]
    common = [*pair_of, *QUICK, "--stft", "0", "--epochs", "2", "--latency", "33"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    train.main([*common, "--out", str(once)])
    whole_step = train.Capture.training_step

    def cut_off(capture: train.Capture, batch: train.Crop, index: int) -> Tensor:
        if capture.global_step == 3:
            raise RuntimeError("cut off")
        return whole_step(capture, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(train.Capture, "training_step", cut_off)
        with pytest.raises(RuntimeError, match="cut off"):
            train.main([*common, "--out", str(twice)])
    assert not (twice / "model.nam").exists()
    train.main([*common, "--out", str(twice), "--resume"])
    ends = [torch.load(out / "last.ckpt", weights_only=True) for out in (once, twice)]
    assert [end["global_step"] for end in ends] == [4, 4]
    assert ends[0]["history"] == ends[1]["history"] and len(ends[0]["history"]) == 2
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name]), name


def test_one_model_of_many_settings_trains_and_plays_with_knobs_that_move(
    turned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "amp"
    train.main([str(turned), "--out", str(out), *QUICK, "--latency", "33"])
    assert model.load(out / "model.nam").knobs == {"drive": (0, 10), "tone": (0, 10)}
    source = str(turned.with_name("input.wav"))
    command = [source, str(out / "model.nam"), str(tmp_path / "out.wav"), "--block", "4096"]
    play.main([*command, "--knobs", "drive=0:10,tone=5"])
    assert "5.00 s" in capsys.readouterr().out
    for given, message in {
        "drive=3": r"has the knobs drive, tone, but got the knobs drive\.",
        "drive=3:12,tone=5": "drive is 12, but was recorded from 0 to 10 alone",
        "drive,tone=5": "must be like drive=2:9,tone=5",
    }.items():
        with pytest.raises(SystemExit, match=message):
            play.main([*command, "--knobs", given])


def test_the_best_weights_are_kept_and_not_the_last(recorded: Path, tmp_path: Path) -> None:
    pair_of = [str(recorded / "input.wav"), str(recorded / "output.wav")]
    train.main([*pair_of, "--out", str(tmp_path), *QUICK, "--epochs", "3", "--stft", "0",
                "--learning_rate", "0.5", "--latency", "33"])  # fmt: skip
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    errors = [error for *_, error in last["history"]]
    assert len(errors) == 3 and errors[-1] > min(errors)
    args = train.parser().parse_args([*pair_of, *QUICK, "--stft", "0", "--latency", "33"])
    capture = train.Capture(model.load(tmp_path / "model.nam"), train.read(args), args)
    assert capture.held_out_esr() == pytest.approx(min(errors), rel=1e-4)


def test_settings_and_folders_that_do_not_fit_are_refused(recorded: Path, tmp_path: Path) -> None:
    pair_of = [str(recorded / "input.wav"), str(recorded / "output.wav")]
    out, empty = tmp_path / "amp", tmp_path / "empty"
    common = [*pair_of, "--out", str(out), *QUICK, "--stft", "0", "--latency", "33"]
    train.main(common)
    for arguments, message in (
        (common, r"amp' holds a run already\. Go on with it, --resume, or give another --out"),
        ([*common, "--resume", "--batch", "2"], r"has batch 1\. Give the same, or another --out"),
        ([*common, "--out", str(empty), "--resume"], r"There is no '.*last\.ckpt' to go on with"),
        ([*common, "--epochs", "0"], "--epochs must be from 1 to 100000, but is 0"),
        ([*common, "--held_out", "9"], r"lasts 7\.0 s, but with --held_out 9 at least 9\.2 s"),
        ([*common, "--latency", "-3"], "--latency must be from 0 to"),
        ([pair_of[0]], r"Give two recordings, IN\.wav OUT\.wav, or one table, TABLE\.csv, but"),
    ):
        with pytest.raises(SystemExit, match=message):
            train.main(arguments)
    (out / "last.ckpt").write_bytes((out / "last.ckpt").read_bytes()[:-100])
    with pytest.raises(SystemExit, match=r"last\.ckpt.*Begin anew"):
        train.main([*common, "--resume"])


def test_without_auraloss_the_error_says_what_to_install(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "auraloss.freq", None)
    pair_of = [str(recorded / "input.wav"), str(recorded / "output.wav")]
    with pytest.raises(SystemExit, match=r"needs auraloss: pip install .* leave .* --stft 0"):
        train.main([*pair_of, "--out", str(tmp_path), *QUICK])


def test_a_recording_of_another_rate_is_not_played(recorded: Path, tmp_path: Path) -> None:
    nam.save(small_amp().network, tmp_path / "amp.nam")
    save_audio(tmp_path / "in.wav", heard(recorded)[0], 44_100)
    command = [str(tmp_path / name) for name in ("in.wav", "amp.nam", "out.wav")]
    with pytest.raises(
        SystemExit, match="1 channels at 44100 Hz, but the model takes one at 48000"
    ):
        play.main(command)
    with pytest.raises(SystemExit, match="--block must be at least 1, but is 0"):
        play.main([*command, "--block", "0"])
