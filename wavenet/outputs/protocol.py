"""Owns the interface of an output.

Shapes: B batch, T time, Q parameters of one sample's distribution, U uniforms of one sample.
"""

from abc import abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from wavenet.outputs.sampling import Sampling

LARGEST_PEAK = 8.0  # of audio: 18 dB above full scale is another scale, not loud audio


class Output(Protocol):
    """The distribution of one sample: a frozen dataclass, whose name and fields are saved.

    channels: Q, numbers that the head makes for one sample.
    levels: different samples that there are; a sample is an integer in 0..levels - 1.
    uniforms: U, random numbers in [0, 1) that drawing one sample takes.
    categorical: whether the parameters are a logit of each level. Only then do top_k, top_p and
        guidance mean something.
    silence: the sample that a model reads before the first one.
    """

    uniforms: ClassVar[int]
    categorical: ClassVar[bool]

    @property
    @abstractmethod
    def channels(self) -> int: ...

    @property
    @abstractmethod
    def levels(self) -> int: ...

    @property
    @abstractmethod
    def silence(self) -> int: ...

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Audio in [-1, 1], any shape -> samples, the same shape."""
        ...

    @abstractmethod
    def decode(self, samples: Tensor) -> Tensor:
        """Samples, any shape -> audio, float32, the same shape."""
        ...

    @abstractmethod
    def embedding(self, width: int) -> nn.Module:
        """What turns samples, any shape, into features, a last axis of `width` more."""
        ...

    @abstractmethod
    def nats(self, params: Tensor, samples: Tensor) -> Tensor:
        """params (B, Q, T), samples (B, T) -> -ln p of each sample, (B, T)."""
        ...

    @abstractmethod
    def draw(self, params: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """params (B, Q), uniforms (B, U) -> samples (B,), int64.

        Raises ValueError as `require_applicable` does.
        """
        ...

    def noise(self, uniforms: Tensor) -> Tensor:
        """uniforms (..., U) -> what an engine's own draw takes in their place, (..., U).

        Made for a whole call at once. As they are, unless an output says otherwise.
        """
        return uniforms

    def initialise(self, head: nn.Conv1d) -> None:
        """Sets the bias of a new model's last layer, whose outputs are the parameters.

        Nothing, unless an output says otherwise.
        """
        return None


def require_tensor(name: str, given: object) -> None:
    """Raises ValueError, saying what `name` got, where it is no tensor."""
    if not isinstance(given, Tensor):
        raise ValueError(
            f"{name} takes a tensor, but got a {type(given).__name__}: torch.as_tensor(...) makes "
            "one."
        )


def checked_audio(audio: Tensor, name: str) -> Tensor:
    """Audio, at least in float32 and clipped to [-1, 1], for the `encode` of the output `name`.

    Raises ValueError for NaN and for audio that is not floating point.
    """
    require_tensor(f"{name}.encode", audio)
    if not audio.is_floating_point():
        raise ValueError(
            f"{name}.encode takes floating-point audio in [-1, 1], but got {audio.dtype}. "
            "Divide integer PCM by its full scale first (16-bit: 32768)."
        )
    if torch.isnan(audio).any():
        raise ValueError(
            f"{name}.encode got {int(torch.isnan(audio).sum())} NaN samples; repair or drop "
            "this audio."
        )
    return audio.to(torch.promote_types(audio.dtype, torch.float32)).clamp(-1.0, 1.0)


def require_scale(audio: Tensor, what: str) -> None:
    """Raises ValueError for audio of a user beyond LARGEST_PEAK. `what` names it.

    `encode` clips what is too loud, and would make a square wave of audio scaled like integers.
    """
    peak = float(audio.abs().amax()) if audio.is_floating_point() and audio.numel() else 0.0
    if peak > LARGEST_PEAK:
        raise ValueError(
            f"{what} is audio in [-1, 1], but got samples up to {peak:g}. Audio that is scaled "
            "like 16-bit integers is divided by 32768 first."
        )


def require_applicable(output: Output, sampling: Sampling) -> None:
    """Raises ValueError where the output cannot be drawn from in this way.

    top_k, top_p and guidance are told of a logit of each level: a continuous distribution has none.
    """
    knobs, plain = ("top_k", "top_p", "guidance"), Sampling()
    given = [knob for knob in knobs if getattr(sampling, knob) != getattr(plain, knob)]
    if given and not output.categorical:
        asked = ", ".join(f"{knob}={getattr(sampling, knob)}" for knob in given)
        raise ValueError(
            f"{asked}: {type(output).__name__} is a continuous distribution, and only one with a "
            f"logit for each code, as MuLaw, has a meaning for that. Leave out "
            f"{', '.join(given)}; temperature works."
        )
