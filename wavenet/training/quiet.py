"""Owns which messages of Lightning and torch are left out, and which are said once.

Knows nothing of what they are about.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

logger = logging.getLogger(__name__)


def quiet_lightning() -> None:
    """Leaves out, in this process, what Lightning says of products, and warnings that do not apply.

    For a program of one's own that trains with Lightning as `wavenet train` does.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(WhatMatters())
    _silence_warnings()


class WhatMatters(logging.Filter):
    """Leaves out what Lightning says of products and of devices that are not there."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        return not (
            "Tip:" in text or (text.startswith(("GPU", "TPU")) and "available: False" in text)
        )


class EnginesOnce(logging.Filter):
    """Says once why a slow engine draws the samples, not at every validation."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._said
        if record.name.startswith("wavenet.engines"):
            self._said.add(message)
        return new


@contextlib.contextmanager
def warnings_alone(*names: str) -> Iterator[None]:
    """Inside, the loggers of these names say warnings and errors alone."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def saying_once() -> Iterator[None]:
    added = [(handler, EnginesOnce()) for handler in logging.getLogger().handlers]
    for handler, once in added:
        handler.addFilter(once)
    try:
        yield
    finally:
        for handler, once in added:
            handler.removeFilter(once)


@contextlib.contextmanager
def threads_in_one_line() -> Iterator[None]:
    """Says in one line what the system has refused to a thread beside the run.

    TensorBoard writes in one. The run meets the same error when it next writes, and ends with it.
    """
    earlier = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if issubclass(args.exc_type, OSError):
            logger.warning("writing beside the run failed: %s", args.exc_value)
        else:
            earlier(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = earlier


def _silence_warnings() -> None:
    """Silences Lightning and torch warnings that do not apply here."""
    for pattern in (
        ".*LightningCLI's args parameter.*",
        ".*does not have many workers.*",
        ".*WeightAveraging callback.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*treespec, LeafSpec.*",
        ".*is smaller than the logging interval.*",
        # The loader can be resumed: see data.ResumableSampler.
        ".*ended before the epoch ended and your dataloader is not resumable.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*The dirpath has changed from.*",
        # The strides differ only in a dimension of size 1: the tap of 1x1 convolutions.
        ".*Grad strides do not match bucket view strides.*",
    ):
        warnings.filterwarnings("ignore", pattern)
