"""Owns free-running generation: prompt, labels, lengths, seeds, guidance, choice of engine.

Knows nothing of files, layers or terminals.
"""

import inspect
import logging
import math
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wavenet.conditioning import (
    Condition,
    Given,
    Timeline,
    draw_lengths,
    label_ids,
    with_and_without,
)
from wavenet.engines import Engine, build_engine
from wavenet.model import WaveNet
from wavenet.outputs import Sampling, require_applicable

logger = logging.getLogger(__name__)

GUIDANCE = 0.5  # of a model that was trained to be guided, where nothing is said
AT_ONCE = 64  # clips of many: bounds the memory of their states
PREFILL_CHUNK = 8192  # prompt samples a forward pass; bounds the memory of params that nobody reads
Length = float | Sequence[float] | None  # for all clips, or one each


class Stream(Iterator[Tensor]):
    """Chunks of audio, as `stream` gives them.

    lengths: samples of each clip (batch_size,); None: they have no end.
    """

    def __init__(self, chunks: Iterator[Tensor], lengths: Tensor | None) -> None:
        self._chunks = chunks
        self.lengths = lengths

    def __next__(self) -> Tensor:
        return next(self._chunks)

    def cut(self, audio: Tensor, before: int = 0) -> list[Tensor]:
        """All chunks together, (batch_size, time) -> each clip (time,) up to its end.

        before: samples of a prompt that the audio begins with.
        """
        if self.lengths is None:
            return list(audio)
        ends = self.lengths.tolist()
        return [clip[: before + length] for clip, length in zip(audio, ends, strict=True)]


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
    mel: Tensor | None = None,
    condition: Condition | None = None,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
    **sampling: Any,
) -> Stream:
    """Chunks (batch_size, chunk_size) of audio drawn from the model, for ever or to a given length.

    Memory does not grow with time.

    Args:
        seconds, num_samples: how much, one of the two, for all clips or one each; neither, or
            math.inf seconds: for ever. A model that knows its position in the clip plans for that
            length and cannot go on for ever; where neither is given it draws its clips' lengths
            from those of its corpus, by labels and seed.
        batch_size: clips; clip i draws from seed + i, so that it sounds the same in every batch.
        labels: {"digit": "7"} for all clips, {"digit": ["7", "8"]} one each. A label that is left
            out is drawn for each clip from its seed.
        prompt: (time,) or (batch_size, time) audio at the model's rate to go on from; it is not
            part of the result.
        condition: of a model that is steered by other things than labels and position: its features
            (batch_size, D, frames), from the clips' first sample on, prompt included. It takes the
            place of labels and mel. With guidance, which is then off unless it is given, two rows
            for each clip, conditional and unconditional in turn.
        engine, precision: see `wavenet.engines.build_engine`.
        sampling: temperature, top_k, top_p, guidance; see `wavenet.Sampling`. guidance, for a model
            that was trained for it (see `Config`, unlabelled), doubles the work; None: GUIDANCE for
            such a model, 0 for others.

    Raises at the call, not at the first chunk: ValueError as `generate`, TypeError for an unknown
    name.
    """
    if condition is not None:
        _require_it_alone(condition, labels, mel)
        sampling = {"guidance": 0.0, **sampling}
    how = sampling_for(model, **sampling)
    if batch_size < 1 or chunk_size < 1:
        raise ValueError(
            f"batch_size and chunk_size must be at least 1, but got {batch_size} and {chunk_size}."
        )
    ids = {} if condition is not None else _label_ids(model, labels or {}, batch_size, seed)
    lengths = _lengths(model, seconds, num_samples, ids, batch_size, seed)
    before = None if prompt is None else _prompt_samples(model, prompt, batch_size)
    group = 2 if how.guidance else 1
    built = build_engine(model, batch_size, group=group, engine=engine, precision=precision)
    whole = lengths if lengths is None or before is None else lengths + before.shape[1]
    timeline = (
        Given(condition) if condition is not None else _timeline(model, ids, whole, mel, group)
    )
    run = Run(built, timeline, how, group)
    if before is not None:
        run.prime(before)
    uniforms = _uniforms(model, seed, batch_size)
    return Stream(_chunks(model, run, lengths, chunk_size, uniforms), lengths)


