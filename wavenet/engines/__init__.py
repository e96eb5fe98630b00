"""Owns the ways to run a model sample by sample, and the choice among them. Knows nothing of seeds, prompts or files.

For the same model, uniforms and labels every engine gives the same codes as `naive`, up to ties within float error.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor, cat, dtype, int64, isfinite, nn, randint, randn, stack, zeros
from torch.nn.functional import linear

from wavenet.conditioning.labels import NOT_TOLD
from wavenet.engines.native.compiler import CompilerError
from wavenet.layers import CausalConv1d
from wavenet.model import ModelState, WaveNet
from wavenet.outputs.sampling import Sampling, refuse_not_finite

logger = logging.getLogger(__name__)

CHECKED = 12  # samples of an engine's check against the model
PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int8": torch.int8,
}


class EngineUnavailable(ValueError):
    """An engine cannot be had on this machine, or not for this model; `auto` then takes another."""


class EngineState(NamedTuple):
    """All that an engine remembers, in the model's canonical form: it can be taken from one engine and given to another.

    code: (B,) int64, the last code, which the model has not been fed yet (silence at the start).
    model: the model's state before that code.
    """

    code: Tensor
    model: ModelState


class Engine(Protocol):
    """B streams side by side. Weights are copied when the engine is built: later changes to the model do not reach it.

    Where the model has a position_hop, the streams are told where they are by `place`, again in every frame.
    """

    state: EngineState

    def __init__(
        self,
        model: WaveNet,
        batch_size: int,
        labels: Mapping[str, Tensor] | None,
        dtype: torch.dtype,
    ) -> None: ...

    def place(self, position: Tensor) -> None:
        """position (B, 2): of each stream's next sample in its clip, and the clip's samples. It holds for that frame.

        Until then they stand at the beginning of a clip of one sample. ValueError for a model without a position_hop.
        """
        ...

    def prime(self, codes: Tensor) -> Tensor:
        """Teacher forced: the next n codes (B, n), given -> their logits (B, Q, n); logits[..., i] predicts codes[:, i]."""
        ...

    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """Free running: uniforms (B, n) in [0, 1) -> the next n codes (B, n)."""
        ...


def _naive() -> type[Engine]:
    from wavenet.engines.naive import NaiveEngine

    return NaiveEngine


def _torch() -> type[Engine]:  # from here on `torch` in this file is engines/torch.py
    from wavenet.engines.cached import TorchEngine

    return TorchEngine


def _native() -> type[Engine]:
    from wavenet.engines.native.engine import NativeEngine

    return NativeEngine


def _triton() -> type[Engine]:
    try:
        from wavenet.engines.triton.engine import TritonEngine
    except ImportError as error:
        raise EngineUnavailable(
            f"The triton engine needs Triton, which cannot be imported here ({error}). It comes with torch for CUDA on "
            "Linux; engine='torch' runs everywhere."
        ) from error
    return TritonEngine


ENGINES: dict[str, Callable[[], type[Engine]]] = {
    "naive": _naive,
    "torch": _torch,
    "native": _native,
    "triton": _triton,
}


# By device: the engine that `auto` takes, how it works, and what is said where it cannot be had.
FASTEST = {
    "cpu": (
        "native",
        "compiled for this model and CPU",
        "cached; the native engine would be several times as fast",
    ),
    "cuda": (
        "triton",
        "one kernel for a chunk of samples",
        "a CUDA graph a step; the triton engine was tried first",
    ),
}


def build_engine(
    model: WaveNet,
    batch_size: int,
    labels: Mapping[str, Tensor] | None = None,
    *,
    engine: str = "auto",
    precision: str = "float32",
) -> Engine:
    """The engine of that name for `batch_size` streams, on the model's device. `auto` takes the fastest and logs which.

    labels: name -> (B,) int64. precision: "float32", "bfloat16" or "float64", of weights and activations,
    or "int8", which the native engine alone has.
    Threads of the CPU engines: torch.get_num_threads().
    Raises ValueError for an unknown engine or precision, and where a named engine cannot be had, with the remedy.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}; there are: {', '.join(PRECISIONS)}.")
    if engine != "auto" and engine not in ENGINES:
        raise ValueError(f"Unknown engine {engine!r}; there are: auto, {', '.join(ENGINES)}.")
    if precision == "int8":
        if engine not in ("auto", "native"):
            raise ValueError(
                f"Only the native engine computes in int8; the {engine} engine has float32 and bfloat16."
            )
        engine = "native"
    device = next(model.parameters()).device
    labels = {name: ids.to(device) for name, ids in labels.items()} if labels else None
    if engine == "auto":
        return _best(model, batch_size, labels, precision)
    return ENGINES[engine]()(model, batch_size, labels, PRECISIONS[precision])


def _best(
    model: WaveNet, batch_size: int, labels: Mapping[str, Tensor] | None, precision: str
) -> Engine:
    """The fastest that can be had: `native` on a CPU, `triton` on CUDA, else `torch`; one log line says which and why."""
    device, kind = next(model.parameters()).device, PRECISIONS[precision]
    why = f"cached, the fastest there is for {precision} on {device}"
    if precision != "float64" and device.type in FASTEST:
        name, how, instead = FASTEST[device.type]
        try:
            engine = ENGINES[name]()(model, batch_size, labels, kind)
        except (CompilerError, EngineUnavailable) as error:
            why = f"{instead}, but: {str(error).splitlines()[0]}"
        else:
            logger.info("engine: %s (%s), %s, batch %d", name, how, precision, batch_size)
            return engine
    logger.info("engine: torch (%s), %s, batch %d", why, precision, batch_size)
    return _torch()(model, batch_size, labels, kind)


