"""Owns what comes out of a model: a categorical distribution over mu-law codes. Knows nothing of networks or engines.

Every engine draws by the same rule, so that the same uniforms give the same codes everywhere.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn from logits.

    temperature: divides the logits; 1 is the model's own distribution, 0 takes the likeliest code.
    top_k: keep the k likeliest codes; 0 keeps all.
    top_p: keep the fewest likeliest codes whose probabilities reach p; 1 keeps all (Holtzman et al. 2020).
    guidance: w, classifier-free (Ho and Salimans 2022): away from 0, streams come in pairs, of which 2i is told its labels
        and 2i + 1 is not; both take the code drawn for (1 + w) times the logits of the first less w times the second's.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a finite number of at least 0, but got {self.temperature}."
            )
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(
                f"top_k must be an integer of at least 0 (0 keeps all codes), but got {self.top_k!r}."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p must lie above 0 and at most at 1 (1 keeps all codes), but got {self.top_p}."
            )
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(
                f"guidance must be a finite number of at least 0 (0: none), but got {self.guidance}."
            )

    def draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """logits (B, Q), uniforms (B,) in [0, 1) -> codes (B,) int64, by inverse CDF.

        The code is the first whose cumulative probability exceeds u times the total. With guidance B is even, and of each
        pair of uniforms the first one counts.
        """
        if self.guidance:
            self.require_pairs(len(logits))
            told, untold = logits[::2], logits[1::2]
            alone = replace(self, guidance=0.0)
            return alone.draw(
                told + self.guidance * (told - untold), uniforms[::2]
            ).repeat_interleave(2)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        cumulative = self.probabilities(logits).cumsum(dim=-1)
        below_one = (
            1 - torch.finfo(cumulative.dtype).eps / 2
        )  # a finer uniform would round to 1, past the last edge
        edge = uniforms.to(cumulative.dtype).clamp(max=below_one).unsqueeze(-1) * cumulative[:, -1:]
        return (
            torch.searchsorted(cumulative, edge, right=True)
            .squeeze(-1)
            .clamp_(max=logits.shape[-1] - 1)
        )

    def require_pairs(self, streams: int) -> None:
        """Raises ValueError where there is guidance and the streams, those of one place of work, are not pairs."""
        if self.guidance and streams % 2:
            raise ValueError(
                f"Guidance draws for pairs of streams, one told its labels and one not, but there are {streams} together."
            )

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, Q) -> (B, Q) probabilities after temperature, top-k and top-p, at least in float32.

        Ties at the k-th place are all kept; where p is reached between equal codes, the lower code comes first.
        """
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            kth = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        probabilities = logits.softmax(dim=-1)
        if self.top_p < 1:
            ordered, codes = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered
            kept = torch.zeros_like(ordered).scatter(
                -1, codes, torch.where(before < self.top_p, ordered, 0)
            )
            probabilities = kept / kept.sum(dim=-1, keepdim=True)
        return probabilities


def refuse_not_finite(logits: Tensor) -> None:
    """Raises ValueError for NaN or infinite logits: drawn from, they would give codes that look like any others."""
    if not torch.isfinite(logits).all():
        raise ValueError(
            "The model's logits are not finite (NaN or infinity), so there is nothing to draw from: its weights are "
            "damaged or its training diverged. Take an earlier checkpoint, or train with a lower learning rate."
        )


def negative_log_likelihood(logits: Tensor, codes: Tensor) -> Tensor:
    """logits (B, Q, T), codes (B, T) -> nats per sample (B, T), at least in float32."""
    rows = logits.mT.flatten(0, 1)  # (B * T, Q), as the logits lie in memory
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    if (
        torch.compiler.is_compiling()
    ):  # the same, but inductor's gradient of cross_entropy is slow on a CPU
        chosen = torch.arange(rows.shape[1], device=rows.device) == codes.flatten()[:, None]
        return (rows.logsumexp(-1) - torch.where(chosen, rows, 0).sum(-1)).view(codes.shape)
    return F.cross_entropy(rows, codes.flatten(), reduction="none").view(codes.shape)
