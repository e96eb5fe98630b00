"""Owns the gallery: one HTML file with a clip and its spectrogram for every label of a model.

Knows nothing of the command line or of loading models. The page loads nothing from a network: it
contains its audio and pictures, and its content security policy allows no others.
"""

import base64
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

from torch import Tensor

from wavenet.audio import wav_bytes
from wavenet.conditioning import label_ids
from wavenet.generation import Stream, draw_labels, generate_each, sampling_for
from wavenet.model import WaveNet
from wavenet.plotting import spectrogram_png
from wavenet.results import write_or_keep

LARGEST = 200  # the most combinations of labels that are all shown
TAKES = 8  # clips on the page if no label is left to vary


@dataclass(frozen=True)
class Clip:
    """One clip. audio: (time,). labels: a category for each label of the model.

    seed: `generate` with this seed and these labels gives this clip.
    """

    labels: dict[str, str]
    seed: int
    audio: Tensor


def write_gallery(
    folder: str | os.PathLike[str],
    model: WaveNet,
    name: str,
    *,
    seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
    watch: Callable[[Stream], Iterator[Tensor]] = iter,
    **sampling: Any,
) -> Path:
    """Writes FOLDER/index.html and returns its path.

    The page has a clip for every combination of the labels that `labels` does not fix. Clip number
    n is what `generate` gives for its labels, `seconds` and seed + n. `name`: the model's name on
    the page. watch: see `generate_each`. The file appears complete or not at all. Raises
    ValueError as `generate` does, and OSError where the page could not be written, with the place
    where it is kept.
    """
    given, how = dict(labels or {}), asdict(sampling_for(model, **sampling))
    if isinstance(sampling.get("guidance"), Mapping):
        how["guidance"] = dict(sampling["guidance"])
    choices = combinations(model, given, seed)
    run: dict[str, Any] = {"engine": engine, "precision": precision, "watch": watch}
    audio = generate_each(model, choices, seed=seed, seconds=seconds, **run, **how)
    clips = [
        Clip(choice, seed + n, sound)
        for n, (choice, sound) in enumerate(zip(choices, audio, strict=True))
    ]
    path = Path(folder) / "index.html"
    settings = {"seconds": seconds, "seed": seed, **how}
    write_or_keep(path, page(clips, model, name, given, settings).encode())
    return path


def combinations(model: WaveNet, given: Mapping[str, str], seed: int) -> list[dict[str, str]]:
    """The labels of each clip: every combination of the labels that `given` does not fix.

    The first label varies slowest. If there are more than LARGEST combinations: every category of
    the first free label, and the other labels as `generate` draws them from the seed. If no label
    is free: the same labels TAKES times. Raises ValueError for a label or category that the model
    does not know.
    """
    label_ids(model.labels, given, 1)
    free = {name: categories for name, categories in model.labels.items() if name not in given}
    if not free:
        return [dict(given)] * TAKES
    if not _too_many(free):
        return [
            {**given, **dict(zip(free, chosen, strict=True))} for chosen in product(*free.values())
        ]
    first, *others = free
    drawn = draw_labels(model, {*given, first}, len(free[first]), seed)
    return [
        {**given, first: category, **{name: drawn[name][n] for name in others}}
        for n, category in enumerate(free[first])
    ]


def _too_many(free: Mapping[str, Sequence[str]]) -> bool:
    return len(free) > 1 and math.prod(map(len, free.values())) > LARGEST


