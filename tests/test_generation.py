"""Properties of generate and stream: what a seed and a prompt mean, and what is refused."""

import itertools
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, shifted, small_model, some_codes
from torch import Tensor

import wavenet.generation
from wavenet import MuLaw, Sampling, generate, label_ids, stream
from wavenet.engines import build_engine
from wavenet.generation import GUIDANCE, generate_each

CODEC = MuLaw()


def some_audio(*shape: int) -> Tensor:
    return CODEC.decode(some_codes(1, math.prod(shape))).view(shape)


def uniforms_of(seed: int, time: int) -> Tensor:
    return torch.rand(time, generator=torch.Generator().manual_seed(seed))


# What comes out


def test_audio_is_float32_in_range_and_as_long_as_asked() -> None:
    model = small_model()
    audio = generate(model, num_samples=50, batch_size=3)
    assert audio.shape == (3, 50) and audio.dtype == torch.float32 and audio.device.type == "cpu"
    assert float(audio.abs().max()) <= 1 and len(audio.unique()) > 20
    assert not audio.is_inference() and not audio.requires_grad
    assert generate(model, seconds=0.01).shape == (1, 80)  # at the model's 8 kHz


@pytest.mark.parametrize("engine", ["naive", "torch", "auto"])
def test_a_seed_is_uniforms_through_the_inverse_cdf_of_forward(engine: str) -> None:
    model = small_model()
    audio = generate(
        model, num_samples=60, seed=11, engine=engine, precision="float64", temperature=0.9
    )
    codes = CODEC.encode(audio)
    logits = model(shifted(model, codes))[0].T  # (T, Q)
    assert torch.equal(Sampling(0.9).draw(logits, uniforms_of(11, 60)), codes[0])


@pytest.mark.parametrize("engine", ["step", "cached"])
def test_a_model_in_bfloat16_is_steered_by_its_own_embeddings(engine: str) -> None:
    """As the model itself in that precision, every sum of conditions rounded as it rounds them."""
    settings = {"num_samples": 90, "labels": {"digit": "2", "speaker": "ann"}, "engine": engine}
    model = small_model(labels=LABELS, position_hop=16)
    with torch.no_grad():
        for table in model.position_embedding.parameters():
            table.normal_()
    audio = generate(model, precision="bfloat16", **settings)
    assert torch.equal(audio, generate(model.bfloat16(), precision="bfloat16", **settings))


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}])
def test_every_way_of_drawing_reaches_the_engine(settings: dict[str, Any]) -> None:
    model = small_model()
    assert not torch.equal(
        generate(model, num_samples=60, **settings), generate(model, num_samples=60)
    )


def test_temperature_zero_does_not_depend_on_the_seed() -> None:
    model = small_model()
    first, second = (generate(model, num_samples=60, temperature=0, seed=seed) for seed in (0, 1))
    assert torch.equal(first, second)


def test_the_model_is_left_as_it_was() -> None:
    model = small_model().train()
    generate(model, num_samples=5)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


# Seeds


def test_the_same_seed_sounds_the_same_and_another_does_not() -> None:
    model = small_model()
    assert torch.equal(
        generate(model, num_samples=60, seed=3), generate(model, num_samples=60, seed=3)
    )
    assert not torch.equal(
        generate(model, num_samples=60, seed=3), generate(model, num_samples=60, seed=4)
    )


def test_generating_neither_reads_nor_moves_the_global_seed() -> None:
    model = small_model(labels=LABELS)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = generate(model, num_samples=30)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(generate(model, num_samples=30), first)


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("engine", ["naive", "torch"])
def test_stream_i_of_any_batch_sounds_like_seed_plus_i_alone(
    engine: str, labels: dict[str, list[str]] | None
) -> None:
    model = small_model(labels=labels)
    settings: dict[str, Any] = {"num_samples": 60, "engine": engine, "precision": "float64"}
    together = generate(model, batch_size=5, seed=7, **settings)
    for index in (0, 1, 4):
        assert torch.equal(generate(model, seed=7 + index, **settings)[0], together[index])
    assert not torch.equal(together[0], together[1])


