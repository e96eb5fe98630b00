"""Owns the compiled libraries of the engines: a C++ source and its constants in, a loaded library out. Knows no model.

A library is compiled when it is first asked for and kept in a folder of the user's, under the hash of everything that made
it: source, constants, options, compiler, processor. Its name ends in the hash of its content, so that a file cut short or
damaged is never loaded, and it appears there by one rename: any number of processes may compile at once or be killed.
"""

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from wavenet.files import cache_folder

logger = logging.getLogger(__name__)

# clang on Arm calls the processor -mcpu; gcc knows both names
NATIVE = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
OPTIONS = ["-std=c++17", "-O3", NATIVE, "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC"]
COMPILERS = ["c++", "g++", "clang++"]
STALE = 3600  # seconds after which a half-written file is nobody's any more


class CompilerError(ValueError):
    """There is no library to be had; the message says why and what to do."""


def library(source: Path, constants: Mapping[str, object]) -> ctypes.CDLL:
    """The library compiled from `source` with the constants as macros. Raises CompilerError where it cannot be had."""
    compiler = find_compiler()
    command = [*compiler, *OPTIONS, *os.environ.get("WAVENET_CXXFLAGS", "").split()]
    command += [f"-D{name}={value}" for name, value in constants.items()]
    key = hash_of(*command, source.read_text(), version_of(tuple(compiler)), processor())
    stem = f"{source.stem}-{key}"
    command.append(str(source))
    folder = cache_folder()
    try:
        return _loaded(folder, stem, command)
    except OSError as error:
        logger.info(
            "%s cannot be written (%s): compiled libraries are not kept.", folder, error.strerror
        )
    try:
        return _loaded(_folder_of_this_process(), stem, command)
    except OSError as error:
        raise CompilerError(
            f"There is no folder to compile {source.name} in: set WAVENET_CACHE to one."
        ) from error


def _loaded(folder: Path, stem: str, command: list[str]) -> ctypes.CDLL:
    """Raises OSError where the folder cannot be written, CompilerError where there is no library all the same."""
    for _ in range(2):  # a file that names its content and still does not load is made once more
        path = _kept(folder, stem) or _compile(folder, stem, command)
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            path.unlink(missing_ok=True)
            problem = error
    raise CompilerError(
        f"The library compiled from {Path(command[-1]).name} does not load: {problem}"
    )


def find_compiler() -> list[str]:
    """The command that CXX names, or the first C++ compiler on PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [[name] for name in COMPILERS]:
        if found := shutil.which(candidate[0]):
            return [found, *candidate[1:]]
    looked = named[0] if named else ", ".join(COMPILERS)
    raise CompilerError(
        f"No C++ compiler was found ({looked}). Install one (Debian, Ubuntu: apt install g++; macOS: xcode-select "
        "--install), or name one in the environment variable CXX."
    )


@functools.cache
def version_of(compiler: tuple[str, ...]) -> str:
    try:
        run = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(f"The C++ compiler {compiler[0]} does not run: {error}") from error
    return run.stdout + run.stderr


@functools.cache
def processor() -> str:
    """What -march=native depends on: the architecture, the processor's name and its instruction sets."""
    lines = [platform.machine(), platform.processor()]
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
        lines += [
            line
            for line in told
            if line.startswith(("model name", "flags", "Features", "CPU part"))
        ][:4]
    except OSError:  # macOS, Windows: the names above must do
        lines += [platform.platform()]
    return "\n".join(lines)


def hash_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _kept(folder: Path, stem: str) -> Path | None:
    """The library of that name whose content is what its name says; what is damaged is removed."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        if path.stem.rpartition("-")[2] == _content_hash(path):
            return path
        path.unlink(missing_ok=True)
    return None


def _content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def _compile(folder: Path, stem: str, command: list[str]) -> Path:
    """Raises OSError where the folder cannot be written, CompilerError where the compiler refuses the source."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _remove_stale(folder)
    handle, name = tempfile.mkstemp(".part", f"{stem}-", folder)
    os.close(handle)
    part = Path(name)
    try:
        run = subprocess.run([*command, "-o", name], capture_output=True, text=True, timeout=300)
        if run.returncode != 0:
            raise CompilerError(
                f"The C++ compiler refused the engine's source.\n{shlex.join(command)}\n{run.stderr}"
            )
        path = folder / f"{stem}-{_content_hash(part)}.so"
        os.replace(part, path)
    except subprocess.TimeoutExpired as error:
        raise CompilerError(
            f"The C++ compiler took more than {error.timeout:.0f} s: {shlex.join(command)}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _remove_stale(folder: Path) -> None:
    """What compilers that were killed left behind."""
    for part in folder.glob("*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()
        except FileNotFoundError:  # another process was faster
            continue


@functools.cache
def _folder_of_this_process() -> Path:
    """Where libraries go that cannot be kept; gone with the process."""
    folder = Path(tempfile.mkdtemp(prefix="wavenet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
