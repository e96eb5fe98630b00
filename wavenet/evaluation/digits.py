"""Owns the evaluation of a model of spoken digits, by a classifier trained on real clips.

    python -m wavenet.evaluation --checkpoint runs/fsdd --root DIR --out FOLDER

Knows nothing of training a WaveNet or of its likelihood (`python train.py test` gives the bits per
sample), nor of the formulas and the classifier's network. Shapes: N clips, T time. matplotlib is
imported only in the functions that use it.
"""

import argparse
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.audio import load_audio
from wavenet.checkpoints import load_model
from wavenet.evaluation.classifier import DECIBELS, SHIFT, SILENCE, hear, log_mel, train_classifier
from wavenet.evaluation.scores import (
    accuracy,
    am_score,
    confusion,
    frechet_distance,
    inception_score,
    modified_inception_score,
    nearest_distances,
)
from wavenet.generation import checked_seed, generate_each, whole_number
from wavenet.installation import CommandParser, require
from wavenet.machine import memory, size
from wavenet.model import WaveNet
from wavenet.plotting import figure_png, plot_spectrograms
from wavenet.results import require_place, write_all
from wavenet.terminal import add_engine_argument, add_sampling_arguments, run_command, sampling_of

logger = logging.getLogger(__name__)

BYTES_A_SAMPLE = 16  # of a set of clips: as read, padded, its spectrogram
# Clips are generated with these labels, and the classifier predicts them. Scores use the first one.
LABELS = ("digit", "speaker")
# File names of the Free Spoken Digit Dataset
LABEL_PATTERN = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_\d+\.wav$"
TRAINING_PATTERN = r"_\d\d+\.wav$"  # indices 10 and up; 0 to 4 are the corpus's own test split
HELD_OUT_PATTERN = r"_[5-9]\.wav$"


@dataclass(frozen=True)
class Clips:
    """audio (N, T), silent after the first lengths (N,) samples; labels: name -> (N,) ids.

    An id is the index of a category in the model's list.
    """

    audio: Tensor
    lengths: Tensor
    labels: dict[str, Tensor]


@dataclass(frozen=True)
class Scores:
    """The scores of one set of clips that Kong et al. 2021 and Goel et al. 2022 report for SC09."""

    fid: float
    inception: float
    modified_inception: float
    am: float


@dataclass(frozen=True)
class Distances:
    """Quartiles of the distance from each clip of a set to its nearest training clip.

    In dB RMS over the log-mel spectrogram.
    """

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True)
class Evaluation:
    """The results of `evaluate`. Sets: "training", "held_out", "generated"; fractions in [0, 1].

    accuracy: set -> label name -> fraction of clips that the classifier assigns to their label (the
        label of a generated clip is the requested one).
    confusion: confusion[requested][classified] counts generated clips by digit.
    nearer: fraction of generated clips whose distance to the nearest training clip is below the 1st
        percentile of the held-out clips' distances.
    """

    accuracy: dict[str, dict[str, float]]
    confusion: list[list[int]]
    scores: dict[str, Scores]
    distances: dict[str, Distances]
    nearer: float
    generated: Clips


# --- Clips ---


def read_clips(
    model: WaveNet, root: Path, pattern: str, seconds: float, label_pattern: str = LABEL_PATTERN
) -> Clips:
    """The wav files under `root` with a path that matches `pattern`, cut or padded to `seconds`.

    The padding is silence. The audio is encoded and decoded with the model's codec, so that the
    scores do not count the codec's rounding as a fault of the model. Raises ValueError if no file
    matches, if `label_pattern` does not give a file's labels, or if the model does not know them.
    """
    require_labels(model)
    root = Path(root)
    paths = find_clips(root, pattern)
    names = [
        _labels_of(path.relative_to(root).as_posix(), _compiled(label_pattern), model)
        for path in paths
    ]
    labels = {
        name: torch.tensor([model.labels[name].index(found[name]) for found in names])
        for name in LABELS
    }
    total = samples_of(model, seconds, len(paths))
    clips = [load_audio(path, model.sample_rate)[:total] for path in paths]
    audio = _padded(clips, total, 0.0)
    return Clips(
        model.codec.decode(model.codec.encode(audio)), torch.tensor([*map(len, clips)]), labels
    )