# help() and editors show what can be given.
_parameters = inspect.signature(stream).parameters
generate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [parameter for name, parameter in _parameters.items() if name != "chunk_size"],
    return_annotation=Tensor,
)


def _require_it_alone(condition: Condition, labels: Any, mel: Any) -> None:
    if labels or mel is not None:
        raise ValueError(
            "A condition of your own takes the place of labels and mel: give one or the other."
        )
    condition.require(1)


def sampling_for(model: WaveNet, guidance: float | None = None, **knobs: Any) -> Sampling:
    """How `generate` draws from this model.

    Raises ValueError where guidance is asked for and the model was not trained for it, or for what
    its output cannot be drawn by.
    """
    if guidance and not model.unlabelled:
        raise ValueError(
            f"guidance={guidance}: the model was not trained to be guided. Leave it out, or train "
            "one: --data.label_dropout 0.1."
        )
    default = GUIDANCE if model.unlabelled and model.output.categorical else 0.0
    how = Sampling(**knobs, guidance=default if guidance is None else guidance)
    require_applicable(model.output, how)
    return how


def seconds_of(model: WaveNet, asked: float | None, default: float) -> float | None:
    """Seconds of a clip: as asked; None for a model that draws its lengths; else the default."""
    return asked if asked is not None or model.draws_lengths else default


class Run:
    """An engine, what steers it, and how far it is: uniforms of clips in, samples of clips out."""

    def __init__(self, engine: Engine, timeline: Timeline, sampling: Sampling, group: int) -> None:
        self._engine, self._timeline = engine, timeline
        self._sampling, self._group = sampling, group
        self._done = 0  # samples of each clip

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
        start, self._done = self._done, self._done + samples
        return self._timeline.between(start, self._done)


@torch.no_grad()
def _timeline(
    model: WaveNet,
    ids: Mapping[str, Tensor],
    lengths: Tensor | None,
    mel: Tensor | None,
    group: int,
) -> Timeline:
    """What steers the clips; for guidance, each of them with its labels and without."""
    device = next(model.parameters()).device
    labels = {name: value.to(device) for name, value in ids.items()}
    if group == 2:
        labels = with_and_without(labels)
        lengths = None if lengths is None else lengths.repeat_interleave(2)
    return model.timeline(labels, lengths, mel)


def _chunks(
    model: WaveNet,
    run: Run,
    lengths: Tensor | None,
    chunk_size: int,
    uniforms: Callable[[int], Tensor],
) -> Iterator[Tensor]:
    done, total = 0, None if lengths is None else int(lengths.max())
    while total is None or done < total:
        n = chunk_size if total is None else min(chunk_size, total - done)
        samples = run.sample(uniforms(n))
        if lengths is not None:
            samples = samples.where(done + torch.arange(n) < lengths[:, None], model.output.silence)
        yield model.output.decode(samples)
        done += n


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
        logger.info("label %s drawn: %s", name, ", ".join(categories))
    return drawn


def _prompt_samples(model: WaveNet, prompt: Tensor, batch_size: int) -> Tensor:
    clips = prompt.unsqueeze(0) if prompt.dim() == 1 else prompt
    if clips.dim() != 2 or len(clips) not in (1, batch_size) or clips.shape[1] == 0:
        raise ValueError(
            f"A prompt is audio of shape (time,) or ({batch_size}, time) with at least one sample, "
            f"but got {tuple(prompt.shape)}."
        )
    return model.output.encode(clips.expand(batch_size, -1))


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
    if num_samples is None and seconds in (None, math.inf):
        return _lengths_not_given(model, seconds, labels, batch_size, seed)
    rate, given = (model.sample_rate, seconds) if seconds is not None else (1, num_samples)
    values = list(given) if isinstance(given, Sequence) else [given] * batch_size
    if len(values) != batch_size:
        raise ValueError(
            f"There are {len(values)} lengths for a batch of {batch_size}: give one for all, or "
            "one each."
        )
    lengths = [round(value * rate) for value in values if value is not None]
    if min(lengths) < 1:
        raise ValueError(
            f"There must be at least one sample to generate, but got {seconds=}, {num_samples=}."
        )
    return torch.tensor(lengths)


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
