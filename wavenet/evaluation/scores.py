"""Owns how sets of clips are compared: the scores of the field, from features and probabilities that a classifier gave.

Knows nothing of audio, classifiers or models; needs torch alone. Shapes: N, R clips, D features, K categories, M mel bands,
F mel frames. Everything is computed in float64.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the features' means and covariances. (N, D) each; FID.

    Heusel et al. 2017, eq. 6. 0 where the two agree; few clips bias it upwards, so compare sets of one size. The trace of
    (C1 C2)^(1/2) is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(
            f"A covariance needs at least 2 clips a set, but got {len(one)} and {len(other)}; give more."
        )
    one, other = one.double(), other.double()
    first, second = one.T.cov(), other.T.cov()
    root = _square_root(first)
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    distance = (
        (one.mean(0) - other.mean(0)).square().sum() + first.trace() + second.trace() - 2 * cross
    )
    return float(distance.clamp_min(0))  # rounding can take it just below


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def inception_score(probabilities: Tensor) -> float:
    """exp(E_x KL(p(y|x) || E_x p(y|x))): 1 at worst, K where clips are unmistakable and evenly spread. (N, K).

    Salimans et al. 2016, section 4.
    """
    marginal = probabilities.mean(0)
    return float((_entropy(marginal) - _entropy(probabilities).mean()).exp())


def modified_inception_score(probabilities: Tensor) -> float:
    """exp(E_x E_x' KL(p(y|x) || p(y|x'))), over all pairs of clips: variety within digits counts as well. (N, K).

    Gurumurthy et al. 2017, section 5, without regard to class as Kong et al. 2021, appendix C. Under 1e-20 counts as 1e-20.
    The least probabilities decide it: clips that are like no real one can raise it, so read it beside the others.
    """
    cross = -(probabilities.mean(0) * probabilities.clamp_min(1e-20).log().mean(0)).sum()
    return float((cross - _entropy(probabilities).mean()).exp())


def am_score(probabilities: Tensor, training: Tensor) -> float:
    """KL(E_training p(y|x) || E_x p(y|x)) + E_x H(p(y|x)): 0 where clips are unmistakable and as frequent as in training.

    Zhou et al. 2018, eq. 21. (N, K) each.
    """
    wanted, marginal = training.mean(0), probabilities.mean(0)
    divergence = (torch.xlogy(wanted, wanted) - wanted * marginal.clamp_min(1e-20).log()).sum()
    return float(divergence + _entropy(probabilities).mean())


def _entropy(probabilities: Tensor) -> Tensor:
    """(..., K) -> (...), in nats."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def nearest_distances(mel: Tensor, training: Tensor, shift: int, silence: float) -> Tensor:
    """From each clip of mel (N, M, F) to the nearest of training (R, M, F): (N,) float64, RMS in the unit of mel.

    Each clip is moved by every whole number of frames up to `shift`, either way; `silence` is what moves in, and what
    pads a training clip. The distance is over a training clip's own frames, up to the last that is not all silence:

        training    [ s e v e n . . . . . ]
        clip        [ s e v e n h m m s e ]      a copy, whatever comes after it
    """
    own = (
        (training > silence).any(dim=1).flip(1).cummax(dim=1).values.flip(1).double()
    )  # (R, F): 1 up to its last frame
    references = (training.double() * own.unsqueeze(1)).flatten(1)
    size = training.shape[1] * own.sum(dim=1).clamp_min(1)
    padded = F.pad(mel, (shift, shift), value=silence).double()
    nearest = torch.full((len(mel),), math.inf, dtype=torch.float64)
    for moved in padded.unfold(2, mel.shape[2], 1).unbind(2):  # (N, M, F) each
        squares = (
            moved.square().sum(1) @ own.T
            - 2 * moved.flatten(1) @ references.T
            + references.square().sum(1)
        )
        nearest = torch.minimum(nearest, (squares / size).amin(dim=1))
    return nearest.clamp_min(0).sqrt()


def accuracy(probabilities: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        name: float((p.argmax(1) == labels[name]).double().mean())
        for name, p in probabilities.items()
    }


def confusion(probabilities: Tensor, asked: Tensor) -> list[list[int]]:
    """probabilities (N, K), asked (N,) ids -> counts[asked][heard]."""
    count = probabilities.shape[1]
    return (
        torch.bincount(asked * count + probabilities.argmax(1), minlength=count**2)
        .view(count, count)
        .tolist()
    )
