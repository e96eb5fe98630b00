"""Owns a model as player.cpp takes it: the constants it is compiled for, and the arrays it reads.

Shapes: L layers, G gate channels, D condition channels, Q codes; C_ is C padded to whole vectors.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wavenet.audio import pcm16
from wavenet.conditioning.position import FRAMES, SHARES
from wavenet.engines import take_apart
from wavenet.engines.check import require_supported
from wavenet.engines.native.engine import KINDS, WIDEST, Packed, Vectors, macros
from wavenet.engines.parts import Parts
from wavenet.model import WaveNet
from wavenet.outputs import Codes

ALIGNED = 64  # bytes
F32 = torch.float32


def require_playable(model: WaveNet) -> None:
    """Raises ValueError for a model that a page cannot play, by name."""
    if model.mel is not None:
        raise ValueError(
            "A page plays what labels and a seed steer, but this model is steered by mel frames, "
            "which come from a recording. wavenet generate --mel-from FILE draws from it."
        )
    if model.config.preemphasis:
        raise ValueError(
            "A page plays codes as they are drawn, but this model's audio has a preemphasis of "
            f"{model.config.preemphasis}. wavenet export --onnx FILE takes any."
        )
    output = model.output
    if not isinstance(output, Codes) or output.classes % WIDEST:
        raise ValueError(
            f"A page draws from a multiple of {WIDEST} codes, but this model's "
            f"{type(output).__name__} has {output.channels} parameters a sample. wavenet export "
            "--onnx FILE takes any."
        )
    require_supported(take_apart(model), F32, "native", "cpu", "the CPU", KINDS)


def constants(model: WaveNet, vectors: Vectors) -> dict[str, object]:
    """The macros of native.cpp and of player.cpp."""
    parts = take_apart(model)
    return {
        **macros(parts, F32),
        "CONDITION": parts.condition_channels,
        "LABELS": len(model.labels),
        "CATEGORIES": sum(map(len, model.labels.values())),
        "POSITION_HOP": model.position_hop,
        "POSITION_FRAMES": FRAMES,
        "POSITION_SHARES": SHARES,
        "SILENCE": model.output.silence,
        "PACKED_LANES": vectors.lanes,
        "PACKED_TILE": vectors.tile,
    }


@torch.no_grad()
def arrays(model: WaveNet, vectors: Vectors) -> tuple[bytes, float]:
    """The arrays in the order of `Array` in player.cpp, and the factor on each residual."""
    parts = take_apart(model).copied(F32)
    packed = Packed(parts, vectors, F32)
    gates, steering = _before_gates(parts, packed)
    tensors = [packed.weights, packed.head, packed.embedding, packed.biases, gates, steering]
    tensors += [packed.padded(_rows(model)), _audio(model), _log_lengths(model)]
    return _together(tensors), packed.residual_scale


def _before_gates(parts: Parts, packed: Packed) -> tuple[Tensor, Tensor]:
    """Biases (L, 2 G_), and the products that project a condition, one for each layer."""
    layers = parts.known().layers
    biases = torch.stack([packed.halves(layer.bias) for layer in layers])
    steering = [layer.steering for layer in layers if layer.steering is not None]
    products = [packed.product(packed.halves(rows)) for rows in steering]
    return biases, torch.cat(products) if products else biases.new_empty(0)


def _rows(model: WaveNet) -> Tensor:
    """The tables of labels and of the position, one behind the other: (rows, D)."""
    tables: list[Tensor] = []
    if model.label_embedding is not None:
        tables += [table.weight for table in model.label_embedding.tables]  # type: ignore[misc]
    if model.position_embedding is not None:
        placed = model.position_embedding
        tables += [placed.since.weight, placed.left.weight, placed.share.weight]
    return torch.cat(tables).float() if tables else torch.empty(0, 1)


def _audio(model: WaveNet) -> Tensor:
    """Of each code (Q,), as a wav has it."""
    return pcm16(model.output.decode(torch.arange(model.output.levels)))


def _log_lengths(model: WaveNet) -> Tensor:
    """Mean and deviation, and an offset for each category."""
    fitted = model.clip_length
    if fitted is None:
        return torch.empty(0)
    offsets = (value for name in model.labels for value in fitted.offsets[name])
    numbers = [fitted.log_mean, fitted.log_std, *offsets]
    return torch.tensor(numbers, dtype=torch.float64)


def _together(tensors: Sequence[Tensor]) -> bytes:
    """Each on a boundary, and in front of them the places where they begin, int32."""
    whole = bytearray(ALIGNED)
    assert 4 * len(tensors) <= ALIGNED
    for index, content in enumerate(_contents(tensors)):
        whole[4 * index : 4 * index + 4] = len(whole).to_bytes(4, "little")
        whole += content + bytes(-len(content) % ALIGNED)
    return bytes(whole)


def _contents(tensors: Sequence[Tensor]) -> Iterator[bytes]:
    for tensor in tensors:
        yield tensor.detach().contiguous().numpy().tobytes()
