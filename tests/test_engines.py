"""Properties of the engines: one meaning, whoever computes it.

Codes are drawn by inverse CDF, so two engines may differ where a uniform lies on an edge of the
CDF, within float error. In float64 that does not happen here and equality is exact; in float32 a
stream is compared up to such a sample.
"""

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import (
    LABELS,
    assert_close,
    shifted,
    small_model,
    some_codes,
    some_labels,
    some_uniforms,
    steered,
)
from torch import Tensor

import wavenet.engines.cached
from wavenet import Condition, Sampling, WaveNet
from wavenet.conditioning import with_and_without
from wavenet.engines import Engine, EngineState, build_engine
from wavenet.engines.cached import CachedEngine
from wavenet.testing import TOLERANCE

F64, F32 = torch.float64, torch.float32
NAMES = ["naive", "step", "cached"]
PRECISIONS = {F64: "float64", F32: "float32", torch.bfloat16: "bfloat16"}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SAMPLINGS = [
    Sampling(),
    Sampling(0.0),
    Sampling(0.6),
    Sampling(1.0, top_k=5),
    Sampling(1.1, 0, 0.8),
    Sampling(2.0, 9, 0.5),
]


def engine_of(name: str, model: WaveNet, batch_size: int = 3, dtype: torch.dtype = F64) -> Engine:
    built = build_engine(model, batch_size, engine=name, precision=PRECISIONS[dtype])
    return steered(built, model, batch_size)


def drawn(
    engine: Engine,
    uniforms: Tensor,
    sampling: Sampling = Sampling(),  # noqa: B008
    cuts: Sequence[int] = (),
) -> Tensor:
    """Codes (B, T) on the CPU, asked for in pieces that end at `cuts`."""
    pieces = uniforms.tensor_split(list(cuts), dim=1)
    return torch.cat([engine.sample(piece, sampling) for piece in pieces], dim=1).cpu()


def assert_diverse(codes: Tensor, least: int = 20) -> None:
    """Codes that hardly vary would make any two engines agree."""
    assert min(len(row.unique()) for row in codes) >= least
    assert len(codes) == 1 or not torch.equal(codes[0], codes[1])


def parted_on_edge(
    model: WaveNet,
    first: Tensor,
    second: Tensor,
    uniforms: Tensor,
    labels: Any = None,
    position: Tensor | None = None,
) -> int:
    """Samples on which two sets of codes (B, T) agree, up to the first difference of each stream.

    Counted over all streams. Asserts that at each such difference the uniform lies within 1e-5 of
    the CDF's edge between the two codes.
    """
    with torch.no_grad():
        logits = model.to(F64)(shifted(model, first), labels, position=position)
    rows = logits.softmax(dim=1).cumsum(dim=1)  # (B, Q, T)
    agreed = 0
    for stream, differs in enumerate(first != second):
        places = differs.nonzero().flatten().tolist()
        agreed += places[0] if places else len(differs)
        if places:
            t = places[0]
            low, high = sorted((int(first[stream, t]), int(second[stream, t])))
            edges = rows[stream, low:high, t]
            distance = float((edges - float(uniforms[stream, t])).abs().max())
            assert distance < 1e-5, (
                f"stream {stream} parted at {t}: {low} or {high}, {distance:.1e} from the edge"
            )
    return agreed


