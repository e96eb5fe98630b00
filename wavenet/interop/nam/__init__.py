"""Owns neural-amp-modeler's models of guitar amplifiers: `.nam` files, read, run and written.

    from wavenet.interop import nam
    model = nam.load("amp.nam")                 # audio (B, 1, T) -> (B, 1, T), at model.sample_rate
    state = model.init_state(1)                 # receptive_field - 1 samples of silence, as plugins
    y, state = model.step(x, state)             # the next n samples
    nam.save(nam.NAM(nam.PRESETS["standard"], metadata={"name": "mine"}), "mine.nam")

    python -m wavenet.interop.nam in.wav amp.nam out.wav

A model is built from `wavenet.layers`, trains like any module, and knows no Lightning.
"""

from wavenet.interop.nam.file import load, save
from wavenet.interop.nam.model import NAM, Container
from wavenet.interop.nam.presets import PRESETS
from wavenet.interop.nam.settings import (
    ArraySettings,
    FilmSettings,
    HeadSettings,
    LayerSettings,
    Settings,
)

__all__ = [
    "NAM",
    "PRESETS",
    "ArraySettings",
    "Container",
    "FilmSettings",
    "HeadSettings",
    "LayerSettings",
    "Settings",
    "load",
    "save",
]
