"""Owns pre-emphasis: a filter on audio before it becomes samples, and its inverse.

    y[t] = x[t] - a x[t - 1],    x[t] = y[t] + a x[t - 1],    x[-1] = 0

Speech is weak where it is high. The noise of the samples, which is as loud at all frequencies, is
made weak there too by the inverse. Valin and Skoglund 2019, "LPCNet", section 3.2, with a = 0.85.
torchaudio's `preemphasis` and `deemphasis` are the reference in the tests. Shapes: B batch, T time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64  # samples of the inverse that one product makes


def emphasised(audio: Tensor, coefficient: float) -> Tensor:
    """x (..., T) -> y, of the same shape; the first sample is as it is."""
    return audio - coefficient * F.pad(audio, (1, 0))[..., :-1]


def deemphasised(audio: Tensor, coefficient: float, before: Tensor | None = None) -> Tensor:
    """y (B, T) -> x, float32. before (B, 1): x of the sample before the first; else that is 0.

    In float64, block by block: x of a block is a product of y with the powers of a.
    """
    last = audio.new_zeros(len(audio), 1) if before is None else before
    last, made = last.double(), [audio[:, :0].double()]
    lag = torch.arange(BLOCK, device=audio.device, dtype=torch.float64)
    lags = lag - lag[:, None]  # (from, to)
    powers = (coefficient ** lags.clamp_min(0)).where(lags >= 0, 0)
    decay = coefficient ** (lag + 1)
    for block in audio.double().split(BLOCK, dim=1):
        n = block.shape[1]
        made.append(block @ powers[:n, :n] + last * decay[:n])
        last = made[-1][:, -1:]
    return torch.cat(made, dim=1).float()