# What engines share: how they take a model apart, and how they check themselves against it


class BeforeGate:
    """What each layer adds before its gate whatever the input: bias and condition. Its weights are taken once.

    halves: how an engine lays out (2G, ...), the filter's half first; as it is, where none is given.
    """

    def __init__(
        self, model: WaveNet, halves: Callable[[Tensor], Tensor] = lambda rows: rows
    ) -> None:
        self._model, blocks = model, model.stack.blocks
        self._biases = stack([halves(bias_of(block.dilated)) for block in blocks])[:, None]
        weights = [
            halves(block.condition.weight[..., 0])
            for block in blocks
            if block.condition is not None
        ]
        self._weights = cat(weights) if weights else None  # (L * 2G, condition channels)

    def __call__(
        self, labels: Mapping[str, Tensor] | None, batch_size: int, position: Tensor | None
    ) -> Tensor:
        """(L, B, 2G)."""
        condition = self._model.condition(labels, position=position)
        if condition is None or self._weights is None:
            return self._biases.expand(-1, batch_size, -1)
        added = linear(condition[..., 0], self._weights).unflatten(1, (len(self._biases), -1))
        return self._biases + added.transpose(0, 1)


def paired(labels: Mapping[str, Tensor] | None) -> bool:
    """Whether streams come in pairs for guidance, of which the second is not told its labels (see `Sampling`)."""
    if not labels:
        return False
    return all(len(ids) % 2 == 0 and bool((ids[1::2] == NOT_TOLD).all()) for ids in labels.values())


def bias_of(convolution: CausalConv1d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def refuse(
    model: WaveNet, dtype: dtype, name: str, device: str, where: str, kinds: Iterable[dtype]
) -> None:
    """Raises ValueError for a model on another device, a dtype the engine has not, and weights that are not finite."""
    seen = next(model.parameters()).device
    if seen.type != device:
        raise ValueError(
            f"The {name} engine runs on {where}, but the model is on {seen}: move it with model.{device}()."
        )
    *others, last = (str(kind).removeprefix("torch.") for kind in kinds)
    if dtype not in kinds:
        raise ValueError(
            f"The {name} engine computes in {', '.join(others)} or {last}, but precision "
            f"{str(dtype).removeprefix('torch.')} was asked for: the torch engine has it."
        )
    for weight, parameter in model.named_parameters():
        if not isfinite(parameter).all():
            raise ValueError(
                f"The model's weight {weight} is not finite (NaN or infinity): it is damaged or its training diverged. "
                "Take an earlier checkpoint."
            )


def rounded(model: WaveNet, kept: Callable[[Tensor], Tensor], head: bool) -> WaveNet:
    """A float32 copy of the model whose products have the weights that an engine keeps; the head's too, or as they are."""
    model = copy.deepcopy(model).float().eval().requires_grad_(False)
    blocks = [
        layer
        for block in model.stack.blocks
        for layer in (block.dilated, block.residual, block.skip)
    ]
    for layer in (model.embedding, model.input, *blocks, *(model.head if head else ())):
        if isinstance(layer, nn.Embedding | CausalConv1d):
            layer.weight.copy_(kept(layer.weight))
    return model


def prime(
    model: WaveNet,
    labels: Mapping[str, Tensor] | None,
    position: Tensor | None,
    before: EngineState,
    codes: Tensor,
) -> tuple[Tensor, EngineState]:
    """`Engine.prime` in parallel over time, by the model itself: the logits, and the state that the model leaves."""
    codes = codes.to(before.code.device)
    inputs = cat([before.code[:, None], codes[:, :-1]], dim=1)
    window, blocks = before.model
    kind = model.embedding.weight.dtype
    kept = (window.to(kind), tuple(block.to(kind) for block in blocks))
    logits, state = model.step(inputs, kept, labels, position=position)
    return logits, EngineState(codes[:, -1], state)


class Forced(Engine, Protocol):
    """An engine with an arithmetic of its own, which can be compared with the model's."""

    def force(self, codes: Tensor) -> Tensor:
        """As `prime`, sample by sample in this engine's own arithmetic: what it would draw from."""
        ...


def check_against_model(
    engine: Forced, model: WaveNet, batch_size: int, tolerance: float, name: str, where: str
) -> None:
    """The logits of the first samples, from a random past, against the model's. Leaves the engine in some other state.

    tolerance: relative to the largest logit above 1. Raises RuntimeError where they differ by more.
    """
    generator = Generator().manual_seed(0)
    device = next(model.parameters()).device

    def noise(like: Tensor) -> Tensor:
        return randn(like.shape, generator=generator).to(device)

    window, blocks = model.init_state(batch_size)
    code = zeros(batch_size, dtype=int64, device=device)
    engine.state = EngineState(code, (noise(window), tuple(noise(block) for block in blocks)))
    codes = randint(model.codec.classes, (batch_size, CHECKED), generator=generator).to(device)
    start = engine.state
    mine = engine.force(codes)
    engine.state = start
    theirs = engine.prime(codes)
    refuse_not_finite(theirs)
    error = float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1))
    if not error <= tolerance:
        raise RuntimeError(
            f"The {name} engine checked itself against model.forward and was off by {error:.1e} of the largest logit "
            f"(allowed: {tolerance:.0e}). Do not use it here: engine='torch' gives the right result. Please report this "
            f"with your {where}."
        )
