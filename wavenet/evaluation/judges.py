"""Owns the ensemble that judges spoken digits: three judges of different features, and their vote.

    log-mel CNN     a network on a log-mel spectrogram (`classifier`)
    waveform CNN    a network on raw samples (`waveform`)
    MFCC nearest    the nearest training clips by mel cepstra (`cepstra`)

They learn from training clips alone, and are kept on disk, by the clips, the settings and the code
that they came from. Knows nothing of WaveNet or scores. Shapes: N clips, T time, K categories.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from wavenet.conditioning import filterbank
from wavenet.evaluation import cepstra, classifier, learning, waveform
from wavenet.evaluation.classifier import Classifier
from wavenet.evaluation.learning import Judge, Labels, Probabilities, hear, learned
from wavenet.files import cache_folder, write_whole

logger = logging.getLogger(__name__)

SCORER = "log-mel CNN"  # whose features and probabilities the scores are of
KINDS: dict[str, type[Judge]] = {
    SCORER: Classifier,
    "waveform CNN": waveform.WaveformClassifier,
    "MFCC nearest": cepstra.NearestCepstra,
}
VOTE = "vote"  # the name of the ensemble among its judges
SOURCES = (filterbank, learning, classifier, waveform, cepstra)  # what judges depend on


class Ensemble:
    """Judges by their names, and their majority."""

    def __init__(self, judges: Mapping[str, Judge]) -> None:
        self.judges = dict(judges)

    @property
    def names(self) -> list[str]:
        """The vote first."""
        return [VOTE, *self.judges]

    def hear(self, audio: Tensor) -> dict[str, Probabilities]:
        """Of clips (N, T): what each judge hears, by its name; "vote": the shares of the votes."""
        heard = {name: hear(judge, audio) for name, judge in self.judges.items()}
        labels = next(iter(heard.values()))
        votes = {label: voted([found[label] for found in heard.values()]) for label in labels}
        return {VOTE: votes, **heard}

    def features(self, audio: Tensor) -> Tensor:
        """(N, D) of clips (N, T), of the log-mel judge: what the Frechet distance compares."""
        judge = self.judges[SCORER]
        assert isinstance(judge, Classifier)
        return learning.in_pieces(judge.features, audio)


def voted(heard: Sequence[Tensor]) -> Tensor:
    """Probabilities (N, K) of each judge -> shares of the votes (N, K).

    Each judge has one vote. Where there is no majority the mean probability decides: it counts for
    less than a vote.
    """
    votes = torch.stack([F.one_hot(p.argmax(1), p.shape[1]).to(p) for p in heard]).mean(0)
    return (votes + torch.stack(list(heard)).mean(0) / (2 * len(heard))) / (
        1 + 1 / (2 * len(heard))
    )


def ensemble(
    audio: Tensor,
    labels: Labels,
    categories: Mapping[str, int],
    sample_rate: int,
    *,
    epochs: int,
    seed: int = 0,
) -> Ensemble:
    """The judges that learned from these clips (N, T), taken from the disk where they are there.

    Raises ValueError for less than one epoch.
    """
    about = {"categories": dict(categories), "rate": sample_rate, "epochs": epochs, "seed": seed}
    digest = _digest(audio, labels, about)
    folder, judges = cache_folder() / "judges" / digest, {}
    for name, kind in KINDS.items():
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        judge = _kept(kind(categories, sample_rate, clips=len(audio)), path)
        if judge is None:
            logger.info("training a judge, once for these clips: %s", name)
            from_clips = (audio, labels, categories, sample_rate)
            judge = learned(kind, *from_clips, epochs=epochs, seed=seed)
            _keep(judge, path)
        judges[name] = judge
    return Ensemble(judges)


def _digest(audio: Tensor, labels: Labels, about: Mapping[str, Any]) -> str:
    """Of all that judges come from: clips, labels, settings, code and torch's version."""
    made = hashlib.sha256(json.dumps([about, torch.__version__], sort_keys=True).encode())
    for source in SOURCES:
        assert source.__file__ is not None
        made.update(Path(source.__file__).read_bytes())
    for values in (audio, *(labels[name] for name in sorted(labels))):
        made.update(str(tuple(values.shape)).encode())
        made.update(values.contiguous().numpy().tobytes())
    return made.hexdigest()[:24]


def _kept(judge: Judge, path: Path) -> Judge | None:
    """The judge with its weights from the file; None where there is none, or a damaged one."""
    with suppress(OSError, ValueError, RuntimeError, safetensors.SafetensorError):
        judge.load_state_dict(safetensors.torch.load(path.read_bytes()))
        return judge.eval()
    return None


def _keep(judge: Judge, path: Path) -> None:
    """A cache that cannot be written costs a training each time, and is no error."""
    with suppress(OSError):
        write_whole(path, safetensors.torch.save(judge.state_dict()))
