"""Owns the published scores that compare sets of clips, from a classifier's output.

Knows nothing of audio, classifiers or models; needs only torch. Shapes: N, R clips, D features,
K categories, M mel bands, F mel frames. Everything is computed in float64.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NORMAL_95 = 1.959963984540054  # a normal variable lies within so many deviations 95% of the time


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """FID: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), from features (N, D) of two sets.

    m: mean, C: covariance (Heusel et al. 2017, eq. 6). It is 0 where both agree. Few clips bias it
    upwards, so compare sets of the same size. The trace of (C1 C2)^(1/2) is computed as that of
    (C1^(1/2) C2 C1^(1/2))^(1/2), which is equal to it and symmetric.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"A covariance needs at least 2 clips a set, but got {len(one)} and {len(other)}; "
            "give more."
        )
    one, other = one.double(), other.double()
    first, second = one.T.cov(), other.T.cov()
    root = _square_root(first)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    distance = (
        (one.mean(0) - other.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross
    )
    return float(distance.clamp_min(0))  # rounding can make it slightly negative


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def inception_score(probabilities: Tensor) -> float:
    """exp(E_x KL(p(y|x) || E_x p(y|x))) of probabilities (N, K); Salimans et al. 2016, section 4.

    From 1, the worst, to K, where every clip is clear and all categories are equally frequent.
    """
    marginal = probabilities.mean(0)
    return float((_entropy(marginal) - _entropy(probabilities).mean()).exp())


def modified_inception_score(probabilities: Tensor) -> float:
    """exp(E_x E_x' KL(p(y|x) || p(y|x'))) of probabilities (N, K), over all pairs of clips.

    It also rewards variety within a digit. Gurumurthy et al. 2017, section 5, here over all classes
    together, as in Kong et al. 2021, appendix C. Probabilities below 1e-20 count as 1e-20. The
    smallest probabilities dominate it, so clips unlike any real one can raise it: read it together
    with the other scores.
    """
    cross = -(probabilities.mean(0) * probabilities.clamp_min(1e-20).log().mean(0)).sum()
    return float((cross - _entropy(probabilities).mean()).exp())


def am_score(probabilities: Tensor, training: Tensor) -> float:
    """KL(E_training p(y|x) || E_x p(y|x)) + E_x H(p(y|x)); Zhou et al. 2018, eq. 21. (N, K) each.

    0 where every clip is clear and the categories are as frequent as in the training clips.
    """
    wanted, marginal = training.mean(0), probabilities.mean(0)
    divergence = (torch.xlogy(wanted, wanted) - wanted * marginal.clamp_min(1e-20).log()).sum()
    return float(divergence + _entropy(probabilities).mean())


def _entropy(probabilities: Tensor) -> Tensor:
    """(..., K) -> (...), in nats."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def nearest_distances(mel: Tensor, training: Tensor, shift: int, silence: float) -> Tensor:
    """The distance of each clip of mel (N, M, F) to its nearest clip of training (R, M, F).

    (N,) float64, RMS in the unit of mel. Each clip is shifted by every whole number of frames up to
    `shift`, in both directions; `silence` fills the gap, and is the padding of the training clips.
    Only a training clip's own frames count, up to its last frame that is not all silence:

        training    [ s e v e n . . . . . ]
        clip        [ s e v e n h m m s e ]      a copy, whatever follows it
    """
    # (R, F): 1 up to the last frame of each training clip that is not silent, 0 after it
    own = (training > silence).any(dim=1).flip(1).cummax(dim=1).values.flip(1).double()
    references = (training.double() * own.unsqueeze(1)).flatten(1)
    size = training.shape[1] * own.sum(dim=1).clamp_min(1)
    padded = F.pad(mel, (shift, shift), value=silence).double()
    nearest = torch.full((len(mel),), math.inf, dtype=torch.float64)
    for moved in padded.unfold(2, mel.shape[2], 1).unbind(2):  # (N, M, F) each
        # |a - b|^2 = a^2 - 2 a b + b^2 over own frames: products, instead of a tensor (N, R, M, F)
        squares = (
            moved.square().sum(1) @ own.T
            - 2 * moved.flatten(1) @ references.T
            + references.square().sum(1)
        )
        nearest = torch.minimum(nearest, (squares / size).amin(dim=1))
    return nearest.clamp_min(0).sqrt()


def confusion(probabilities: Tensor, asked: Tensor) -> list[list[int]]:
    """probabilities (N, K), asked (N,) ids -> counts[asked][heard]."""
    count = probabilities.shape[1]
    return (
        torch.bincount(asked * count + probabilities.argmax(1), minlength=count**2)
        .view(count, count)
        .tolist()
    )


@dataclass(frozen=True)
class Share:
    """How many of so many, with the bounds of its 95% confidence interval, as fractions."""

    right: int
    total: int
    low: float
    high: float

    @property
    def fraction(self) -> float:
        return self.right / self.total if self.total else math.nan


def share(right: int, total: int) -> Share:
    """With Wilson's interval (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4).

    Near 0 and 1, and for few clips, it holds what the usual interval does not.
    """
    if not total:
        return Share(0, 0, 0.0, 1.0)
    p, z = right / total, NORMAL_95
    middle, widened = p + z * z / (2 * total), 1 + z * z / total
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low, high = (middle - half) / widened, (middle + half) / widened
    return Share(right, total, max(0.0, min(p, low)), min(1.0, max(p, high)))  # p: of rounding


def shares(heard: Tensor, asked: Tensor, groups: Tensor | None = None) -> list[Share]:
    """Right answers: heard, asked (N,) ids -> one for all clips, or one for each id of `groups`.

    groups: (N,) ids, each of 0..max there.
    """
    right = heard == asked
    if groups is None:
        return [share(int(right.sum()), len(right))]
    numbers = range(int(groups.max()) + 1)
    return [share(int(right[groups == n].sum()), int((groups == n).sum())) for n in numbers]
