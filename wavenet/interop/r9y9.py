"""Owns checkpoints of github.com/r9y9/wavenet_vocoder: read as a `WaveNet`, the same function.

Both layouts: the older one, of version 0.1.1 and of the models it was published with (here called
legacy), and that of its last state. What differs from ours is folded into weights, in float64:

    weight norm         W = g v / |v|
    skips               a factor for each block: sqrt(1 / L); legacy s <- (s + h) sqrt(1/2)
    biases of 1x1s of conditions (legacy)         into the dilated convolution's bias
    no convolution before the first block  a 1x1 that hands x through
    one matrix for speakers, one for mel          side by side

Shapes: C residual, G gate, S skip, Q parameters, K taps, L blocks, M bands.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavenet.checkpoints import unpickled
from wavenet.interop.r9y9_hparams import Network, described, read_hparams
from wavenet.model import WaveNet
from wavenet.saving import reading, require_floats

logger = logging.getLogger(__name__)

KIND = "a whole checkpoint of wavenet_vocoder"
ADVICE = "Give a checkpoint_step*.pth that its train.py wrote, copied whole."
SPEAKERS = "embed_speakers.weight"
Weights = dict[str, Tensor]


def load(
    checkpoint: str | os.PathLike[str], hparams: str | os.PathLike[str] | Mapping[str, Any]
) -> WaveNet:
    """A checkpoint of r9y9/wavenet_vocoder as a model in eval mode, on the CPU. Runs no code.

    checkpoint: a .pth file of its train.py, with its averaged weights or the others.
    hparams: its hyperparameters, a JSON file (hparams.json, a preset) or a mapping. `legacy`,
        true or false, is read in the older layout: how its skips are summed.

    The model is an ordinary one: every engine runs it, `save_pretrained` saves it. From the same
    samples, frames and speaker it makes the same parameters, but for float error. To know:

    - Mel frames (B, M, F), F * hop samples, are to be those of that program, normalised as its
      training data were: log10 and mean and variance of the corpus for the newer layout, [0, 1] for
      the older. Ours are on another scale: `model.mel.spectrogram` refuses. Around the clip the
      frames at the ends are repeated, as its evaluate.py does: do not pad them by cin_pad. The
      newer layout looks `model.mel.context` frames ahead, the older one none.
    - Speakers are the label "speaker": "0", "1", ...
    - Scalar input becomes 16-bit levels. The program treats all of |y| > 0.999 as the edge of its
      mixture of logistics, about 33 levels on either side, each with the mass of a whole tail. Ours
      gives the tails to the two outermost levels alone: likelihoods there differ, and ours sum to
      1. It draws real numbers and clamps no log scale then; ours are levels, by log_scale_min. Its
      loss for Normal is a density, ours the mass of a level.
    - Mu-law codes are rounded down (`FlooredMuLaw`), mu = 255 of 256 in the newer layout, 256 in
      the older, as each layout's program did.
    - Audio is in the program's domain. With preprocess "preemphasis" and a global_gain_scale g,
      undo both: torchaudio.functional.deemphasis(audio, 0.85) / g.
    - Dropout is left out.

    Raises FileNotFoundError for a missing file, ValueError for one that is damaged, contains code,
    or is of a network that is not supported or not the one that hparams describe.
    """
    path, (settings, source) = Path(checkpoint), read_hparams(hparams)
    weights = _read(path)
    network = described(settings, source, frozenset(weights))
    weights = _without_weight_norm(path, _used(weights, network))
    _require_fit(path, source, network, {k: tuple(w.shape) for k, w in weights.items()})
    try:
        model = WaveNet(**network.settings)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    translated = _translated(network, weights)
    model.load_state_dict({name: weight.float() for name, weight in translated})
    logger.info("%s: %s layout. %s", path, network.layout, network.audio)
    return model.eval()


def _read(path: Path) -> Weights:
    """Its state_dict, in float64."""
    checkpoint = unpickled(path, KIND, ADVICE, older=True)
    with reading(path, KIND, ADVICE):
        weights = dict(checkpoint["state_dict"])
        if not all(isinstance(name, str) for name in weights):
            raise ValueError("names that are no text")
        require_floats(weights)
        if sum(w.numel() * w.element_size() for w in weights.values()) > path.stat().st_size:
            raise ValueError("weights larger than the file")
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{path}: {name} has values that are NaN or infinite.")
    return {name: weight.double() for name, weight in weights.items()}


def _used(weights: Weights, network: Network) -> Weights:
    """Without the upsampling that the older program makes for a network without conditioning."""
    unused = "upsample_conv." if network.legacy and not network.bands else ()
    return {name: weight for name, weight in weights.items() if not name.startswith(unused)}


def _without_weight_norm(path: Path, weights: Weights) -> Weights:
    """NAME_g and NAME_v -> NAME = g v / |v|, the norm over all axes but the first."""
    ends = ("weight_g", "weight_v")
    plain = {name: weight for name, weight in weights.items() if not name.endswith(ends)}
    for name in sorted({name[:-2] for name in weights if name.endswith(ends)}):
        halves = (weights.get(f"{name}_g"), weights.get(f"{name}_v"))
        g, v = halves
        if g is None or v is None:
            raise ValueError(
                f"{path} is not whole: it has {name}_{'v' if g is None else 'g'} without "
                f"{name}_{'g' if g is None else 'v'}, the other half of a weight norm."
            )
        if v.dim() < 2 or g.shape != (len(v), *[1] * (v.dim() - 1)):
            raise ValueError(
                f"{path}: {name}_g is {tuple(g.shape)} and {name}_v {tuple(v.shape)}; a weight "
                "norm has one length for each of the first axis."
            )
        plain[name] = v * (g / v.flatten(1).norm(dim=1).view_as(g))
    return plain


def _shapes(network: Network) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of each weight that a checkpoint of this network has."""
    c, g, s, q = network.residual, network.gate, network.skip, network.outputs

    def layer(name: str, *shape: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]

    yield from layer("first_conv", c, 1 if network.scalar else q, 1)
    for i in range(network.layers):
        block = f"conv_layers.{i}"
        yield from layer(f"{block}.conv", 2 * g, c, network.kernel)
        for part, width in (("c", network.bands), ("g", network.speaker_channels)):
            if width:
                yield from layer(f"{block}.conv1x1{part}", 2 * g, width, 1, bias=network.legacy)
        yield from layer(f"{block}.conv1x1_out", c, g, 1)
        yield from layer(f"{block}.conv1x1_skip", s, g, 1)
    yield from layer("last_conv_layers.1", s, s, 1)
    yield from layer("last_conv_layers.3", q, s, 1)
    if network.speaker_channels:
        yield SPEAKERS, (network.speakers, network.speaker_channels)
    for name, (shape, bias) in network.upsampling_layers():
        yield from layer(name, *shape, bias=bias)


