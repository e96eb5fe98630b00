"""Owns `Config` and `WaveNet`: samples in, parameters of the next sample's distribution out.

Van den Oord et al. 2016, "WaveNet: A Generative Model for Raw Audio", figure 4.
Knows nothing of sampling.

Shapes: B batch, T time, Q parameters of one sample's distribution, C residual channels.
"""

import copy
import math
import os
import reprlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from wavenet.conditioning import (
    ClipLength,
    Condition,
    FrameSource,
    LabelEmbedding,
    LabelNames,
    Made,
    Mel,
    MelFeatures,
    PositionEmbedding,
    Source,
    Timeline,
    beside,
    checked_clip_length,
    checked_mel,
    checked_names,
    require_mel,
    within_silence,
)
from wavenet.conditioning.mel import as_saved
from wavenet.layers import CausalConv1d, Stack, StackState, dilation_cycles, residual_blocks
from wavenet.ops import affine
from wavenet.outputs import MuLaw, Output, checked_output
from wavenet.outputs.emphasis import deemphasised
from wavenet.outputs.pcm import encode_emphasised
from wavenet.outputs.protocol import checked_audio
from wavenet.pretrained import find, upload
from wavenet.pretrained.card import Facts, card, checked_license
from wavenet.saving import read_folder, write_folder

ModelState = tuple[Tensor, StackState]  # of the input convolution, of the stack
Part = TypeVar("Part", bound=nn.Module | None)


@dataclass(frozen=True)
class Config:
    """What a WaveNet is made of. Raises ValueError for a value that makes no model.

    Args:
        cycles: How often the dilations 1, 2, 4, ... are gone through.
        layers_per_cycle: Blocks in one cycle; the last has dilation 2^(layers_per_cycle - 1).
        kernel_size: Taps of every dilated convolution.
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
        mel: Settings of the log mel spectrogram that steers the model; None: none does.
        input_kernel_size: Taps of the convolution before the first block; as kernel_size where none
            are given. 1: a 1x1, as in models whose receptive field is that of the blocks alone.
        preemphasis: Coefficient a of x[t] - a x[t - 1], which becomes samples in the place of the
            audio x: less noise where speech is weak. 0.85 is usual at 16 kHz; 0: none. See
            `WaveNet.encode`.
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
    mel: Mel | None = None
    input_kernel_size: int | None = None
    preemphasis: float = 0.0

    def __post_init__(self) -> None:
        labels = checked_names(self.labels)
        self._set(labels=labels, clip_length=checked_clip_length(self.clip_length, labels))
        self._set(output=checked_output(self.output), mel=checked_mel(self.mel))
        if self.head_channels is None:
            self._set(head_channels=self.skip_channels)
        if self.input_kernel_size is None:
            self._set(input_kernel_size=self.kernel_size)
        self._require_each_allowed()
        self._require_possible()

    def _require_each_allowed(self) -> None:
        for name, most in MOST.items():
            if not _is_whole(value := getattr(self, name)) or not 1 <= value <= most:
                raise ValueError(_must_be(name, value, f"an integer from 1 to {most}"))
        hop, (least, most) = self.position_hop, HOPS
        if not _is_whole(hop) or not (hop == 0 or least <= hop <= most):
            allowed = f"0 (no position) or an integer of at least {least} and at most {most}"
            raise ValueError(_must_be("position_hop", hop, allowed))
        scale = self.residual_scale
        if not (_is_whole(scale) or isinstance(scale, float)) or not 0 < scale <= LARGEST_SCALE:
            allowed = f"a finite number above 0 and at most {LARGEST_SCALE}"
            raise ValueError(_must_be("residual_scale", scale, allowed))
        emphasis = self.preemphasis
        if not (_is_whole(emphasis) or isinstance(emphasis, float)) or not 0 <= emphasis < 1:
            raise ValueError(_must_be("preemphasis", emphasis, "a number from 0 to below 1"))
        if not isinstance(self.unlabelled, bool):
            raise ValueError(_must_be("unlabelled", self.unlabelled, "true or false"))

    def _require_possible(self) -> None:
        """Settings that are allowed one by one may together ask for more than any machine has."""
        cycles, layers, taps = self.cycles, self.layers_per_cycle, self.kernel_size
        blocks = cycles * layers
        _require_at_most(MOST_BLOCKS, blocks, "blocks", "cycles and layers_per_cycle")
        reach = (taps - 1) * cycles * (2**layers - 1) + (self.input_kernel_size or 1)
        sizes = "cycles, layers_per_cycle and kernel_size"
        _require_at_most(MOST_REACH, reach, "samples of receptive field", sizes)
        sizes = "cycles, layers_per_cycle, kernel_size, channels and labels"
        _require_at_most(MOST_WEIGHTS, self.weights, "weights", sizes)

    @property
    def weights(self) -> int:
        """Numbers in the network, but for tables of samples and position and the upsampling of mel.

        Nothing is built.
        """
        residual, gate, skip = self.residual_channels, self.gate_channels, self.skip_channels
        head, last = self.head_channels or 0, self.output.channels
        blocks, taps = self.cycles * self.layers_per_cycle, self.kernel_size
        tables = self.condition_channels * sum(map(len, (self.labels or {}).values()))
        steer = self.condition_width * 2 * gate
        block = (taps * residual + 1) * 2 * gate + steer + (gate + 1) * skip
        mixes = (blocks - 1) * (gate + 1) * residual  # the last block has none
        inputs = ((self.input_kernel_size or taps) * residual + 1) * residual
        return tables + inputs + blocks * block + mixes + (skip + 1) * head + (head + 1) * last

    def _set(self, **values: Any) -> None:
        """In __post_init__ alone: the plain form of what was given."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def condition_width(self) -> int:
        """Channels of all that steers the model: labels and position, and mel bands behind them."""
        placed = self.condition_channels if self.labels or self.position_hop else 0
        return placed + (self.mel.bands if self.mel is not None else 0)

    def settings(self) -> dict[str, Any]:
        """All but the output as plain values, fit for JSON and for `WaveNet(**settings)`.

        What younger libraries added is there only where it says something: older ones read the
        others' settings.
        """
        plain = {name: value for name, value in asdict(self).items() if name != "output"}
        plain["mel"] = None if self.mel is None else self.mel.settings()
        usual = {"mel": None, "input_kernel_size": self.kernel_size, "preemphasis": 0.0}
        return {k: v for k, v in plain.items() if k not in usual or v != usual[k]}

    @classmethod
    def names(cls) -> list[str]:
        """Of all settings."""
        return [setting.name for setting in fields(cls)]


