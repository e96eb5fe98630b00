"""Owns the model card that goes to the Hugging Face Hub with a model: its fields and first text.

Knows nothing of networks: it is told what there is to say.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wavenet.installation import DISTRIBUTION, to_install
from wavenet.version import __version__

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the Hub writes them: cc-by-sa-4.0
TAGS = ("wavenet", "audio", "raw-audio")
SHOWN = 12  # categories of a label


@dataclass(frozen=True)
class Facts:
    """What a card says of a model.

    Args:
        sample_rate: Hz.
        output: What the samples are, in words.
        parameters: Numbers in the network.
        receptive_field: In samples.
        labels: Names and categories.
        bands: Of the mel frames that steer it; 0: none do.
        given: Whether these frames are another program's.
        planned: Whether it draws the lengths of its clips.
    """

    sample_rate: int
    output: str
    parameters: int
    receptive_field: int
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bands: int = 0
    given: bool = False
    planned: bool = False


def checked_license(license: str | None) -> str | None:
    """Raises ValueError for what is no identifier of a licence on the Hub."""
    if license is None or (isinstance(license, str) and LICENCE.fullmatch(license)):
        return license
    raise ValueError(
        f"license is the Hub's name for one, in lower case (mit, apache-2.0, cc-by-sa-4.0, other), "
        f"but got {license!r}."
    )


def card(repo_id: str, facts: Facts, license: str | None = None) -> str:
    """The text of README.md for user/model.

    The Hub has no task for audio from labels or from nothing: text-to-audio is the one under which
    it lists models that make sound. A vocoder makes a recording again: audio-to-audio.
    """
    return (
        f"{_fields(facts, license)}\n# {repo_id.rpartition('/')[2]}\n\n"
        f"A WaveNet: it makes audio sample by sample, at {facts.sample_rate} Hz. "
        f"Saved by {DISTRIBUTION} {__version__}; loading it runs no code.\n\n"
        f"```\n{to_install('hub')}\n```\n\n```python\n{_program(repo_id, facts)}```\n\n"
        f"{_table(facts)}\n## Data\n\nNot described yet: say what it was trained on, and what it "
        f"may be used for.\n\n## Licence\n\n{license or 'None was named.'}\n"
    )


def _fields(facts: Facts, license: str | None) -> str:
    tags = [*TAGS, *["vocoder"] * bool(facts.bands)]
    fields = {
        "library_name": DISTRIBUTION,
        **({"license": license} if license else {}),
        "pipeline_tag": "audio-to-audio" if facts.bands else "text-to-audio",
        "tags": f"[{', '.join(tags)}]",
    }
    return "---\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "---\n"


def _program(repo_id: str, facts: Facts) -> str:
    """From the Hub to a wav, in Python."""
    settings = "" if facts.planned or facts.bands else ", seconds=2"
    settings += ", mel=frames" if facts.bands else ""
    if facts.labels:
        choice = {name: categories[0] for name, categories in facts.labels.items()}
        settings += f", labels={json.dumps(choice, ensure_ascii=False)}"
    frames = ""
    if facts.given:
        frames = 'frames = torch.load("frames.pt")  # (bands, frames) of that other program\n'
    elif facts.bands:
        frames = (
            'recording = load_audio("in.wav", model.sample_rate)\n'
            "frames = model.mel.spectrogram(recording, model.sample_rate)\n"
        )
    files = "load_audio, save_audio" if facts.bands and not facts.given else "save_audio"
    return (
        f"import {'torch, ' * facts.given}wavenet\nfrom wavenet.audio import {files}\n\n"
        f"model = wavenet.WaveNet.from_pretrained({json.dumps(repo_id)})\n{frames}"
        f"audio = wavenet.generate(model{settings}, seed=0)\n"
        'save_audio("out.wav", audio[0], model.sample_rate)\n'
    )


def _table(facts: Facts) -> str:
    reach = facts.receptive_field
    rows = {
        "samples": facts.output,
        **{f"label `{_cell(n)}`": _categories(facts.labels[n]) for n in facts.labels},
        **({"steered by": f"log mel frames of {facts.bands} bands"} if facts.bands else {}),
        "parameters": f"{facts.parameters / 1e6:.2f} M",
        "receptive field": f"{reach} samples, {1000 * reach / facts.sample_rate:.3g} ms",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows.items())


def _categories(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(_cell, names[:SHOWN])) + more


def _cell(text: str) -> str:
    """A name of somebody's choice, as plain text in a table of Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))
