"""Play a recording through a captured amplifier, in blocks as small as those of a sound card.

    python examples/amp/play.py guitar.wav amp/model.nam out.wav
    python examples/amp/play.py guitar.wav amp/model.nam out.wav --knobs drive=2:9,tone=5

Says how much faster than real time it ran, and how long the slowest block took: a sound card waits
for no block longer than it lasts. A knob that is given two places moves from one to the other.

Shapes: K knobs, T time.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from amp.model import Amp, load
from amp.recordings import read_pair
from amp.train import esr

from wavenet.audio import read_audio, save_audio
from wavenet.engines import Streamer, build_streamer


def streamed(
    streamer: Streamer, audio: Tensor, block: int, knobs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """audio (T,), knobs (1, K, T or 1) -> (T,), and the seconds that each block took."""
    made, took = [], []
    for begin in range(0, len(audio), block):
        x = audio[begin : begin + block].view(1, 1, -1)
        moved = knobs
        if knobs is not None and knobs.shape[-1] > 1:
            moved = knobs[..., begin : begin + block]
        begun = time.perf_counter()
        made.append(streamer.process(x, moved))
        took.append(time.perf_counter() - begun)
    return torch.cat(made, dim=-1).flatten(), torch.tensor(took)


def movement(text: str) -> dict[str, tuple[float, float]]:
    """drive=2:9,tone=5 -> where each knob begins and ends."""
    knobs = {}
    for part in filter(None, text.split(",")):
        name, _, places = part.partition("=")
        begin, _, end = places.partition(":")
        try:
            knobs[name.strip()] = (float(begin), float(end or begin))
        except ValueError:
            raise ValueError(
                f"--knobs is {text!r}, but must be like drive=2:9,tone=5: a name, and a place or "
                "two."
            ) from None
    return knobs


def moving(amp: Amp, knobs: dict[str, tuple[float, float]], samples: int) -> Tensor | None:
    """Where the knobs stand, (1, K, samples), or (1, K, 1) where none moves; None without knobs.

    Raises ValueError for other knobs than the model's, and for places out of their range.
    """
    begin, end = (amp.turned({name: places[i] for name, places in knobs.items()}) for i in (0, 1))
    if not amp.knobs:
        return None
    if torch.equal(begin, end):
        return begin
    return begin + (end - begin) * torch.linspace(0, 1, samples)


def run(args: argparse.Namespace) -> None:
    if args.block < 1:
        raise ValueError(f"--block must be at least 1, but is {args.block}.")
    amp = load(args.model)
    rate = int(amp.sample_rate)
    sound, seen = read_audio(args.recording)
    if seen != rate or len(sound) > 1:
        raise ValueError(
            f"'{args.recording}' has {len(sound)} channels at {seen} Hz, but the model takes one "
            f"at {rate} Hz. Export it so."
        )
    knobs = moving(amp, movement(args.knobs), sound.shape[1])
    streamer = build_streamer(amp, engine=args.engine)
    made, took = streamed(streamer, sound[0], args.block, knobs)
    save_audio(args.out, made, rate)
    seconds, spent = len(made) / rate, float(took.sum())
    print(
        f"{args.out}: {seconds:.2f} s, {seconds / spent:.1f} times as fast as real time; a block "
        f"lasts {1000 * args.block / rate:.2f} ms and took {1000 * spent / len(took):.2f} ms, the "
        f"slowest {1000 * float(took.max()):.2f} ms"
    )
    if args.against:
        [pair] = read_pair(args.recording, args.against, rate)
        print(f"ESR {esr(made[: len(pair.y)], pair.y):.5f} against '{args.against}'")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Play a recording through a captured amplifier.")
    parser.add_argument("recording", type=Path)
    parser.add_argument("model", type=Path, help="a .nam file")
    parser.add_argument("out", type=Path, help="wav to write")
    parser.add_argument("--block", type=int, default=64, help="samples at a time (%(default)s)")
    parser.add_argument(
        "--engine",
        choices=["auto", "native", "torch"],
        default="auto",
        help="native: compiled for this CPU at its first use; torch; auto: the first that runs",
    )
    parser.add_argument("--knobs", default="", help="where they stand, as in drive=2:9,tone=5")
    parser.add_argument(
        "--against", type=Path, help="what the amplifier made of it: says the ESR to that"
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # which engine, and why
    try:
        run(parser.parse_args(arguments))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