def samples_of(model: WaveNet, seconds: float, clips: int) -> int:
    """Samples of each clip. Raises ValueError for none, for no number, and for too many."""
    if not math.isfinite(seconds) or seconds * model.sample_rate <= 0.5:
        raise ValueError(
            "--seconds must be a number and give every clip at least one sample, but got "
            f"{seconds} at {model.sample_rate} Hz."
        )
    total = seconds * model.sample_rate
    needed, there = total * clips * BYTES_A_SAMPLE, memory(torch.device("cpu"))
    if needed > there:
        raise ValueError(
            f"{clips} clips of {seconds:g} s need {size(needed)} of memory, and this machine has "
            f"{size(there)}. Give fewer --seconds, or fewer clips."
        )
    return round(total)


def find_clips(root: Path, pattern: str) -> list[Path]:
    if not root.is_dir():
        raise ValueError(f"--root '{root}' is not a folder; give the folder of the real clips.")
    wanted = _compiled(pattern)
    paths = [
        path
        for path in sorted(root.rglob("*.wav"))
        if wanted.search(path.relative_to(root).as_posix())
    ]
    if not paths:
        raise ValueError(
            f"{pattern!r} matches no wav file under '{root}'. Change the pattern or --root."
        )
    return paths


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is not a regular expression: {error}. Correct it."
        ) from error


def require_labels(model: WaveNet) -> None:
    if missing := [name for name in LABELS if name not in model.labels]:
        raise ValueError(
            "The evaluation generates every digit by every speaker, but the model has no label "
            f"{' and no '.join(missing)}; its labels are {list(model.labels)}. "
            f"Train one with --data.label_pattern '{LABEL_PATTERN}'."
        )


def _labels_of(path: str, pattern: re.Pattern[str], model: WaveNet) -> dict[str, str]:
    match = pattern.search(path)
    found = match.groupdict() if match else {}
    for name in LABELS:
        if found.get(name) not in model.labels[name]:
            raise ValueError(
                f"'{path}': --label-pattern {pattern.pattern!r} gives the {name} "
                f"{found.get(name)!r}, and the model knows {', '.join(model.labels[name])}. Change "
                "the pattern, or narrow --training-pattern and --held-out-pattern."
            )
    return found


def generate_clips(
    model: WaveNet, clips_per_cell: int, total: int, seed: int = 0, **settings: Any
) -> Clips:
    """`clips_per_cell` clips of every digit by every speaker, clip i from seed + i.

    A model with a clip length draws the length of each clip, and silence follows up to `total`
    samples, where longer clips are cut. Other models generate `total` samples.
    settings: see `wavenet.generate`.
    """
    require("Judging digits", "tqdm", "matplotlib")
    from tqdm import tqdm

    require_labels(model)
    if whole_number("clips_per_cell", clips_per_cell) < 1:
        raise ValueError(
            "There must be at least one clip of each digit by each speaker, "
            f"but got {clips_per_cell=}."
        )
    counts = [len(model.labels[name]) for name in LABELS]
    whole_number("total", total)
    clips_in_all = clips_per_cell * math.prod(counts)
    checked_seed(seed, clips_in_all)
    samples_of(model, total / model.sample_rate, clips_in_all)
    cells = torch.cartesian_prod(*map(torch.arange, counts)).repeat_interleave(
        clips_per_cell, dim=0
    )
    choices = [
        {name: model.labels[name][i] for name, i in zip(LABELS, cell, strict=True)}
        for cell in cells.tolist()
    ]
    length = {} if model.draws_lengths else {"num_samples": total}
    generated = generate_each(model, choices, seed=seed, **length, **settings)
    bar = tqdm(generated, "generating", len(choices), unit="clip", disable=None)
    clips = [clip[:total] for clip in bar]
    return Clips(
        _padded(clips, total, _silence(model)),
        torch.tensor([*map(len, clips)]),
        dict(zip(LABELS, cells.T, strict=True)),
    )


