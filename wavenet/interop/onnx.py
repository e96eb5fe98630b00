"""Owns the export of modules to ONNX: `forward`, or `step` with its state as named tensors.

    from wavenet.interop import onnx
    onnx.export(amp, "amp.onnx", torch.randn(1, 1, 256))      # one step; amp.npz: the first state
    onnx.export(model, "model.onnx")                          # a WaveNet: samples in, params out

In a graph of `step` the state is `state_0`, `state_1`, ... and comes out as `new_state_0`, ...:
what came out is given back with the next chunk. There is no dict in it, no None and no tensor
without elements. Needs the extra `onnx`, imported when it is used.
examples/speak_onnx.py runs a WaveNet's file with ONNX Runtime and numpy alone.

Shapes: B batch, T time, D condition channels, Q parameters of a sample's distribution.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavenet.conditioning import Condition
from wavenet.files import write_together
from wavenet.installation import require
from wavenet.model import WaveNet

TOLERANCE = 1e-5  # between PyTorch and ONNX Runtime, relative where values are above 1
CHUNKS = (7, 1, 2, 13)  # in which an exported step is tried, in chunk multiples
EXAMPLE = 32  # samples of the example that is traced, in chunk multiples; not 1, which is taken
# for a length that never changes


def export(
    module: nn.Module,
    path: str | Path,
    *inputs: Tensor,
    stateful: bool = True,
    condition: Condition | None = None,
) -> None:
    """Writes the module to an ONNX file, after ONNX Runtime gave what PyTorch gives.

    Stateful, the graph is one `step`, of chunks of any length that is a multiple of the module's
    `chunk_multiple`. Beside NAME.onnx lies NAME.npz with the arrays `state_0`, ... to begin with;
    for a `WaveNet` also `silence`, the first sample, `audio`, what each code sounds like where its
    samples are codes, `preemphasis` a of a model with one, whose audio is x[t] = audio of the
    sample + a x[t - 1], and what steers it: a `condition` that holds for ever, or the frames of a
    clip, `conditions` (B, D, F), with `hop` and `offset` as in `Condition`. Otherwise it is
    `forward`, of any length. The batch is that of the inputs. The file's metadata say
    `receptive_field`, `latency`, `chunk_multiple` and `sample_rate` where the module does, and the
    output of a `WaveNet`.

    Args:
        module: on the CPU, in float32 and in eval mode; one of ours, or any with `init_state` and
            `step` that hold tensors and tuples.
        path: ends in .onnx.
        inputs: an example of what `forward` takes, x (B, C, T) and where it is steered a condition
            (B, D, T or 1). Left out for a `WaveNet`: a batch of 1.
        condition: for a `WaveNet` that is steered, as `model.condition(...)` makes it: it becomes
            an input `condition`, (B, D, 1) where it holds for ever (hop 0), else (B, D, T).

    Raises ValueError for what cannot be exported, or differs from PyTorch by more than 1e-5;
    ImportError (a MissingPackage) that names what is to be installed.
    """
    path = _checked(path, module)
    if condition is not None:  # of a model's embeddings, with their gradient
        condition = condition._replace(features=condition.features.detach())
    if isinstance(module, WaveNet):
        module, inputs, named = _autoregressive(module, inputs, condition)
    else:
        named = ("x", "condition", "y")
    _require_inputs(module, inputs, condition)
    with torch.no_grad():
        graph = _Graph(module, inputs, stateful, named)
        content = _exported(graph)
        _check(graph, content)
    files = {path: content}
    if stateful:
        more = module.shipped() if isinstance(module, _Autoregressive) else {}
        files[path.with_suffix(".npz")] = _archive(graph.start, more)
    write_together(files)


class _Graph(nn.Module):
    """A module whose inputs and outputs are tensors only, with names."""

    def __init__(
        self,
        module: Any,
        inputs: tuple[Tensor, ...],
        stateful: bool,
        named: tuple[str, str, str],
    ) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs
        self.multiple = _said(module, "chunk_multiple") or 1
        self.start: list[Tensor] = []
        self.rebuild: Callable[[Sequence[Tensor]], Any] = lambda tensors: ()
        if stateful:
            self.start, self.rebuild = flat_state(module.init_state(len(inputs[0])))
        self.stateful = stateful
        outputs = self(*inputs, *self.start)
        made = len(outputs) - len(self.start)
        states = range(len(self.start))
        more = [f"{named[1]}_{i}" if i else named[1] for i in range(len(inputs) - 1)]
        self.input_names = [named[0], *more, *(f"state_{i}" for i in states)]
        several = [f"{named[2]}_{i}" for i in range(made)]
        self.output_names = several if made > 1 else [named[2]]
        self.output_names += [f"new_state_{i}" for i in states]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.inputs)
        if not self.stateful:
            return _as_tuple(self.module(*tensors))
        x, *others = tensors[:count]
        y, state = self.module.step(x, self.rebuild(tensors[count:]), *others)
        return (*_as_tuple(y), *flat_state(state)[0])

    @property
    def varying(self) -> list[bool]:
        """Of the inputs, whether they have a time axis of the length of the first."""
        time = self.inputs[0].shape[-1]
        return [x.shape[-1] == time and time > 1 for x in self.inputs]

    def lengthened(self, time: int) -> list[Tensor]:
        """Other inputs of the same kind, of another length."""
        return [
            x[..., torch.randint(x.shape[-1], (time,))] if varies else x
            for x, varies in zip(self.inputs, self.varying, strict=True)
        ]


def flat_state(state: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """A state of nested tuples -> its tensors that have elements, and what builds it from others.

    Tensors without elements, of parts that remember nothing, are made anew by the builder.
    """
    tensors: list[Tensor] = []
    shape = _described(state, tensors)

    def rebuild(given: Sequence[Tensor]) -> Any:
        left = iter(given)
        return _rebuilt(shape, left)

    return tensors, rebuild


def _described(state: Any, tensors: list[Tensor]) -> Any:
    if isinstance(state, Tensor):
        if 0 in state.shape:
            return state
        tensors.append(state)
        return None
    if isinstance(state, tuple | list):
        return tuple(_described(part, tensors) for part in state)
    raise ValueError(
        f"A state must be a tensor, or a tuple of states, to become inputs of a graph, but there "
        f"is a {type(state).__name__} in it."
    )


def _rebuilt(shape: Any, left: Iterator[Tensor]) -> Any:
    if shape is None:
        return next(left)
    return shape if isinstance(shape, Tensor) else tuple(_rebuilt(part, left) for part in shape)


def _as_tuple(y: Any) -> tuple[Tensor, ...]:
    return tuple(y) if isinstance(y, tuple | list) else (y,)


# WaveNet


class _Autoregressive(nn.Module):
    """samples (B, T), condition -> params (B, Q, T): a WaveNet with a flat condition."""

    def __init__(self, model: WaveNet, condition: Condition | None) -> None:
        super().__init__()
        self.model, self.condition = model, condition
        self.hop = 1 if condition is not None and condition.hop else 0  # in the graph
        self.receptive_field, self.sample_rate = model.receptive_field, model.sample_rate
        self.output = {"output": type(model.output).__name__, "levels": model.output.levels}
        if model.config.preemphasis:
            self.output["preemphasis"] = model.config.preemphasis

    def shipped(self) -> dict[str, Tensor]:
        """Arrays that what runs the graph needs beside the state."""
        output = self.model.output
        arrays = {"silence": torch.tensor(output.silence)}
        emphasis = self.model.config.preemphasis
        if emphasis:
            arrays["preemphasis"] = torch.tensor(emphasis)
        if output.categorical:
            audio = output.decode(torch.arange(output.levels))
            arrays["audio"] = audio - audio[output.silence] if emphasis else audio
        if self.condition is None:
            return arrays
        features, hop, offset = self.condition
        if not hop:
            return arrays | {"condition": features}
        place = {"hop": torch.tensor(hop), "offset": torch.tensor(offset)}
        return arrays | {"conditions": features, **place}

    def _condition(self, features: Tensor | None) -> Condition | None:
        return None if features is None else Condition(features, self.hop)

    def forward(self, samples: Tensor, features: Tensor | None = None) -> Tensor:
        return self.model.predict(samples, self._condition(features))

    def init_state(self, batch_size: int) -> Any:
        return self.model.init_state(batch_size)

    def step(self, samples: Tensor, state: Any, features: Tensor | None = None) -> Any:
        return self.model.predict_step(samples, state, self._condition(features))


def _autoregressive(
    model: WaveNet, inputs: tuple[Tensor, ...], condition: Condition | None
) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, str, str]]:
    if len(inputs) > 1:
        raise ValueError("A WaveNet takes samples (B, T), and `condition=` for what steers it.")
    if condition is None and model.config.condition_width:
        raise ValueError(
            "This WaveNet is steered: give condition=model.condition(...), such as "
            "model.condition({'digit': torch.tensor([3])})."
        )
    batch = 1 if condition is None else len(condition.features)
    samples = inputs[0] if inputs else torch.randint(model.output.levels, (batch, EXAMPLE))
    steered = () if condition is None else (condition.over(samples.shape[-1]).contiguous(),)
    names = ("samples", "condition", "params")
    return _Autoregressive(model, condition).eval(), (samples, *steered), names


# To ONNX and back


def _exported(graph: _Graph) -> bytes:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = [
        {x.dim() - 1: dynamic} if varies else {}
        for x, varies in zip(graph.inputs, graph.varying, strict=True)
    ]
    with _quiet():
        program = torch.onnx.export(
            graph,
            (*graph.inputs, *graph.start),
            dynamo=True,
            verbose=False,
            input_names=graph.input_names,
            output_names=graph.output_names,
            dynamic_shapes=((*shapes, *({} for _ in graph.start)),),
        )
    assert program is not None
    proto = program.model_proto
    for name, value in _facts(graph.module).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value) if not isinstance(value, str) else value
    return proto.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of itself and of packages that are not there."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _said(module: Any, name: str) -> Any:
    """What a module says of itself; None where it does not, or cannot."""
    try:
        return getattr(module, name, None)
    except ValueError:  # a Chain with a part that it does not know
        return None


def _facts(module: Any) -> dict[str, Any]:
    """What the file's metadata say."""
    names = ("receptive_field", "latency", "chunk_multiple", "sample_rate")
    facts = {name: _said(module, name) for name in names}
    facts |= module.output if isinstance(module, _Autoregressive) else {}
    return {
        name: value if isinstance(value, str | int) else float(value)
        for name, value in facts.items()
        if value is not None
    }


