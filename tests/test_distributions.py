"""Properties of drawing codes: one rule, written again here as a plain loop."""

import math

import pytest
import torch
from conftest import assert_close, some_codes, some_uniforms
from torch import Tensor

from wavenet import Sampling
from wavenet.ops import cross_entropy

LARGEST = 1 - 2**-24  # that torch.rand gives in float32


def logits_of(*probabilities: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log().to(dtype)


def some_logits(rows: int, classes: int = 256, dtype: torch.dtype = torch.float64) -> Tensor:
    return (
        3
        * torch.randn(
            rows, classes, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
    ).to(dtype)


def draw_by_loop(probabilities: list[float], u: float) -> int:
    """The first code whose cumulative probability exceeds u times the total."""
    total = 0.0
    for probability in probabilities:
        total += probability
    reached = 0.0
    for code, probability in enumerate(probabilities):
        reached += probability
        if reached > u * total:
            return code
    raise AssertionError("u must lie below 1")


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5), Sampling(2.0), Sampling(0.9, 7), Sampling(1.0, 0, 0.8)]
)
def test_draw_is_the_inverse_cdf_of_a_plain_loop(sampling: Sampling) -> None:
    logits, uniforms = some_logits(500), some_uniforms(500, 1)[:, 0].double()
    rows = sampling.probabilities(logits).tolist()
    expected = [draw_by_loop(row, u) for row, u in zip(rows, uniforms.tolist(), strict=True)]
    codes = sampling.draw(logits, uniforms)
    assert codes.tolist() == expected and codes.dtype == torch.int64
    assert len(set(expected)) > 80


def test_uniforms_on_an_edge_belong_to_the_code_above() -> None:
    logits = logits_of(0.25, 0.25, 0.5).expand(5, -1)
    uniforms = torch.tensor([0.0, 0.25 - 1e-9, 0.25, 0.5, LARGEST], dtype=torch.float64)
    assert Sampling().draw(logits, uniforms).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 0.75, LARGEST])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3), Sampling(top_p=0.6)])
def test_codes_of_no_probability_are_never_drawn(
    dtype: torch.dtype, u: float, sampling: Sampling
) -> None:
    """Zeros in front, between and behind, for many totals.

    Rounding must not carry u * total over the last edge.
    """
    logits = some_logits(2000, 37, dtype)
    logits[:, :5] = logits[:, 20:23] = logits[:, 30:] = -torch.inf
    codes = sampling.draw(logits, torch.full((2000,), u))
    assert (sampling.probabilities(logits).gather(1, codes[:, None]) > 0).all()


def test_double_uniforms_below_one_stay_below_one() -> None:
    """1 - 2^-53 rounds to 1 in float32, which is beyond the last edge."""
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert Sampling().draw(logits, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7), Sampling(top_k=5), Sampling(top_p=0.9)]
)
def test_evenly_spaced_uniforms_give_each_code_its_share(sampling: Sampling) -> None:
    n, logits = 20000, some_logits(1, 23)
    counts = sampling.draw(logits.expand(n, -1), (torch.arange(n) + 0.5) / n).bincount(minlength=23)
    assert float((counts - n * sampling.probabilities(logits)[0]).abs().max()) <= 1


def test_random_uniforms_give_each_code_its_share() -> None:
    n, logits = 50000, some_logits(1, 12) / 3
    expected = n * logits.softmax(-1)[0]
    counts = Sampling().draw(logits.expand(n, -1), some_uniforms(n, 1)[:, 0]).bincount(minlength=12)
    assert float(expected.min()) > 50
    assert (
        float(((counts - expected).square() / expected).sum()) < 40
    )  # chi square, 11 degrees: 1 in 30,000


# Temperature, top-k, top-p


def test_temperature_divides_the_logits() -> None:
    logits = some_logits(4)
    assert_close(Sampling(0.7).probabilities(logits), (logits / 0.7).softmax(-1))
    assert torch.equal(Sampling().probabilities(logits), logits.softmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1e-30])
def test_no_temperature_takes_the_likeliest_whatever_the_uniform(temperature: float) -> None:
    logits = some_logits(300)
    for u in (0.0, 0.5, LARGEST):
        codes = Sampling(temperature).draw(logits, torch.full((300,), u))
        assert torch.equal(codes, logits.argmax(-1))
    assert len(codes.unique()) > 50


@pytest.mark.parametrize("k", [1, 2, 40, 255])
def test_top_k_keeps_the_k_likeliest_in_proportion(k: int) -> None:
    logits = some_logits(50)
    kept, full = Sampling(top_k=k).probabilities(logits), logits.softmax(-1)
    assert ((kept > 0).sum(-1) == k).all()
    for row, whole in zip(kept, full, strict=True):
        best = set(whole.argsort(descending=True)[:k].tolist())
        assert set(row.nonzero().flatten().tolist()) == best
        assert_close(row[list(best)], whole[list(best)] / whole[list(best)].sum())


