"""Owns the evaluation of a vocoder: recordings made again from their mel spectrograms.

    python -m wavenet.evaluation.vocoder --checkpoint runs/fsdd_vocoder --root DIR --out FOLDER

Beside the model stand its audio matched to the spectrograms, Griffin-Lim's algorithm from the same
spectrograms, that audio and white noise matched in the same way, which shows what the model adds,
and the recordings through the model's own samples and back, which is the best that it could draw.
Knows nothing of training. Shapes: M bands, F frames, T time.
"""

import argparse
import json
import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from wavenet.audio import load_audio
from wavenet.checkpoints import load_model
from wavenet.conditioning import Mel, match_mel, unmatchable
from wavenet.conditioning.matching import PASSES
from wavenet.evaluation.digits import find_clips
from wavenet.evaluation.distances import FLOOR_DB, Measure, measures
from wavenet.generation import AT_ONCE, checked_passes, generate
from wavenet.installation import CommandParser, torchaudio_here
from wavenet.model import WaveNet
from wavenet.plotting import figure_png, plot_spectrograms
from wavenet.results import require_place, write_all
from wavenet.terminal import (
    add_engine_argument,
    add_match_argument,
    add_sampling_arguments,
    run_command,
    sampling_of,
)

logger = logging.getLogger(__name__)

ITERATIONS = 60  # of Griffin-Lim
NOISE = 0.1  # standard deviation of the noise that is matched
SHOWN = 3  # clips in the picture
LONGEST = 1.5  # seconds of each
SEEN = ("model", "model, matched", "Griffin-Lim")  # in the picture
UNITS = {"LSD": "dB", "MCD": "dB"}
COMMAND = "python -m wavenet.evaluation.vocoder"
PICTURE, NUMBERS = "vocoder.png", "vocoder.json"


@dataclass(frozen=True)
class Score:
    """mean over clips, and its standard error; failed: clips that the measure could not take."""

    mean: float
    error: float
    clips: int
    failed: int = 0


