"""Play a recording through a captured amplifier, in blocks as small as those of a sound card.

    python examples/amp/play.py guitar.wav amp/model.nam out.wav

Says how much faster than real time it ran, and how long the slowest block took: a sound card waits
for no block longer than it lasts.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from wavenet.audio import load_audio, save_audio
from wavenet.interop import nam


def play(model: nam.NAM | nam.Container, audio: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """audio (T,) -> (T,), and the seconds that each block took."""
    state, made, took = model.init_state(1), [], []
    with torch.inference_mode():
        for x in audio.view(1, 1, -1).split(block, dim=-1):
            begun = time.perf_counter()
            y, state = model.step(x, state)
            took.append(time.perf_counter() - begun)
            made.append(y)
    return torch.cat(made, dim=-1).flatten(), torch.tensor(took)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Play a recording through a captured amplifier.")
    parser.add_argument("recording", type=Path)
    parser.add_argument("model", type=Path, help="a .nam file")
    parser.add_argument("out", type=Path, help="wav to write")
    parser.add_argument("--block", type=int, default=64, help="samples at a time (%(default)s)")
    args = parser.parse_args(arguments)
    try:
        if args.block < 1:
            raise ValueError(f"--block must be at least 1, but is {args.block}.")
        model = nam.load(args.model)
        rate = int(model.sample_rate)
        made, took = play(model, load_audio(args.recording, rate), args.block)
        save_audio(args.out, made, rate)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    seconds = len(made) / rate
    faster = seconds / float(took.sum())
    print(
        f"{args.out}: {seconds:.2f} s, {faster:.1f} times as fast as real time; "
        f"a block lasts {1000 * args.block / rate:.2f} ms, the slowest took "
        f"{1000 * float(took.max()):.2f} ms"
    )


if __name__ == "__main__":
    main()
