"""Owns free-running generation: prompt, labels, seeds, progress, choice of engine. Knows nothing of files or layers."""

import logging
import math
import random
import signal
from collections.abc import Container, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor

from wavenet.conditioning.durations import draw_lengths
from wavenet.conditioning.labels import NOT_TOLD, advanced, label_ids
from wavenet.engines import Engine, build_engine
from wavenet.model import WaveNet
from wavenet.outputs.sampling import Sampling

logger = logging.getLogger(__name__)

GUIDANCE = 0.5  # of a model that was trained to be guided, where nothing is said
AT_ONCE = 64  # clips of many: bounds the memory of their states
PREFILL_CHUNK = 8192  # prompt samples a forward pass; bounds the memory of the logits nobody reads


class Stream(Iterator[Tensor]):
    """Chunks of audio, as `stream` gives them. lengths: samples of each clip (batch_size,); None: they have no end."""

    def __init__(self, chunks: Iterator[Tensor], lengths: Tensor | None) -> None:
        self._chunks = chunks
        self.lengths = lengths

    def __next__(self) -> Tensor:
        return next(self._chunks)

    def cut(self, audio: Tensor, before: int = 0) -> list[Tensor]:
        """All chunks together, with `before` samples of a prompt, (batch_size, time) -> each clip (time,) up to its end."""
        if self.lengths is None:
            return list(audio)
        return [
            clip[: before + length]
            for clip, length in zip(audio, self.lengths.tolist(), strict=True)
        ]


def generate(
    model: WaveNet,
    *,
    seconds: float | Sequence[float] | None = None,
    num_samples: int | Sequence[int] | None = None,
    batch_size: int = 1,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    prompt: Tensor | None = None,
    mel: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float | None = None,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
    progress: bool = False,
) -> Tensor:
    """Audio drawn from the model, (batch_size, time) float32 in [-1, 1] at model.sample_rate, on the CPU.

    Args:
        seconds, num_samples: how much, one of the two; for all streams or one each, the shorter ones followed by silence.
            A model that knows its position in the clip plans for that length, and draws it from its corpus's lengths, by
            labels and seed, where neither is given. (math.inf: for `stream`, without end.)
        batch_size: streams; stream i draws from seed + i, so that it sounds the same in every batch.
        labels: {"digit": "7"} for all streams, {"digit": ["7", "8"]} one each. A label left out is drawn for each stream
            from its seed.
        prompt: (time,) or (batch_size, time) audio at the model's rate to go on from; it is not part of the result.
        temperature, top_k, top_p: see `wavenet.Sampling`.
        guidance: how far the labels are stressed over what the model expects without them, for a model that was trained for
            it (see `WaveNet`, unlabelled), at twice the work; 0: not at all; None: GUIDANCE for such a model, else 0.
        engine, precision: see `wavenet.engines.build_engine`.
        progress: a bar with samples/s and times real time, on stderr.

    Raises ValueError for anything out of range, unknown labels or engines, and logits that are not finite.
    """
    settings: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
    }
    settings |= {"engine": engine, "precision": precision}
    much = {"seconds": seconds, "num_samples": num_samples}
    clips, _ = _whole(
        model,
        batch_size=batch_size,
        labels=labels,
        prompt=prompt,
        mel=mel,
        seed=seed,
        progress=progress,
        **much,
        **settings,
    )
    return clips


def _whole(
    model: WaveNet, *, batch_size: int, progress: bool = False, **settings: Any
) -> tuple[Tensor, Stream]:
    """All of a stream (batch_size, time), and what it came from."""
    chunks = stream(model, batch_size=batch_size, **settings)
    if chunks.lengths is None:
        raise ValueError(
            "generate needs to know how much: give seconds or num_samples. (stream goes on without end.)"
        )
    made = with_progress(chunks, batch_size, model.sample_rate) if progress else chunks
    return torch.cat(list(made), dim=1), chunks


