"""Owns the clips that are judged: real ones read from files, generated ones, their labels and ends.

Knows nothing of classifiers or scores. Shapes: N clips, T time.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.audio import load_audio
from wavenet.generation import checked_seed, generate_each, whole_number
from wavenet.installation import require
from wavenet.machine import memory, size
from wavenet.model import WaveNet

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


def read_clips(
    model: WaveNet, root: Path, pattern: str, seconds: float, label_pattern: str = LABEL_PATTERN
) -> Clips:
    """The wav files under `root` with a path that matches `pattern`, cut or padded to `seconds`.

    The padding is silence. Raises ValueError if no file matches, if `label_pattern` does not give a
    file's labels, or if the model does not know them.
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
    return Clips(_padded(clips, total, 0.0), torch.tensor([*map(len, clips)]), labels)


def through_codec(clips: Clips, model: WaveNet) -> Clips:
    """The clips encoded and decoded as the model hears and speaks them: what it can do at best."""
    return replace(clips, audio=model.decode(model.encode(clips.audio)))


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
        _padded(clips, total, model.silent_audio),
        torch.tensor([*map(len, clips)]),
        dict(zip(LABELS, cells.T, strict=True)),
    )


def _padded(clips: Sequence[Tensor], total: int, value: float) -> Tensor:
    """Clips (time,) -> (N, total), each padded at its end with `value`."""
    return torch.stack([F.pad(clip, (0, total - len(clip)), value=value) for clip in clips])


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
