"""Owns what an evaluation of digits leaves: the tables that are printed, the figures, the pictures.

Knows nothing of how they were found. matplotlib is imported only in the functions that use it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from wavenet.evaluation.clips import LABELS, Clips
from wavenet.evaluation.judges import VOTE
from wavenet.evaluation.results import Distances, Evaluation
from wavenet.evaluation.scores import Share
from wavenet.model import WaveNet
from wavenet.plotting import figure_png, plot_spectrograms

FILES = ("evaluation.json", "clips.png", "confusion.png", "accuracy.png")
TITLES = {
    "training": "training, coded",
    "held_out": "held out",
    "held_out_coded": "held out, coded",
    "generated": "generated",
}


def table(result: Evaluation, labels: Mapping[str, Sequence[str]]) -> str:
    """The text that is printed: what the judges hear in each set, in real clips first; the scores;
    the digits and the speakers one by one; the digits that were asked and heard.
    """
    parts = [
        _accuracies(result),
        _scores(result),
        *(_each(result.each[name], labels[name], name) for name in LABELS),
        _confusions(result.confusion, labels[LABELS[0]]),
    ]
    return "\n\n".join(parts)


def _accuracies(result: Evaluation) -> str:
    lines = [_header("clips", f"{'label':<9}", next(iter(result.accuracy.values()))[LABELS[0]])]
    for name in ("held_out", "held_out_coded", "training", "generated"):
        for label, heard in result.accuracy[name].items():
            lines.append(f"{TITLES[name]:<17}{label:<9}" + _row(heard))
    return "\n".join(lines)


def _header(first: str, second: str, judges: Mapping[str, Any]) -> str:
    others = "".join(f"{name:>14}" for name in judges if name != VOTE)
    return f"{first:<17}{second}{VOTE + ', 95% interval':>29}{others}"


def _row(heard: Mapping[str, Share]) -> str:
    vote = heard[VOTE]
    shown = f"{vote.right:>7} of {vote.total:<4} {vote.fraction:6.1%}"
    shown += f" [{100 * vote.low:4.1f} {100 * vote.high:5.1f}]"
    others = "".join(f"{other.fraction:>14.1%}" for name, other in heard.items() if name != VOTE)
    return f"{shown:>29}{others}"


def _each(heard: Mapping[str, Sequence[Share]], categories: Sequence[str], label: str) -> str:
    """A row for each category of a label, of the clips that were generated with it."""
    lines = [_header(f"generated, {label}", " " * 9, heard)]
    for index, category in enumerate(categories):
        one = {name: shares[index] for name, shares in heard.items()}
        lines.append(f"{category:<26}" + _row(one))
    return "\n".join(lines)


def _scores(result: Evaluation) -> str:
    columns = "".join(f"{column:>9}" for column in ("FID", "IS", "mIS", "AM"))
    lines = [f"{'clips':<17}{columns}   nearest training clip"]
    for name, scores in result.scores.items():
        row = f"{scores.fid:9.2f}{scores.inception:9.2f}"
        row += f"{scores.modified_inception:9.1f}{scores.am:9.3f}"
        lines.append(f"{TITLES[name]:<17}{row}{_distances(result.distances.get(name))}")
    lines.append(
        "generated clips nearer than the 1st percentile of held-out clips, coded: "
        f"{result.nearer:.1%}"
    )
    return "\n".join(lines)


def _distances(near: Distances | None) -> str:
    return (
        "   min {:.1f}, quartiles {:.1f} {:.1f} {:.1f} dB".format(*asdict(near).values())
        if near
        else ""
    )


def _confusions(counts: Sequence[Sequence[int]], digits: Sequence[str]) -> str:
    lines = ["asked  heard" + "".join(f"{digit:>5}" for digit in digits)]
    for digit, row in zip(digits, counts, strict=True):
        lines.append(f"{digit:<12}" + "".join(f"{count:5d}" for count in row))
    return "\n".join(lines)


def contents(
    folder: Path, result: Evaluation, held_out: Clips, model: WaveNet, settings: Mapping[str, Any]
) -> Iterator[tuple[Path, bytes]]:
    """Of FILES: numbers and settings, generated clips above real ones, confusions of digits, and
    what is heard of each digit and speaker.
    """
    found = {k: v for k, v in asdict(result).items() if k != "generated"}
    content = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
        **found,
    }
    numbers, clips, confused, accuracy = (folder / name for name in FILES)
    yield numbers, (json.dumps(content, indent=2) + "\n").encode()
    yield clips, figure_png(_pairs(result.generated, held_out, model))
    yield confused, figure_png(_confusion_picture(result.confusion, model.labels[LABELS[0]]))
    yield accuracy, figure_png(_accuracy_picture(result, model.labels))


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


def _accuracy_picture(result: Evaluation, labels: Mapping[str, Sequence[str]]) -> Any:
    """The vote with its interval as bars, each judge as a point."""
    from matplotlib.figure import Figure

    counts = [len(labels[name]) for name in LABELS]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    places = figure.subplots(1, 2, width_ratios=counts, sharey=True)
    for axes, label in zip(places, LABELS, strict=True):
        for name, shares in result.each[label].items():
            at = range(len(shares))
            heights = [100 * share.fraction for share in shares]
            if name != VOTE:
                axes.plot(at, heights, ".", label=name)
                continue
            below = [100 * (share.fraction - share.low) for share in shares]
            above = [100 * (share.high - share.fraction) for share in shares]
            axes.bar(at, heights, color="lightgrey", label=name)
            axes.errorbar(at, heights, [below, above], fmt="none", color="grey", capsize=3)
        axes.set(xlabel=label, xticks=range(len(labels[label])), xticklabels=labels[label])
        axes.tick_params("x", labelsize="small")
    figure.axes[0].set(ylabel="heard as asked, %", ylim=(0, 103))
    figure.axes[0].legend(loc="lower left", fontsize="small")
    return figure
