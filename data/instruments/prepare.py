"""Owns the default corpus: four simple instruments over one octave, synthesised reproducibly.

Knows nothing of models, training or the data module. Needs numpy and soundfile.

    python data/instruments/prepare.py --out DIR [--sample-rate 8000] [--takes 6] [--seed 0]

Files: INSTRUMENT/NOTE_TAKE.wav, 16-bit. The path contains the labels, and the last take of every
note is for validation:

    label_pattern: (?P<instrument>[a-z]+)/(?P<note>[A-G]s?\\d)_\\d+\\.wav
    val_pattern:   _5\\.wav$
"""

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.layout import folder, publish, run, staging

LABEL_PATTERN = r"(?P<instrument>[a-z]+)/(?P<note>[A-G]s?\d)_\d+\.wav"
PITCH_CLASSES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")

# C4 to C5, 262 to 523 Hz. At 8 kHz a period has 31 to 15 samples. A receptive field of 1000 samples
# holds 33 to 65 periods, so a semitone (6%) shifts the waveform by two to four periods within it.
# 7 to 15 harmonics are below 4 kHz.
NOTES = (*(f"{name}4" for name in PITCH_CLASSES), "C5")

SECONDS = 0.7
FADE_SECONDS = 0.06
LOWEST_RATE = 4000  # the fourth harmonic of C5 is at 2093 Hz: lower rates lose the timbre

Array = np.ndarray


def note_frequency(name: str) -> float:
    """Frequency in Hz of a note such as A4 (440) or Cs4 (C sharp, 277.18), in equal temperament."""
    match = re.fullmatch(r"([A-G]s?)(\d)", name)
    if match is None or match[1] not in PITCH_CLASSES:
        raise ValueError(
            f"A note is one of {', '.join(PITCH_CLASSES)} and an octave, such as Cs4, "
            f"but got {name!r}."
        )
    return 440.0 * 2.0 ** ((_semitones(name) - _semitones("A4")) / 12)


def _semitones(name: str) -> int:
    return 12 * int(name[-1]) + PITCH_CLASSES.index(name[:-1])


# --- Instruments ---
# Each takes a frequency in Hz, a sample rate and a random generator, and returns (T,) float64.
# `render` scales and fades the result.


def _pluck(frequency: float, sample_rate: int, rng: np.random.Generator) -> Array:
    """A plucked string (Karplus and Strong 1983): one period of excitation in a delay loop.

    The loop contains a lowpass filter.
    """
    # The delays add up to the period: `whole`, 1 of the lowpass, `rest` in [1, 2) by interpolation.
    period = sample_rate / frequency
    whole = math.floor(period) - 2
    rest = period - 1 - whole
    damping = rng.uniform(0.02, 0.05)
    seconds = rng.uniform(0.9, 1.3)  # until the level has fallen by 60 dB
    gain = 10 ** (-3 * period / (seconds * sample_rate))
    taps = gain * np.convolve([damping, 1 - 2 * damping, damping], _lagrange(rest))
    return _delay_loop(_excitation(period, rng), whole, taps, _length(sample_rate))


def _lagrange(delay: float) -> Array:
    """Four taps that delay by `delay` samples, by third-order Lagrange interpolation.

    Their gain is at most 1 for a delay in [1, 2).
    """
    return np.array(
        [math.prod((delay - j) / (k - j) for j in range(4) if j != k) for k in range(4)]
    )


def _excitation(period: float, rng: np.random.Generator) -> Array:
    """One period of the slope of a string plucked at a point: two levels, plus some noise.

    The mean is removed, because the loop would keep it.
    """
    length = math.ceil(period)
    position = rng.uniform(0.15, 0.35)
    phase = np.arange(length) / length
    slope = np.where(phase < position, 1 / position, -1 / (1 - position))
    rough = slope + rng.uniform(0.05, 0.2) * rng.standard_normal(length)
    bright = rng.uniform(0.1, 0.25)
    smooth = bright * np.roll(rough, 1) + (1 - 2 * bright) * rough + bright * np.roll(rough, -1)
    return smooth - smooth.mean()


def _delay_loop(excitation: Array, delay: int, taps: Array, length: int) -> Array:
    """y[t] = excitation[t] + sum_k taps[k] y[t - delay - k], `delay` samples at a time."""
    history = delay + len(taps) - 1
    y = np.zeros(history + length + delay)
    y[history : history + len(excitation)] = excitation
    for start in range(history, history + length, delay):
        past = y[start - history : start]
        y[start : start + delay] += np.convolve(past, taps, mode="valid")[:delay]
    return y[history : history + length]


def _flute(frequency: float, sample_rate: int, rng: np.random.Generator) -> Array:
    """A few harmonics, a slight vibrato, and noise with the same envelope as the tone."""
    t = _seconds(sample_rate)
    # The frequency varies by the fraction `depth` of itself, `rate` times per second.
    depth, rate = rng.uniform(0.002, 0.004), rng.uniform(4.5, 5.5)
    swing = np.sin(2 * np.pi * rate * t + rng.uniform(0, 2 * np.pi))
    vibrato = depth * frequency / (2 * np.pi * rate) * swing
    turns = frequency * t + vibrato + rng.uniform()
    weights = (1.0, rng.uniform(0.25, 0.4), rng.uniform(0.08, 0.15), 0.04)
    tone = _harmonics(turns, weights, frequency, sample_rate) + 0.002 * rng.standard_normal(len(t))
    return tone * _envelope(t, attack=rng.uniform(0.02, 0.035), decay=rng.uniform(0.25, 0.35))