def _require_fit(
    path: Path, source: str, network: Network, found: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError for weights that are missing, unexpected, or of another shape."""
    expected = dict(_shapes(network))
    facts = {
        "missing": sorted(expected.keys() - found.keys()),
        "not expected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {found[name]}, not {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    wrong = [f"{what}: {_first(names)}" for what, names in facts.items() if names]
    if wrong:
        raise ValueError(
            f"The weights in {path} do not fit {source}, by which they have the {network.layout} "
            f"layout. Weights {'; '.join(wrong)}. Give the hyperparameters that it was trained "
            "with, and the whole file."
        )


def _first(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" * (len(names) > most))


def _translated(network: Network, weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Our names and weights."""
    first, bias = weights["first_conv.weight"], weights["first_conv.bias"]
    if network.scalar:
        yield from (("embedding.weight", first), ("embedding.bias", bias))
    else:  # of a one-hot code
        yield "embedding.weight", first[..., 0].T + bias
    through = torch.eye(network.residual, dtype=first.dtype)[..., None]
    yield from (("input.weight", through), ("input.bias", torch.zeros_like(bias)))
    if network.speaker_channels:
        yield "label_embedding.tables.0.weight", weights[SPEAKERS]
    for name, ours in network.upsampling_names():
        yield f"mel_features.stages.{ours}", weights[name]
    for index, factor in enumerate(_skip_factors(network)):
        for name, weight in _block(network, weights, index, factor):
            yield f"stack.blocks.{index}.{name}", weight
    for layer in (1, 3):
        for part in ("weight", "bias"):
            yield f"head.{layer}.{part}", weights[f"last_conv_layers.{layer}.{part}"]


def _block(
    network: Network, weights: Weights, index: int, factor: float
) -> Iterator[tuple[str, Tensor]]:
    theirs = {
        name.removeprefix(f"conv_layers.{index}."): weight
        for name, weight in weights.items()
        if name.startswith(f"conv_layers.{index}.")
    }
    conditions = ("conv1x1g", "conv1x1c")  # labels before mel
    biases = (theirs.get(f"{name}.bias") for name in conditions)
    yield "dilated.weight", theirs["conv.weight"]
    yield "dilated.bias", theirs["conv.bias"] + sum(b for b in biases if b is not None)
    steering = [theirs[f"{name}.weight"] for name in conditions if f"{name}.weight" in theirs]
    if steering:
        yield "condition.weight", torch.cat(steering, dim=1)
    for part in ("weight", "bias"):
        yield f"skip.{part}", theirs[f"conv1x1_skip.{part}"] * factor
        if index < network.layers - 1:  # nobody reads the last residual
            yield f"residual.{part}", theirs[f"conv1x1_out.{part}"]


def _skip_factors(network: Network) -> list[float]:
    """What each block's skip is multiplied by, in all, before the head."""
    blocks = network.layers
    if not network.legacy:
        return [sqrt(1 / blocks)] * blocks
    if not network.halved_skips:
        return [1.0] * blocks
    # h_0, then s <- (s + h_i) sqrt(1/2): h_i is halved once for itself and each block behind it
    return [sqrt(0.5) ** (blocks - max(i, 1)) for i in range(blocks)]
