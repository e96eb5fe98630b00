"""Owns what is interrupted: ten operations, the command that follows each, and what must hold.

An operation begins in an empty folder. `setup` lays out what it needs, `act` is what is killed,
starved of disk or run twice at once, and `check` goes on from what is left: with a new start, a
load or a resume, and raises `Wrong` where the result differs from that of an undisturbed one.
Knows nothing of how it is disturbed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tiny_corpora import unprepared
from tiny_runs import RATE, VAL_PATTERN, differing, load, train

from faults.outcomes import Wrong
from faults.stock import (
    EVALUATION,
    corpus_copy,
    evaluate_command,
    generate_command,
    same_weights,
    stock,
)
from wavenet import WaveNet, generate
from wavenet.checkpoints import newest_checkpoint, read_checkpoint
from wavenet.corpus.preparing import cache_of
from wavenet.engines.native import compiler
from wavenet.training.callbacks import WholeCheckpoints
from wavenet.training.module import LitWaveNet

FOREVER = 40  # steps of a run that is killed
SIZES = {"cycles": 1, "layers_per_cycle": 6, "residual_channels": 24, "skip_channels": 64}


@dataclass(frozen=True)
class Operation:
    """All work in the present folder. check(where the undisturbed one has worked).

    place: the part of the folder that is written to. like: the operation whose undisturbed result
    is compared with; itself where none is named.
    """

    name: str
    setup: Callable[[], None]
    act: Callable[[], None]
    check: Callable[[Path], None]
    place: str
    share: float = 1.0  # of the kills
    like: str = ""


# --- Preparing --------------------------------------------------------------------------------


def _prepare_setup() -> None:
    corpus_copy(Path("corpus"))


def _prepare() -> None:
    unprepared(Path("corpus"), val_pattern=VAL_PATTERN).prepare()


def _prepare_check(whole: Path) -> None:
    _prepare()
    if _prepared(Path("corpus")) != _prepared(whole / "corpus"):
        raise Wrong("prepared audio differs from that of an undisturbed preparation")


def _prepared(corpus: Path) -> dict[str, str]:
    """Contents of every finished folder of the cache."""
    folders = [x for x in cache_of(corpus, None).iterdir() if x.is_dir()]
    files = [x for folder in folders if folder.suffix != ".tmp" for x in folder.iterdir()]
    return {f"{x.parent.name}/{x.name}": _hash(x) for x in files}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- Training ---------------------------------------------------------------------------------


def _train() -> None:
    train(*_run_settings(), "--name=run")


def _run_settings() -> list[str]:
    return stock().settings(
        trainer__max_steps=FOREVER,
        trainer__val_check_interval=10,
        checkpoint__every_n_steps=3,
        samples__every_n_validations=0,
    )


def _train_check(whole: Path) -> None:
    """Resumes where there is a checkpoint, as the command says; starts again where there is none.

    The last checkpoint and the export must be those of the uninterrupted run.
    """
    try:
        newest_checkpoint(Path("runs"), "run")
    except FileNotFoundError:
        shutil.rmtree("runs", ignore_errors=True)
        _train()
    else:
        train("--ckpt_path=last", "--name=run")
    _compare_runs(whole / "runs" / "run", Path("runs") / "run")


def _compare_runs(whole: Path, resumed: Path) -> None:
    one, other = (load(run / "checkpoints" / "last.ckpt") for run in (whole, resumed))
    if one["global_step"] != other["global_step"]:
        raise Wrong("a resumed run ends at another step", other["global_step"])
    if names := differing(_states(one), _states(other)):
        raise Wrong("weights after resuming differ from an uninterrupted run's", names[:3])
    exports = [WaveNet.from_pretrained(run / "model") for run in (whole, resumed)]
    if not same_weights(*exports):
        raise Wrong("the export after resuming differs from an uninterrupted run's")
    _require_whole_wavs(resumed / "samples")


def _states(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Averaged weights, current weights and the optimiser's moments, by name."""
    found = {f"average {name}": value for name, value in checkpoint["state_dict"].items()}
    found |= {f"current {name}": value for name, value in checkpoint["current_model_state"].items()}
    for index, moments in checkpoint["optimizer_states"][0]["state"].items():
        found |= {f"{name} {index}": torch.as_tensor(value) for name, value in moments.items()}
    return found


def _resume_setup() -> None:
    """A run that was stopped half-way."""
    shutil.copytree(stock().folder / "half" / "runs", "runs")


def _resume() -> None:
    train("--ckpt_path=last", "--name=run")


def half_a_run() -> None:
    """For `resume`, in the stock, once: ends this process at a step in the middle."""
    step = LitWaveNet.training_step

    def step_or_stop(module: LitWaveNet, batch: Any, index: int) -> Any:
        if index == FOREVER // 2:
            os._exit(0)
        return step(module, batch, index)

    LitWaveNet.training_step = step_or_stop  # type: ignore[assignment]
    _train()


# --- Saving -----------------------------------------------------------------------------------


def _save_setup() -> None:
    WholeCheckpoints().save_checkpoint(_contents(1), "last.ckpt")


def _save() -> None:
    WholeCheckpoints().save_checkpoint(_contents(2), "last.ckpt")


def _contents(value: int) -> dict[str, Any]:
    tensors = {f"layer {index}": torch.full((64, 512), float(value)) for index in range(24)}
    return {"state_dict": tensors, "hyper_parameters": {"value": value}}


def _save_check(whole: Path) -> None:
    found = read_checkpoint(Path("last.ckpt"))
    value = found["hyper_parameters"]["value"]
    if differing(found["state_dict"], _contents(value)["state_dict"]):
        raise Wrong("a checkpoint that is neither the old nor the new one")


