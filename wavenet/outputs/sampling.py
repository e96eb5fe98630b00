"""Owns how a sample is drawn from a distribution: `Sampling`, and guidance before it.

Every engine draws by the same rule, so that the same uniforms give the same samples everywhere.
Knows nothing of networks or engines.
"""

from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Of an output that is not categorical, temperature alone; see `Mixture.draw`.

    temperature: divides the logits; 1 is the model's own distribution, 0 takes the likeliest code.
    top_k: keep the k likeliest codes; 0 keeps all.
    top_p: keep the fewest likeliest codes whose probabilities reach p; 1 keeps all
        (Holtzman et al. 2020).
    guidance: w, classifier-free guidance (Ho and Salimans 2022), see `guided`; 0 for none.
    """

    temperature: float = field(
        default=1.0,
        metadata={"help": "below 1 safer, 0 takes the likeliest code every time"},
    )
    top_k: int = field(
        default=0, metadata={"help": "draw among the k likeliest codes; 0: among all"}
    )
    top_p: float = field(
        default=1.0, metadata={"help": "draw among the likeliest codes that reach p; 1: among all"}
    )
    guidance: float = field(
        default=0.0,
        metadata={
            "help": "push each prediction away from the one made without labels, or with digit=0.5 "
            "without that label; 0: do not; for a model trained for it, as fsdd was",
            "default": "0.5 for such a model, 0 for others",
        },
    )

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "guidance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"{name} must be a number, but got {value!r}.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a finite number of at least 0, but got {self.temperature}."
            )
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise ValueError(
                f"top_k must be an integer of at least 0 (0 keeps all codes), but got "
                f"{self.top_k!r}."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p must lie above 0 and at most at 1 (1 keeps all codes), but got "
                f"{self.top_p}."
            )
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(
                f"guidance must be a finite number of at least 0 (0: none), but got "
                f"{self.guidance}."
            )

    def draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """logits (B, Q), uniforms (B,) in [0, 1) -> codes (B,) int64, by inverse CDF.

        The code is the first whose cumulative probability exceeds u times the total.
        """
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        cumulative = self.probabilities(logits).cumsum(dim=-1)
        # A finer uniform would round to 1, past the last edge.
        below_one = 1 - torch.finfo(cumulative.dtype).eps / 2
        share = uniforms.to(cumulative.dtype).clamp(max=below_one)
        edge = share.unsqueeze(-1) * cumulative[:, -1:]
        codes = torch.searchsorted(cumulative, edge, right=True).squeeze(-1)
        return codes.clamp_(max=logits.shape[-1] - 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, Q) -> (B, Q) after temperature, top-k and top-p, at least in float32.

        Ties at the k-th place are all kept; where p is reached between equal codes, the lower code
        comes first.
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
            kept = torch.where(before < self.top_p, ordered, 0)
            kept = torch.zeros_like(ordered).scatter(-1, codes, kept)
            probabilities = kept / kept.sum(dim=-1, keepdim=True)
        return probabilities


def guided(params: Tensor, guidance: float) -> Tensor:
    """params (2B, Q), conditional and unconditional ones in turn -> (B, Q): c + w (c - u).

    Classifier-free guidance: each prediction is pushed away from the one made without labels
    (Ho and Salimans 2022, equation 6, of logits).
    """
    conditional, unconditional = params[::2], params[1::2]
    return conditional + guidance * (conditional - unconditional)


def require_finite(params: Tensor) -> None:
    """Raises ValueError for NaN or infinity: what is drawn from them looks like other samples."""
    if not torch.isfinite(params).all():
        raise ValueError(
            "The model's logits are not finite (NaN or infinity), so there is nothing to draw "
            "from: its weights are damaged or its training diverged. Take an earlier checkpoint, "
            "or train with a lower learning rate."
        )
