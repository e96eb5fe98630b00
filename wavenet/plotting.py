"""Owns pictures of audio: waveform and spectrogram. Needs matplotlib; knows nothing of models."""

import io
import logging
import math
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavenet.files import write_whole
from wavenet.installation import require

logger = logging.getLogger(__name__)

MOST_CLIPS = 16  # side by side in a picture
LONGEST = 600  # seconds of a clip in a picture: a spectrogram of 300 MB
MANY_POINTS = 40  # of a curve, from which on it is smoothed
FLOOR_DB = -80.0  # the lowest level of a spectrogram, relative to its loudest point
PIXELS = 256  # the largest width of a small spectrogram
PNG_LEVELS = 64  # colours of a small spectrogram, 1.3 dB each


def spectrogram_db(audio: Tensor, sample_rate: int) -> tuple[Tensor, int]:
    """audio (T,) -> power in dB relative to the loudest point (bins, frames); hop in samples.

    The window is a Hann window of 32 ms.
    """
    power, hop = _power(audio, sample_rate)
    return _decibels(power, float(power.max())), hop


def _decibels(power: Tensor, loudest: float) -> Tensor:
    """loudest: the power of 0 dB."""
    return (10 * torch.log10(power / max(loudest, 1e-12) + 1e-12)).clamp_min(FLOOR_DB)