def _check(graph: _Graph, content: bytes) -> None:
    """Raises ValueError where ONNX Runtime and PyTorch differ, over chunks of several lengths."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    theirs = ours = list(graph.start)
    for number, length in enumerate(CHUNKS):
        inputs = graph.lengthened(length * graph.multiple)
        expected = graph(*inputs, *ours)
        given = {
            name: tensor.numpy()
            for name, tensor in zip(graph.input_names, [*inputs, *theirs], strict=True)
        }
        made = [torch.from_numpy(array) for array in session.run(graph.output_names, given)]
        for name, actual, wanted in zip(graph.output_names, made, expected, strict=True):
            scale = max(1.0, float(wanted.abs().max()))
            error = float((actual - wanted).abs().max()) if actual.shape == wanted.shape else 1e9
            if not error <= TOLERANCE * scale:
                raise ValueError(
                    f"ONNX Runtime and PyTorch differ by {error:.2g} in {name}, chunk {number} of "
                    f"{length * graph.multiple} samples; nothing was written."
                )
        states = len(graph.start)
        ours, theirs = list(expected[len(expected) - states :]), made[len(made) - states :]


def _archive(states: Sequence[Tensor], more: dict[str, Tensor]) -> bytes:
    import numpy as np

    named = {f"state_{i}": state for i, state in enumerate(states)} | more
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in named.items()})  # type: ignore
    return buffer.getvalue()


# What is refused


def _checked(path: str | Path, module: nn.Module) -> Path:
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"ONNX files end in .onnx, but got '{path}'.")
    require("The export to ONNX", "onnx", "onnxscript", "onnxruntime", extra="onnx")
    if module.training:
        raise ValueError(f"{type(module).__name__} is in training mode; call eval() first.")
    wrong = {
        f"{part.dtype} on {part.device}".replace("torch.", "")
        for part in module.parameters()
        if part.dtype != torch.float32 or part.device.type != "cpu"
    }
    if wrong:
        raise ValueError(
            f"{type(module).__name__} has parameters of {', '.join(sorted(wrong))}; export it in "
            "float32 on the CPU: module.float().cpu()."
        )
    return path


def _require_inputs(
    module: nn.Module, inputs: tuple[Tensor, ...], condition: Condition | None
) -> None:
    name, multiple = type(module).__name__, _said(module, "chunk_multiple") or 1
    if not inputs:
        raise ValueError(
            f"Give an example of what {name}.forward takes, such as torch.randn(1, channels, "
            f"{EXAMPLE * multiple})."
        )
    if condition is not None and not isinstance(module, _Autoregressive):
        raise ValueError(f"`condition=` is for a WaveNet; give that of {name} after x.")
    time = inputs[0].shape[-1]
    if time <= multiple or time % multiple:
        raise ValueError(
            f"The example is of {time} samples, but must be a multiple of {multiple} and longer, "
            "so that its length is not taken for one that never changes."
        )