# Naive and torch


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("settings", "batch_size", "samples"),
    [
        ({"kernel_size": 1}, 3, 200),
        ({"kernel_size": 2}, 1, 500),
        ({"kernel_size": 2, "input_kernel_size": 1}, 3, 200),
        ({"kernel_size": 2, "input_kernel_size": 4, "labels": LABELS}, 3, 200),
        ({"kernel_size": 2, "labels": LABELS}, 7, 300),
        ({"kernel_size": 3, "residual_scale": 1.0}, 3, 300),
        ({"kernel_size": 3, "labels": LABELS, "layers_per_cycle": 4}, 3, 200),
        ({"kernel_size": 2, "cycles": 1, "layers_per_cycle": 1}, 1, 300),
        ({"kernel_size": 5, "cycles": 1, "layers_per_cycle": 2, "head_channels": None}, 3, 200),
    ],
    ids=lambda value: ",".join(str(item) for item in value) if isinstance(value, dict) else None,
)
def test_engines_give_the_same_codes_from_the_same_uniforms(
    settings: dict[str, Any], batch_size: int, samples: int, device: str
) -> None:
    model, uniforms = small_model(**settings).to(device), some_uniforms(batch_size, samples)
    codes = [drawn(engine_of(name, model, batch_size), uniforms) for name in NAMES]
    assert all(torch.equal(codes[0], other) for other in codes[1:])
    assert_diverse(codes[0])


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_engines_give_the_same_codes_however_they_draw(sampling: Sampling) -> None:
    model, uniforms = small_model(labels=LABELS), some_uniforms(3, 150)
    codes = [drawn(engine_of(name, model), uniforms, sampling) for name in NAMES]
    assert all(torch.equal(codes[0], other) for other in codes[1:])
    if sampling.temperature:
        assert_diverse(codes[0], least=10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prompt", [1, 2, 15, 16, 17, 100])
def test_engines_give_the_same_codes_after_a_prompt(prompt: int, device: str) -> None:
    model, uniforms, given = small_model().to(device), some_uniforms(3, 80), some_codes(3, prompt)
    codes = []
    for name in NAMES:
        engine = engine_of(name, model)
        engine.prime(given)
        codes.append(drawn(engine, uniforms))
    assert all(torch.equal(codes[0], other) for other in codes[1:])
    assert not torch.equal(codes[0], drawn(engine_of("naive", model), uniforms))


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_engines_give_the_same_codes_in_float32_but_for_edges(kernel_size: int) -> None:
    model, uniforms = small_model(dtype=F32, kernel_size=kernel_size), some_uniforms(7, 500)
    first, *others = (drawn(engine_of(name, model, 7, F32), uniforms) for name in NAMES)
    assert_diverse(first)
    for other in others:
        assert parted_on_edge(model.to(F32), first, other, uniforms) > 0.5 * first.numel()


@pytest.mark.gpu
def test_the_cuda_engine_gives_the_codes_of_the_cpu_but_for_edges() -> None:
    model, uniforms = small_model(dtype=F32, labels=LABELS), some_uniforms(7, 300)
    first = drawn(engine_of("cached", model, 7, F32), uniforms)
    second = drawn(
        engine_of("cached", small_model(dtype=F32, labels=LABELS).to("cuda"), 7, F32), uniforms
    )
    assert parted_on_edge(model, first, second, uniforms, some_labels(7)) > 0.5 * first.numel()


class Uncaptured:
    """In the place of a captured graph: the same step, called."""

    def __init__(self, engine: CachedEngine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling

    def replay(self) -> None:
        self.params = self.engine._counted_step(self.sampling)


@pytest.mark.parametrize(
    "settings", [{"kernel_size": 1}, {"kernel_size": 3, "labels": LABELS}], ids=str
)
@pytest.mark.parametrize("cuts", [(), (1, 2, 40)])
def test_the_step_that_cuda_captures_gives_the_same_codes(
    settings: dict[str, Any], cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU it can be run, not captured; calls longer than its rows are cut."""
    model, uniforms, sampling = small_model(**settings), some_uniforms(3, 90), Sampling(1.1, 0, 0.9)
    expected = drawn(engine_of("cached", model), uniforms, sampling, cuts)
    monkeypatch.setattr(wavenet.engines.cached, "CHUNK", 32)
    monkeypatch.setattr(CachedEngine, "_stepped", CachedEngine._replayed)
    monkeypatch.setattr(
        CachedEngine, "_capture", lambda engine, sampling: Uncaptured(engine, sampling)
    )
    assert torch.equal(drawn(engine_of("cached", model), uniforms, sampling, cuts), expected)


class CapturedOnce(Uncaptured):
    """And what a capture does: four steps, then the state is put back."""

    def __init__(self, engine: CachedEngine, sampling: Sampling) -> None:
        super().__init__(engine, sampling)
        before = engine.state
        for _ in range(4):
            engine._counted_step(sampling)
        engine.state = before


def test_a_capture_in_the_middle_of_a_stream_reads_the_calls_first_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a call that fills all rows: by another way to draw, and by a condition of one frame."""
    model, uniforms = small_model(**PLACED), some_uniforms(3, 70)
    lengths, how = torch.tensor([70, 120, 400]), [Sampling(), Sampling(1.1), Sampling()]
    cuts = [(0, 32), (32, 64), (64, 70)]
    codes = []
    for captured in (False, True):
        if captured:
            monkeypatch.setattr(wavenet.engines.cached, "CHUNK", 32)
            monkeypatch.setattr(CachedEngine, "_stepped", CachedEngine._replayed)
            monkeypatch.setattr(
                CachedEngine, "_capture", lambda engine, sampling: CapturedOnce(engine, sampling)
            )
        engine = build_engine(model, 3, engine="cached", precision="float64")
        pieces = [
            engine.sample(uniforms[:, a:b], sampling, from_sample(model, lengths, a, b - a))
            for (a, b), sampling in zip(cuts, how, strict=True)
        ]
        codes.append(torch.cat(pieces, dim=1))
    assert torch.equal(codes[0], codes[1])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [F64, F32])
def test_a_captured_graph_follows_the_state_and_the_sampling(dtype: torch.dtype) -> None:
    """One engine, two samplings in turn, a state put back: the codes of an engine without graph."""
    model, uniforms = small_model(dtype=dtype, labels=LABELS).cuda(), some_uniforms(3, 60)
    captured, plain = (
        engine_of("cached", model, dtype=dtype),
        engine_of("cached", model, dtype=dtype),
    )
    for sampling in (Sampling(), Sampling(0.5), Sampling()):
        state = captured.state
        first = captured.sample(uniforms, sampling)
        captured.state = state
        again = captured.sample(uniforms, sampling)
        assert torch.equal(first, again)
        one_by_one = plain._stepped(uniforms.cuda(), sampling)  # type: ignore[attr-defined]
        assert torch.equal(first, one_by_one)


# Engines and the model


@pytest.mark.parametrize(
    ("settings", "batch_size", "sampling"),
    [
        ({"kernel_size": 2, "layers_per_cycle": 6}, 1, Sampling()),
        ({"kernel_size": 3, "layers_per_cycle": 5, "labels": LABELS}, 3, Sampling(0.9, 0, 0.95)),
    ],
    ids=["kernel-2", "kernel-3"],
)
def test_thousands_of_codes_are_those_of_one_teacher_forced_forward(
    settings: dict[str, Any], batch_size: int, sampling: Sampling
) -> None:
    """From the logits of `forward` over an engine's codes, its uniforms draw the same codes."""
    model, uniforms = small_model(**settings), some_uniforms(batch_size, 3000)
    assert model.receptive_field > 100
    codes = drawn(
        engine_of("cached", model, batch_size), uniforms, sampling, cuts=[1, 130, 131, 2000]
    )
    with torch.no_grad():
        logits = model(shifted(model, codes), some_labels(batch_size) if model.labels else None)
    again = torch.stack([sampling.draw(logits[..., t], uniforms[:, t]) for t in range(3000)], dim=1)
    assert torch.equal(again, codes)
    assert_diverse(codes, least=60)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("name", NAMES)
def test_primed_logits_are_those_of_forward_in_one_piece_or_many(
    name: str, dtype: torch.dtype
) -> None:
    model, codes = small_model(dtype=dtype, labels=LABELS), some_codes(3, 60)
    expected = model(shifted(model, codes), some_labels(3))
    for cuts in ([], [1], [59], [7, 8, 30]):
        engine = engine_of(name, model, dtype=dtype)
        logits = torch.cat(
            [engine.prime(piece) for piece in codes.tensor_split(cuts, dim=1)], dim=-1
        )
        assert_close(logits.clone(), expected.detach(), f"cuts {cuts}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 1}, {"input_kernel_size": 1}, {"kernel_size": 3, "labels": LABELS}],
    ids=str,
)
def test_state_after_any_number_of_samples_is_that_of_steps_over_the_codes(
    name: str, settings: dict[str, Any]
) -> None:
    model, engine = small_model(**settings), engine_of(name, small_model(**settings))
    heard = torch.empty(3, 0, dtype=torch.long)
    for samples in (
        0,
        1,
        2,
        13,
        1,
        40,
    ):  # short of the history, past it, and round the ring more than once
        heard = (
            torch.cat([heard, drawn(engine, some_uniforms(3, samples, seed=samples))], dim=1)
            if samples
            else heard
        )
        assert_state(engine.state, model, heard)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pieces", [[1], [5, 1, 30], [100]])
def test_state_after_a_prompt_is_that_of_steps_over_its_codes(name: str, pieces: list[int]) -> None:
    model, codes = small_model(labels=LABELS), some_codes(3, sum(pieces))
    engine = engine_of(name, model)
    for piece in codes.split(pieces, dim=1):
        engine.prime(piece)
    assert_state(engine.state, model, codes)


def assert_state(state: EngineState, model: WaveNet, heard: Tensor) -> None:
    """The state after `heard` (B, T): its last code waits, all before it went through `step`."""
    labels = some_labels(len(heard)) if model.labels else None
    inputs = torch.cat([torch.full((len(heard), 1), model.codec.silence), heard], dim=1)
    expected = model.init_state(len(heard))
    if inputs.shape[1] > 1:
        _, expected = model.step(inputs[:, :-1], expected, labels)
    assert torch.equal(state.last, inputs[:, -1])
    for actual, wanted in zip(
        (state.model[0], *state.model[1]), (expected[0], *expected[1]), strict=True
    ):
        assert_close(actual, wanted, f"after {heard.shape[1]} samples")
        assert actual.is_contiguous() and not actual.is_inference()


# The state is canonical


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("naive", "cached"),
        ("cached", "naive"),
        ("cached", "cached"),
        ("step", "cached"),
        ("cached", "step"),
    ],
)
@pytest.mark.parametrize(
    "settings",
    [{"kernel_size": 1}, {"input_kernel_size": 1}, {"kernel_size": 3, "labels": LABELS}],
    ids=str,
)
@pytest.mark.parametrize("handover", [0, 5, 70])
def test_a_stream_handed_over_in_the_middle_goes_on_the_same(
    before: str, after: str, settings: dict[str, Any], handover: int
) -> None:
    model, uniforms = small_model(**settings), some_uniforms(3, 110)
    whole = drawn(engine_of("cached", model), uniforms)
    first, second = engine_of(before, model), engine_of(after, model)
    drawn(second, some_uniforms(3, 9, seed=8))  # what it did before must not matter
    head = drawn(first, uniforms[:, :handover]) if handover else whole[:, :0]
    second.state = first.state
    tail = drawn(second, uniforms[:, handover:])
    assert torch.equal(torch.cat([head, tail], dim=1), whole)
    assert torch.equal(drawn(first, uniforms[:, handover:]), tail), (
        "the first engine, going on by itself"
    )
    assert_diverse(whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_handed_over_stream_can_be_primed(name: str) -> None:
    model, uniforms, codes = small_model(labels=LABELS), some_uniforms(3, 30), some_codes(3, 25)
    first, second = engine_of("cached", model), engine_of(name, model)
    drawn(first, uniforms)
    second.state = first.state
    assert_close(second.prime(codes).clone(), first.prime(codes).clone())
    assert torch.equal(drawn(second, uniforms), drawn(first, uniforms))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_once_read_is_not_changed_by_later_sampling(name: str) -> None:
    engine, uniforms = engine_of(name, small_model()), some_uniforms(3, 40)
    drawn(engine, uniforms)
    state = engine.state
    kept = [part.clone() for part in (state.last, state.model[0], *state.model[1])]
    after = drawn(engine, uniforms)
    engine.prime(some_codes(3, 30))
    assert all(
        torch.equal(*pair)
        for pair in zip((state.last, state.model[0], *state.model[1]), kept, strict=True)
    )
    engine.state = state
    assert torch.equal(drawn(engine, uniforms), after), "rewound, the stream is the same"
    assert all(
        torch.equal(*pair)
        for pair in zip((state.last, state.model[0], *state.model[1]), kept, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_codes_once_drawn_are_not_changed_by_later_sampling(name: str) -> None:
    engine = engine_of(name, small_model())
    codes = engine.sample(some_uniforms(3, 20), Sampling())
    kept = codes.clone()
    engine.sample(some_uniforms(3, 20, seed=3), Sampling())
    assert torch.equal(codes, kept) and codes.shape == (3, 20) and codes.dtype == torch.int64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cuts", [range(1, 60), [1], [59], [15, 16, 17, 31, 32, 33]], ids=str)
def test_asking_in_pieces_changes_nothing(name: str, cuts: Sequence[int]) -> None:
    model, uniforms = small_model(), some_uniforms(3, 60)
    assert torch.equal(
        drawn(engine_of(name, model), uniforms, cuts=cuts), drawn(engine_of(name, model), uniforms)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_is_the_same_alone_and_in_a_batch(name: str) -> None:
    model, uniforms = small_model(), some_uniforms(7, 80)
    together = drawn(engine_of(name, model, 7), uniforms)
    for stream in (0, 3, 6):
        alone = drawn(engine_of(name, model, 1), uniforms[stream : stream + 1])
        assert torch.equal(alone[0], together[stream])


# An engine owns its weights


@pytest.mark.parametrize("name", NAMES)
def test_later_changes_to_the_model_do_not_reach_a_built_engine(name: str) -> None:
    model, uniforms = small_model(), some_uniforms(3, 60)
    untouched = drawn(engine_of(name, model), uniforms)
    engine = engine_of(name, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(drawn(engine, uniforms), untouched)
    assert not torch.equal(drawn(engine_of(name, model), uniforms), untouched)


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_leaves_the_model_as_it_was(name: str) -> None:
    model = small_model(dtype=F32).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    engine = engine_of(name, model, dtype=torch.bfloat16)
    drawn(engine, some_uniforms(3, 9))
    engine.prime(some_codes(3, 9))
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model(some_codes(1, 5)).sum().backward()


# bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_logits_are_close(name: str) -> None:
    model, codes = small_model(dtype=F32, labels=LABELS), some_codes(3, 60)
    logits = engine_of(name, model, dtype=torch.bfloat16).prime(codes).clone()
    assert_close(logits, model(shifted(model, codes), some_labels(3)).detach().to(torch.bfloat16))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_codes_lie_where_the_float32_cdf_puts_their_uniforms(name: str) -> None:
    model, uniforms = small_model(dtype=F32, labels=LABELS), some_uniforms(7, 100)
    codes = drawn(engine_of(name, model, 7, torch.bfloat16), uniforms)
    with torch.no_grad():
        cdf = model(shifted(model, codes), some_labels(7)).softmax(dim=1).cumsum(dim=1)  # (B, Q, T)
    above = cdf.gather(1, codes[:, None])[:, 0]
    below = above - cdf.diff(dim=1, prepend=torch.zeros(7, 1, 100)).gather(1, codes[:, None])[:, 0]
    outside = torch.maximum(below - uniforms, uniforms - above).clamp_min(0)
    assert float(outside.mean()) < 0.01 and float(outside.max()) < 4 * TOLERANCE[torch.bfloat16]
    assert_diverse(codes)


# The choice


def test_auto_logs_its_choice_and_gives_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    model, uniforms = small_model(), some_uniforms(2, 20)
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine = build_engine(model, 2, precision="float64")
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert all(word in record.getMessage() for word in ("cached", "cpu", "float64", "batch 2"))
    assert torch.equal(drawn(engine, uniforms), drawn(engine_of("cached", model, 2), uniforms))


def test_a_named_engine_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wavenet"):
        engine_of("naive", small_model())
    assert caplog.records == []


def test_an_unknown_engine_or_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"engine 'fast'.*auto, naive, step, cached"):
        build_engine(small_model(), 1, engine="fast")
    with pytest.raises(ValueError, match=r"precision 'float8'.*float32, bfloat16, float64"):
        build_engine(small_model(), 1, precision="float8")


def test_the_older_name_of_the_cached_engine_is_accepted() -> None:
    assert isinstance(build_engine(small_model(), 1, engine="torch"), CachedEngine)


# What steers them


@pytest.mark.parametrize("name", [*NAMES, "native"])
def test_an_engine_for_a_model_with_labels_wants_a_condition(name: str) -> None:
    model, dtype = small_model(labels=LABELS, dtype=F32), F32
    engine = build_engine(model, 1, engine=name, precision=PRECISIONS[dtype])
    with pytest.raises(ValueError, match="takes a condition of shape"):
        engine.prime(some_codes(1, 3))
    with pytest.raises(ValueError, match="takes a condition of shape"):
        engine.sample(some_uniforms(1, 3), Sampling())


@pytest.mark.parametrize("name", [*NAMES, "native"])
def test_an_engine_refuses_a_condition_that_does_not_fit(name: str) -> None:
    engine = build_engine(small_model(labels=LABELS, dtype=F32), 2, engine=name)
    for wrong in (torch.zeros(2, 4, 1), torch.zeros(1, 3, 1)):
        with pytest.raises(ValueError, match="condition"):
            engine.sample(some_uniforms(2, 3), Sampling(), Condition(wrong))
    with pytest.raises(ValueError, match=r"40 samples .* 3 frames of 16.* has 2"):
        engine.sample(some_uniforms(2, 40), Sampling(), Condition(torch.zeros(2, 3, 2), 16))
    plain = build_engine(small_model(dtype=F32), 2, engine=name)
    with pytest.raises(ValueError, match="condition"):
        plain.sample(some_uniforms(2, 3), Sampling(), Condition(torch.zeros(2, 3, 1)))


# The position in the clip, and guidance

HOP = 16
PLACED = {"position_hop": HOP, "labels": LABELS, "unlabelled": True, "layers_per_cycle": 4}
OTHERS = ["cached", "step", "native"]


@torch.no_grad()
def from_sample(model: WaveNet, lengths: Tensor, start: int, samples: int) -> Condition:
    """What steers clips of so many samples, labelled by `some_labels`, from sample `start` on."""
    timeline = model.timeline(some_labels(len(lengths)), lengths)
    condition = timeline.between(start, start + samples)
    assert condition is not None
    return condition


@pytest.mark.parametrize("cuts", [[], [1, 11, 12, 60]])
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("name", OTHERS)
def test_engines_steer_their_streams_as_the_naive_one_does(
    name: str, start: int, cuts: list[int]
) -> None:
    dtype = F32 if name == "native" else F64
    model, uniforms = small_model(dtype=dtype, **PLACED), some_uniforms(3, 120)
    lengths, codes = torch.tensor([70, 120, 400]), []
    for each in ("naive", name):
        engine = build_engine(model, 3, engine=each, precision=PRECISIONS[dtype])
        at, pieces = start, []
        for piece in uniforms.tensor_split(cuts if each == name else [], dim=1):
            condition = from_sample(model, lengths, at, piece.shape[1])
            pieces.append(engine.sample(piece, Sampling(), condition))
            at += piece.shape[1]
        codes.append(torch.cat(pieces, dim=1))
    first, second = codes
    assert_diverse(first)
    position = torch.stack([torch.full_like(lengths, start), lengths], dim=1)
    agreed = parted_on_edge(model, first, second, uniforms, some_labels(3), position)
    assert agreed == first.numel() if dtype == F64 else agreed > 0.5 * first.numel()


@pytest.mark.parametrize("frames", [1, 2, 1000])
@pytest.mark.parametrize("name", OTHERS)
def test_how_many_frames_are_projected_at_once_changes_nothing(
    name: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = F32 if name == "native" else F64
    model, uniforms = small_model(dtype=dtype, **PLACED), some_uniforms(3, 120)
    condition = from_sample(model, torch.tensor([70, 120, 400]), 5, 120)
    engine = build_engine(model, 3, engine=name, precision=PRECISIONS[dtype])
    expected = engine.sample(uniforms, Sampling(), condition)
    for room in ("cached", "native.engine"):
        monkeypatch.setattr(f"wavenet.engines.{room}.FRAMES", frames)
    engine = build_engine(model, 3, engine=name, precision=PRECISIONS[dtype])
    assert torch.equal(engine.sample(uniforms, Sampling(), condition), expected)


@pytest.mark.parametrize("name", ["naive", *OTHERS])
def test_a_steered_stream_is_what_forward_predicts_at_that_place(name: str) -> None:
    model, codes, lengths = (
        small_model(dtype=F32, **PLACED),
        some_codes(3, 90),
        torch.tensor([90, 200, 90]),
    )
    position = torch.stack([torch.tensor([0, 33, 64]), lengths], dim=1)
    with torch.no_grad():
        condition = model.condition(some_labels(3), position=position, time=90)
        expected = model(shifted(model, codes), some_labels(3), position=position)
        elsewhere = model(
            shifted(model, codes), some_labels(3), position=model.beginning(3, lengths)
        )
    engine = build_engine(model, 3, engine=name, precision="float32")
    assert_close(engine.prime(codes, condition), expected)
    if name == "native":
        engine = build_engine(model, 3, engine=name, precision="float32")
        logits = engine.teacher_forced(codes, condition)  # type: ignore[attr-defined]
        assert_close(logits, expected)
    assert (expected - elsewhere)[1:].abs().max() > 0.1 and torch.equal(expected[0], elsewhere[0])


def guided_by_hand(
    model: WaveNet, uniforms: Tensor, labels: dict[str, Tensor], sampling: Sampling
) -> Tensor:
    """One code after the other, from the logits with labels and those without: (B, T)."""
    codes = torch.zeros(len(uniforms), 0, dtype=torch.int64)
    untold = {name: torch.full_like(ids, -1) for name, ids in labels.items()}
    for u in uniforms.unbind(1):
        heard = torch.cat([torch.full((len(codes), 1), model.codec.silence), codes], dim=1)
        with torch.no_grad():
            told, less = (model(heard, given)[..., -1] for given in (labels, untold))
        logits = (1 + sampling.guidance) * told - sampling.guidance * less
        codes = torch.cat([codes, Sampling(sampling.temperature).draw(logits, u)[:, None]], dim=1)
    return codes


@torch.no_grad()
def with_labels_and_without(model: WaveNet, labels: dict[str, Tensor]) -> Condition:
    condition = model.condition(with_and_without(labels))
    assert condition is not None
    return condition


@pytest.mark.parametrize("name", ["naive", *OTHERS])
@pytest.mark.parametrize(
    "sampling",
    [Sampling(guidance=0.5), Sampling(1.2, guidance=2.0), Sampling(0.0, guidance=1.0)],
    ids=str,
)
def test_guided_codes_are_drawn_from_both_predictions(name: str, sampling: Sampling) -> None:
    model, uniforms = small_model(labels=LABELS, unlabelled=True), some_uniforms(3, 40)
    labels = some_labels(3)
    expected = guided_by_hand(model, uniforms, labels, sampling)
    precision = "float32" if name == "native" else "float64"
    model = model.float() if name == "native" else model
    engine = build_engine(model, 3, group=2, engine=name, precision=precision)
    codes = engine.sample(uniforms, sampling, with_labels_and_without(model, labels))
    assert codes.shape == (3, 40)
    last = engine.state.last
    assert torch.equal(last[::2], last[1::2]), "both of a pair take the same code"
    assert torch.equal(last[::2], codes[:, -1])
    same = (codes == expected).float().cumprod(dim=1).mean()
    assert same == 1 if precision == "float64" else same > 0.8  # float32 may part on an edge
    assert not torch.equal(
        expected, guided_by_hand(model.double(), uniforms, labels, Sampling(sampling.temperature))
    )


@pytest.mark.parametrize("name", ["step", "cached", "native"])
def test_steps_of_few_streams_leave_torch_one_thread(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    engine = build_engine(small_model(dtype=F32), 2, engine=name)
    step = "_at_once" if name == "native" else "_step"
    whole = getattr(engine, step)

    def watched(*args: Any) -> Any:
        seen.append(torch.get_num_threads())
        return whole(*args)

    monkeypatch.setattr(engine, step, watched)
    torch.set_num_threads(3)
    engine.sample(some_uniforms(2, 4), Sampling())
    assert set(seen) == {1} and torch.get_num_threads() == 3
    torch.set_num_threads(1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_two_threads_share_a_guided_pair(threads: int) -> None:
    model, uniforms = small_model(dtype=F32, labels=LABELS, unlabelled=True), some_uniforms(5, 60)
    condition, how = with_labels_and_without(model, some_labels(5)), Sampling(guidance=1.0)
    torch.set_num_threads(threads)
    codes = build_engine(model, 5, group=2, engine="native").sample(uniforms, how, condition)
    torch.set_num_threads(1)
    alone = build_engine(model, 5, group=2, engine="native").sample(uniforms, how, condition)
    assert torch.equal(codes, alone)


@pytest.mark.parametrize("name", ["naive", *OTHERS])
def test_guidance_of_streams_that_are_no_pairs_is_refused(name: str) -> None:
    model = small_model(dtype=F32, labels=LABELS, unlabelled=True)
    engine = engine_of(name, model, 3, F32)
    with pytest.raises(ValueError, match="pairs of streams"):
        engine.sample(some_uniforms(3, 4), Sampling(guidance=1.0))
    with pytest.raises(ValueError, match="group=3"):
        build_engine(model, 3, group=3)


# What is refused


@pytest.mark.parametrize("codes", [[-1, 5], [3, 256]])
@pytest.mark.parametrize("name", [*NAMES, "native"])
def test_codes_that_there_are_not_are_refused_and_change_nothing(
    name: str, codes: list[int]
) -> None:
    engine = build_engine(small_model(dtype=F32), 1, engine=name)
    before = engine.state
    readers = [engine.prime, *([engine.teacher_forced] if name == "native" else [])]
    for read in readers:
        with pytest.raises(ValueError, match=rf"0\.\.255, but got values from {min(codes)} to"):
            read(torch.tensor([codes]))
    assert torch.equal(engine.state.last, before.last)


@pytest.mark.parametrize("codes", [[-1, 5], [256, 3]])
def test_a_model_refuses_codes_that_there_are_not(codes: list[int]) -> None:
    model, given = small_model(), torch.tensor([codes])
    seen = rf"samples in 0\.\.255, but got values from {min(codes)} to {max(codes)}"
    for call in (lambda: model(given), lambda: model.step(given, model.init_state(1))):
        with pytest.raises(ValueError, match=seen):
            call()


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, None])
def test_an_engine_for_no_whole_number_of_streams_is_refused(batch_size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        build_engine(small_model(), batch_size, engine="cached")
