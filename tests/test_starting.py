"""Weights that a run starts from, and those that are scored: shape, rows, one resolver."""

import logging
from pathlib import Path

import pytest
import torch
from tiny_runs import (
    arguments,
    exact_bits,
    finished_run,
    module,
    prepared_corpus,
    train,
    write_corpus,
)

import wavenet
from wavenet.training.starting import take_weights

SHAPE = ("cycles", "layers_per_cycle", "residual_channels", "gate_channels", "skip_channels")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    place = tmp_path_factory.mktemp("finished")
    return finished_run(place, corpus, "--samples.count=0", ema__decay=0.5)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(labels: dict[str, list[str]] | None, seed: int) -> wavenet.WaveNet:
    torch.manual_seed(seed)
    return wavenet.WaveNet(1, 3, 2, 4, 4, 8, labels=labels, condition_channels=4)


def scored(text: str) -> float:
    line = next(line for line in text.splitlines() if "val_bits" in line)
    return float(line.split()[-1])


# --- what is scored ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["validate", "test"])
def test_random_weights_are_not_scored(corpus: Path, here: Path, command: str) -> None:
    with pytest.raises(SystemExit, match=rf"{command} needs the weights .* give --ckpt_path"):
        train(command, *arguments(corpus))


def test_a_run_its_checkpoint_its_export_and_init_from_are_scored_alike(
    corpus: Path, run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for weights in (
        f"--ckpt_path={run}",
        f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}",
        f"--ckpt_path={run / 'model'}",
        f"--model.init_from={run / 'model'}",
        f"--model.init_from={run / 'checkpoints' / 'best.ckpt'}",
    ):
        train("validate", weights)
        found.append(scored(capsys.readouterr().out))
    assert found == pytest.approx([found[0]] * 5, rel=1e-6)
    model = wavenet.WaveNet.from_pretrained(run / "model")
    exact = exact_bits(model, module(corpus), "val")
    assert found[0] == pytest.approx(exact, rel=1e-5)


def test_a_model_is_not_scored_on_labels_that_it_does_not_know(
    run: Path, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_corpus(tmp_path_factory.mktemp("other"), digits="02")
    with pytest.raises(SystemExit, match=r"cannot be scored on this data"):
        train("validate", *arguments(other), f"--model.init_from={run / 'model'}")


def test_an_export_is_nothing_to_go_on_with(run: Path, here: Path) -> None:
    with pytest.raises(SystemExit, match=r"weights alone.*--model.init_from"):
        train(f"--ckpt_path={run / 'model'}")
    with pytest.raises(SystemExit, match=r"there is no such model"):
        train("validate", "--ckpt_path=nowhere")


def test_a_folder_of_test_clips_alone_is_scored(
    corpus: Path, run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = arguments(corpus, data__val_pattern="null", data__test_pattern=".")
    train("test", *settings, f"--ckpt_path={run / 'model'}")
    assert "test_bits" in capsys.readouterr().out


def test_without_test_clips_validate_is_proposed(corpus: Path, run: Path, here: Path) -> None:
    with pytest.raises(SystemExit, match=r"no test clips.*python train.py validate"):
        train("test", *arguments(corpus), f"--ckpt_path={run}")


# --- what a run starts from -------------------------------------------------------------------


def test_fine_tuning_takes_the_models_shape_and_keeps_the_rows_of_known_categories(
    run: Path,
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    mine = write_corpus(tmp_path_factory.mktemp("mine"), digits="120")
    settings = [each for each in arguments(mine) if not any(name in each for name in SHAPE)]
    start = (f"--model.init_from={run / 'model'}", "--model.learning_rate=0", "--ema.decay=0")
    train(*settings, *start, "--samples.count=0")
    assert "label digit: kept: 0, 1; fresh: 2" in caplog.text
    assert "the model has the shape of" in caplog.text
    tuned = wavenet.WaveNet.from_pretrained(here / "runs" / "default" / "model")
    before = wavenet.WaveNet.from_pretrained(run / "model")
    assert tuned.labels["digit"] == ["0", "1", "2"]
    assert all(getattr(tuned.config, each) == getattr(before.config, each) for each in SHAPE)
    theirs = dict(before.named_parameters())
    for name, weight in tuned.named_parameters():
        rows = 2 if name == "label_embedding.tables.0.weight" else None
        assert torch.equal(weight[:rows], theirs[name]), name
    table, other = (model.label_embedding.tables[0].weight for model in (tuned, before))
    assert torch.equal(table[:2], other)
    train("--ckpt_path=last", "--trainer.max_steps=5")  # without the model that it started from


def test_rows_follow_their_categories_in_another_order() -> None:
    source = small({"digit": ["0", "1", "2"], "speaker": ["a", "b"]}, 0)
    network = small({"speaker": ["b", "c", "a"], "digit": ["2", "0"]}, 1)
    fresh = network.label_embedding.tables[0].weight[1].clone()
    take_weights(network, source, "x")
    speaker, digit = (table.weight for table in network.label_embedding.tables)
    digits, speakers = (table.weight for table in source.label_embedding.tables)
    assert torch.equal(speaker, torch.stack([speakers[1], fresh, speakers[0]]))
    assert torch.equal(digit, digits[[2, 0]])
    assert torch.equal(network.head[-1].weight, source.head[-1].weight)


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_can_be_gained_and_lost(labelled: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with_labels, without = {"digit": ["0", "1"]}, None
    source = small(without if labelled else with_labels, 0)
    network = small(with_labels if labelled else without, 1)
    take_weights(network, source, "x")
    assert ("start fresh" if labelled else "its labels left out: digit") in caplog.text
    assert torch.equal(network.input.weight, source.input.weight)


def test_a_shape_on_the_command_line_that_is_not_the_models_is_refused(
    corpus: Path, run: Path, here: Path
) -> None:
    with pytest.raises(SystemExit, match=r"has another --model.residual_channels than the command"):
        train(*arguments(corpus, model__residual_channels=6), f"--model.init_from={run / 'model'}")


def test_another_sample_rate_is_named_in_training_and_refused_in_scoring(
    corpus: Path, run: Path, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, rate = f"--model.init_from={run / 'model'}", "--data.sample_rate=4000"
    train(*arguments(corpus, trainer__max_steps=1), start, rate, "--samples.count=0")
    assert "was trained at 8000 Hz, and this data is at 4000 Hz" in caplog.text
    with pytest.raises(SystemExit, match=r"Give --data.sample_rate 8000"):
        train("validate", *arguments(corpus), start, rate)
