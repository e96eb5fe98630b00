"""Owns what makes the equations fast: products over rows, and spellings that compile well.

Features come as (B, C, T) but lie in memory as rows, (B, T, C): x.mT is contiguous. A convolution
is then one matrix product over its stacked taps, which in bfloat16 on a CPU takes a quarter of the
time of F.conv1d, and a compiler keeps the gradients in rows too (benchmarks/results/log.md).
Knows nothing of blocks or models.

Shapes: B batch, C channels, T time, G gate channels, S skip channels, K taps, Q classes,
H history = (K - 1) * dilation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_STACKED = 64  # taps


def pad_left(x: Tensor, zeros: int) -> Tensor:
    """x (B, C, T) -> (B, C, zeros + T), in rows."""
    return F.pad(x.mT, (0, 0, zeros, 0)).mT if zeros else x  # by nothing, F.pad copies


def convolution(
    padded: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, groups: int = 1
) -> Tensor:
    """padded (B, C, H + T), weight (out, C / groups, K) -> (B, out, T), without further padding.

    y[t] = bias + W [x[t - H], ..., x[t - dilation], x[t]]: one product over the stacked taps. For
    very many taps, which would be as many copies of x, torch's own convolution.
    """
    if groups > 1 or weight.shape[-1] > MOST_STACKED:
        y = F.conv1d(padded, weight, bias, dilation=dilation, groups=groups)
        return y.mT.contiguous().mT
    taps, rows = weight.shape[-1], padded.mT
    if taps == 1:
        return affine(rows, weight[..., 0], bias).mT
    time = rows.shape[1] - (taps - 1) * dilation
    stacked = torch.cat([rows[:, k * dilation : k * dilation + time] for k in range(taps)], dim=-1)
    return affine(stacked, torch.cat(weight.unbind(-1), dim=1), bias).mT


def affine(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows (..., in) -> rows W^T + b (..., out).

    Compiled, b is added behind the product, by the kernel that reads it next: within the product
    torch on a CPU first copies b to every row (benchmarks/results/log.md).
    """
    if bias is None or not torch.compiler.is_compiling():
        return F.linear(rows, weight, bias)
    y = F.linear(rows, weight)
    return y + bias.to(y.dtype)


def for_two(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, C, T) twice, for two readers.

    The two are views of the same rows, so that autograd sums the gradients of both readers in rows.
    Otherwise a compiler on a CPU sums them as (B, C, T) and turns the sum round: a twelfth of the
    training step.
    """
    if x.dim() < 2:  # no features: the first reader refuses it and says why
        return x, x
    rows = x.mT
    return rows.mT, rows.mT


def added(x: Tensor, y: Tensor) -> Tensor:
    """x + y (B, C, T), in rows: of (B, C, T) a compiler would turn both round first."""
    return (x.mT + y.mT).mT


def gated(h: Tensor) -> Tensor:
    """h (B, 2G, T) -> tanh(first half) * sigmoid(second half), (B, G, T)."""
    filter_, gate = h.mT.chunk(2, dim=-1)
    # Of half rows of fewer than 64 channels torch's sigmoid takes seven times as long as of whole
    # ones, on a CPU.
    return (tanh(filter_) * torch.sigmoid(gate.contiguous())).mT


def tanh(x: Tensor) -> Tensor:
    """tanh; compiled as 2 sigmoid(2 x) - 1, whose parts are float32 in registers.

    Inductor's own tanh takes three times as long on a CPU, a fifth of the whole training step
    (benchmarks/results/log.md).
    """
    return 2 * torch.sigmoid(2 * x) - 1 if torch.compiler.is_compiling() else torch.tanh(x)


def summed_products(
    inputs: Sequence[Tensor] | Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """sum over l of W_l z_l + b_l as one product: z_l (B, G_l, T), W_l (S, G_l, 1) -> (B, S, T).

    No summand is written to memory. inputs: also side by side, (B, sum of G_l, T). Empty biases:
    there are none.
    """
    if isinstance(inputs, Tensor):
        rows = inputs.mT
    else:
        rows = torch.cat([z.mT for z in inputs], dim=-1)  # (B, T, sum of G_l)
    weight = torch.cat(list(weights), dim=1).squeeze(-1)
    bias = torch.stack(list(biases)).sum(0) if biases else None
    return affine(rows, weight, bias).mT


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """logits (B, Q, T), classes (B, T) int64 -> -ln p of each class (B, T), at least float32."""
    rows = logits.mT.flatten(0, 1)  # (B * T, Q), as the logits lie in memory
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    if torch.compiler.is_compiling():  # inductor's gradient of cross_entropy is slow on a CPU
        chosen = torch.arange(rows.shape[1], device=rows.device) == classes.flatten()[:, None]
        return (rows.logsumexp(-1) - torch.where(chosen, rows, 0).sum(-1)).view(classes.shape)
    return F.cross_entropy(rows, classes.flatten(), reduction="none").view(classes.shape)
