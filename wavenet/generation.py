"""Owns free-running generation: prompt, labels, seeds, progress, choice of engine. Knows nothing of files or layers."""

import logging
import random
import signal
from collections.abc import Container, Iterator, Mapping, Sequence
from types import FrameType
from typing import Self

import torch
from torch import Tensor

from wavenet.conditioning import label_ids
from wavenet.distributions import Sampling
from wavenet.engines import Engine, build_engine
from wavenet.model import WaveNet

logger = logging.getLogger(__name__)

PREFILL_CHUNK = 8192  # prompt samples a forward pass; bounds the memory of the logits nobody reads


def generate(
    model: WaveNet,
    *,
    seconds: float | None = None,
    num_samples: int | None = None,
    batch_size: int = 1,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    prompt: Tensor | None = None,
    mel: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
    progress: bool = False,
) -> Tensor:
    """Audio drawn from the model, (batch_size, time) float32 in [-1, 1] at model.sample_rate, on the CPU.

    Args:
        seconds, num_samples: how much, one of the two.
        batch_size: streams; stream i draws from seed + i, so that it sounds the same in every batch.
        labels: {"digit": "7"} for all streams, {"digit": ["7", "8"]} one each. A label left out is drawn for each stream
            from its seed.
        prompt: (time,) or (batch_size, time) audio at the model's rate to go on from; it is not part of the result.
        temperature, top_k, top_p: see `wavenet.Sampling`.
        engine, precision: see `wavenet.engines.build_engine`.
        progress: a bar with samples/s and times real time, on stderr.

    Raises ValueError for anything out of range, unknown labels or engines, and logits that are not finite.
    """
    total = _length(model, seconds, num_samples)
    if total is None:
        raise ValueError("generate needs to know how much: give seconds or num_samples. (stream goes on without end.)")
    chunks = stream(
        model,
        num_samples=total,
        chunk_size=min(total, 1024),
        batch_size=batch_size,
        labels=labels,
        prompt=prompt,
        mel=mel,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        engine=engine,
        precision=precision,
    )
    return torch.cat(list(with_progress(chunks, total, batch_size, model.sample_rate) if progress else chunks), dim=1)


def stream(
    model: WaveNet,
    *,
    chunk_size: int = 1024,
    seconds: float | None = None,
    num_samples: int | None = None,
    batch_size: int = 1,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    prompt: Tensor | None = None,
    mel: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "float32",
) -> Iterator[Tensor]:
    """Chunks (batch_size, chunk_size) of the audio that `generate` gives, for ever or until seconds or num_samples.

    Arguments as for `generate`; memory does not grow with time. Raises at the call, not at the first chunk.
    """
    total = _length(model, seconds, num_samples)
    sampling = Sampling(temperature, top_k, top_p)
    if batch_size < 1 or chunk_size < 1:
        raise ValueError(f"batch_size and chunk_size must be at least 1, but got {batch_size} and {chunk_size}.")
    if mel is not None:
        raise ValueError("This model is not conditioned on mel spectrograms; leave mel out.")
    chosen = label_ids(model.labels, labels or {}, batch_size)
    chosen |= label_ids(model.labels, draw_labels(model, chosen, batch_size, seed), batch_size)
    runner = build_engine(model, batch_size, chosen, engine=engine, precision=precision)
    if prompt is not None:
        _prefill(runner, _prompt_codes(model, prompt, batch_size))
    return _chunks(model, runner, sampling, total, chunk_size, _generators(seed, batch_size))


def _chunks(
    model: WaveNet,
    engine: Engine,
    sampling: Sampling,
    total: int | None,
    chunk_size: int,
    generators: Sequence[torch.Generator],
) -> Iterator[Tensor]:
    done = 0
    while total is None or done < total:
        n = chunk_size if total is None else min(chunk_size, total - done)
        uniforms = torch.stack([torch.rand(n, generator=generator) for generator in generators])
        yield model.codec.decode(engine.sample(uniforms, sampling)).cpu()
        done += n


def _generators(seed: int, batch_size: int) -> list[torch.Generator]:
    """One a stream, on the CPU: neither the batch size nor the device changes what a seed sounds like."""
    return [torch.Generator().manual_seed(seed + index) for index in range(batch_size)]


def draw_labels(model: WaveNet, given: Container[str], batch_size: int, seed: int) -> dict[str, list[str]]:
    """The labels that were left out, drawn for each stream from its own seed."""
    drawn = {
        name: [random.Random(f"{name} {seed + index}").choice(categories) for index in range(batch_size)]
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


def _prefill(engine: Engine, codes: Tensor) -> None:
    for chunk in codes.split(PREFILL_CHUNK, dim=1):
        engine.prime(chunk)


def _length(model: WaveNet, seconds: float | None, num_samples: int | None) -> int | None:
    if seconds is not None and num_samples is not None:
        raise ValueError("Give seconds or num_samples, not both.")
    if seconds is None and num_samples is None:
        return None
    total = round(seconds * model.sample_rate) if seconds is not None else num_samples
    assert total is not None
    if total < 1:
        raise ValueError(f"There must be at least one sample to generate, but got {seconds=}, {num_samples=}.")
    return total


def with_progress(chunks: Iterator[Tensor], total: int | None, batch_size: int, sample_rate: int) -> Iterator[Tensor]:
    """The same chunks, with a bar on stderr: samples/s over all streams, and times real time. total None: no end."""
    from tqdm import tqdm

    with tqdm(total=total and total * batch_size, unit=" samples", unit_scale=True, desc="generating") as bar:
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
