"""What went into an amplifier and what came out of it: read, checked, aligned. Knows no models.

Shapes: T time.
"""

import csv
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wavenet.audio import read_audio

logger = logging.getLogger(__name__)

LATEST = 0.5  # seconds of latency that are looked for, before and after
HEARD = 10.0  # seconds of the recordings that are compared, at the beginning and at the end
SHORTEST = 3.0  # seconds; drift is looked for in twice as many
ABOUT = 2048  # samples before and after the peak of a correlation that hold the response
QUIET = 1e-4  # of the mean power: frequencies that are played less say nothing of the response
RISE, BEGINS = 64, 0.2  # samples before the peak, and its share, at which a response begins
EARLY = 4  # samples of a latency that are left, since nothing may come before its cause
LEAST = 12.0  # how far the peak of a response stands out of the rest, at the least
DRIFT = 6  # samples by which the latency at the end may differ, with HEARD apart
SPREAD = 16  # samples by which latencies of one session may differ: a knob moves the rise
FULL_SCALE, CLIPS = 0.999, 10  # a level that only clipping holds, and for how many samples
SILENT, AUDIBLE = 1e-4, 0.01  # of full scale; of the loudest sample, where playing begins


@dataclass(frozen=True)
class Recording:
    """x went in and y came out, (T,) each, with the knobs where they stood; late: removed, samples.

    y[t] answers x[..., :t + 1].
    """

    x: Tensor
    y: Tensor
    late: int
    knobs: dict[str, float] = field(default_factory=dict)


def read_pair(
    source: Path, target: Path, sample_rate: int, late: int | None = None
) -> list[Recording]:
    """The one recording of an amplifier without knobs, aligned.

    late: the latency in samples; found where it is None. Raises ValueError for recordings at
    another rate or two rates, of different lengths, of several channels, with NaN, silent or
    clipped, and for two that do not belong together, are misaligned or drift apart.
    """
    x, y = _read_both(source, target, sample_rate)
    return [_aligned(x, y, _found(x, y, target, sample_rate) if late is None else late)]


def read_table(table: Path, sample_rate: int, late: int | None = None) -> list[Recording]:
    """The recordings of a CSV: `input`, `output`, a column for each knob; paths from its folder.

    All get one latency, the least that was found. Raises ValueError as `read_pair`, and for a table
    that is damaged, has a knob that is no number or never moves, or latencies of several sessions.
    """
    rows, names = _rows(table), []
    pairs = []
    for row in rows:
        source, target = (table.parent / row.pop(name) for name in ("input", "output"))
        pairs.append((*_read_both(source, target, sample_rate), target))
        names = list(row)
    knobs = [{name: _number(row, name, table) for name in names} for row in rows]
    for name in names:
        if len({row[name] for row in knobs}) == 1:
            raise ValueError(
                f"'{table}': {name} is {knobs[0][name]:g} in all recordings, so there is nothing "
                "to learn of it. Record it in several places, or leave the column out."
            )
    if late is None:
        found = [_found(x, y, target, sample_rate) for x, y, target in pairs]
        late = min(found)
        if max(found) - late > SPREAD:
            raise ValueError(
                f"'{table}': latencies from {late} ('{pairs[found.index(late)][2].name}') to "
                f"{max(found)} samples ('{pairs[found.index(max(found))][2].name}') were found. "
                "Record all in one session, or shift them until they agree."
            )
    return [_aligned(x, y, late, row) for (x, y, _), row in zip(pairs, knobs, strict=True)]


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{table}' cannot be read as CSV: {error}.") from error
    columns = list(rows[0]) if rows else []
    if not {"input", "output"} < set(columns) or None in columns:
        raise ValueError(
            f"'{table}' has the columns {', '.join(map(str, columns)) or '(none)'} in its first "
            "row that holds something, but needs input, output, and one for each knob, such as "
            "drive. Two recordings without knobs are given as they are: train.py IN.wav OUT.wav."
        )
    for number, row in enumerate(rows, start=2):
        if None in row.values() or None in row:
            raise ValueError(f"'{table}', line {number}: there must be {len(columns)} values.")
    return rows


def _number(row: dict[str, str], name: str, table: Path) -> float:
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{table}': {name} is {row[name]!r}, but must be a number, such as 0.5.")
    return value


def _read_both(source: Path, target: Path, sample_rate: int) -> tuple[Tensor, Tensor]:
    (x, rate), (y, other) = _mono(source), _mono(target)
    if rate != other:
        raise ValueError(
            f"'{source}' is at {rate} Hz and '{target}' at {other} Hz. Record both at "
            f"{sample_rate} Hz, or export both again at one rate."
        )
    if rate != sample_rate:
        raise ValueError(
            f"'{source}' and '{target}' are at {rate} Hz, but the model is for {sample_rate} Hz. "
            f"Record at {sample_rate} Hz, or make a model for that rate: --sample_rate {rate}."
        )
    if len(x) != len(y):
        raise ValueError(
            f"'{source}' has {len(x):,} samples and '{target}' has {len(y):,}, but both must have "
            "the same number. Cut both to the same beginning and end."
        )
    if len(x) < SHORTEST * rate:
        raise ValueError(
            f"'{source}' lasts {len(x) / rate:.2f} s, but at least {SHORTEST:g} s are needed, and "
            "a few minutes are better."
        )
    if (flat := int((y.abs() >= FULL_SCALE).sum())) > CLIPS:
        raise ValueError(
            f"'{target}' is clipped: {flat:,} samples are at full scale, and at most {CLIPS} may "
            "be. Record it again at a lower level."
        )
    return x, y


