"""Owns the command `wavenet generate`, in a clone `python generate.py`: audio as wav from a model.

Knows nothing of networks or engines.
"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from wavenet.audio import load_audio, write_pcm
from wavenet.checkpoints import load_model, model_name, newest_or_bundled, to_device
from wavenet.evaluation.distances import describe_copies
from wavenet.frames import frames_given
from wavenet.gallery import write_gallery
from wavenet.generation import seconds_of, stream
from wavenet.installation import CommandParser, require, spelled
from wavenet.machine import set_threads
from wavenet.model import WaveNet
from wavenet.results import NEW, Wavs, require_place
from wavenet.terminal import (
    Interruptible,
    add_engine_argument,
    add_match_argument,
    add_sampling_arguments,
    chunk_size,
    label_choice,
    run_command,
    sampling_of,
    with_progress,
)

STDOUT = Path("-")
SECONDS = 2.0  # of a clip, from a model that does not plan for its length


def parser(prog: str) -> argparse.ArgumentParser:
    p = CommandParser(
        prog=prog,
        description="Draw audio from a trained WaveNet and write it as wav.",
        epilog="examples:\n"
        f"  {prog} --labels digit=7,speaker=jackson --batch 4 --plot digits.png\n"
        f"  {prog} --gallery digits/\n"
        f"  {prog} --checkpoint runs/default --out - --seconds inf | "
        "ffplay -f s16le -ar 8000 -i -    raw PCM",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--checkpoint",
        help="a run, its model/ folder, a .ckpt file, fsdd (bundled: spoken digits) or user/model "
        "of the Hugging Face Hub; default: the newest in --runs, and where there is none yet, fsdd",
    )
    p.add_argument("--runs", type=Path, help="where to look for the newest run (runs)")
    p.add_argument(
        "--out",
        type=Path,
        help="wav to write; with --batch N, N files NAME-0.wav ...; -: raw 16-bit PCM to stdout; "
        "default: a new name",
    )
    add_clip_arguments(p)
    add_sampling_arguments(p)
    p.add_argument(
        "--seed", type=int, default=0, help="clip i is drawn from seed + i (%(default)s)"
    )
    add_engine_argument(p)
    p.add_argument(
        "--precision",
        default="float32",
        choices=["float32", "bfloat16", "int8"],
        help="of weights and activations (%(default)s)",
    )
    p.add_argument(
        "--threads",
        type=int,
        help="most threads of the CPU; default: one a physical core. Few streams use one",
    )
    p.add_argument(
        "--device", default="auto", help="auto: cuda where there is one; or cpu, cuda, cuda:1"
    )
    p.add_argument("--plot", type=Path, help="PNG to write: waveform and spectrogram of each clip")
    p.add_argument(
        "--gallery",
        type=Path,
        metavar="FOLDER",
        help="write FOLDER/index.html instead: one page with a player and a spectrogram for every "
        "combination of labels",
    )
    return p


def add_clip_arguments(p: argparse.ArgumentParser) -> None:
    """What the clips are to be."""
    p.add_argument(
        "--seconds",
        type=float,
        help="length of each clip, without its prompt; inf with --out -: until Ctrl-C; default: "
        "drawn by a model that plans its clips, as fsdd does, that of the frames for one with mel, "
        "and 2 for others",
    )
    p.add_argument(
        "--batch",
        type=int,
        default=1,
        help="clips at once; clip i sounds the same in every batch (%(default)s)",
    )
    p.add_argument(
        "--labels",
        type=label_choice,
        default={},
        metavar="NAME=VALUE,...",
        help="left out: drawn from the seed",
    )
    p.add_argument(
        "--prompt",
        type=Path,
        help="audio file to go on from, any rate and channels; it opens the result",
    )
    p.add_argument(
        "--mel-from",
        type=Path,
        help="for a model with mel: audio to make again from its log mel spectrogram; prints how "
        "far the result is from it",
    )
    p.add_argument(
        "--mel",
        type=Path,
        help="for a model with mel: log mel frames (bands, frames), .npy or .pt; -: raw float32 "
        "frames on stdin, with --out - drawn as they come",
    )
    add_match_argument(p)


def run(args: argparse.Namespace) -> None:
    check(args)
    source = newest_or_bundled(args.runs) if args.checkpoint is None else args.checkpoint
    model = to_device(load_model(source), args.device)
    settings = {
        "seconds": seconds_of(model, args.seconds, SECONDS),
        "labels": args.labels,
        "seed": args.seed,
        "engine": args.engine,
        "precision": args.precision,
        **sampling_of(args),
    }
    if args.gallery:
        settings["watch"] = lambda clips: with_progress(clips, model.sample_rate)
        print(write_gallery(args.gallery, model, model_name(source), **settings))
    else:
        draw(args, model, settings)


def draw(args: argparse.Namespace, model: WaveNet, settings: dict[str, Any]) -> None:
    prompt = load_audio(args.prompt, model.sample_rate) if args.prompt else None
    model.require_mel(args.mel_from or args.mel)
    mel, recording = frames_given(args, model.mel, model.sample_rate)
    size = {"batch_size": args.batch, "chunk_size": chunk_size(args.batch)}
    steered = {"prompt": prompt, "mel": mel, "match_mel": args.match_mel}
    chunks = stream(model, **steered, **size, **settings)
    read = [] if prompt is None else [model.decode(model.encode(prompt))]
    opening = [audio.expand(args.batch, -1) for audio in read]
    made = Interruptible(with_progress(chunks, model.sample_rate))
    if args.out == STDOUT:
        with made:
            write_pcm(sys.stdout.fileno(), chain(opening, made))
    else:
        chunks.require_memory()
        before = sum(x.shape[1] for x in opening)
        wavs = Wavs(args.out, chunks.ends(before), model.sample_rate)
        with made:
            clips = chunks.cut(torch.cat([*opening, *made], dim=1), before)
            wavs.write(clips, args.plot, recording, chunks.labels, prompt=before)
        for line in describe_copies(clips, recording, model.sample_rate):
            print(line)
    made.end()


def check(args: argparse.Namespace) -> None:
    set_threads(args.threads)
    if args.plot or args.gallery:
        require("--gallery" if args.gallery else "--plot", "matplotlib")
    clips = (args.out, args.batch != 1, args.prompt, args.plot)
    frames = (args.mel_from, args.mel, args.match_mel)
    if args.gallery and any(clips + frames):
        raise ValueError(
            "--gallery draws clips of its own: leave out --out, --batch, --prompt, --mel-from, "
            "--mel, --match-mel and --plot."
        )
    if args.out == STDOUT and (args.batch != 1 or args.plot):
        raise ValueError(
            "--out - writes one stream as it is made: leave out --batch and --plot, or name a wav "
            "file."
        )
    if args.out != STDOUT and args.seconds is not None and not math.isfinite(args.seconds):
        raise ValueError(
            f"--seconds {args.seconds}: a file needs an end. Give a number, or --out - for a "
            "stream."
        )
    require_places(args)


def require_places(args: argparse.Namespace) -> None:
    if args.out == STDOUT and sys.stdout is None:
        raise ValueError("--out - writes to stdout, but it is closed. Name a wav file.")
    if args.out != STDOUT and not args.gallery:
        require_place(args.out or NEW, ".wav", "--out")
    require_place(args.plot, ".png", "--plot")
    if args.gallery:
        require_place(args.gallery / "index.html", ".html", "--gallery")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """arguments: of the command line, where none are given. prog: the command, for its help."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command(lambda: run(parser(prog or spelled("generate")).parse_args(arguments)))
