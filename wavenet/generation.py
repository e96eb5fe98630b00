"""Owns free-running generation: prompt, labels, lengths, seeds, guidance, choice of engine.

Knows nothing of files, layers or terminals.
"""

import inspect
import itertools
import logging
import math
import numbers
import operator
import random
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from wavenet.conditioning import (
    Condition,
    Given,
    Mel,
    MelClips,
    MelFeed,
    MelPass,
    Timeline,
    draw_lengths,
    label_ids,
    matched,
    mel_frames,
    unmatchable,
    with_and_without,
)
from wavenet.engines import Engine, build_engine
from wavenet.machine import memory, size, threads_for
from wavenet.model import WaveNet
from wavenet.outputs import Sampling, require_applicable, require_scale

logger = logging.getLogger(__name__)

GUIDANCE = 0.5  # of a model that was trained to be guided, where nothing is said
AT_ONCE = 64  # clips of many: bounds the memory of their states
PREFILL_CHUNK = 8192  # prompt samples a forward pass; bounds the memory of params that nobody reads
LAST_SEED = 2**64 - 1
MOST_IN_CHUNK = 2**28  # samples of all clips: their uniforms take 1 GiB
MOST_AT_ONCE = 2**16  # clips of a batch: more take minutes before the first sample
LONGEST = 2**52  # samples of a clip: whole numbers that a float holds
MOST_PASSES = 1000
NAMED = 16  # drawn labels in a log line
BYTES_A_SAMPLE = 8  # of audio: its chunks, and all of them put together
BYTES_A_CLIP = 5000  # of its generator of uniforms
Guidance = float | Mapping[str, float] | None  # of all labels together, or of those named
Length = float | Sequence[float] | None  # for all clips, or one each
MelFrames = Tensor | Sequence[Tensor] | Iterator[Tensor]  # of clips, or as they come


