"""Owns `WaveNet`: mu-law codes in, logits of the next code out, and the folder it is saved in. Knows nothing of sampling.

Paper: van den Oord et al. 2016, "WaveNet: A Generative Model for Raw Audio", figure 4.

Shapes: B batch, T time, Q = 256 classes, C residual channels.
"""

import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wavenet.conditioning.durations import ClipLength, checked_clip_length
from wavenet.conditioning.labels import LabelEmbedding, LabelNames, PositionEmbedding, checked_names
from wavenet.files import write_whole
from wavenet.layers import CausalConv1d, ResidualStack, affine, dilation_cycles
from wavenet.outputs.mulaw import MuLaw
from wavenet.pretrained import find, upload
from wavenet.version import __version__

FORMAT_VERSION = 1  # of the saved folder; raised when an older library could no longer read it
SHORTEST_HOP = 16  # engines hold a condition for a frame
ModelState = tuple[Tensor, tuple[Tensor, ...]]  # of the input convolution, of the stack


class WaveNet(nn.Module):
    """An autoregressive model of mu-law codes: params[..., t] are the logits of codes[:, t + 1] given codes[:, : t + 1].

    The first input of a clip is the codec's silence code, so the first sample is predicted too.

    Args:
        cycles, layers_per_cycle: dilations 1, 2, ..., 2^(layers_per_cycle - 1), repeated `cycles` times.
        kernel_size: of the input convolution and of every dilated convolution.
        residual_channels: width of the stack, and of the embedding of the input codes.
        gate_channels: channels after each gate.
        skip_channels: channels of the skips, and of the head's input.
        head_channels: of the head's hidden layer; skip_channels where none are given.
        sample_rate: of the audio in Hz; a fact that travels with the weights, no layer depends on it.
        labels: names and categories of the conditions on a whole clip, {"digit": ["0", "1", ...]}.
        condition_channels: width of the embeddings of labels and position; not used without both.
        residual_scale: factor on each block's residual.
        position_hop: samples of a frame, where the model is conditioned on how far a clip is, counted in frames from its
            beginning and to its end (see `PositionEmbedding`): it then knows when to end. 0: it is not.
        unlabelled: whether labels may be left out of a clip, as id -1: the model was also trained on clips without them, and
            `generate` can guide it.
        clip_length: how long the corpus's clips are (see `wavenet.conditioning.durations`), from which `generate` draws; None: not known.
    """

    def __init__(
        self,
        cycles: int = 3,
        layers_per_cycle: int = 10,
        kernel_size: int = 2,
        residual_channels: int = 64,
        gate_channels: int = 64,
        skip_channels: int = 256,
        head_channels: int | None = None,
        sample_rate: int = 16000,
        labels: LabelNames | None = None,
        condition_channels: int = 32,
        residual_scale: float = 1.0,
        position_hop: int = 0,
        unlabelled: bool = False,
        clip_length: ClipLength | None = None,
    ) -> None:
        super().__init__()
        head_channels = head_channels or skip_channels
        self.labels = checked_names(labels)
        self.sample_rate = sample_rate
        self.clip_length = checked_clip_length(clip_length, self.labels)
        self.codec = MuLaw()
        self.config = {
            "cycles": cycles,
            "layers_per_cycle": layers_per_cycle,
            "kernel_size": kernel_size,
            "residual_channels": residual_channels,
            "gate_channels": gate_channels,
            "skip_channels": skip_channels,
            "head_channels": head_channels,
            "sample_rate": sample_rate,
            "labels": self.labels,
            "condition_channels": condition_channels,
            "residual_scale": residual_scale,
            "position_hop": position_hop,
            "unlabelled": unlabelled,
            "clip_length": self.clip_length,
        }
        _check_sizes(self.config)
        self.embedding = nn.Embedding(self.codec.classes, residual_channels)
        self.label_embedding = (
            LabelEmbedding(self.labels, condition_channels, unlabelled) if self.labels else None
        )
        self.position_embedding = (
            PositionEmbedding(position_hop, condition_channels) if position_hop else None
        )
        self.input = CausalConv1d(residual_channels, residual_channels, kernel_size)
        self.stack = ResidualStack(
            dilation_cycles(cycles, layers_per_cycle),
            residual_channels,
            gate_channels,
            skip_channels,
            kernel_size,
            condition_channels if self.labels or position_hop else 0,
            residual_scale,
        )
        self.head = Head(
            nn.ReLU(),
            CausalConv1d(skip_channels, head_channels, 1),
            nn.ReLU(),
            CausalConv1d(head_channels, self.codec.classes, 1),
        )

    @property
    def receptive_field(self) -> int:
        """Input samples that one output depends on: 1 + sum of (kernel_size - 1) * dilation over all convolutions."""
        return self.stack.receptive_field + self.input.history

    @property
    def receptive_field_ms(self) -> float:
        """The receptive field in milliseconds at the model's sample rate."""
        return 1000 * self.receptive_field / self.sample_rate

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def unlabelled(self) -> bool:
        """Whether labels may be left out, as id -1: then `generate` can guide the model."""
        return self.label_embedding is not None and self.label_embedding.unlabelled

    @property
    def position_hop(self) -> int:
        """Samples of a frame of the position; 0 for a model that does not know its position."""
        return self.position_embedding.hop if self.position_embedding is not None else 0

    def beginning(self, batch_size: int, lengths: Tensor | int) -> Tensor | None:
        """The position (B, 2) at the beginning of clips of so many samples; None for a model without a position_hop."""
        if self.position_embedding is None:
            return None
        device = self.position_embedding.since.weight.device
        ends = torch.as_tensor(lengths, device=device).expand(batch_size)
        return torch.stack([torch.zeros_like(ends), ends], dim=1)

    def forward(
        self,
        codes: Tensor,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """codes (B, T) integers, labels name -> (B,) -> logits (B, Q, T), the t-th for the code after codes[:, t].

        position (B, 2), for a model with a position_hop: the place in its clip of the code after codes[:, 0], and how many
        samples the clip has. Raises ValueError for codes of another shape or type, and for labels or a position that are
        missing, unknown or not expected.
        """
        condition = self.condition(labels, mel, position, codes.shape[-1])
        return self.head(self.stack(self.input(self.embed(codes)), condition))

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ModelState:
        """The state before the first input: zeros (see `CausalConv1d.init_state`), as (input, (block, block, ...))."""
        return (
            self.input.init_state(batch_size, device=device, dtype=dtype),
            self.stack.init_state(batch_size, device=device, dtype=dtype),
        )

    def step(
        self,
        codes: Tensor,
        state: ModelState,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """The next n codes (B, n) and the state -> logits (B, Q, n) and the new state; the rest as for `forward`."""
        condition = self.condition(labels, mel, position, codes.shape[-1])
        x, input_state = self.input.step(self.embed(codes), state[0])
        skips, stack_state = self.stack.step(x, state[1], condition)
        return self.head(skips), (input_state, stack_state)

    def embed(self, codes: Tensor) -> Tensor:
        """codes (B, T) -> features (B, C, T)."""
        if codes.dim() != 2 or codes.is_floating_point():
            raise ValueError(
                f"WaveNet takes mu-law codes of shape (batch, time), integers in 0..{self.codec.mu}, but got "
                f"{tuple(codes.shape)} of {codes.dtype}. Audio becomes codes by model.codec.encode(audio)."
            )
        return self.embedding(codes.long()).transpose(1, 2)

    def condition(
        self,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
        time: int = 1,
    ) -> Tensor | None:
        """Condition features of the next `time` samples, (B, condition_channels, time); (B, condition_channels, 1), the same
        at every time, without a position; None for a model that nothing steers."""
        if mel is not None:
            raise ValueError("This model is not conditioned on mel spectrograms; leave mel out.")
        if labels and self.label_embedding is None:
            raise ValueError(f"This model was built without labels, but got {sorted(labels)}.")
        if position is not None and self.position_embedding is None:
            raise ValueError("This model was built without position_hop; leave position out.")
        named = self.label_embedding(labels) if self.label_embedding is not None else None
        if self.position_embedding is None:
            return named
        placed = self.position_embedding(position, time)
        return placed if named is None else named + placed

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `model.safetensors` and `config.json`. Each appears whole or not at all; the weights come last."""
        from safetensors.torch import save

        target = Path(folder)
        config = {
            "format_version": FORMAT_VERSION,
            "library": "wavenet",
            "library_version": __version__,
            "codec": {
                "name": "mu-law",
                "classes": self.codec.classes,
                "silence": self.codec.silence,
            },
            "receptive_field": self.receptive_field,
            "model": self.config,
        }
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()
        }
        write_whole(target / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_whole(
            target / "model.safetensors", save(weights, metadata={"library_version": __version__})
        )

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> Self:
        """A model in eval mode, on the CPU. Runs no code from where it comes from.

        source: a folder of `save_pretrained`; or the name of a bundled model, "fsdd"; or "user/model" of the Hugging Face
            Hub, downloaded once (needs `pip install 'wavenet[hub]'`). An existing folder goes before the others.

        Raises FileNotFoundError where there is no such model or it misses a file, ValueError where a file is damaged or of
        another library version, or the Hub's client is not installed.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = find(source)
        model = cls(**_read_config(folder))
        try:
            weights = load_file(_existing(folder, "model.safetensors"))
        except SafetensorError as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is not a whole safetensors file ({error}). "
                "It was cut short, or is another format: export or copy it again."
            ) from error
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"The weights in {folder} do not fit its config.json; the two come from different models: {error}"
            ) from error
        return model.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads what `save_pretrained` writes to user/model of the Hugging Face Hub; returns the repository's address.

        Needs `pip install 'wavenet[hub]'` and a login (`hf auth login`, or HF_TOKEN). The repository is made where there
        is none, for all to see unless private; other files in it stay. Raises what huggingface_hub raises.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private=private)


