"""What a run tells in plain files and in the log, and that it ends with a validation."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_runs import RATE, arguments, exact_bits, module, prepared_corpus, train

import wavenet
from wavenet.training import records
from wavenet.training.callbacks import loudest_part
from wavenet.training.records import COLUMNS, read_metrics


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bits_of(run: Path, corpus: Path) -> float:
    """Exact, of the export, over all validation clips."""
    return exact_bits(wavenet.WaveNet.from_pretrained(run / "model"), module(corpus), "val")


def test_the_metrics_of_every_step_and_validation_are_in_a_table_whatever_logs(
    corpus: Path, here: Path
) -> None:
    train(*arguments(corpus), "--trainer.logger=false", "--samples.count=0")
    run = here / "runs" / "default"
    rows = read_metrics(run / "metrics.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["step"] for row in rows if row["bits"]] == ["1", "2", "3", "4"]
    assert [row["step"] for row in rows if row["val_bits"]] == ["2", "4"]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    seen = [int(row["samples_seen"]) for row in rows]
    assert seen == sorted(seen) and seen[0] > 0
    best = min(float(row["val_bits"]) for row in rows if row["val_bits"])
    assert best == pytest.approx(bits_of(run, corpus), rel=1e-4)
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "held_out.tsv").read_text().splitlines() == [
        f"val\t{clip.path}" for clip in module(corpus).clips("val")
    ]


def test_a_run_that_goes_on_keeps_its_rows_and_its_time(corpus: Path, here: Path) -> None:
    settings = (*arguments(corpus), "--samples.count=0")
    train(*settings)
    run = here / "runs" / "default"
    table = run / "metrics.csv"
    before = read_metrics(table)
    with table.open("a") as file:  # of steps behind the checkpoint, and one that a kill cut short
        file.write("5,1.0,9,9.0,,,\n6,2.")
    train(*settings, "--ckpt_path=last", "--trainer.max_steps=6")
    after = read_metrics(table)
    assert after[: len(before)] == before
    assert [row["step"] for row in after if row["bits"]] == ["1", "2", "3", "4", "5", "6"]
    assert float(after[len(before)]["seconds"]) > float(before[-1]["seconds"])
    assert all(row["bits"] != "9.0" for row in after)


@pytest.mark.parametrize("steps", [3, 5])
def test_a_run_ends_with_a_validation_wherever_its_last_step_falls(
    corpus: Path, here: Path, steps: int
) -> None:
    train(*arguments(corpus, trainer__max_steps=steps), "--samples.count=0")
    rows = read_metrics(here / "runs" / "default" / "metrics.csv")
    assert [int(row["step"]) for row in rows if row["val_bits"]] == [*range(2, steps, 2), steps]


def test_a_run_of_epochs_ends_with_a_validation(corpus: Path, here: Path) -> None:
    epochs = ("--trainer.max_steps=-1", "--trainer.max_epochs=2", "--trainer.val_check_interval=99")
    train(*arguments(corpus), *epochs, "--samples.count=0")
    rows = read_metrics(here / "runs" / "default" / "metrics.csv")
    last = max(int(row["step"]) for row in rows)
    assert [int(row["step"]) for row in rows if row["val_bits"]] == [last]


def test_validations_score_a_part_and_the_end_scores_the_whole(
    corpus: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    # without an average, the last weights are those of the export if they are the best
    settings = arguments(corpus, ema__decay=0, trainer__max_steps=2)
    train(*settings, "--data.val_seconds=0.3", "--samples.count=0")
    assert "(--data.val_seconds); the whole is scored at the end" in caplog.text
    whole = bits_of(here / "runs" / "default", corpus)
    rows = read_metrics(here / "runs" / "default" / "metrics.csv")
    assert abs(float(rows[-1]["val_bits"]) - whole) > 1e-4, "a part is another figure"
    assert (
        f"validation    {whole:.3f} bits per sample (uniform: 8.000) over"
        in capsys.readouterr().out
    )


def test_a_warm_up_as_long_as_the_run_is_named(
    corpus: Path, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(*arguments(corpus, model__warmup_steps=4), "--samples.count=0")
    assert "the warm-up of 4 steps (--model.warmup_steps) is as long as the run of 4" in caplog.text


def test_a_few_held_out_clips_are_named_in_the_log(
    corpus: Path, here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(records, "FEW", 4)
    train(*arguments(corpus), "--samples.count=0")
    names = ", ".join(clip.path for clip in module(corpus).clips("val"))
    assert f"held out for validation: 4 clips, {names}" in caplog.text


def test_the_loudest_part_of_a_clip_is_found() -> None:
    audio = torch.zeros(4 * RATE)
    audio[2 * RATE + 100 : 3 * RATE + 100] = 0.5
    assert loudest_part(audio, RATE) == 2 * RATE + 100
    assert loudest_part(audio[:RATE], RATE) == 0 and loudest_part(audio[:9], RATE) == 0
