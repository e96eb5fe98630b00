"""Owns what this machine offers: cores, memory, what its GPUs can do. Knows nothing of models."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

CGROUP = Path("/sys/fs/cgroup/memory.max")  # a container's limit on Linux
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)")  # of CUDA: sm_86, sm_90a, compute_120
BFLOAT16_FROM = (8, 0)  # compute capability; older GPUs emulate it, slower than float32
STREAMS_A_THREAD = 32  # of torch
THREADS_A_CORE = 8  # more only slow each other down, and very many end the process


def cores() -> int:
    """Logical cores."""
    return os.cpu_count() or 1


def set_threads(count: int | None) -> None:
    """Of the CPU, for this process; None: as they are.

    Raises ValueError outside 1..THREADS_A_CORE * cores.
    """
    if count is None:
        return
    most = THREADS_A_CORE * cores()
    if not 1 <= count <= most:
        raise ValueError(
            f"--threads must be at least 1 and at most {most}, {THREADS_A_CORE} for each of this "
            f"machine's {cores()} cores, but got {count}."
        )
    torch.set_num_threads(count)


@contextmanager
def threads_for(streams: int) -> Iterator[None]:
    """Inside, torch has no more threads than steps of so many streams, side by side, gain by.

    A step of few streams is too short to be divided: beside other work, its threads wait for each
    other at each of its operations. See `benchmarks/threads.py`.
    """
    before = torch.get_num_threads()
    fewer = min(before, max(1, streams // STREAMS_A_THREAD))
    if fewer == before:
        yield
        return
    torch.set_num_threads(fewer)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory(device: torch.device) -> float:
    """Bytes of the GPU, or of the machine and the container that this process runs in."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    limits = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # not on every system
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # ValueError: "max"
        limits.append(int(CGROUP.read_text()))
    return min(limits)


def gpu_name(device: torch.device) -> str:
    """Tesla T4 (compute capability 7.5)."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"


def obstacle_to_gpu(device: torch.device) -> str | None:
    """Why this torch cannot compute on that GPU, and what to do; None where it can.

    It was built for some architectures: code for one (sm_86) runs on GPUs of the same major number
    and the same or a later minor one, and what the driver compiles (compute_90) on all later ones.
    """
    built = torch.cuda.get_arch_list()
    mine = torch.cuda.get_device_capability(device)
    found = [_ARCHITECTURE.match(name) for name in built]
    known = [(match[1], (int(match[2]), int(match[3]))) for match in found if match]
    if not known or any(
        its <= mine and (kind == "compute" or its[0] == mine[0]) for kind, its in known
    ):
        return None
    return (
        f"{gpu_name(device)} is not among the GPUs that this PyTorch {torch.__version__} was built "
        f"for ({', '.join(built)}). Install one that was: those for CUDA 12.6 have the older GPUs, "
        "the newest PyTorch has the newest"
    )


def multiprocessors(device: torch.device) -> int:
    """How many programs a GPU runs at once with a multiprocessor for each."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16. torch's own answer counts emulation."""
    return torch.cuda.get_device_capability(device) >= BFLOAT16_FROM


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside, a GPU's float32 products are exact to float32, whatever the user has set."""
    backends: Any = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    rounded = [backend for backend in backends if backend.fp32_precision == "tf32"]
    for backend in rounded:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend in rounded:
            backend.fp32_precision = "tf32"


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, a GPU is the current one: kernels and graphs are launched there, not on the first."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def size(count: float) -> str:
    """Bytes in words: 25.2 GB."""
    units = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while count >= 999.5 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.3g} {units[0]}"
