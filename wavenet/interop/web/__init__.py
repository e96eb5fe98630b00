"""Owns a page that plays a model: one HTML file with the network, which runs in the browser.

    from wavenet.interop import web
    web.export(model, "folder")                       # folder/index.html

It needs neither a server nor a network. The native engine's C++ runs in it as WebAssembly, in
float32: for the same labels, seed and settings the page gives what `wavenet.generate` gives, up to
ties within float error. Needs the extra `web`, a compiler, imported when it is used.

packing.py: the weights and tables as they are read there. building.py: the compiler. player.cpp: a
clip from its seed to its audio. worker.js runs it, page.js and page.html are what is seen.
"""

import base64
import json
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from wavenet.files import write_whole
from wavenet.generation import sampling_for
from wavenet.interop.web.building import VECTORS, webassembly
from wavenet.interop.web.packing import arrays, constants, require_playable
from wavenet.model import WaveNet

HERE = Path(__file__).parent
SECONDS = 2.0  # of a clip at first, from a model that does not draw its length
LONGEST = 600  # seconds of a clip


def export(
    model: WaveNet, folder: str | os.PathLike[str], *, name: str = "WaveNet", credit: str = ""
) -> Path:
    """Writes FOLDER/index.html, complete or not at all, and returns its path.

    Args:
        model: on the CPU, of codes, steered by labels and position at most.
        name: the model's, as the page shows it and as `wavenet generate --checkpoint` takes it.
        credit: a line at the foot: whose the weights and the corpus are, and under which licence.

    Raises ValueError for a model that a page cannot play, by name, and where the network does not
    compile; MissingPackage, which is one too, without ziglang.
    """
    require_playable(model)
    module = webassembly(constants(model, VECTORS))
    path = Path(folder, "index.html")
    write_whole(path, page(model, module, name, credit).encode())
    return path


def page(model: WaveNet, module: bytes, name: str, credit: str) -> str:
    """The HTML text. module: the network's WebAssembly."""
    packed, residual_scale = arrays(model, VECTORS)
    rate = model.sample_rate
    facts = f"{model.num_parameters / 1e6:.2f} M parameters, {rate / 1000:g} kHz. It runs here, "
    return Template(_text("page.html")).substitute(
        title=escape(f"{name}: a WaveNet in this page"),
        facts=facts + "in this browser: nothing is sent or fetched.",
        fields="\n".join(_fields(model)),
        narrowing="\n".join(_narrowing()),
        rate=rate,
        highest=f"{rate / 2000:g}",
        credit=escape(credit),
        settings=_json(_settings(model, name, residual_scale)),
        wasm=_base64(module),
        arrays=_base64(packed),
        worker=_text("worker.js"),
        script=_text("page.js"),
    )


def _settings(model: WaveNet, name: str, residual_scale: float) -> dict[str, Any]:
    return {
        "checkpoint": name,
        "rate": model.sample_rate,
        "labels": model.labels,
        "drawsLengths": model.draws_lengths,
        "residualScale": residual_scale,
    }


def _fields(model: WaveNet) -> Iterator[str]:
    """What a clip is drawn with, but for its labels."""
    yield _field("seed", "seed", 'required inputmode="numeric" pattern="[0-9]{1,19}" value="0"')
    length = f'type="number" min="{1 / model.sample_rate}" max="{LONGEST}" step="any"'
    if model.draws_lengths:
        yield _field("seconds", "seconds (empty: drawn)", length)
    else:
        yield _field("seconds", "seconds", f'{length} required value="{SECONDS:g}"')
    yield _number("temperature", "temperature", 0, 1)
    if model.unlabelled:
        yield _number("guidance", "guidance (0: none)", 0, sampling_for(model).guidance)


def _narrowing() -> Iterator[str]:
    yield _number("topK", "the k likeliest (0: all)", 0, 0, 'step="1" data-flag="--top-k"')
    more = 'max="1" step="any" data-flag="--top-p" title="above 0 and at most 1"'
    yield _number("topP", "the likeliest that reach p (1: all)", 0.001, 1, more)


def _number(name: str, label: str, least: float, usual: float, more: str = 'step="any"') -> str:
    at_first = f'value="{usual:g}" data-usual="{usual:g}"'
    return _field(name, label, f'type="number" required min="{least}" {at_first} {more}')


def _field(name: str, label: str, attributes: str) -> str:
    control = f'<input id="{name}" name="{name}" autocomplete="off" {attributes}>'
    return f'<div><label for="{name}">{label}</label>{control}</div>'


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """Inside a script element: no tag ends it."""
    return json.dumps(value).replace("<", "\\u003c")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
