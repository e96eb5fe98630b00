"""Owns the command `wavenet play in.wav model.nam out.wav`, that of `wavenet.interop.nam`."""

import sys
from collections.abc import Sequence

from wavenet.interop.nam import __main__ as nam


def main(arguments: Sequence[str] | None = None, prog: str = "wavenet play") -> None:
    sys.exit(nam.main(arguments, prog))