def _mono(path: Path) -> tuple[Tensor, int]:
    audio, rate = read_audio(path)
    if len(audio) > 1:
        raise ValueError(f"'{path}' has {len(audio)} channels, but must have one. Export it mono.")
    peak = float(audio.abs().max())
    if peak < SILENT:
        raise ValueError(
            f"'{path}' is silent: its loudest sample is {peak:.1g}, and {SILENT:g} is the least. "
            "Check the cables and the levels, and record it again."
        )
    return audio[0], rate


def _aligned(x: Tensor, y: Tensor, late: int, knobs: dict[str, float] | None = None) -> Recording:
    if not 0 <= late < len(x):
        raise ValueError(f"--latency must be from 0 to {len(x) - 1}, but is {late}.")
    return Recording(x[: len(x) - late], y[late:], late, knobs or {})


# The latency


def _found(x: Tensor, y: Tensor, target: Path, sample_rate: int) -> int:
    """What of the latency is to be removed: all but EARLY. Errors name the file and a way out."""
    try:
        late = latency(x, y, sample_rate)
    except ValueError as error:
        raise ValueError(
            f"'{target}': {error} Where that is wrong, say what is right: --latency SAMPLES."
        ) from error
    logger.info("'%s': latency %d samples (%.2f ms)", target, late, 1000 * late / sample_rate)
    return max(late - EARLY, 0)


def latency(x: Tensor, y: Tensor, sample_rate: int) -> int:
    """Samples after x (T,) at which the response of y (T,) to it begins.

    Raises ValueError where there is no response, where it begins before x, and where it comes at
    another time at the end.
    """
    loud = (x.abs() > AUDIBLE * x.abs().max()).nonzero().flatten()
    begin, end = int(loud[0]), int(loud[-1]) + 1
    most, heard = round(LATEST * sample_rate), round(HEARD * sample_rate)
    place, response = respond(x[begin : min(end, begin + heard)], y[begin:end][:heard], most)
    loudest = int(response.abs().argmax())
    rise = response[max(0, loudest - RISE) : loudest + 1].abs()
    late = place + loudest - (len(rise) - 1)
    late += int((rise > BEGINS * rise[-1]).nonzero()[0])
    if late < 0:
        raise ValueError(
            f"it comes {-late} samples before the input. The files are misaligned, or were given "
            "the other way round."
        )
    half = min(heard, (end - begin) // 2)
    long_enough = half >= SHORTEST * sample_rate
    if long_enough and abs(moved := drift(x[begin:end], y[begin:end], half, most)) > DRIFT:
        raise ValueError(
            f"it drifts: it comes {late} samples late at the beginning and {late + moved} at the "
            "end. Play and record with the same clock, in one go, without a dropout."
        )
    return late


def drift(x: Tensor, y: Tensor, window: int, most: int) -> int:
    """Samples by which y's response to x comes later in the last `window` than in the first."""
    first, response = respond(x[:window], y[:window], most)
    last, other = respond(x[-window:], y[-window:], most)
    size = 2 * len(response)
    alike = torch.fft.irfft(torch.fft.rfft(other, size) * torch.fft.rfft(response, size).conj())
    return last - first + int(_lags(alike, -ABOUT, ABOUT).argmax()) - ABOUT


def respond(x: Tensor, y: Tensor, most: int) -> tuple[int, Tensor]:
    """The linear part of y's response to x, (2 * ABOUT,), and the lag at which that begins.

    It lies about a peak, at most so many samples before or after zero, of their cross-correlation
    with all frequencies made equally loud (PHAT: Knapp and Carter 1976, "The generalized
    correlation method for estimation of time delay"). Raises ValueError where there is none.
    """
    most, size = min(most, len(x) // 2), 1 << (2 * len(x)).bit_length()
    window = torch.hann_window(len(x), dtype=torch.float64)  # without it, the ends correlate
    heard = torch.fft.rfft(window * x, size)
    cross = torch.fft.rfft(window * y, size) * heard.conj()
    phat = torch.fft.irfft(cross / cross.abs().clamp_min(1e-12), size)
    phat = _lags(phat, -most, most + 1).abs()
    peak, stands_out = int(phat.argmax()) - most, float(phat.max() / phat.square().mean().sqrt())
    if not stands_out >= LEAST:
        raise ValueError(
            f"nothing in it answers the input within {most} samples: the best correlation, at "
            f"{peak} samples, is {stands_out:.1f} times the usual one, and {LEAST:.0f} is the "
            "least. The two do not belong together, or are further apart."
        )
    cross, auto = torch.fft.irfft(cross, size), torch.fft.irfft(heard.abs().square(), size)
    return peak - ABOUT, _deconvolved(cross, auto, peak)


def _deconvolved(cross: Tensor, auto: Tensor, peak: int) -> Tensor:
    """Cross- over auto-correlation, in frequency, at the lags about `peak`, which is at ABOUT.

    Both come by cyclic lags, and are cut to so many, which averages out what is not linear.
    """
    window = torch.bartlett_window(2 * ABOUT, dtype=cross.dtype)
    over = torch.fft.rfft(window * _lags(cross, peak - ABOUT, peak + ABOUT))
    under = torch.fft.rfft((window * _lags(auto, -ABOUT, ABOUT)).roll(-ABOUT)).real
    return torch.fft.irfft(over / under.clamp_min(QUIET * float(under.mean())))


def _lags(cyclic: Tensor, begin: int, end: int) -> Tensor:
    """A correlation by lags 0, 1, ..., -2, -1 -> by lags begin, ..., end - 1."""
    return cyclic.roll(-begin)[: end - begin]
