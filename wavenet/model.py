"""Owns `Config` and `WaveNet`: samples in, parameters of the next sample's distribution out.

Van den Oord et al. 2016, "WaveNet: A Generative Model for Raw Audio", figure 4.
Knows nothing of sampling.

Shapes: B batch, T time, Q parameters of one sample's distribution, C residual channels.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wavenet.conditioning import (
    ClipLength,
    Condition,
    LabelEmbedding,
    LabelNames,
    Made,
    PositionEmbedding,
    Timeline,
    checked_clip_length,
    checked_names,
)
from wavenet.layers import CausalConv1d, Stack, StackState, dilation_cycles, residual_blocks
from wavenet.ops import affine
from wavenet.outputs import MuLaw, Output, output_from
from wavenet.pretrained import find, upload
from wavenet.saving import read_folder, write_folder

SHORTEST_HOP = 16  # samples
ModelState = tuple[Tensor, StackState]  # of the input convolution, of the stack


@dataclass(frozen=True)
class Config:
    """What a WaveNet is made of. Raises ValueError for a value that makes no model.

    Args:
        cycles: How often the dilations 1, 2, 4, ... are gone through.
        layers_per_cycle: Blocks in one cycle; the last has dilation 2^(layers_per_cycle - 1).
        kernel_size: Taps of the input convolution and of every dilated convolution.
        residual_channels: Width of the residual stack and of the samples' embedding.
        gate_channels: Channels after each gate.
        skip_channels: Channels of the skips and of the head's input.
        head_channels: Channels of the head's hidden layer; as skip_channels where none are given.
        sample_rate: Of the audio in Hz; no layer depends on it.
        labels: Names and categories of the labels of a clip, {"digit": ["0", "1", ...]}.
        condition_channels: Width of the embeddings of labels and position.
        residual_scale: Factor on each block's residual.
        position_hop: Tell the model where in its clip a sample lies, in frames of so many samples:
            for corpora of one word or note a clip, which it then learns to begin and to end.
            0: do not.
        unlabelled: Whether labels may be left out of a clip, as id -1: the model is trained on
            clips without labels too, and can be guided.
        clip_length: How long the corpus's clips are, from which lengths are drawn; None: not known.
        output: The distribution of a sample.
    """

    cycles: int = 3
    layers_per_cycle: int = 10
    kernel_size: int = 2
    residual_channels: int = 64
    gate_channels: int = 64
    skip_channels: int = 256
    head_channels: int | None = None
    sample_rate: int = 16000
    labels: LabelNames | None = None
    condition_channels: int = 32
    residual_scale: float = 1.0
    position_hop: int = 0
    unlabelled: bool = False
    clip_length: ClipLength | None = None
    output: Output = field(default_factory=MuLaw)

    def __post_init__(self) -> None:
        labels = checked_names(self.labels)
        self._set(labels=labels, clip_length=checked_clip_length(self.clip_length, labels))
        self._set(head_channels=self.head_channels or self.skip_channels)
        if isinstance(self.output, Mapping):  # as it stands in files
            self._set(output=output_from(self.output))
        for name in SIZES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"WaveNet got {name}={value!r}; it must be an integer of at least 1."
                )
        hop = self.position_hop
        if isinstance(hop, bool) or not isinstance(hop, int) or hop < 0 or 0 < hop < SHORTEST_HOP:
            raise ValueError(
                f"WaveNet got position_hop={hop!r}; it must be 0 (no position) or an integer of at "
                f"least {SHORTEST_HOP}."
            )
        if not 0 < self.residual_scale < float("inf"):
            raise ValueError(
                f"WaveNet got residual_scale={self.residual_scale!r}; it must be a finite number "
                "above 0."
            )

    def _set(self, **values: Any) -> None:
        """In __post_init__ alone: the plain form of what was given."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def conditional(self) -> bool:
        """Whether anything steers the model."""
        return bool(self.labels) or bool(self.position_hop)

    def settings(self) -> dict[str, Any]:
        """All but the output as plain values, fit for JSON and for `WaveNet(**settings)`."""
        output = {"output"}
        return {name: value for name, value in asdict(self).items() if name not in output}

    @classmethod
    def names(cls) -> list[str]:
        """Of all settings."""
        return [setting.name for setting in fields(cls)]


SIZES = (  # settings that are whole numbers of at least 1
    "cycles",
    "layers_per_cycle",
    "kernel_size",
    "residual_channels",
    "gate_channels",
    "skip_channels",
    "head_channels",
    "sample_rate",
    "condition_channels",
)


