"""Exported graphs are the modules, in ONNX Runtime, over clips that are streamed in any chunks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_files
import onnxruntime
import pytest
import torch
from conftest import LABELS, assert_close, small_model, some_labels
from torch import Tensor, nn

from wavenet import (
    CausalConv1d,
    CausalConvTranspose1d,
    CausalStridedConv1d,
    Chain,
    Condition,
    MixtureOfLogistics,
    Sampling,
    WaveNet,
)
from wavenet.engines import build_engine
from wavenet.interop import nam, onnx

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
import speak_onnx  # noqa: E402


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_amp() -> nam.NAM:
    layers = tuple(
        nam.LayerSettings(3, dilation, {"type": "Tanh"}, "gated", {"type": "Sigmoid"})
        for dilation in (1, 4)
    )
    array = nam.ArraySettings(1, 1, 3, 3, layers, head_size=1, head_kernel=2, head_bias=True)
    return nam.NAM(nam.Settings((array,), head_scale=0.5), sample_rate=44100).eval()


def codec() -> Chain:
    return Chain(
        CausalStridedConv1d(1, 4, 4, 2),
        nn.ELU(),
        CausalConv1d(4, 4, 3, dilation=2),
        CausalConvTranspose1d(4, 1, 4, 2),
    ).eval()


def streamed(path: Path, inputs: dict[str, Tensor], lengths: list[int], shipped: Any) -> Tensor:
    """By ONNX Runtime, chunk by chunk; inputs as long as the first are cut."""
    session = onnxruntime.InferenceSession(str(path))
    state = {name: value for name, value in shipped.items() if name.startswith("state")}
    first = next(iter(inputs.values()))
    assert sum(lengths) == first.shape[-1]
    start, made = 0, []
    for length in lengths:
        cut = {
            name: x[..., start : start + length] if x.shape[-1] == first.shape[-1] else x
            for name, x in inputs.items()
        }
        y, *new = session.run(None, {name: x.numpy() for name, x in cut.items()} | state)
        state = {f"state_{i}": value for i, value in enumerate(new)}
        made.append(torch.from_numpy(y))
        start += length
    names = [output.name for output in session.get_outputs()][1:]
    assert names == [f"new_{name}" for name in sorted(state, key=lambda n: int(n[6:]))]
    return torch.cat(made, dim=-1)


@pytest.mark.parametrize(("build", "states"), [(tiny_amp, 3), (codec, 3)], ids=["amp", "codec"])
def test_a_step_that_was_exported_streams_as_forward(
    build: Callable[[], nn.Module], states: int, tmp_path: Path
) -> None:
    module, path = build(), tmp_path / "module.onnx"
    onnx.export(module, path, noise(2, 1, 32))
    x, shipped = noise(2, 1, 90, seed=1), dict(np.load(path.with_suffix(".npz")))
    assert len(shipped) == states and all(value.size for value in shipped.values())
    with torch.no_grad():
        expected = module(x)
    for lengths in ([90], [2] * 45, [32, 8, 50], [6, 64, 20]):
        assert_close(streamed(path, {"x": x}, lengths, shipped), expected, lengths)
    if not isinstance(module, nam.NAM):
        return
    assert_close(streamed(path, {"x": x}, [1] * 90, shipped), expected)
    facts = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert facts["sample_rate"] == "44100"
    assert int(facts["receptive_field"]) == module.receptive_field


def test_a_forward_that_was_exported_takes_any_length(tmp_path: Path) -> None:
    chain, path = Chain(CausalConv1d(2, 3, 3), nn.GELU()).eval(), tmp_path / "forward.onnx"
    onnx.export(chain, path, noise(2, 2, 20), stateful=False)
    assert [file.name for file in tmp_path.iterdir()] == ["forward.onnx"]
    session = onnxruntime.InferenceSession(str(path))
    for time in (1, 20, 77):
        x = noise(2, 2, time, seed=time)
        (y,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            assert_close(torch.from_numpy(y), chain(x))


def test_a_model_takes_samples_and_a_condition_that_varies(tmp_path: Path) -> None:
    model = small_model(
        dtype=torch.float32,
        layers_per_cycle=1,
        position_hop=16,
        output=MixtureOfLogistics(2),
    )
    assert isinstance(model, WaveNet)
    with torch.no_grad():
        position = torch.tensor([[0, 64], [5, 64]])
        condition = model.condition(position=position, time=40)
    path = tmp_path / "model.onnx"
    samples = torch.randint(65536, (2, 40))
    onnx.export(model, path, samples, condition=condition)
    shipped = dict(np.load(path.with_suffix(".npz")))
    assert condition is not None and "condition" not in shipped and "audio" not in shipped
    assert np.array_equal(shipped["conditions"], condition.features) and shipped["hop"] == 1
    inputs = {"samples": samples, "condition": condition.over(40)}
    made = streamed(path, inputs, [1, 1, 5, 33], shipped)
    with torch.no_grad():
        assert_close(made, model.predict(samples, condition))
    graph = onnx_files.load(path).graph
    assert {value.name for value in graph.input} == {
        *inputs,
        *(k for k in shipped if k[0:5] == "state"),
    }


def test_the_script_speaks_as_the_engines_do(tmp_path: Path) -> None:
    model = small_model(dtype=torch.float32, labels=LABELS, layers_per_cycle=2)
    path, out = tmp_path / "model.onnx", tmp_path / "out.wav"
    condition = model.condition({k: v[1:2] for k, v in some_labels(2).items()})
    assert condition is not None and condition.features.requires_grad, "as it comes from a model"
    onnx.export(model, path, condition=condition)
    codes, audio, rate = speak_onnx.speak(str(path), 0.02, seed=3)
    uniforms = torch.from_numpy(np.random.default_rng(3).random(160)).float()[None]
    engine = build_engine(model, 1, engine="step", precision="float32")
    expected = engine.sample(uniforms, Sampling(), condition)
    assert rate == 8000 and torch.equal(torch.tensor(codes), expected[0])
    assert_close(torch.from_numpy(audio), model.output.decode(expected)[0])
    speak_onnx.main([str(path), str(out), "0.01"])
    assert out.stat().st_size == 44 + 2 * 80


# What is refused


class Counting(CausalConv1d):
    """Its output depends on how often it was called, which a graph cannot know."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda path: onnx.export(codec(), path), "Give an example of what Chain.forward takes"),
        (
            lambda path: onnx.export(codec(), path.with_suffix(".pt"), noise(1, 1, 32)),
            "end in .onnx",
        ),
        (
            lambda path: onnx.export(codec().train(), path, noise(1, 1, 32)),
            "in training mode",
        ),
        (lambda path: onnx.export(codec().double(), path, noise(1, 1, 32)), "of float64 on cpu"),
        (
            lambda path: onnx.export(codec(), path, noise(1, 1, 33)),
            "33 samples, but must",
        ),
        (lambda path: onnx.export(codec(), path, noise(1, 1, 2)), "of 2 samples"),
        (
            lambda path: onnx.export(
                codec(), path, noise(1, 1, 32), condition=Condition(noise(1, 1, 1))
            ),
            "`condition=` is for a WaveNet; give that of Chain after x",
        ),
        (
            lambda path: onnx.export(small_model(dtype=torch.float32, labels=LABELS), path),
            r"This WaveNet is steered: give condition=model.condition",
        ),
        (
            lambda path: onnx.export(
                Chain(nn.Conv1d(1, 1, 3, padding=1)).eval(), path, noise(1, 1, 32)
            ),
            "Conv1d with kernel_size 3",
        ),
        (
            lambda path: onnx.export(
                Counting(1, 1, 2).eval(), path, noise(1, 1, 32), stateful=False
            ),
            "ONNX Runtime and PyTorch differ by .* in y, chunk . of . samples; nothing was",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_written(
    run: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript.*pip install 'wavenet-torch\[onnx\]'"):
        onnx.export(codec(), tmp_path / "a.onnx", noise(1, 1, 32))


@pytest.mark.parametrize("module", [tiny_amp(), codec()], ids=["amp", "codec"])
def test_a_state_is_flattened_and_built_again(module: Any) -> None:
    state = module.init_state(2)
    tensors, rebuild = onnx.flat_state(state)
    assert all(tensor.numel() for tensor in tensors)
    again = rebuild([tensor + 1 for tensor in tensors])
    assert [t.shape for t in onnx.flat_state(again)[0]] == [t.shape for t in tensors]
    x = noise(2, 1, 8)
    first, _ = module.step(x, state)
    second, _ = module.step(x, rebuild(tensors))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="there is a dict in it"):
        onnx.flat_state(({"a": 1},))
