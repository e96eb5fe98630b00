"""Owns the checks of single settings that the corpus's files share. Messages name the flag."""

import re
from typing import Any

# The largest of each setting that can be meant; what lies beyond is a slip of the pen.
LARGEST = {
    "sample_rate": 1_000_000,  # Hz
    "crop_samples": 100_000_000,  # more than an hour and a half at 16 kHz
    "batch_size": 65_536,
    "val_batch_size": 65_536,
    "num_workers": 256,
    "trailing_silence": 3600,  # seconds
}
SHOWN = 60  # characters of a value that a message repeats


def _require_given(name: str, value: object) -> None:
    """Raises ValueError for None, which an empty value in a YAML file becomes."""
    if value is None:
        raise ValueError(
            f"--data.{name} is empty. Give it a value, or leave it out for its default."
        )


def require_positive(**settings: float) -> None:
    """Raises ValueError for a setting that is None, 0 or below, or too large."""
    for name, value in settings.items():
        _require_given(name, value)
        if not value > 0:
            raise ValueError(f"--data.{name} must be above 0, but got {value}.")
        _refuse_too_large(name, value)


def require_not_negative(**settings: float) -> None:
    """Raises ValueError for a setting that is None, below 0, or too large."""
    for name, value in settings.items():
        _require_given(name, value)
        if not value >= 0:
            raise ValueError(f"--data.{name} must be at least 0, but got {value}.")
        _refuse_too_large(name, value)


def _refuse_too_large(name: str, value: float) -> None:
    largest = LARGEST.get(name)
    if largest is not None and value > largest:
        raise ValueError(f"--data.{name} must be at most {largest}, but got {value}.")


def require_whole(**settings: int) -> None:
    """Raises ValueError for a setting that is no whole number."""
    for name, value in settings.items():
        if type(value) is not int:
            raise ValueError(f"--data.{name} must be a whole number, but got {value!r}.")


def require_share(**settings: float) -> None:
    """Raises ValueError for a setting that is None, below 0, or of 1 and above."""
    for name, value in settings.items():
        _require_given(name, value)
        if not 0 <= value < 1:
            raise ValueError(f"--data.{name} is a share, from 0 to below 1, but got {value}.")


def require_number(flag: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError for what is no number from low to high. flag: as the user writes it."""
    wrong = not isinstance(value, int | float) or isinstance(value, bool)
    if wrong or not low <= value <= high:
        raise ValueError(f"{flag} must be a number from {low} to {high}, but got {value!r}.")


def compiled_pattern(setting: str, text: str | None) -> re.Pattern[str] | None:
    """The regular expression, None for none. Raises ValueError for what is not one."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"--data.{setting} {text!r} is not a regular expression: {error}."
        ) from error


def shortened(text: str) -> str:
    """The text as a message shows it: its beginning, where it is long."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
