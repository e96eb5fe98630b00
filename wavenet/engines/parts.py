"""Owns how a model is taken apart: the one file of the engines that names a model's attributes.

Shapes: C residual, G gate, S skip, H head channels, D condition channels, K taps, Q parameters of
one sample's distribution, L layers.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wavenet.conditioning import Condition
from wavenet.layers import (
    Added,
    Block,
    CausalConv1d,
    Gated,
    PassThrough,
    Residual,
    ResidualBlock,
    Stack,
    Unconditional,
)
from wavenet.model import Head, WaveNet
from wavenet.outputs import LevelEmbedding, Output, output_settings

Model = TypeVar("Model", bound=nn.Module)


class Network(Protocol):
    """What runs a whole model, step by step; `WaveNet` is one. `naive` and `step` need no more."""

    @property
    def output(self) -> Output: ...

    def predict(self, samples: Tensor, condition: Condition | None) -> Tensor:
        """samples (B, T) -> params (B, Q, T), the t-th of samples[:, t + 1]."""
        ...

    def init_state(self, batch_size: int) -> Any: ...

    def predict_step(
        self, samples: Tensor, state: Any, condition: Condition | None
    ) -> tuple[Tensor, Any]: ...


@dataclass(frozen=True)
class Layer:
    """The weights of one block: z = gate(taps * x + bias + steering c), and what is made of z."""

    taps: Tensor  # (2G, C, K), the filter's half first, oldest tap first
    bias: Tensor  # (2G,)
    dilation: int
    steering: Tensor | None  # (2G, D)
    mix: Tensor | None  # (C, G); None: x goes on as it is
    mix_bias: Tensor | None  # (C,)
    scale: float  # of the residual
    skip: Tensor  # (S, G)
    skip_bias: Tensor  # (S,)

    @property
    def history(self) -> int:
        """Past inputs that the convolution looks back to."""
        return (self.taps.shape[-1] - 1) * self.dilation


@dataclass(frozen=True)
class Weights:
    """All weights of a model whose parts are known: ReLU between skips, hidden and out."""

    embed: nn.Module  # samples (...) -> features (..., C)
    embedding: Tensor  # (codes, C), the table that it looks up; or (2, C), audio * [0] + [1]
    input: Tensor  # (C, C, K)
    input_bias: Tensor  # (C,)
    layers: tuple[Layer, ...]
    hidden: Tensor  # (H, S)
    hidden_bias: Tensor  # (H,)
    out: Tensor  # (Q, H)
    out_bias: Tensor  # (Q,)

    @property
    def tabulated(self) -> bool:
        """Whether samples are codes with a row of the embedding each."""
        return isinstance(self.embed, nn.Embedding)

    @property
    def histories(self) -> list[int]:
        """Past inputs that are remembered, of the input convolution and of each layer."""
        return [self.input.shape[-1] - 1, *(layer.history for layer in self.layers)]

    @property
    def sizes(self) -> dict[str, int]:
        """Channels and taps by name. Layers differ only where `differing` says so."""
        first = self.layers[0]
        return {
            "residual": first.taps.shape[1],
            "gate": first.skip.shape[1],
            "skip": first.skip.shape[0],
            "head": self.hidden.shape[0],
            "params": self.out.shape[0],
            "kernel": first.taps.shape[-1],
            "input_kernel": self.input.shape[-1],
        }

    def differing(self) -> Iterator[str]:
        """In what the layers and the input convolution differ, in words."""
        facts: dict[str, list[Any]] = {
            "kernel size": [layer.taps.shape[-1] for layer in self.layers],
            "residual channels": [self.input.shape[0], *(x.taps.shape[1] for x in self.layers)],
            "gate channels": [layer.skip.shape[1] for layer in self.layers],
            "conditioning": [layer.steering is not None for layer in self.layers],
            "residual scale": [layer.scale for layer in self.layers if layer.mix is not None],
        }
        yield from (
            f"layers differ in {name}" for name, values in facts.items() if len(set(values)) > 1
        )

    def products(self, head: bool) -> Iterator[Tensor]:
        """The weights of all products and a table of codes; the head's too, or not."""
        yield from (self.embedding, self.input) if self.tabulated else (self.input,)
        for layer in self.layers:
            yield from (x for x in (layer.taps, layer.mix, layer.skip) if x is not None)
        if head:
            yield from (self.hidden, self.out)


