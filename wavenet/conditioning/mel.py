"""Owns the log mel spectrogram as a condition: its settings, its frames, and their features.

Knows nothing of layers or files. The spectrogram is that of torchaudio, its reference in the tests.

Shapes: B batch, M bands, F frames, T time. Frame f belongs to the samples f * hop to
(f + 1) * hop - 1, and its window is centred on them. What lies outside a clip is silence,
or, for an upsampling that asks, no frame: `Mel.outside`.

    hop 4, window 8     samples   0 1 2 3 | 4 5 6 7 | 8 9 ...
                        frame          0  |       1 |
                        window 1      2 3   4 5 6 7   8 9
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from math import log, nan
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.conditioning.filterbank import mel_bands, spectrum
from wavenet.conditioning.upsampling import Smoothed, Stages, Transposed, upsampler_from

Upsampling = Literal["hold", "linear", "learned"]
Scaling = Literal["standard", "unit"]
STANDARD = (-7.0, 2.0)  # of the log magnitudes of mel bands of speech: about mean and deviation
LONGEST_STEP = 16  # samples that upsampled features hold for, where nothing is said
LARGEST_HOP = 1 << 16


@dataclass(frozen=True)
class Mel:
    """Settings of a log mel spectrogram, and how a model is steered by it.

    A frame is ln(max(S, floor)): S are the magnitudes of a Hann window's Fourier transform, summed
    in triangular bands on the mel scale of Slaney's Auditory Toolbox, each of area 1. These are the
    settings of most vocoders since Tacotron 2.

    Args:
        bands: Mel bands, M.
        hop: Samples of a frame.
        window: Samples of a frame's window and its Fourier transform.
        low: Lower end of the lowest band in Hz.
        high: Upper end of the highest band in Hz; half the sample rate where none is given.
        floor: Magnitudes below it count as it: the magnitude of silence.
        upsampling: How features at the sample rate come from frames. hold: a frame's features for
            all its samples. linear: on a line from the middle of a frame to the middle of the next.
            learned: linear, and a small network of the frames around. Or a `Smoothed` or a
            `Transposed`, whose scales make the hop.
        step: Samples that features hold for once they are upsampled, a divisor of hop; the largest
            up to 16 and up to hop / 4 where none is given. Of no use to hold.
        lookahead: Frames on either side that the learned upsampling looks at.
        scaling: Of the frames before they are upsampled. standard: (frame + 7) / 2, for speech of a
            mean near 0 and a deviation near 1, so that a model learns as fast from it as from other
            features. unit: silence is 0 and a magnitude of 1 is 1, as in earlier libraries.
        given: The frames are another program's. They are taken as they are, on that program's
            scale; window, low, high and floor are then of no use, and no audio becomes frames here.
    """

    bands: int = 80
    hop: int = 256
    window: int = 1024
    low: float = 0.0
    high: float | None = None
    floor: float = 1e-5
    upsampling: Upsampling | Smoothed | Transposed = "linear"
    step: int | None = None
    lookahead: int = 2
    scaling: Scaling = "standard"
    given: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("bands", 1, 1024),
            ("hop", 1, LARGEST_HOP),
            ("window", self.hop, 2 * LARGEST_HOP),
            ("lookahead", 1, 64),
        ):
            _require_whole(name, getattr(self, name), low, high)
        self._require_upsampling()
        if self.scaling not in [*get_args(Scaling)]:
            raise ValueError(f"mel.scaling must be standard or unit, but got {self.scaling!r}.")
        if self.step is not None and (
            isinstance(self.step, bool)
            or not isinstance(self.step, int)
            or self.step < 1
            or self.hop % self.step
        ):
            raise ValueError(
                f"mel.step must be a divisor of the hop, {self.hop} samples, but got {self.step!r}."
            )
        numbers = [self.floor, self.low, *([] if self.high is None else [self.high])]
        if any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
            raise ValueError(f"mel.floor, low and high must be numbers, but got {numbers!r}.")
        if not 1e-30 < self.floor < 1:
            raise ValueError(f"mel.floor must be a magnitude between 0 and 1, not {self.floor!r}.")
        highest = float("inf") if self.high is None else self.high
        if not 0 <= self.low < highest:
            raise ValueError(
                f"mel.low and mel.high must be rising frequencies in Hz, but got {self.low!r} and "
                f"{self.high!r}."
            )

        if not isinstance(self.given, bool):
            raise ValueError(f"mel.given must be true or false, but got {self.given!r}.")

    def _require_upsampling(self) -> None:
        if isinstance(self.upsampling, Mapping):  # as it stands in files
            object.__setattr__(self, "upsampling", upsampler_from(self.upsampling))
        if self.stages is None:
            if self.upsampling in [*get_args(Upsampling)]:  # a list: it may be of no hash
                return
            raise ValueError(
                f"mel.upsampling must be one of {', '.join(get_args(Upsampling))}, a Smoothed or "
                f"a Transposed, but got {self.upsampling!r}."
            )
        if self.stages.hop != self.hop:
            raise ValueError(
                f"mel.upsampling has the scales {[*self.stages.scales]}, which make "
                f"{self.stages.hop} samples of a frame, but mel.hop is {self.hop}."
            )

    @property
    def stages(self) -> Stages | None:
        """The upsampling, if it is one in stages."""
        return self.upsampling if isinstance(self.upsampling, Stages) else None

    @property
    def silence(self) -> float:
        """What every band has in a frame of silence; 0 of another program's frames."""
        return 0.0 if self.given else log(self.floor)

    @property
    def outside(self) -> float:
        """What every band has where a clip has no frames: silence; NaN for an upsampling that asks.

        Such a one does not take what lies outside for frames.
        """
        return nan if isinstance(self.upsampling, Smoothed) else self.silence

    @property
    def source(self) -> str:
        """What makes the frames, for messages."""
        if self.given:
            return "The program that the model was trained with"
        return "model.mel.spectrogram(audio, model.sample_rate)"

    def settings(self) -> dict[str, Any]:
        """Plain values, fit for JSON, from which `checked_mel` makes the same.

        given is there only where it is true: earlier libraries read the others' settings.
        """
        left_out = set() if self.given else {"given"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @property
    def feature_hop(self) -> int:
        """Samples that upsampled features hold for."""
        if self.stages is not None:
            return 1
        if self.upsampling == "hold":
            return self.hop
        longest = max(1, min(LONGEST_STEP, self.hop // 4))
        return self.step or max(x for x in range(1, longest + 1) if self.hop % x == 0)

    @property
    def context(self) -> int:
        """Frames on either side that a frame's features depend on: the lookahead, in frames."""
        if self.stages is not None:
            return int(self.stages.context)
        return {"hold": 0, "linear": 1, "learned": self.lookahead}[str(self.upsampling)]

    def frames_of(self, samples: int) -> int:
        """How many frames so many samples have, the last of which may be short."""
        return -(-samples // self.hop)

    @property
    def margins(self) -> tuple[int, int]:
        """Samples of the windows before the first frame, and behind the last."""
        before = (self.window - self.hop) // 2
        return before, self.window - self.hop - before

    @property
    def surroundings(self) -> tuple[int, int]:
        """Samples that features of some frames depend on, before these and behind them."""
        before, after = self.margins
        return self.context * self.hop + before, self.context * self.hop + after

    def spectrogram(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Audio of a clip (..., T) in [-1, 1] -> its log mel frames (..., M, ceil(T / hop)).

        Raises ValueError for audio that is not floating-point or is empty, and a rate that does not
        reach up to `high`.
        """
        if not audio.is_floating_point() or audio.shape[-1] == 0:
            raise ValueError(
                "A mel spectrogram is made of floating-point audio (..., time) of at least one "
                f"sample, but got {audio.dtype} {tuple(audio.shape)}."
            )
        before, after = self.margins
        filled = self.frames_of(audio.shape[-1]) * self.hop - audio.shape[-1]
        return self.windowed(F.pad(audio, (before, filled + after)), sample_rate)

    def windowed(self, audio: Tensor, sample_rate: int) -> Tensor:
        """The same of audio that has the margins: (..., margins and F * hop) -> (..., M, F)."""
        if self.given:
            raise ValueError(
                "The mel frames of this model are another program's, on its own scale, and this "
                "library does not make them: make the frames with that program and give them "
                "(mel=, or --mel FILE)."
            )
        transform = _transform(self, sample_rate, audio.device)
        with torch.autocast(audio.device.type, enabled=False):
            return transform(audio.float()).clamp_min(self.floor).log()


def checked_mel(given: "Mel | Mapping[str, Any] | None") -> Mel | None:
    """The settings, also from a mapping, as they stand in files.

    Raises ValueError for a setting that there is not, listing those there are.
    """
    if given is None or isinstance(given, Mel):
        return given
    known = [setting.name for setting in fields(Mel)]
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise ValueError(
            f"mel must be a wavenet.Mel or a mapping of its settings ({', '.join(known)}), but got "
            f"{given!r}."
        )
    return Mel(**given)


def as_saved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A saved model's settings: what earlier libraries did not say of mel means what it did."""
    mel = settings.get("mel")
    older = {"mel": {"scaling": "unit", **mel}} if isinstance(mel, Mapping) else {}
    return {**settings, **older}


def frames_within(mel: Mel, audio: Tensor, position: Tensor, sample_rate: int) -> Tensor:
    """Frames of clips' parts, with their context, from audio (B, ...) with its `surroundings`.

    position (B, 2): the place of the first sample in its clip, a whole number of hops, and the
        samples of the clip. Outside the clip all is silence. Returns (B, M, F + 2 * context).
    """
    frames = mel.windowed(audio, sample_rate)
    first = position[:, :1] // mel.hop - mel.context
    number = first + torch.arange(frames.shape[2], device=frames.device)  # (B, F)
    inside = (number >= 0) & (number * mel.hop < position[:, 1:])
    return frames.where(inside[:, None], mel.outside)


def _require_whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"mel.{name} must be an integer from {low} to {high}, but got {value!r}.")


def require_rate(mel: Mel, sample_rate: int) -> None:
    """Raises ValueError where audio of that rate does not reach up to `high`."""
    if mel.high is not None and mel.high > sample_rate / 2:
        raise ValueError(
            f"mel.high is {mel.high} Hz, but audio of {sample_rate} Hz has nothing above "
            f"{sample_rate / 2:g} Hz. Give at most that, or leave it out."
        )


@lru_cache(maxsize=16)
def _transform(mel: Mel, sample_rate: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    require_rate(mel, sample_rate)
    bands = mel_bands(mel.window // 2 + 1, mel.bands, sample_rate, mel.low, mel.high).to(device)
    window = torch.hann_window(mel.window, device=device)

    def transform(audio: Tensor) -> Tensor:
        return spectrum(audio, window, mel.window, mel.hop).abs().mT.matmul(bands).mT

    return transform


class MelFeatures(nn.Module):
    """Log mel frames -> condition features (B, M, ...), one for each `Mel.feature_hop` samples.

    Frames are scaled first; see `Mel.scaling`. linear, of the middle s of a step, in frames from
    the middle of frame f: (1 - |s|) x_f + |s| x_g, where g is the next frame for s > 0 and the one
    before for s < 0. learned adds W relu(V x_{f-c..f+c}), zero at first.
    An upsampling in stages is a module of its own. Another program's frames are not scaled.
    """

    middles: Tensor

    def __init__(self, mel: Mel) -> None:
        super().__init__()
        self.mel = mel
        steps = mel.hop // mel.feature_hop
        spread = mel.context and mel.stages is None
        middles = (torch.arange(steps) + 0.5) / steps - 0.5 if spread else torch.zeros(1)
        self.register_buffer("middles", middles, persistent=False)  # s
        self.around: nn.Module | None = None
        if mel.upsampling == "learned":
            out = nn.Conv1d(mel.bands, mel.bands * steps, 1)
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)  # type: ignore[arg-type]
            around = nn.Conv1d(mel.bands, mel.bands, 2 * mel.context + 1)
            self.around = nn.Sequential(around, nn.ReLU(), out)
        self.stages = None if mel.stages is None else mel.stages.module(mel.bands)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, M, F and `Mel.context` frames on either side) -> (B, M, F * hop / feature_hop)."""
        scaled = self._scaled(frames).to(self.middles)
        if self.stages is not None:
            return cast(Tensor, self.stages(scaled))
        features = self._interpolated(scaled)
        if self.around is not None:
            learned = self.around(scaled).unflatten(1, features.shape[1::2])  # (B, M, steps, F)
            features = features + learned.transpose(2, 3)
        return features.flatten(2)

    def _scaled(self, frames: Tensor) -> Tensor:
        silence = self.mel.silence
        mean, deviation = STANDARD if self.mel.scaling == "standard" else (silence, -silence)
        return frames if self.mel.given else (frames - mean) / deviation

    def _interpolated(self, scaled: Tensor) -> Tensor:
        """(B, M, F and context) -> (B, M, F, steps)."""
        context, s = self.mel.context, self.middles
        if not context:
            return scaled.unsqueeze(-1)
        here = scaled[..., context:-context, None]
        before = scaled[..., context - 1 : -context - 1, None]
        after = scaled[..., context + 1 : scaled.shape[-1] - context + 1, None]
        return (1 - s.abs()) * here + (-s).clamp_min(0) * before + s.clamp_min(0) * after


def require_mel(mel: Mel, frames: Tensor, samples: int | None = None) -> None:
    """Raises ValueError for anything but log mel frames (B, M, F) of clips of so many samples."""
    if frames.dim() != 3 or frames.shape[1] != mel.bands or not frames.is_floating_point():
        raise ValueError(
            f"This model is conditioned on log mel spectrograms (batch, {mel.bands} bands, frames),"
            f" floating-point, but got {tuple(frames.shape)} of {frames.dtype}. "
            f"{mel.source} makes them."
        )
    if samples is not None and frames.shape[2] != mel.frames_of(samples):
        raise ValueError(
            f"The mel spectrogram has {frames.shape[2]} frames, but {samples} samples with a hop "
            f"of {mel.hop} have {mel.frames_of(samples)}. Both must be of the same clip."
        )


def within_silence(mel: Mel, frames: Tensor, first: int, count: int) -> Tensor:
    """frames (B, M, F) -> the frames first to first + count - 1, `Mel.outside` but for 0..F - 1."""
    inside = frames[..., max(0, first) : max(0, first + count)]
    before = min(count, max(0, -first))
    pad = (before, count - before - inside.shape[-1])
    return F.pad(inside, pad, value=mel.outside) if any(pad) else inside
