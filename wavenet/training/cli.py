"""Owns the command `train.py`: subcommands, defaults for the machine, folders of runs.

Knows nothing of networks or losses.
"""

import contextlib
import ctypes
import logging
import math
import os
import signal
import sys
import textwrap
import warnings
from argparse import SUPPRESS
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from wavenet.checkpoints import load_model, read_checkpoint
from wavenet.conditioning import unmatchable
from wavenet.conditioning.matching import PASSES
from wavenet.files import write_whole
from wavenet.installation import recipe_names, spelled
from wavenet.machine import has_bfloat16, obstacle_to_gpu
from wavenet.model import WaveNet
from wavenet.training.advice import explain
from wavenet.training.arguments import COMMANDS, complete_arguments
from wavenet.training.callbacks import (
    LastCheckpoint,
    ProgressBar,
    Samples,
    WeightAverage,
    WholeCheckpoints,
    averaged_network,
    going_on,
    is_trial,
)
from wavenet.training.data import AudioDataModule
from wavenet.training.module import LitWaveNet
from wavenet.training.parser import Parser
from wavenet.training.quiet import quiet_lightning, saying_once, threads_in_one_line, warnings_alone
from wavenet.training.records import CURVE, METRICS, LastValidation, Records
from wavenet.training.runs import Claim, is_started_by_lightning
from wavenet.training.starting import adopt_shape
from wavenet.training.stopping import end_with_parent, open_closed_streams, stopping
from wavenet.version import __version__

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
DESCRIPTION = """Train a WaveNet on a folder of audio.

  {command}                                     fit with the recipe default
  {command} --config folder --data.root DIR     your own folder of audio
  {command} --ckpt_path last                    resume the newest run exactly
  {command} validate --ckpt_path PATH           bits per sample of a checkpoint
  {command} test --ckpt_path PATH               the same on the test clips
  {command} --help-all                          every setting in full, the Trainer's too

Recipes, which --config takes by name:
{recipes}
Override settings of a config by name: --model.residual_channels 128 --trainer.max_steps 20000.
A run writes RUNS/NAME/ with config.yaml, checkpoints/, model/, samples/ and TensorBoard events.
"""


def main(arguments: Sequence[str], default_config: Path) -> None:
    """Runs the command line. A user's error gives a message and status 1, without a traceback.

    A signal that stops it gives 128 + its number.
    """
    if is_started_by_lightning():
        end_with_parent(signal.SIGKILL)  # the first process writes the run; it saves by itself
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)
    open_closed_streams()
    if list(arguments) == ["--version"]:
        print(f"wavenet {__version__}")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_lightning()
    keep_memory()
    claim = Claim()
    try:
        # of generation and engines: they would log at every validation
        with (
            warnings_alone("wavenet.generation", "wavenet.engines"),
            stopping(),
            saying_once(),
            threads_in_one_line(),
            claim,
        ):
            arguments = complete_arguments(list(arguments), default_config)
            TrainingCLI(arguments, claim)
    except Exception as error:
        if os.environ.get("WAVENET_TRACEBACK"):
            raise
        sys.exit(f"error: {explain(error, claim.folder)}\n(WAVENET_TRACEBACK=1 shows where)")


def described(text: str) -> str:
    """With the command and the recipes in it."""
    names = textwrap.wrap(", ".join(recipe_names()), 96)
    return text.format(command=spelled("train"), recipes=textwrap.indent("\n".join(names), "  "))


def keep_memory() -> None:
    """Makes glibc keep large memory blocks, by mallopt(3).

    By default, glibc returns them to the system and requests them again in every step on a CPU,
    page by page, which costs a compiled step up to a third of its speed.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never return memory


class SettingsFile(SaveConfigCallback):
    """The run's config.yaml, without `ckpt_path`: used as a config, it starts a new run.

    It lies in the run's folder, whatever logs.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        config.ckpt_path = None
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():  # of the older name, which Lightning uses too
            warnings.simplefilter("ignore", DeprecationWarning)
            content = self.parser.dump(self.config, skip_none=False)
        write_whole(Path(trainer.default_root_dir, "config.yaml"), content.encode())


def require_filled(parser: LightningArgumentParser, settings: Namespace) -> None:
    """Raises ValueError for a setting without a value that has to have one.

    A file's `batch_size:` with nothing behind it is read as null, whatever the setting's type.
    """
    for action in parser._actions:
        group = action.dest.partition(".")[0]
        if not isinstance(settings.get(group), Namespace):
            continue  # other checks tell
        kinds = get_args(getattr(action, "_typehint", None))
        may_be_none = action.default in (None, SUPPRESS) or type(None) in kinds
        if not may_be_none and settings.get(action.dest) is None:
            raise ValueError(
                f"--{action.dest} is empty. Give it a value, or leave it out for its default, "
                f"{action.default}."
            )


