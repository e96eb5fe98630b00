"""Pictures of a capture: what was recorded beside what the model makes of it, and the error."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavenet.plotting import plot_spectrograms

DETAIL = 0.005  # seconds before and after the loudest sample


def overview(
    wanted: Tensor, made: Tensor, sample_rate: int, history: Sequence[Sequence[float]]
) -> Any:
    """The loudest hundredth of a second, the spectra of signal and error, and the learning curve.

    wanted, made: (T,). history: step, training and held-out ESR, once an epoch.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 8), layout="constrained")
    wave, spectrum, curve = figure.subplots(3)
    place, around = int(wanted.abs().argmax()), round(DETAIL * sample_rate)
    part = slice(max(0, place - around), place + around)
    time = 1000 * torch.arange(len(wanted))[part] / sample_rate
    wave.plot(time, wanted[part], label="recorded")
    wave.plot(time, made[part], "--", label="model")
    wave.set(xlabel="ms of the held-out part", title="at the loudest sample")
    window = torch.hann_window(2048)
    for name, sound in (("recorded", wanted), ("error", made - wanted)):
        power = torch.stft(sound, 2048, window=window, return_complex=True).abs().square().mean(1)
        hertz = torch.linspace(0, sample_rate / 2, len(power))
        spectrum.semilogx(hertz[1:], 10 * power[1:].clamp_min(1e-12).log10(), label=name)
    spectrum.set(xlabel="Hz", ylabel="dB", title="mean power")
    steps, trained, held_out = zip(*history, strict=True)
    curve.semilogy(steps, trained, label="training")
    curve.semilogy(steps, held_out, label="held out")
    curve.set(xlabel="steps", ylabel="ESR", title=f"held-out ESR {min(held_out):.5f}")
    for axis in (wave, spectrum, curve):
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def error_spectrograms(
    wanted: Sequence[Tensor], made: Sequence[Tensor], sample_rate: int, titles: Sequence[str]
) -> Any:
    """Of each held-out part (T,) and, under it on the same scale, of its error."""
    errors = [ours - theirs for ours, theirs in zip(made, wanted, strict=True)]
    return plot_spectrograms({"recorded": wanted, "error": errors}, sample_rate, titles)
