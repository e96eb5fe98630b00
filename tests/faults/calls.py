"""Owns the calls of the library's public functions with awkward arguments, and their oracles.

A case is {"call": name, "args": plain values}; see `strategies.api`. What a call lacks is filled in
with something that works. Knows nothing of processes.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

import wavenet
from faults.outcomes import OtherType, Wrong
from faults.stock import stock
from faults.values import value_of
from wavenet.audio import pcm16, resample, save_audio
from wavenet.generation import MOST_IN_CHUNK

TONE = torch.linspace(-0.5, 0.5, 64)
MOST_DRAWN = 4096  # samples of a chunk
Given = dict[str, Any]


def call(case: dict[str, Any]) -> None:
    """Python's own TypeError will do for what has another type than is asked for."""
    try:
        CALLS[case["call"]]({name: value_of(plain) for name, plain in case["args"].items()})
    except TypeError as error:
        if any(map(_is_of_another_type, case["args"].values())):
            raise OtherType(str(error)) from error
        raise


def _is_of_another_type(plain: Any) -> bool:
    """Whether a value may be: not a whole number, a text, or a tensor of the usual types."""
    if isinstance(plain, dict):
        usual = plain.get("dtype") in ("float32", "int64")
        return not usual if "tensor" in plain else any(map(_is_of_another_type, plain.values()))
    if isinstance(plain, list):
        return any(map(_is_of_another_type, plain))
    return plain is None or isinstance(plain, bool | float)


def _require(right: Any, what: str, seen: object = "") -> None:
    if not right:
        raise Wrong(what, seen)


def _require_audio(audio: Tensor, batch: int, what: str) -> None:
    _require(audio.dim() == 2 and len(audio) == batch, f"{what}: shape", tuple(audio.shape))
    _require(audio.dtype == torch.float32, f"{what}: dtype", audio.dtype)
    _require(bool(torch.isfinite(audio).all()), f"{what}: not finite")
    _require(bool((audio.abs() <= 1).all()), f"{what}: beyond [-1, 1]")


def _expected_length(given: Given, rate: int) -> int | None:
    """Of a whole call: the longest of the clips."""
    many = given.get("num_samples", given.get("seconds"))
    if given.get("num_samples") is None and given.get("seconds") is not None:
        values = many if isinstance(many, list) else [many]
        return max(round(value * rate) for value in values)
    return max(many) if isinstance(many, list) else many


def _with_length(given: Given) -> Given:
    return given if {"seconds", "num_samples"} & set(given) else {"num_samples": 8, **given}


def _generate(given: Given) -> None:
    model, given = stock().model(), _with_length(given)
    audio = wavenet.generate(model, **given)
    _require_audio(audio, given.get("batch_size", 1), "generate")
    expected = _expected_length(given, model.sample_rate)
    _require(audio.shape[1] == expected, "generate: length", (tuple(audio.shape), expected))


def _stream(given: Given) -> None:
    asked = given.get("chunk_size")
    if type(asked) is int and MOST_DRAWN < asked <= MOST_IN_CHUNK:
        given["chunk_size"] = MOST_DRAWN  # as slow as was asked for
    chunks = wavenet.stream(stock().model(), **given)
    size = given.get("chunk_size", 1024)
    for chunk in itertools.islice(chunks, 1 if size > 64 else 3):
        _require_audio(chunk, given.get("batch_size", 1), "stream")
        _require(chunk.shape[1] <= size, "stream: longer than chunk_size")


def _conditioned(given: Given) -> None:
    names = ("features", "hop", "offset")
    condition = wavenet.Condition(
        **{"features": torch.zeros(1, 4, 8), **{x: given.pop(x) for x in names if x in given}}
    )
    audio = wavenet.generate(stock().model(), condition=condition, **{"num_samples": 4, **given})
    _require_audio(audio, given.get("batch_size", 1), "generate with condition")


def _bits(given: Given) -> None:
    audio = given.setdefault("audio", TONE)
    chunk = given.get("chunk_size")
    if type(chunk) is int and chunk > 0 and torch.is_tensor(audio) and audio.dim():
        # Each chunk is a call of the model: very many are slow, as was asked for.
        audio = given["audio"] = audio[..., : 200 * chunk]
    given.setdefault("labels", {"digit": "0", "speaker": "a"})
    bits = wavenet.bits_per_sample(stock().model(), **given)
    _require(isinstance(bits, float) and math.isfinite(bits), "bits_per_sample: not finite", bits)
    _require(bits >= 0, "bits_per_sample: below 0", bits)
    lengths = given.get("lengths")
    if isinstance(lengths, list):
        _require(
            all(isinstance(x, int) and 1 <= x <= audio.shape[-1] for x in lengths),
            "bits_per_sample: takes lengths that are not whole numbers of samples",
            lengths,
        )


