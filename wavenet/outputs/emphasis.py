"""Owns pre-emphasis: a filter on audio before it becomes samples, and its inverse.

    y[t] = x[t] - a x[t - 1],    x[t] = y[t] + a x[t - 1],    x[-1] = 0

Speech is weak at high frequencies. The noise of the samples is as strong there as anywhere, and the
inverse filter makes it weak. Valin and Skoglund 2019, "LPCNet", section 3.2, with a = 0.85.
torchaudio's `preemphasis` and `deemphasis` are the reference in the tests. Shape: T time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64  # samples of the inverse that one product makes


def emphasised(audio: Tensor, coefficient: float, before: Tensor | None = None) -> Tensor:
    """x (..., T) -> y, of the same shape. before (..., 1): x of the sample before the first."""
    late = F.pad(audio, (1, 0)) if before is None else torch.cat([before, audio], dim=-1)
    return audio - coefficient * late[..., :-1]


def deemphasised(audio: Tensor, coefficient: float, before: Tensor | None = None) -> Tensor:
    """y (..., T) -> x, float32. before (..., 1): x of the sample before the first.

    In float64 where the device has it, block by block: x of a block is y times powers of a.
    """
    wide = torch.float32 if audio.device.type == "mps" else torch.float64
    first = audio[..., :1].to(wide)
    last = torch.zeros_like(first) if before is None else before.to(first)
    lag = torch.arange(BLOCK, device=audio.device, dtype=wide)
    lags = lag - lag[:, None]  # (from, to)
    powers, decay = (coefficient ** lags.clamp_min(0)).where(lags >= 0, 0), coefficient ** (lag + 1)
    made = []
    for block in audio.to(wide).split(BLOCK, dim=-1):
        n = block.shape[-1]
        made.append(block @ powers[:n, :n] + last * decay[:n])
        last = made[-1][..., -1:]
    return torch.cat(made, dim=-1).float()
