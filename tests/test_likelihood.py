"""Properties of the exact likelihood: the same however it is computed, and a distribution's."""

import math
from typing import Any

import pytest
import torch
from conftest import LABELS, assert_close, shifted, small_model, some_codes, some_labels
from torch import Tensor

from wavenet import Mel, MuLaw, WaveNet, bits_per_sample, nats_per_sample

CODEC = MuLaw()
NAMED = {"digit": ["0", "1", "2"], "speaker": ["bob", "ann", "bob"]}  # some_labels(3) by name


def by_hand(model: WaveNet, codes: Tensor, labels: dict[str, Tensor] | None = None) -> Tensor:
    """-ln p of each code, one forward over all that went before it at a time: (B, T)."""
    heard, columns = shifted(model, codes), []
    for t in range(codes.shape[1]):
        logits = model(heard[:, : t + 1], labels)[..., -1]
        columns.append(-logits.log_softmax(dim=-1)[torch.arange(len(codes)), codes[:, t]])
    return torch.stack(columns, dim=1).detach()


def uniform(model: WaveNet) -> WaveNet:
    with torch.no_grad():
        for parameter in model.head[3].parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"labels": LABELS}, {"kernel_size": 3}, {"kernel_size": 1}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nats_are_those_of_a_loop_over_prefixes(
    settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model, codes = small_model(dtype=dtype, **settings), some_codes(3, 40)
    labels = some_labels(3) if model.labels else None
    expected = by_hand(model, codes, labels)
    for chunk_size in (1, 7, 39, 40, 41):
        assert_close(
            nats_per_sample(model, codes, labels, chunk_size).detach(),
            expected,
            f"chunk size {chunk_size}",
        )


def test_the_first_sample_is_scored_from_silence() -> None:
    model, codes = small_model(), some_codes(1, 5)
    first = -model(torch.full((1, 1), CODEC.silence))[0, :, 0].log_softmax(-1)[codes[0, 0]]
    assert_close(nats_per_sample(model, codes)[0, 0], first)


@pytest.mark.parametrize("chunk_size", [1, 13, 300, 1000, 16384])
def test_bits_do_not_depend_on_the_chunk_size(chunk_size: int) -> None:
    model, codes = small_model(labels=LABELS), some_codes(3, 300)
    bits = bits_per_sample(model, codes, NAMED, chunk_size=chunk_size)
    expected = nats_per_sample(model, codes, some_labels(3)).mean().item() / math.log(2)
    assert bits == pytest.approx(expected, rel=1e-12) and 7 < bits < 12


def test_bits_of_a_batch_are_those_of_its_clips_alone() -> None:
    model, codes = small_model(labels=LABELS), some_codes(3, 90)
    alone = [
        bits_per_sample(
            model, codes[index], {name: values[index] for name, values in NAMED.items()}
        )
        for index in range(3)
    ]
    assert bits_per_sample(model, codes, NAMED) == pytest.approx(sum(alone) / 3, rel=1e-12)
    assert max(alone) - min(alone) > 1e-3


@pytest.mark.parametrize("as_tensor", [False, True])
def test_lengths_leave_out_what_lies_beyond_and_weigh_every_sample_the_same(
    as_tensor: bool,
) -> None:
    model, codes, lengths = small_model(), some_codes(3, 90), [90, 1, 37]
    nats = [
        nats_per_sample(model, codes[i : i + 1, :n]).sum().item() for i, n in enumerate(lengths)
    ]
    given = torch.tensor(lengths) if as_tensor else lengths
    bits = bits_per_sample(model, codes, lengths=given)
    assert bits == pytest.approx(sum(nats) / sum(lengths) / math.log(2), rel=1e-12)
    codes[1, 1:], codes[2, 37:] = 7, 9
    assert bits_per_sample(model, codes, lengths=given) == bits


def test_audio_is_scored_as_its_codes() -> None:
    model, codes = small_model(), some_codes(2, 60)
    bits = bits_per_sample(model, codes)
    assert bits_per_sample(model, CODEC.decode(codes)) == bits
    assert bits_per_sample(model, codes.to(torch.uint8)) == bits
    assert isinstance(bits, float)


def test_a_uniform_model_needs_exactly_eight_bits() -> None:
    assert bits_per_sample(uniform(small_model()), some_codes(2, 100)) == pytest.approx(
        8.0, abs=1e-12
    )
    assert bits_per_sample(
        uniform(small_model(dtype=torch.float32)), some_codes(2, 100)
    ) == pytest.approx(8, abs=1e-6)


def test_the_probabilities_of_all_clips_sum_to_one() -> None:
    """Every clip of two samples, 65,536 of them: the model is a distribution over clips."""
    model, total = small_model(), 0.0
    with torch.inference_mode():
        for first in torch.arange(256).split(16):
            clips = torch.cartesian_prod(first, torch.arange(256))  # (16 * 256, 2)
            total += float(nats_per_sample(model, clips).sum(dim=1).neg().exp().sum())
    assert total == pytest.approx(1.0, abs=1e-12)


def test_no_sample_is_scored_with_itself_or_what_follows_in_view() -> None:
    model, codes = small_model(), some_codes(1, 50)
    before = nats_per_sample(model, codes)
    for t in (0, 1, 20, 49):
        moved = codes.clone()
        moved[:, t] = (moved[:, t] + 100) % 256
        assert torch.equal(nats_per_sample(model, moved)[:, :t], before[:, :t])


def test_labels_change_the_likelihood() -> None:
    model, codes = small_model(labels=LABELS), some_codes(2, 50)
    bits = {
        digit: bits_per_sample(model, codes, {"digit": digit, "speaker": "ann"})
        for digit in LABELS["digit"]
    }
    assert len(set(bits.values())) == 3


def test_likelihood_can_be_trained_through() -> None:
    model, codes = small_model(), some_codes(2, 30)
    parameters = list(model.parameters())
    chunked = torch.autograd.grad(nats_per_sample(model, codes, chunk_size=7).sum(), parameters)
    whole = torch.autograd.grad(nats_per_sample(model, codes).sum(), parameters)
    for actual, expected in zip(chunked, whole, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (2, 3, 4), ()])
