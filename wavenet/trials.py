"""Owns how a fast way is tried before it is used: in a process of its own, once for a machine.

An illegal access of a kernel poisons its process, and a kernel that hangs cannot be ended: both
must befall a child. What it found is kept as JSON in `verdicts` of the cache folder, by the GPU,
driver, versions, the kernels' source and all that the trial was given. WAVENET_SELF_CHECK=0: no
trials. Knows nothing of models, engines or training.
"""

import functools
import hashlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from wavenet.files import cache_folder, write_whole

logger = logging.getLogger(__name__)

LIMIT = 120.0  # seconds of a trial
REASON = 300  # characters of a reason
OTHERS = ("out of memory", "busy or unavailable")  # in messages: other programs use the GPU
SWITCH = "WAVENET_SELF_CHECK"
DRIVER = Path("/proc/driver/nvidia/version")
PROGRAM = "from wavenet.trials import child; child()"
ANSWER = "wavenet trial: "  # how the child's answer begins, after whatever libraries print

Trial = Callable[[dict[str, Any], torch.device], None]  # raises where something is wrong


class Verdict(NamedTuple):
    good: bool
    reason: str  # why not


def verdict(trial: str, given: Mapping[str, Any], device: torch.device) -> Verdict:
    """What a trial finds on that device, or found there before.

    trial: "module:function", a `Trial`. given: plain values, as in JSON.
    """
    if os.environ.get(SWITCH) == "0":
        return Verdict(True, f"not checked ({SWITCH}=0)")
    facts = {"trial": trial, "given": dict(given), **_machine(device), "source": _source(trial)}
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / "verdicts" / f"{name}.json"
    found = _kept(path)
    if found is None:
        logger.info(
            "checking %s on %s in a process of its own, once (at most %.0f s)",
            *(_title(trial), facts["gpu"], LIMIT),
        )
        found, lasting = _tried(trial, given, device)
        if lasting:
            _keep(path, {**found._asdict(), **facts})
    return found if found.good else found._replace(reason=f"{found.reason}; kept in {path}")


def _title(trial: str) -> str:
    return trial.partition(":")[2].replace("_", " ")


def _kept(path: Path) -> Verdict | None:
    """None where there is none, or a damaged one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        return Verdict(bool(content["good"]), str(content["reason"]))
    return None


def _keep(path: Path, content: dict[str, Any]) -> None:
    """A cache that cannot be written costs a trial a process, and is no error."""
    with suppress(OSError):
        write_whole(path, json.dumps(content, indent=1).encode())


def _tried(trial: str, given: Mapping[str, Any], device: torch.device) -> tuple[Verdict, bool]:
    """The verdict, and whether it lasts: not where others had the GPU, or its memory."""
    asked = json.dumps({"trial": trial, "given": dict(given), "device": str(device)})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # with the compilers that it starts it can be ended as one
        )
    except OSError as error:
        return Verdict(False, f"no process for a check can be started: {error}"), False
    try:
        out, err = process.communicate(asked, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Verdict(False, f"its check did not end within {LIMIT:.0f} s"), True
    finally:
        _end(process)
    answers = [line for line in out.splitlines() if line.startswith(ANSWER)]
    if answers:
        answer = json.loads(answers[-1].removeprefix(ANSWER))
        return Verdict(answer["good"], answer["reason"]), answer["lasting"]
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Verdict(False, f"its check was ended by {name}"), name != "SIGINT"
    last = (err.strip().splitlines() or ["no message"])[-1]
    return Verdict(False, f"its check ended with status {process.returncode}: {last}"), True


def _end(process: subprocess.Popen[str]) -> None:
    """With all that it started. One that the GPU holds does not even then end: it is left."""
    if process.poll() is None:
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
    for pipe in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError, AttributeError):
            pipe.close()  # type: ignore[union-attr]


def child() -> None:
    """What the other process does: the trial asked for on stdin, its answer on stdout."""
    if hasattr(signal, "alarm"):
        signal.alarm(int(LIMIT) + 5)  # should the parent have been killed
    asked = json.load(sys.stdin)
    good, reason, lasting = True, "", True
    try:
        module, _, name = asked["trial"].partition(":")
        trial: Trial = getattr(importlib.import_module(module), name)
        trial(asked["given"], torch.device(asked["device"]))
    except Exception as error:
        good, reason = False, reason_of(error)
        lasting = not isinstance(error, MemoryError) and not any(x in reason for x in OTHERS)
    answer = {"good": good, "reason": reason, "lasting": lasting}
    print(f"\n{ANSWER}{json.dumps(answer)}", flush=True)
    os._exit(0)  # a poisoned context may raise, or hang, where libraries tidy up


def _machine(device: torch.device) -> dict[str, Any]:
    """What a kernel's code depends on but for its source."""
    versions = {name: _version(name) for name in ("torch", "triton")}
    if device.type != "cuda":
        return {"gpu": device.type, "capability": None, "driver": None, **versions}
    driver = DRIVER.read_text().splitlines()[0] if DRIVER.is_file() else "not known"
    return {
        "gpu": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),
        "driver": driver,
        "cuda": torch.version.cuda,
        **versions,
    }


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


@functools.cache
def _source(trial: str) -> str:
    """A hash of all files of the trial's folder, and of what kernels share."""
    spec = importlib.util.find_spec(trial.partition(":")[0])
    assert spec is not None and spec.origin is not None
    shared = [Path(__file__).with_name(name) for name in ("triton_common.py", "trials.py")]
    files = [*sorted(Path(spec.origin).parent.glob("*.py")), *shared]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:24]


def reason_of(error: BaseException) -> str:
    """An error in one line, for a log: "RuntimeError: Failed to find C compiler."

    Of torch.compile's errors, which wrap the one that counts, the inner one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    while lines and lines[0].startswith("backend=") and lines[0].endswith("raised:"):
        lines = lines[1:]
    text = lines[0] if lines else "no message"
    if not text.startswith(f"{type(error).__name__}:") and "Error: " not in text[:40]:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= REASON else f"{text[:REASON]}..."