MOST = {  # settings that are whole numbers of at least 1, and the most that each may be
    "cycles": 1000,
    "layers_per_cycle": 24,
    "kernel_size": 1024,
    "input_kernel_size": 1024,
    "residual_channels": 65_536,
    "gate_channels": 65_536,
    "skip_channels": 65_536,
    "head_channels": 65_536,
    "sample_rate": 10_000_000,
    "condition_channels": 65_536,
}
HOPS = (16, 1_000_000)  # samples: the shortest and the longest position_hop
MOST_BLOCKS = 1000
MOST_REACH = 2**24  # samples; 17 minutes at 16 kHz
MOST_WEIGHTS = 10**10
LARGEST_SCALE = 1000


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _must_be(name: str, value: Any, allowed: str) -> str:
    return f"WaveNet got {name}={reprlib.repr(value)}; it must be {allowed}."


def _require_at_most(most: int, count: int, what: str, settings: str) -> None:
    if count > most:
        raise ValueError(
            f"WaveNet got {settings} that make {count} {what}; it takes at most {most}. "
            "Make them smaller."
        )


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Of the shapes of weights; the first few."""
    names = sorted(n for n in {*expected, *found} if found.get(n) != expected.get(n))
    seen = [
        f"size mismatch for {name}: {found.get(name, 'none')} in the file, "
        f"{expected.get(name, 'none')} by its settings"
        for name in names[:5]
    ]
    more = [f"and {len(names) - 5} more"] * (len(names) > 5)
    return f"{'; '.join(seen + more)}."


class WaveNet(nn.Module):
    """An autoregressive model of samples.

    params[..., t] describe the distribution of samples[:, t + 1]. They depend on
    samples[:, : t + 1] only. The first input of a clip is the output's silence, so the first sample
    is predicted too.

    It takes what `Config` takes, by position or by name. In the attributes labels, sample_rate,
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
        self.mel_features = MelFeatures(config.mel) if config.mel is not None else None
        self.input = CausalConv1d(channels, channels, config.input_kernel_size or 1)
        self.stack = Stack(
            residual_blocks(
                dilation_cycles(config.cycles, config.layers_per_cycle),
                channels,
                config.gate_channels,
                config.skip_channels,
                config.kernel_size,
                config.condition_width,
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
        """The distribution of a sample. `encode` and `decode` turn audio into samples and back."""
        return self.config.output

    @property
    def codec(self) -> Output:
        """The output, under the name it had while all outputs were codes."""
        return self.config.output

    @property
    def mel(self) -> Mel | None:
        """Settings of the log mel spectrograms that steer the model; None: none do."""
        return self.config.mel

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

    # Audio and samples

    def encode(self, audio: Tensor, before: Tensor | None = None) -> Tensor:
        """Audio (..., T) in [-1, 1] -> samples, int64, of the same shape.

        With preemphasis, before (..., 1) is the audio of the sample before the first; none at a
        clip's beginning. What it brings beyond [-1, 1] is clipped, and bits per sample are those
        of what was filtered: they do not compare with those of audio as it is. Raises ValueError as
        the output's `encode` does.
        """
        coefficient = self.config.preemphasis
        if not coefficient:
            return self.output.encode(audio)
        given = checked_audio(audio, "WaveNet")
        return encode_emphasised(self.output, given, coefficient, before).long()

    def decode(self, samples: Tensor, before: Tensor | None = None) -> Tensor:
        """Samples (..., T) -> audio, float32, of the same shape.

        With preemphasis, before (..., 1) is the audio of the sample before the first; none at a
        clip's beginning. The audio may go beyond [-1, 1]. Raises ValueError as the output's
        `decode` does.
        """
        audio, coefficient = self.output.decode(samples), self.config.preemphasis
        if not coefficient or not audio.numel():
            return audio
        silent = self.output.decode(torch.tensor(self.output.silence))
        return deemphasised(audio - silent, coefficient, before)

    @property
    def silent_audio(self) -> float:
        """What a sample of silence sounds like: 0 with preemphasis, otherwise near it."""
        return float(self.decode(torch.tensor([self.output.silence])))

    # The network

    def forward(
        self,
        samples: Tensor,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
        surrounded: bool = False,
    ) -> Tensor:
        """samples (B, T), labels name -> (B,) -> params (B, Q, T), the t-th of samples[:, t + 1].

        mel (B, bands, F), for a model with mel: the frames of the T samples from samples[:, 1] on,
        F = ceil(T / hop), with silence around them; surrounded: with their own `Mel.context` frames
        on either side. position (B, 2), for a model with a position_hop: the place in its clip of
        the sample after samples[:, 0], and how many samples the clip has; where none is given,
        samples are whole clips. Raises ValueError for samples of another shape or type, and for
        labels, mel or a position that are missing, unknown, misshapen or not expected.
        """
        time = self._time(samples)
        if position is None and self.position_embedding is not None:
            position = torch.tensor([[1, time]], device=samples.device).expand(len(samples), 2)
        return self.predict(samples, self.condition(labels, mel, position, time, surrounded))

    def predict(self, samples: Tensor, condition: Condition | None) -> Tensor:
        """As `forward`, of whatever the condition was made from."""
        x = self.input(self.embed(samples))
        _, skips = self.stack(x, _features_of(x, condition))
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
        condition = self.condition(labels, mel, position, self._time(samples))
        return self.predict_step(samples, state, condition)

    def predict_step(
        self, samples: Tensor, state: ModelState, condition: Condition | None
    ) -> tuple[Tensor, ModelState]:
        """As `step`, of whatever the condition was made from."""
        x, input_state = self.input.step(self.embed(samples), state[0])
        (_, skips), stack_state = self.stack.step(x, state[1], _features_of(x, condition))
        return self.head(skips), (input_state, stack_state)

    def _time(self, samples: Tensor) -> int:
        """T of samples (B, T). Raises ValueError for others."""
        if samples.dim() != 2 or samples.is_floating_point():
            raise ValueError(
                f"WaveNet takes samples of shape (batch, time), integers in "
                f"0..{self.output.levels - 1}, but got {tuple(samples.shape)} of "
                f"{samples.dtype}. Audio becomes samples by model.encode(audio)."
            )
        return samples.shape[1]

    def embed(self, samples: Tensor) -> Tensor:
        """samples (B, T) -> features (B, C, T)."""
        self._time(samples)
        try:
            return self.embedding(samples.long()).transpose(1, 2)
        except IndexError as error:
            raise ValueError(
                f"WaveNet takes samples in 0..{self.output.levels - 1}, but got values from "
                f"{int(samples.min())} to {int(samples.max())}."
            ) from error

    # What steers it

    def condition(
        self,
        labels: Mapping[str, Tensor] | None = None,
        mel: Tensor | None = None,
        position: Tensor | None = None,
        time: int = 1,
        surrounded: bool = False,
    ) -> Condition | None:
        """What steers the next `time` samples; None for a model that nothing steers.

        mel: frames from the first of these samples on.
        surrounded: mel has `Mel.context` frames more on either side; else there is silence.
        """
        if position is not None and self.position_embedding is None:
            raise ValueError("This model was built without position_hop; leave position out.")
        self.require_mel(mel)
        features, hop = self._constant(labels, self.label_embedding), 0
        if self.position_embedding is not None:
            placed, hop = self.position_embedding(position, time), 1
            features = placed if features is None else features + placed
        if self.mel_features is not None and mel is not None:
            frames = self._surrounded(mel, time, surrounded)
            made = Condition(self.mel_features(frames), self.mel_features.mel.feature_hop)
            if hop:
                made = Condition(made.over(time), hop)
            hop = made.hop
            features = made.features if features is None else beside(features, made.features)
        return None if features is None else Condition(features, hop)

    def _surrounded(self, mel: Tensor, time: int, surrounded: bool) -> Tensor:
        """The frames of so many samples, with their context."""
        assert self.mel is not None
        context = self.mel.context
        own = mel[..., context : mel.shape[-1] - context] if surrounded else mel
        require_mel(self.mel, own, time)
        count = own.shape[-1] + 2 * context
        return mel if surrounded else within_silence(self.mel, mel, -context, count)

    def timeline(
        self,
        labels: Mapping[str, Tensor] | None = None,
        lengths: Tensor | None = None,
        mel: Tensor | FrameSource | None = None,
        dtype: torch.dtype | None = None,
    ) -> Timeline:
        """What steers clips from their beginning on.

        labels: name -> (B,).
        lengths (B,): of the clips, prompts and all; needed by a model with a position_hop.
        mel: frames (B, bands, F) of the clips, with silence around them, or what makes the frames
            `first` to first + count - 1.
        dtype: makes the features in it, by copies of the embeddings that later changes to the model
            do not reach; an engine says which it takes. None: by the model's own.
        """
        self.require_mel(mel)
        constant = self._constant(labels, _copied(self.label_embedding, dtype))
        placed, spectral = None, None
        if self.position_embedding is not None:
            placed = self._placed(_copied(self.position_embedding, dtype), lengths)
        if self.mel_features is not None and mel is not None:
            spectral = _spectral(_copied(self.mel_features, dtype), mel)
        return Made(constant, placed, spectral)

    def _placed(self, embedding: PositionEmbedding, lengths: Tensor | None) -> Source:
        if lengths is None:
            raise ValueError(
                "This model is conditioned on where in its clip a sample lies: give the clips' "
                "lengths in samples."
            )
        return Source(lambda *frames: embedding.frames(lengths, *frames), embedding.hop)

    def require_mel(self, mel: Any) -> None:
        """Raises ValueError where mel is given to a model without, or missing for one with it."""
        if mel is not None and self.mel_features is None:
            raise ValueError("This model is not conditioned on mel spectrograms; leave mel out.")
        if mel is None and self.mel is not None:
            raise ValueError(
                f"This model is conditioned on log mel spectrograms of {self.mel.bands} bands with "
                f"a hop of {self.mel.hop} samples: give mel. {self.mel.source} makes one."
            )

    def _constant(
        self, labels: Mapping[str, Tensor] | None, embedding: LabelEmbedding | None
    ) -> Tensor | None:
        """(B, D, 1), of what holds for the whole clip."""
        if labels and embedding is None:
            raise ValueError(f"This model was built without labels, but got {sorted(labels)}.")
        return None if embedding is None else embedding(labels)

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
        """Writes `model.safetensors` and `config.json`.

        Killed at any moment, it leaves the old model or the new one, whole.
        """
        facts = (self.config.settings(), self.output, self.receptive_field)
        write_folder(Path(folder), *facts, self.state_dict())

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str]) -> Self:
        """A model in eval mode, on the CPU. Runs no code from where it comes from.

        source: a folder of `save_pretrained`; or the name of a bundled model, "fsdd"; or
            "user/model" of the Hugging Face Hub, downloaded once (needs `pip install
            'wavenet-torch[hub]'`). An existing folder goes before the others.

        Raises FileNotFoundError where there is no such model or it misses a file, ValueError where
        a file is damaged or of another library version, or the Hub's client is not installed.
        """
        folder = find(source)
        saved = read_folder(folder, [name for name in Config.names() if name != "output"])
        settings = {**saved.settings, "output": saved.output}
        misfit = "do not fit its config.json; the two come from different models"
        model = cls.of_shapes(settings, saved.shapes, folder, misfit)
        model.load_state_dict(saved.weights())
        return model.eval()

    @classmethod
    def of_shapes(
        cls,
        settings: Mapping[str, Any],
        shapes: Mapping[str, Sequence[int]],
        source: Path,
        misfit: str,
    ) -> Self:
        """A new network of the settings in `source`, if its weights have these shapes.

        Nothing is made that the source's weights would not fill. Raises ValueError for settings
        that make no model, and for shapes that are not theirs: "The weights in SOURCE MISFIT: ...".
        """
        settings = as_saved(settings)
        try:
            least = Config(**settings).weights
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        found = {name: tuple(shape) for name, shape in shapes.items()}
        misfit, count = f"The weights in {source} {misfit}", sum(map(math.prod, found.values()))
        if count < least:
            counts = f"{count} numbers in the file, at least {least} by its settings"
            raise ValueError(f"{misfit}: size mismatch, {counts}.")
        model = cls(**settings)
        expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        if found != expected:
            raise ValueError(f"{misfit}: {_differences(found, expected)}")
        return model

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, license: str | None = None
    ) -> str:
        """Uploads what `save_pretrained` writes to user/model of the Hugging Face Hub.

        Returns the repository's address. Needs `pip install 'wavenet-torch[hub]'` and a login (`hf
        auth login`, or HF_TOKEN). The repository is made where there is none, for all to see unless
        private. Where it has no model card, one is written; other files in it stay.

        license: of the weights, as the Hub names it ("cc-by-sa-4.0"), for that card. It follows
            from what the model was trained on; nothing is written where none is given.

        Raises ValueError for another spelling of a licence, and what huggingface_hub raises.
        """
        described = partial(card, facts=self._facts(), license=checked_license(license))
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private=private, card=described)

    def _facts(self) -> Facts:
        """For the model card."""
        emphasis = self.config.preemphasis
        return Facts(
            self.sample_rate,
            f"{type(self.output).__name__}, {self.output.levels} levels"
            + (f", of audio with preemphasis {emphasis}" if emphasis else ""),
            self.num_parameters,
            self.receptive_field,
            self.labels,
            bands=self.mel.bands if self.mel is not None else 0,
            given=self.mel is not None and self.mel.given,
            planned=self.draws_lengths,
        )