def test_a_shorter_result_is_the_beginning_of_a_longer_one() -> None:
    model = small_model()
    longer = generate(
        model, num_samples=2100, precision="float64"
    )  # past the chunks that generate works in
    assert torch.equal(generate(model, num_samples=1500, precision="float64"), longer[:, :1500])


# Streams


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 200, 1000])
def test_chunks_of_a_stream_are_what_generate_gives(chunk_size: int) -> None:
    model = small_model(labels=LABELS)
    settings: dict[str, Any] = {
        "num_samples": 200,
        "batch_size": 3,
        "seed": 2,
        "precision": "float64",
        "top_p": 0.9,
    }
    chunks = list(stream(model, chunk_size=chunk_size, **settings))
    assert [chunk.shape[1] for chunk in chunks[:-1]] == [chunk_size] * (len(chunks) - 1)
    assert torch.equal(torch.cat(chunks, dim=1), generate(model, **settings))


def test_a_stream_without_a_length_goes_on() -> None:
    model = small_model()
    chunks = list(
        itertools.islice(stream(model, chunk_size=50, batch_size=2, precision="float64"), 40)
    )
    assert all(chunk.shape == (2, 50) for chunk in chunks)
    assert torch.equal(
        torch.cat(chunks, dim=1),
        generate(model, num_samples=2000, batch_size=2, precision="float64"),
    )


def test_two_streams_side_by_side_do_not_disturb_each_other() -> None:
    model = small_model()
    settings: dict[str, Any] = {"num_samples": 90, "precision": "float64"}
    pairs = list(
        zip(*(stream(model, chunk_size=30, seed=seed, **settings) for seed in (0, 1)), strict=True)
    )
    for index, seed in enumerate((0, 1)):
        alone = generate(model, seed=seed, **settings)
        assert torch.equal(torch.cat([pair[index] for pair in pairs], dim=1), alone)


def test_a_chunk_once_given_is_not_written_again() -> None:
    chunks = stream(small_model(), chunk_size=20)
    first = next(chunks)
    kept = first.clone()
    next(chunks)
    assert torch.equal(first, kept)


# Labels


def test_labels_steer_each_stream() -> None:
    model = small_model(labels=LABELS)
    settings: dict[str, Any] = {"num_samples": 60, "precision": "float64"}
    for name, options in LABELS.items():
        fixed = {other: categories[0] for other, categories in LABELS.items() if other != name}
        alone = [generate(model, labels={**fixed, name: option}, **settings) for option in options]
        assert all(
            not torch.equal(first, second) for first, second in itertools.combinations(alone, 2)
        )
        each = generate(
            model, labels={**fixed, name: [options[1], options[0]]}, batch_size=2, **settings
        )
        assert torch.equal(each[0], alone[1][0])


def test_labels_left_out_are_drawn_for_each_stream_from_its_seed_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = small_model(labels=LABELS)
    settings: dict[str, Any] = {"num_samples": 40, "precision": "float64"}
    with caplog.at_level(logging.INFO, logger="wavenet.generation"):
        audio = generate(model, batch_size=12, labels={"speaker": "bob"}, seed=20, **settings)
    (message,) = [
        record.getMessage() for record in caplog.records if "drawn" in record.getMessage()
    ]
    digits = message.split(": ")[1].split(", ")
    assert "digit" in message and len(digits) == 12 and set(digits) == {"0", "1", "2"}
    for index in (0, 5, 11):
        told = generate(
            model, labels={"speaker": "bob", "digit": digits[index]}, seed=20 + index, **settings
        )
        assert torch.equal(told[0], audio[index])


# Prompts


@pytest.mark.parametrize("engine", ["naive", "torch"])
@pytest.mark.parametrize("batched", [False, True])
def test_a_prompt_is_heard_before_the_first_sample(engine: str, batched: bool) -> None:
    model = small_model(labels=LABELS)
    prompt = some_audio(3, 70) if batched else some_audio(70)
    labels = {"digit": ["2", "0", "1"], "speaker": "ann"}
    audio = generate(
        model,
        num_samples=50,
        batch_size=3,
        prompt=prompt,
        labels=labels,
        seed=4,
        engine=engine,
        precision="float64",
    )
    heard = torch.cat([CODEC.encode(prompt.expand(3, -1)), CODEC.encode(audio)], dim=1)
    logits = model(shifted(model, heard), label_ids(LABELS, labels, 3))
    for index in range(3):
        again = Sampling().draw(logits[index, :, 70:].T, uniforms_of(4 + index, 50))
        assert torch.equal(again, heard[index, 70:])


