"""Recordings of an amplifier that is synthesised: what goes in, and what comes out.

    python examples/amp/pair.py pair                      # pair/input.wav, pair/output.wav
    python examples/amp/pair.py knobs --settings 16       # output_00.wav, ..., recordings.csv

Mono, 48 kHz: plucked strings, chords, sweeps and noise at several levels, and the same through a
high-pass filter, a soft clipper that is not symmetric, a tone control, a cabinet of 20 ms, and the
latency of a sound card. The amplifier has two knobs, drive and tone, from 0 to 10.
"""

import argparse
import csv
import io
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
    treble_biquad,
)

from wavenet.audio import save_audio
from wavenet.files import write_whole

RATE = 48_000  # Hz, what most plugins run at
LATENCY = 37  # samples
CABINET = 0.020  # seconds
LOWEST, HIGHEST = 82.0, 660.0  # Hz, of the plucked strings: E2 to E5
BIAS = 0.2  # of the clipper: what is above zero clips sooner than what is below
KNOBS = {"drive": 4.0, "tone": 5.0}  # from 0 to 10, and where they stand


def pluck(hertz: float, seconds: float, rng: torch.Generator) -> Tensor:
    """A string (T,), plucked somewhere: its harmonics, which die away the sooner the higher."""
    time = torch.arange(round(seconds * RATE)) / RATE
    place = 0.1 + 0.3 * torch.rand((), generator=rng)
    k = torch.arange(1, min(24, int(0.45 * RATE / hertz)) + 1)[:, None]
    phase = 2 * math.pi * torch.rand(len(k), 1, generator=rng)
    level = torch.sin(math.pi * k * place) / k**1.5 * torch.exp(-time * (1.2 + 0.5 * k))
    sound = (level * torch.sin(2 * math.pi * k * hertz * time + phase)).sum(dim=0)
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
        kind = int(torch.randint(8, (), generator=rng))
        level, length = (float(share) for share in torch.rand(2, generator=rng))
        part = _part(kind, 0.4 + 1.2 * length, rng)
        parts.append(0.9 * 10 ** (-1.3 * level) * part / part.abs().max())  # down to -26 dB
        count += len(part)
    return torch.cat(parts)[: round(seconds * RATE)]


def _part(kind: int, seconds: float, rng: torch.Generator) -> Tensor:
    if kind == 0:
        return sweep(seconds)
    if kind == 1:
        return torch.randn(round(seconds * RATE), generator=rng)
    notes = torch.rand(1 if kind < 6 else 3, generator=rng)
    strings = [pluck(LOWEST * (HIGHEST / LOWEST) ** float(note), seconds, rng) for note in notes]
    return torch.stack(strings).sum(dim=0)


def amplified(audio: Tensor, drive: float = KNOBS["drive"], tone: float = KNOBS["tone"]) -> Tensor:
    """audio (T,) -> (T,), through the synthesised amplifier, LATENCY samples late."""
    tight = highpass_biquad(audio, RATE, 70.0)
    clipped = torch.tanh(10 ** (0.15 * drive) * tight + BIAS) - math.tanh(BIAS)
    toned = treble_biquad(clipped, RATE, gain=2 * (tone - 5), central_freq=1800.0)
    made = fftconvolve(toned, cabinet())[: len(audio)]
    return torch.nn.functional.pad(0.3 * made, (LATENCY, 0))[: len(audio)]


def cabinet() -> Tensor:
    """An impulse response (T,): a box that resonates, a bright speaker, an echo from the floor."""
    click = torch.zeros(round(CABINET * RATE))
    click[0], click[round(0.0011 * RATE)] = 1.0, 0.25
    box = equalizer_biquad(click, RATE, 110.0, gain=5.0, Q=1.2)
    bright = equalizer_biquad(box, RATE, 2800.0, gain=6.0, Q=1.5)
    return lowpass_biquad(bright, RATE, 5000.0) * torch.linspace(1, 0, len(click))


def settings(count: int, seed: int) -> list[dict[str, float]]:
    """Where the knobs stand in each of `count` recordings: spread evenly, the corners first."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    spread = torch.quasirandom.SobolEngine(len(KNOBS), scramble=True, seed=seed).draw(count)
    places = torch.cat([corners, spread])[:count]
    return [dict(zip(KNOBS, (round(10 * float(v), 1) for v in row), strict=True)) for row in places]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Synthesise the recordings of an amplifier.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=180.0, help="(%(default)s)")
    for name, place in KNOBS.items():
        parser.add_argument(f"--{name}", type=float, default=place, help="0 to 10 (%(default)s)")
    parser.add_argument(
        "--settings", type=int, default=0, help="record so many positions of both knobs instead"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is played (%(default)s)")
    args = parser.parse_args(arguments)
    if not 0 < args.seconds <= 3600 or not 0 <= args.settings <= 1000:
        sys.exit(
            f"error: --seconds must be above 0 and at most 3600, but is {args.seconds:g}; "
            f"--settings from 0 to 1000, but is {args.settings}."
        )
    audio = played(args.seconds, args.seed)
    save_audio(args.folder / "input.wav", audio, RATE)
    if not args.settings:
        sound = amplified(audio, args.drive, args.tone)
        save_audio(args.folder / "output.wav", sound, RATE)
        print(f"{args.folder / 'input.wav'}\n{args.folder / 'output.wav'}")
        return
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["input", "output", *KNOBS])
    for number, knobs in enumerate(settings(args.settings, args.seed)):
        name = f"output_{number:02}.wav"
        save_audio(args.folder / name, amplified(audio, **knobs), RATE)
        rows.writerow(["input.wav", name, *knobs.values()])
    write_whole(args.folder / "recordings.csv", table.getvalue().encode())
    print(args.folder / "recordings.csv")


if __name__ == "__main__":
    main()
