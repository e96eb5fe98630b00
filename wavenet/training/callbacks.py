"""Owns what runs beside the training loop: averaged weights, checkpoints, signals, samples, export.

Knows nothing of losses, data or the command line.
"""

import io
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from wavenet.audio import save_audio
from wavenet.files import write_whole
from wavenet.generation import draw_labels, generate, seconds_of
from wavenet.model import WaveNet
from wavenet.plotting import plot_clips, titles_of
from wavenet.training.advice import how_to_go_on
from wavenet.training.module import LitWaveNet, number_scored
from wavenet.training.stopping import Stopped, handle, restore
from wavenet.trials import reason_of

logger = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar without a version number, and with the right total and rate when resumed."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def on_train_start(self, *_: Any) -> None:
        super().on_train_start()
        self._count_from_resumed_step()

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self._count_from_resumed_step()

    def _count_from_resumed_step(self) -> None:
        """Without this, Lightning counts from the resumed step and shows `?` as the total.

        A run has one epoch of max_steps steps.
        """
        trainer: Any = self.trainer
        done, total = (
            steps * trainer.accumulate_grad_batches
            for steps in (trainer.global_step, trainer.max_steps)
        )
        if done and total > 0:
            bar = self.train_progress_bar
            bar.total, bar.initial, bar.n = total, done, done

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Lightning's, and the loss, whose value is asked for here only, when the bar is drawn.

        Of a metric that is logged with prog_bar=True Lightning asks for the value at every step,
        and on a GPU waits for it.
        """
        found = super().get_metrics(trainer, pl_module)
        bits = trainer.callback_metrics.get("bits")
        shown = {} if bits is None else {"bits": float(bits)}
        return {**shown, **{name: value for name, value in found.items() if name != "v_num"}}

    # Validation and test count samples: a batch of long clips may take a minute.

    def on_validation_batch_start(self, trainer: pl.Trainer, *about: Any) -> None:
        super().on_validation_batch_start(trainer, *about)
        _count_samples(self.val_progress_bar, trainer, trainer.val_dataloaders)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        _advance(self.val_progress_bar, batch)

    def on_test_batch_start(self, trainer: pl.Trainer, *about: Any) -> None:
        super().on_test_batch_start(trainer, *about)
        _count_samples(self.test_progress_bar, trainer, trainer.test_dataloaders)

    def on_test_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        _advance(self.test_progress_bar, batch)


def _count_samples(bar: Any, trainer: pl.Trainer, loader: Any) -> None:
    """The bar's total is in scored samples, where the batches tell how many there are."""
    samples = getattr(getattr(loader, "dataset", None), "num_samples", None)
    if samples is not None:
        bar.total = math.ceil(samples / trainer.world_size)
        bar.unit, bar.unit_scale = " samples", True


def _advance(bar: Any, batch: Mapping[str, Any]) -> None:
    if not bar.disable:
        bar.update(int(number_scored(batch["scored"])))
        bar.refresh()


class ExponentialAverage(AveragedModel):
    """See `WeightAverage`. Its count is kept on the host, too: an update waits for no device."""

    def __init__(self, model: torch.nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device)
        self._decay, self._count = decay, -1  # not known before the first update: it may be loaded

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """In one launch for all weights."""
        n = self._count if self._count >= 0 else int(self.n_averaged)
        share = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        averages: list[Tensor] = [*self.module.parameters()]
        pairs = zip(model.parameters(), averages, strict=True)
        weights = [weight.to(average.dtype) for weight, average in pairs]
        torch._foreach_lerp_(averages, weights, 1 - share)
        self.n_averaged += 1
        self._count = n + 1


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights, used for validation, samples and the export.

        average += (1 - min(decay, (1 + n) / (10 + n))) (weights - average)   after the n-th step

    The lower decay of the first steps removes the random initial weights from the average early,
    instead of after several times 1 / (1 - decay) steps.

    Args:
        decay: Share of the old average that each step keeps; 0 for no averaging.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"--ema.decay must be at least 0 and below 1, but got {decay}.")
        self.decay = decay
        super().__init__()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":  # as WeightAveraging does, but for the class
            pl_module.configure_model()
            # the module is still on the CPU here
            device = trainer.strategy.root_device
            self._average_model = ExponentialAverage(pl_module, device, decay=self.decay)
            if trainer.precision == "64-true":  # the module is converted later
                self._average_model.module.double()

    @property
    def network(self) -> WaveNet:
        """The averaged network."""
        assert self._average_model is not None
        module = cast(LitWaveNet, self._average_model.module)
        return module.network


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoint files that appear complete or not at all.

    Lightning writes a checkpoint to the system's temporary folder first. If that is another file
    system, the file is copied, and a process killed during the copy leaves an incomplete
    `last.ckpt` in place of the previous one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(path, content.getvalue())


class LastCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/last.ckpt` regularly and when a signal stops the run.

    `--ckpt_path last` resumes from it; a resumed run computes the same as one that was never
    interrupted. The signals are those of `stopping.SIGNALS`. The last step is saved after its
    validation: Lightning takes a run that has done all steps for finished, and would not validate.

    Args:
        every_n_steps: Optimiser steps between two checkpoints.
    """

    def __init__(self, every_n_steps: int = 250) -> None:
        if every_n_steps < 1:
            raise ValueError(
                f"--checkpoint.every_n_steps must be at least 1, but got {every_n_steps}."
            )
        super().__init__(
            filename="last", every_n_train_steps=every_n_steps, enable_version_counter=False
        )
        self._signal = 0  # that has asked for a stop
        self._earlier_handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._earlier_handlers = handle(lambda *event: self._on_signal(trainer, *event))

    def _on_signal(self, trainer: pl.Trainer, number: int, frame: FrameType | None) -> None:
        """Lets a training step finish, so that it can be saved; a second signal stops at once.

        Outside of training steps nothing has changed since the last checkpoint. There the first
        process stops, and the others with it.
        """
        if self._signal or (not trainer.training and trainer.is_global_zero):
            raise Stopped(number)
        self._signal = number

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not has_done_all_steps(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        number = self._signal
        if trainer.world_size > 1:  # all processes must stop after the same step
            told = torch.tensor(float(number), device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(told, reduce_op="max"))
        if number and _between_steps(trainer):
            self._save_now(trainer)
            raise Stopped(number)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._save_now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._save_now(trainer, validated=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save_now(trainer, validated=True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, Stopped) and trainer.is_global_zero:
            run = Path(self.dirpath).parent if self.dirpath else None
            lost = trainer.global_step - self._last_global_step_saved
            saved = f" The last {lost} are not saved." if 0 < lost < trainer.global_step else ""
            step = f"Stopped after step {trainer.global_step}."
            print(f"\n{step}{saved} {how_to_go_on(run)}", flush=True)
        _end_the_others(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        restore(self._earlier_handlers)

    def _save_now(self, trainer: pl.Trainer, validated: bool = False) -> None:
        if (
            is_trial(trainer)
            or (has_done_all_steps(trainer) and not validated)
            or self._last_global_step_saved == trainer.global_step
            or not _between_steps(trainer)
        ):
            return
        assert self.dirpath is not None
        self._save_checkpoint(trainer, str(Path(self.dirpath, "last.ckpt")))
        self.last_model_path = str(Path(self.dirpath, "last.ckpt"))


def has_done_all_steps(trainer: pl.Trainer) -> bool:
    return 0 < trainer.max_steps <= trainer.global_step


def _end_the_others(trainer: pl.Trainer) -> None:
    """Kills the processes that Lightning has started from this one: they would wait for it.

    They are taken off the list that Lightning watches, which would kill this process as well.
    """
    others = getattr(trainer.strategy.launcher, "procs", [])
    for process in others:
        process.kill()
    others.clear()


def _between_steps(trainer: Any) -> bool:
    """False between the batches of an accumulated step.

    Accumulated gradients are not saved, so a run could not be resumed exactly from there.
    """
    done = trainer.fit_loop.batch_idx + 1
    return bool(trainer.is_last_batch) or done % trainer.accumulate_grad_batches == 0


class Samples(pl.Callback):
    """After validations: clips of the averaged weights as wav files and on TensorBoard.

    Also exports the model after each validation that is the best so far.

    Args:
        count: Number of clips each time; 0: none.
        seconds: Length of each clip. null: drawn by a model with position_hop, 1 for other models.
        every_n_validations: Validations between two sets of clips; 0: only at the end of the run.
        temperature: Divides the logits.
    """

    def __init__(
        self,
        count: int = 4,
        seconds: float | None = None,
        every_n_validations: int = 1,
        temperature: float = 1.0,
    ) -> None:
        self.count = count
        self.seconds = seconds
        self.every_n_validations = every_n_validations
        self.temperature = temperature
        self._validations = 0
        self._best = math.inf

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations, self._best = state_dict["validations"], state_dict["best"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        bits = trainer.callback_metrics.get("val_bits")
        if trainer.sanity_checking or trainer.state.fn != "fit" or bits is None:
            return
        self._validations += 1
        if not trainer.is_global_zero or is_trial(trainer):
            return
        run = Path(trainer.default_root_dir)
        network = averaged_network(trainer, pl_module)
        if bits < self._best:
            self._best = float(bits)
            network.save_pretrained(run / "model")
        if self.every_n_validations and self._validations % self.every_n_validations == 0:
            stem = f"step-{trainer.global_step:07d}"
            with going_on(stem):
                real = self.real_clips(trainer, network)
                made = self.write(network, run, stem, [clip for _, clip in real])
                self._show(trainer, network, made, real)

    def write(
        self, network: WaveNet, run: Path, stem: str, real: Sequence[Tensor]
    ) -> list[tuple[str, Tensor]]:
        """Writes `count` clips to run/samples/STEM-i.wav; returns each (T,) with its title.

        real: clips (time,) whose mel spectrograms a model with mel is given, one clip each. Labels
        are drawn from the seed.
        """
        if self.count < 1:
            return []
        settings: dict[str, Any] = {
            "seconds": seconds_of(network, self.seconds, 1.0),
            "batch_size": self.count,
        }
        if network.mel is not None:
            mel = [network.mel.spectrogram(clip, network.sample_rate) for clip in real]
            settings = {"mel": mel, "batch_size": len(mel)}
        labels = draw_labels(network, (), settings["batch_size"], seed=0)
        clips = generate(network, temperature=self.temperature, labels=labels, **settings)
        for index, clip in enumerate(clips):
            save_audio(run / "samples" / f"{stem}-{index}.wav", clip, network.sample_rate)
        return list(zip(titles_of(labels, settings["batch_size"]), clips, strict=True))

    def _show(
        self,
        trainer: pl.Trainer,
        network: WaveNet,
        made: Sequence[tuple[str, Tensor]],
        real: Sequence[tuple[str, Tensor]],
    ) -> None:
        self._log(trainer, "generated", made, network.sample_rate)
        if self._validations == self.every_n_validations:  # the real clips only once, to compare
            self._log(trainer, "real", real, network.sample_rate)

    def real_clips(self, trainer: pl.Trainer, network: WaveNet) -> list[tuple[str, Tensor]]:
        """The loudest part of `count` validation clips, (time,) each, as long as samples are.

        With a title, which says the clip and where in it the part begins.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        clips = data.clips("val")[: self.count] if data is not None else []
        length = round((self.seconds or 1.0) * network.sample_rate)
        found = []
        for clip in clips:
            audio = torch.from_numpy(data.audio(clip))
            first = loudest_part(audio, length)
            place = f" from {first / network.sample_rate:.1f} s" if first else ""
            found.append((f"{clip.path}{place}", audio[first : first + length]))
        return found

    def _log(
        self,
        trainer: pl.Trainer,
        name: str,
        clips: Sequence[tuple[str, Tensor]],
        sample_rate: int,
    ) -> None:
        for board in trainer.loggers:
            if not isinstance(board, TensorBoardLogger) or not clips:
                continue
            writer, step = board.experiment, trainer.global_step
            for index, (_, clip) in enumerate(clips):
                writer.add_audio(f"{name}/{index}", clip, step, sample_rate=sample_rate)
            titles, audio = [title for title, _ in clips], [clip for _, clip in clips]
            writer.add_figure(f"{name}/pictures", plot_clips(audio, sample_rate, titles), step)


def loudest_part(audio: Tensor, length: int) -> int:
    """audio (T,) -> the first sample of the `length` samples of the greatest energy."""
    if len(audio) <= length:
        return 0
    energy = torch.nn.functional.pad(audio.double().square().cumsum(0), (1, 0))
    return int((energy[length:] - energy[:-length]).argmax())


@contextmanager
def going_on(stem: str) -> Iterator[None]:
    """Whatever fails inside, the run goes on, with a line in the log: there are no such samples."""
    try:
        yield
    except Exception as error:
        logger.warning("no samples %s (%s). The run goes on.", stem, reason_of(error))


def is_trial(trainer: Any) -> bool:
    """Whether --trainer.fast_dev_run is set: such a run must not leave files."""
    return bool(trainer.fast_dev_run)


def averaged_network(trainer: pl.Trainer, pl_module: Any) -> WaveNet:
    """The network to export: with the averaged weights, if there are any."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAverage) and callback._average_model is not None:
            return callback.network
    return pl_module.network