def _power(audio: Tensor, sample_rate: int) -> tuple[Tensor, int]:
    """(bins, frames) and the hop in samples."""
    window = max(16, round(0.032 * sample_rate))
    hop = max(1, window // 8)
    padded = torch.nn.functional.pad(audio.float(), (window // 2, window - window // 2))
    spectrum = torch.stft(
        padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True
    )
    return spectrum.abs().square(), hop


def spectrogram_png(audio: Tensor, sample_rate: int) -> bytes:
    """audio (T,) -> a small PNG of its spectrogram, low frequencies at the bottom, without axes.

    One pixel per bin and frame, at most PIXELS frames wide, in PNG_LEVELS colours: less than 20 kB
    for one second at 8 kHz.
    """
    require("A picture", "matplotlib")
    from matplotlib import colormaps

    decibels, _ = spectrogram_db(audio, sample_rate)
    level = (decibels / FLOOR_DB).mul(PNG_LEVELS - 1).round().to(torch.uint8)  # 0: the loudest
    picture = (PNG_LEVELS - 1 - level[:, :: math.ceil(level.shape[1] / PIXELS)]).flip(0)
    palette = colormaps["magma"].resampled(PNG_LEVELS)(range(PNG_LEVELS), bytes=True)[:, :3]
    return _png(picture, palette.tobytes())


def _png(picture: Tensor, palette: bytes) -> bytes:
    """picture (height, width) uint8, indices into palette (3 bytes per colour) -> 8-bit PNG.

    By the standard, ISO/IEC 15948.
    """
    height, width = picture.shape
    # Each line starts with the number of its filter; 0: no filter.
    lines = torch.nn.functional.pad(picture, (1, 0)).numpy().tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = {b"IHDR": header, b"PLTE": palette, b"IDAT": zlib.compress(lines, 9), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks.items()
    )


def plot_clips(
    clips: Sequence[Tensor],
    sample_rate: int,
    titles: Sequence[str],
    prompt_seconds: float | None = None,
) -> Any:
    """A figure with one column per clip (T,), in [-1, 1]: waveform above spectrogram.

    Of the first MOST_CLIPS clips, and the first LONGEST seconds of each; a log line says so. All
    spectrograms have one scale: 0 dB is the loudest point of all. prompt_seconds: where a line
    marks the end of what the clips go on from.
    """
    require("A picture", "matplotlib")
    from matplotlib.figure import Figure

    clips, titles = _shown(clips, sample_rate), titles[:MOST_CLIPS]
    figure = Figure(figsize=(max(6.0, 3.0 * len(clips)), 4.2), layout="constrained")
    axes = figure.subplots(
        2, len(clips), squeeze=False, sharey="row", gridspec_kw={"height_ratios": [1, 2]}
    )
    clips = [audio.detach().cpu().float() for audio in clips]
    spectrograms = _spectrograms(clips, sample_rate)
    for column, (audio, title) in enumerate(zip(clips, titles, strict=True)):
        seconds = len(audio) / sample_rate
        wave, picture = axes[0, column], axes[1, column]
        wave.plot(torch.arange(len(audio)) / sample_rate, audio, linewidth=0.5)
        wave.set(ylim=(-1, 1), xlim=(0, seconds), title=title)
        shown = _show_spectrogram(picture, spectrograms[column], seconds, sample_rate)
        picture.set(xlabel="time (s)")
        for axis in (wave, picture) if prompt_seconds else ():
            axis.axvline(prompt_seconds, color="tab:orange", linestyle="--", linewidth=1)
    if prompt_seconds:
        axes[0, 0].annotate(
            "prompt ends", (prompt_seconds, 0.78), (3, 0), textcoords="offset points", fontsize=7
        )
    axes[0, 0].set(ylabel="amplitude")
    axes[1, 0].set(ylabel="frequency (kHz)")
    figure.colorbar(shown, ax=axes[1, :].tolist(), label="dB")
    return figure


def titles_of(labels: Mapping[str, str | Sequence[str]], count: int) -> list[str]:
    """A title for each of `count` clips: its labels, or its number where there are none.

    labels: name -> a category for all, or one for each clip.
    """
    each = [[given] * count if isinstance(given, str) else given for given in labels.values()]
    if not each:
        return [f"clip {index}" for index in range(count)]
    return [", ".join(of) for of in zip(*each, strict=True)]


def plot_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Any:
    """A figure of bits per sample against training samples seen.

    curves: by name, points (samples seen, bits). Where a curve has many points, it is drawn faint,
    under its mean over the points about each.
    """
    require("A picture", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        if not points:
            continue
        (seen, bits), colour = zip(*points, strict=True), f"C{number}"
        if len(points) > MANY_POINTS:
            axis.plot(seen, bits, color=colour, alpha=0.25, linewidth=0.7)
            axis.plot(seen, _smooth(bits), color=colour, label=f"{name}, smoothed")
        else:
            axis.plot(seen, bits, color=colour, marker=".", label=name)
    axis.set(xlabel="training samples seen", ylabel="bits per sample")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    return figure


def _smooth(values: Sequence[float]) -> Tensor:
    """Means over a twentieth of the values, fewer at the ends."""
    series = torch.tensor(values, dtype=torch.float64)
    sums = torch.nn.functional.pad(series.cumsum(0), (1, 0))
    place, half = torch.arange(len(series)), max(1, len(series) // 40)
    low, high = (place - half).clamp_min(0), (place + half + 1).clamp_max(len(series))
    return (sums[high] - sums[low]) / (high - low)


def _spectrograms(clips: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    """In dB, of one scale: 0 dB is the loudest point of all."""
    powers = [_power(clip, sample_rate)[0] for clip in clips]
    loudest = max(float(power.max()) for power in powers)
    return [_decibels(power, loudest) for power in powers]


def _shown(clips: Sequence[Tensor], sample_rate: int) -> list[Tensor]:
    """What of the clips fits into a picture."""
    longest = max(len(clip) for clip in clips) / sample_rate
    if len(clips) > MOST_CLIPS:
        logger.warning("the picture shows the first %d of %d clips", MOST_CLIPS, len(clips))
    if longest > LONGEST:
        logger.warning("the picture shows the first %d of %.0f seconds", LONGEST, longest)
    return [clip[: LONGEST * sample_rate] for clip in clips[:MOST_CLIPS]]


def plot_spectrograms(
    rows: Mapping[str, Sequence[Tensor]], sample_rate: int, titles: Sequence[str]
) -> Any:
    """A figure of spectrograms, one row for each name in `rows`, one column for each title.

    All have one scale: 0 dB is the loudest point of all.
    """
    require("A picture", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(titles) + 0.8, 1.9 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False, sharey=True)
    every = [audio.detach().cpu().float() for clips in rows.values() for audio in clips]
    spectrograms = _spectrograms(every, sample_rate)
    for picture, audio, decibels in zip(axes.ravel(), every, spectrograms, strict=True):
        shown = _show_spectrogram(picture, decibels, len(audio) / sample_rate, sample_rate)
    for picture, name in zip(axes[:, 0], rows, strict=True):
        picture.set(ylabel=f"{name}\nkHz")
    for picture, title in zip(axes[0], titles, strict=True):
        picture.set_title(title, fontsize=9)
    for picture in axes[-1]:
        picture.set(xlabel="s")
    figure.colorbar(shown, ax=axes.ravel().tolist(), label="dB", aspect=40)
    return figure


def _show_spectrogram(picture: Any, decibels: Tensor, seconds: float, sample_rate: int) -> Any:
    return picture.imshow(
        decibels.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, sample_rate / 2000),
        cmap="magma",
        vmin=FLOOR_DB,
        vmax=0,
    )


def save_plot(
    path: str | os.PathLike[str], clips: Sequence[Tensor], sample_rate: int, titles: Sequence[str]
) -> None:
    """Writes `plot_clips` as a PNG; the file appears complete or not at all."""
    save_figure(path, plot_clips(clips, sample_rate, titles))


def save_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """Writes a matplotlib figure as a PNG; the file appears complete or not at all.

    Raises ValueError for a suffix other than .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"Pictures are PNG files, but got '{path}'; give it the suffix .png.")
    write_whole(path, figure_png(figure))


def figure_png(figure: Any) -> bytes:
    """A matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
