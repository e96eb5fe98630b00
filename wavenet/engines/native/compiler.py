"""Owns the compiled libraries of the engines: a C++ source and constants in, a loaded library out.

Knows nothing of models. A library is compiled at its first use and kept in the user's cache folder.
Its file name contains the hash of everything it depends on (source, constants, options, compiler,
processor) and ends in the hash of its content, so that a truncated or damaged file is never loaded.
The finished file is moved to its name in one rename, so several processes may compile at the same
time, and a killed process does no harm. Loading a library runs its code: none is loaded from where
another user could have put it.
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
from collections.abc import Mapping
from pathlib import Path

from wavenet.engines.protocol import EngineUnavailable
from wavenet.files import NotPrivate, cache_folder, require_private, scratch

logger = logging.getLogger(__name__)

# clang on Arm has -mcpu for the processor; gcc accepts both options
NATIVE = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
# For some AMD processors gcc rounds products of one stream in another way than those of several,
# unless it is told not to split chains of multiply-adds; clang ignores the parameter.
SAME_ROUNDING = ["-ffp-contract=fast", "--param=avoid-fma-max-bits=0"]
OPTIONS = ["-std=c++17", "-O3", NATIVE, *SAME_ROUNDING, "-fno-math-errno", "-shared", "-fPIC"]
COMPILERS = ["c++", "g++", "clang++"]


class CompilerError(EngineUnavailable):
    """The library is not available; the message says why and what to do."""


def library(source: Path, constants: Mapping[str, object]) -> ctypes.CDLL:
    """The library compiled from `source`, with the constants as macros.

    Raises CompilerError if it cannot be compiled or loaded.
    """
    compiler = find_compiler()
    command = [*compiler, *OPTIONS, *os.environ.get("WAVENET_CXXFLAGS", "").split()]
    command += [f"-D{name}={value}" for name, value in constants.items()]
    key = hash_of(*command, source.read_text(), version_of(tuple(compiler)), processor())
    stem = f"{source.stem}-{key}"
    command.append(str(source))
    try:
        return _loaded(_private_folder(cache_folder()), stem, command)
    except NotPrivate as error:
        logger.warning(
            "%s is not used for compiled libraries: %s. Make it and the folders above it writable "
            "for you alone (chmod go-w), or name another folder in WAVENET_CACHE.",
            *(cache_folder(), error.strerror),
        )
    except OSError as error:
        logger.info(
            "%s cannot be written (%s): compiled libraries are not kept.",
            *(cache_folder(), error.strerror),
        )
    # A cache that cannot be used costs one compilation per process, but is not an error.
    try:
        return _loaded(_folder_of_this_process(), stem, command)
    except OSError as error:
        raise CompilerError(
            f"No folder to compile {source.name} in can be written. Set the environment variable "
            "WAVENET_CACHE to a folder that can be written."
        ) from error


def _private_folder(folder: Path) -> Path:
    """The folder, made where there is none, without links. Raises OSError, see require_private."""
    folder = folder.resolve()
    for part in reversed((folder, *folder.parents)):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
    require_private(folder)
    return folder


def _loaded(folder: Path, stem: str, command: list[str]) -> ctypes.CDLL:
    """Raises OSError if the folder cannot be written, CompilerError if there is another failure."""
    # A second try: an intact file may still not load, for example after a change of the system.
    for _ in range(2):
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
    """The command in the environment variable CXX, or the first C++ compiler on PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    for candidate in [named] if named else [[name] for name in COMPILERS]:
        if found := shutil.which(candidate[0]):
            return [found, *candidate[1:]]
    tried = named[0] if named else ", ".join(COMPILERS)
    raise CompilerError(
        f"No C++ compiler was found ({tried}). Install one (Debian, Ubuntu: apt install g++; "
        "macOS: xcode-select --install), or name one in the environment variable CXX."
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
    """What -march=native depends on: architecture, processor name and instruction sets."""
    lines = [platform.machine(), platform.processor()]
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
        fields = ("model name", "flags", "Features", "CPU part")
        lines += [line for line in cpuinfo if line.startswith(fields)][:4]
    except OSError:  # macOS and Windows have no such file
        lines += [platform.platform()]
    return "\n".join(lines)


def hash_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _kept(folder: Path, stem: str) -> Path | None:
    """The intact library of that name, if there is one; damaged or foreign files are removed."""
    for path in sorted(folder.glob(f"{stem}-*.so")):
        if _is_private(path) and path.stem.rpartition("-")[2] == _content_hash(path):
            return path
        path.unlink(missing_ok=True)
    return None


def _is_private(path: Path) -> bool:
    try:
        require_private(path)
    except NotPrivate as error:
        logger.warning("A compiled library is made again: %s.", error.strerror)
        return False
    return True


def _content_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def _compile(folder: Path, stem: str, command: list[str]) -> Path:
    """Raises OSError if the folder cannot be written, CompilerError if the compiler fails."""
    with scratch(folder / stem) as temporary:
        part = temporary / "library.so"
        try:
            run = subprocess.run(
                [*command, "-o", str(part)], capture_output=True, text=True, timeout=300
            )
        except subprocess.TimeoutExpired as error:
            raise CompilerError(
                f"The C++ compiler took more than {error.timeout:.0f} s: {shlex.join(command)}"
            ) from error
        if run.returncode != 0:
            raise CompilerError(
                "The C++ compiler refused the engine's source.\n"
                f"{shlex.join(command)}\n{run.stderr}"
            )
        part.chmod(part.stat().st_mode & 0o755)  # under the umask 002 a compiler lets groups write
        path = folder / f"{stem}-{_content_hash(part)}.so"
        os.replace(part, path)
    return path


@functools.cache
def _folder_of_this_process() -> Path:
    """The folder for libraries that cannot be kept; removed when the process exits."""
    folder = Path(tempfile.mkdtemp(prefix="wavenet-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
