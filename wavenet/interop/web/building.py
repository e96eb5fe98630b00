"""Owns how native.cpp and player.cpp become WebAssembly, by the compiler in the package ziglang.

It runs in any browser with 128-bit vectors, and gives the same there to the bit: it is compiled for
no processor, and sums are not fused with products. Knows nothing of models.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from wavenet.engines.native import SOURCE
from wavenet.engines.native.engine import Vectors
from wavenet.installation import require, to_install

PLAYER = Path(__file__).with_name("player.cpp")
VECTORS = Vectors(lanes=4, tile=4, group=1, tail=0)  # as it is compiled here; player.cpp checks it
EXPORTS = ("player_bytes", "begin", "choose", "plan", "how", "draw", "audio", "codes")
COMPILE = ["-target", "wasm32-wasi", "-std=c++17", "-O3", "-msimd128", "-mbulk-memory"]
COMPILE += ["-ffp-contract=off", "-fno-math-errno", "-fno-exceptions", "-fno-rtti", "-c"]
# No library is linked: the few functions that are missing come from the browser, see worker.js.
LINK = ["--no-entry", "--allow-undefined", "--gc-sections", "--strip-all"]


def unit() -> str:
    """The text that is compiled."""
    return SOURCE.read_text() + PLAYER.read_text()


def webassembly(constants: Mapping[str, object]) -> bytes:
    """The module for these constants.

    Raises MissingPackage, a ValueError, without ziglang, and ValueError where it does not compile.
    """
    require("A page that plays a model", "ziglang", extra="web")
    with tempfile.TemporaryDirectory(prefix="wavenet-") as folder:
        source, compiled, linked = (Path(folder, f"player.{kind}") for kind in ("cpp", "o", "wasm"))
        source.write_text(unit())
        macros = [f"-D{name}={value}" for name, value in constants.items()]
        _zig(Path(folder), "c++", *COMPILE, *macros, source, "-o", compiled)
        exports = [f"--export={name}" for name in EXPORTS]
        _zig(Path(folder), "wasm-ld", *LINK, *exports, compiled, "-o", linked)
        return linked.read_bytes()


def _zig(folder: Path, *arguments: object) -> None:
    """folder: where it keeps what it makes on the way."""
    command = [sys.executable, "-m", "ziglang", *map(str, arguments)]
    kept = {f"ZIG_{which}_CACHE_DIR": str(folder) for which in ("GLOBAL", "LOCAL")}
    run = subprocess.run(
        command, env={**os.environ, **kept}, capture_output=True, text=True, timeout=600
    )
    if run.returncode != 0:
        raise ValueError(
            f"ziglang did not compile the page's network: {run.stderr.strip()[-2000:]}\n"
            f"Another version of it may: {to_install('web')}."
        )
