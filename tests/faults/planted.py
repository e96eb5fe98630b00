"""Owns faults that are planted into the library, to see that the harness finds each of them.

`find(name)` plants one in this process, which must be fresh (see `sandbox`), looks, and takes it
out again.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import wavenet.audio
import wavenet.corpus.preparing
import wavenet.training.data
from faults import files, kills, places, stock
from faults.kinds import KINDS, draw
from faults.outcomes import Outcome
from faults.sandbox import Limits, run_each

Patch = Callable[[pytest.MonkeyPatch], None]
FEW_SECONDS = Limits(seconds=2)


def begin(folder: Path) -> None:
    """Of a process that plants. folder: for what inputs start from."""
    torch.set_num_threads(1)
    stock.make(folder)


def find(name: str) -> list[Outcome]:
    """The faults found with this one planted, up to the first."""
    plant = PLANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        if plant.before:
            plant.before()
        plant.patch(patch)
        return list(itertools.islice((x for x in plant.look() if x.is_fault), 1))


# --- Ways to look -----------------------------------------------------------------------------


def _inputs(kind: str, count: int, limits: Limits = FEW_SECONDS) -> Iterator[Outcome]:
    return run_each(KINDS[kind].act, draw(KINDS[kind], count, 0), limits)


def _kills(operation: str, count: int) -> Iterator[Outcome]:
    for case in itertools.islice(kills.draw(0, [operation]), count):
        yield kills.run({**case, "signal": "SIGKILL"})[0]


def _twice(operation: str, count: int) -> Iterator[Outcome]:
    for number in range(count):
        case = {"operation": operation, "place": "twice", "delay": number / 100}
        yield places.run(case)


def _full(operation: str) -> Iterator[Outcome]:
    for kilobytes in (0, 4, 16, 64, 256):
        yield places.run({"operation": operation, "place": "full", "kilobytes": kilobytes})


# --- Faults -----------------------------------------------------------------------------------


def _half_files(patch: pytest.MonkeyPatch) -> None:
    """A file takes its name piece by piece: half of it can be seen."""

    def replace(source: Any, target: Any) -> None:
        content = Path(source).read_bytes()
        with Path(target).open("wb", buffering=0) as file:
            for start in range(0, len(content), 1 << 14):
                file.write(content[start : start + (1 << 14)])
                time.sleep(0.0003)
        Path(source).unlink()

    patch.setattr(os, "replace", replace)


def _silent(patch: pytest.MonkeyPatch) -> None:
    """A full disk is not told of."""
    inner = wavenet.WaveNet.save_pretrained

    def save(model: wavenet.WaveNet, folder: Any) -> None:
        with contextlib.suppress(OSError):
            inner(model, folder)

    patch.setattr(wavenet.WaveNet, "save_pretrained", save)


def _silent_without_mounts(patch: pytest.MonkeyPatch) -> None:
    """The same where the system lets nobody mount: a limit on files takes the disk's place."""
    patch.setattr(places, "_mounted", lambda *_: False)
    _silent(patch)


def _untidy(patch: pytest.MonkeyPatch) -> None:
    """What could not be written whole is left."""
    inner = {"unlink": Path.unlink, "rmtree": shutil.rmtree}

    def sparing(name: str) -> Any:
        def remove(path: Any, *how: Any, **more: Any) -> None:
            if not Path(path).name.startswith("."):
                inner[name](path, *how, **more)

        return remove

    patch.setattr(Path, "unlink", sparing("unlink"))
    patch.setattr(shutil, "rmtree", sparing("rmtree"))


def _lost_place(patch: pytest.MonkeyPatch) -> None:
    """A resumed run reads the batches of the beginning again."""
    patch.setattr(wavenet.training.data, "_batches_done", lambda *_: 0)