def test_audio_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(time,\) or \(batch, time\)") as error:
        bits_per_sample(small_model(), torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    "lengths",
    [
        [5],
        [5, 5, 5],
        [0, 5],
        [-1, 5],
        [5, 11],
        [[5, 5]],
        [math.nan, 5],
        [2**63, 5],
        [1.5, 5],
        [5.0, 5.0],
        [True, True],
        [5 + 0j, 5],
        [None, 5],
        "55",
        {},
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_refused(lengths: Any) -> None:
    with pytest.raises(ValueError, match=r"2 numbers in 1\.\.10"):
        bits_per_sample(small_model(), some_codes(2, 10), lengths=lengths)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"\['digit', 'speaker'\]"),
        ({"digit": "1"}, r"\['digit', 'speaker'\]"),
        ({"digit": "1", "speaker": "eve"}, "'eve'.*ann, bob"),
        ({"digit": "1", "speaker": "ann", "pitch": "c"}, "'pitch'"),
        ({"digit": ["1"], "speaker": "ann"}, "1 categories for a batch of 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bits_per_sample(small_model(labels=LABELS), some_codes(2, 10), labels)


def test_nan_and_chunks_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="1 NaN samples"):
        bits_per_sample(small_model(), torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="chunk_size"):
        bits_per_sample(small_model(), some_codes(1, 5), chunk_size=0)


@pytest.mark.parametrize("chunk_size", [None, 1.5, "5", True, math.nan])
def test_a_chunk_size_that_is_no_whole_number_is_refused(chunk_size: Any) -> None:
    with pytest.raises(ValueError, match="chunk_size must be an integer of at least 1"):
        bits_per_sample(small_model(), some_codes(1, 5), chunk_size=chunk_size)


@pytest.mark.parametrize("codes", [[-1, 5], [3, 256], [5, -100]])
def test_codes_out_of_range_are_refused(codes: list[int]) -> None:
    seen = f"from {min(codes)} to {max(codes)}"
    with pytest.raises(ValueError, match=rf"in 0\.\.255, but got values {seen}"):
        bits_per_sample(small_model(), torch.tensor(codes))


@pytest.mark.parametrize(
    ("audio", "seen"),
    [
        (torch.zeros(5, dtype=torch.complex64), "complex64"),
        (torch.ones(5, dtype=torch.bool), "bool"),
        ([0.0, 0.1], "float"),
        (None, "NoneType"),
    ],
    ids=str,
)
def test_what_is_neither_audio_nor_samples_is_refused(audio: Any, seen: str) -> None:
    with pytest.raises(ValueError, match=f"takes a tensor of audio.*but got .*{seen}"):
        bits_per_sample(small_model(), audio)


@pytest.mark.parametrize("chunk_size", [1, 13, 16, 16384])
def test_a_model_that_knows_its_position_is_told_each_clips_length(chunk_size: int) -> None:
    model, codes, lengths = (
        small_model(position_hop=16, labels=LABELS),
        some_codes(3, 60),
        [60, 41, 17],
    )
    clips = [
        bits_per_sample(model, codes[i, :n], {name: values[i] for name, values in NAMED.items()})
        for i, n in enumerate(lengths)
    ]
    mean = sum(bits * n for bits, n in zip(clips, lengths, strict=True)) / sum(lengths)
    assert bits_per_sample(
        model, codes, NAMED, lengths=lengths, chunk_size=chunk_size
    ) == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("shape", [(), (5,), (2, 0), (1, 2, 3)])
def test_samples_of_another_shape_have_no_nats(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"nats_per_sample takes samples \(batch, time\)"):
        nats_per_sample(small_model(), torch.zeros(shape, dtype=torch.int64))


def test_lengths_of_another_number_of_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths must be 2 numbers in 1\.\.10"):
        nats_per_sample(small_model(), some_codes(2, 10), lengths=torch.ones(3, dtype=torch.int64))


# --- lists, ranges, channels ------------------------------------------------------------------


@pytest.mark.parametrize("as_samples", [False, True])
def test_a_list_of_clips_gives_a_figure_for_each(as_samples: bool) -> None:
    model = small_model(labels=LABELS)
    clips = [0.3 * torch.randn(length).clamp(-3, 3) for length in (40, 7, 21)]
    if as_samples:
        clips = [CODEC.encode(clip) for clip in clips]
    alone = [
        bits_per_sample(model, clip, {name: each[index] for name, each in NAMED.items()})
        for index, clip in enumerate(clips)
    ]
    assert bits_per_sample(model, clips, NAMED) == pytest.approx(alone, rel=1e-6)
    assert bits_per_sample(model, clips[:1], {"digit": "0", "speaker": "bob"}) == [
        pytest.approx(alone[0])
    ]


def test_many_clips_go_through_the_network_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or 300 clips of two seconds would need some 20 GB."""
    model, seen = small_model(labels=LABELS, position_hop=16), []
    step = model.predict_step

    def counted(inputs: Tensor, *others: Any) -> Any:
        seen.append(len(inputs))
        return step(inputs, *others)

    clips = list(some_codes(37, 20))
    labels = {"digit": [str(i % 3) for i in range(37)], "speaker": "bob"}
    alone = [
        bits_per_sample(model, clip, {"digit": str(i % 3), "speaker": "bob"})
        for i, clip in enumerate(clips)
    ]
    monkeypatch.setattr(model, "predict_step", counted)
    assert bits_per_sample(model, clips, labels) == pytest.approx(alone, rel=1e-6)
    assert seen == [16, 16, 5]


def test_labels_and_frames_of_another_number_of_clips_have_no_nats() -> None:
    codes, labels = some_codes(2, 8), some_labels(3)
    with pytest.raises(ValueError, match="digit is of 3 clips, and the samples of 2"):
        nats_per_sample(small_model(labels=LABELS), codes, labels)
    model = small_model(mel=Mel(bands=4, hop=4, window=8))
    with pytest.raises(ValueError, match="mel is of 1 clips, and the samples of 2"):
        nats_per_sample(model, codes, mel=torch.zeros(1, 4, 2))


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "got list"),
        ([torch.zeros(2, 4)], r"one clip \(time,\) in each place"),
        ([torch.zeros(4), torch.zeros(4, dtype=torch.int64)], "all of audio or all of samples"),
        ([torch.zeros(4), "a.wav"], "got str"),
        ([torch.zeros(4), torch.zeros(0)], r"got \(0,\)"),
    ],
)
def test_a_list_of_other_things_is_refused(clips: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bits_per_sample(small_model(), clips)
    with pytest.raises(ValueError, match="leave out lengths"):
        bits_per_sample(small_model(), [torch.zeros(4)], lengths=[4])


@pytest.mark.parametrize("peak", [9, 127, 20000])
def test_audio_scaled_like_integers_is_refused(peak: int) -> None:
    with pytest.raises(ValueError, match=rf"in \[-1, 1\], but got samples up to {peak}.*32768"):
        bits_per_sample(small_model(), torch.tensor([0.0, float(peak)]))


@pytest.mark.parametrize("alike", [True, False])
def test_two_clips_that_look_like_stereo_are_named(
    alike: bool, caplog: pytest.LogCaptureFixture
) -> None:
    left, other = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)) / 8
    bits_per_sample(small_model(), torch.stack([left, left + other / 4 if alike else other]))
    assert ("not stereo" in caplog.text) == alike


def test_forward_takes_samples_as_whole_clips_where_no_position_is_given() -> None:
    model = small_model(position_hop=16)
    with torch.no_grad():
        for table in (model.position_embedding.since, model.position_embedding.left):
            table.weight.normal_()
    codes = some_codes(2, 30)
    nats = model.output.nats(model(codes), torch.cat([codes[:, 1:], codes[:, :1]], dim=1))
    exact = nats_per_sample(model, codes)
    field = model.receptive_field  # forward reads no silence before the first sample
    assert_close(nats[:, field - 1 : -1], exact[:, field:])
