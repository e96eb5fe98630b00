"""Owns `LitWaveNet`: the loss, the optimiser, the exact validation.

A batch is what `wavenet.corpus` makes: "audio" (B, before + W + after) int16, see `Framing`, W
targets with what comes around them; "scored" (B, 2), the range of targets with whole context;
"labels", name -> (B,); "position" (B, 2), see `WaveNet.forward`. Knows nothing of files, runs or
pictures.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from wavenet.checkpoints import load_model
from wavenet.conditioning.mel import as_saved, frames_within
from wavenet.corpus import Framing
from wavenet.corpus.checks import require_number
from wavenet.model import Config, WaveNet
from wavenet.outputs import MuLaw, Output, output_from, output_settings
from wavenet.outputs.pcm import FULL_SCALE, encode_emphasised, encode_pcm, encode_scaled_pcm
from wavenet.training.exchange import CorpusFacts, ModelFacts
from wavenet.training.fast import WORTH_COMPILING, FastLoss, Way, warn_of_emulation, ways
from wavenet.training.starting import (
    differences,
    named_other_rate,
    require_same_shape,
    require_scorable,
    take_weights,
)
from wavenet.training.trial import tried
from wavenet.version import __version__

logger = logging.getLogger(__name__)

SCALED = "; float16's loss was scaled by {:.0f}, from now on by half of that"
BITS = 1 / math.log(2)  # per nat
# Steps after which the host looks whether their gradients were finite, by device; elsewhere after
# each. To look is to wait until the device has done all that it was asked to do.
LOOK_EVERY = {"cuda": 50}
NETWORK_SETTINGS = tuple(Config.names())
RANGES = {  # of settings of training
    "learning_rate": (0, 10),
    "weight_decay": (0, 1000),
    "dropout": (0, 0.9),
    "warmup_steps": (0, 10**9),
    "final_lr_ratio": (0, 1),
    "max_nonfinite_steps": (1, 10**9),
}


class LitWaveNet(pl.LightningModule):
    """A WaveNet, its loss in bits per sample, and its optimiser.

    The network is built once the data is known, since its sample rate and labels come from there.

    Args:
        learning_rate: Highest learning rate, reached after the warm-up.
        optimizer: adam or adamw.
        betas: Decay rates of Adam's two moments.
        weight_decay: AdamW's decay; not used by adam.
        dropout: Share of channels left out before each dilated convolution. In training alone,
            whole channels of a clip; see `wavenet.Block`. 0.05 is usual.
        warmup_steps: Steps of linear warm-up.
        final_lr_ratio: Share of the learning rate left at the last step, after a half cosine.
        compile: Run the training step through torch.compile: a minute or two to start, a C++
            compiler needed on CPU. auto: on a GPU only (for CPUs see benchmarks/results/log.md),
            in runs of 4,000 steps and more, which earn that minute; left, with a line in the log,
            where it does not work.
        fused: Run each residual block as one Triton kernel forward and two backward. auto: off,
            until a measurement shows it ahead of compile alone.
        init_from: Start from the weights of a model (a run, its model/ folder, a .ckpt file, a
            bundled name such as fsdd, user/model of the Hub), in its shape. For fine-tuning: of
            categories that both know the rows are kept, others start fresh. To go on with an
            interrupted run, use --ckpt_path.
        max_nonfinite_steps: Stop after so many steps in a row with a loss or gradient that is not
            finite.
        sample_rate: In Hz; taken from the data where none is given.
        labels: Names and categories; taken from the data where none are given.
        unlabelled: Whether labels may be left out; taken from the data (--data.label_dropout) where
            it is not given.
        clip_length: How long clips are, for a model with a position_hop; taken from the data where
            none is given.
        output: The distribution of a sample, a class of `wavenet.outputs` and its settings:
            --model.output MixtureOfLogistics --model.output.mixtures 10. MuLaw(256) where none is
            given. As it stands in a checkpoint, {name: MuLaw, classes: 256}, it is read too.
        network: The other settings of `wavenet.Config`.
    """

    def __init__(
        self,
        learning_rate: float = 1e-3,
        optimizer: Literal["adam", "adamw"] = "adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        dropout: float = 0.0,
        warmup_steps: int = 200,
        final_lr_ratio: float = 0.0,
        compile: bool | Literal["auto"] = "auto",
        fused: bool | Literal["auto"] = "auto",
        init_from: str | None = None,
        max_nonfinite_steps: int = 20,
        sample_rate: int | None = None,
        labels: dict[str, list[str]] | None = None,
        unlabelled: bool | None = None,
        clip_length: dict[str, Any] | None = None,
        output: Output | dict[str, Any] | None = None,
        **network: Any,
    ) -> None:
        super().__init__()
        _require_numbers(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            dropout=dropout,
            warmup_steps=warmup_steps,
            final_lr_ratio=final_lr_ratio,
            max_nonfinite_steps=max_nonfinite_steps,
        )
        betas = _checked_betas(betas)
        output = output_settings(_output(output))  # plain values, as a checkpoint keeps them
        self.save_hyperparameters()
        self._settings = network
        self.wavenet: WaveNet | None = None
        self.nonfinite_steps = 0
        self._nonfinite_in_a_row = 0
        self._unseen: list[tuple[int, Tensor]] = []  # steps, and whether they were dropped (1 or 0)
        self._scored = torch.zeros((), dtype=torch.int64)
        self._loss: Callable[..., Tensor] = training_loss

    @property
    def network(self) -> WaveNet:
        if self.wavenet is None:
            raise RuntimeError(
                "The network is built when training starts or a checkpoint is loaded; call "
                "configure_model."
            )
        return self.wavenet

    @property
    def receptive_field(self) -> int:
        return self.network.receptive_field

    @property
    def model_facts(self) -> ModelFacts:
        """What a data module asks of the model."""
        return ModelFacts(self.receptive_field, self.framing)

    @property
    def framing(self) -> Framing:
        """What a row holds around its targets: for mel, whole frames with their windows."""
        mel, least = self.network.mel, 2 if self.network.config.preemphasis else 1
        if mel is None:
            return Framing(before=least)
        before, after = mel.surroundings
        return Framing(mel.hop, max(before, least), after)

    def configure_model(self) -> None:
        if self.wavenet is not None:
            return
        facts = self._facts()
        others = ("mel", "position_hop", "preemphasis")
        if facts.scaled and any(self._settings.get(name) for name in others):
            raise ValueError(
                "--data.protocol sashimi is for models without mel, position and preemphasis: it "
                "scores clips that are scaled, and that begin after silence. Leave it out, or "
                "leave out --model.mel, --model.position_hop and --model.preemphasis."
            )
        self.wavenet = WaveNet(
            sample_rate=facts.sample_rate,
            labels=facts.labels,
            unlabelled=facts.unlabelled,
            clip_length=facts.clip_length if self._settings.get("position_hop") else None,
            output=output_from(self.hparams["output"]),
            **self._settings,
        )
        for block in self.wavenet.stack.blocks:
            block.dropout = self.hparams["dropout"]
        config = self.wavenet.config
        self.hparams.update({**config.settings(), "output": output_settings(config.output)})

    def check(self, device: torch.device, precision: str) -> None:
        """Raises for a fast path that `device` has not.

        Training would say so too, but not before the run has left a folder.
        """
        self._ways(device, precision)

    def on_fit_start(self) -> None:
        if self.hparams["init_from"] is not None and self.trainer.ckpt_path is None:
            self._take_weights_of(self.hparams["init_from"], named_other_rate)
        if self.trainer.is_global_zero:
            self._describe()
        self._take_the_fast_path()

    def _describe(self) -> None:
        network, steps, warmup = self.network, self.trainer.max_steps, self.hparams["warmup_steps"]
        logger.info(
            "a WaveNet of %s parameters; receptive field %d samples, %.0f ms",
            f"{network.num_parameters:,}",
            network.receptive_field,
            network.receptive_field_ms,
        )
        if 0 < steps <= warmup:
            logger.warning(
                "the warm-up of %d steps (--model.warmup_steps) is as long as the run of %d "
                "(--trainer.max_steps): the learning rate only rises",
                warmup,
                steps,
            )

    def _take_the_fast_path(self) -> None:
        """Compiles the step and fuses the blocks, as the settings say and as they work.

        Validation and the saved network stay plain.
        """
        precision = str(self.trainer.precision)
        trial = partial(tried, network=self.network, device=self.device, precision=precision)
        ladder = self._ways(self.device, precision)
        self._loss = FastLoss(training_loss, self.network, ladder, trial)
        if self.trainer.is_global_zero:
            warn_of_emulation(self.device, precision)
            where, names = (
                f"training on {self.device.type} in {precision}",
                {True: "on", False: "off"},
            )
            compiled, fused = self._loss.way
            logger.info(
                "%s; torch.compile %s, fused blocks %s", where, names[compiled], names[fused]
            )
            if self.device.type == "cuda" and 0 < self.trainer.max_steps < WORTH_COMPILING:
                logger.info(
                    "under %d steps, --model.compile auto does not compile: it takes a minute or "
                    "two; --model.compile true does",
                    WORTH_COMPILING,
                )

    def _ways(self, device: torch.device, precision: str) -> list[Way]:
        trainer = self._trainer
        # of the whole run: a resumed one computes its steps as the one before did
        steps = trainer.max_steps if trainer is not None and trainer.max_steps > 0 else math.inf
        return ways(self.hparams["compile"], self.hparams["fused"], device, precision, steps)

    def _take_weights_of(self, name: str, check: Callable[[WaveNet, WaveNet, str], None]) -> None:
        """check: of this network, the source and its name; what must be, or is named, besides."""
        source = load_model(name)
        require_same_shape(self.network.config, source.config, name)
        check(self.network, source, name)
        take_weights(self.network, source, name)

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "validate":
            self._score_what_is_given()

    def on_test_start(self) -> None:
        self._score_what_is_given()

    def _score_what_is_given(self) -> None:
        name, trained = self.hparams["init_from"], self.trainer.fit_loop.epoch_loop.global_step > 0
        if name is not None and self.trainer.ckpt_path is None and not trained:
            self._take_weights_of(name, require_scorable)

    def _facts(self) -> CorpusFacts:
        """As given, and else as the data has them.

        Sample rate and labels are facts of the corpus: a checkpoint's must be those of the data.
        """
        trainer: Any = self._trainer
        data = trainer.datamodule if trainer is not None else None
        theirs = getattr(data, "facts", None)
        for name in ("sample_rate", "labels"):
            mine, found = self.hparams[name], None if theirs is None else vars(theirs)[name]
            if mine is None and found is None:
                raise ValueError(f"LitWaveNet needs {name}: from a data module, or given.")
            if mine is not None and found is not None and mine != found:
                raise ValueError(
                    f"The model was trained with {name} = {mine}, but this data has {name} = "
                    f"{found}. Use the data settings it was trained with, or train a new model."
                )
        given = {name: self.hparams.get(name) for name in CorpusFacts.__dataclass_fields__}
        alone: dict[str, Any] = {"unlabelled": False, "clip_length": None, "scaled": False}
        found = alone if theirs is None else vars(theirs)
        return CorpusFacts(
            **{name: found[name] if value is None else value for name, value in given.items()}
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        steering = (batch["labels"], self._position(batch), self._mel(batch))
        with self._drawing_of(batch_idx):
            loss = self._loss(self.network, self._samples(batch), batch["scored"], *steering)
        self.log("bits", loss.detach() * BITS)  # the progress bar asks for it when it is drawn
        self._scored = self._scored.to(self.device) + number_scored(batch["scored"])
        self.log("samples_seen", (self._scored * self.trainer.world_size).float())
        return loss

    @contextmanager
    def _drawing_of(self, batch_idx: int) -> Iterator[None]:
        """What dropout draws is decided by the step, so that a resumed run draws the same."""
        if not self.hparams["dropout"]:
            yield
            return
        place = (torch.initial_seed(), self.global_step, batch_idx, self.global_rank)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
            yield

    def _samples(self, batch: Mapping[str, Any]) -> Tensor:
        """(B, W + 1): samples[:, :-1] are inputs and samples[:, 1:] targets."""
        audio, framing = batch["audio"], self.framing
        targets = slice(framing.before - 1, audio.shape[1] - framing.after)
        pcm, output = audio[:, targets], self.network.output
        if coefficient := self.network.config.preemphasis:
            x = audio[:, framing.before - 2 : targets.stop].float() / FULL_SCALE
            return encode_emphasised(output, x[:, 1:], coefficient, before=x[:, :1])
        if "extremes" not in batch:
            return encode_pcm(output, pcm)
        first, length = batch["position"].split(1, dim=1)
        place = first - 1 + torch.arange(pcm.shape[1], device=pcm.device)
        inside = (place >= 0) & (place < length)
        return encode_scaled_pcm(output, pcm, batch["extremes"], inside)

    def _position(self, batch: Mapping[str, Any]) -> Tensor | None:
        return batch["position"] if self.network.position_hop else None

    @torch.no_grad()
    def _mel(self, batch: Mapping[str, Any]) -> Tensor | None:
        """(B, bands, frames) with their context, of the batch's audio."""
        mel = self.network.mel
        if mel is None:
            return None
        unread = self.framing.before - mel.surroundings[0]  # by the first window
        audio = batch["audio"][:, unread:].float() / FULL_SCALE
        return frames_within(mel, audio, batch["position"], self.network.sample_rate)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._score(batch, "val_bits")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._score(batch, "test_bits")

    def _score(self, batch: dict[str, Any], name: str) -> None:
        """Exact bits per scored sample, in float32 whatever the training's precision."""
        codes, scored = self._samples(batch), batch["scored"]
        with torch.autocast(codes.device.type, enabled=False):
            steering = (batch["labels"], self._position(batch), self._mel(batch))
            bits = training_loss(self.network, codes, scored, *steering) * BITS
        self.log(
            name,
            bits,
            on_epoch=True,
            on_step=False,
            prog_bar=True,
            batch_size=int(number_scored(scored)),  # its weight in the mean
            sync_dist=True,
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        settings: dict[str, Any] = {
            "lr": self.hparams["learning_rate"],
            "betas": tuple(self.hparams["betas"]),
        }
        if self.hparams["optimizer"] == "adamw":
            settings["weight_decay"] = self.hparams["weight_decay"]
        # Of a fused optimiser Lightning thinks that it takes gradients scaled: they would be
        # clipped as they are, 65536 times too large.
        fused = self._scaler is None
        optimizer = kinds[self.hparams["optimizer"]](self.parameters(), fused=fused, **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """Of the loss, in 16-mixed: it keeps small gradients from vanishing in float16."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then a half cosine to final_lr_ratio at the last step.

        Constant where there is no last step.
        """
        warmup, floor = self.hparams["warmup_steps"], self.hparams["final_lr_ratio"]
        if step < warmup:
            return (step + 1) / warmup
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total) or total <= warmup:
            return 1.0
        progress = min(1.0, (step - warmup) / (total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the global norm, and drops the step where that norm is not finite.

        On a GPU the optimiser drops it by itself, and the host hears of it up to LOOK_EVERY steps
        later, so that it never waits.
        Under DDP every rank sees the same summed gradients, so all of them drop it together.
        """
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            limit = math.inf
        else:
            limit = gradient_clip_val or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)
        self.log("grad_norm", norm)
        every = LOOK_EVERY.get(self.device.type, 1) if self._scaler is None else 1
        dropped = (norm * 0 != 0).float()
        self._unseen.append((self.trainer.global_step, dropped))
        if every > 1:
            # As a GradScaler tells a fused optimiser to change neither weights nor moments.
            optimizer.found_inf = dropped  # type: ignore[attr-defined]
        elif dropped:
            optimizer.zero_grad(set_to_none=True)  # without gradients it changes nothing either
        if len(self._unseen) >= every:
            self._look()
            if self.nonfinite_steps:
                self.log("nonfinite_steps", float(self.nonfinite_steps))

    def _look(self) -> None:
        """Counts the steps that were dropped since it was called last, and says which they were."""
        unseen, self._unseen = self._unseen, []
        if not unseen:
            return
        steps, flags = zip(*unseen, strict=True)
        for step, dropped in zip(steps, torch.stack(flags).tolist(), strict=True):
            if dropped:
                self._count_nonfinite(step)
            else:
                self._nonfinite_in_a_row = 0

    def _count_nonfinite(self, step: int) -> None:
        self.nonfinite_steps += 1
        self._nonfinite_in_a_row += 1
        scale = "" if self._scaler is None else SCALED.format(self._scaler.get_scale())
        logger.warning(
            "step %d skipped: its loss or gradient is not finite (%d so far, %d in a row)%s",
            step,
            self.nonfinite_steps,
            self._nonfinite_in_a_row,
            scale,
        )
        if self._nonfinite_in_a_row >= self.hparams["max_nonfinite_steps"]:
            raise ValueError(
                f"{self._nonfinite_in_a_row} steps in a row had a loss or gradient that is not "
                "finite. Lower --model.learning_rate, lengthen --model.warmup_steps, or use "
                "--trainer.precision 32-true; the last checkpoint is from before."
            )

    def on_train_end(self) -> None:
        self._look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._look()
        checkpoint["wavenet_version"] = __version__
        checkpoint["samples_seen"] = int(self._scored)
        checkpoint["nonfinite_steps"] = self.nonfinite_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._refuse_other_network(checkpoint["hyper_parameters"])
        for name in ("state_dict", "current_model_state"):  # averaged, and those behind the average
            if name in checkpoint:
                self._refuse_other_weights(checkpoint[name])
        self._scored = torch.tensor(checkpoint["samples_seen"])
        self.nonfinite_steps = checkpoint["nonfinite_steps"]

    def _refuse_other_weights(self, trained: Any) -> None:
        if not isinstance(trained, Mapping) or not all(map(torch.is_tensor, trained.values())):
            raise ValueError(
                f"The checkpoint holds {type(trained).__name__} where weights should be. It is "
                "damaged; use another."
            )
        mine, theirs = (
            {(name, tuple(weight.shape)) for name, weight in weights.items()}
            for weights in (self.state_dict(), trained)
        )
        for name, shape in sorted(mine ^ theirs):
            found = "is" if (name, shape) in theirs else "is not"
            raise ValueError(
                f"The checkpoint's weights are not those of a model of its settings: {name} of "
                f"shape {shape} {found} in it. It is damaged or of another version; use another."
            )

    def _refuse_other_network(self, trained: Mapping[str, Any]) -> None:
        """Tables of other labels may have the same size: they would load, and mean other things."""
        known = {name: value for name, value in trained.items() if name in NETWORK_SETTINGS}
        saved = Config(**as_saved(known))
        for name, mine, theirs in differences(self.network.config, saved, NETWORK_SETTINGS):
            raise ValueError(
                f"The checkpoint was trained with {name} = {theirs}, but here {name} = {mine}. "
                "Use the model and data settings it was trained with (its run's config.yaml), or "
                "train a new model."
            )


def _require_numbers(**settings: float) -> None:
    for name, value in settings.items():
        require_number(f"--model.{name}", value, *RANGES[name])


def _checked_betas(betas: Any) -> tuple[float, float]:
    try:
        first, second = (float(beta) for beta in betas)
    except (TypeError, ValueError):
        first = second = math.nan
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"--model.betas must be two numbers from 0 to below 1, but got {betas!r}.")
    return first, second


def _output(given: Output | Mapping[str, Any] | None) -> Output:
    if given is None:
        return MuLaw()
    return output_from(given) if isinstance(given, Mapping) else given


def training_loss(
    network: WaveNet,
    codes: Tensor,
    scored: Tensor,
    labels: Mapping[str, Tensor],
    position: Tensor | None = None,
    mel: Tensor | None = None,
) -> Tensor:
    """Mean nats per scored sample, of a batch's parts. It is what torch.compile sees whole.

    mel: frames with their context, see `Mel.context`.
    """
    params = network(codes[:, :-1], labels, mel, position, surrounded=True)
    return mean_over_scored(network.output.nats(params, codes[:, 1:]), scored)


def number_scored(scored: Tensor) -> Tensor:
    """scored (B, 2) as [start, end) -> how many samples that is, ()."""
    return (scored[:, 1] - scored[:, 0]).sum()


def mean_over_scored(values: Tensor, scored: Tensor) -> Tensor:
    """values (B, W), scored (B, 2) as [start, end) -> the mean of the values inside the ranges."""
    position = torch.arange(values.shape[1], device=values.device)
    mask = (position >= scored[:, :1]) & (position < scored[:, 1:])
    return torch.where(mask, values, 0).sum() / mask.sum()