@dataclass(frozen=True)
class Parts:
    """A model, taken apart.

    network: runs all of it.
    receptive_field: input samples that one output depends on.
    condition_channels: D, of what steers it; 0 for a model that nothing steers.
    weights: None where the model has parts of a kind that is not known here.
    obstacles: those parts, in words; ("layer 3 has the gate Tanh",).
    """

    network: Any  # a module that is a `Network`
    receptive_field: int
    condition_channels: int
    weights: Weights | None
    obstacles: tuple[str, ...] = ()

    @property
    def output(self) -> Output:
        return self.network.output

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def copied(self, dtype: torch.dtype) -> "Parts":
        """Of a copy of the network in that dtype, which later changes to the model do not reach."""
        network = copy.deepcopy(self.network).to(dtype).eval().requires_grad_(False)
        if self.weights is None:
            return replace(self, network=network)
        return take_apart(network)

    def on(self, device: str) -> "Parts":
        """These, or those of a copy of the network on another kind of device."""
        if self.device.type == device:
            return self
        network = copy.deepcopy(self.network).to(device)
        return replace(self, network=network) if self.weights is None else take_apart(network)

    def settings(self) -> dict[str, Any] | None:
        """Of `WaveNet`, as plain values: what builds the network again, but for its weights.

        None for a network that is built from more.
        """
        if type(self.network) is not WaveNet or self.weights is None:
            return None
        config = self.network.config
        return {**config.settings(), "output": output_settings(config.output)}

    def known(self) -> Weights:
        """The weights. Where an engine needs them, it has refused all models without."""
        assert self.weights is not None, self.obstacles
        return self.weights


def take_apart(model: WaveNet | Parts) -> Parts:
    """A model's parts; parts as they are.

    Weights that are computed by a parametrization, such as weight norm, are those of now.
    """
    if isinstance(model, Parts):
        return model
    model = computed(model)
    blocks = list(model.stack.blocks)
    obstacles = tuple(_obstacles(model))
    widths = {block.condition_channels for block in blocks}
    weights = None if obstacles else _weights(model)
    return Parts(model, model.receptive_field, max(widths), weights, obstacles)


def computed(model: Model) -> Model:
    """The model, or where weights are computed, a copy in which they are as they came out."""
    if not any(map(parametrize.is_parametrized, model.modules())):
        return model
    model = copy.deepcopy(model)
    for module in filter(parametrize.is_parametrized, list(model.modules())):
        # A copy has the original's class, which torch's remove_parametrizations would change.
        names = list(module.parametrizations)  # type: ignore[arg-type]
        values = [getattr(module, name).detach().clone() for name in names]
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, value in zip(names, values, strict=True):
            module.register_parameter(name, nn.Parameter(value))
    return model


def quantised_copy(parts: Parts, kept: Callable[[Tensor], Tensor], head: bool) -> Parts:
    """In float32, but with the values that an engine keeps of its weights; `kept` says which.

    head: whether the head's weights are kept so too, or as they are.
    """
    copied = parts.copied(torch.float32)
    for weight in copied.known().products(head):
        weight.copy_(kept(weight))
    return copied


