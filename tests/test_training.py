"""Properties of `wavenet.training`: loss, exact validation, optimiser, skipped steps, averages."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from tiny_corpora import codes_of, encoded
from tiny_runs import (
    RATE,
    VAL_PATTERN,
    differing,
    exact_bits,
    module,
    network,
    trainer,
    write_corpus,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import wavenet
import wavenet.training.module
from wavenet.corpus import Augment
from wavenet.likelihood import nats_per_sample
from wavenet.training.callbacks import WeightAverage, averaged_network
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet, mean_over_scored, training_loss

CLIP_LIMIT = 2000  # longer than every clip, so that a crop is a whole clip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def built(data: AudioDataModule, **settings: Any) -> LitWaveNet:
    """A LitWaveNet with its network, without a trainer."""
    lit = network(sample_rate=RATE, labels=data.labels, **settings)
    lit.configure_model()
    return lit


def loss_of(lit: LitWaveNet, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Tensor:
    lit.trainer = trainer()
    monkeypatch.setattr(lit, "log", lambda *args, **kwargs: None)
    return lit.training_step(batch, 0)


class Recorder(pl.Callback):
    """Copies of the weights, learning rates and optimiser moments as a run goes by."""

    def __init__(self) -> None:
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.moments: list[list[dict[str, Any]]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, lit: Any, batch: Any, batch_idx: int
    ) -> None:
        self.before.append(weights(lit.network))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, lit: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.after.append(weights(lit.network))
        moments = trainer.optimizers[0].state.values()
        self.moments.append(
            [{name: value.clone() for name, value in moment.items()} for moment in moments]
        )
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_batch_start(self, trainer: pl.Trainer, lit: Any, *batch: Any) -> None:
        self.validated.append(weights(lit.network))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def fit(
    data: AudioDataModule, lit: LitWaveNet, *callbacks: pl.Callback, **settings: Any
) -> tuple[pl.Trainer, Recorder]:
    recorder = Recorder()
    runner = trainer(callbacks=[*callbacks, recorder], **settings)
    runner.fit(lit, data)
    return runner, recorder


# --- the loss ---


def test_the_loss_is_bits_per_sample_of_the_same_clips(corpus: Path) -> None:
    data = module(corpus, crop_samples=CLIP_LIMIT, batch_size=8)
    assert len(data.clips("train")) == 8
    lit = network()
    _, recorder = fit(data, lit, max_steps=1, gradient_clip_val=1.0)
    lit.network.load_state_dict(recorder.before[0])
    assert recorder.logged[0]["bits"] == pytest.approx(
        exact_bits(lit.network, data, "train"), rel=1e-5
    )


@pytest.mark.parametrize("position_hop", [0, 16])
def test_a_crop_is_scored_as_the_whole_clip_is_at_the_same_place(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, position_hop: int
) -> None:
    data = module(corpus, crop_samples=100, batch_size=6)
    lit = built(data, position_hop=position_hop)
    stir_positions(lit)
    batch = data.batches(receptive_field=lit.receptive_field)[0]
    assert (batch["scored"][:, 0] > 0).sum() >= 3, "crops from the middle of clips"
    loss = loss_of(lit, batch, monkeypatch)
    whole = [codes_of(data.corpus, clip) for clip in data.clips("train")]
    numbers = [
        {name: torch.tensor([data.labels[name].index(clip.labels[name])]) for name in clip.labels}
        for clip in data.clips("train")
    ]
    nats = []
    for row, (start, stop) in zip(encoded(batch), batch["scored"].tolist(), strict=True):
        wanted = row[1 + start : 1 + stop]
        (found,) = [(i, s) for i, codes in enumerate(whole) for s in places(codes, wanted)]
        index, place = found
        exact = nats_per_sample(lit.network, whole[index][None], numbers[index])[0]
        nats.append(exact[place : place + len(wanted)])
    assert float(loss) == pytest.approx(float(torch.cat(nats).mean()), rel=1e-5)


def stir_positions(lit: LitWaveNet) -> None:
    """They begin at zero, where the position changes nothing."""
    if lit.network.position_embedding is not None:
        for table in lit.network.position_embedding.children():
            nn.init.normal_(table.weight)  # type: ignore[arg-type]


def places(codes: Tensor, wanted: Tensor) -> list[int]:
    windows = (
        codes.unfold(0, len(wanted), 1)
        if len(wanted) <= len(codes)
        else codes.new_zeros(0, len(wanted))
    )
    return torch.nonzero((windows == wanted).all(dim=1)).flatten().tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": None},
            "--model.learning_rate must be a number from 0 to 10, but got No",
        ),
        ({"learning_rate": math.nan}, "learning_rate must be a number from 0 to 10, but got nan"),
        ({"weight_decay": -1}, "--model.weight_decay must be a number from 0 to 1000, but got -1"),
        ({"warmup_steps": True}, "--model.warmup_steps must be a number"),
        ({"max_nonfinite_steps": 0}, "max_nonfinite_steps must be a number from 1 to"),
        ({"betas": (0.9, 1.0)}, "--model.betas must be two numbers from 0 to below 1"),
        ({"betas": 0.9}, "--model.betas must be two numbers from 0 to below 1, but got 0.9"),
    ],
)
def test_settings_of_training_that_cannot_be_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LitWaveNet(sample_rate=8000, labels={}, **settings)


def test_only_scored_positions_have_a_gradient(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(corpus, crop_samples=100, batch_size=6)
    lit = built(data)
    batch = data.batches(receptive_field=lit.receptive_field)[0]
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, logits: Tensor) -> None:
        logits.retain_grad()
        kept.append(logits)

    lit.network.register_forward_hook(keep)
    loss_of(lit, batch, monkeypatch).backward()
    gradient = kept[0].grad
    assert gradient is not None
    touched = gradient.abs().sum(dim=1) > 0
    position = torch.arange(touched.shape[1])
    scored = (position >= batch["scored"][:, :1]) & (position < batch["scored"][:, 1:])
    assert not scored.all() and torch.equal(touched, scored)


def test_what_pads_a_row_changes_neither_loss_nor_gradients(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(corpus, crop_samples=CLIP_LIMIT, batch_size=6)
    lit = built(data)
    batch = data.batches(receptive_field=lit.receptive_field)[0]
    results = []
    for fill in (0, 7, -32768):
        audio = batch["audio"].clone()
        for row, stop in zip(audio, batch["scored"][:, 1].tolist(), strict=True):
            row[stop + 1 :] = fill
        lit.zero_grad()
        loss = loss_of(lit, {**batch, "audio": audio}, monkeypatch)
        loss.backward()
        results.append(
            {
                "loss": loss.detach(),
                **{n: p.grad for n, p in lit.named_parameters() if p.grad is not None},
            }
        )
    assert len(results[0]) == 1 + len(list(lit.parameters()))
    assert not differing(results[0], results[1]) and not differing(results[0], results[2])


def test_the_mean_is_over_scored_values_whatever_the_others_are() -> None:
    values = torch.tensor([[9.0, 1.0, 2.0, 9.0], [5.0, float("nan"), float("inf"), 9.0]])
    assert float(mean_over_scored(values, torch.tensor([[1, 3], [0, 1]]))) == pytest.approx(
        (1 + 2 + 5) / 3
    )


# --- validation ---


@pytest.mark.parametrize("val_batch_size", [1, 3, 16])
@pytest.mark.parametrize(
    ("precision", "position_hop"), [("32-true", 0), ("bf16-mixed", 0), ("bf16-mixed", 16)]
)
def test_validation_is_exact_for_every_batch_size_and_precision(
    corpus: Path, val_batch_size: int, precision: str, position_hop: int
) -> None:
    data = module(corpus, val_batch_size=val_batch_size)
    lit = network(position_hop=position_hop)
    runner = trainer(precision=precision, limit_val_batches=None)
    (metrics,) = runner.validate(lit, data, verbose=False)
    stir_positions(lit)
    with torch.no_grad():
        for (
            parameter
        ) in lit.network.parameters():  # away from the start, where all codes are about as likely
            parameter.mul_(3)
    (later,) = runner.validate(lit, data, verbose=False)
    assert later["val_bits"] == pytest.approx(exact_bits(lit.network, data, "val"), rel=1e-5)
    assert abs(later["val_bits"] - metrics["val_bits"]) > 0.01


def test_the_training_step_does_run_in_bfloat16_where_asked(corpus: Path) -> None:
    """Otherwise the test above would say nothing."""
    bits = []
    for precision in ("32-true", "bf16-mixed"):
        _, recorder = fit(module(corpus), network(), max_steps=1, precision=precision)
        bits.append(recorder.logged[0]["bits"])
    assert bits[0] != bits[1] and bits[0] == pytest.approx(bits[1], rel=0.02)


def test_the_test_split_is_scored_exactly(corpus: Path) -> None:
    data = module(corpus, test_pattern=r"_3\.wav$", val_batch_size=1)
    lit = network()
    (metrics,) = trainer().test(lit, data, verbose=False)
    assert metrics["test_bits"] == pytest.approx(exact_bits(lit.network, data, "test"), rel=1e-5)


# --- the optimiser ---


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine(corpus: Path) -> None:
    lit = network(learning_rate=0.01, warmup_steps=4, final_lr_ratio=0.1)
    _, recorder = fit(module(corpus), lit, max_steps=10)
    wanted = [0.25, 0.5, 0.75, 1.0, 1.0, 0.9397114, 0.775, 0.55, 0.325, 0.1602886]
    assert recorder.rates == pytest.approx([0.01 * factor for factor in wanted], rel=1e-5)


def test_the_learning_rate_stays_where_no_last_step_is_known(corpus: Path) -> None:
    lit = network(learning_rate=0.01, warmup_steps=2)
    _, recorder = fit(module(corpus), lit, max_steps=-1, max_time={"seconds": 1})
    assert recorder.rates[:4] == pytest.approx([0.005, 0.01, 0.01, 0.01])
    assert set(recorder.rates[4:]) == {0.01}


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adamw_shrinks_weights_without_a_gradient_and_adam_leaves_them(
    corpus: Path, optimizer: str
) -> None:
    data = module(corpus)
    lit = network(optimizer=optimizer, weight_decay=0.5, warmup_steps=0, learning_rate=0.01)
    _, recorder = fit(data, lit, max_steps=1)
    batch = data.batches(receptive_field=lit.receptive_field)[0]
    unused = sorted(set(range(256)) - set(encoded(batch).flatten().tolist()))
    assert len(unused) > 20
    before, after = (
        recorded[0]["embedding.weight"][unused] for recorded in (recorder.before, recorder.after)
    )
    torch.testing.assert_close(
        after, before * (1 - 0.01 * 0.5 if optimizer == "adamw" else 1), rtol=1e-6, atol=0
    )


# --- steps that are not finite ---


class Poisoned(LitWaveNet):
    """Its loss is not a number in the given batches."""

    bad: tuple[int, ...] = ()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if batch_idx in self.bad else loss


def poisoned(*bad: int, **settings: Any) -> Poisoned:
    lit = Poisoned(**network(**settings).hparams)
    lit.bad = bad
    return lit


@pytest.mark.parametrize("gradient_clip_val", [None, 1.0])
def test_a_step_that_is_not_finite_changes_nothing_is_counted_and_the_run_goes_on(
    corpus: Path, gradient_clip_val: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    lit = poisoned(2, 3, 5)
    with caplog.at_level(logging.WARNING, logger="wavenet.training"):
        _, recorder = fit(module(corpus), lit, max_steps=8, gradient_clip_val=gradient_clip_val)
    unchanged = [
        not differing(before, after)
        for before, after in zip(recorder.before, recorder.after, strict=True)
    ]
    assert unchanged == [False, False, True, True, False, True, False, False]
    for now, then in zip(recorder.moments[3], recorder.moments[1], strict=True):
        assert now and not differing(now, then)
    assert lit.nonfinite_steps == 3
    assert [logged.get("nonfinite_steps") for logged in recorder.logged] == [
        None,
        None,
        1,
        2,
        2,
        3,
        3,
        3,
    ]
    assert [record.message.split(" skipped")[0] for record in caplog.records] == [
        "step 2",
        "step 3",
        "step 5",
    ]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_device_that_is_not_waited_for_drops_the_same_steps(
    optimizer: str,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The optimiser drops them by itself, and the host hears of them later."""
    ends = []
    for looks in ({}, {"cpu": 3}):
        monkeypatch.setattr(wavenet.training.module, "LOOK_EVERY", looks)
        lit = poisoned(2, 3, 5, 7, optimizer=optimizer)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="wavenet.training"):
            fit(module(corpus), lit, max_steps=8, gradient_clip_val=1.0)
        assert lit.nonfinite_steps == 4
        said = [record.getMessage() for record in caplog.records]
        ends.append((lit.network.state_dict(), said))
    assert not differing(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] and len(ends[0][1]) == 4
    lit = poisoned(0, 1, 2, 3, 4, 5, max_nonfinite_steps=4)
    with pytest.raises(ValueError, match=r"4 steps in a row"):
        fit(module(corpus), lit, max_steps=8)