class Head(nn.Sequential):
    """ReLU, 1x1 convolution, ReLU, 1x1 convolution: features (B, skip_channels, T) -> logits (B, Q, T).

    Over rows (B * T, channels), as features lie in memory: a compiler then takes a ReLU's gradient from its kept output. From
    (B, channels, T) it would write a mask beside it, which costs inductor on a CPU a fifth of the whole training step.
    """

    def forward(self, skips: Tensor) -> Tensor:
        rows = skips.transpose(1, 2).flatten(0, 1)
        for layer in self:
            rows = (
                affine(rows, layer.weight[..., 0], layer.bias)
                if isinstance(layer, CausalConv1d)
                else layer(rows)
            )
        return rows.unflatten(0, (len(skips), skips.shape[2])).transpose(1, 2)


def _check_sizes(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if name in ("labels", "residual_scale", "position_hop", "unlabelled", "clip_length"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"WaveNet got {name}={value!r}; it must be an integer of at least 1.")
    hop = config["position_hop"]
    if isinstance(hop, bool) or not isinstance(hop, int) or 0 < hop < SHORTEST_HOP or hop < 0:
        raise ValueError(
            f"WaveNet got position_hop={hop!r}; it must be 0 (no position) or an integer of at least {SHORTEST_HOP}."
        )
    if not 0 < config["residual_scale"] < float("inf"):
        raise ValueError(
            f"WaveNet got residual_scale={config['residual_scale']!r}; it must be a finite number above 0."
        )


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {name}. A saved model is a folder with config.json and model.safetensors, as "
            "save_pretrained writes and a training run leaves in runs/NAME/model."
        )
    return path


def _read_config(folder: Path) -> dict[str, Any]:
    path = _existing(folder, "config.json")
    try:
        config = json.loads(path.read_text())
        written_by, format_version, model = (
            config["library_version"],
            config["format_version"],
            {**config["model"]},
        )
        codec_classes = config["codec"]["classes"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not the config.json of a saved WaveNet ({error!r})."
        ) from error
    known = [name for name in inspect.signature(WaveNet.__init__).parameters if name != "self"]
    unknown = sorted(set(model) - set(known))
    if format_version != FORMAT_VERSION or codec_classes != MuLaw().classes or unknown:
        what = (
            f"settings this version does not know: {unknown}"
            if unknown
            else f"format {format_version}"
        )
        raise ValueError(
            f"{path} was written by wavenet {written_by} ({what}); this is wavenet {__version__}, which reads format "
            f"{FORMAT_VERSION}. Install that version, or export the model again with this one."
        )
    return model