def _obstacles(model: WaveNet) -> Iterator[str]:
    """What `_weights` has no place for."""
    yield from _obstacles_around_the_stack(model)
    allowed = {
        "dilated": (CausalConv1d,),
        "steer": (Added, Unconditional),
        "gate": (Gated,),
        "mix": (Residual, PassThrough),
        "skip": (CausalConv1d,),
    }
    last = len(model.stack.blocks) - 1
    for index, block in enumerate(model.stack.blocks):
        if type(block) not in (Block, ResidualBlock):
            yield f"layer {index} is a {type(block).__name__}"
        if isinstance(block.mix, PassThrough) and index < last:
            yield f"layer {index} has no residual and is not the last"
        for part, kinds in allowed.items():
            if type(getattr(block, part)) not in kinds:
                yield f"layer {index} has the {part} {type(getattr(block, part)).__name__}"
        convolutions = [x for x in block.children() if isinstance(x, CausalConv1d)]
        plain = [x.groups == 1 and (x.bias is not None or x is block.steer) for x in convolutions]
        if not all(plain):
            yield f"layer {index} has a convolution with groups or without bias"
        if isinstance(block.skip, CausalConv1d) and block.skip.kernel_size != (1,):
            yield f"layer {index} has a skip of {block.skip.kernel_size[0]} taps"


def _obstacles_around_the_stack(model: WaveNet) -> Iterator[str]:
    kinds: dict[str, tuple[type, ...]] = {
        "embedding": (nn.Embedding, LevelEmbedding),
        "input": (CausalConv1d,),
        "stack": (Stack,),
        "head": (Head,),
    }
    for name, known in kinds.items():
        if type(getattr(model, name)) not in known:
            yield f"the model's {name} is {type(getattr(model, name)).__name__}"
    for method in ("embed", "predict", "predict_step"):
        if getattr(type(model), method) is not getattr(WaveNet, method):
            yield f"{type(model).__name__} has a {method} of its own"
    if model.input.dilation != (1,) or not _has_bias_and_no_groups(model.input):
        yield "the model's input convolution has a dilation, groups or no bias"
    layers = list(model.head)
    if [type(layer) for layer in layers] != [nn.ReLU, CausalConv1d, nn.ReLU, CausalConv1d]:
        yield f"the model's head is {', '.join(type(layer).__name__ for layer in layers)}"
    elif not all(
        layer.kernel_size == (1,) and _has_bias_and_no_groups(layer) for layer in layers[1::2]
    ):
        yield "the model's head has more than 1x1 convolutions with a bias and without groups"


def _has_bias_and_no_groups(convolution: Any) -> bool:
    return convolution.groups == 1 and convolution.bias is not None


def _weights(model: WaveNet) -> Weights:
    hidden, out, last = model.head[1], model.head[3], model.stack.blocks[-1]
    kind = _matrix(out).dtype
    if model.head.exact:
        kind = torch.promote_types(kind, torch.float32)
    return Weights(
        embed=model.embedding,
        embedding=_embedding(model.embedding),
        input=model.input.weight,
        input_bias=_bias(model.input),
        layers=tuple(_layer(block, block is last) for block in model.stack.blocks),
        hidden=_matrix(hidden),
        hidden_bias=_bias(hidden),
        out=_matrix(out).to(kind),
        out_bias=_bias(out).to(kind),
    )


def _embedding(embedding: nn.Module) -> Tensor:
    if isinstance(embedding, LevelEmbedding):
        return torch.stack(embedding.rows)
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight


def _layer(block: Block, last: bool) -> Layer:
    """last: of the stack, whose residual nobody reads."""
    mix = block.mix if isinstance(block.mix, Residual) and not last else None
    return Layer(
        taps=block.dilated.weight,
        bias=_bias(block.dilated),
        dilation=block.dilated.dilation[0],
        steering=_matrix(block.steer) if isinstance(block.steer, Added) else None,
        mix=None if mix is None else _matrix(mix),
        mix_bias=None if mix is None else _bias(mix),
        scale=1.0 if mix is None else mix.scale,
        skip=_matrix(block.skip),
        skip_bias=_bias(block.skip),
    )


def _matrix(convolution: nn.Module) -> Tensor:
    """A 1x1 convolution's weight (out, in), the same memory."""
    assert isinstance(convolution, nn.Conv1d)
    return convolution.weight[..., 0]


def _bias(convolution: nn.Module) -> Tensor:
    assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
    return convolution.bias
