"""A pair of recordings of an amplifier that is synthesised: what goes in, and what comes out.

    python examples/amp/pair.py FOLDER [--seconds 180]

Writes FOLDER/input.wav and FOLDER/output.wav, mono, 48 kHz: plucked strings, chords, sweeps and
noise at several levels, and the same through a high-pass filter, a soft clipper that is not
symmetric, a cabinet of 20 ms, and the latency of a sound card. For a real amplifier, play input.wav
into it and record what comes out of it at the same rate.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.functional import (
    equalizer_biquad,
    fftconvolve,
    highpass_biquad,
    lowpass_biquad,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from wavenet.audio import save_audio

RATE = 48_000  # Hz, what most plugins run at
LATENCY = 37  # samples
CABINET = 0.020  # seconds
LOWEST, HIGHEST = 82.0, 660.0  # Hz, of the plucked strings: E2 to E5


def pluck(hertz: float, seconds: float, rng: torch.Generator) -> Tensor:
    """A string (T,): harmonics of a place where it is plucked, the higher the shorter."""
    time = torch.arange(round(seconds * RATE)) / RATE
    place, sound = 0.1 + 0.3 * torch.rand((), generator=rng), torch.zeros(len(time))
    for k in range(1, min(24, int(0.45 * RATE / hertz)) + 1):
        phase = 2 * math.pi * torch.rand((), generator=rng)
        level = torch.sin(math.pi * k * place) / k**1.5
        sound += (
            level
            * torch.exp(-time * (1.2 + 0.5 * k))
            * torch.sin(2 * math.pi * k * hertz * time + phase)
        )
    return sound * (time * 400).clamp(max=1)


def sweep(seconds: float) -> Tensor:
    """A sine (T,) whose frequency rises from 40 Hz to 12 kHz, the same time for each octave."""
    time = torch.arange(round(seconds * RATE)) / RATE
    ratio = math.log(12_000 / 40)
    return torch.sin(2 * math.pi * 40 * seconds / ratio * (torch.exp(ratio * time / seconds) - 1))


def played(seconds: float, seed: int) -> Tensor:
    """What somebody would play into an amplifier to capture it, (T,), at most 0.9."""
    rng, parts, count = torch.Generator().manual_seed(seed), [], 0
    while count < seconds * RATE:
        kind, level = (
            torch.randint(8, (), generator=rng),
            10 ** (-1.3 * float(torch.rand((), generator=rng))),
        )
        length = 0.4 + 1.2 * float(torch.rand((), generator=rng))
        if kind == 0:
            part = sweep(length)
        elif kind == 1:
            part = torch.randn(round(length * RATE), generator=rng) / 4
        else:
            strings = 1 if kind < 6 else 3
            notes = [
                LOWEST * (HIGHEST / LOWEST) ** float(torch.rand((), generator=rng))
                for _ in range(strings)
            ]
            part = sum(pluck(hertz, length, rng) for hertz in notes)
        parts.append(0.9 * level * part / part.abs().max())
        count += len(part)
    return torch.cat(parts)[: round(seconds * RATE)]


def amplified(audio: Tensor, drive: float = 4.0) -> Tensor:
    """audio (T,) -> (T,), through the synthesised amplifier, LATENCY samples late."""
    tight = highpass_biquad(audio, RATE, 70.0)
    clipped = torch.tanh(drive * tight + 0.2) - math.tanh(0.2)
    made = fftconvolve(clipped, cabinet())[: len(audio)]
    return torch.nn.functional.pad(0.25 * made, (LATENCY, 0))[: len(audio)]


def cabinet() -> Tensor:
    """An impulse response (T,): a box that resonates, a bright speaker, an echo from the floor."""
    click = torch.zeros(round(CABINET * RATE))
    click[0], click[round(0.0011 * RATE)] = 1.0, 0.25
    box = equalizer_biquad(click, RATE, 110.0, gain=5.0, Q=1.2)
    bright = equalizer_biquad(box, RATE, 2800.0, gain=6.0, Q=1.5)
    return lowpass_biquad(bright, RATE, 5000.0) * torch.linspace(1, 0, len(click))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Synthesise the recordings of an amplifier.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=180.0, help="(%(default)s)")
    parser.add_argument("--drive", type=float, default=4.0, help="into the clipper (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is played (%(default)s)")
    args = parser.parse_args(arguments)
    audio = played(args.seconds, args.seed)
    for name, sound in (("input.wav", audio), ("output.wav", amplified(audio, args.drive))):
        save_audio(args.folder / name, sound, RATE)
        print(args.folder / name)


if __name__ == "__main__":
    main()