class TrainingCLI(LightningCLI):
    """LightningCLI with this library's model, data, callbacks and run folders."""

    def __init__(self, arguments: list[str], claim: Claim) -> None:
        self.claim = claim
        self.run: Path | None = None
        self.given = {  # settings of the network on the command line
            argument.partition("=")[0].removeprefix("--model.").partition(".")[0]
            for argument in arguments
            if argument.startswith("--model.")
        }
        super().__init__(
            LitWaveNet,
            AudioDataModule,
            save_config_callback=SettingsFile if arguments[:1] == ["fit"] else None,
            seed_everything_default=0,
            trainer_defaults={
                "use_distributed_sampler": False,  # the data module shards without repeating clips
                "gradient_clip_val": 1.0,
                "num_sanity_val_steps": 0,
                "check_val_every_n_epoch": None,
                "val_check_interval": 500,
                "log_every_n_steps": 10,
                "devices": 1,
                "enable_model_summary": False,  # the module says it in a line
                "max_steps": 10000,
            },
            parser_kwargs={
                "description": described(DESCRIPTION),
                **{name: {"description": described(DESCRIPTION)} for name in self.subcommands()},
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=partial(Parser, given=arguments),  # type: ignore[arg-type]
            args=arguments,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {
            name: skipped
            for name, skipped in LightningCLI.subcommands().items()
            if name in COMMANDS
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs", type=str, default="runs", help="Folder for all runs.")
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Name of the run; its folder is RUNS/NAME. Default: the name of the config.",
        )
        parser.add_lightning_class_args(WeightAverage, "ema")
        parser.add_lightning_class_args(Samples, "samples")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")

    def _parse_ckpt_path(self) -> None:
        """Does nothing: a run's config.yaml already has the settings of its checkpoint.

        Lightning's version would override the command line with the checkpoint's settings.
        """

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ValueError(f"--seed_everything {error}.") from error

    def before_instantiate_classes(self) -> None:
        settings = self.config[self.config.subcommand]
        require_filled(self._parser(self.config.subcommand), settings)
        require_sensible(settings.trainer)
        if settings.data.seed is None:
            settings.data.seed = settings.seed_everything
        settings.trainer.accelerator = accelerator_for(
            settings.trainer.accelerator, settings.trainer.devices
        )
        if settings.trainer.precision is None:
            settings.trainer.precision = default_precision(
                settings.trainer.accelerator, settings.trainer.devices
            )
        if settings.get("ckpt_path"):
            read_checkpoint(Path(settings.ckpt_path))  # refuses a bad one before anything is built
        elif settings.model.init_from is not None:
            source = load_model(settings.model.init_from)
            adopt_shape(settings.model, source, settings.model.init_from, self.given)
        elif self.config.subcommand != "fit":
            raise ValueError(
                f"{self.config.subcommand} needs the weights that it scores: give --ckpt_path (a "
                "run, a .ckpt file, a model folder, or a bundled name, such as fsdd) or "
                "--model.init_from."
            )
        callbacks: list[Any] = []
        if settings.trainer.enable_progress_bar in (None, True):
            callbacks.append(ProgressBar())
        if self.config.subcommand == "fit":
            self.run = self.claim.take(settings.runs, settings.name, settings.ckpt_path)
            callbacks += [LastValidation(), Records()]
            callbacks.append(
                ModelCheckpoint(
                    filename="best", monitor="val_bits", mode="min", enable_version_counter=False
                )
            )
            if settings.trainer.logger in (None, True):
                callbacks.append(LearningRateMonitor())
        self.trainer_defaults["callbacks"] = callbacks

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        settings = self.config[self.config.subcommand]
        if self.run is None:
            kwargs["logger"] = False
        else:
            kwargs["default_root_dir"] = str(self.run)
            if settings.trainer.logger in (None, True):
                kwargs["logger"] = TensorBoardLogger(
                    str(self.run.parent), name=self.run.name, version=""
                )
        given = self._get(self.config_init, "trainer")["plugins"] or []
        kwargs["plugins"] = [*(given if isinstance(given, list) else [given]), WholeCheckpoints()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (TypeError, ImportError, MisconfigurationException) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"The --trainer settings do not fit: {reason}") from error
        # Lightning's handler of SIGTERM would wait for other processes in the middle of a step.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        self.claim.trained = lambda: trainer.global_step > 0
        return trainer

    def before_fit(self) -> None:
        self.model.check(
            self.trainer.strategy.root_device,
            str(self.trainer.precision),
        )

    def after_fit(self) -> None:
        if self.run is None or is_trial(self.trainer):
            return
        self._finish(self._bits())

    def _bits(self) -> str:
        """Of the run's last weights: over all held-out audio, also where the run scored a part."""
        last = self.trainer.callback_metrics.get("val_bits")
        if last is None:
            return "not validated"
        found = float(last)
        part, whole = self.datamodule.scored_seconds
        told = f"over {whole:.0f} s"
        if part < whole:
            logger.info("validation of all %.0f s of held-out audio", whole)
            found = self.trainer.validate(self.model, self.datamodule, verbose=False)[0]["val_bits"]
            told += f"; while training, over {part:.0f} s"
        uniform = math.log2(self.model.network.output.levels)
        return f"{found:.3f} bits per sample (uniform: {uniform:.3f}) {told}"

    @rank_zero_only
    def _finish(self, bits: str) -> None:
        trainer: Any = self.trainer
        assert self.run is not None
        if not (self.run / "model" / "config.json").is_file():  # a run too short for a validation
            averaged_network(self.trainer, self.model).save_pretrained(self.run / "model")
        samples = next(callback for callback in trainer.callbacks if isinstance(callback, Samples))
        network, made = WaveNet.from_pretrained(self.run / "model"), []
        with going_on("final"):
            network.to(self.trainer.strategy.root_device)
            real = [clip for _, clip in samples.real_clips(trainer, network)]
            made = samples.write(network, self.run, "final", real)
        print(summary(self.run, network, len(made), bits), flush=True)


def require_sensible(trainer: Namespace) -> None:
    """Raises ValueError for settings of Lightning's trainer that this command cannot follow."""
    if not isinstance(trainer, Namespace):
        raise ValueError(f"trainer must be settings by name, but got {trainer!r}.")
    if trainer.enable_checkpointing is False or trainer.barebones:
        raise ValueError(
            "--trainer.enable_checkpointing false: a run always keeps its last and its best "
            "checkpoint. For fewer, give --checkpoint.every_n_steps a large number; to try "
            "something without files, use --trainer.fast_dev_run true."
        )
    if trainer.default_root_dir is not None:
        raise ValueError(
            "--trainer.default_root_dir is not used: a run's folder is RUNS/NAME. Give --runs and "
            "--name."
        )
    if trainer.accumulate_grad_batches < 1:
        raise ValueError(
            "--trainer.accumulate_grad_batches must be at least 1, but got "
            f"{trainer.accumulate_grad_batches}."
        )


def summary(run: Path, network: WaveNet, count: int, bits: str) -> str:
    """The files of a finished run, and commands to use them."""
    checkpoints = ", ".join(str(path) for path in sorted((run / "checkpoints").glob("*.ckpt")))
    samples = ", ".join(str(run / "samples" / f"final-{index}.wav") for index in range(count))
    records = ", ".join(str(run / name) for name in (CURVE, METRICS) if (run / name).is_file())
    labels = ",".join(f"{name}={categories[0]}" for name, categories in network.labels.items())
    command = f"{spelled('generate')} --checkpoint {run / 'model'} {_clips(network)}"
    command += labels and f" --labels {labels}"
    return "\n".join(
        [
            "",
            f"validation    {bits}",
            f"checkpoints   {checkpoints}",
            f"model         {run / 'model'}",
            f"samples       {samples or 'none'}",
            f"curves        {records or 'none'}",
            f"hear more     {command}",
            f"in detail     tensorboard --logdir {run.parent}",
        ]
    )


def _clips(network: WaveNet) -> str:
    """Of the command to hear more: what the clips are to be."""
    if network.mel is None:
        return "--batch 4" if network.draws_lengths else "--batch 4 --seconds 2"
    if network.mel.given:
        return "--mel frames.npy"
    matching = "" if unmatchable(network.mel) else f" --match-mel {PASSES}"
    return f"--mel-from in.wav{matching}"


def accelerator_for(accelerator: str, devices: Any) -> str:
    """The same, or cpu where it is auto and a GPU is there that this torch cannot compute on.

    Raises ValueError where such a GPU was asked for. devices: as --trainer.devices.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return accelerator
    obstacle = next(filter(None, map(obstacle_to_gpu, gpus_of(devices))), None)
    if obstacle is None:
        return accelerator
    if accelerator != "auto":
        raise ValueError(
            f"--trainer.accelerator {accelerator}: {obstacle}. Or train on the CPU: "
            "--trainer.accelerator cpu."
        )
    logger.warning("training on the CPU: %s.", obstacle)
    return "cpu"


def default_precision(accelerator: str, devices: Any = 1) -> str:
    """bf16-mixed if all devices of the run compute in bfloat16, otherwise 32-true.

    devices: as --trainer.devices.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        each = [has_bfloat16(device) for device in gpus_of(devices)]
        return "bf16-mixed" if all(each) else "32-true"
    if accelerator in ("auto", "cpu"):
        return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
    return "32-true"


def gpus_of(devices: Any) -> list[torch.device]:
    """Those that --trainer.devices means: a number of them, all (auto, -1), or a list of numbers.

    What Lightning refuses is left to it.
    """
    here = torch.cuda.device_count()
    try:
        if isinstance(devices, str) and "," in devices:
            devices = [int(number) for number in devices.split(",") if number.strip()]
        elif not isinstance(devices, list | tuple):
            number = here if devices in ("auto", -1, "-1") else int(devices)
            devices = range(number)
        return [torch.device("cuda", number) for number in devices if 0 <= int(number) < here]
    except (TypeError, ValueError):
        return []
