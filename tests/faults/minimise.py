"""Owns making an input that found a fault short: what can be left out is left out.

Knows nothing of kinds: an input is plain values, and a function says whether it still fails.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

LONG = 200  # letters; shorter words are meant as they stand


def shortest(case: Any, still_fails: Callable[[Any], bool], seconds: float = 30.0) -> Any:
    """The smallest found in so many seconds by leaving out one part after the other."""
    until = time.monotonic() + seconds
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(case):
            if time.monotonic() > until:
                return case
            if still_fails(smaller):
                case, changed = smaller, True
                break
    return case


def _smaller(case: Any) -> Iterator[Any]:
    """The case without one of its parts, at any depth; parts on the outside first."""
    if isinstance(case, dict) and "tensor" in case:
        return  # one value
    if isinstance(case, dict):
        for name in case:
            yield {other: value for other, value in case.items() if other != name}
        for name, value in case.items():
            yield from ({**case, name: less} for less in _smaller(value))
    elif isinstance(case, list):
        for index in range(len(case)):
            yield case[:index] + case[index + 1 :]
        for index, value in enumerate(case):
            yield from ([*case[:index], less, *case[index + 1 :]] for less in _smaller(value))
    elif isinstance(case, str) and len(case) > LONG:
        yield case[: len(case) // 2]
