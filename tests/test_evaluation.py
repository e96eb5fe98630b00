"""Properties of the evaluation: reading and generating clips, a small corpus end to end, errors."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import small_model
from tiny_runs import write_corpus

import wavenet.results
from wavenet import WaveNet
from wavenet.evaluation.clips import (
    HELD_OUT_PATTERN,
    TRAINING_PATTERN,
    Clips,
    end_as,
    generate_clips,
    read_clips,
    through_codec,
)
from wavenet.evaluation.digits import SEEDS, first_seed, main

DIGITS, SPEAKERS = ["0", "1", "2"], ["a", "b"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges of tiny corpora do not belong into the user's cache."""
    monkeypatch.setenv("WAVENET_CACHE", str(tmp_path_factory.mktemp("cache")))


def model(**settings: object) -> WaveNet:
    return small_model(
        dtype=torch.float32, **{"labels": {"digit": DIGITS, "speaker": SPEAKERS}, **settings}
    )


def corpus(root: Path) -> Path:
    return write_corpus(root, digits="012", takes=12)


def test_real_clips_are_cut_padded_and_labelled_in_the_models_order(tmp_path: Path) -> None:
    net = model(labels={"speaker": SPEAKERS[::-1], "digit": ["2", "1", "0"]})
    # takes 10 (speaker a) and 11 (speaker b) of three digits
    clips = read_clips(net, corpus(tmp_path), TRAINING_PATTERN, 0.3)
    assert clips.audio.shape == (6, 2400)
    assert clips.labels["digit"].tolist() == [2, 2, 1, 1, 0, 0]
    assert clips.labels["speaker"].tolist() == [1, 0] * 3
    assert clips.audio[:, :1770].abs().amax(1).min() > 0.3
    assert clips.audio[:, 1950:].abs().max() == 0
    coded = through_codec(clips, net)
    assert 0 < (coded.audio - clips.audio).abs().max() < 0.02
    assert torch.equal(net.codec.encode(coded.audio), net.codec.encode(clips.audio))
    assert len(read_clips(net, tmp_path, HELD_OUT_PATTERN, 0.1).audio) == 15
    assert clips.lengths.tolist() == [
        800 + 97 * take + 31 * digit for digit in (0, 1, 2) for take in (10, 11)
    ]
    assert read_clips(net, tmp_path, TRAINING_PATTERN, 0.1).lengths.tolist() == [800] * 6


def test_every_digit_by_every_speaker_is_generated_and_all_clips_differ() -> None:
    clips = generate_clips(model(), 2, 60, seed=5, engine="torch")
    cells = [*zip(clips.labels["digit"].tolist(), clips.labels["speaker"].tolist(), strict=True)]
    assert cells == sorted(cells) and len(set(cells)) == 6
    assert all(cells.count(cell) == 2 for cell in cells)
    assert clips.audio.shape == (12, 60) and len(clips.audio.unique(dim=0)) == 12


def test_generated_clips_can_end_where_real_ones_of_their_labels_do() -> None:
    real_labels = {"digit": torch.tensor([0, 0, 1, 2]), "speaker": torch.tensor([0, 0, 0, 1])}
    real = Clips(torch.zeros(4, 9), torch.tensor([3, 5, 9, 7]), real_labels)
    # There is no real clip (2, 0): any real length is used.
    labels = {"digit": torch.tensor([0, 0, 1, 2]), "speaker": torch.tensor([0, 0, 0, 0])}
    ended = end_as(Clips(torch.ones(4, 9), torch.full((4,), 9), labels), real, silence=0.25)
    assert ended.lengths.tolist() == [3, 5, 9, 7]
    for audio, length in zip(ended.audio, (3, 5, 9, 7), strict=True):
        assert (audio[:length] == 1).all() and (audio[length:] == 0.25).all()


def test_batches_do_not_change_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate_clips(model(), 1, 40, seed=1, engine="torch")
    monkeypatch.setattr("wavenet.generation.AT_ONCE", 4)
    assert torch.equal(generate_clips(model(), 1, 40, seed=1, engine="torch").audio, whole.audio)


