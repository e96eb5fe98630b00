"""Owns which modules have no memory, so that they run as well sample by sample, and which refuse.

Knows nothing of our own blocks but for what they say of themselves: `condition_channels`,
`pointwise`, `init_state` and `step`. Shapes: B batch, C channels, T time, D condition channels.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

Takes = nn.Module  # x, or (x, condition) where it has condition_channels

# Over the channels, if their dim says so. A tuple: torch.compile of torch 2.9 does not know a | b.
CHANNELWISE = (nn.GLU, nn.Softmax, nn.LogSoftmax)
# Activations of torch that work on each number, or on each sample's channels.
POINTWISE = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU),
    *(nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh),
    *(nn.Tanhshrink, nn.Threshold, nn.Dropout, nn.Dropout1d, nn.AlphaDropout),
)
OVER_TIME = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.AdaptiveAvgPool1d)
OF_MANY_SAMPLES = (*OVER_TIME, nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.RNNBase)


class Pointwise(nn.Module):
    """A module whose output at each time depends on its input at that time alone; you say so.

    It then needs no state, and runs sample by sample inside `Chain`, `Parallel` and `Block`.
    `wavenet.testing.assert_streams` finds out whether that is true.
    """

    pointwise = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @property
    def condition_channels(self) -> int:
        return getattr(self.module, "condition_channels", 0)

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


def is_pointwise(part: Any) -> bool:
    """Whether the output at a time depends on the input at that time alone, as far as is known."""
    declared = getattr(part, "pointwise", None)
    if declared is not None:
        return bool(declared)
    if type(part) is nn.Sequential:
        return all(is_pointwise(inner) for inner in part)
    if isinstance(part, CHANNELWISE):
        return part.dim in (1, -2)
    if isinstance(part, nn.BatchNorm1d):
        return not part.training
    if isinstance(part, nn.Conv1d) and type(part).forward is nn.Conv1d.forward:
        return part.kernel_size == (1,) and part.stride == (1,) and part.padding in ((0,), "valid")
    return type(part) in POINTWISE


def can_step(part: Any) -> bool:
    return hasattr(part, "init_state") and hasattr(part, "step")


def why_not(part: Any) -> str:
    """A sentence or two: why the module cannot run sample by sample, and what to do."""
    name = type(part).__name__
    if can_step(part):
        return f"{name} has a state of its own. Put it into a Chain, behind the block or stack."
    if isinstance(part, nn.Conv1d):
        return (
            f"{name} with kernel_size {part.kernel_size[0]}, stride {part.stride[0]} and padding "
            f"{part.padding} keeps no past samples. Use CausalConv1d, or CausalStridedConv1d."
        )
    if isinstance(part, nn.ConvTranspose1d):
        return f"{name} keeps no past samples. Use CausalConvTranspose1d."
    if type(part) is nn.Sequential:
        return f"a plain nn.Sequential hands no state through its {len(part)} modules. Use Chain."
    if isinstance(part, nn.BatchNorm1d):
        return f"{name} in training takes its mean over time. Call eval() first."
    if isinstance(part, OVER_TIME):
        return f"{name} takes its mean over time, which sees the future."
    return (
        f"{name} has neither init_state and step, nor is it known to look at one sample at a time. "
        f"If it does, wrap it: wavenet.Pointwise({name}(...)); otherwise give it both."
    )


def takes_condition(part: Any) -> bool:
    return getattr(part, "condition_channels", 0) > 0


def applied(part: Any, x: Tensor, condition: Tensor | None) -> Any:
    """part(x), or part(x, condition) for one that is steered."""
    return part(x, condition) if takes_condition(part) else part(x)


def started(
    part: Any,
    batch_size: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """The state before the first sample; () of a module without memory.

    Raises ValueError for a module that cannot run step by step.
    """
    if can_step(part) and not is_pointwise(part):
        return part.init_state(batch_size, device=device, dtype=dtype)
    require_pointwise(part)
    return ()


def advanced(part: Any, x: Tensor, state: Any, condition: Tensor | None) -> tuple[Any, Any]:
    """The next outputs and the new state. Raises ValueError as `started` does."""
    if can_step(part) and not is_pointwise(part):
        return stepped(part, x, state, condition)
    require_pointwise(part)
    return applied(part, x, condition), ()


def stepped(part: Any, x: Tensor, state: Any, condition: Tensor | None) -> tuple[Any, Any]:
    """part.step(x, state), with the condition too for one that is steered."""
    return part.step(x, state, condition) if takes_condition(part) else part.step(x, state)


def require_pointwise(part: Any) -> None:
    """Raises ValueError for a module that is not known to have no memory."""
    if not is_pointwise(part):
        raise ValueError(f"Cannot run step by step: {why_not(part)}")


def require_no_memory(part: nn.Module) -> None:
    """Raises ValueError for a module that is known to look at more than one sample at a time.

    Others are taken at their word.
    """
    for inner in part.modules():
        if not is_pointwise(inner) and (isinstance(inner, OF_MANY_SAMPLES) or can_step(inner)):
            raise ValueError(
                f"Only the dilated part of a block may remember, but {type(part).__name__} cannot "
                f"run sample by sample: {why_not(inner)}"
            )


def shared_condition(parts: Iterable[Any]) -> int:
    """D of parts that are steered by the same condition; 0 where none is.

    Raises ValueError where they expect different ones.
    """
    steered = [part for part in parts if takes_condition(part)]
    widths = [part.condition_channels for part in steered]
    if len(set(widths)) > 1:
        seen = [f"{type(part).__name__} {part.condition_channels}" for part in steered]
        raise ValueError(
            "One condition steers all parts, but they expect different numbers of channels: "
            f"{', '.join(seen)}."
        )
    return widths[0] if widths else 0


def refuse_condition(name: str, condition: Tensor | None) -> None:
    """Raises ValueError for a condition that nobody reads."""
    if condition is not None:
        raise ValueError(
            f"No part of this {name} is steered, but it got a condition of shape "
            f"{tuple(condition.shape)}. Leave the condition out, or add a part such as FiLM."
        )
