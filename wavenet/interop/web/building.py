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
IMPORTS = ("exp", "log1p", "cos")  # from worker.js: no library is linked
COMPILE = ["-target", "wasm32-wasi", "-std=c++17", "-O3", "-msimd128", "-mbulk-memory"]
COMPILE += ["-ffp-contract=off", "-fno-math-errno", "-fno-exceptions", "-fno-rtti", "-c"]
LINK = ["--no-entry", "--gc-sections", "--strip-all", *(f"--export={name}" for name in EXPORTS)]


def unit() -> str:
    """The text that is compiled."""
    return SOURCE.read_text() + PLAYER.read_text()


def webassembly(constants: Mapping[str, object]) -> bytes:
    """The module for these constants.

    Raises MissingPackage, a ValueError, without ziglang, and ValueError where it does not compile.
    """
    require("A page that plays a model", "ziglang", extra="web")
    macros = [f"-D{name}={value}" for name, value in constants.items()]
    with tempfile.TemporaryDirectory(prefix="wavenet-") as kept:
        folder = Path(kept)
        (folder / "player.cpp").write_text(unit())
        (folder / "imports").write_text("\n".join(IMPORTS))
        _zig(folder, "c++", *COMPILE, *macros, "player.cpp", "-o", "player.o")
        allowed = "--allow-undefined-file=imports"
        _zig(folder, "wasm-ld", *LINK, allowed, "player.o", "-o", "player.wasm")
        return (folder / "player.wasm").read_bytes()


def _zig(folder: Path, *arguments: str) -> None:
    """In the folder, where it also keeps what it makes on the way."""
    caches = {f"ZIG_{which}_CACHE_DIR": str(folder) for which in ("GLOBAL", "LOCAL")}
    run = subprocess.run(
        [sys.executable, "-m", "ziglang", *arguments],
        cwd=folder,
        env={**os.environ, **caches},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if run.returncode != 0:
        raise ValueError(
            f"ziglang did not compile the page's network: {run.stderr.strip()[-2000:]}\n"
            f"The version that is tried: {to_install('web')} --upgrade."
        )
