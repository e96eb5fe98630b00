"""Owns how training rows are changed, so that a small corpus teaches more: level, speed, noise.

A changed clip is a clip of its own: what a row holds is cut from it, wherever the row begins, and
its length is told with it. Knows nothing of batches, labels or models.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from wavenet.corpus.checks import require_number

PHASES = 100  # a speed is a whole percentage: so many places between two samples
REACH = 32  # samples of the clip on either side that a sample between them is made from
BETA = 8.0  # of the Kaiser window: images and aliases lie 80 dB down
LOUDEST = (1 << 15) - 1  # the highest level of 16-bit PCM
NOISE_RANGE = 20.0  # dB, from the loudest noise to the quietest
# The largest of each setting that can be meant
LARGEST = {"gain_db": 40, "speed": 0.5, "noise_snr_db": 120, "share": 1}


@dataclass(frozen=True)
class Augment:
    """What is changed in training rows, each row by itself; nothing where no setting says so.

    Args:
        gain_db: Largest change of level in dB, louder or quieter, uniform between; a row never
            clips.
        speed: Largest change of speed, and of pitch with it, as a share: with 0.05 a row is played
            at 95 to 105% of its speed, in whole percents. A clip's length changes with it.
        noise_snr_db: White noise, at least so many dB below the row and at most 20 dB more.
        share: Share of the rows that are changed; the others stay as they are.

    Raises ValueError for a setting out of range.
    """

    gain_db: float = 0.0
    speed: float = 0.0
    noise_snr_db: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if value is not None or name != "noise_snr_db":
                require_number(f"--data.augment.{name}", value, 0, most)
        if self.speed and not self._percents:
            raise ValueError(
                f"--data.augment.speed changes the speed by whole percents, but got {self.speed}: "
                "give at least 0.01, or 0 for none."
            )

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        changes = self.gain_db or self.speed or self.noise_snr_db is not None
        return bool(changes and self.share)

    @property
    def _percents(self) -> int:
        return round(self.speed * PHASES)

    def drawn(self, rng: np.random.Generator, rows: int) -> list["Change"]:
        """How each of so many rows is changed; a function of the generator alone."""
        chosen, gains, speeds, noises = rng.random((4, rows))
        speeds = PHASES + np.floor((2 * self._percents + 1) * speeds) - self._percents
        seeds = rng.integers(1 << 62, size=rows)
        drawn = zip(chosen, gains, speeds, noises, seeds, strict=True)
        return [
            Change(int(speed), 10 ** (self.gain_db * (2 * gain - 1) / 20), self._snr(noise), int(s))
            if one < self.share
            else UNCHANGED
            for one, gain, speed, noise, s in drawn
        ]

    def _snr(self, drawn: float) -> float:
        least = self.noise_snr_db
        return math.inf if least is None else least + NOISE_RANGE * drawn


@dataclass(frozen=True)
class Change:
    """How one clip is changed.

    speed: in percent of the clip's own.
    gain: a factor.
    snr_db: how far below the row the noise lies; infinity: there is none.
    seed: of the noise.
    """

    speed: int = PHASES
    gain: float = 1.0
    snr_db: float = math.inf
    seed: int = 0

    def length(self, samples: int) -> int:
        """Samples of the changed clip, of a clip of so many."""
        return -(-samples * PHASES // self.speed)

    def cut(self, clip: np.ndarray, first: int, count: int) -> np.ndarray:
        """The changed clip's samples from `first` on, (count,) int16; 0 outside of it.

        clip: (T,) int16.
        """
        row = np.zeros(count, np.int16)
        start, stop = max(first, 0), min(first + count, self.length(len(clip)))
        if start < stop:
            row[start - first : stop - first] = self._inside(clip, start, stop)
        return row

    def _inside(self, clip: np.ndarray, start: int, stop: int) -> np.ndarray:
        if self == UNCHANGED:
            return clip[start:stop]
        audio = played(clip, self.speed, start, stop) * self.gain
        if math.isfinite(self.snr_db):
            level = math.sqrt(np.square(audio).mean()) * 10 ** (-self.snr_db / 20)
            noise = np.random.default_rng(self.seed).standard_normal(len(audio), np.float32)
            audio = audio + np.float32(level) * noise
        loudest = np.abs(audio).max()
        return np.rint(audio * min(1.0, LOUDEST / max(loudest, 1.0))).astype(np.int16)


UNCHANGED = Change()
UNAUGMENTED = Augment()


def played(clip: np.ndarray, speed: int, start: int, stop: int) -> np.ndarray:
    """Samples start..stop-1 of the clip at `speed` percent of its speed, (stop - start,) float32.

    Sample n is the clip at n * speed / 100, between its samples by a windowed sinc: band-limited,
    without a shift, and the same whichever others are asked for. The clip (T,) is silent around.

        blocks of 100 samples    0         1         2         block b begins at the clip's sample
        clip's samples           0       speed     2 speed     b * speed, so all have one filter
    """
    if speed == PHASES:
        return clip[start:stop].astype(np.float32)
    blocks = range(start // PHASES, -(-stop // PHASES))
    width = speed + 2 * REACH
    low, high = blocks.start * speed - REACH, (blocks.stop - 1) * speed - REACH + width
    inside = clip[max(low, 0) : max(high, 0)].astype(np.float32)
    around = np.pad(inside, (max(-low, 0), high - max(low, 0) - len(inside)))
    windows = np.lib.stride_tricks.sliding_window_view(around, width)[::speed]
    made = np.ascontiguousarray(windows) @ _filters(speed)
    return made.ravel()[start - blocks.start * PHASES : stop - blocks.start * PHASES]


@cache
def _filters(speed: int) -> np.ndarray:
    """(speed + 2 REACH, PHASES): what each sample of a block takes from the clip around it.

    Faster than the clip, its band is narrowed to what still fits.
    """
    places = np.arange(PHASES) * speed / PHASES
    apart = np.arange(-REACH, speed + REACH)[:, None] - places
    band = min(1.0, PHASES / speed)
    window = np.i0(BETA * np.sqrt(np.clip(1 - (apart / REACH) ** 2, 0, 1))) / np.i0(BETA)
    return (band * np.sinc(band * apart) * window * (np.abs(apart) < REACH)).astype(np.float32)