def _padded(clips: Sequence[Tensor], total: int, value: float) -> Tensor:
    """Clips (time,) -> (N, total), each padded at its end with `value`."""
    return torch.stack([F.pad(clip, (0, total - len(clip)), value=value) for clip in clips])


def _silence(model: WaveNet) -> float:
    return float(model.codec.decode(torch.tensor(model.codec.silence)))


def end_as(clips: Clips, real: Clips, silence: float) -> Clips:
    """The clips, each silenced after the length of a real clip with the same labels.

    If no real clip has these labels, any real clip is used; candidates are used in turn. A model
    trained on clips that are cut at the end of the word never sees what follows a word, and does
    not stop after it.
    """
    lengths = []
    for turn, ids in enumerate(zip(*clips.labels.values(), strict=True)):
        same = torch.stack(
            [real.labels[name] == i for name, i in zip(clips.labels, ids, strict=True)]
        ).all(0)
        candidates = real.lengths[same] if same.any() else real.lengths
        lengths.append(candidates[turn % len(candidates)])
    ends = torch.stack(lengths)
    return Clips(
        clips.audio.where(torch.arange(clips.audio.shape[1]) < ends[:, None], silence),
        ends,
        clips.labels,
    )


# --- Evaluation ---


def evaluate(
    model: WaveNet,
    training: Clips,
    held_out: Clips,
    *,
    clips_per_cell: int = 10,
    seed: int = 0,
    epochs: int = 20,
    real_lengths: bool = False,
    **settings: Any,
) -> Evaluation:
    """Generates clips, trains a classifier on the real training clips, and compares the sets.

    training, held_out: from `read_clips`, all clips of the same length. real_lengths: see `end_as`.
    settings: temperature, top_p, engine ...; see `wavenet.generate`. Raises ValueError before
    anything is drawn for a set of less than two clips, and for settings out of range.
    """
    for name, clips in (("training", training), ("held-out", held_out)):
        if len(clips.audio) < 2:
            raise ValueError(
                f"The scores need at least 2 {name} clips, but there is {len(clips.audio)}: widen "
                f"--{name}-pattern."
            )
    if whole_number("epochs", epochs) < 1:
        raise ValueError(f"The classifier needs at least one epoch, but got {epochs}.")
    generated = generate_clips(model, clips_per_cell, training.audio.shape[1], seed, **settings)
    if real_lengths:
        generated = end_as(generated, training, _silence(model))
    return _compare(
        {"training": training, "held_out": held_out, "generated": generated}, model, epochs, seed
    )


def _compare(sets: Mapping[str, Clips], model: WaveNet, epochs: int, seed: int) -> Evaluation:
    training, generated = sets["training"], sets["generated"]
    mels = {name: log_mel(clips.audio, model.sample_rate) for name, clips in sets.items()}

    # Scores of generated clips mean little if the classifier fails on real ones: log that first.
    categories = {name: len(model.labels[name]) for name in LABELS}
    classifier = train_classifier(
        mels["training"], training.labels, categories, epochs=epochs, seed=seed
    )
    heard = {name: hear(classifier, mel) for name, mel in mels.items()}
    rates = {name: accuracy(heard[name][1], clips.labels) for name, clips in sets.items()}
    shown = ", ".join(f"{name} {rate:.1%}" for name, rate in rates["held_out"].items())
    logger.info("classifier on real held-out clips: %s", shown)

    distances = {name: _nearest(mels[name], mels["training"]) for name in ("held_out", "generated")}
    limit = distances["held_out"].quantile(0.01)
    return Evaluation(
        accuracy=rates,
        confusion=confusion(heard["generated"][1][LABELS[0]], generated.labels[LABELS[0]]),
        scores={name: _scores(heard[name], heard["training"]) for name in sets},
        distances={name: _summary(values) for name, values in distances.items()},
        nearer=float((distances["generated"] < limit).double().mean()),
        generated=generated,
    )


