"""What packages for streaming convolutions offer, each cell tried: ours, two others, and torch.

    python -m venv offers
    offers/bin/pip install -e '.[onnx]' pytorch-tcn==1.2.3 cached-conv==2.5.0
    offers/bin/python benchmarks/offers.py

Prints a table in Markdown, and what the cells' numbers refer to. `yes` is the outcome of a run:
what was streamed, from silence, is what the same module gives of the whole signal, within 1e-4.
`not offered`: the package has no spelling of it, in `offered.py`; then there is nothing to run.
Modules are small and random, the signal is noise, so that an error is as large as the signal.
"""

import importlib.metadata
import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import torch
import torch.nn.functional as F
from offered import CHUNK, PACKAGES, CachedConv, NotOffered, Package
from torch import Tensor, nn

TOLERANCE = 1e-4
TIME = 48  # samples of a signal
UNEVEN = (7, 1, 2, 13, 25)


def uneven(x: Tensor) -> list[Tensor]:
    return list(x.split(UNEVEN, dim=-1))


def even(x: Tensor) -> list[Tensor]:
    return list(x.split(CHUNK, dim=-1))


def verdict(made: Tensor, wanted: Tensor) -> str:
    """yes, or by how much it is wrong."""
    if made.shape != wanted.shape:
        return f"{made.shape[-1]} samples of {wanted.shape[-1]}"
    error = float((made - wanted).abs().max())
    return "yes" if error <= TOLERANCE else f"wrong by {error:.2g}"


def worst(*verdicts: str) -> str:
    return next((said for said in verdicts if said != "yes"), "yes")


def streams(
    package: Package,
    module: nn.Module,
    late: int = 0,
    cut: Callable[[Tensor], list[Tensor]] = even,
    batch: int = 1,
) -> str:
    """Whether the chunks put together are the whole, so many outputs late."""
    x = torch.randn(batch, 2, TIME)
    stream = package.start(module, batch)
    made = torch.cat([package.push(stream, part) for part in cut(x)], dim=-1)
    wanted = package.whole(module, x)
    return verdict(made[..., late:], wanted[..., : wanted.shape[-1] - late])


def causal(package: Package) -> str:
    module, x = package.convolution(), torch.randn(1, 2, TIME)
    other = torch.cat([x[..., :20], torch.randn(1, 2, TIME - 20)], dim=-1)
    return verdict(package.whole(module, other)[..., :20], package.whole(module, x)[..., :20])


def lookahead(package: Package) -> str:
    """Late by what the module says; beside torch's padding on both sides."""
    module, late = package.lookahead()
    weights = dict(module.named_parameters())
    prefix = "plain." if isinstance(module, CachedConv.Twin) else ""
    x = torch.randn(1, 2, TIME)
    stream = package.start(module, 1)
    made = torch.cat([package.push(stream, part) for part in even(x)], dim=-1)
    wanted = F.conv1d(x, weights[f"{prefix}weight"], weights[f"{prefix}bias"], padding=2)
    return verdict(made[..., late:], wanted[..., : TIME - late])


def place_of_state(package: Package, module: nn.Module) -> str:
    """hidden: a buffer of the module was written; none: what came before changes nothing."""
    x, silence = torch.randn(1, 2, CHUNK), torch.zeros(1, 2, CHUNK)
    stream = package.start(module, 1)
    package.push(stream, silence)  # makes buffers that are made late
    before = {name: value.clone() for name, value in module.named_buffers()}
    package.push(stream, x)
    written = any(not torch.equal(value, before[name]) for name, value in module.named_buffers())
    after = package.push(stream, silence)
    stream = package.start(module, 1)
    package.push(stream, silence)
    if torch.equal(package.push(stream, silence), after):
        return "none"
    return "hidden" if written else "explicit"


def interleaved(package: Package, module: nn.Module) -> str:
    """Two streams, a chunk of each in turn."""
    signals = torch.randn(2, 1, 2, TIME).unbind()
    both = [package.start(module, 1) for _ in signals]
    made: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parts in zip(*map(even, signals), strict=True):
        for stream, part, outputs in zip(both, parts, made, strict=True):
            outputs.append(package.push(stream, part))
    wanted = [package.whole(module, x) for x in signals]
    return worst(*(verdict(torch.cat(y, -1), w) for y, w in zip(made, wanted, strict=True)))


def conditioned(package: Package) -> str:
    module = package.steered()
    x, condition = torch.randn(1, 2, TIME), torch.randn(1, 3, TIME)
    wanted = package.whole(module, x, condition)
    if torch.equal(package.whole(module, x, -condition), wanted):
        return "no effect"
    stream = package.start(module, 1)
    parts = zip(even(x), even(condition), strict=True)
    return verdict(torch.cat([package.push(stream, *both) for both in parts], dim=-1), wanted)


