"""Owns what the command tells its user about an error: what happened, and what to do.

Knows nothing of how the error came about.
"""

import errno
import shlex
import traceback
from pathlib import Path

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from wavenet.installation import spelled

# In the messages of torch and of the library that joins processes
NO_MEMORY = ("allocate memory", "out of memory", "Storage size calculation overflowed")
NO_PEER = ("Connection closed by peer", "Connection reset by peer", "NCCL", "gloo")


def explain(error: Exception, run: Path | None) -> str:
    """The error and the remedy. run: the folder of the run, where there is one."""
    text = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{text}. The disk is full: free some space. {how_to_go_on(run)}"
    if isinstance(error, MemoryError | OverflowError) or _has(text, NO_MEMORY):
        return (
            f"The memory of this machine is not enough ({_first_line(text) or 'none is left'}). "
            "Give smaller sizes: --data.batch_size, --data.crop_samples, --data.val_batch_size, "
            f"--model.residual_channels and the other --model sizes. {how_to_go_on(run)}"
        )
    if isinstance(error, ValueError | OSError):
        return text
    if isinstance(error, MisconfigurationException):
        return " ".join(text.split())
    if isinstance(error, RuntimeError) and _has(text, NO_PEER):
        return (
            f"Another process of this run has ended ({_first_line(text)}); its own message, where "
            f"it left one, says why. {how_to_go_on(run)}"
        )
    if _while_restoring(error):
        return (
            f"The checkpoint cannot be gone on with ({type(error).__name__}: {_first_line(text)}): "
            "it is damaged, or of another version. Use another: best.ckpt and last.ckpt are in the "
            "same folder."
        )
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}, line {frame.lineno}"
    return (
        f"{type(error).__name__}: {' '.join(text.split())} ({place}). No setting explains this; it "
        f"may be a fault of the program. {how_to_go_on(run)}"
    )


def how_to_go_on(run: Path | None) -> str:
    """The command that resumes a run, or that there is nothing to resume."""
    path = None if run is None else run / "checkpoints" / "last.ckpt"
    if path is None or not path.is_file():
        return "There is no checkpoint yet; start the run again."
    return f"Resume with: {spelled('train')} --ckpt_path {shlex.quote(str(path))}"


def _while_restoring(error: Exception) -> bool:
    """Whether Lightning was reading a checkpoint. What damaged ones make it raise has no end."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        Path(x.filename).name == "checkpoint_connector.py" and "restore" in x.name for x in frames
    )


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)


def _first_line(text: str) -> str:
    return text.splitlines()[0].strip() if text.strip() else ""