def _scores(
    heard: tuple[Tensor, dict[str, Tensor]], training: tuple[Tensor, dict[str, Tensor]]
) -> Scores:
    """heard, training: features and probabilities, as `hear` returns them."""
    digits, reference = heard[1][LABELS[0]], training[1][LABELS[0]]
    scores = (
        inception_score(digits),
        modified_inception_score(digits),
        am_score(digits, reference),
    )
    return Scores(frechet_distance(heard[0], training[0]), *scores)


def _nearest(mel: Tensor, training: Tensor) -> Tensor:
    return DECIBELS * nearest_distances(mel, training, SHIFT, SILENCE)


def _summary(distances: Tensor) -> Distances:
    quartiles = distances.quantile(torch.tensor([0, 0.25, 0.5, 0.75], dtype=distances.dtype))
    return Distances(*quartiles.tolist())


def table(result: Evaluation, digits: Sequence[str]) -> str:
    """The text that is printed: the scores of each set, then the confusion matrix of the digits."""
    columns = "".join(f"{column:>9}" for column in (*LABELS, "FID", "IS", "mIS", "AM"))
    lines = [f"{'clips':<12}{columns}   nearest training clip"]
    for name, scores in result.scores.items():
        rates = "".join(f"{result.accuracy[name][label]:>9.1%}" for label in LABELS)
        row = f"{scores.fid:9.2f}{scores.inception:9.2f}"
        row += f"{scores.modified_inception:9.1f}{scores.am:9.3f}"
        distances = _distances(result.distances.get(name))
        lines.append(f"{name.replace('_', ' '):<12}{rates}{row}{distances}")
    lines.append(
        f"generated clips nearer than the 1st percentile of held-out clips: {result.nearer:.1%}"
    )
    lines.append("asked  heard" + "".join(f"{digit:>5}" for digit in digits))
    for digit, counts in zip(digits, result.confusion, strict=True):
        lines.append(f"{digit:<12}" + "".join(f"{count:5d}" for count in counts))
    return "\n".join(lines)


def _distances(near: Distances | None) -> str:
    return (
        "   min {:.1f}, quartiles {:.1f} {:.1f} {:.1f} dB".format(*asdict(near).values())
        if near
        else ""
    )


FILES = ("evaluation.json", "clips.png", "confusion.png")


def contents(
    folder: Path, result: Evaluation, held_out: Clips, model: WaveNet, settings: Mapping[str, Any]
) -> Iterator[tuple[Path, bytes]]:
    """Of FILES: numbers and settings, generated clips above real ones, confusions of digits."""
    found = {k: v for k, v in asdict(result).items() if k != "generated"}
    content = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
        **found,
    }
    confused = _confusion_picture(result.confusion, model.labels[LABELS[0]])
    numbers, clips, confusion_picture = (folder / name for name in FILES)
    yield numbers, (json.dumps(content, indent=2) + "\n").encode()
    yield clips, figure_png(_pairs(result.generated, held_out, model))
    yield confusion_picture, figure_png(confused)