def gradient(package: Package) -> str:
    """Of the last chunk with respect to the first samples, as of the whole."""
    module = package.convolution(dilation=8)  # a history of 32 samples
    whole = torch.randn(1, 2, TIME, requires_grad=True)
    streamed = whole.detach().clone().requires_grad_()
    with torch.enable_grad():
        stream = package.start(module, 1)
        last = [package.push(stream, part) for part in even(streamed)][-1]
        last.square().sum().backward()
        package.whole(module, whole)[..., -CHUNK:].square().sum().backward()
    assert streamed.grad is not None and whole.grad is not None
    return verdict(streamed.grad, whole.grad)


def fork(package: Package) -> str:
    module, x, other = package.convolution(), torch.randn(1, 2, TIME), torch.randn(1, 2, CHUNK)
    stream = package.start(module, 1)
    *before, last = even(x)
    for part in before:
        package.push(stream, part)
    second = package.fork(stream)
    made = [package.push(stream, last), package.push(second, other)]
    wholes = [x, torch.cat([*before, other], dim=-1)]
    wanted = [package.whole(module, y)[..., -CHUNK:] for y in wholes]
    return worst(*map(verdict, made, wanted))


def exported(package: Package, module: nn.Module) -> str:
    step, state = package.graph(module)
    run = torch.export.export(step, (torch.zeros(1, 2, CHUNK), *state)).module()
    return _graph_streams(package, module, lambda x, past: run(x, *past), state)


def onnx(package: Package, module: nn.Module) -> str:
    step, state = package.graph(module)
    inputs, buffer = (torch.zeros(1, 2, CHUNK), *state), io.BytesIO()
    program = torch.onnx.export(step, inputs, dynamo=True, verbose=False)
    assert program is not None
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    names = [given.name for given in session.get_inputs()]

    def run(x: Tensor, past: tuple[Tensor, ...]) -> list[Tensor]:
        given = {name: y.numpy() for name, y in zip(names, (x, *past), strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, given)]

    return _graph_streams(package, module, run, state)


def _graph_streams(package: Package, module: nn.Module, run: Any, state: Any) -> str:
    x, made = torch.randn(1, 2, TIME), []
    for part in even(x):
        outputs = run(part, state)
        y, *state = outputs if isinstance(outputs, tuple | list) else (outputs,)
        made.append(y)
    said = verdict(torch.cat(made, dim=-1), package.whole(module, x))
    return "yes, hidden" if said == "yes" and not state else said


TRIED: dict[str, Callable[[Package], str]] = {
    "causal": causal,
    "lookahead, with its latency": lookahead,
    "state of a convolution": lambda p: place_of_state(p, p.convolution()),
    "state of a network": lambda p: place_of_state(p, p.network()),
    "streams: a convolution": lambda p: streams(p, p.convolution()),
    "streams: a list of dilations": lambda p: streams(p, p.network()),
    "streams: a batch of 4": lambda p: streams(p, p.convolution(), batch=4),
    "streams: a batch of 100": lambda p: streams(p, p.convolution(), batch=100),
    "streams: chunks of 7, 1, 2, 13, 25": lambda p: streams(p, p.convolution(), cut=uneven),
    "streams: kernel size 1": lambda p: streams(p, p.convolution(kernel=1)),
    "streams: a condition": conditioned,
    "streams: weight norm": lambda p: streams(p, p.normed()),
    "streams: stride 2": lambda p: streams(p, *p.strided()),
    "streams: transposed, stride 2": lambda p: streams(p, *p.transposed()),
    "two streams in one convolution": lambda p: interleaved(p, p.convolution()),
    "two streams in one network": lambda p: interleaved(p, p.network()),
    "a fork of a stream": fork,
    "gradient through a stream": gradient,
    "torch.export, a convolution": lambda p: exported(p, p.convolution()),
    "torch.export, a network": lambda p: exported(p, p.network()),
    "ONNX, a convolution": lambda p: onnx(p, p.convolution()),
    "ONNX, a network": lambda p: onnx(p, p.network()),
}


def tried(attempt: Callable[[Package], str], package: Package) -> tuple[str, str]:
    """A cell, and the reason where the package raised one."""
    torch.manual_seed(0)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt(package), ""
    except NotOffered:
        return "not offered", ""
    except Exception as error:  # whatever a package raises is the outcome
        said = re.sub(r"\s+", " ", str(error)).strip()
        return "raises", f"{type(error).__name__}: {said[:150]}{'...' * (len(said) > 150)}"


def main() -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = [p.distribution for p in PACKAGES]
    heads = [f"{name} {importlib.metadata.version(name).split('+')[0]}" for name in names]
    print(f"| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    reasons: list[str] = []
    for what, attempt in TRIED.items():
        cells = []
        for package in PACKAGES:
            cell, reason = tried(attempt, package)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{cell} ({reasons.index(reason) + 1})" if reason else cell)
        print(f"| {what} | {' | '.join(cells)} |", flush=True)
    print(*(f"\n{number}. {reason}" for number, reason in enumerate(reasons, 1)), sep="")


if __name__ == "__main__":
    main()
