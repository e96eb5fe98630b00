"""Owns how the training step is computed: the fastest way that works here, then slower ones.

The ladder: fused blocks in a compiled step, a compiled step, the step as it is written. A way that
fails is left with a line in the log, and the same batch is computed by the next one. Knows nothing
of what a loss is.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from wavenet.layers import Stack
from wavenet.machine import gpu_name, has_bfloat16
from wavenet.trials import Verdict, reason_of

logger = logging.getLogger(__name__)

Loss = Callable[..., Tensor]  # (network, ...) -> the loss of a batch
Choice = bool | Literal["auto"]
# Devices where `auto` is on. Fused blocks are on none: no measurement shows yet that they are 20%
# ahead of torch.compile alone in a run of Lightning's.
BY_ITSELF: dict[str, set[str]] = {"compile": {"cuda"}, "fused": set()}


# Steps that a run must have on a GPU for `auto` to compile. That takes a minute or two,
# and spares the host, by an estimate from launches, 15 of a step's 25 ms. No GPU has been timed.
WORTH_COMPILING = 4000


class Way(NamedTuple):
    """How a step is computed."""

    compiled: bool
    fused: bool

    @property
    def name(self) -> str:
        names = {"torch.compile": self.compiled, "fused blocks": self.fused}
        return " with ".join(name for name, on in names.items() if on)


def ways(
    compiled: Choice,
    fused: Choice,
    device: torch.device,
    precision: str,
    steps: float = math.inf,
) -> list[Way]:
    """From the fastest down, as the settings --model.compile and --model.fused allow.

    precision: as Lightning's trainer has it. steps: of the whole run. Raises ValueError
    for fused blocks that were asked for where they cannot be.
    """
    triton = obstacle_to_triton(device)
    obstacle = triton or obstacle_to_fused(device, precision)
    if fused is True and triton:
        raise ValueError(
            f"--model.fused true: {triton}. Use --model.fused auto, or train on a GPU: "
            "--trainer.accelerator gpu."
        )
    if fused is True and obstacle:
        raise ValueError(f"--model.fused true: {obstacle}, or --model.fused auto.")
    compiles, fuses = (
        BY_ITSELF[name] & (set() if obstacle else {device.type})
        for name, obstacle in (("compile", triton), ("fused", obstacle))
    )
    if steps < WORTH_COMPILING:
        compiles = set()
    return list(
        dict.fromkeys(
            Way(compiling, fusing and (compiling or fused is True))
            for compiling in _choices(compiled, compiles)
            for fusing in _choices(fused, fuses)
        )
    )


def _choices(setting: Choice, by_itself: set[str]) -> list[bool]:
    if setting == "auto":
        return [True, False] if by_itself else [False]
    return [setting]


class BadVerdict(RuntimeError):
    """A way that its trial has found wanting."""


class FastLoss:
    """A loss of a network and a batch, computed by the first of the ways that works.

    A way but the plain one has its trial before it is taken, and is run on the first batch, forward
    and backward, before anything is done with its result. One that was asked for by name raises
    where it fails.

    trial: a way -> its verdict; see `wavenet.training.trial.tried`.
    """

    def __init__(
        self,
        loss: Loss,
        network: nn.Module,
        ways: list[Way],
        trial: Callable[[Way], Verdict] = lambda way: Verdict(True, ""),
    ) -> None:
        self._plain, self._network, self._ways, self._trial = loss, network, ways, trial
        self._take()

    @property
    def way(self) -> Way:
        return self._ways[0]

    def __call__(self, network: nn.Module, *batch: Any) -> Tensor:
        """Arguments as of the loss."""
        while True:
            try:
                if not self._tried:
                    self._try(network, *batch)
                return self._loss(network, *batch)
            except torch.OutOfMemoryError:  # a slower way would take more
                raise
            except Exception as error:
                if self._tried and len(self._ways) == 1:
                    raise
                self._step_down(error)

    def _take(self) -> None:
        self._tried = not any(self.way)
        try:
            found = self._trial(self.way)
            if not found.good:
                raise BadVerdict(found.reason)
            _set_unit(self._network, self.way.fused)
            self._loss = torch.compile(self._plain) if self.way.compiled else self._plain
        except Exception as error:
            self._step_down(error)

    def _try(self, network: nn.Module, *batch: Any) -> None:
        """Gradients are not kept, so that other processes of the run do not hear of them."""
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        torch.autograd.grad(self._loss(network, *batch), weights, allow_unused=True)
        self._tried = True

    def _step_down(self, error: Exception) -> None:
        """To the next way. Raises ValueError where there is none."""
        left, reason = self.way, str(error)
        if not isinstance(error, BadVerdict):
            reason = reason_of(error)
        if len(self._ways) == 1 and isinstance(error, ValueError):
            raise error
        if len(self._ways) == 1:
            raise ValueError(
                f"{_flags(left)}: it does not work on this machine ({reason}). Use auto, which "
                "takes a slower way where this one does not work, or false."
            ) from error
        self._ways = self._ways[1:]
        instead = f"with {self.way.name} alone" if self.way.name else "without it"
        logger.warning(
            "%s does not work here (%s). Training goes on %s.", left.name, reason, instead
        )
        self._take()


def _flags(way: Way) -> str:
    settings = {"--model.compile true": way.compiled, "--model.fused true": way.fused}
    return ", ".join(flag for flag, on in settings.items() if on)


def _set_unit(network: nn.Module, fused: bool) -> None:
    """How the network's blocks compute. Raises ValueError for blocks that cannot be fused."""
    if fused:
        from wavenet.training.kernels import fuse

        fuse(network)
        return
    for stack in _stacks(network):
        vars(stack).pop("units", None)  # the class's own comes back


def _stacks(network: nn.Module) -> Iterator[Stack]:
    return (module for module in network.modules() if isinstance(module, Stack))


def obstacle_to_fused(device: torch.device, precision: str) -> str | None:
    """What keeps the fused blocks from a device on which Triton's kernels run, and what to do."""
    if precision.startswith("16"):
        return (
            f"the kernel computes in float32 and bfloat16, but this run is in {precision}. Use "
            "--trainer.precision 32-true"
        )
    if precision.startswith("bf16") and device.type == "cuda" and not has_bfloat16(device):
        return f"{gpu_name(device)} has no bfloat16. Use --trainer.precision 32-true"
    return None


def warn_of_emulation(device: torch.device, precision: str) -> None:
    if precision.startswith("bf16") and device.type == "cuda" and not has_bfloat16(device):
        logger.warning(
            "%s has no bfloat16: %s is emulated there, and slow. --trainer.precision 32-true is "
            "faster.",
            *(gpu_name(device), precision),
        )


def obstacle_to_triton(device: torch.device) -> str | None:
    """What keeps Triton's kernels from running on `device`; None where nothing does."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device.type != "cuda":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return None if interpreted else f"Triton needs a GPU, but this run is on {device.type}"
    if torch.cuda.get_device_capability(device) < (7, 0):
        name = torch.cuda.get_device_name(device)
        return f"Triton needs a GPU of compute capability 7.0, but {name} is older"
    return None