def _features_of(x: Tensor, condition: Condition | None) -> Tensor | None:
    """What steers x (B, C, T): of each sample (B, D, T), or (B, D, 1) for all; B or one clip."""
    if condition is None:
        return None
    features = condition.over(x.shape[-1])
    if len(features) not in (1, len(x)):
        raise ValueError(
            f"There are {len(x)} clips of samples, but labels, mel or position of "
            f"{len(features)}. Give one for each clip."
        )
    return features


def _copied(part: Part, dtype: torch.dtype | None) -> Part:
    return part if dtype is None or part is None else copy.deepcopy(part).to(dtype)


def _spectral(features: MelFeatures, mel: Tensor | FrameSource) -> Source:
    """Features of the mel frames of clips, whole or as they come."""
    settings = features.mel
    if isinstance(mel, Tensor):
        require_mel(settings, mel)
        frames: FrameSource = partial(within_silence, settings, mel)
    else:
        frames = mel
    context, steps = settings.context, settings.hop // settings.feature_hop

    def made(first: int, count: int) -> Tensor:
        """Of steps, `steps` in a frame."""
        start, stop = first // steps, -(-(first + count) // steps)
        whole = features(frames(start - context, stop - start + 2 * context))
        return whole[..., first - start * steps :][..., :count]

    return Source(made, settings.feature_hop)


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
