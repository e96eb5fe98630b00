"""Owns classes that leave the canary when somebody else's config names them.

In the place of any importable class whose constructor does harm.
"""

from pathlib import Path

from lightning.pytorch.callbacks import Callback as LightningCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from faults.sandbox import CANARY


class Callback(LightningCallback):
    def __init__(self) -> None:
        Path(CANARY).touch()


class Logger(CSVLogger):
    def __init__(self) -> None:
        Path(CANARY).touch()
        super().__init__(".")


class Plugin(TorchCheckpointIO):
    def __init__(self) -> None:
        Path(CANARY).touch()
        super().__init__()
