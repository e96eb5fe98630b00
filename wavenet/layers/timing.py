"""Owns how the output of a module lies in time beside its input, and what that composes to.

Knows nothing of weights or values. B, C, T do not occur: everything here is counted in samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

from wavenet.layers.pointwise import Takes, is_pointwise, why_not

Reach = Callable[[int, int], tuple[int, int]]  # outputs from, to -> the inputs they depend on


@dataclass(frozen=True)
class Timing:
    """Of a module: which inputs an output sees, and which input it belongs to.

    reaches: of its parts in sequence; see `reach`.
    latency: how many input samples later than in a centred model an output comes.
    rate: outputs for each input; 1/2 behind a stride of 2.
    multiple: of which the length of every chunk must be a multiple.
    period: outputs after which `reach` repeats itself, moved on; above 1 behind an upsampling.
    """

    reaches: tuple[Reach, ...] = ()
    latency: Fraction = Fraction(0)
    rate: Fraction = Fraction(1)
    multiple: int = 1
    period: int = 1

    @classmethod
    def past(cls, history: int, latency: int = 0) -> "Timing":
        """Of a module that sees `history` samples before the present one."""
        return cls((lambda first, last: (first - history, last),), Fraction(latency))

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Outputs from `first` to `last`, both counted -> the inputs that they depend on."""
        for reach in reversed(self.reaches):
            first, last = reach(first, last)
        return first, last

    @property
    def receptive_field(self) -> int:
        """The most input samples that one output depends on."""
        spans = [self.reach(output, output) for output in range(self.period)]
        return max(last - first + 1 for first, last in spans)

    def then(self, after: "Timing") -> "Timing":
        """Of this module with another one behind it."""
        fits = (self.rate / after.multiple).denominator  # inputs that make whole chunks behind
        return Timing(
            self.reaches + after.reaches,
            self.latency + after.latency / self.rate,
            self.rate * after.rate,
            lcm(self.multiple, fits),
            self.period * after.period,
        )

    def beside(self, other: "Timing") -> "Timing":
        """Of this module and another one that get the same input.

        Raises ValueError where their outputs do not lie side by side.
        """
        if self.rate != other.rate:
            raise ValueError(
                f"Branches make {self.rate} and {other.rate} outputs for each input; they can be "
                "joined only where they make equally many."
            )
        if self.latency != other.latency:
            raise ValueError(
                f"Branches have latencies of {self.latency} and {other.latency} samples, so that "
                "what belongs together would be joined at different times. Put a Delay(channels, "
                f"{abs(self.latency - other.latency)}) into the one that is earlier."
            )

        def reach(first: int, last: int) -> tuple[int, int]:
            one, two = self.reach(first, last), other.reach(first, last)
            return min(one[0], two[0]), max(one[1], two[1])

        multiple, period = lcm(self.multiple, other.multiple), lcm(self.period, other.period)
        return Timing((reach,), self.latency, self.rate, multiple, period)


class Timed:
    """What a module with a `timing` says of itself."""

    timing: Timing
    condition_channels: Any = 0  # of what steers it; some set or compute it

    @property
    def receptive_field(self) -> int:
        """Input samples that one output depends on: 1 + sum of (kernel_size - 1) * dilation."""
        return self.timing.receptive_field

    @property
    def latency(self) -> int | Fraction:
        """By how many input samples the output lags behind the input it belongs to."""
        exact = self.timing.latency
        return int(exact) if exact.denominator == 1 else exact

    @property
    def chunk_multiple(self) -> int:
        """`step` takes chunks of which the lengths are multiples of this; 1 without a stride."""
        return self.timing.multiple


def timing_of(part: Takes | Any) -> Timing:
    """Raises ValueError for a module of which it is not known."""
    timing = getattr(part, "timing", None)
    if isinstance(timing, Timing):
        return timing
    if is_pointwise(part):
        return Timing()
    if isinstance(field := getattr(part, "receptive_field", None), int):
        return Timing.past(field - 1, getattr(part, "latency", 0))
    raise ValueError(f"The receptive field is not known: {why_not(part)}")