def _keys(frequency: float, sample_rate: int, rng: np.random.Generator) -> Array:
    """Electric piano by frequency modulation (Chowning 1973).

    The modulator is at twice the pitch, so there are only odd harmonics.
    """
    t = _seconds(sample_rate)
    turns = frequency * t + rng.uniform()
    index = rng.uniform(0.7, 1.1) * np.exp(-t / rng.uniform(0.15, 0.25))
    tone = np.sin(2 * np.pi * turns + index * np.sin(4 * np.pi * turns))
    return tone * _envelope(t, attack=0.004, decay=rng.uniform(0.15, 0.22))


def _organ(frequency: float, sample_rate: int, rng: np.random.Generator) -> Array:
    """Harmonics 1, 2, 3, 4, 6 and 8, as far as the sample rate allows, with a slow decay."""
    t = _seconds(sample_rate)
    bright = rng.uniform(0.6, 1.0)
    weights = [1.0, 0.5 * bright, 0.35 * bright, 0.25 * bright, 0, 0.15 * bright, 0, 0.1 * bright]
    tone = _harmonics(frequency * t + rng.uniform(), weights, frequency, sample_rate)
    return tone * _envelope(t, attack=rng.uniform(0.01, 0.02), decay=rng.uniform(0.28, 0.4))


def _harmonics(
    turns: Array, weights: tuple[float, ...] | list[float], frequency: float, sample_rate: int
) -> Array:
    """Sum of sines at integer multiples of `turns`, the phase in periods.

    Harmonics at 0.45 of the sample rate and above are left out.
    """
    kept = [
        (k, weight)
        for k, weight in enumerate(weights, start=1)
        if k * frequency < 0.45 * sample_rate
    ]
    return np.sum([weight * np.sin(2 * np.pi * k * turns) for k, weight in kept], axis=0)


def _envelope(t: Array, attack: float, decay: float) -> Array:
    """Rises smoothly for `attack` seconds and decays by a factor e every `decay` seconds."""
    return np.sin(np.pi / 2 * np.minimum(t / attack, 1)) ** 2 * np.exp(-t / decay)


def _length(sample_rate: int) -> int:
    return round(SECONDS * sample_rate)


def _seconds(sample_rate: int) -> Array:
    return np.arange(_length(sample_rate)) / sample_rate


INSTRUMENTS: dict[str, Callable[[float, int, np.random.Generator], Array]] = {
    "flute": _flute,
    "keys": _keys,
    "organ": _organ,
    "pluck": _pluck,
}


def render(instrument: str, note: str, take: int, sample_rate: int = 8000, seed: int = 0) -> Array:
    """One clip: (T,) float32 of 0.7 s, peak 0.35 to 0.7, ending in silence.

    The same arguments give the same samples.
    """
    if instrument not in INSTRUMENTS:
        raise ValueError(
            f"There is no instrument {instrument!r}; there are {', '.join(INSTRUMENTS)}."
        )
    if sample_rate < LOWEST_RATE:
        raise ValueError(
            f"The instruments need a sample rate of at least {LOWEST_RATE} Hz, "
            f"but got {sample_rate}."
        )
    frequency = note_frequency(note)
    rng = np.random.default_rng([seed, list(INSTRUMENTS).index(instrument), _semitones(note), take])
    audio = INSTRUMENTS[instrument](frequency, sample_rate, rng)
    audio *= rng.uniform(0.35, 0.7) / np.abs(audio).max()
    fade = round(FADE_SECONDS * sample_rate)
    audio[-fade:] *= np.cos(np.pi / 2 * np.arange(1, fade + 1) / fade) ** 2
    return audio.astype(np.float32)


def clips(takes: int) -> list[tuple[str, str, int, str]]:
    """Every clip of the corpus: instrument, note, take and its path."""
    return [
        (instrument, note, take, f"{instrument}/{note}_{take}.wav")
        for instrument in INSTRUMENTS
        for note in NOTES
        for take in range(takes)
    ]


def prepare(out: Path, sample_rate: int = 8000, takes: int = 6, seed: int = 0) -> None:
    """Renders the corpus into `out`.

    It is safe to do this twice, or in two processes at the same time, with the same arguments.
    """
    if takes < 2:
        raise ValueError(
            f"--takes {takes}: a note needs at least 2, one for training and the last for "
            "validation."
        )
    if seed < 0:
        raise ValueError(f"--seed {seed}: a seed is 0 or more.")
    wanted = clips(takes)
    _refuse_other_audio(out, {path for *_, path in wanted})
    with staging(out) as stage:
        for instrument, note, take, path in wanted:
            (stage / instrument).mkdir(exist_ok=True)
            soundfile.write(
                stage / path,
                render(instrument, note, take, sample_rate, seed),
                sample_rate,
                "PCM_16",
            )
        publish(stage, out)
    minutes = len(wanted) * SECONDS / 60
    print(f"{len(wanted)} clips, {minutes:.1f} minutes at {sample_rate} Hz in {out}")
    print(rf"labels: {LABEL_PATTERN}   validation: _{takes - 1}\.wav$")


def _refuse_other_audio(out: Path, wanted: set[str]) -> None:
    others = sorted({path.relative_to(out).as_posix() for path in out.rglob("*.wav")} - wanted)
    if others:
        raise ValueError(
            f"{out} holds {len(others)} other wav files, such as {others[0]}, which would become "
            "part of the corpus. Give --out an empty folder, or remove these files."
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Synthesises the default corpus: four instruments, 13 notes."
    )
    parser.add_argument("--out", type=folder, required=True, help="folder to write to")
    parser.add_argument("--sample-rate", type=int, default=8000, help="Hz (default: 8000)")
    parser.add_argument(
        "--takes", type=int, default=6, help="clips of each note and instrument (default: 6)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed gives other takes (default: 0)"
    )
    args = parser.parse_args()
    prepare(args.out, args.sample_rate, args.takes, args.seed)


if __name__ == "__main__":
    run(main)