def _pairs(generated: Clips, real: Clips, model: WaveNet) -> Any:
    """A figure with a column for each digit that has a real clip; the speakers take turns."""
    rows: dict[str, list[Tensor]] = {"generated": [], "real": []}
    titles = []
    digits = model.labels["digit"]
    for digit, name in enumerate(digits):
        # Real clips are sorted by speaker: a later start for each digit reaches other speakers.
        candidates = (real.labels["digit"] == digit).nonzero().flatten().tolist()
        for row in candidates[len(candidates) * digit // len(digits) :][:1]:
            speaker = int(real.labels["speaker"][row])
            same_digit = generated.labels["digit"] == digit
            same = (same_digit & (generated.labels["speaker"] == speaker)).nonzero()
            titles.append(f"{name} {model.labels['speaker'][speaker]}")
            rows["generated"].append(generated.audio[int(same[0])])
            rows["real"].append(real.audio[row])
    return plot_spectrograms(rows, model.sample_rate, titles)


def _confusion_picture(counts: list[list[int]], digits: Sequence[str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="magma")
    axes.set(xlabel="heard", ylabel="asked", xticks=range(len(digits)), yticks=range(len(digits)))
    axes.set(xticklabels=digits, yticklabels=digits)
    return figure


# --- The command ---


def parser(prog: str = "python -m wavenet.evaluation") -> argparse.ArgumentParser:
    p = CommandParser(
        prog=prog,
        description="Judge generated spoken digits against real ones.",
    )
    _add_data_options(p)
    _add_generation_options(p)
    return p


def _add_data_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--checkpoint", type=Path, required=True, help="a run, its model/ folder or a .ckpt file"
    )
    p.add_argument(
        "--root", type=Path, required=True, help="folder of real clips, digit_speaker_index.wav"
    )
    p.add_argument(
        "--label-pattern",
        default=LABEL_PATTERN,
        help="regular expression with the groups digit and speaker (%(default)s)",
    )
    p.add_argument(
        "--training-pattern",
        default=TRAINING_PATTERN,
        help="paths of the clips the model was trained on (%(default)s)",
    )
    p.add_argument(
        "--held-out-pattern",
        default=HELD_OUT_PATTERN,
        help="paths of clips the model was not trained on (%(default)s)",
    )
    p.add_argument(
        "--out", type=Path, help="folder for evaluation.json, clips.png and confusion.png"
    )


def _add_generation_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--clips-per-cell",
        type=int,
        default=10,
        help="clips of each digit by each speaker (%(default)s)",
    )
    p.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="length of every clip; real clips are cut or padded to it (%(default)s)",
    )
    p.add_argument(
        "--real-lengths",
        action="store_true",
        help="silence each generated clip after the length of a real one, for models that do "
        "not learn where a clip ends",
    )
    add_sampling_arguments(p)
    add_engine_argument(p)
    p.add_argument(
        "--epochs",
        type=int,
        default=20,
        help="passes of the classifier over the training clips (%(default)s)",
    )
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the classifier and of the first clip (%(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    for name in FILES if args.out else ():
        require_place(args.out / name, Path(name).suffix, "--out")
    model = load_model(args.checkpoint)
    training_paths = {*find_clips(args.root, args.training_pattern)}
    if both := training_paths & {*find_clips(args.root, args.held_out_pattern)}:
        raise ValueError(
            f"{len(both)} clips match both --training-pattern and --held-out-pattern, such as "
            f"'{min(both)}'. Change the patterns so that no clip matches both."
        )
    training = read_clips(model, args.root, args.training_pattern, args.seconds, args.label_pattern)
    held_out = read_clips(model, args.root, args.held_out_pattern, args.seconds, args.label_pattern)
    result = evaluate(
        model,
        training,
        held_out,
        clips_per_cell=args.clips_per_cell,
        seed=args.seed,
        epochs=args.epochs,
        real_lengths=args.real_lengths,
        engine=args.engine,
        **sampling_of(args),
    )
    print(table(result, model.labels[LABELS[0]]))
    if args.out:
        write_all(contents(args.out, result, held_out, model, vars(args)))


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m wavenet.evaluation"
) -> None:
    # INFO for this module only: the engines would log the same line for every batch.
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    run_command(lambda: run(parser(prog).parse_args(arguments)))