def _nats(given: Given) -> None:
    codes = given.setdefault("codes", torch.full((2, 30), 128))
    clips = codes.shape[0] if codes.dim() else 1
    ids = {name: torch.zeros(clips, dtype=torch.long) for name in ("digit", "speaker")}
    nats = wavenet.nats_per_sample(stock().model(), labels=ids, **given)
    _require(nats.shape == codes.shape, "nats_per_sample: shape")
    _require(bool(torch.isfinite(nats).all()), "nats_per_sample: not finite")


def _label_ids(given: Given) -> None:
    names = given.get("names") or {"digit": ["0", "1", "2"], "speaker": ["a", "b"]}
    choice, size = given.get("choice") or {}, given.get("batch_size", 2)
    ids = wavenet.label_ids(names, choice, size)
    for name, value in ids.items():
        _require(value.shape == (size,), "label_ids: shape", tuple(value.shape))
        chosen = choice[name]
        wanted = [chosen] * size if isinstance(chosen, str | int) else chosen
        _require([names[name][int(i)] for i in value] == list(map(str, wanted)), "label_ids: other")


def _config(given: Given) -> None:
    small = {"cycles": 1, "layers_per_cycle": 2, "residual_channels": 4, "skip_channels": 4}
    wide = [value for value in given.values() if isinstance(value, int) and value > 10**5]
    settings = {**small, "gate_channels": 4, **given}
    config = wavenet.Config(**settings)
    for name, value in given.items():
        if value is not None and name not in ("labels",):
            _require(getattr(config, name) == value, "Config: changes a value", name)
    if wide:  # what is honestly large may fail for memory, not otherwise
        return
    model = wavenet.WaveNet(**settings)
    labels = {name: values[0] for name, values in model.labels.items()}
    audio = wavenet.generate(model, num_samples=3, engine="step", labels=labels)
    _require_audio(audio, 1, "generate")


def _mulaw_encode(given: Given) -> None:
    audio = given.get("audio", TONE)
    codes = wavenet.MuLaw().encode(audio)
    _require(codes.shape == audio.shape, "MuLaw.encode: shape")
    _require(not codes.numel() or 0 <= codes.min() <= codes.max() <= 255, "MuLaw.encode: range")
    back = wavenet.MuLaw().decode(codes)
    near = (back - audio.double().clamp(-1, 1)).abs().max() < 0.03 if codes.numel() else True
    _require(near, "MuLaw: decode(encode(audio)) is far from audio")


def _mulaw_decode(given: Given) -> None:
    audio = wavenet.MuLaw().decode(given.get("codes", torch.arange(256)))
    _require(not audio.numel() or audio.abs().max() <= 1, "MuLaw.decode: beyond [-1, 1]")


def _mulaw(given: Given) -> None:
    output = wavenet.MuLaw(**given)
    _require(0 < output.silence < output.classes, "MuLaw: silence", output)


def _forward(given: Given) -> None:
    samples = given.get("samples", torch.full((2, 9), 128))
    ids = given.get("labels")
    labels = {"digit": ids, "speaker": ids}
    if ids is None:
        labels = {name: torch.zeros(2, dtype=torch.long) for name in ("digit", "speaker")}
    params = stock().model()(samples, labels=labels)
    _require(params.shape == (len(samples), 256, samples.shape[1]), "WaveNet.forward: shape")


def _convolution(given: Given) -> None:
    x = given.pop("x", torch.zeros(1, 4, 9))
    sizes = (given.pop("channels", 4), given.pop("out_channels", 4), given.pop("kernel_size", 2))
    layer = wavenet.CausalConv1d(*sizes, **given)
    _require(layer(x).shape[-1] == x.shape[-1], "CausalConv1d: length")
    if len(x) and x.shape[-1] > 1:
        first, state = layer.step(x[..., :1], layer.init_state(len(x)))
        rest, _ = layer.step(x[..., 1:], state)
        whole = torch.cat([first, rest], -1)
        near = torch.allclose(whole, layer(x), atol=1e-5, equal_nan=True)
        _require(near or not torch.isfinite(x).all() or x.abs().max() > 1e20, "CausalConv1d: step")


