"""Properties of the scores: cases computed by hand, and copies of training clips that are found."""

import math

import pytest
import torch
from torch import Tensor

from wavenet.evaluation.scores import (
    am_score,
    confusion,
    frechet_distance,
    inception_score,
    modified_inception_score,
    nearest_distances,
    share,
    shares,
)

SILENCE, SHIFT = -11.5, 4
PERFECT = torch.eye(4, dtype=torch.float64).repeat(5, 1)
UNDECIDED = torch.full((20, 4), 0.25, dtype=torch.float64)


def gaussian(mean: list[float], covariance: Tensor) -> Tensor:
    """50 points with exactly this mean and covariance."""
    points = torch.randn(50, len(mean), dtype=torch.float64)
    points -= points.mean(0)
    white = points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T
    return white @ torch.linalg.cholesky(covariance).T + torch.tensor(mean, dtype=torch.float64)


def some_mel(count: int, frames: int = 30) -> Tensor:
    return SILENCE + 8 * torch.rand(count, 5, frames)


def test_frechet_distance_of_diagonal_gaussians_is_the_known_formula() -> None:
    one = gaussian([0.0, 1.0, -2.0], torch.diag(torch.tensor([4.0, 1.0, 9.0]).double()))
    other = gaussian([3.0, 1.0, 2.0], torch.diag(torch.tensor([1.0, 1.0, 0.25]).double()))
    assert frechet_distance(one, other) == pytest.approx(9 + 16 + (2 - 1) ** 2 + 0 + (3 - 0.5) ** 2)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    one = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    other = torch.tensor([[5.0, 0.0], [0.0, 1.0]]).double()
    product = one @ other  # the root of a 2 x 2 matrix has trace sqrt(trace + 2 sqrt(determinant))
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = float(one.trace() + other.trace()) - 2 * root
    measured = frechet_distance(gaussian([0.0, 0.0], one), gaussian([0.0, 0.0], other))
    assert measured == pytest.approx(expected) and expected > 0.1


def test_frechet_distance_is_zero_to_itself_even_with_fewer_points_than_features() -> None:
    features = torch.randn(4, 9)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="at least 2 clips a set, but got 1 and 4"):
        frechet_distance(features[:1], features)


def test_inception_scores_of_perfect_undecided_and_collapsed_clips() -> None:
    assert inception_score(PERFECT) == pytest.approx(4)
    assert inception_score(UNDECIDED) == pytest.approx(1)
    assert inception_score(PERFECT[:1].repeat(20, 1)) == pytest.approx(1)


def test_modified_inception_score_is_the_mean_divergence_over_all_pairs() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    pairs = [(p * (p / q).log()).sum() for p in probabilities for q in probabilities]
    assert modified_inception_score(probabilities) == pytest.approx(
        float(torch.stack(pairs).mean().exp())
    )
    assert modified_inception_score(UNDECIDED) == pytest.approx(1)
    assert math.isfinite(modified_inception_score(PERFECT))


def test_am_score_adds_missing_digits_and_uncertainty() -> None:
    assert am_score(PERFECT, PERFECT) == pytest.approx(0)
    assert am_score(UNDECIDED, PERFECT) == pytest.approx(math.log(4))
    # as frequent as in training, but each clip is between two digits
    half = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]).double()
    assert am_score(half, PERFECT) == pytest.approx(math.log(2))
    skewed = torch.eye(2).double()[[0, 0, 0, 1]]  # KL((1/2, 1/2) || (3/4, 1/4))
    assert am_score(skewed, torch.eye(2).double()) == pytest.approx(
        0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    )


def test_confusion_counts_predictions_by_requested_digit() -> None:
    predicted = torch.eye(3)[[0, 1, 1, 2]]
    requested = torch.tensor([0, 0, 1, 2])
    assert confusion(predicted, requested) == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_shares_are_counted_for_all_clips_and_for_each_group() -> None:
    heard, asked = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 2, 1])
    (all_of_them,) = shares(heard, asked)
    assert (all_of_them.right, all_of_them.total, all_of_them.fraction) == (3, 5, 0.6)
    groups = shares(heard, asked, groups=asked)
    assert [(one.right, one.total) for one in groups] == [(1, 2), (1, 2), (1, 1)]
    assert [one.total for one in shares(heard, asked, groups=torch.tensor([0, 0, 2, 2, 2]))] == [
        *(2, 0, 3)
    ]


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # roots of |p - x| = 1.96 sqrt(x (1 - x) / n), Wilson's own equation
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (90, 100, 0.82563, 0.94477),
        (1140, 1200, 0.936169, 0.960959),
    ],
)
def test_the_interval_of_a_share_is_wilsons(
    right: int, total: int, low: float, high: float
) -> None:
    found = share(right, total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    for bound in {found.low, found.high} - {0.0, 1.0}:
        deviation = 1.959964 * math.sqrt(bound * (1 - bound) / total)
        assert abs(right / total - bound) == pytest.approx(deviation, abs=1e-7)


def test_nearest_distance_is_the_root_mean_square_in_the_unit_of_the_spectrogram() -> None:
    training = some_mel(3)
    louder = training[1:2] + 0.1
    assert nearest_distances(louder, training, 0, SILENCE).item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("shift", [0, 1, -3, SHIFT, -SHIFT])
def test_a_shifted_copy_of_a_training_clip_is_found(shift: int) -> None:
    silent = torch.full((7, 5, SHIFT), SILENCE)
    training = torch.cat([silent, some_mel(7), silent], dim=2)
    queries = torch.cat(
        [training[4:5].roll(shift, dims=2), torch.cat([silent, some_mel(7), silent], dim=2)]
    )
    distances = nearest_distances(queries, training, SHIFT, SILENCE)
    assert distances[0] < 1e-5 and distances[1:].min() > 0.5


def test_a_copy_shifted_too_far_is_not_found() -> None:
    silent = torch.full((2, 5, 2 * SHIFT), SILENCE)
    training = torch.cat([silent, some_mel(2), silent], dim=2)
    assert nearest_distances(training.roll(SHIFT + 1, dims=2), training, SHIFT, SILENCE).min() > 1


def test_a_copy_is_found_whatever_follows_it() -> None:
    training = torch.cat([some_mel(7), torch.full((7, 5, 20), SILENCE)], dim=2)
    longer = training[2:3].clone()
    longer[:, :, 30:] = some_mel(1, frames=20)
    assert nearest_distances(longer, training, SHIFT, SILENCE) < 1e-5
    # The other way round, all frames of the longer clip count.
    assert nearest_distances(training[2:3], longer, SHIFT, SILENCE) > 1
