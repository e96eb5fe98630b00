"""Owns the trial of the fast ways to train, in a process of its own, before a run takes them.

The fused block, forward and backward, against the plain one in float64; a compiled step against
the plain one. At the run's widths and in its precision, but with few layers and short clips.

Shapes: B batch, C channels, T time, D condition channels.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from wavenet.layers import ResidualBlock, Stack
from wavenet.model import WaveNet
from wavenet.outputs import output_settings
from wavenet.training.fast import Way
from wavenet.trials import Verdict, verdict

LENGTHS = [(1, 3), (65, 3), (33, 40)]  # samples and dilation; the last sees none of the past
CONDITIONS = ["none", "whole clip", "over time"]
LAYERS, WIDTH = 3, 301  # of the step that is tried
# Largest error, relative to the largest value of a tensor where that is above 1
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2, "float64": 1e-10}
STEP_TOLERANCE = 0.05  # of a step's gradients, relative to their norm


def tried(way: Way, network: WaveNet, device: torch.device, precision: str) -> Verdict:
    """Whether a run of that network may take that way on a GPU; elsewhere it may."""
    if device.type != "cuda" or not any(way):
        return Verdict(True, "")
    given: dict[str, Any] = {
        "model": {**network.config.settings(), "output": output_settings(network.output)},
        "precision": precision,
        "tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
    }
    if way.fused:
        found = verdict(f"{__name__}:the_fused_block", given, device)
        if not found.good:
            return found
    if way.compiled:
        given["fused"] = way.fused
        return verdict(f"{__name__}:the_compiled_step", given, device)
    return Verdict(True, "")


# --- The fused block ----------------------------------------------------------------------------


def the_fused_block(given: dict[str, Any], device: torch.device) -> None:
    """A `Trial`. Raises RuntimeError, naming the case, for a value or gradient that is off."""
    model, dtype = given["model"], _dtype_of(given["precision"])
    torch.backends.cuda.matmul.allow_tf32 = given["tf32"] and dtype == torch.float32
    kind = "tf32" if torch.backends.cuda.matmul.allow_tf32 else str(dtype).removeprefix("torch.")
    with unwritten_memory_is_nan():
        for time, dilation in LENGTHS:
            for condition in CONDITIONS:
                for last in (False, True):
                    case = (time, dilation, condition, last)
                    _require_block(model, dtype, TOLERANCE[kind], device, case)


def _require_block(
    model: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: float,
    device: torch.device,
    case: tuple[int, int, str, bool],
) -> None:
    from wavenet.training.kernels import fuse

    time, dilation, steered, last = case
    torch.manual_seed(0)
    width, channels = model["residual_channels"], model["condition_channels"]
    channels = 0 if steered == "none" else channels
    block = ResidualBlock(
        width,
        model["gate_channels"],
        skip_channels=16,
        kernel_size=model["kernel_size"],
        dilation=dilation,
        condition_channels=channels,
        residual_scale=model["residual_scale"],
        last=last,
    )
    fast = Stack([block]).to(device, dtype)
    plain = copy.deepcopy(fast).double()
    fuse(fast)
    x = torch.randn(3, width, time, device=device).to(dtype)
    condition = None
    if channels:
        frames = 1 if steered == "whole clip" else time
        condition = torch.randn(3, channels, frames, device=device).to(dtype)
    found = _values_and_gradients(fast, x, condition)
    expected = _values_and_gradients(plain, x.double(), _double(condition))
    for name, value in found.items():
        _require_close(value, expected[name], tolerance, f"{name}, {case}")


def _values_and_gradients(
    block: nn.Module, x: Tensor, condition: Tensor | None
) -> dict[str, Tensor]:
    """Both outputs by name, and the gradients of all that goes in."""
    inputs = {"x": x, **({} if condition is None else {"condition": condition})}
    inputs = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    residual, skip = block(*inputs.values())
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (y * torch.randn(y.shape, generator=generator).to(y)).sum() for y in (residual, skip)
    )
    leaves = {**inputs, **dict(block.named_parameters())}
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    named = {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {"residual": residual, "skip": skip, **named}


def _double(condition: Tensor | None) -> Tensor | None:
    return None if condition is None else condition.double()


def _require_close(found: Tensor, expected: Tensor, tolerance: float, where: str) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((found.detach().double() - expected.detach()).abs().max()) / scale
    if not error <= tolerance:  # NaN too
        raise RuntimeError(f"off by {error:.1e} (allowed: {tolerance:.0e}): {where}")


@contextmanager
def unwritten_memory_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


# --- The compiled step --------------------------------------------------------------------------


def the_compiled_step(given: dict[str, Any], device: torch.device) -> None:
    """A `Trial`: loss and gradients of a batch, compiled (and fused), against those of the plain.

    Raises RuntimeError where they are off.
    """
    from wavenet.training.module import training_loss

    settings = {**given["model"], "cycles": 1}
    settings["layers_per_cycle"] = min(LAYERS, settings["layers_per_cycle"])
    torch.manual_seed(0)
    model = WaveNet(**settings).to(device).train()
    batch = some_batch(model, device)
    plain = _loss_and_gradients(training_loss, model, batch, given["precision"])
    if given["fused"]:
        from wavenet.training.kernels import fuse

        fuse(model)
    fast = _loss_and_gradients(torch.compile(training_loss), model, batch, given["precision"])
    norm = float(torch.cat([gradient.flatten() for gradient in plain[1:]]).norm())
    for name, found, expected in zip(
        ["the loss", *(f"gradient of {name}" for name, _ in model.named_parameters())],
        *(fast, plain),
        strict=True,
    ):
        scale = norm if expected.dim() else float(expected.abs())
        error = float((found - expected).double().norm()) / scale
        if not error <= STEP_TOLERANCE:
            raise RuntimeError(f"off by {error:.1e} (allowed: {STEP_TOLERANCE:.0e}): {name}")


def some_batch(model: WaveNet, device: torch.device) -> list[Any]:
    """The arguments of `training_loss` after the network: noise of two clips."""
    generator = torch.Generator().manual_seed(1)
    samples = torch.randint(model.output.levels, (2, WIDTH + 1), generator=generator).to(device)
    scored = torch.tensor([[0, WIDTH], [7, WIDTH - 3]], device=device)
    labels = {name: torch.zeros(2, dtype=torch.int64, device=device) for name in model.labels}
    position = torch.tensor([[0, 5 * WIDTH], [WIDTH, 3 * WIDTH]], device=device)
    mel = None
    if model.mel is not None:
        frames = model.mel.frames_of(WIDTH) + 2 * model.mel.context
        shape = (2, model.mel.bands, frames)
        mel = torch.rand(shape, generator=generator).to(device) * model.mel.silence
    return [samples, scored, labels, position if model.position_hop else None, mel]


def _loss_and_gradients(
    loss_of: Any, model: WaveNet, batch: list[Any], precision: str
) -> list[Tensor]:
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    kind = next(model.parameters()).device.type
    with torch.autocast(kind, dtype) if dtype else nullcontext():
        loss = loss_of(model, *batch)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    pairs = zip(gradients, weights, strict=True)
    return [loss.detach(), *(torch.zeros_like(w) if g is None else g for g, w in pairs)]


def _dtype_of(precision: str) -> torch.dtype:
    """What the fused block computes in."""
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return kinds.get(precision.partition("-")[0], torch.float32)