def page(
    clips: Sequence[Clip],
    model: WaveNet,
    name: str,
    given: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    """The HTML text. given: labels of all clips. settings: those of `generate`, for the caption."""
    free = {label: categories for label, categories in model.labels.items() if label not in given}
    whole = len(free) > 1 and not _too_many(free)
    body = (
        _table(clips, free, model.sample_rate)
        if whole
        else _row(clips, list(free), model.sample_rate)
    )
    return PAGE.substitute(
        title=escape(f"Clips of {name}"),
        caption=_caption(model, name, given, settings),
        notes=_notes(free),
        body=body,
    )


def _caption(
    model: WaveNet, name: str, given: Mapping[str, str], settings: Mapping[str, Any]
) -> str:
    facts = {
        "model": f"{name}, {model.num_parameters / 1e6:.2f} M parameters",
        "audio": f"{_duration(settings['seconds'])}, {model.sample_rate / 1000:g} kHz, generated",
        "temperature": f"{settings['temperature']:g}",
        "top-k": f"{settings['top_k']}" if settings["top_k"] else "",
        "top-p": f"{settings['top_p']:g}" if settings["top_p"] < 1 else "",
        "guidance": _guidance(settings["guidance"]),
        "seed": f"{settings['seed']}, one higher for each following clip",
        "all clips": _words(given, list(given)),
    }
    return "".join(
        f"<div><dt>{term}</dt><dd>{escape(fact)}</dd></div>" for term, fact in facts.items() if fact
    )


def _guidance(given: float | Mapping[str, float]) -> str:
    if isinstance(given, Mapping):
        return ", ".join(f"{strength:g} by {name}" for name, strength in given.items())
    return f"{given:g}" if given else ""


def _duration(seconds: float | None) -> str:
    return "lengths as in the corpus" if seconds is None else f"{seconds:g} s per clip"


def _notes(free: Mapping[str, Sequence[str]]) -> str:
    if not _too_many(free):
        return ""
    first, *others = free
    count = math.prod(map(len, free.values()))
    return (
        f"<p>There are {count} combinations of labels. This page has every {escape(first)}, "
        f"each with a random {escape(' and '.join(others))}, drawn from the seed.</p>"
    )


def _table(clips: Sequence[Clip], free: Mapping[str, Sequence[str]], sample_rate: int) -> str:
    """Rows are the first label, columns the combinations of the others.

    The role attributes keep it a table for screen readers on narrow screens, where the style sheet
    changes the display of its parts.
    """
    first, *others = free
    width = len(clips) // len(free[first])
    rows = [clips[start : start + width] for start in range(0, len(clips), width)]
    heads = "".join(
        f'<th role="columnheader" scope="col">{_words(clip.labels, others)}</th>'
        for clip in rows[0]
    )
    lines = "".join(
        f'<tr role="row"><th role="rowheader" scope="row">{_words(row[0].labels, [first])}</th>'
        + "".join(
            f'<td role="cell">{_figure(clip, list(free), others, sample_rate)}</td>' for clip in row
        )
        + "</tr>"
        for row in rows
    )
    corner = '<td role="cell"></td>'
    return (
        '<div class="wide" role="region" aria-label="Clips" tabindex="0"><table role="table">'
        f'<thead role="rowgroup"><tr role="row">{corner}{heads}</tr></thead>'
        f'<tbody role="rowgroup">{lines}</tbody></table></div>'
    )


def _row(clips: Sequence[Clip], names: Sequence[str], sample_rate: int) -> str:
    items = "".join(f"<li>{_figure(clip, names, names, sample_rate)}</li>" for clip in clips)
    return f'<ul class="row">{items}</ul>'


def _figure(clip: Clip, names: Sequence[str], shown: Sequence[str], sample_rate: int) -> str:
    """Picture, player and caption of one clip.

    names: the labels that differ between clips. shown: those of them that the caption shows.
    """
    what = _words(clip.labels, names) or f"seed {clip.seed}"
    picture = _data("image/png", spectrogram_png(clip.audio, sample_rate))
    sound = _data("audio/wav", wav_bytes(clip.audio, sample_rate))
    labels = f'<span class="labels">{_words(clip.labels, shown)}</span> ' if shown else ""
    return (
        f'<figure><img src="{picture}" alt="Spectrogram of {what}">'
        f'<audio controls preload="metadata" aria-label="{what}" src="{sound}"></audio>'
        f"<figcaption>{labels}<small>seed {clip.seed}</small></figcaption></figure>"
    )


def _words(labels: Mapping[str, str], names: Sequence[str]) -> str:
    return escape(", ".join(f"{name} {labels[name]}" for name in names))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


PAGE = Template((Path(__file__).parent / "gallery.html").read_text(encoding="utf-8"))