def _centred(given: Given) -> None:
    x = given.pop("x", torch.zeros(1, 4, 9))
    channels = given.pop("channels", 4)
    layer = wavenet.CentredConv1d(channels, channels, given.pop("kernel_size", 3))
    _require(layer(x).shape[-1] == x.shape[-1], "CentredConv1d: length")


def _gated(given: Given) -> None:
    wavenet.Gated()(given.get("x", torch.zeros(1, 4, 9)))


def _built(kind: Callable[..., Any], **needed: Any) -> Callable[[Given], None]:
    def build(given: Given) -> None:
        renamed = {BUILT.get(name, name): value for name, value in given.items()}
        made = kind(**{**needed, **renamed})
        _require(isinstance(made, nn.Module | tuple | list | object), "nothing was built")

    return build


BUILT = {"gate": "gate_channels", "condition": "condition_channels"}
BLOCK = {"residual_channels": 4, "gate_channels": 4, "skip_channels": 4}


def _residual(given: Given) -> None:
    wavenet.Residual(given.get("gate", 4), given.get("channels", 4), given.get("scale", 1.0))


def _stack(given: Given) -> None:
    dilations = wavenet.dilation_cycles(given.pop("cycles", 1), given.pop("layers_per_cycle", 2))
    wavenet.ResidualStack(dilations, **{**BLOCK, **given})


def _cycles(given: Given) -> None:
    found = wavenet.dilation_cycles(**{"cycles": 1, "layers_per_cycle": 2, **given})
    _require(all(dilation >= 1 for dilation in found), "dilation_cycles: below 1")


def _save_audio(given: Given) -> None:
    audio, rate = given.get("audio", TONE), given.get("sample_rate", 8000)
    save_audio("o.wav", audio, rate)
    found, found_rate = soundfile.read("o.wav", dtype="int16")
    _require(found_rate == rate, "save_audio: another rate", (rate, found_rate))
    wanted = (audio.double() * 32768).round().clamp(-32768, 32767)
    _require(torch.equal(torch.from_numpy(found).double(), wanted), "save_audio: other samples")
    _require(Path("o.wav").stat().st_size == 44 + 2 * len(audio), "save_audio: size")


def _pcm16(given: Given) -> None:
    audio = given.get("audio", TONE)
    levels = pcm16(audio)
    _require(levels.dtype == torch.int16 and levels.shape == audio.shape, "pcm16: shape")


def _resample(given: Given) -> None:
    audio, rates = given.get("audio", TONE), [given.get(x, 8000) for x in ("from_rate", "to_rate")]
    if all(rates) and audio.numel() * rates[1] / abs(rates[0]) > 1e8:
        return  # honestly long
    made = resample(audio, *rates)
    if not audio.dim():
        return  # a single number, at one rate
    _require(made.shape[:-1] == audio.shape[:-1], "resample: shape", tuple(made.shape))
    near = abs(made.shape[-1] - audio.shape[-1] * rates[1] / rates[0]) <= 2 + made.shape[-1] / 1000
    _require(near, "resample: length", tuple(made.shape))
    tame = audio.double().abs().lt(1e20).all()
    _require(not tame or torch.isfinite(made).all(), "resample: not finite")


def _codec(given: Given) -> None:
    codec = stock().model().codec
    _require(codec.decode(codec.encode(given.get("audio", TONE))).abs().le(1).all(), "codec")


CALLS: dict[str, Callable[[Given], None]] = {
    "generate": _generate,
    "stream": _stream,
    "generate with condition": _conditioned,
    "bits_per_sample": _bits,
    "nats_per_sample": _nats,
    "label_ids": _label_ids,
    "Sampling": _built(wavenet.Sampling),
    "Config": _config,
    "MuLaw": _mulaw,
    "MuLaw.encode": _mulaw_encode,
    "MuLaw.decode": _mulaw_decode,
    "WaveNet.forward": _forward,
    "CausalConv1d": _convolution,
    "CentredConv1d": _centred,
    "Gated": _gated,
    "Residual": _residual,
    "Added": _built(wavenet.Added, condition_channels=4, channels=4),
    "FiLM": _built(wavenet.FiLM, condition_channels=4, channels=4),
    "ResidualBlock": _built(wavenet.ResidualBlock, **BLOCK),
    "ResidualStack": _stack,
    "dilation_cycles": _cycles,
    "save_audio": _save_audio,
    "pcm16": _pcm16,
    "resample": _resample,
    "model.codec": _codec,
}