class Stream(Iterator[Tensor]):
    """Chunks of audio, as `stream` gives them.

    lengths: samples of each clip (batch_size,); None: they have no end.
    labels: label name -> the category of each clip, given or drawn.
    """

    def __init__(
        self,
        chunks: Iterator[Tensor],
        lengths: Tensor | None,
        labels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._chunks = chunks
        self.lengths, self.labels = lengths, dict(labels or {})

    def __next__(self) -> Tensor:
        return next(self._chunks)

    def require_memory(self) -> None:
        """Raises ValueError where all chunks together are more than the machine's memory holds."""
        if self.lengths is None:
            return
        samples = len(self.lengths) * int(self.lengths.max())
        needed, there = samples * BYTES_A_SAMPLE, memory(torch.device("cpu"))
        if needed > there:
            raise ValueError(
                f"{samples:.3g} samples of audio need {size(needed)} of memory, and this machine "
                f"has {size(there)}. Ask for shorter or fewer clips, or take them as they are "
                "made: wavenet.stream, or --out - on the command line."
            )

    def cut(self, audio: Tensor, before: int = 0) -> list[Tensor]:
        """All chunks together, (batch_size, time) -> each clip (time,) up to its end.

        before: samples of a prompt that the audio begins with.
        """
        if self.lengths is None:
            return list(audio)
        return [clip[:end] for clip, end in zip(audio, self.ends(before), strict=True)]

    def ends(self, before: int = 0) -> list[int]:
        """Samples of each clip with `before` of a prompt. Not for clips without end."""
        assert self.lengths is not None
        return (before + self.lengths).tolist()


def generate(model: WaveNet, **settings: Any) -> Tensor:
    """Audio drawn from the model, (batch_size, time) float32 in [-1, 1], on the CPU.

    It has model.sample_rate. Arguments as for `stream`, but for chunk_size; seconds or num_samples
    must be given, unless the model draws the lengths of its clips itself. Shorter clips are
    followed by silence.

    Raises ValueError for anything out of range, unknown labels or engines, and params that are not
    finite.
    """
    return _whole(model, **settings)[0]


def _whole(
    model: WaveNet, watch: Callable[[Stream], Iterator[Tensor]] = iter, **settings: Any
) -> tuple[Tensor, Stream]:
    """All of a stream (batch_size, time), and what it came from.

    watch: the stream -> the same chunks; a progress bar, for instance.
    """
    chunks = stream(model, **settings)
    if chunks.lengths is None:
        raise ValueError(
            "generate needs to know how much: give seconds or num_samples. (stream goes on without "
            "end.)"
        )
    chunks.require_memory()
    return torch.cat(list(watch(chunks)), dim=1), chunks


def stream(
    model: WaveNet,
    *,
    chunk_size: int = 1024,
    seconds: Length = None,
    num_samples: int | Sequence[int] | None = None,
    batch_size: int = 1,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    prompt: Tensor | None = None,
    mel: MelFrames | None = None,
    condition: Condition | None = None,
    match_mel: int = 0,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
    **sampling: Any,
) -> Stream:
    """Chunks (batch_size, chunk_size) of audio drawn from the model, for ever or to a given length.

    Memory does not grow with time.

    Args:
        seconds: how much, for all clips or one each; neither this nor num_samples, or math.inf: for
            ever. A model that knows its position in the clip plans for that length and cannot go on
            for ever; where neither is given it draws its clips' lengths from those of its corpus,
            by labels and seed.
        num_samples: how much in samples, in the place of seconds.
        batch_size: clips; clip i draws from seed + i, so that it sounds the same in every batch.
        labels: {"digit": "7"} for all clips, {"digit": ["7", "8"]} one each. A label that is left
            out is drawn for each clip from its seed.
        prompt: (time,) or (batch_size, time) audio at the model's rate to go on from; it is not
            part of the result.
        mel: for a model with mel, log mel frames as model.mel.spectrogram makes them, from the
            clips' beginning on, prompt included: (bands, F) for all clips, (batch_size, bands, F),
            or a sequence of one (bands, F) each. They give the clips their lengths where nothing
            else does. An iterator gives frames (bands, n) or (batch_size, bands, n) as they come:
            each chunk is drawn as soon as the frames are there that it depends on.
        match_mel: passes over what was drawn, that bring the level of its bands to that of the mel
            frames; see `wavenet.conditioning.MelPass`. Each delays a stream by up to a mel window,
            and chunks have other sizes. A prompt is matched too, but not given back. 0: the audio
            as it is drawn.
        condition: of a model that is steered by other things than labels and position: its features
            (batch_size, D, frames), from the clips' first sample on, prompt included. It takes the
            place of labels and mel. With guidance, which is then off unless it is given, two rows
            for each clip, conditional and unconditional in turn.
        engine: its name; see `wavenet.engines.build_engine`.
        precision: of weights and activations; see there.
        sampling: temperature, top_k, top_p, guidance; see `wavenet.Sampling`. guidance, for a model
            that was trained for it (see `Config`, unlabelled), doubles the work; None: GUIDANCE for
            such a model, 0 for others. {"digit": 1.0} guides by the digit alone: away from what is
            predicted with the other labels and without it.

    Raises at the call, not at the first chunk: ValueError as `generate`, TypeError for an unknown
    name.
    """
    if condition is not None:
        _require_it_alone(condition, labels, mel, sampling.get("guidance"))
        sampling = {"guidance": 0.0, **sampling}
    how, guiding = sampling_for(model, **sampling), guiding_labels(model, sampling.get("guidance"))
    batch_size, chunk_size, seed = _checked(batch_size, chunk_size, seed)
    _require_memory(model, batch_size, 2 if how.guidance else 1)
    ids = {} if condition is not None else _label_ids(model, labels or {}, batch_size, seed)
    before = None if prompt is None else _prompt_samples(model, prompt, batch_size)
    primed = 0 if before is None else before.shape[1]
    passes = checked_passes(model, match_mel, mel)
    frames, *aims = [None] if condition is not None else _mel_frames(model, mel, batch_size, passes)
    asked = seconds is not None or num_samples is not None
    if frames is None or asked:
        lengths = _lengths(model, seconds, num_samples, ids, batch_size, seed)
    else:
        lengths = _lengths_of(model, frames, primed)
    if isinstance(frames, MelClips) and lengths is not None:
        frames.require(lengths + primed)
    group = 2 if how.guidance else 1
    built = build_engine(model, batch_size, group=group, engine=engine, precision=precision)
    whole = None if lengths is None else lengths + primed
    timeline = (
        Given(condition)
        if condition is not None
        else _timeline(model, ids, whole, frames, group, built.condition_dtype, guiding)
    )
    run = Run(built, timeline, how, group)
    if before is not None:
        run.prime(before)
    uniforms = _uniforms(model, seed, batch_size)
    feed = frames if isinstance(frames, MelFeed) else None
    named = {name: [model.labels[name][i] for i in each.tolist()] for name, each in ids.items()}
    heard = None if before is None else model.decode(before.cpu())
    last = None if heard is None else heard[:, -1:]
    chunks = _chunks(model, run, lengths, chunk_size, uniforms, feed, batch_size * group, last)
    if passes:
        opening = [] if heard is None else [heard]
        rate, mel_settings = model.sample_rate, cast(Mel, model.mel)
        chain = [MelPass(mel_settings, aim, rate, batch_size, whole) for aim in aims if aim]
        chunks = matched(itertools.chain(opening, chunks), chain, skip=primed)
    return Stream(chunks, lengths, named)


# help() and editors show what can be given.
_parameters = inspect.signature(stream).parameters
generate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [parameter for name, parameter in _parameters.items() if name != "chunk_size"],
    return_annotation=Tensor,
)