def stream(
    model: WaveNet,
    *,
    chunk_size: int = 1024,
    seconds: float | Sequence[float] | None = None,
    num_samples: int | Sequence[int] | None = None,
    batch_size: int = 1,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    prompt: Tensor | None = None,
    mel: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float | None = None,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
) -> Stream:
    """Chunks (batch_size, chunk_size) of the audio that `generate` gives, for ever or until seconds or num_samples.

    Arguments as for `generate`; memory does not grow with time. Raises at the call, not at the first chunk. A model that
    knows its position in the clip always comes to an end.
    """
    sampling = Sampling(temperature, top_k, top_p, guidance_for(model, guidance))
    if batch_size < 1 or chunk_size < 1:
        raise ValueError(
            f"batch_size and chunk_size must be at least 1, but got {batch_size} and {chunk_size}."
        )
    if mel is not None:
        raise ValueError("This model is not conditioned on mel spectrograms; leave mel out.")
    chosen = label_ids(model.labels, labels or {}, batch_size)
    chosen |= label_ids(model.labels, draw_labels(model, chosen, batch_size, seed), batch_size)
    lengths = _lengths(model, seconds, num_samples, chosen, batch_size, seed)
    before = None if prompt is None else _prompt_codes(model, prompt, batch_size)
    whole = lengths if lengths is None or before is None else lengths + before.shape[1]
    times = 2 if sampling.guidance else 1
    if sampling.guidance:
        logger.info("guidance: %g, two streams a clip", sampling.guidance)
    told = {
        name: torch.stack([ids, torch.full_like(ids, NOT_TOLD)][:times], dim=1).flatten()
        for name, ids in chosen.items()
    }
    built = build_engine(model, times * batch_size, told, engine=engine, precision=precision)
    runner = Runner(model, built, times, whole)
    if before is not None:
        runner.prime(before)
    return Stream(
        _chunks(model, runner, sampling, lengths, chunk_size, _generators(seed, batch_size)),
        lengths,
    )


class Runner:
    """An engine that is told where in its clips it is, frame by frame, where the model wants to know; and its streams, each
    `times` over: twice for guidance, where the second of each pair is not told its labels."""

    def __init__(self, model: WaveNet, engine: Engine, times: int, lengths: Tensor | None) -> None:
        """lengths (B,): of the whole clips, prompts and all; given for every model with a position_hop."""
        self._engine, self._times = engine, times
        self._hop = model.position_hop
        self._beginning = None if lengths is None else model.beginning(len(lengths), lengths)
        self._done = 0  # samples of each clip

    def prime(self, codes: Tensor) -> None:
        for piece in codes.split(PREFILL_CHUNK, dim=1):
            self._place()
            self._engine.prime(self._repeated(piece))
            self._done += piece.shape[1]

    def sample(self, uniforms: Tensor, sampling: Sampling) -> Tensor:
        """As the engine's, in pieces that end where frames end."""
        first = self._hop - self._done % self._hop if self._hop else uniforms.shape[1]
        codes = []
        for piece in (uniforms[:, :first], *uniforms[:, first:].split(self._hop or 1, dim=1)):
            if piece.shape[1]:
                self._place()
                codes.append(self._engine.sample(self._repeated(piece), sampling))
                self._done += piece.shape[1]
        return torch.cat(codes, dim=1)[:: self._times]

    def _repeated(self, rows: Tensor) -> Tensor:
        return rows.repeat_interleave(self._times, dim=0)

    def _place(self) -> None:
        position = advanced(self._beginning, self._done)
        if position is not None:
            self._engine.place(self._repeated(position))


def guidance_for(model: WaveNet, asked: float | None) -> float:
    """What `generate` does for this `guidance`. ValueError for a model that was not trained to be guided."""
    if model.unlabelled:
        return GUIDANCE if asked is None else asked
    if asked:
        raise ValueError(
            f"guidance={asked}: the model was not trained to be guided. Leave it out, or train one: --data.label_dropout 0.1."
        )
    return 0.0


def _chunks(
    model: WaveNet,
    runner: Runner,
    sampling: Sampling,
    lengths: Tensor | None,
    chunk_size: int,
    generators: Sequence[torch.Generator],
) -> Iterator[Tensor]:
    done, total = 0, None if lengths is None else int(lengths.max())
    while total is None or done < total:
        n = chunk_size if total is None else min(chunk_size, total - done)
        uniforms = torch.stack([torch.rand(n, generator=generator) for generator in generators])
        codes = runner.sample(uniforms, sampling).cpu()
        if lengths is not None:
            codes = codes.where(done + torch.arange(n) < lengths[:, None], model.codec.silence)
        yield model.codec.decode(codes)
        done += n


