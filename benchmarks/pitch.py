"""Measures whether generated notes have the requested pitch. Owns `fundamental`.

    python benchmarks/pitch.py [--checkpoint PATH] [--count 24] [--seed 0] [--temperature 1.0] \\
        [--out DIR]

Knows nothing of the inside of a model.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.instruments.prepare import note_frequency

TOLERANCE = 0.03  # half of a semitone: the requested note is the nearest one
STRONG = 0.9  # share of the highest peak: lower peaks come from harmonics, not from the period
PERIODIC = 0.4  # a clip with a lower similarity has no pitch (white noise: below 0.1)
FINER = 4  # oversampling for lags: the period of a bright tone is between two samples
SECONDS = 0.6


def fundamental(
    audio: np.ndarray, sample_rate: int, fmin: float = 60.0, fmax: float = 1200.0
) -> float:
    """Pitch in Hz of a clip (T,) within fmin..fmax, or NaN without one (silence, noise, too short).

    The similarity of the clip with itself `lag` samples later (McLeod and Wyvill 2005) has peaks at
    the period and its multiples. The first peak that is nearly as high as the highest is the
    period; a peak at a later multiple gives it more exactly.
    """
    if audio.ndim != 1 or not 0 < fmin < fmax:
        raise ValueError(
            "fundamental takes audio (time,) and 0 < fmin < fmax, "
            f"but got {audio.shape}, {fmin}, {fmax}."
        )
    rate = FINER * sample_rate
    similarity = _similarity(_upsampled(np.asarray(audio, dtype=np.float64), sample_rate, fmin / 2))
    lag = _first_strong_peak(similarity, rate / fmax, rate / fmin)
    return math.nan if lag is None else rate / _refine(similarity, lag)


def _upsampled(x: np.ndarray, sample_rate: int, lowest: float) -> np.ndarray:
    """x at FINER times the sample rate, without frequencies below `lowest` Hz.

    A slow drift would hide the dip before the first period.
    """
    if not x.size:
        return x
    spectrum = np.fft.rfft(x)
    spectrum[np.fft.rfftfreq(len(x), 1 / sample_rate) < lowest] = 0
    return FINER * np.fft.irfft(spectrum, FINER * len(x))


def _similarity(x: np.ndarray) -> np.ndarray:
    """2 sum x[t] x[t + lag] / sum (x[t]^2 + x[t + lag]^2) for lags 0..T/2.

    1 at lags where the clip repeats itself.
    """
    lags = len(x) // 2
    spectrum = np.fft.rfft(x, 2 * len(x)) if x.size else np.zeros(1)
    product = np.fft.irfft(np.abs(spectrum) ** 2, 2 * max(len(x), 1))[:lags]
    energy = np.concatenate([[0.0], np.cumsum(x * x)])  # energy[n]: energy of the first n samples
    total = energy[len(x) - np.arange(lags)] + energy[-1] - energy[:lags]
    if not np.isfinite(total).all() or energy[-1] < 1e-8 * max(len(x), 1):
        return np.zeros(lags)
    return 2 * product / np.maximum(total, 1e-12)


def _first_strong_peak(similarity: np.ndarray, shortest: float, longest: float) -> int | None:
    inner = similarity[1:-1]
    peaks = 1 + np.flatnonzero((inner > similarity[:-2]) & (inner >= similarity[2:]))
    below = np.flatnonzero(similarity < 0)  # peaks before the first dip belong to lag 0
    start = max(shortest - 1, below[0] if below.size else len(similarity))
    peaks = peaks[(peaks >= start) & (peaks <= longest + 1)]
    if not peaks.size or similarity[peaks].max() < PERIODIC:
        return None
    tops = np.array([_vertex(similarity, int(peak))[1] for peak in peaks])
    return int(peaks[np.flatnonzero(tops >= STRONG * tops.max())[0]])


def _refine(similarity: np.ndarray, peak: int) -> float:
    """The period in samples, from the peak at 2, 4, 8 and 16 periods as long as it stays high."""
    period, height = _vertex(similarity, peak)
    for multiple in (2, 4, 8, 16):
        low, high = round(period * (multiple - 0.4)), round(period * (multiple + 0.4)) + 1
        if high >= len(similarity) - 1:
            break
        lag, top = _vertex(similarity, low + int(np.argmax(similarity[low:high])))
        if top < 0.7 * height or abs(lag / multiple / period - 1) > 0.5 / multiple:
            break
        period = lag / multiple
    return period


def _vertex(y: np.ndarray, i: int) -> tuple[float, float]:
    """Position and height of the peak of the parabola through y[i - 1], y[i], y[i + 1]."""
    before, here, after = y[i - 1 : i + 2]
    curvature = before - 2 * here + after
    shift = 0.0 if curvature >= 0 else float(np.clip((before - after) / (2 * curvature), -0.5, 0.5))
    return i + shift, float(here - (before - after) * shift / 4)


class Result(NamedTuple):
    note: str
    instrument: str
    asked: float
    measured: float

    @property
    def error(self) -> float:
        """Relative error of the pitch; NaN without a pitch."""
        return self.measured / self.asked - 1

    @property
    def hit(self) -> bool:
        return abs(self.error) <= TOLERANCE


def asked(labels: dict[str, list[str]], count: int) -> dict[str, list[str]]:
    """One category per stream, cycling through the model's notes and its instruments, if any."""
    if "note" not in labels:
        have = ", ".join(labels) or "none"
        raise ValueError(
            "This benchmark needs a model with the label note, but "
            f"its labels are: {have}. Train one with configs/default.yaml."
        )
    wanted = [name for name in ("note", "instrument") if name in labels]
    return {name: [labels[name][i % len(labels[name])] for i in range(count)] for name in wanted}