class Asked(TorchDispatchMode):
    """Counts how often a tensor's value is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class AskedByStep(pl.Callback):
    def __init__(self, asked: Asked) -> None:
        self.asked, self.steps = asked, list[int]()

    def on_train_batch_start(self, *_: Any) -> None:
        self.steps.append(self.asked.times)
        self.asked.times = 0


def test_a_step_asks_for_no_value_of_a_device(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With averaged weights and clipping, as train.py has them, between two lines of the log."""
    monkeypatch.setattr(wavenet.training.module, "LOOK_EVERY", {"cpu": 50})
    asked = Asked()
    steps = AskedByStep(asked)
    with asked:
        callbacks = (steps, WeightAverage(0.9))
        fit_alone = trainer(
            callbacks=list(callbacks), max_steps=7, log_every_n_steps=50, gradient_clip_val=1.0
        )
        fit_alone.fit(network(), module(corpus))
    assert steps.steps[4:7] == [0, 0, 0]


def test_many_steps_in_a_row_that_are_not_finite_stop_the_run_with_advice(corpus: Path) -> None:
    lit = poisoned(1, 3, 4, 5, max_nonfinite_steps=3)
    with pytest.raises(ValueError, match=r"3 steps in a row.*--model\.learning_rate"):
        fit(module(corpus), lit, max_steps=8)
    assert lit.nonfinite_steps == 4


