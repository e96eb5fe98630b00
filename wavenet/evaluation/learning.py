"""Owns what the judges share: what a judge is, how its network is trained, how it is asked.

Knows nothing of features, files or scores. Shapes: N clips, T time, K categories.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AT_ONCE = 256  # clips
# Label smoothing. Without it the modified inception score measures how large the logits grow.
SMOOTHING = 0.01
Labels = Mapping[str, Tensor]  # name -> (N,) ids
Probabilities = dict[str, Tensor]  # name -> (N, K) float64


class Judge(nn.Module):
    """audio (N, T) at sample_rate -> logits, name of a label -> (N, K).

    categories: label name -> K.
    clips: how many there are to learn from; for a judge that keeps them.
    """

    def __init__(self, categories: Mapping[str, int], sample_rate: int, clips: int = 0) -> None:
        super().__init__()
        self.categories, self.sample_rate, self.clips = dict(categories), sample_rate, clips

    def learn(self, audio: Tensor, labels: Labels, epochs: int) -> None:
        """From training clips (N, T). What is drawn comes from torch's own generator."""
        raise NotImplementedError


def learned(
    kind: type[Judge],
    audio: Tensor,
    labels: Labels,
    categories: Mapping[str, int],
    sample_rate: int,
    *,
    epochs: int,
    seed: int = 0,
) -> Judge:
    """A judge of that kind that learned from clips (N, T), in eval mode; the same for each seed.

    epochs: over the clips, of a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = kind(categories, sample_rate, clips=len(audio))
        made.learn(audio, labels, epochs)
    return made.eval()


def fit(
    judge: Judge,
    network: Callable[[Tensor], Mapping[str, Tensor]],
    inputs: Tensor,
    changed: Callable[[Tensor], Tensor],
    labels: Labels,
    *,
    epochs: int,
    batch: int,
    rate: float = 4e-3,
) -> None:
    """Trains a judge's network, inputs (N, ...) -> logits, for a fixed number of epochs.

    changed: makes another example of each input, anew in each epoch. rate: the highest learning
    rate. No held-out clip says when to stop.
    """
    require_epochs(epochs)
    batch = min(batch, len(inputs))
    steps = epochs * (len(inputs) // batch)
    optimiser = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 2))
    for chosen in _batches(len(inputs), batch, epochs):
        logits = network(changed(inputs[chosen]))
        losses = [
            F.cross_entropy(logits[name], ids[chosen], label_smoothing=SMOOTHING)
            for name, ids in labels.items()
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
        schedule.step()


def require_epochs(epochs: int) -> None:
    """Raises ValueError for less than one."""
    if epochs < 1:
        raise ValueError(f"The judges need at least one epoch, but got {epochs}.")


def _batches(count: int, size: int, epochs: int) -> Iterator[Tensor]:
    """Rows of full batches, in a new random order each epoch; an incomplete batch is dropped."""
    for _ in range(epochs):
        yield from torch.randperm(count)[: count - count % size].split(size)


@torch.no_grad()
def in_pieces(function: Callable[[Tensor], Tensor], audio: Tensor) -> Tensor:
    """A function of clips (N, T), of a few at once, in float64."""
    return torch.cat([function(piece) for piece in audio.split(AT_ONCE)]).double()


def hear(judge: Judge, audio: Tensor) -> Probabilities:
    """What a judge hears in clips (N, T)."""
    names, counts = list(judge.categories), list(judge.categories.values())

    def logits(piece: Tensor) -> Tensor:
        found = judge(piece)
        return torch.cat([found[name] for name in names], dim=1)

    heard = in_pieces(logits, audio).split(counts, dim=1)
    return {name: values.softmax(1) for name, values in zip(names, heard, strict=True)}
