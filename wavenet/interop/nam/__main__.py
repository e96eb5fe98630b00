"""The command that plays a recording through an amplifier: in.wav, model.nam, out.wav."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from wavenet.audio import read_audio, resample, save_audio
from wavenet.engines import Streamer, build_streamer
from wavenet.engines.streaming import TorchStreamer
from wavenet.installation import CommandParser
from wavenet.interop.nam.file import load


def reamp(amplifier: Streamer, audio: Tensor, block: int) -> Tensor:
    """audio (T,) -> (T,), in blocks of so many samples, as a plugin does."""
    made = [amplifier.process(x) for x in audio.view(1, 1, -1).split(block, dim=-1)]
    return torch.cat(made, dim=-1).flatten()


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m wavenet.interop.nam"
) -> int:
    """Returns 0, or 1 after printing what is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = CommandParser(
        prog=prog,
        description="Play a recording (mono) through the amplifier of a .nam file.",
    )
    parser.add_argument("recording", metavar="in.wav")
    parser.add_argument("model", metavar="model.nam")
    parser.add_argument("out", metavar="out.wav")
    parser.add_argument("--block", type=int, default=4096, help="samples at a time (%(default)s)")
    parser.add_argument(
        "--engine",
        choices=["auto", "native", "torch"],
        default="auto",
        help="native: compiled for this CPU at its first use; torch; auto: the first that runs",
    )
    parser.add_argument("--size", type=float, help="of a slimmable model: 0 the smallest to 1")
    parser.add_argument(
        "--resample", action="store_true", help="a recording of another rate than the model's"
    )
    args = parser.parse_args(arguments)
    try:
        _run(args)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.block < 1:
        raise ValueError(f"--block must be at least 1, but is {args.block}.")
    model = load(args.model)
    if args.size is not None:
        model = model.resized(args.size)
    samples, rate = read_audio(args.recording)
    if rate != model.sample_rate and not args.resample:
        raise ValueError(
            f"'{args.recording}' is at {rate} Hz, but '{args.model}' is for {model.sample_rate} Hz "
            "and sounds otherwise at another rate. Record it at that rate, or give --resample."
        )
    if model.sample_rate != int(model.sample_rate):
        raise ValueError(f"'{args.model}' is for {model.sample_rate} Hz, no whole number.")
    audio = resample(samples.mean(dim=0), rate, int(model.sample_rate))
    amplifier = build_streamer(model, engine=args.engine)
    begun = time.perf_counter()
    made = reamp(amplifier, audio, args.block)
    took, seconds = time.perf_counter() - begun, len(made) / model.sample_rate
    if not bool(torch.isfinite(made).all()):
        raise ValueError(f"'{args.model}' makes NaN of this recording; nothing was written.")
    if (peak := float(made.abs().max())) > 1:
        print(f"The loudest sample is {peak:.2f}: what is above 1 was clipped.", file=sys.stderr)
    save_audio(args.out, made, int(model.sample_rate))
    mixed = f", the mean of {len(samples)} channels" if len(samples) > 1 else ""
    engine = "torch" if isinstance(amplifier, TorchStreamer) else "native"
    print(
        f"{args.out}: {seconds:.2f} s{mixed}, {seconds / took:.1f} times as fast as real time "
        f"(engine {engine})"
    )


if __name__ == "__main__":
    sys.exit(main())
