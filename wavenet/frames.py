"""Owns where the commands get log mel frames from: a recording, a file of frames, a pipe.

Knows nothing of networks. Shapes: M bands, F frames, T time.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from wavenet.audio import load_audio
from wavenet.conditioning import Mel

PIPE = Path("-")  # stdin: raw float32 in the machine's byte order, the M bands of a frame together
PIECE = 1 << 16  # bytes read from a pipe at once, at most


def frames_given(
    args: argparse.Namespace, mel: Mel | None, sample_rate: int
) -> tuple[Tensor | Iterator[Tensor] | None, Tensor | None]:
    """Log mel frames by --mel-from and --mel, and the recording (T,) that they are of, or None.

    Raises ValueError where both are given, and for what cannot be read.
    """
    if args.mel_from and args.mel:
        raise ValueError("--mel-from and --mel both steer the model: give one of them.")
    if mel is None or not (args.mel_from or args.mel):
        return None, None
    if args.mel_from:
        audio = load_audio(args.mel_from, sample_rate)
        return mel.spectrogram(audio, sample_rate), audio
    as_they_come = args.mel == args.out == PIPE
    return piped_frames(mel) if as_they_come else read_frames(args.mel, mel), None


def read_frames(path: Path, mel: Mel) -> Tensor:
    """Log mel frames (M, F) of a .npy or .pt file of that shape or (1, M, F), or all of stdin.

    Runs no code from the file. Raises ValueError, naming the file, for another format or shape.
    """
    if path == PIPE:
        return torch.cat(list(piped_frames(mel)) or [torch.zeros(mel.bands, 0)], dim=1)
    if path.suffix not in (".npy", ".pt"):
        raise ValueError(
            f"--mel '{path}' is neither a .npy nor a .pt file. Give one of these, or - for raw "
            "float32 frames on stdin; --mel-from takes audio."
        )
    if not path.is_file():
        raise ValueError(f"--mel '{path}' is no file; give the path of a .npy or .pt file.")
    frames = _read(path)
    if not isinstance(frames, Tensor):
        raise ValueError(f"--mel '{path}' holds a {type(frames).__name__}; give one tensor.")
    if frames.dim() == 3 and len(frames) == 1:
        frames = frames[0]
    if frames.dim() != 2 or frames.shape[0] != mel.bands:
        hint = " It looks transposed." if frames.shape[-1] == mel.bands else ""
        raise ValueError(
            f"--mel '{path}' has the shape {tuple(frames.shape)}, but this model takes "
            f"({mel.bands} bands, frames).{hint}"
        )
    return frames.float()


def _read(path: Path) -> object:
    import numpy as np

    try:
        if path.suffix == ".pt":
            return torch.load(path, map_location="cpu", weights_only=True)
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except Exception as error:  # whatever a damaged file makes of a parser
        first = (str(error).strip() or "no reason given").splitlines()[0][:200]
        raise ValueError(
            f"--mel '{path}' cannot be read as frames ({type(error).__name__}: {first}). Save a "
            "float32 array by numpy.save or torch.save."
        ) from error


def piped_frames(mel: Mel, pipe: int = 0) -> Iterator[Tensor]:
    """Frames (M, n) as they come through a file descriptor, until it ends.

    Raises ValueError where it ends within a frame.
    """
    size, left = 4 * mel.bands, b""
    while piece := os.read(pipe, PIECE):
        left += piece
        whole = len(left) // size * size
        if whole:
            frames = torch.frombuffer(bytearray(left[:whole]), dtype=torch.float32)
            yield frames.view(-1, mel.bands).T
        left = left[whole:]
    if left:
        raise ValueError(
            f"--mel - ended within a frame: {len(left)} bytes, but one of {mel.bands} bands has "
            f"{size}. Write raw float32, the bands of a frame together."
        )