def test_a_model_with_clip_lengths_draws_them_and_silence_follows() -> None:
    prior = {"log_mean": 4.0, "log_std": 0.4, "offsets": {"digit": [0.0] * 3, "speaker": [0.0] * 2}}
    net = model(position_hop=16, clip_length=prior)
    clips = generate_clips(net, 3, 60, seed=1, engine="torch")
    assert clips.audio.shape == (18, 60)
    assert int(clips.lengths.max()) == 60 and len(clips.lengths.unique()) > 5
    for clip, length in zip(clips.audio, clips.lengths.tolist(), strict=True):
        assert len(clip[length:].unique()) <= 1 and len(clip[:length].unique()) > 5


def test_the_command_prints_a_table_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model().save_pretrained(tmp_path / "model")
    places = [
        f"--checkpoint={tmp_path / 'model'}",
        f"--root={corpus(tmp_path / 'corpus')}",
        f"--out={tmp_path / 'out'}",
    ]
    main(
        [
            *places,
            "--clips-per-cell=2",
            "--seconds=0.1",
            "--epochs=2",
            "--real-lengths",
            "--engine=torch",
            "--temperature=0.9",
        ]
    )
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    sets = {"training", "held_out", "held_out_coded", "generated"}
    judges = {"vote", "log-mel CNN", "waveform CNN", "MFCC nearest"}
    assert [sum(row) for row in result["confusion"]] == [4, 4, 4]
    assert set(result["accuracy"]) == set(result["scores"]) == sets
    for name in sets:
        for label in ("digit", "speaker"):
            heard = result["accuracy"][name][label]
            assert set(heard) == judges
            assert all(x["low"] <= x["right"] / x["total"] <= x["high"] for x in heard.values())
    for label, total in (("digit", 4), ("speaker", 6)):
        for judge in judges:
            each, whole = result["each"][label][judge], result["accuracy"]["generated"][label]
            assert [one["total"] for one in each] == [total] * (12 // total)
            assert sum(one["right"] for one in each) == whole[judge]["right"]
    assert (
        sum(result["confusion"][n][n] for n in range(3))
        == (result["accuracy"]["generated"]["digit"]["vote"]["right"])
    )
    assert result["scores"]["training"]["fid"] < 1e-3 < result["scores"]["generated"]["fid"]
    assert result["settings"]["temperature"] == 0.9 and result["settings"]["split"] == "report"
    assert result["distances"]["generated"]["minimum"] > 0
    for picture in ("clips.png", "confusion.png", "accuracy.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("generated", "FID", "mIS", "nearer than", "95%"))
    assert (
        printed.index("held out ") < printed.index("held out, coded") < printed.index("generated")
    )


def test_the_seeds_of_the_splits_have_none_in_common() -> None:
    tune, report = (
        {first_seed(split, seed, 10) + i for seed in (0, SEEDS - 10) for i in range(10)}
        for split in ("tune", "report")
    )
    assert max(tune) < min(report) == SEEDS and max(report) == 2 * SEEDS - 1
    with pytest.raises(ValueError, match="seed must be from 0 to 999990, as the 10 clips of a"):
        first_seed("tune", SEEDS - 9, 10)
    with pytest.raises(ValueError, match="A split of seeds is tune or report, but got 'test'"):
        first_seed("test", 0, 10)


def test_invalid_input_is_refused_with_what_to_do(tmp_path: Path) -> None:
    root = corpus(tmp_path)
    with pytest.raises(
        ValueError, match=r"'_99' matches no wav file under .* Change the pattern or --root"
    ):
        read_clips(model(), root, "_99", 0.1)
    with pytest.raises(
        ValueError, match=r"gives the speaker 'b', and the model knows a\. Change the pattern"
    ):
        read_clips(model(labels={"digit": DIGITS, "speaker": ["a"]}), root, HELD_OUT_PATTERN, 0.1)
    with pytest.raises(ValueError, match=r"gives the digit None"):
        read_clips(model(), root, HELD_OUT_PATTERN, 0.1, label_pattern="(?P<speaker>[ab])")
    for call in (
        lambda net: read_clips(net, root, HELD_OUT_PATTERN, 0.1),
        lambda net: generate_clips(net, 1, 9),
    ):
        with pytest.raises(ValueError, match=r"no label speaker; its labels are \['digit'\]"):
            call(model(labels={"digit": DIGITS}))
    with pytest.raises(ValueError, match=r"'_\(' is not a regular expression: "):
        read_clips(model(), root, "_(", 0.1)
    with pytest.raises(
        ValueError,
        match="at least one clip of each digit by each speaker, but got clips_per_cell=0",
    ):
        generate_clips(model(), 0, 9)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--out=afile"],
            r"--out 'afile/evaluation\.json' cannot be written in the folder 'afile'",
        ),
        (["--out=/proc/x"], r"--out '/proc/x/evaluation\.json' cannot be written in the folder"),
        (["--root=nowhere"], "--root 'nowhere' is not a folder"),
        (["--root=afile"], "--root 'afile' is not a folder"),
        (["--seconds=-1"], r"--seconds must be a number and give.*but got -1\.0 at 8000 Hz"),
        (["--seconds=nan"], r"--seconds must be a number.*nan"),
        (["--seconds=inf"], r"--seconds must be a number.*inf"),
        (["--seconds=1e12"], r"clips of 1e\+12 s need .* PB of memory, and this machine has"),
        (["--seconds=1e300"], r"clips of 1e\+300 s need .* PB of memory"),
        (["--seconds=1e308"], r"clips of 1e\+308 s need .* PB of memory"),
        (
            ["--clips-per-cell=1000000000"],
            "has 1,000,000 seeds.*but 6,000,000,000 clips were asked",
        ),
        (["--clips-per-cell=0"], "at least one clip"),
        (["--epochs=0"], "at least one epoch, but got 0"),
        ([f"--seed={2**64}"], "seed must be from 0 to"),
        (["--seed=999995"], "seed must be from 0 to 999994, as the 6 clips"),
        (["--seed=-1"], "seed must be from 0 to"),
        (["--training-pattern=0_a_10"], "at least 2 training clips.*widen --training-pattern"),
        (["--held-out-pattern=0_b_7"], "at least 2 held-out clips.*widen --held-out-pattern"),
        (["--label-pattern=("], r"'\(' is not a regular expression"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").touch()
    model().save_pretrained("model")
    corpus(tmp_path / "corpus")
    monkeypatch.setattr("wavenet.generation.stream", lambda *_, **__: pytest.fail("it was drawn"))
    how = ["--checkpoint=model", "--root=corpus", "--clips-per-cell=1", "--seconds=0.1"]
    with pytest.raises(SystemExit) as stopped:
        main([*how, *flags])
    assert re.search(f"^error: .*{says}", str(stopped.value.code)), stopped.value.code


def test_files_that_cannot_be_written_in_the_end_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model().save_pretrained("model")
    corpus(tmp_path / "corpus")
    write = wavenet.results.write_whole

    def full(path: Path, content: bytes) -> None:
        if Path(path).parent.name == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(wavenet.results, "write_whole", full)
    with pytest.raises(SystemExit, match=r"'full/evaluation\.json' could not be written: No space"):
        main(
            [
                "--checkpoint=model",
                "--root=corpus",
                "--clips-per-cell=1",
                "--seconds=0.1",
                "--epochs=1",
                "--engine=cached",
                "--out=full",
            ]
        )
    assert {path.name for path in tmp_path.iterdir()} == {
        "model",
        "corpus",
        "evaluation.json",
        "clips.png",
        "confusion.png",
        "accuracy.png",
    }


def test_clips_in_both_sets_are_refused(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "model")
    with pytest.raises(
        SystemExit,
        match=r"error: 30 clips match both --training-pattern and --held-out-pattern, such as "
        r".*Change the patterns so that no clip matches both\.",
    ):
        main(
            [
                f"--checkpoint={tmp_path / 'model'}",
                f"--root={corpus(tmp_path / 'c')}",
                "--training-pattern=_[0-9]",
                "--held-out-pattern=_[0-9]\\.wav",
            ]
        )