@pytest.mark.parametrize("chunk", [1, 7, 70, 71])
def test_a_prompt_is_the_same_however_it_is_prefilled(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    model, prompt = small_model(), some_audio(71)
    whole = generate(model, num_samples=50, prompt=prompt, precision="float64")
    monkeypatch.setattr(wavenet.generation, "PREFILL_CHUNK", chunk)
    assert torch.equal(generate(model, num_samples=50, prompt=prompt, precision="float64"), whole)
    assert not torch.equal(generate(model, num_samples=50, precision="float64"), whole)


def test_a_free_run_goes_on_from_its_own_beginning_as_from_a_prompt() -> None:
    """An engine primed with the first half gives the second, from the second half's uniforms."""
    model = small_model()
    codes = CODEC.encode(generate(model, num_samples=200, seed=6, precision="float64"))
    engine = build_engine(model, 1, engine="torch", precision="float64")
    engine.prime(codes[:, :120])
    assert torch.equal(engine.sample(uniforms_of(6, 200)[None, 120:], Sampling()), codes[:, 120:])


@pytest.mark.parametrize("shape", [(2, 30), (3, 2, 30), (0,), (3, 0), ()])
def test_a_prompt_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"prompt is audio of shape \(time,\) or \(3, time\)"
    ) as error:
        generate(small_model(), num_samples=5, batch_size=3, prompt=torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_a_prompt_with_nan_or_of_integers_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        generate(small_model(), num_samples=5, prompt=torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="floating-point audio"):
        generate(small_model(), num_samples=5, prompt=torch.zeros(9, dtype=torch.int16))


# Arguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 1.0, "num_samples": 5}, "not both"),
        ({"num_samples": 0}, "at least one sample"),
        ({"num_samples": -3}, "at least one sample"),
        ({"seconds": 0.0}, "at least one sample"),
        ({"seconds": -1.0}, "at least one sample"),
        ({"seconds": 1e-6}, "at least one sample"),
        ({"num_samples": 5, "batch_size": 0}, "batch_size"),
        ({"num_samples": 5, "temperature": -1.0}, "temperature"),
        ({"num_samples": 5, "top_k": -1}, "top_k"),
        ({"num_samples": 5, "top_p": 0.0}, "top_p"),
        ({"num_samples": 5, "engine": "fast"}, "engine 'fast'.*naive, step, cached"),
        ({"num_samples": 5, "precision": "int4"}, "precision 'int4'"),
        ({"num_samples": 5, "mel": torch.zeros(1, 80, 4)}, "mel"),
        ({"num_samples": 5, "labels": {"pitch": "c"}}, "'pitch'.*digit, speaker"),
        ({"num_samples": 5, "labels": {"digit": "9"}}, "'9'.*0, 1, 2"),
        ({"num_samples": 5, "labels": {"digit": ["1", "2"]}}, "2 categories for a batch of 1"),
        ({"num_samples": 5, "labels": "digit=1"}, 'given as {"name": "category"}'),
        ({"num_samples": 5, "labels": {"digit": 1.5}}, r"Label 'digit'.*1\.5"),
        ({"num_samples": 5, "labels": {"digit": None}}, "Label 'digit'.*None"),
        ({"num_samples": 1.5}, r"num_samples must be a whole number, but got 1\.5"),
        ({"num_samples": True}, "num_samples must be a whole number, but got True"),
        ({"num_samples": "5"}, "num_samples must be a whole number"),
        ({"num_samples": 2**60}, "at most"),
        ({"num_samples": [5, 5]}, "2 lengths for a batch of 1"),
        ({"num_samples": [None]}, "num_samples must be a whole number, but got None"),
        ({"seconds": math.nan}, "seconds must be a number"),
        ({"seconds": -math.inf}, "seconds must be a number"),
        ({"seconds": [math.inf]}, "seconds must be a number"),
        ({"seconds": "1"}, "seconds must be a number"),
        ({"seconds": True}, "seconds must be a number"),
        ({"seconds": 1e300}, "at most"),
        ({"seconds": 1e308}, "at most"),
        ({"num_samples": 5, "batch_size": True}, "batch_size must be a whole number"),
        ({"num_samples": 5, "batch_size": 1.0}, "batch_size must be a whole number"),
        ({"num_samples": 5, "batch_size": 10**6}, "batch_size is at most 65536.*seed=65536"),
        ({"num_samples": 5, "seed": 2**64}, f"seed must be from 0 to {2**64 - 1}"),
        ({"num_samples": 5, "seed": 2**64 - 1, "batch_size": 2}, f"from 0 to {2**64 - 2}"),
        ({"num_samples": 5, "seed": -1}, "seed must be from 0"),
        ({"num_samples": 5, "seed": 1.5}, "seed must be a whole number"),
        ({"num_samples": 5, "seed": "1"}, "seed must be a whole number"),
        ({"num_samples": 5, "seed": None}, "seed must be a whole number"),
        ({"num_samples": 5, "temperature": "1"}, "temperature must be a number, but got '1'"),
        ({"num_samples": 5, "top_p": None}, "top_p must be a number, but got None"),
        ({"num_samples": 5, "temperature": True}, "temperature must be a number, but got True"),
        ({"num_samples": 5, "condition": 5}, r"A condition is a wavenet\.Condition, but got 5"),
        ({"num_samples": 5, "prompt": [0.0]}, "A prompt is a tensor of audio, but got a list"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_call(
    settings: dict[str, Any], message: str
) -> None:
    model = small_model(labels=LABELS)
    with pytest.raises(ValueError, match=message):
        generate(model, **settings)
    with pytest.raises(ValueError, match=message):
        stream(model, **settings)  # before anybody asks for a chunk


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    model = small_model()
    plain = generate(model, num_samples=[5, 7], batch_size=2, seed=3)
    for lengths in (torch.tensor([5, 7]), np.array([5, 7])):
        other = generate(model, num_samples=lengths, batch_size=np.int64(2), seed=torch.tensor(3))
        assert torch.equal(other, plain)
    assert torch.equal(
        generate(model, seconds=np.float32(0.01)), generate(model, seconds=torch.tensor(0.01))
    )
    assert generate(model, num_samples=1, seed=2**64 - 1).shape == (1, 1)


def test_what_does_not_fit_the_memory_is_refused_at_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model()
    monkeypatch.setattr("wavenet.generation.memory", lambda device: 1e6)
    generate(model, num_samples=1000, batch_size=10)
    with pytest.raises(ValueError, match=r"2e\+06 samples of audio need 16 MB.*has 1 MB.*stream"):
        generate(model, num_samples=10**6, batch_size=2)
    assert len(next(stream(model, num_samples=10**6, batch_size=2))) == 2
    with pytest.raises(
        ValueError, match=r"batch_size=1000 clips at once need .* MB.*at most \d+ at"
    ):
        stream(model, num_samples=5, batch_size=1000)


def test_generate_without_a_length_is_refused_and_names_stream() -> None:
    with pytest.raises(ValueError, match=r"seconds or num_samples.*stream"):
        generate(small_model())


def test_a_chunk_size_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        stream(small_model(), chunk_size=0)
    with pytest.raises(ValueError, match=r"9223372036854775808 samples of 1 clips is more than"):
        stream(small_model(), chunk_size=2**63)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("engine", ["naive", "torch"])
def test_logits_that_are_not_finite_are_refused(
    engine: str, temperature: float, bad: float
) -> None:
    model = small_model()
    with torch.no_grad():
        dict(model.named_parameters())["head.3.weight"][7, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        generate(model, num_samples=9, engine=engine, temperature=temperature)


# Logs


def test_auto_says_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="wavenet"):
        generate(small_model(), num_samples=3)
    assert any("engine: native" in record.getMessage() for record in caplog.records)


# Clips of a planned length, and guidance

PRIOR = {
    "log_mean": 5.0,
    "log_std": 0.2,
    "offsets": {"digit": [0.0, 0.5, 1.0], "speaker": [0.0, 0.0]},
}
PLANNED = {"position_hop": 16, "labels": LABELS, "unlabelled": True, "clip_length": PRIOR}


@pytest.mark.parametrize("chunk_size", [1, 15, 16, 17, 1024])
def test_a_planned_clip_does_not_depend_on_how_it_is_asked_for(chunk_size: int) -> None:
    model, labels = small_model(**PLANNED), {"digit": ["0", "2"], "speaker": "ann"}
    whole = generate(
        model, num_samples=100, batch_size=2, labels=labels, engine="torch", precision="float64"
    )
    chunks = stream(
        model,
        num_samples=100,
        batch_size=2,
        labels=labels,
        engine="torch",
        precision="float64",
        chunk_size=chunk_size,
    )
    assert torch.equal(torch.cat(list(chunks), dim=1), whole)


def test_a_planned_clip_is_forward_at_its_places() -> None:
    model, labels = small_model(**PLANNED), {"digit": "1", "speaker": "bob"}
    how = {"engine": "torch", "precision": "float64", "guidance": 0.0}
    codes = CODEC.encode(generate(model, num_samples=70, labels=labels, seed=4, **how))
    logits = model(
        shifted(model, codes), label_ids(LABELS, labels, 1), position=torch.tensor([[0, 70]])
    )[0].T
    assert torch.equal(Sampling().draw(logits, uniforms_of(4, 70)), codes[0])


def test_a_prompt_counts_to_the_planned_clip() -> None:
    model, labels, prompt = small_model(**PLANNED), {"digit": "1", "speaker": "bob"}, some_audio(21)
    how = {"engine": "torch", "precision": "float64", "guidance": 0.0}
    codes = CODEC.encode(
        generate(model, num_samples=50, labels=labels, prompt=prompt, seed=4, **how)
    )
    heard = torch.cat([CODEC.encode(prompt)[None], codes], dim=1)
    logits = model(
        shifted(model, heard), label_ids(LABELS, labels, 1), position=torch.tensor([[0, 71]])
    )[0].T
    assert torch.equal(Sampling().draw(logits[21:], uniforms_of(4, 50)), codes[0])


def test_without_a_length_each_clip_has_one_drawn_by_its_labels_and_seed() -> None:
    model, labels = small_model(**PLANNED), {"digit": ["0", "2", "0"], "speaker": "ann"}
    chunks = stream(model, batch_size=3, labels=labels, seed=3)
    assert chunks.lengths is not None
    audio, lengths = torch.cat(list(chunks), dim=1), chunks.lengths.tolist()
    assert len(set(lengths)) == 3 and lengths[1] > 1.5 * max(lengths[0], lengths[2])
    assert audio.shape == (3, lengths[1])
    silence = float(CODEC.decode(torch.tensor(CODEC.silence)))
    for index, (clip, length) in enumerate(zip(audio, lengths, strict=True)):
        assert clip[length:].eq(silence).all() and not clip[:length].eq(silence).all()
        one = {"digit": labels["digit"][index], "speaker": "ann"}
        assert torch.equal(generate(model, labels=one, seed=3 + index)[0], clip[:length])


def test_lengths_may_differ_between_streams() -> None:
    model = small_model()
    audio = generate(model, num_samples=[30, 50], batch_size=2)
    assert torch.equal(audio[1], generate(model, num_samples=50, seed=1)[0])
    assert (
        torch.equal(audio[0, :30], generate(model, num_samples=30)[0])
        and len(audio[0, 30:].unique()) == 1
    )
    with pytest.raises(ValueError, match="2 lengths for a batch of 3"):
        generate(model, num_samples=[30, 50], batch_size=3)


def test_a_planned_clip_has_an_end() -> None:
    with pytest.raises(ValueError, match="does not know how long they are"):
        stream(small_model(position_hop=16))
    with pytest.raises(ValueError, match="plans its clips"):
        stream(small_model(**PLANNED), seconds=math.inf)
    assert (
        len(list(itertools.islice(stream(small_model(), seconds=math.inf, chunk_size=7), 3))) == 3
    )


def test_guidance_changes_what_is_drawn_and_is_on_for_models_trained_for_it() -> None:
    model, labels = small_model(**PLANNED), {"digit": "1", "speaker": "bob"}
    drawn = [
        generate(model, num_samples=60, labels=labels, guidance=w)
        for w in (None, GUIDANCE, 0.0, 2.0)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2]) and not torch.equal(drawn[1], drawn[3])


def test_a_guided_stream_is_the_same_alone_and_in_a_batch() -> None:
    model, labels = small_model(**PLANNED), {"digit": "1", "speaker": "bob"}
    together = generate(
        model, num_samples=60, batch_size=3, labels=labels, guidance=1.5, prompt=some_audio(20)
    )
    for index, clip in enumerate(together):
        alone = generate(
            model, num_samples=60, labels=labels, guidance=1.5, prompt=some_audio(20), seed=index
        )[0]
        assert torch.equal(alone, clip)


def test_one_label_guides_away_from_what_is_predicted_without_it() -> None:
    model, labels = small_model(**PLANNED), {"digit": "1", "speaker": "bob"}
    how: dict[str, Any] = {"num_samples": 60, "labels": labels, "engine": "cached"}
    by_digit, by_both, plain = (
        generate(model, guidance=w, **how) for w in ({"digit": 2.0}, 2.0, {"digit": 0.0})
    )
    named = generate(model, guidance={"digit": 2.0, "speaker": 2.0}, **how)
    assert torch.equal(named, by_both) and not torch.equal(by_digit, by_both)
    assert torch.equal(plain, generate(model, guidance=0.0, **how))
    # the same by hand: both conditions as features, in pairs
    ids = {name: torch.tensor([model.labels[name].index(labels[name])] * 2) for name in labels}
    ids["digit"][1] = -1
    lengths = torch.tensor([60, 60])
    condition = model.timeline(ids, lengths).between(0, 60)
    given = {"num_samples": 60, "condition": condition, "engine": "cached", "guidance": 2.0}
    assert torch.equal(by_digit, generate(model, **given))


def test_labels_that_cannot_guide_are_refused() -> None:
    model = small_model(**PLANNED)
    with pytest.raises(ValueError, match=r"one strength for all.*digit=1, speaker=0\.5.*stream of"):
        generate(model, num_samples=5, guidance={"digit": 1, "speaker": 0.5})
    with pytest.raises(ValueError, match=r"no label 'pitch' to be guided by\. Its labels are"):
        generate(model, num_samples=5, guidance={"pitch": 1.0})
    with pytest.raises(ValueError, match="but got none"):
        generate(model, num_samples=5, guidance={})


def test_guiding_a_model_that_was_not_trained_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not trained to be guided.*label_dropout"):
        generate(small_model(labels=LABELS), num_samples=5, guidance=1.0)
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        generate(small_model(**PLANNED), num_samples=5, guidance=-1.0)


def test_each_of_many_clips_is_what_generate_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wavenet.generation, "AT_ONCE", 2)
    model = small_model(**PLANNED)
    choices = [{"digit": str(i % 3), "speaker": "ann"} for i in range(5)]
    clips = list(generate_each(model, choices, seed=7))
    for index, (choice, clip) in enumerate(zip(choices, clips, strict=True)):
        assert torch.equal(generate(model, labels=choice, seed=7 + index)[0], clip)


def test_a_stream_tells_the_labels_of_its_clips_given_and_drawn() -> None:
    model = small_model(labels=LABELS)
    chunks = stream(model, num_samples=5, batch_size=3, labels={"digit": "1"}, seed=4)
    assert chunks.labels["digit"] == ["1"] * 3
    assert len(chunks.labels["speaker"]) == 3
    assert set(chunks.labels["speaker"]) <= set(LABELS["speaker"])
    again = stream(model, num_samples=5, batch_size=3, labels=chunks.labels, seed=4)
    assert torch.equal(next(chunks), next(again))


@pytest.mark.parametrize("peak", [9.0, 20000.0])
def test_a_prompt_scaled_like_integers_is_refused(peak: float) -> None:
    prompt = torch.tensor([0.0, peak, -1.0])
    with pytest.raises(ValueError, match=r"A prompt is audio in \[-1, 1\], but got samples up to"):
        generate(small_model(), prompt=prompt, num_samples=3)