def _generators(seed: int, batch_size: int) -> list[torch.Generator]:
    """One a stream, on the CPU: neither the batch size nor the device changes what a seed sounds like."""
    return [torch.Generator().manual_seed(seed + index) for index in range(batch_size)]


def generate_each(
    model: WaveNet, choices: Sequence[Mapping[str, str]], *, seed: int = 0, **settings: Any
) -> Iterator[Tensor]:
    """One clip (time,) for each of the choices of labels, in order, AT_ONCE at a time; clip n is `generate` from seed + n.

    settings: of `generate`. Clips keep the lengths they were drawn with: no silence is added.
    """
    for start in range(0, len(choices), AT_ONCE):
        batch = choices[start : start + AT_ONCE]
        labels = {name: [choice[name] for choice in batch] for name in batch[0]}
        audio, chunks = _whole(
            model, batch_size=len(batch), labels=labels, seed=seed + start, **settings
        )
        yield from chunks.cut(audio)


def draw_labels(
    model: WaveNet, given: Container[str], batch_size: int, seed: int
) -> dict[str, list[str]]:
    """The labels that were left out, drawn for each stream from its own seed."""
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


def _prompt_codes(model: WaveNet, prompt: Tensor, batch_size: int) -> Tensor:
    clips = prompt.unsqueeze(0) if prompt.dim() == 1 else prompt
    if clips.dim() != 2 or len(clips) not in (1, batch_size) or clips.shape[1] == 0:
        raise ValueError(
            f"A prompt is audio of shape (time,) or ({batch_size}, time) with at least one sample, "
            f"but got {tuple(prompt.shape)}."
        )
    return model.codec.encode(clips.expand(batch_size, -1))


def _lengths(
    model: WaveNet,
    seconds: float | Sequence[float] | None,
    num_samples: int | Sequence[int] | None,
    labels: Mapping[str, Tensor],
    batch_size: int,
    seed: int,
) -> Tensor | None:
    """Samples of each clip (batch_size,): as given, or drawn for a model that plans for them; None: without end."""
    if seconds is not None and num_samples is not None:
        raise ValueError("Give seconds or num_samples, not both.")
    if num_samples is None and seconds in (None, math.inf):
        if seconds is not None and model.position_hop:
            raise ValueError(
                "This model plans its clips from beginning to end and cannot go on for ever: give a number of seconds."
            )
        if not model.position_hop:
            return None
        if model.clip_length is None:
            raise ValueError(
                "This model plans for the length of its clips, and does not know how long they are in its corpus: give "
                "seconds or num_samples."
            )
        return draw_lengths(model.clip_length, labels, batch_size, seed)
    rate, given = (model.sample_rate, seconds) if seconds is not None else (1, num_samples)
    values = list(given) if isinstance(given, Sequence) else [given] * batch_size
    if len(values) != batch_size:
        raise ValueError(
            f"There are {len(values)} lengths for a batch of {batch_size}: give one for all, or one each."
        )
    lengths = [round(value * rate) for value in values if value is not None]
    if min(lengths) < 1:
        raise ValueError(
            f"There must be at least one sample to generate, but got {seconds=}, {num_samples=}."
        )
    return torch.tensor(lengths)


def with_progress(chunks: Stream, batch_size: int, sample_rate: int) -> Iterator[Tensor]:
    """The same chunks, with a bar on stderr: samples/s over all streams, and times real time."""
    from tqdm import tqdm

    total = None if chunks.lengths is None else int(chunks.lengths.max()) * batch_size
    with tqdm(total=total, unit=" samples", unit_scale=True, desc="generating") as bar:
        for chunk in chunks:
            bar.update(chunk.numel())
            elapsed = bar.format_dict["elapsed"]
            if elapsed:
                bar.set_postfix_str(f"{bar.n / elapsed / sample_rate:.2f} x real time")
            yield chunk


class Interruptible:
    """The same chunks up to Ctrl-C: the chunk being made is finished and kept. A second Ctrl-C ends at once."""

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self.interrupted = False
        self._chunks = chunks

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def __iter__(self) -> Iterator[Tensor]:
        for chunk in self._chunks:
            yield chunk
            if self.interrupted:
                return

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