def measure(audio: np.ndarray, sample_rate: int, wanted: dict[str, list[str]]) -> list[Result]:
    """Audio (count, T) and the requested labels of each stream -> one result per stream."""
    instruments = wanted.get("instrument", ["-"] * len(audio))
    return [
        Result(note, instrument, note_frequency(note), fundamental(clip, sample_rate))
        for clip, note, instrument in zip(audio, wanted["note"], instruments, strict=True)
    ]


def report(results: list[Result]) -> str:
    """A table and, as the last line, one line of JSON."""
    heads = f"{'note':<6}{'instrument':<12}{'asked Hz':>9}{'Hz':>9}{'error %':>9}"
    lines = [f"{heads}  within {TOLERANCE:.0%}"]
    for r in results:
        numbers = f"{r.asked:9.2f}{r.measured:9.2f}{100 * r.error:9.2f}"
        lines.append(f"{r.note:<6}{r.instrument:<12}{numbers}  {'yes' if r.hit else 'no'}")
    hits = sum(r.hit for r in results)
    summary = {"benchmark": "pitch", "hits": hits, "count": len(results), "tolerance": TOLERANCE}
    return "\n".join(
        [*lines, f"{hits} of {len(results)} within {TOLERANCE:.0%}", json.dumps(summary)]
    )


def newest_model(runs: Path) -> Path:
    """The newest model/ folder in `runs`."""
    models = sorted(runs.glob("*/model"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise ValueError(
            f"There is no trained model in {runs}. Run `python train.py` first, "
            "or give --checkpoint."
        )
    return models[-1]


def save(out: Path, audio: np.ndarray, sample_rate: int, results: list[Result]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for i, (clip, r) in enumerate(zip(audio, results, strict=True)):
        soundfile.write(
            out / f"{i:02d}_{r.instrument}_{r.note}.wav",
            np.clip(clip, -1, 1),
            sample_rate,
            "PCM_16",
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Generates notes and measures their pitch.")
    parser.add_argument(
        "--checkpoint", type=Path, help="a model folder (default: the newest runs/*/model)"
    )
    parser.add_argument("--count", type=int, default=24, help="notes to generate (default: 24)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--out", type=Path, help="folder for the notes as wav files")
    return parser.parse_args()


def main() -> None:
    import wavenet

    args = arguments()
    model = wavenet.WaveNet.from_pretrained(args.checkpoint or newest_model(Path("runs")))
    wanted = asked(model.labels or {}, args.count)
    audio = wavenet.generate(
        model,
        seconds=SECONDS,
        batch_size=args.count,
        labels=wanted,
        temperature=args.temperature,
        seed=args.seed,
    )
    clips = audio.float().cpu().numpy()
    results = measure(clips, model.sample_rate, wanted)
    print(report(results))
    if args.out is not None:
        save(args.out, clips, model.sample_rate, results)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