class WaveNet(nn.Module):
    """An autoregressive model of samples.

    params[..., t] describe the distribution of samples[:, t + 1]. They depend on
    samples[:, : t + 1] only. The first input of a clip is the output's silence, so the first sample
    is predicted too.

    Args: those of `Config`, by position or by name. In the attributes labels, sample_rate,
        clip_length and output they can be read again; config has all of them.
    """

    def __init__(self, *sizes: int, **settings: Any) -> None:
        super().__init__()
        self.config = config = Config(*sizes, **settings)  # type: ignore[arg-type]
        channels, width = config.residual_channels, config.condition_channels
        assert config.head_channels is not None and config.labels is not None
        self.embedding = config.output.embedding(channels)
        self.label_embedding = (
            LabelEmbedding(config.labels, width, config.unlabelled) if config.labels else None
        )
        self.position_embedding = (
            PositionEmbedding(config.position_hop, width) if config.position_hop else None
        )
        self.input = CausalConv1d(channels, channels, config.kernel_size)
        self.stack = Stack(
            residual_blocks(
                dilation_cycles(config.cycles, config.layers_per_cycle),
                channels,
                config.gate_channels,
                config.skip_channels,
                config.kernel_size,
                width if config.conditional else 0,
                config.residual_scale,
            )
        )
        self.head = Head(
            nn.ReLU(),
            CausalConv1d(config.skip_channels, config.head_channels, 1),
            nn.ReLU(),
            CausalConv1d(config.head_channels, config.output.channels, 1),
            exact=not config.output.categorical,
        )
        config.output.initialise(self.head[-1])  # type: ignore[arg-type]

    @property
    def labels(self) -> dict[str, list[str]]:
        """Names and categories; {} for a model without labels."""
        return self.config.labels  # type: ignore[return-value]

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def clip_length(self) -> ClipLength | None:
        """How long the clips of its corpus are; None where that is not known."""
        return self.config.clip_length

    @property
    def output(self) -> Output:
        """The distribution of a sample, which turns audio into samples and back."""
        return self.config.output

    @property
    def codec(self) -> Output:
        """The output, under the name it had while all outputs were codes."""
        return self.config.output

    @property
    def receptive_field(self) -> int:
        """Input samples that one output depends on.

        1 + sum of (kernel_size - 1) * dilation over all convolutions.
        """
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
        return self.label_embedding is not None and self.config.unlabelled

    @property
    def position_hop(self) -> int:
        """Samples of a frame of the position; 0 for a model that does not know its position."""
        return self.config.position_hop

    @property
    def draws_lengths(self) -> bool:
        """Whether clips may be generated without a length: it is drawn, and the model plans for it.

        Such a model knows its position and how long its corpus's clips are.
        """
        return bool(self.position_hop) and self.clip_length is not None

    # The network

    def forward(
        self,
        samples: Tensor,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
    ) -> Tensor:
        """samples (B, T), labels name -> (B,) -> params (B, Q, T), the t-th of samples[:, t + 1].

        position (B, 2), for a model with a position_hop: the place in its clip of the sample after
        samples[:, 0], and how many samples the clip has. Raises ValueError for samples of another
        shape or type, and for labels or a position that are missing, unknown or not expected.
        """
        return self.predict(samples, self.condition(labels, mel, position, samples.shape[-1]))

    def predict(self, samples: Tensor, condition: Condition | None) -> Tensor:
        """As `forward`, of whatever the condition was made from."""
        features = None if condition is None else condition.over(samples.shape[-1])
        _, skips = self.stack(self.input(self.embed(samples)), features)
        return self.head(skips)

    def init_state(
        self,
        batch_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ModelState:
        """Zeros: the state before the first input, as (input, (block, block, ...)).

        See `CausalConv1d.init_state`.
        """
        return (
            self.input.init_state(batch_size, device=device, dtype=dtype),
            self.stack.init_state(batch_size, device=device, dtype=dtype),
        )

    def step(
        self,
        samples: Tensor,
        state: ModelState,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """The next n samples (B, n) and the state -> params (B, Q, n) and the new state.

        The rest as for `forward`.
        """
        condition = self.condition(labels, mel, position, samples.shape[-1])
        return self.predict_step(samples, state, condition)

    def predict_step(
        self, samples: Tensor, state: ModelState, condition: Condition | None
    ) -> tuple[Tensor, ModelState]:
        """As `step`, of whatever the condition was made from."""
        features = None if condition is None else condition.over(samples.shape[-1])
        x, input_state = self.input.step(self.embed(samples), state[0])
        (_, skips), stack_state = self.stack.step(x, state[1], features)
        return self.head(skips), (input_state, stack_state)

    def embed(self, samples: Tensor) -> Tensor:
        """samples (B, T) -> features (B, C, T)."""
        if samples.dim() != 2 or samples.is_floating_point():
            raise ValueError(
                f"WaveNet takes samples of shape (batch, time), integers in "
                f"0..{self.output.levels - 1}, but got {tuple(samples.shape)} of "
                f"{samples.dtype}. Audio becomes samples by model.output.encode(audio)."
            )
        return self.embedding(samples.long()).transpose(1, 2)

    # What steers it

    def condition(
        self,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
        time: int = 1,
    ) -> Condition | None:
        """What steers the next `time` samples; None for a model that nothing steers."""
        if position is not None and self.position_embedding is None:
            raise ValueError("This model was built without position_hop; leave position out.")
        constant = self._constant(labels, mel)
        if self.position_embedding is None:
            return None if constant is None else Condition(constant)
        placed = self.position_embedding(position, time)
        return Condition(placed if constant is None else constant + placed, hop=1)

    def timeline(
        self,
        labels: Mapping[str, Tensor] | None = None,
        lengths: Tensor | None = None,
        mel: Tensor | None = None,
    ) -> Timeline:
        """What steers clips from their beginning on. labels: name -> (B,).

        lengths (B,): of the clips, prompts and all; needed by a model with a position_hop.
        """
        constant, placed = self._constant(labels, mel), self.position_embedding
        if placed is None:
            return Made(constant)
        if lengths is None:
            raise ValueError(
                "This model is conditioned on where in its clip a sample lies: give the clips' "
                "lengths in samples."
            )
        return Made(constant, lambda *frames: placed.frames(lengths, *frames), placed.hop)

    def _constant(self, labels: Mapping[str, Tensor] | None, mel: Tensor | None) -> Tensor | None:
        """(B, D, 1), of what holds for the whole clip."""
        if mel is not None:
            raise ValueError("This model is not conditioned on mel spectrograms; leave mel out.")
        if labels and self.label_embedding is None:
            raise ValueError(f"This model was built without labels, but got {sorted(labels)}.")
        return None if self.label_embedding is None else self.label_embedding(labels)

    def beginning(self, batch_size: int, lengths: Tensor | int) -> Tensor | None:
        """The position (B, 2) at the beginning of clips of so many samples.

        None for a model without a position_hop.
        """
        if self.position_embedding is None:
            return None
        device = self.position_embedding.since.weight.device
        ends = torch.as_tensor(lengths, device=device).expand(batch_size)
        return torch.stack([torch.zeros_like(ends), ends], dim=1)

    # Files

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes `model.safetensors` and `config.json`. Each appears whole or not at all."""
        facts = (self.config.settings(), self.output, self.receptive_field)
        write_folder(Path(folder), *facts, self.state_dict())

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> Self:
        """A model in eval mode, on the CPU. Runs no code from where it comes from.

        source: a folder of `save_pretrained`; or the name of a bundled model, "fsdd"; or
            "user/model" of the Hugging Face Hub, downloaded once (needs `pip install
            'wavenet[hub]'`). An existing folder goes before the others.

        Raises FileNotFoundError where there is no such model or it misses a file, ValueError where
        a file is damaged or of another library version, or the Hub's client is not installed.
        """
        folder = find(source)
        saved = read_folder(folder, [name for name in Config.names() if name != "output"])
        model = cls(**saved.settings, output=saved.output)
        try:
            model.load_state_dict(saved.weights)
        except RuntimeError as error:
            raise ValueError(
                f"The weights in {folder} do not fit its config.json; the two come from different "
                f"models: {error}"
            ) from error
        return model.eval()

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Uploads what `save_pretrained` writes to user/model of the Hugging Face Hub.

        Returns the repository's address. Needs `pip install 'wavenet[hub]'` and a login (`hf auth
        login`, or HF_TOKEN). The repository is made where there is none, for all to see unless
        private; other files in it stay. Raises what huggingface_hub raises.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private=private)


class Head(nn.Sequential):
    """ReLU, 1x1, ReLU, 1x1: features (B, skip_channels, T) -> params (B, Q, T).

    Over rows (B * T, channels), as features lie in memory: a compiler then takes a ReLU's gradient
    from its kept output. From (B, channels, T) it would write a mask beside it, which costs
    inductor on a CPU a fifth of the whole training step.

    exact: the last product in float32 at least, under autocast too. For parameters that are a place
        or a scale of audio: in bfloat16 a mean has 8 bits.
    """

    def __init__(self, *layers: nn.Module, exact: bool = False) -> None:
        super().__init__(*layers)
        self.exact = exact

    def forward(self, skips: Tensor) -> Tensor:
        rows = skips.transpose(1, 2).flatten(0, 1)
        *body, last = self
        for layer in body:
            rows = _over_rows(layer, rows)
        if self.exact:
            with torch.autocast(rows.device.type, enabled=False):
                rows = _over_rows(last, rows, torch.promote_types(rows.dtype, torch.float32))
        else:
            rows = _over_rows(last, rows)
        return rows.unflatten(0, (len(skips), skips.shape[2])).transpose(1, 2)


def _over_rows(layer: nn.Module, rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A ReLU or a 1x1 convolution over rows (N, channels), computed in `dtype` if one is given."""
    if not isinstance(layer, CausalConv1d):
        return layer(rows)
    weight, bias = layer.weight[..., 0], layer.bias
    if dtype is not None:
        rows, weight, bias = (
            rows.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
        )
    return affine(rows, weight, bias)
