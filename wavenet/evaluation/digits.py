"""Owns the evaluation of a model of spoken digits, by judges that learned from real clips.

    wavenet evaluate digits --checkpoint runs/fsdd --root DIR --out FOLDER

Knows nothing of training a WaveNet or of its likelihood (`wavenet train test` gives the bits per
sample), nor of the formulas and the judges' networks. Shapes: N clips, T time.

Settings are chosen on the clips and by the judges of one split, and what they are worth comes from
those of the other. No judge learns from a held-out clip.

    --split tune    seeds       0 to   999,999, judges of seed 0
    --split report  seeds 1,000,000 to 1,999,999, judges of seed 1
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavenet.checkpoints import load_model
from wavenet.evaluation.classifier import DECIBELS, SHIFT, SILENCE, log_mel
from wavenet.evaluation.clips import (
    HELD_OUT_PATTERN,
    LABEL_PATTERN,
    LABELS,
    TRAINING_PATTERN,
    Clips,
    end_as,
    find_clips,
    generate_clips,
    read_clips,
    require_labels,
    through_codec,
)
from wavenet.evaluation.judges import SCORER, VOTE, Ensemble, ensemble
from wavenet.evaluation.learning import Probabilities, require_epochs
from wavenet.evaluation.report import FILES, contents, table
from wavenet.evaluation.results import Distances, Evaluation, Scores
from wavenet.evaluation.scores import (
    Share,
    am_score,
    confusion,
    frechet_distance,
    inception_score,
    modified_inception_score,
    nearest_distances,
    shares,
)
from wavenet.generation import whole_number
from wavenet.installation import CommandParser
from wavenet.model import WaveNet
from wavenet.results import require_place, write_all
from wavenet.terminal import add_engine_argument, add_sampling_arguments, run_command, sampling_of

logger = logging.getLogger(__name__)

SPLITS = ("tune", "report")
SEEDS = 1_000_000  # of a split
Heard = dict[str, dict[str, Probabilities]]  # set -> judge -> label -> (N, K)


def evaluate(
    model: WaveNet,
    training: Clips,
    held_out: Clips,
    *,
    clips_per_cell: int = 10,
    split: str = "report",
    seed: int = 0,
    epochs: int = 20,
    real_lengths: bool = False,
    **settings: Any,
) -> Evaluation:
    """Generates clips, has judges learn from the real training clips, and compares the sets.

    training, held_out: from `read_clips`, all clips of the same length. split, seed: see above;
    clip i is drawn from seed + i of the split. real_lengths: see `end_as`. settings: temperature,
    top_p, engine ...; see `wavenet.generate`. Raises ValueError before anything is drawn for a set
    of less than two clips, and for settings out of range.
    """
    for name, clips in (("training", training), ("held-out", held_out)):
        if len(clips.audio) < 2:
            raise ValueError(
                f"The scores need at least 2 {name} clips, but there is {len(clips.audio)}: widen "
                f"--{name}-pattern."
            )
    require_epochs(whole_number("epochs", epochs))
    require_labels(model)
    cells = len(model.labels[LABELS[0]]) * len(model.labels[LABELS[1]])
    first = first_seed(split, seed, cells * clips_per_cell)
    generated = generate_clips(model, clips_per_cell, training.audio.shape[1], first, **settings)
    if real_lengths:
        generated = end_as(generated, training, model.silent_audio)
    learned_from = through_codec(training, model)
    sets = {
        "training": learned_from,
        "held_out": held_out,
        "held_out_coded": through_codec(held_out, model),
        "generated": generated,
    }
    categories = {name: len(model.labels[name]) for name in LABELS}
    from_clips = (learned_from.audio, learned_from.labels, categories, model.sample_rate)
    return _compare(sets, ensemble(*from_clips, epochs=epochs, seed=SPLITS.index(split)), model)


def first_seed(split: str, seed: int, clips: int) -> int:
    """The seed of a split's clip. Raises ValueError where one of so many lies outside of it."""
    if split not in SPLITS:
        raise ValueError(f"A split of seeds is {' or '.join(SPLITS)}, but got {split!r}.")
    if clips > SEEDS:
        raise ValueError(
            f"A split has {SEEDS:,} seeds, one for each clip, but {clips:,} clips were asked for. "
            "Give fewer --clips-per-cell."
        )
    most = SEEDS - max(clips, 1)
    if not 0 <= whole_number("seed", seed) <= most:
        raise ValueError(
            f"seed must be from 0 to {most}, as the {clips} clips of a split are drawn from its "
            f"own {SEEDS:,} seeds, but got {seed}."
        )
    return SPLITS.index(split) * SEEDS + whole_number("seed", seed)


