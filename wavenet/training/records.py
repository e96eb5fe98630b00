"""Owns what a run tells of itself in plain files: metrics.csv, curve.png, held_out.tsv.

They lie in the run's folder, whatever else logs. Knows nothing of losses, networks or the command
line.
"""

import csv
import io
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from wavenet.files import write_whole
from wavenet.plotting import figure_png, plot_curves
from wavenet.training.callbacks import has_done_all_steps, is_trial

logger = logging.getLogger(__name__)

METRICS, CURVE, HELD_OUT = "metrics.csv", "curve.png", "held_out.tsv"
COLUMNS = ("step", "seconds", "samples_seen", "bits", "val_bits", "grad_norm", "learning_rate")
FEW = 6  # held-out clips that a line of the log names
Row = Mapping[str, str]


class Records(pl.Callback):
    """metrics.csv: a row every `log_every_n_steps` steps, and one for each validation.

    step: optimiser steps done. seconds: of training, validation and samples, over all sittings of
    the run. samples_seen: scored training samples. bits: of that step's batch. val_bits: of the
    averaged weights. Rows behind the checkpoint that a run goes on from are removed: they are
    computed again.
    """

    def __init__(self) -> None:
        self._before = 0.0  # seconds of earlier sittings
        self._since = time.monotonic()
        self._path: Path | None = None  # None: nothing is to be written

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._since

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = float(state_dict["seconds"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.monotonic()
        if not trainer.is_global_zero or is_trial(trainer):
            return
        run = Path(trainer.default_root_dir)
        self._path = run / METRICS
        rows = [row for row in read_metrics(self._path) if int(row["step"]) <= trainer.global_step]
        write_whole(self._path, (",".join(COLUMNS) + "\n" + _lines(rows)).encode())
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "scored_seconds"):
            tell_held_out(run, data)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0:
            self._add(trainer, ("bits", "grad_norm"))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or self._path is None:
            return
        self._add(trainer, ("val_bits",))
        rows = read_metrics(self._path)
        write_whole(self._path.with_name(CURVE), figure_png(plot_curves(_curves(rows))))

    def _add(self, trainer: pl.Trainer, names: Iterable[str]) -> None:
        if self._path is None:
            return
        found = trainer.callback_metrics
        row = {
            "step": str(trainer.global_step),
            "seconds": f"{self.seconds:.2f}",
            "samples_seen": f"{float(found.get('samples_seen', 0)):.0f}",
            "learning_rate": f"{trainer.optimizers[0].param_groups[0]['lr']:.6g}",
            **{name: f"{float(found[name]):.6g}" for name in names if name in found},
        }
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_lines([row]))


class LastValidation(pl.Callback):
    """A run ends with a validation, wherever its last step falls."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        last_pass = trainer.max_epochs not in (None, -1) and (
            trainer.current_epoch + 1 >= int(trainer.max_epochs or 0)
        )
        if has_done_all_steps(trainer) or (last_pass and trainer.is_last_batch):
            trainer.should_stop = True  # before it stops, Lightning validates


def read_metrics(path: Path) -> list[Row]:
    """The whole rows; a last one that a kill has cut short is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in rows if (row.get("step") or "").isdigit()]


def _lines(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n").writerows(
        rows
    )
    return text.getvalue()


def _curves(rows: Iterable[Row]) -> dict[str, list[tuple[float, float]]]:
    """Of both figures: (samples seen, bits per sample)."""
    rows = list(rows)
    return {
        label: [(float(row["samples_seen"]), float(row[name])) for row in rows if row[name]]
        for name, label in (("bits", "training, a batch"), ("val_bits", "validation"))
    }


def tell_held_out(run: Path, data: Any) -> None:
    """Names the held-out clips: in the log where they are few, and in a file."""
    clips = {split: [clip.path for clip in data.corpus.of(split)] for split in ("val", "test")}
    lines = [f"{split}\t{path}\n" for split, paths in clips.items() for path in paths]
    write_whole(run / HELD_OUT, "".join(lines).encode("utf-8", "surrogateescape"))
    paths = clips["val"]
    listed = ", ".join(paths) if len(paths) <= FEW else f"listed in {run / HELD_OUT}"
    logger.info("held out for validation: %d clips, %s", len(paths), listed)
    part, whole = data.scored_seconds
    if part < whole:
        logger.info(
            "validations score %.0f of their %.0f s (--data.val_seconds); the whole is scored at "
            "the end",
            part,
            whole,
        )