@pytest.mark.parametrize("k", [0, 256, 1000])
def test_top_k_of_none_or_all_keeps_all(k: int) -> None:
    assert torch.equal(Sampling(top_k=k).probabilities(some_logits(5)), some_logits(5).softmax(-1))


def test_ties_at_the_kth_place_are_all_kept() -> None:
    assert_close(
        Sampling(top_k=2).probabilities(logits_of(0.4, 0.2, 0.2, 0.2)),
        logits_of(0.4, 0.2, 0.2, 0.2).softmax(-1),
    )


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, [2]),
        (0.49, [2]),
        (0.51, [2, 0]),
        (0.74, [2, 0]),
        (0.76, [2, 0, 3]),
        (0.86, [2, 0, 3]),
        (0.88, [2, 0, 3, 1]),
        (0.99, [2, 0, 3, 1]),
        (1.0, [2, 0, 3, 1]),
    ],
)
def test_top_p_keeps_the_fewest_likeliest_that_reach_p(top_p: float, kept: list[int]) -> None:
    given = [0.25, 0.1249, 0.5, 0.1251]
    probabilities = Sampling(top_p=top_p).probabilities(logits_of(*given))[0]
    assert sorted(probabilities.nonzero().flatten().tolist()) == sorted(kept)
    total = sum(given[code] for code in kept)
    expected = [given[code] / total if code in kept else 0.0 for code in range(4)]
    assert_close(probabilities, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9, 0.999])
def test_top_p_keeps_no_code_too_many_and_none_too_few(top_p: float) -> None:
    logits = some_logits(200)
    full, kept = logits.softmax(-1), Sampling(top_p=top_p).probabilities(logits) > 0
    mass = (full * kept).sum(-1)
    least = torch.where(kept, full, torch.inf).min(-1).values
    assert (mass >= top_p - 1e-9).all() and (mass - least < top_p + 1e-9).all()
    assert (torch.where(kept, 0.0, full).max(-1).values <= least).all()


def test_top_p_between_equal_codes_takes_the_lower_first() -> None:
    kept = Sampling(top_p=0.6).probabilities(logits_of(0.2, 0.2, 0.2, 0.2, 0.2))[0]
    assert (kept > 0).tolist() == [True, True, True, False, False]


def test_temperature_comes_before_top_p_and_top_k_before_both_are_normalised() -> None:
    logits = logits_of(0.5, 0.3, 0.1, 0.1)
    assert (Sampling(0.25, top_p=0.85).probabilities(logits)[0] > 0).tolist() == [
        True,
        False,
        False,
        False,
    ]
    assert (Sampling(top_k=2, top_p=0.6).probabilities(logits)[0] > 0).tolist() == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 9), Sampling(top_p=0.7)])
def test_half_precision_logits_are_drawn_from_in_float32(sampling: Sampling) -> None:
    logits, uniforms = some_logits(200, dtype=torch.bfloat16), some_uniforms(200, 1)[:, 0]
    assert sampling.probabilities(logits).dtype == torch.float32
    assert torch.equal(sampling.draw(logits, uniforms), sampling.draw(logits.float(), uniforms))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature .*-0.1"),
        ({"temperature": math.inf}, "temperature .*inf"),
        ({"temperature": math.nan}, "temperature .*nan"),
        ({"top_k": -1}, "top_k .*-1"),
        ({"top_k": 2.5}, "top_k .*2.5"),
        ({"top_k": True}, "top_k .*True"),
        ({"top_p": 0.0}, "top_p .*0.0"),
        ({"top_p": 1.01}, "top_p .*1.01"),
        ({"top_p": -0.5}, "top_p .*-0.5"),
        ({"top_p": math.nan}, "top_p .*nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]


# Likelihood


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_negative_log_likelihood_is_that_of_log_softmax(dtype: torch.dtype) -> None:
    codes = some_codes(3, 11)
    logits = some_logits(3 * 11, dtype=dtype).view(3, 11, 256).transpose(1, 2)
    for given in (logits, logits.contiguous()):  # (B, Q, T) in either layout
        expected = torch.stack(
            [
                torch.stack([-given[b, :, t].log_softmax(-1)[codes[b, t]] for t in range(11)])
                for b in range(3)
            ]
        )  # fmt: skip
        assert_close(cross_entropy(given, codes), expected)
        assert_close(torch.compile(cross_entropy, backend="eager")(given, codes), expected)


def test_negative_log_likelihood_of_half_precision_is_float32() -> None:
    codes, logits = (
        some_codes(2, 5),
        some_logits(10, dtype=torch.bfloat16).view(2, 5, 256).transpose(1, 2),
    )
    nats = cross_entropy(logits, codes)
    assert nats.dtype == torch.float32
    assert_close(nats, cross_entropy(logits.float(), codes))
