"""Trials for test_trials.py, which run in a process of their own."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch


def good(given: dict[str, Any], device: torch.device) -> None:
    print("what libraries print")
    with Path(given["counted"]).open("a") as file:
        file.write(f"{device}\n")


def wrong(given: dict[str, Any], device: torch.device) -> None:
    raise RuntimeError("off by 1e+00 (allowed: 1e-04): residual")


def killed(given: dict[str, Any], device: torch.device) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashed(given: dict[str, Any], device: torch.device) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hanging(given: dict[str, Any], device: torch.device) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    Path(given["counted"]).write_text(str(child.pid))
    time.sleep(1000)


def leaving(given: dict[str, Any], device: torch.device) -> None:
    os._exit(3)


def short_of_memory(given: dict[str, Any], device: torch.device) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def taken(given: dict[str, Any], device: torch.device) -> None:
    raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
