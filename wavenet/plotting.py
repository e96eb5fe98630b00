"""Owns the pictures of audio: waveform over spectrogram. Needs matplotlib; knows nothing of models."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FLOOR_DB = -80.0  # of the spectrogram, below its loudest point


def spectrogram_db(audio: Tensor, sample_rate: int) -> tuple[Tensor, int]:
    """audio (T,) -> power in dB relative to the loudest point, (bins, frames), and the hop in samples; 32 ms Hann window."""
    window = max(16, round(0.032 * sample_rate))
    hop = max(1, window // 8)
    padded = torch.nn.functional.pad(audio.float(), (window // 2, window - window // 2))
    spectrum = torch.stft(padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True)
    power = spectrum.abs().square()
    return (10 * torch.log10(power / power.max().clamp_min(1e-12) + 1e-12)).clamp_min(FLOOR_DB), hop


def plot_clips(clips: Sequence[Tensor], sample_rate: int, titles: Sequence[str]) -> Any:
    """A figure with one column a clip, waveform above spectrogram. clips: each (T,) in [-1, 1]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 3.0 * len(clips)), 4.2), layout="constrained")
    axes = figure.subplots(2, len(clips), squeeze=False, sharey="row", gridspec_kw={"height_ratios": [1, 2]})
    for column, (audio, title) in enumerate(zip(clips, titles, strict=True)):
        audio = audio.detach().cpu().float()
        seconds = len(audio) / sample_rate
        wave, picture = axes[0, column], axes[1, column]
        wave.plot(torch.arange(len(audio)) / sample_rate, audio, linewidth=0.5)
        wave.set(ylim=(-1, 1), xlim=(0, seconds), title=title)
        _show_spectrogram(picture, audio, sample_rate)
        picture.set(xlabel="time (s)")
    axes[0, 0].set(ylabel="amplitude")
    axes[1, 0].set(ylabel="frequency (kHz)")
    return figure


def plot_spectrograms(rows: Mapping[str, Sequence[Tensor]], sample_rate: int, titles: Sequence[str]) -> Any:
    """A figure of spectrograms, one named row of clips under the other; clips in a column share their title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * len(titles) + 0.8, 1.9 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False, sharey=True)
    for row, (name, clips) in zip(axes, rows.items(), strict=True):
        row[0].set(ylabel=f"{name}\nkHz")
        for picture, audio in zip(row, clips, strict=True):
            _show_spectrogram(picture, audio.detach().cpu().float(), sample_rate)
    for picture, title in zip(axes[0], titles, strict=True):
        picture.set_title(title, fontsize=9)
    for picture in axes[-1]:
        picture.set(xlabel="s")
    return figure


def _show_spectrogram(picture: Any, audio: Tensor, sample_rate: int) -> None:
    decibels, _ = spectrogram_db(audio, sample_rate)
    picture.imshow(
        decibels.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, len(audio) / sample_rate, 0, sample_rate / 2000),
        cmap="magma",
        vmin=FLOOR_DB,
        vmax=0,
    )


def save_plot(path: str | os.PathLike[str], clips: Sequence[Tensor], sample_rate: int, titles: Sequence[str]) -> None:
    """`plot_clips` as a PNG, written whole."""
    import io

    from wavenet.files import write_whole

    buffer = io.BytesIO()
    plot_clips(clips, sample_rate, titles).savefig(buffer, format="png", dpi=110)
    write_whole(path, buffer.getvalue())