def _compare(sets: Mapping[str, Clips], judges: Ensemble, model: WaveNet) -> Evaluation:
    heard = {name: judges.hear(clips.audio) for name, clips in sets.items()}
    rates = {name: _accuracies(heard[name], clips.labels) for name, clips in sets.items()}
    # Scores of generated clips mean little if the judges fail on real ones: log that first.
    for name, title in (("held_out", "real held-out clips"), ("held_out_coded", "the same, coded")):
        shown = [f"{label} {found[VOTE].fraction:.1%}" for label, found in rates[name].items()]
        logger.info("the judges' vote on %s: %s", title, ", ".join(shown))

    generated, spoken = sets["generated"], heard["generated"]
    compared = ("held_out_coded", "generated")
    training, *others = (
        log_mel(sets[name].audio, model.sample_rate) for name in ("training", *compared)
    )
    distances = {name: _nearest(mel, training) for name, mel in zip(compared, others, strict=True)}
    features = {name: judges.features(clips.audio) for name, clips in sets.items()}
    digits = {name: found[SCORER][LABELS[0]] for name, found in heard.items()}
    limit = distances["held_out_coded"].quantile(0.01)
    return Evaluation(
        accuracy=rates,
        each={name: _of_each(spoken, generated.labels[name], name) for name in LABELS},
        confusion=confusion(spoken[VOTE][LABELS[0]], generated.labels[LABELS[0]]),
        scores={
            name: _scores(features[name], digits[name], features["training"], digits["training"])
            for name in sets
        },
        distances={name: _summary(values) for name, values in distances.items()},
        nearer=float((distances["generated"] < limit).double().mean()),
        generated=generated,
    )


def _accuracies(
    heard: Mapping[str, Probabilities], labels: Mapping[str, Tensor]
) -> dict[str, dict[str, Share]]:
    """Of one set: label -> judge -> share."""
    return {
        label: {judge: shares(found[label].argmax(1), asked)[0] for judge, found in heard.items()}
        for label, asked in labels.items()
    }


def _of_each(
    heard: Mapping[str, Probabilities], asked: Tensor, label: str
) -> dict[str, list[Share]]:
    """Judge -> the shares of each category of the label."""
    return {
        judge: shares(found[label].argmax(1), asked, groups=asked) for judge, found in heard.items()
    }


def _scores(features: Tensor, digits: Tensor, reference: Tensor, wanted: Tensor) -> Scores:
    """Of features (N, D) and probabilities (N, K), against those of the training clips."""
    spread = (inception_score(digits), modified_inception_score(digits), am_score(digits, wanted))
    return Scores(frechet_distance(features, reference), *spread)


def _nearest(mel: Tensor, training: Tensor) -> Tensor:
    return DECIBELS * nearest_distances(mel, training, SHIFT, SILENCE)


def _summary(distances: Tensor) -> Distances:
    quartiles = distances.quantile(torch.tensor([0, 0.25, 0.5, 0.75], dtype=distances.dtype))
    return Distances(*quartiles.tolist())


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
        "--out",
        type=Path,
        help="folder for evaluation.json, clips.png, confusion.png, accuracy.png",
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
        help="passes of the judges over the training clips (%(default)s)",
    )
    p.add_argument(
        "--split",
        choices=SPLITS,
        default="report",
        help="which seeds clips are drawn from, and which judges hear them. Choose settings, such "
        "as guidance, by tune; what they are worth is what report says (%(default)s)",
    )
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the first clip, counted within the split (%(default)s)",
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
        split=args.split,
        seed=args.seed,
        epochs=args.epochs,
        real_lengths=args.real_lengths,
        engine=args.engine,
        **sampling_of(args),
    )
    print(table(result, model.labels))
    if args.out:
        write_all(contents(args.out, result, held_out, model, vars(args)))


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m wavenet.evaluation"
) -> None:
    # INFO for this package only: the engines would log the same line for every batch.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("wavenet.evaluation").setLevel(logging.INFO)
    run_command(lambda: run(parser(prog).parse_args(arguments)))