def _instead(module: Any, name: str, act: Callable[[], None]) -> Patch:
    def patch_it(patch: pytest.MonkeyPatch) -> None:
        inner = getattr(module, name)

        @functools.wraps(inner)
        def instead(*args: Any, **kwargs: Any) -> Any:
            act()
            return inner(*args, **kwargs)

        patch.setattr(module, name, instead)

    return patch_it


def _uncaught() -> None:
    raise KeyError("rate")


def _endless() -> None:
    while True:
        pass


def _asleep() -> None:
    signal.pause()


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _louder(patch: pytest.MonkeyPatch) -> None:
    """Audio is written one level too high."""
    inner = wavenet.audio.pcm16
    patch.setattr(wavenet.audio, "pcm16", lambda audio: inner(audio) + 1)


def _trusting(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint is unpickled with all that is in it."""
    inner = torch.load
    patch.setattr(
        torch, "load", lambda *args, **how: inner(*args, **{**how, "weights_only": False})
    )


def _one_name(patch: pytest.MonkeyPatch) -> None:
    """Nobody sees that a name is taken."""
    exists = Path.exists
    patch.setattr(Path, "exists", lambda path: path.suffix != ".wav" and exists(path))
    patch.setattr(os, "link", os.replace)  # which takes a name from whoever has it


def _lost_neighbours(patch: pytest.MonkeyPatch) -> None:
    """A file that cannot be decoded takes the one behind it along."""
    inner = wavenet.corpus.preparing.decode_clip

    def decode(path: Path, settings: Any) -> Any:
        return inner(path, settings) if path.name != files.WHOLE[1] else inner(Path("x"), settings)

    patch.setattr(wavenet.corpus.preparing, "decode_clip", decode)


@dataclass(frozen=True)
class Plant:
    """verdict: with which it is to be found. before: what is made without the fault."""

    patch: Patch
    look: Callable[[], Iterator[Outcome]]
    verdict: str
    before: Callable[[], Any] | None = None


PLANTS = {
    "half a checkpoint": Plant(
        _half_files, lambda: _kills("save", 60), "wrong", lambda: kills.reference("save")
    ),
    "half an export": Plant(
        _half_files, lambda: _kills("export", 60), "wrong", lambda: kills.reference("export")
    ),
    "silent on a full disk": Plant(
        _silent, lambda: _full("export"), "wrong", lambda: kills.reference("export")
    ),
    "silent beyond a limit": Plant(
        _silent_without_mounts,
        lambda: _full("export"),
        "wrong",
        lambda: kills.reference("export"),
    ),
    "halves left on a full disk": Plant(
        _untidy, lambda: _full("save"), "wrong", lambda: kills.reference("save")
    ),
    "lost place on resuming": Plant(
        _lost_place,
        lambda: _kills("resume", 3),
        "wrong",
        lambda: [kills.reference(name) for name in ("train", "resume")],
    ),
    "uncaught error": Plant(
        _instead(wavenet.audio, "_declared", _uncaught),
        lambda: _inputs("audio file", 40),
        "traceback",
    ),
    "endless loop": Plant(
        _instead(wavenet.audio, "_declared", _endless), lambda: _inputs("audio file", 40), "hang"
    ),
    "deadlock": Plant(
        _instead(wavenet.audio, "_declared", _asleep), lambda: _inputs("audio file", 40), "hang"
    ),
    "crash": Plant(
        _instead(wavenet.audio, "_declared", _crash), lambda: _inputs("audio file", 40), "crash"
    ),
    "wrong samples": Plant(_louder, lambda: _inputs("audio array", 60), "wrong"),
    "lost neighbours": Plant(_lost_neighbours, lambda: _inputs("corpus", 20), "wrong"),
    "code in a checkpoint": Plant(
        _trusting, lambda: _inputs("checkpoint", 200, Limits(10)), "code ran"
    ),
    "one name for two": Plant(
        _one_name, lambda: _twice("unnamed", 3), "wrong", lambda: kills.reference("unnamed")
    ),
}