# --- float16, whose gradients are scaled ---


def in_float16() -> dict[str, Any]:
    """Of a trainer. Lightning takes bfloat16 on a CPU, unless the plugin itself is given."""
    return {"plugins": [MixedPrecision("16-mixed", device="cpu")]}


class Norms(pl.Callback):
    """The norm of all gradients as it was logged, and as the optimiser got them."""

    def __init__(self) -> None:
        self.applied: list[float] = []
        self.logged: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, lit: Any, *_: Any) -> None:
        self.logged.append(float(trainer.callback_metrics["grad_norm"]))
        gradients = [p.grad for p in lit.parameters() if p.grad is not None]
        self.applied.append(float(torch.nn.utils.get_total_norm(gradients)))


@pytest.mark.parametrize("clip", [None, 0.01])
def test_float16_trains_on_the_gradients_of_float32(corpus: Path, clip: float | None) -> None:
    """Neither the scale of the loss nor the clipping of scaled gradients is left in them."""
    exact, half = Norms(), Norms()
    fit(module(corpus), network(), exact, max_steps=3, gradient_clip_val=clip)
    fit(module(corpus), network(), half, max_steps=3, gradient_clip_val=clip, **in_float16())
    assert half.logged == pytest.approx(exact.logged, rel=0.02)
    assert half.applied == pytest.approx(exact.applied, rel=0.02)
    assert clip is None or min(exact.logged) > clip, "otherwise nothing is clipped"


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_overflows_float16_is_skipped_and_the_scale_halved(
    corpus: Path, clip: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    lit = poisoned(0, 2)
    with caplog.at_level(logging.WARNING, logger="wavenet.training"):
        runner, recorder = fit(
            module(corpus), lit, max_steps=4, gradient_clip_val=clip, **in_float16()
        )
    unchanged = [
        not differing(before, after)
        for before, after in zip(recorder.before, recorder.after, strict=True)
    ]
    assert unchanged == [True, False, True, False]
    assert lit.nonfinite_steps == 2
    assert [record.message for record in caplog.records] == [
        "step 0 skipped: its loss or gradient is not finite (1 so far, 1 in a row); "
        "float16's loss was scaled by 65536, from now on by half of that",
        "step 2 skipped: its loss or gradient is not finite (2 so far, 1 in a row); "
        "float16's loss was scaled by 32768, from now on by half of that",
    ]
    assert runner.precision_plugin.scaler.get_scale() == 16384  # type: ignore[attr-defined]


# --- averaged weights ---


def test_the_average_is_the_exponential_one_and_is_what_a_run_ends_with(corpus: Path) -> None:
    lit = network()
    runner, recorder = fit(module(corpus), lit, WeightAverage(decay=0.2), max_steps=4)
    average = recorder.after[0]
    for share, current in zip(
        (2 / 11, 0.2, 0.2), recorder.after[1:], strict=True
    ):  # of the old; 2 / 11 to warm up
        average = {name: share * average[name] + (1 - share) * current[name] for name in average}
    exported = averaged_network(runner, lit).state_dict()
    for name, value in average.items():
        torch.testing.assert_close(exported[name], value, rtol=1e-6, atol=1e-7)
    assert differing(exported, recorder.after[-1])
    assert not differing(exported, lit.network.state_dict())


def test_the_average_is_validated_and_training_goes_on_with_the_others(corpus: Path) -> None:
    lit, average = network(), WeightAverage(decay=0.5)
    _, recorder = fit(
        module(corpus),
        lit,
        average,
        max_steps=4,
        limit_val_batches=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    share = 2 / 11  # of the first weights in the second average
    first, second = recorder.after[:2]
    expected = {name: share * value + (1 - share) * second[name] for name, value in first.items()}
    assert len(recorder.validated) == 2
    for name, value in expected.items():
        torch.testing.assert_close(recorder.validated[0][name], value, rtol=1e-6, atol=1e-7)
    assert differing(recorder.validated[0], recorder.after[1])
    assert not differing(recorder.before[2], recorder.after[1])


class Reads(TorchDispatchMode):
    """Counts the values that the host looks at: on a GPU it waits for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_the_average_is_updated_without_waiting_for_the_device(corpus: Path) -> None:
    lit, average = network(), WeightAverage()
    fit(module(corpus), lit, average, max_steps=2)
    averaged = average._average_model
    with Reads() as reads:
        for _ in range(3):
            averaged.update_parameters(lit)
    assert reads.count == 0
    assert int(averaged.n_averaged) == 5


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_no_share_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"ema.decay .* got {decay}"):
        WeightAverage(decay=decay)


# --- compiling, and what comes from the data ---


def test_a_compiled_network_trains_on_the_same_losses_and_saves_the_same_names(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    compile_function = torch.compile

    def eager(function: Any) -> Any:
        compiled.append(function)
        return compile_function(function, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    runs = []
    for flag in (False, True):
        lit = network(compile=flag)
        _, recorder = fit(module(corpus), lit, WeightAverage(decay=0.5), max_steps=3)
        runs.append((recorder, lit))
    (plain, _), (fast, _) = runs
    assert compiled == [training_loss]
    assert [logged["bits"] for logged in plain.logged] == pytest.approx(
        [logged["bits"] for logged in fast.logged]
    )
    assert plain.after[-1].keys() == fast.after[-1].keys()


def test_a_run_says_which_fast_paths_it_takes_and_on_a_cpu_takes_none_by_itself(
    corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="wavenet.training"):
        fit(module(corpus), network(), max_steps=1)
    said = [record.message for record in caplog.records if record.name == "wavenet.training.module"]
    assert said[-1] == "training on cpu in 32-true; torch.compile off, fused blocks off"
    assert said[0].endswith("parameters; receptive field 9 samples, 1 ms") and len(said) == 3


def test_fused_blocks_without_a_gpu_are_refused(corpus: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--model\.fused true: .* on cpu\. Use --model\.fused auto"
    ):
        fit(module(corpus), network(fused=True), max_steps=1)


def test_sample_rate_and_labels_come_from_the_data(corpus: Path) -> None:
    lit = network()
    fit(module(corpus, sample_rate=4000), lit, max_steps=1)
    assert lit.network.sample_rate == 4000
    assert lit.network.labels == {"digit": ["0", "1"], "speaker": ["a", "b"]}


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"sample_rate": 16000}, "sample_rate = 16000, but this data has sample_rate = 8000"),
        (
            {"labels": {"digit": ["7", "8"]}},
            "trained with labels = .*'7'.* but this data has labels = .*'speaker'",
        ),
    ],
)
def test_data_with_other_facts_than_the_model_is_refused(
    corpus: Path, facts: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        fit(module(corpus), network(**facts), max_steps=1)


def test_a_network_needs_its_facts_from_somewhere() -> None:
    with pytest.raises(ValueError, match="needs sample_rate"):
        network().configure_model()
    with pytest.raises(RuntimeError, match="built when training starts"):
        _ = network().network


def test_a_network_is_built_once(corpus: Path) -> None:
    lit = built(module(corpus, val_pattern=VAL_PATTERN))
    first = lit.network
    lit.configure_model()
    assert lit.network is first


def test_training_may_start_from_a_saved_model_and_going_on_does_not_need_it(
    corpus: Path, tmp_path: Path
) -> None:
    first = network()
    fit(module(corpus), first)
    first.network.save_pretrained(tmp_path / "model")
    data = module(corpus)
    again = network(init_from=str(tmp_path / "model"))
    start = trainer(max_steps=0)
    start.fit(again, datamodule=data)
    assert not differing(weights(again.network), weights(first.network))
    run = trainer(max_steps=2)
    run.fit(network(init_from=str(tmp_path / "model")), datamodule=data)
    run.save_checkpoint(tmp_path / "two.ckpt")
    (tmp_path / "model").rename(tmp_path / "gone")
    trainer(max_steps=4).fit(
        network(init_from=str(tmp_path / "model")), datamodule=data, ckpt_path=tmp_path / "two.ckpt"
    )
    other = network(init_from=str(tmp_path / "gone"), skip_channels=16)
    with pytest.raises(ValueError, match=r"other settings.*skip_channels 16, there 8"):
        trainer(max_steps=1).fit(other, datamodule=data)


# --- dropout ---


def test_dropout_is_for_training_and_a_resumed_run_draws_what_the_uninterrupted_one_draws(
    corpus: Path, tmp_path: Path
) -> None:
    changes = {"augment": Augment(gain_db=6.0, speed=0.05), "label_dropout_each": 0.2}
    data, states = module(corpus, **changes), []

    def run(share: float, steps: int) -> tuple[LitWaveNet, pl.Trainer]:
        lit = network(dropout=share)
        runner, _ = fit(data, lit, max_steps=steps, accumulate_grad_batches=2)
        states.append(torch.get_rng_state())
        return lit, runner

    (plain, _), (whole, _), (_, half) = run(0.0, 4), run(0.3, 4), run(0.3, 2)
    assert torch.equal(states[0], states[1])  # nothing else is drawn from the step's numbers
    assert differing(weights(plain.network), weights(whole.network))
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = network(dropout=0.3)
    torch.rand(7)  # whatever else has been drawn
    trainer(max_steps=4, accumulate_grad_batches=2).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "half.ckpt"
    )
    assert not differing(weights(whole.network), weights(resumed.network))


def test_dropout_out_of_range_and_with_fused_blocks_is_refused(corpus: Path) -> None:
    with pytest.raises(ValueError, match=r"--model.dropout must be a number from 0 to 0\.9"):
        network(dropout=1.0)
    lit = built(module(corpus), dropout=0.1)
    kernels = pytest.importorskip("wavenet.training.kernels")
    with pytest.raises(ValueError, match=r"has no dropout, but block 0 has one of 0\.1.*dropout 0"):
        kernels.fuse(lit.network)


# --- what a model learns from its corpus before training ---


def test_lengths_and_left_out_labels_are_taken_from_the_data_and_saved(
    corpus: Path, tmp_path: Path
) -> None:
    data, lit = module(corpus, label_dropout=0.5), network(position_hop=16)
    fit(data, lit, max_steps=2)
    assert lit.network.unlabelled and lit.network.clip_length == data.clip_length
    lit.network.save_pretrained(tmp_path)
    saved = wavenet.WaveNet.from_pretrained(tmp_path)
    assert saved.config == lit.network.config and saved.position_hop == 16 and saved.unlabelled
    plain = network()
    fit(module(corpus), plain, max_steps=1)
    assert (
        not plain.network.unlabelled
        and plain.network.clip_length is None
        and not plain.network.position_hop
    )
