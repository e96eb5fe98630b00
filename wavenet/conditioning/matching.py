"""Owns how audio is brought nearer to the mel frames it was made from, as it comes.

What is drawn is right on average, but the level of each band differs from that of its frame by
chance, as that of noise does. The frames say what it should be; the phases stay as drawn.
Knows nothing of models. Shapes: B batch, M bands, K frequencies, F frames, T time.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import log, nan

import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.conditioning.condition import FrameSource
from wavenet.conditioning.filterbank import mel_bands, spectrum
from wavenet.conditioning.given_mel import mel_clips
from wavenet.conditioning.mel import Mel, require_rate

LARGEST_GAIN = log(100)  # of a frequency in one pass: 40 dB
RELAXATION = 1.3  # a: over-relaxation, as a window's neighbours take back some of its change
PASSES = 10  # where nothing waits for the audio


def match_mel(
    audio: Tensor, frames: Tensor, mel: Mel, sample_rate: int, passes: int = PASSES
) -> Tensor:
    """Audio (B, T) or (T,) -> the same, on the CPU, with log mel frames nearer to those given.

    frames: (M, F) or (B, M, F), of at least T samples, as `mel.spectrogram` makes them. See
    `MelPass`. Raises ValueError for audio or frames of another shape or with NaN, too few frames,
    and settings that do not allow it.
    """
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
        raise ValueError(
            f"Audio is matched to mel frames in a whole number of passes, at least 1, but got "
            f"{passes!r}."
        )
    clips = _checked(audio)
    lengths = torch.tensor([clips.shape[1]] * len(clips))
    given = mel_clips(mel, frames, len(clips))
    given.require(lengths)
    chain = [MelPass(mel, given, sample_rate, len(clips), lengths) for _ in range(passes)]
    return torch.cat(list(matched([clips], chain)), dim=1).view(audio.shape)


def _checked(audio: Tensor) -> Tensor:
    """(B, T) float32 on the CPU. Raises ValueError for what is no audio."""
    good = isinstance(audio, Tensor) and audio.is_floating_point() and audio.numel() > 0
    if not good or audio.dim() not in (1, 2) or not torch.isfinite(audio).all():
        seen = type(audio).__name__
        if isinstance(audio, Tensor):
            wrong = int((~torch.isfinite(audio)).sum())
            seen = f"{audio.dtype} {tuple(audio.shape)} with {wrong} values NaN or infinite"
        raise ValueError(
            "match_mel takes a tensor of floating-point audio (batch, time) or (time,), at least "
            f"one sample and all finite, but got {seen}."
        )
    return audio.reshape(-1, audio.shape[-1]).float().cpu()


def matched(
    chunks: Iterable[Tensor], passes: Sequence["MelPass"], skip: int = 0
) -> Iterator[Tensor]:
    """Chunks (B, n) of audio through each pass in turn, without the first `skip` samples.

    As many samples come out as went in, each pass up to a window later. Where the chunks end in a
    ValueError, so does this, once all that came is out.
    """
    left, failure = skip, None

    def cut(audio: Tensor) -> Iterator[Tensor]:
        nonlocal left
        gone = min(left, audio.shape[1])
        left -= gone
        if audio.shape[1] > gone:
            yield audio[:, gone:].clamp(-1, 1)

    source = iter(chunks)
    while failure is None:
        try:
            chunk = next(source, None)
        except ValueError as error:
            chunk, failure = None, error
        if chunk is None:
            break
        for each in passes:
            chunk = each.process(chunk)
        yield from cut(chunk)
    rest = torch.empty(passes[0].batch_size, 0)
    for each in passes:
        rest = torch.cat([each.process(rest), each.end()], dim=1)
    yield from cut(rest)
    if failure is not None:
        raise failure


class MelPass:
    """One pass over audio as it comes: every window's bands get the level that its frame says.

        X_f = the windowed Fourier transform,   r_f = frame_f - ln(max(bands |X_f|, floor))
        Y_f(k) = X_f(k) exp(a sum_m b_km r_f(m) / sum_m b_km)

    with a = RELAXATION and gains up to LARGEST_GAIN. The windows of Y are added up as by Griffin
    and Lim 1984, "Signal estimation from modified short-time Fourier transform", equation 6. As
    they overlap, one pass brings the frames nearer, and more passes nearer still. Where a frame is
    right already, nothing changes; frequencies outside all bands stay as they are. Unlike Griffin
    and Lim's algorithm it keeps the fine structure within a band, and begins with phases that are
    not random.

    Args:
        mel: Settings of the frames.
        frames: (first, count) -> the frames first to first + count - 1, (B, M, count), in order.
        lengths: Samples of each clip (B,); None: not known until the end.

    Raises ValueError for frames of another program, and for windows that overlap by less than half.
    """

    def __init__(
        self,
        mel: Mel,
        frames: FrameSource,
        sample_rate: int,
        batch_size: int,
        lengths: Tensor | None = None,
    ) -> None:
        if reason := unmatchable(mel):
            raise ValueError(reason)
        require_rate(mel, sample_rate)
        self.batch_size = batch_size
        self._mel, self._frames, self._lengths = mel, frames, lengths
        self._bands = mel_bands(mel.window // 2 + 1, mel.bands, sample_rate, mel.low, mel.high)
        self._shares = self._bands / self._bands.sum(1, keepdim=True).clamp_min(1e-9)  # (K, M)
        self._window = torch.hann_window(mel.window)
        overlapping = F.pad(self._window.square(), (0, -mel.window % mel.hop)).view(-1, mel.hop)
        self._overlap = overlapping.sum(0)  # of the squares of all windows at a sample of a hop
        before = mel.margins[0]
        self._next = (before - mel.window) // mel.hop + 1  # frame: the first that has a sample
        first = self._next * mel.hop - before
        self._before = -first  # samples before the clip that come out first
        self._waiting = torch.zeros(batch_size, -first)
        self._sum = torch.zeros(batch_size, mel.window - mel.hop)  # of windows, not yet complete
        self._read = self._written = 0

    @property
    def latency(self) -> int:
        """Samples that come in, at most, between one and the same one out."""
        return self._mel.window

    @torch.no_grad()
    def process(self, audio: Tensor) -> Tensor:
        """The next samples (B, n) -> the samples that are now complete (B, m)."""
        with torch.autocast(audio.device.type, enabled=False):
            return self._process(audio)

    def _process(self, audio: Tensor) -> Tensor:
        self._waiting = torch.cat([self._waiting, self._of_clips(audio, self._read)], dim=1)
        self._read += audio.shape[1]
        mel = self._mel
        count = (self._waiting.shape[1] - mel.window) // mel.hop + 1
        if count < 1:
            return audio[:, :0]
        windows = self._waiting[:, : mel.window + (count - 1) * mel.hop]
        added = self._added(self._matched(windows, count))
        self._waiting = self._waiting[:, count * mel.hop :].clone()
        self._next += count
        done = F.pad(self._sum, (0, added.shape[1] - self._sum.shape[1])) + added
        self._sum = done[:, count * mel.hop :].clone()
        complete = done[:, : count * mel.hop] / self._overlap.repeat(count)
        gone = min(self._before, complete.shape[1])
        self._before -= gone
        made = self._of_clips(complete[:, gone:], self._written)
        self._written += made.shape[1]
        return made

    def end(self) -> Tensor:
        """What is left of the clips, (B, m): nothing comes after it."""
        all_read = torch.tensor([self._read] * self.batch_size)
        self._lengths = all_read if self._lengths is None else self._lengths.minimum(all_read)
        left = self._read - self._written
        return self.process(torch.zeros(self.batch_size, self._mel.window + self._mel.hop))[
            :, :left
        ]

    def _of_clips(self, audio: Tensor, start: int) -> Tensor:
        """The samples (B, n) from `start` on, without what lies behind the ends of clips."""
        if self._lengths is None:
            return audio
        return audio.where(torch.arange(start, start + audio.shape[1]) < self._lengths[:, None], 0)

    def _matched(self, audio: Tensor, count: int) -> Tensor:
        """audio (B, ...) of `count` windows -> these, changed, (B, window, count)."""
        mel = self._mel
        made = spectrum(audio, self._window, mel.window, mel.hop)
        loud = made.abs().mT.matmul(self._bands).mT.clamp_min(mel.floor).log()
        short = (self._wanted(count) - loud).nan_to_num(0)
        gains = (RELAXATION * self._shares.matmul(short)).clamp(-LARGEST_GAIN, LARGEST_GAIN).exp()
        return torch.fft.irfft(made * gains, mel.window, dim=1) * self._window[:, None]

    def _wanted(self, count: int) -> Tensor:
        """The next frames (B, M, count); NaN for those outside their clips, of which none is known.

        None are asked for that come after the longest clip: they may never come.
        """
        number = self._next + torch.arange(count)
        inside = (number >= 0)[None]
        if self._lengths is not None:
            inside = inside & (number * self._mel.hop < self._lengths[:, None])
        known = int(inside.any(0).nonzero().max()) + 1 if inside.any() else 0
        if known == 0:
            return torch.full((1, 1, count), nan)
        frames = F.pad(self._frames(self._next, known).float().cpu(), (0, count - known))
        return frames.where(inside[:, None], nan)

    def _added(self, windows: Tensor) -> Tensor:
        """(B, window, count) -> their sum, each a hop behind the one before, (B, ...)."""
        mel, count = self._mel, windows.shape[2]
        length = mel.window + (count - 1) * mel.hop
        folded = F.fold(windows, (1, length), (1, mel.window), stride=(1, mel.hop))
        return folded[:, 0, 0]


def unmatchable(mel: Mel) -> str | None:
    """Why audio cannot be matched to such frames, and what to do; None: it can."""
    if mel.given:
        return (
            "match_mel: the mel frames of this model are another program's, and this library "
            "cannot measure audio on their scale. Leave match_mel out (--match-mel 0)."
        )
    if mel.window < 2 * mel.hop:
        return (
            f"match_mel needs mel windows that overlap by half at least, but this model's have "
            f"{mel.window} samples and a hop of {mel.hop}. Leave match_mel out (--match-mel 0)."
        )
    return None
