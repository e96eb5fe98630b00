"""Owns the folders of runs: their names, one process group for each, and what killed ones left.

Knows nothing of what training writes into them but its checkpoints' place.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock
from lightning.pytorch.utilities import rank_zero_only

from wavenet import files

# Environment variable with the run's folder, for the processes that Lightning starts for DDP
RUN_VARIABLE = "WAVENET_RUN"
LOCK = ".lock"  # the kernel frees it when its process ends, however that ends


class Claim:
    """A run's folder, while this process trains it: `with Claim() as claim: ... claim.take(...)`.

    On leaving, a new run that failed before its first step is removed. `trained` tells whether a
    step was taken; the processes that Lightning starts have no claim of their own.
    """

    def __init__(self) -> None:
        self.trained: Callable[[], bool] = lambda: False
        self.folder: Path | None = None
        self._new = False
        self._lock: filelock.BaseFileLock | None = None

    def take(self, runs: str, name: str | None, checkpoint: str | None) -> Path:
        """The checkpoint's own folder in a resumed run, otherwise a new one.

        Raises ValueError for an empty `runs`, for a name that is not one, and for a run that is
        being trained.
        """
        if is_started_by_lightning():
            return Path(os.environ[RUN_VARIABLE])
        if not runs.strip():  # Path("") is the working folder
            raise ValueError("--runs is empty. Give a folder for all runs, or leave it out: runs/.")
        self._new = not (checkpoint and Path(checkpoint).parent.name == "checkpoints")
        if not self._new:
            folder = Path(checkpoint or "").parent.parent
        elif is_first():
            folder = new_folder(Path(runs), name or "run")
        else:
            folder = Path(runs, name or "run")  # is told the true one by the first process
        if is_first():
            self._hold(folder)
        os.environ[RUN_VARIABLE] = str(folder)
        return folder

    def _hold(self, folder: Path) -> None:
        lock = filelock.FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ValueError(
                f"The run {folder} is being trained by another process. Wait until it ends or "
                "stop it (Ctrl-C saves), then go on with it; for a run of its own leave out "
                "--ckpt_path."
            ) from error
        self.folder, self._lock = folder, lock
        sweep(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self.folder is None or self._lock is None:
            return
        if self._new and kind is not None and not self.trained():
            shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.folder / LOCK).unlink(missing_ok=True)
            self.folder.rmdir()  # where nothing was written, as by --trainer.fast_dev_run
        self._lock.release()
        os.environ.pop(RUN_VARIABLE, None)


def is_started_by_lightning() -> bool:
    """Whether this is one of the processes that a first one started for DDP."""
    return bool(os.environ.get(RUN_VARIABLE))


def is_first() -> bool:
    """Whether this process writes the run, of all that train it."""
    return not getattr(rank_zero_only, "rank", 0)


def new_folder(runs: Path, name: str) -> Path:
    """A new folder RUNS/NAME, or RUNS/NAME-2, ... if that exists. Raises ValueError for a path.

    mkdir is atomic, so two runs that start at the same time get two folders.
    """
    if not name.strip() or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise ValueError(
            f"--name {name!r} is not a name for a folder in '{runs}'. Give one without '/' and "
            "'\\', such as --name big; --runs is the folder of all runs."
        )
    for folder in [runs / name, *(runs / f"{name}-{index}" for index in range(2, 10000))]:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(f"{runs} has 10000 runs called {name}; give another --name.")


def sweep(run: Path) -> None:
    """Removes the half-written files of killed processes; the run's lock must be held."""
    for folder in (run, run / "checkpoints", run / "model", run / "samples"):
        files.sweep(folder)
