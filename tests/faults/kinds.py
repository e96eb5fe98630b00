"""Owns the kinds of awkward input: a strategy, what is done with an input, its limits, its share.

Knows nothing of how many are run, or of what is told of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from faults import calls, commands, files, strategies
from faults.sandbox import Limits


@dataclass(frozen=True)
class Kind:
    """share: of the time; batch: inputs that share a child, few where one costs much."""

    name: str
    strategy: SearchStrategy[Any]
    act: Callable[[Any], None]
    share: float
    batch: int = 50
    limits: Limits = field(default_factory=Limits)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("api", strategies.api, calls.call, 2.0),
        Kind("audio array", strategies.audio_arrays, calls.call, 0.5),
        Kind("audio file", strategies.audio_files, files.audio_file, 1.0),
        Kind("corpus", strategies.corpora, files.corpus, 1.0),
        Kind("csv", strategies.csv_files, files.csv_file, 0.7),
        Kind("checkpoint", strategies.checkpoints, files.checkpoint, 1.0),
        Kind("export", strategies.exports, files.export, 1.0),
        Kind("library", strategies.libraries, files.library, 0.4, 4, Limits(30)),
        Kind("generate.py", strategies.generate_flags, commands.generate, 1.5, 20),
        Kind("evaluation", strategies.evaluate_flags, commands.evaluate, 0.7, 10, Limits(20)),
        Kind("train.py", strategies.train_commands, commands.train_flags, 2.5, 5, Limits(20)),
        Kind("yaml", strategies.yaml_files, commands.yaml_file, 1.0, 5, Limits(20)),
        Kind("run folder", strategies.run_folders, commands.run_folder, 1.0, 4, Limits(20)),
    )
}


def draw(kind: Kind, count: int, number: int) -> list[Any]:
    """`count` inputs at most, the same for the same number."""
    drawn: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.strategy)
    def note(case: Any) -> None:
        drawn.append(case)

    note()
    return drawn


def draw_for_ever(kind: Kind, number: int) -> Iterator[list[Any]]:
    """Batches without end, the same for the same number."""
    while True:
        cases = draw(kind, 4 * kind.batch, number)
        for start in range(0, len(cases), kind.batch):
            yield cases[start : start + kind.batch]
        number += 1_000_003