# --- Exporting --------------------------------------------------------------------------------


def _one_of_two(order: int) -> WaveNet:
    """Models of the same sizes whose labels stand in another order."""
    torch.manual_seed(order)
    return WaveNet(**SIZES, labels={"digit": ["0", "1", "2"][:: 1 - 2 * order]})


def _export_setup() -> None:
    _one_of_two(0).save_pretrained("model")


def _export() -> None:
    _one_of_two(1).save_pretrained("model")


def _export_check(whole: Path) -> None:
    found = WaveNet.from_pretrained("model")
    if not any(same_weights(found, _one_of_two(order)) for order in (0, 1)):
        raise Wrong("an export that is a mixture of the old and the new one")


# --- Compiling --------------------------------------------------------------------------------


def _compile() -> None:
    _own_cache()
    generate(stock().model(), num_samples=16, engine="native", labels={"digit": "1"})


def _compile_check(whole: Path) -> None:
    _own_cache()
    drawn = {
        engine: generate(stock().model(), num_samples=16, engine=engine, labels={"digit": "1"})
        for engine in ("native", "cached")
    }
    if not torch.equal(drawn["native"], drawn["cached"]):
        raise Wrong("the library of a disturbed compilation draws other audio")


def _own_cache() -> None:
    os.environ["WAVENET_CACHE"] = str(Path("cache").resolve())
    compiler._folder_of_this_process.cache_clear()


# --- Generating and evaluating ----------------------------------------------------------------

CLIPS = ("--labels=digit=1,speaker=a", "--seconds=0.4", "--engine=cached")


def _generate() -> None:
    generate_command(f"--checkpoint={stock().run}", *CLIPS, "--batch=3", "--out=out/clip.wav")


def _generate_check(whole: Path) -> None:
    _require_whole_wavs(Path("out"))
    for path in Path("out").glob("*.wav"):
        _require_beginning(path, whole / path)
    _generate()
    same_files(Path("out"), whole / "out")


def _unnamed() -> None:
    """generate.py without --out finds a name of its own."""
    generate_command(f"--checkpoint={stock().run}", "--seconds=0.05", "--engine=cached")


def _unnamed_check(whole: Path) -> None:
    _require_whole_wavs(Path())
    before = set(Path().glob("*.wav"))
    _unnamed()
    new = set(Path().glob("*.wav")) - before
    if [_hash(path) for path in new] != [_hash(whole / "generated.wav")]:
        raise Wrong("a new name's wav is another one than an undisturbed command's", new)


def _require_beginning(path: Path, whole: Path) -> None:
    """The same wav; after Ctrl-C it may end earlier."""
    found, wanted = (soundfile.read(x, dtype="int16")[0] for x in (path, whole))
    if not np.array_equal(found, wanted[: len(found)]):
        raise Wrong("a wav that differs from that of an undisturbed command", path)


def _gallery() -> None:
    generate_command(f"--checkpoint={stock().run}", "--seconds=0.05", "--gallery=out")


def _gallery_check(whole: Path) -> None:
    if Path("out/index.html").exists():
        same_files(Path("out"), whole / "out")
    _gallery()
    same_files(Path("out"), whole / "out")


def _evaluate() -> None:
    flags = (f"--checkpoint={stock().run}", f"--root={stock().corpus}", "--out=out")
    evaluate_command(*flags, *EVALUATION)


def _evaluate_check(whole: Path) -> None:
    for path in Path("out").glob("[!.]*"):
        if path.suffix == ".json":
            _require_json(path)
        elif _hash(path) != _hash(whole / path):
            raise Wrong("a file of the evaluation is not whole", path)
    _evaluate()
    same_files(Path("out"), whole / "out")


def _require_json(path: Path) -> None:
    try:
        json.loads(path.read_text())
    except ValueError as error:
        raise Wrong("half a JSON file", error) from error


def _require_whole_wavs(folder: Path) -> None:
    for path in folder.glob("*.wav"):
        try:
            audio, rate = soundfile.read(path)
        except soundfile.SoundFileError as error:
            raise Wrong("half a wav file", f"{path}: {error}") from error
        header = int.from_bytes(path.read_bytes()[40:44], "little")
        if rate != RATE or header != 2 * len(audio) or not len(audio):
            raise Wrong("half a wav file", path)


def same_files(folder: Path, whole: Path) -> None:
    """Those that are seen: a killed process may leave hidden ones, under names of their own."""
    one, other = ({x.name: _hash(x) for x in y.glob("[!.]*")} for y in (folder, whole))
    if one != other:
        names = sorted(name for name in one | other if one.get(name) != other.get(name))
        raise Wrong("files that differ from those of an undisturbed command", names)


def _nothing() -> None:
    pass


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("prepare", _prepare_setup, _prepare, _prepare_check, "corpus", 2.0),
        Operation("train", _nothing, _train, _train_check, "runs", 1.5),
        Operation("resume", _resume_setup, _resume, _train_check, "runs", 1.0, "train"),
        Operation("save", _save_setup, _save, _save_check, ".", 2.0),
        Operation("export", _export_setup, _export, _export_check, "model", 2.0),
        Operation("compile", _nothing, _compile, _compile_check, "cache"),
        Operation("generate", _nothing, _generate, _generate_check, "out", 1.5),
        Operation("unnamed", _nothing, _unnamed, _unnamed_check, "."),
        Operation("gallery", _nothing, _gallery, _gallery_check, "out", 0.7),
        Operation("evaluate", _nothing, _evaluate, _evaluate_check, "out", 1.0),
    )
}