def _checked(batch_size: int, chunk_size: int, seed: int) -> tuple[int, int, int]:
    """The same as plain integers. Raises ValueError for one out of range."""
    sizes = {"batch_size": batch_size, "chunk_size": chunk_size}
    whole = {name: whole_number(name, value) for name, value in sizes.items()}
    if min(whole.values()) < 1:
        raise ValueError(
            f"batch_size and chunk_size must be at least 1, but got {batch_size} and {chunk_size}."
        )
    if batch_size > MOST_AT_ONCE:
        raise ValueError(
            f"batch_size is at most {MOST_AT_ONCE}, but got {batch_size}. Draw more in several "
            f"calls: clip i is drawn from seed + i, so go on from seed={seed + MOST_AT_ONCE}."
        )
    if whole["batch_size"] * whole["chunk_size"] > MOST_IN_CHUNK:
        raise ValueError(
            f"A chunk of {chunk_size} samples of {batch_size} clips is more than the "
            f"{MOST_IN_CHUNK} samples that are drawn at once: give a smaller chunk_size."
        )
    return whole["batch_size"], whole["chunk_size"], checked_seed(seed, whole["batch_size"])


def checked_seed(seed: int, clips: int = 1) -> int:
    """The seed as a plain integer. Raises ValueError where that of a clip is out of range."""
    first = whole_number("seed", seed)
    if not 0 <= first <= LAST_SEED - (clips - 1):
        raise ValueError(
            f"seed must be from 0 to {LAST_SEED - (clips - 1)}, as clip i of {clips} is drawn from "
            f"seed + i, but got {seed}."
        )
    return first


def whole_number(name: str, value: Any) -> int:
    """The value as a plain integer, also of numpy and torch. Raises ValueError for another type."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"{name} must be a whole number, but got {value!r}.")


def _require_memory(model: WaveNet, batch_size: int, group: int) -> None:
    """Raises ValueError where the state of so many clips does not fit the device's memory."""
    each = group * _bytes_of(model.init_state(1)) + BYTES_A_CLIP
    there = memory(next(model.parameters()).device)
    if batch_size * each > there:
        raise ValueError(
            f"batch_size={batch_size} clips at once need {size(batch_size * each)} of memory for "
            f"the model's state, and there are {size(there)}. Draw at most {int(there // each)} at "
            "once."
        )