def griffin_lim(mel: Mel, frames: Tensor, sample_rate: int, seed: int = 0) -> Tensor:
    """Log mel frames (M, F) -> audio (F * hop,) by torchaudio, ITERATIONS iterations.

    Griffin and Lim 1984, with momentum (Perraudin et al. 2013); magnitudes of frequencies from mel
    bands by least squares. Its frames are centred on their first samples, ours on their middle: its
    audio is half a hop early, and moved.
    """
    from torchaudio.transforms import GriffinLim, InverseMelScale

    to_magnitudes = InverseMelScale(
        n_stft=mel.window // 2 + 1,
        n_mels=mel.bands,
        sample_rate=sample_rate,
        f_min=mel.low,
        f_max=mel.high,
        norm="slaney",
        mel_scale="slaney",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        to_audio = GriffinLim(mel.window, ITERATIONS, hop_length=mel.hop, power=1.0)
        edge = frames.new_full((len(frames), 1), mel.silence)  # as many samples as the frames have
        made = to_audio(to_magnitudes(torch.cat([frames, edge], dim=1).exp()))
    late = torch.nn.functional.pad(made, (mel.hop // 2, 0))
    return late[: frames.shape[1] * mel.hop]


def copies(
    model: WaveNet,
    recordings: Sequence[Tensor],
    seed: int = 0,
    passes: int | None = None,
    **settings: Any,
) -> dict[str, list[Tensor]]:
    """Recordings (T,) made again in each way: clips of the same lengths, by the way's name.

    passes: of matching, 0: nothing is matched; None: PASSES where the model allows it. settings: of
    `generate`. Clip i is drawn from seed + i. Raises ValueError without mel.
    """
    if model.mel is None:
        raise ValueError("This model has no mel: train one with --config configs/fsdd_vocoder.yaml")
    mel = model.mel
    frames = [mel.spectrogram(clip, model.sample_rate) for clip in recordings]
    if passes is None:
        passes = _possible_passes(mel)
    passes = checked_passes(model, passes, frames)
    lengths = [len(clip) for clip in recordings]
    made = {"model": list(_generated(model, frames, seed, settings))}
    if passes:
        made["model, matched"] = _matched(made["model"], frames, model, passes)
    if torchaudio_here() is None:
        logger.info("without Griffin-Lim beside it, which needs a torchaudio that loads here")
    else:
        made["Griffin-Lim"] = [griffin_lim(mel, x, model.sample_rate, seed) for x in frames]
    if passes:
        others = {"Griffin-Lim": made.get("Griffin-Lim"), "noise": _noise(lengths, seed)}
        for way, clips in others.items():
            if clips is not None:
                made[f"{way}, matched"] = _matched(clips, frames, model, passes)
    made["samples and back"] = [model.decode(model.encode(x)) for x in recordings]
    return {
        way: [clip[:length] for clip, length in zip(clips, lengths, strict=True)]
        for way, clips in made.items()
    }


def _possible_passes(mel: Mel) -> int:
    """PASSES; 0, with the reason in the log, where audio cannot be matched to such frames."""
    if reason := unmatchable(mel):
        logger.info("nothing is matched: %s", reason)
        return 0
    return PASSES


def _matched(
    clips: Sequence[Tensor], frames: Sequence[Tensor], model: WaveNet, passes: int
) -> list[Tensor]:
    """Clips (T,) brought nearer to their frames, and no longer than these."""
    mel, rate = model.mel, model.sample_rate
    assert mel is not None
    return [
        match_mel(clip[None, : each.shape[1] * mel.hop], each, mel, rate, passes)[0]
        for clip, each in zip(clips, frames, strict=True)
    ]


def _noise(lengths: Sequence[int], seed: int) -> list[Tensor]:
    """White noise, a clip of each length."""
    seeded = torch.Generator().manual_seed(seed)
    return [NOISE * torch.randn(length, generator=seeded) for length in lengths]


def _generated(
    model: WaveNet, frames: Sequence[Tensor], seed: int, settings: Mapping[str, Any]
) -> Iterator[Tensor]:
    for start in range(0, len(frames), AT_ONCE):
        batch = list(frames[start : start + AT_ONCE])
        size = {"batch_size": len(batch), "seed": seed + start}
        yield from generate(model, mel=batch, **size, **settings)
        logger.info("%d of %d clips made", start + len(batch), len(frames))


def evaluate(
    made: Mapping[str, Sequence[Tensor]], recordings: Sequence[Tensor], sample_rate: int
) -> dict[str, dict[str, Score]]:
    """Way -> measure -> its score; LSD and MCD are better low, the others high."""
    there, missing = measures()
    if missing:
        logger.info(
            "not measured, as their packages are not installed: %s. They come with: pip install "
            "'wavenet-torch[vocoder]'",
            ", ".join(missing),
        )
    return {
        way: {
            name: _score(f"{name} of {way}", measure, clips, recordings, sample_rate)
            for name, measure in there.items()
        }
        for way, clips in made.items()
    }


def _score(
    what: str,
    measure: Measure,
    made: Sequence[Tensor],
    recordings: Sequence[Tensor],
    sample_rate: int,
) -> Score:
    """Of the clips that can be judged; a package may hear no speech in one."""
    values, reason = [], ""
    for clip, real in zip(made, recordings, strict=True):
        try:
            values.append(float(measure(clip.float(), real.float(), sample_rate)))
        except Exception as failure:  # each package has errors of its own
            values, reason = [*values, math.nan], f"{type(failure).__name__}: {failure}"
    good = [value for value in values if math.isfinite(value)]
    error = stdev(good) / math.sqrt(len(good)) if len(good) > 1 else math.nan
    mean = fmean(good) if good else math.nan
    if reason:
        failed = len(values) - len(good)
        logger.info("%s: %d of %d clips cannot be judged (%s)", what, failed, len(values), reason)
    return Score(mean, error, len(good), len(values) - len(good))


def table(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Ways as rows, measures as columns, each with its standard error."""
    names = list(next(iter(scores.values())))
    head = "".join(f"{f'{name} {UNITS.get(name, str())}'.strip():>16}" for name in names)
    rows = [
        f"{way:<22}" + "".join(f"{f'{x.mean:.3f} ± {x.error:.3f}':>16}" for x in row.values())
        for way, row in scores.items()
    ]
    return "\n".join([f"{'':<22}{head}", *rows])


def parser(prog: str = COMMAND) -> argparse.ArgumentParser:
    p = CommandParser(
        prog=prog,
        description="Make recordings again from their mel spectrograms, and measure how well.",
    )
    p.add_argument(
        "--checkpoint", type=Path, required=True, help="a run, its model/ folder or a .ckpt file"
    )
    p.add_argument("--root", type=Path, required=True, help="folder of recordings")
    p.add_argument(
        "--pattern",
        default=r"\.(wav|flac)$",
        help="regular expression over paths: clips the model was not trained on (%(default)s)",
    )
    p.add_argument(
        "--clips", type=int, default=60, help="recordings, drawn by --seed (%(default)s)"
    )
    p.add_argument("--seed", type=int, default=0, help="of recordings and clips (%(default)s)")
    add_sampling_arguments(p)
    add_match_argument(p, None)
    add_engine_argument(p)
    p.add_argument("--out", type=Path, help=f"folder for {NUMBERS} and {PICTURE}")
    return p


def run(args: argparse.Namespace) -> None:
    if args.clips < 1:
        raise ValueError(f"--clips must be at least 1, but got {args.clips}.")
    for name in (NUMBERS, PICTURE) if args.out else ():
        require_place(args.out / name, Path(name).suffix, "--out")
    model = load_model(args.checkpoint)
    paths = find_clips(args.root, args.pattern)
    chosen = sorted(random.Random(args.seed).sample(paths, min(args.clips, len(paths))))
    recordings = [load_audio(path, model.sample_rate) for path in chosen]
    how = {"engine": args.engine, **sampling_of(args)}
    made = copies(model, recordings, args.seed, args.match_mel, **how)
    scores = evaluate(made, recordings, model.sample_rate)
    print(table(scores))
    if args.out:
        write_all(_files(args, scores, made, recordings, model.sample_rate))


def _files(
    args: argparse.Namespace,
    scores: Mapping[str, Mapping[str, Score]],
    made: Mapping[str, Sequence[Tensor]],
    recordings: Sequence[Tensor],
    sample_rate: int,
) -> Iterator[tuple[Path, bytes]]:
    numbers = {way: {name: asdict(x) for name, x in row.items()} for way, row in scores.items()}
    about = {"settings": {name: str(x) for name, x in vars(args).items()}, "floor_db": FLOOR_DB}
    yield args.out / NUMBERS, (json.dumps({**about, "scores": numbers}, indent=2) + "\n").encode()
    parts = [_loudest(clip, round(LONGEST * sample_rate)) for clip in recordings[:SHOWN]]
    ways = {"recording": recordings, **{way: made[way] for way in SEEN if way in made}}
    rows = {
        way: [clip[part] for clip, part in zip(clips, parts, strict=False)]
        for way, clips in ways.items()
    }
    titles = [f"clip {i}, {part.start / sample_rate:.1f} s" for i, part in enumerate(parts)]
    yield args.out / PICTURE, figure_png(plot_spectrograms(rows, sample_rate, titles))


def _loudest(audio: Tensor, samples: int) -> slice:
    """So many samples of the clip (T,) with the most power; the whole of a shorter one."""
    power = torch.nn.functional.pad(audio.double().square().cumsum(0), (1, 0))
    start = int((power[samples:] - power[:-samples]).argmax()) if len(audio) > samples else 0
    return slice(start, start + samples)


def main(arguments: Sequence[str] | None = None, prog: str = COMMAND) -> None:
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    run_command(lambda: run(parser(prog).parse_args(arguments)))


if __name__ == "__main__":
    main()