def _bytes_of(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.nbytes
    return sum(map(_bytes_of, state))


def _require_it_alone(condition: Condition, labels: Any, mel: Any, guidance: Any) -> None:
    if labels or mel is not None or isinstance(guidance, Mapping):
        raise ValueError(
            "A condition of your own takes the place of labels, which may also guide, and of mel: "
            "give one or the other."
        )
    if not isinstance(condition, Condition):
        raise ValueError(f"A condition is a wavenet.Condition, but got {condition!r}.")
    condition.require(1)


def sampling_for(model: WaveNet, guidance: Guidance = None, **knobs: Any) -> Sampling:
    """How `generate` draws from this model.

    Raises ValueError where guidance is asked for and the model was not trained for it, or for what
    its output cannot be drawn by.
    """
    if isinstance(guidance, Mapping):
        guidance = _one_strength(guidance)
    if guidance and not model.unlabelled:
        raise ValueError(
            f"guidance={guidance}: the model was not trained to be guided. Leave it out, or train "
            "one: --data.label_dropout 0.1."
        )
    default = GUIDANCE if model.unlabelled and model.output.categorical else 0.0
    how = Sampling(**knobs, guidance=default if guidance is None else guidance)
    require_applicable(model.output, how)
    return how


def _one_strength(guidance: Mapping[str, float]) -> float:
    """Of the labels that guide. Raises ValueError for several."""
    strengths = list(guidance.values())
    if not strengths or any(strength != strengths[0] for strength in strengths):
        given = ", ".join(f"{name}={value}" for name, value in guidance.items()) or "none"
        raise ValueError(
            f"Labels guide with one strength for all that are named, but got {given}: engines draw "
            "from two streams a clip, one with all labels and one without those that guide, and "
            "each further strength would need a stream of its own. Give one strength, or leave out "
            "the labels that should not guide."
        )
    return strengths[0]


def guiding_labels(model: WaveNet, guidance: Guidance) -> list[str] | None:
    """The labels that guide by their absence; None: all of them.

    Raises ValueError for one that the model does not have.
    """
    if not isinstance(guidance, Mapping):
        return None
    if unknown := [name for name in guidance if name not in model.labels]:
        known = ", ".join(model.labels) or "none"
        raise ValueError(
            f"The model has no label {unknown[0]!r} to be guided by. Its labels are: {known}."
        )
    return list(guidance)


def seconds_of(model: WaveNet, asked: float | None, default: float) -> float | None:
    """Seconds of a clip: as asked; None where the model or mel frames say; else the default."""
    says_itself = model.draws_lengths or model.mel is not None
    return asked if asked is not None or says_itself else default


class Run:
    """An engine, what steers it, and how far it is: uniforms of clips in, samples of clips out."""

    def __init__(self, engine: Engine, timeline: Timeline, sampling: Sampling, group: int) -> None:
        self._engine, self._timeline = engine, timeline
        self._sampling, self._group = sampling, group
        self.done = 0  # samples of each clip, its prompt's too

    def prime(self, samples: Tensor) -> None:
        """samples (B, n): of the clips' beginning."""
        for piece in samples.split(PREFILL_CHUNK, dim=1):
            streams = piece.repeat_interleave(self._group, dim=0)
            self._engine.prime(streams, self._next(piece.shape[1]))

    def sample(self, uniforms: Tensor) -> Tensor:
        """uniforms (B, n, U) -> the next samples (B, n), on the CPU."""
        condition = self._next(uniforms.shape[1])
        return self._engine.sample(uniforms, self._sampling, condition).cpu()

    @torch.no_grad()
    def _next(self, samples: int) -> Condition | None:
        start, self.done = self.done, self.done + samples
        return self._timeline.between(start, self.done)


@torch.no_grad()
def _timeline(
    model: WaveNet,
    ids: Mapping[str, Tensor],
    lengths: Tensor | None,
    mel: MelClips | MelFeed | None,
    group: int,
    dtype: torch.dtype,
    guiding: Collection[str] | None,
) -> Timeline:
    """What steers the clips; for guidance, each of them with its labels and without `guiding`."""
    device = next(model.parameters()).device
    labels = {name: value.to(device) for name, value in ids.items()}
    if group == 2:
        labels = with_and_without(labels, guiding)
        lengths = None if lengths is None else lengths.repeat_interleave(2)
    frames = None
    if mel is not None:

        def frames(first: int, count: int) -> Tensor:
            return mel(first, count).repeat_interleave(group, dim=0)

    return model.timeline(labels, lengths, frames, dtype)


def _chunks(
    model: WaveNet,
    run: Run,
    lengths: Tensor | None,
    chunk_size: int,
    uniforms: Callable[[int], Tensor],
    feed: MelFeed | None,
    streams: int,
    last: Tensor | None,
) -> Iterator[Tensor]:
    """last (B, 1): the audio that a prompt ends with."""
    done, total = 0, None if lengths is None else int(lengths.max())
    silence = model.silent_audio
    while total is None or done < total:
        n = chunk_size if total is None else min(chunk_size, total - done)
        n = n if feed is None else feed.reach(run.done, n)
        if n == 0:
            break
        with threads_for(streams):
            audio = model.decode(run.sample(uniforms(n)), last)
        last = audio[:, -1:]
        if lengths is not None:
            audio = audio.where(done + torch.arange(n) < lengths[:, None], silence)
        yield audio.clamp(-1, 1)
        done += n
    if total is not None and done < total:
        raise ValueError(
            f"The mel frames ended after {done} samples, but {total} were asked for: give more "
            "frames, or ask for less."
        )


def _uniforms(model: WaveNet, seed: int, batch_size: int) -> Callable[[int], Tensor]:
    """n -> the next uniforms (B, n, U), of one generator a clip.

    On the CPU: neither the batch size nor the device changes what a seed sounds like.
    """
    generators = [torch.Generator().manual_seed(seed + index) for index in range(batch_size)]
    each = model.output.uniforms
    return lambda n: torch.stack([torch.rand(n, each, generator=x) for x in generators])


def generate_each(
    model: WaveNet, choices: Sequence[Mapping[str, str]], *, seed: int = 0, **settings: Any
) -> Iterator[Tensor]:
    """One clip (time,) for each of the choices of labels, in order, AT_ONCE at a time.

    Clip n is `generate` from seed + n. settings: of `generate`, and `watch`, which is given each
    stream and hands on its chunks. Clips keep the lengths they were drawn with, without silence.
    """
    checked_seed(seed, max(1, len(choices)))
    for start in range(0, len(choices), AT_ONCE):
        batch = choices[start : start + AT_ONCE]
        labels = {name: [choice[name] for choice in batch] for name in batch[0]}
        how: dict[str, Any] = {"batch_size": len(batch), "labels": labels, "seed": seed + start}
        audio, chunks = _whole(model, **how, **settings)
        yield from chunks.cut(audio)


def _label_ids(
    model: WaveNet, labels: Mapping[str, str | Sequence[str]], batch_size: int, seed: int
) -> dict[str, Tensor]:
    """name -> (batch_size,): the given ones, and the others drawn."""
    ids = label_ids(model.labels, labels, batch_size)
    return ids | label_ids(model.labels, draw_labels(model, ids, batch_size, seed), batch_size)


def draw_labels(
    model: WaveNet, given: Container[str], batch_size: int, seed: int
) -> dict[str, list[str]]:
    """The labels that were left out, drawn for each clip from its own seed."""
    drawn = {
        name: [
            random.Random(f"{name} {seed + index}").choice(categories)
            for index in range(batch_size)
        ]
        for name, categories in model.labels.items()
        if name not in given
    }
    for name, categories in drawn.items():
        more = ", ..." if len(categories) > NAMED else ""
        logger.info("label %s drawn: %s%s", name, ", ".join(categories[:NAMED]), more)
    return drawn


def _prompt_samples(model: WaveNet, prompt: Tensor, batch_size: int) -> Tensor:
    if not isinstance(prompt, Tensor):
        raise ValueError(f"A prompt is a tensor of audio, but got a {type(prompt).__name__}.")
    clips = prompt.unsqueeze(0) if prompt.dim() == 1 else prompt
    if clips.dim() != 2 or len(clips) not in (1, batch_size) or clips.shape[1] == 0:
        raise ValueError(
            f"A prompt is audio of shape (time,) or ({batch_size}, time) with at least one sample, "
            f"but got {tuple(prompt.shape)}."
        )
    require_scale(clips, "A prompt")
    if clips.shape[1] > PREFILL_CHUNK:
        logger.info("reading the prompt first: %d samples", clips.shape[1])
    return model.encode(clips.expand(batch_size, -1))


def _lengths(
    model: WaveNet,
    seconds: Length,
    num_samples: int | Sequence[int] | None,
    labels: Mapping[str, Tensor],
    batch_size: int,
    seed: int,
) -> Tensor | None:
    """Samples of each clip (batch_size,): as given or drawn; None: without end."""
    if seconds is not None and num_samples is not None:
        raise ValueError("Give seconds or num_samples, not both.")
    seconds, num_samples = _plain(seconds), _plain(num_samples)
    if num_samples is None and seconds in (None, math.inf):
        return _lengths_not_given(model, seconds, labels, batch_size, seed)
    if num_samples is not None:
        lengths = [whole_number("num_samples", value) for value in _each(num_samples, batch_size)]
    else:
        lengths = [_in_samples(value, model.sample_rate) for value in _each(seconds, batch_size)]
    if min(lengths) < 1 or max(lengths) > LONGEST:
        raise ValueError(
            f"There must be at least one sample to generate, and at most {LONGEST}, but got "
            f"{seconds=}, {num_samples=}."
        )
    return torch.tensor(lengths)


def _plain(value: Any) -> Any:
    """Numbers and lists, of tensors and arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


def _each(given: Any, batch_size: int) -> list[Any]:
    """One value for each clip. Raises ValueError for another number of them."""
    values = list(given) if isinstance(given, Sequence) else [given] * batch_size
    if len(values) != batch_size:
        raise ValueError(
            f"There are {len(values)} lengths for a batch of {batch_size}: give one for all, or "
            "one each."
        )
    return values


def _in_samples(seconds: Any, rate: int) -> int:
    is_number = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
    if not is_number or not math.isfinite(seconds):
        raise ValueError(
            f"seconds must be a number for each clip, or infinity for all of them, but got "
            f"{seconds!r}."
        )
    return round(min(seconds * rate, LONGEST + 1.0))  # 1e308 seconds are infinitely many samples


def _lengths_of(model: WaveNet, frames: MelClips | MelFeed, primed: int) -> Tensor | None:
    """Samples that the mel frames have beyond a prompt's; None: not known, as they are to come."""
    assert model.mel is not None
    if isinstance(frames, MelFeed):
        if model.position_hop:
            raise ValueError(
                "This model plans its clips from beginning to end, and a stream of mel frames does "
                "not say how long it is: give seconds or num_samples."
            )
        return None
    lengths = frames.counts * model.mel.hop - primed
    if lengths.min() < 1:
        raise ValueError(
            f"The mel spectrogram has {int(frames.counts.min()) * model.mel.hop} samples, no more "
            f"than the prompt, {primed}. It must begin with the prompt and go on."
        )
    return lengths


def checked_passes(model: WaveNet, passes: int, mel: MelFrames | None) -> int:
    """match_mel as a plain integer. Raises ValueError where there is nothing to match."""
    number = whole_number("match_mel", passes)
    if not 0 <= number <= MOST_PASSES:
        raise ValueError(f"match_mel must be from 0 to {MOST_PASSES} passes, but got {passes}.")
    if number and mel is None:
        raise ValueError(
            f"match_mel={passes} brings audio nearer to mel frames, and none are given: give mel "
            "to a model that has it, or leave match_mel out."
        )
    if number and model.mel is not None and (reason := unmatchable(model.mel)):
        raise ValueError(reason)
    return number


def _mel_frames(
    model: WaveNet, mel: MelFrames | None, batch_size: int, passes: int
) -> list[MelClips | MelFeed | None]:
    """For the model and for each pass, which ask at times of their own."""
    model.require_mel(mel)
    if model.mel is None or mel is None:
        return [None]
    if isinstance(mel, Iterator):
        return [MelFeed(model.mel, each, batch_size) for each in itertools.tee(mel, 1 + passes)]
    return [mel_frames(model.mel, mel, batch_size)] * (1 + passes)


def _lengths_not_given(
    model: WaveNet, seconds: Length, labels: Mapping[str, Tensor], batch_size: int, seed: int
) -> Tensor | None:
    if not model.position_hop:
        return None
    if seconds is not None:
        raise ValueError(
            "This model plans its clips from beginning to end and cannot go on for ever: give a "
            "number of seconds."
        )
    if model.clip_length is None:
        raise ValueError(
            "This model plans for the length of its clips, and does not know how long they are in "
            "its corpus: give seconds or num_samples."
        )
    return draw_lengths(model.clip_length, labels, batch_size, seed)
