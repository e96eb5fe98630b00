"""`.nam` models: the function of plain torch calls, streamed, sliced, written and read back."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import torch.nn.functional as F
from conftest import assert_close
from torch import Tensor

from wavenet.interop import nam
from wavenet.interop.nam.__main__ import main
from wavenet.interop.nam.activations import Fasttanh
from wavenet.interop.nam.file import model_of
from wavenet.testing import assert_causal, assert_receptive_field, assert_streams

F64 = torch.float64
FILMS = ("conv_pre", "conv_post", "input_mixin_pre", "input_mixin_post", "activation_pre",
         "activation_post", "layer1x1_post", "head1x1_post")  # fmt: skip


# A reference from plain torch calls, which reads the file's JSON itself


ACTIVATIONS = {
    "Tanh": torch.tanh,
    "Hardtanh": F.hardtanh,
    "ReLU": F.relu,
    "Sigmoid": torch.sigmoid,
    "SiLU": F.silu,
    "Hardswish": F.hardswish,
    "Softsign": F.softsign,
    "LeakyReLU": lambda x: F.leaky_relu(x, 0.01),
    "LeakyHardtanh": lambda x: (
        x.clamp(-1, 1) + 0.01 * (x + 1).clamp(max=0) + 0.01 * (x - 1).clamp(min=0)
    ),
}


class Weights:
    """Taken off the front of a file's list, one convolution at a time."""

    def __init__(self, values: list[float]) -> None:
        self.values = torch.tensor(values, dtype=F64)

    def take(self, *shape: int) -> Tensor:
        count = math.prod(shape)
        taken, self.values = self.values[:count], self.values[count:]
        return taken.view(shape)

    def conv(self, inner: int, out: int, taps: int = 1, bias: bool = True, groups: int = 1) -> Any:
        return self.take(out, inner // groups, taps), self.take(out) if bias else None, groups


def run(x: Tensor, conv: Any, dilation: int = 1) -> Tensor:
    return F.conv1d(x, conv[0], conv[1], dilation=dilation, groups=conv[2])


def last(x: Tensor, like: Tensor) -> Tensor:
    return x[..., x.shape[-1] - like.shape[-1] :]


def act(name: Any, x: Tensor) -> Tensor:
    if isinstance(name, dict):
        if name["type"] == "PReLU":
            slopes = torch.tensor(name.get("negative_slopes", [name.get("negative_slope")]))
            return F.prelu(x, slopes.to(x))
        name = name["type"]
    return ACTIVATIONS[name](x)


def film(weights: Any, name: str, settings: dict[str, Any]) -> Any:
    def apply(x: Tensor, condition: Tensor) -> Tensor:
        if name not in weights:
            return x
        made = run(last(condition, x), weights[name])
        if not settings[f"{name}_film"].get("shift", True):
            return x * made
        return x * made[:, : x.shape[1]] + made[:, x.shape[1] :]

    return apply


def reference(document: dict[str, Any], audio: Tensor, reach: int) -> Tensor:
    """audio (B, 1, T) -> (B, 1, T): valid convolutions over reach - 1 zeros and the audio."""
    return raw(document, F.pad(audio, (reach - 1, 0)))[..., -audio.shape[-1] :]


def raw(document: dict[str, Any], x: Tensor) -> Tensor:
    config, weights = document["config"], Weights(document["weights"])
    nested = config.get("condition_dsp")
    condition, heard = x if nested is None else raw(nested, x), None
    for array in config["layers"]:
        channels, inner = array["channels"], array.get("bottleneck", array["channels"])
        steered, head = array["condition_size"], array.get("head") or {}
        terms = array.get("head1x1", {"active": False})
        residual = array.get("layer1x1", {"active": True})
        x = run(x, weights.conv(array["input_size"], channels, bias=False))
        total = None
        for i, dilation in enumerate(array["dilations"]):
            taps = array["kernel_size"] if "kernel_size" in array else array["kernel_sizes"][i]
            activation = array["activation"]
            activation = activation[i] if isinstance(activation, list) else activation
            mode = array.get("gating_mode", "gated" if array.get("gated") else "none")
            mode = mode[i] if isinstance(mode, list) else mode
            second = array.get("secondary_activation") or "Sigmoid"
            second = second[i] if isinstance(second, list) else second
            wide = inner if mode == "none" else 2 * inner
            conv = weights.conv(channels, wide, taps, groups=array.get("groups_input", 1))
            mixer = weights.conv(
                steered, wide, bias=False, groups=array.get("groups_input_mixin", 1)
            )
            one = two = None
            if residual["active"]:
                one = weights.conv(inner, channels, groups=residual.get("groups", 1))
            if terms["active"]:
                two = weights.conv(inner, terms["out_channels"], groups=terms.get("groups", 1))
            widths = [channels, wide, steered, wide, wide, inner, channels]
            films = {}
            for name, width in zip(FILMS, [*widths, terms.get("out_channels")], strict=True):
                found = array.get(f"{name}_film")
                if found not in (None, False) and found.get("active", True):
                    times = 2 if found.get("shift", True) else 1
                    films[name] = weights.conv(
                        steered, times * width, groups=found.get("groups", 1)
                    )
            filmed = {name: film(films, name, array) for name in FILMS}
            z = run(filmed["conv_pre"](x, condition), conv, dilation)
            z = filmed["conv_post"](z, condition)
            mixed = run(filmed["input_mixin_pre"](condition, condition), mixer)
            mixed = filmed["input_mixin_post"](mixed, condition)
            short = z if z.shape[-1] < mixed.shape[-1] else mixed
            z = filmed["activation_pre"](last(z, short) + last(mixed, short), condition)
            if mode == "none":
                z = act(activation, z)
            else:
                share = act(second, z[:, inner:])
                made = share * act(activation, z[:, :inner])
                z = made if mode == "gated" else made + (1 - share) * z[:, :inner]
            z = filmed["activation_post"](z, condition)
            added = z if one is None else filmed["layer1x1_post"](run(z, one), condition)
            term = z if two is None else filmed["head1x1_post"](run(z, two), condition)
            x = last(x, z) + added
            total = term if total is None else last(total, term) + term
        assert total is not None
        total = total if heard is None else last(heard, total) + total
        size = head.get("out_channels", array.get("head_size"))
        bias = head.get("bias", array.get("head_bias"))
        heard = run(
            total,
            weights.conv(total.shape[1], size, head.get("kernel_size", 1), bias=bias),
            head.get("head_dilation", 1),
        )
    assert heard is not None
    post = config.get("head")
    convolutions = []
    if post:
        inner = heard.shape[1]
        for i, taps in enumerate(post["kernel_sizes"]):
            out = post["channels"] if i + 1 < len(post["kernel_sizes"]) else post["out_channels"]
            convolutions.append(weights.conv(inner, out, taps))
            inner = out
    scale = weights.take(1)
    assert not len(weights.values)
    y = heard * scale
    for conv in convolutions:
        y = run(act(post["activation"], y), conv)
    return y


# Files


def array(inner: int, channels: int, size: int, **more: Any) -> dict[str, Any]:
    """With the keys of a file of version 0.5, where no newer ones are given."""
    usual: dict[str, Any] = {
        "input_size": inner,
        "condition_size": 1,
        "channels": channels,
        "kernel_size": 3,
        "dilations": [1, 2, 4],
        "activation": "Tanh",
        "head_size": size,
        "head_bias": False,
    }
    for newer, older in (("kernel_sizes", ["kernel_size"]), ("head", ["head_size", "head_bias"])):
        if newer in more:
            usual = {key: value for key, value in usual.items() if key not in older}
    return usual | more


def films(**different: Any) -> dict[str, Any]:
    return {f"{name}_film": different.get(name, {"active": True}) for name in FILMS}


TWO = [array(1, 6, 4), array(6, 4, 1, head_bias=True)]
CONFIGS: dict[str, dict[str, Any]] = {
    "older": {"layers": [array(1, 6, 4, gated=False), array(6, 4, 1, head_bias=True)]},
    "older gated": {"layers": [array(1, 6, 4, gated=True), array(6, 4, 1, gated=True)]},
    "newer": {
        "layers": [
            array(
                1,
                5,
                1,
                kernel_sizes=[2, 6, 15],
                activation=[{"type": "LeakyReLU", "negative_slope": 0.01}] * 3,
                head={"out_channels": 1, "kernel_size": 16, "bias": True, "head_dilation": 2},
                gating_mode=["none"] * 3,
                secondary_activation=[None] * 3,
            )
        ]
    },
    "each layer its own": {
        "layers": [
            array(
                1,
                6,
                1,
                dilations=[1, 2, 4, 8],
                gating_mode=["none", "gated", "blended", "none"],
                secondary_activation=[None, "Hardtanh", {"type": "Sigmoid"}, None],
                activation=[
                    {"type": "PReLU", "negative_slopes": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]},
                    "SiLU",
                    {"type": "LeakyHardtanh"},
                    {"type": "PReLU", "negative_slope": 0.3},
                ],
            )
        ]
    },
    "grouped": {
        "layers": [
            array(
                1,
                6,
                4,
                bottleneck=4,
                groups_input=2,
                layer1x1={"active": True, "groups": 2},
                head1x1={"active": True, "out_channels": 8, "groups": 4},
                activation="Softsign",
            ),
            array(6, 4, 1, layer1x1={"active": False, "groups": 1}, activation="Hardswish"),
        ]
    },
    "film": {
        "layers": [
            array(
                1,
                6,
                4,
                bottleneck=4,
                gating_mode="gated",
                head1x1={"active": True, "out_channels": 5, "groups": 1},
                **films(
                    conv_post={"active": True, "shift": False, "groups": 1},
                    activation_post={"active": True, "shift": False},
                    activation_pre=False,
                ),
            ),
            array(6, 4, 1, activation_post_film={}, conv_pre_film={"active": False}),
        ]
    },
    "conditioned": {
        "layers": [
            array(1, 6, 4, condition_size=4, groups_input_mixin=2),
            array(6, 4, 1, condition_size=4, activation_pre_film={"groups": 2}),
        ],
        "condition_dsp": {"layers": [array(1, 3, 4, head_bias=True)], "head_scale": 0.8},
    },
    "head": {
        "layers": TWO,
        "head": {
            "in_channels": 1,
            "channels": 3,
            "out_channels": 1,
            "kernel_sizes": [3, 1, 2],
            "activation": "ReLU",
        },
    },
}


def filled(config: dict[str, Any], seed: int = 0, **more: Any) -> dict[str, Any]:
    """A document of random weights, as many as the reference takes."""
    config = json.loads(json.dumps({"head": None, "head_scale": 0.02, **config}))
    if "condition_dsp" in config:
        config["condition_dsp"] = filled(config["condition_dsp"], seed + 1)
    generator = torch.Generator().manual_seed(seed)
    values = (0.4 * torch.randn(5000, generator=generator)).tolist()
    document = {"version": "0.5.4", "architecture": "WaveNet", "config": config, **more}
    low, high = 0, len(values)
    while low < high:  # the fewest with which the reference does not run short
        count = (low + high) // 2
        try:
            raw({**document, "weights": values[:count]}, torch.zeros(1, 1, 300, dtype=F64))
            high = count
        except RuntimeError:
            low = count + 1
        except AssertionError:
            high = count
    document["weights"] = values[:low]
    document["config"]["head_scale"] = values[low - 1]
    return document


def audio(batch: int = 2, time: int = 150) -> Tensor:
    return torch.randn(batch, 1, time, generator=torch.Generator().manual_seed(3), dtype=F64)


def written(document: dict[str, Any], folder: Path, name: str = "model.nam") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    return {name: filled(config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_is_the_function_of_its_file(
    name: str, documents: dict[str, Any], tmp_path: Path
) -> None:
    document, x = documents[name], audio()
    model = nam.load(written(document, tmp_path)).double()
    expected = reference(document, x, model.receptive_field)
    assert float(expected.std()) > 1e-3
    assert_close(model(x), expected)
    assert_close(nam.load(tmp_path / "model.nam")(x.float()), expected.float())
    nam.save(model, tmp_path / "again.nam")
    again = json.loads((tmp_path / "again.nam").read_text())
    assert again["version"] == "0.7.0" and again["sample_rate"] == 48000
    assert again["weights"] == pytest.approx(document["weights"], rel=1e-7)
    assert_close(reference(again, x, model.receptive_field), expected, "rewritten")
    if name == "head":  # whose activation the trainer reads as a name alone
        assert again["config"]["head"]["activation"] == "ReLU"
    assert_close(nam.load(tmp_path / "again.nam").double()(x), model(x))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_streams(name: str, documents: dict[str, Any]) -> None:
    model = model_of(documents[name]).double()
    assert_causal(model, audio(time=model.receptive_field))
    assert_streams(model, audio())
    if name not in ("conditioned", "head"):  # where it is counted a little too large, or ReLU cuts
        assert_receptive_field(model, audio())
    state = model.init_state(3, dtype=torch.bfloat16, device="meta")
    kept = [part for part in flat(state) if part.numel()]
    assert kept and all(part.shape[0] == 3 and part.dtype == torch.bfloat16 for part in kept)


def flat(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [part for s in state for part in flat(s)]


def test_what_trainer_and_plugins_compute_differently_is_said(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model_of(filled(CONFIGS["newer"]))
    assert not caplog.records
    model = model_of(filled({"layers": [array(1, 6, 1, layer1x1={"active": False})]}))
    assert "layers[0] has no layer1x1: plugins then leave x as it is" in caplog.text
    caplog.clear()
    nam.save(model, tmp_path / "a.nam")
    assert "has no layer1x1" in caplog.text
    for gating, count in (("gated", 1), ("blended", 0)):
        caplog.clear()
        model_of(filled({"layers": [array(1, 6, 1, gating_mode=gating, layer1x1_post_film={})]}))
        assert len(caplog.records) == count


def test_a_layer_without_a_gate_may_name_any_second_activation() -> None:
    model = model_of(filled({"layers": [array(1, 6, 1, secondary_activation=["", None, "Tanh"])]}))
    assert all(layer.secondary is None for layer in model.settings.arrays[0].layers)


def test_the_first_sample_has_silence_before_it_not_zeros_in_every_layer() -> None:
    model = model_of(filled({"layers": TWO})).double()
    silence = torch.zeros(1, 1, 5, dtype=F64)
    y, _ = model.step(silence, model.init_state(1))
    assert_close(y, y[..., :1].expand(1, 1, 5))
    from_nothing, _ = model.step(silence, model._nothing())
    assert float((from_nothing - y).detach().abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("name", "weights", "reach"),
    [
        ("standard", 13_802, 4093),
        ("lite", 6_554, 4093),
        ("feather", 3_026, 4093),
        ("nano", 842, 4093),
        ("a2-small", 1_871, 6347),
        ("a2-large", 12_146, 6347),
    ],
)
def test_presets_have_the_sizes_of_the_trainer(name: str, weights: int, reach: int) -> None:
    model = nam.NAM(nam.PRESETS[name])
    assert 1 + sum(part.numel() for part in model.parameters()) == weights
    assert model.receptive_field == reach
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 7)).shape == (1, 1, 7)


def test_a_preset_trains() -> None:
    model, x = nam.NAM(nam.PRESETS["nano"]), 0.5 * torch.randn(1, 1, 400)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(8):
        loss = (model(x) - torch.tanh(3 * x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    idle = [name for name, part in model.named_parameters() if part.grad is None]
    unread = "arrays.1.stack.blocks.12.residual."  # of the last layer
    assert idle == [f"{unread}weight", f"{unread}bias"]


def test_slopes_that_were_learned_are_written(tmp_path: Path) -> None:
    model = model_of(filled(CONFIGS["each layer its own"])).double()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.PReLU):
                part.weight.add_(0.25)
    nam.save(model, tmp_path / "a.nam")
    layers = json.loads((tmp_path / "a.nam").read_text())["config"]["layers"][0]["activation"]
    assert layers[3]["negative_slope"] == pytest.approx(0.55)
    written_and_read = nam.load(tmp_path / "a.nam")(audio().float())
    assert_close(written_and_read, model.float()(audio().float()))


def test_fasttanh_is_nearly_tanh() -> None:
    x = torch.linspace(-8, 8, 1001, dtype=F64)
    assert 1e-6 < float((Fasttanh()(x) - x.tanh()).abs().max()) < 2e-3


# Sizes


def slimmable(**more: Any) -> dict[str, Any]:
    slicing = {"method": "slice_channels_uniform", "kwargs": {"allowed_channels": [2, 4, 8]}}
    return {"layers": [array(1, 8, 1, head_bias=True, slimmable=slicing, **more)]}


@pytest.mark.parametrize(("size", "channels"), [(0, 2), (0.33, 2), (0.34, 4), (0.67, 8), (1, 8)])
@pytest.mark.parametrize("gating", ["none", "gated"])
def test_a_slimmable_model_is_sliced(size: float, channels: int, gating: str) -> None:
    document = filled(slimmable(gating_mode=gating))
    model = model_of(document).double()
    small = model.resized(size)
    assert small.settings.arrays[0].channels == channels
    weights, wide = Weights(document["weights"]), 16 if gating == "gated" else 8
    cut: list[Tensor] = []

    def keep(inner: int, out: int, taps: int = 1, bias: bool = True) -> None:
        full = weights.conv(inner, out, taps, bias)
        to = {8: channels, 16: 2 * channels, 1: 1}
        cut.append(full[0][: to[out], : to[inner]].flatten())
        cut.extend([full[1][: to[out]]] if bias else [])

    keep(1, 8, bias=False)
    for _ in range(3):
        keep(8, wide, 3)
        keep(1, wide, bias=False)
        keep(8, 8)
    keep(8, 1)
    cut.append(weights.take(1))
    config = filled(slimmable(gating_mode=gating))["config"]
    config["layers"][0]["channels"] = channels
    expected = {**document, "config": config, "weights": torch.cat(cut).tolist()}
    assert_close(small(audio()), reference(expected, audio(), small.receptive_field))


def test_slices_of_two_arrays_fit_together() -> None:
    slicing = {"method": "slice_channels_uniform"}
    layers = [array(1, 6, 4, slimmable=slicing), array(6, 4, 1, slimmable=slicing)]
    model = model_of(filled({"layers": layers})).double()
    small = model.resized(0.5)
    assert [one.channels for one in small.settings.arrays] == [4, 3]
    assert small(audio()).shape == audio().shape


def test_a_container_runs_the_size_that_was_asked_for(tmp_path: Path) -> None:
    models = [filled({"layers": [array(1, n, 1)]}, seed=n) for n in (2, 4, 6)]
    entries = [
        {"max_value": bound, "model": model}
        for bound, model in zip((0.3, 0.6, 1.0), models, strict=True)
    ]
    document = {
        "version": "0.7.0",
        "architecture": "SlimmableContainer",
        "config": {"submodels": entries},
        "weights": [],
        "metadata": {"name": "mine"},
    }
    container = nam.load(written(document, tmp_path)).double()
    for size, index in ((0, 0), (0.29, 0), (0.3, 1), (0.6, 2), (1, 2)):
        expected = reference(models[index], audio(), 15)
        assert_close(container.resized(size)(audio()), expected, f"size {size}")
    assert_close(container(audio()), reference(models[2], audio(), 15))
    assert_streams(container, audio())
    nam.save(container, tmp_path / "again.nam")
    again = nam.load(tmp_path / "again.nam").double()
    assert again.metadata == {"name": "mine"}
    assert_close(again.resized(0)(audio()), container.resized(0)(audio()))
    with pytest.raises(ValueError, match=r"from 0 \(the smallest\) to 1 \(all\), but got 1.5"):
        container.resized(1.5)


# What is refused


def changed(**more: Any) -> dict[str, Any]:
    return {**filled({"layers": TWO}), **more}


def with_array(**more: Any) -> dict[str, Any]:
    document = filled({"layers": TWO})
    document["config"]["layers"][0].update(more)
    return document


def with_config(**more: Any) -> dict[str, Any]:
    document = filled({"layers": TWO})
    document["config"].update(more)
    return document


REFUSED: list[tuple[Any, str]] = [
    (changed(architecture="LSTM"), r"its architecture is 'LSTM', but only 'WaveNet' and"),
    (changed(architecture="ConvNet"), r"its architecture is 'ConvNet'"),
    (changed(version="0.4.9"), r"its version is 0.4.9, but versions 0.5 to 0.7 are read here"),
    (changed(version="0.8.0"), r"its version is 0.8.0"),
    (changed(version="newest"), r"its version is 'newest', but should be like '0.7.0'"),
    (changed(weights=[0.0] * 10), r"it has 10 weights, but its 6 layers need at least 18"),
    (changed(weights=[0.0] * 773), r"it has 773 weights, but its settings make 774, head_scale"),
    (changed(weights=[0.0] * 775), r"it has 775 weights, but its settings make 774, head_scale"),
    (changed(weights=None), r"it has no weights"),
    (
        changed(weights=[float("nan")] * 774),
        r"774 of its weights are no finite numbers, the",
    ),
    (changed(weights=[1e300, "a", True] + [0.0] * 771), r"3 of its weights are no finite numbers"),
    (changed(sample_rate=0), r"sample_rate must be above 0"),
    (changed(sample_rate="48k"), r"the file.sample_rate must be a number, but is '48k'"),
    (with_array(wobble=3), r"layers\[0\] has keys that are not known here: \['wobble'\]"),
    (with_config(reverb={}), r"config has keys that are not known here: \['reverb'\]"),
    (with_array(activation="Snake"), r"layers\[0\].activation\[0\] is 'Snake'; known are Tanh, "),
    (with_array(activation=["Tanh"]), r"layers\[0\].activation has 1 entries for 3 layers"),
    (with_array(activation={"type": "Tanh", "a": 1}), r"Tanh, has the setting 'a'; known are \[\]"),
    (
        with_array(activation={"type": "PReLU", "negative_slopes": [1, 2]}),
        r"2 slopes for 6 channels",
    ),
    (with_array(gating_mode="maybe"), r"gating_mode\[0\] is 'maybe'; known are none, gated"),
    (with_array(kernel_sizes=[3, 3, 3]), r"must have one of kernel_size and kernel_sizes"),
    (
        with_array(channels=2.5),
        r"layers\[0\].channels must be an integer .* is 2.5",
    ),
    (with_config(layers=[array(1, 10**9, 1)]), r"at most 2,147,483,648 are possible"),
    (with_array(channels=7), r"layers\[1\]: input_size is 6, but 7 channels come in"),
    (with_array(head_size=3), r"layers\[1\]: channels for the head is 4, but 3 were made before"),
    (with_array(condition_size=2), r"condition_size is 2, but 1 channels condition it"),
    (with_array(head1x1_post_film={}), r"head1x1_post_film needs head1x1 to be active"),
    (with_array(layer1x1={"active": False}, layer1x1_post_film={}), r"layer1x1_post_film needs"),
    (with_array(layer1x1={"active": False}, bottleneck=3), r"bottleneck is 3, but 6 are added to"),
    (with_array(groups_input=4), r"divisible by groups"),
    (with_array(slimmable={"method": "prune"}), r"method is 'prune'; known is 'slice_channels"),
    (
        with_array(
            slimmable={"method": "slice_channels_uniform", "kwargs": {"allowed_channels": [4, 2]}}
        ),
        r"allowed_channels must ascend to the array's 6 channels, but is \[4, 2\]",
    ),
    (with_config(layers=[]), r"layers is empty"),
    (with_array(dilations=[1, 2**22, 1]), r"a receptive field of 8,388,627 samples, but at most"),
    (with_config(layers="two"), r"config.layers must be a list, but is 'two'"),
    (with_config(condition_dsp=changed(architecture="LSTM")), r"condition_dsp: its architecture"),
    (with_config(head={"channels": 2, "in_channels": 9}), r"head.in_channels is 9, but 1 channels"),
    ([], r"the file must be an object, but is \[\]"),
    ({}, r"the file has no version"),
]


@pytest.mark.parametrize(("document", "message"), REFUSED)
def test_a_file_that_is_not_understood_is_refused(
    document: Any, message: str, tmp_path: Path
) -> None:
    path = written(document, tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        nam.load(path)
    assert str(error.value).startswith(f"'{path}' cannot be loaded: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"is no \.nam file, which is JSON"),
        (b"\xff\xfe", r"is no \.nam file"),
        (b"[" * 100_000, r"is no \.nam file"),
        (None, r"cannot be read: No such file"),
    ],
)
def test_what_is_no_file_of_json_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.nam"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        nam.load(path)


def test_what_no_file_can_hold_is_not_written(tmp_path: Path) -> None:
    model = model_of(filled({"layers": TWO}))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"6 of the model's weights are NaN or infinite; nothing"):
        nam.save(model, tmp_path / "a.nam")
    with pytest.raises(ValueError, match=r"hold models of wavenet.interop.nam, but got a Linear"):
        nam.save(torch.nn.Linear(1, 1), tmp_path / "a.nam")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "not slimmable"),
        ({"groups_input": 2, "slimmable": {"method": "slice_channels_uniform"}}, "has groups"),
    ],
)
def test_what_cannot_be_sliced_is_refused(more: dict[str, Any], message: str) -> None:
    model = model_of(filled({"layers": [array(1, 6, 4, **more), TWO[1]]}))
    with pytest.raises(ValueError, match=message):
        model.resized(0.5)


# The command


def test_the_command_plays_a_recording_through_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = filled({"layers": TWO}, sample_rate=8000)
    path, x = written(document, tmp_path), 0.5 * audio(1, 1000).clamp(-1, 1)
    soundfile.write(tmp_path / "in.wav", x[0, 0].numpy(), 8000, subtype="FLOAT")
    out = tmp_path / "out.wav"
    assert main([str(tmp_path / "in.wav"), str(path), str(out), "--block", "64"]) == 0
    assert "0.12 s, " in capsys.readouterr().out
    heard, rate = soundfile.read(out)
    expected = reference(document, x, nam.load(path).receptive_field)[0, 0]
    assert rate == 8000 and float((torch.tensor(heard) - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("engine", "said"), [("auto", "engine: native (compiled"), ("native", ""), ("torch", "")]
)
def test_the_command_takes_the_engine_that_is_asked_for_and_says_which(
    engine: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, x = written(filled({"layers": TWO}), tmp_path), 0.5 * audio(1, 500).clamp(-1, 1)
    soundfile.write(tmp_path / "in.wav", x[0, 0].numpy(), 48000, subtype="FLOAT")
    out = str(tmp_path / "out.wav")
    with caplog.at_level("INFO"):
        assert main([str(tmp_path / "in.wav"), str(path), out, "--engine", engine]) == 0
    assert said in caplog.text
    name = "torch" if engine == "torch" else "native"
    line = rf"out.wav: 0.01 s, [\d.]+ times as fast as real time \(engine {name}\)\n"
    assert re.search(line, capsys.readouterr().out)
    heard = torch.tensor(soundfile.read(out)[0])
    with torch.no_grad():
        expected = nam.load(path)(x.float())[0, 0]
    assert float((heard - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["Fasttanh", "LeakyHardtanh", "Softsigmoid"])
def test_every_activation_may_stand_in_the_head(name: str) -> None:
    head = {"channels": 3, "out_channels": 1, "kernel_sizes": [3, 2], "activation": name}
    config = filled({"layers": TWO, "head": {**head, "activation": "ReLU"}})
    config["config"]["head"]["activation"] = name
    model = model_of(config)
    assert_streams(model, audio().float())


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(filled({"layers": TWO}), tmp_path)
    soundfile.write(tmp_path / "in.wav", torch.zeros(441).numpy(), 44100)
    inputs, out = str(tmp_path / "in.wav"), str(tmp_path / "out.wav")
    for arguments, message in (
        ([inputs, str(path), out], "is at 44100 Hz, but .* is for 48000 Hz"),
        ([inputs, str(path), out, "--block", "0"], "--block must be at least 1"),
        ([inputs, str(path), out, "--size", "0.5"], "not slimmable"),
        ([str(tmp_path / "no.wav"), str(path), out], "does not exist"),
        ([inputs, inputs, out], "is no .nam file"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and error.count("\n") == 1
        assert re.search(message, error), error
    assert not Path(out).exists()
    assert main([inputs, str(path), out, "--resample"]) == 0
    assert soundfile.info(out).samplerate == 48000
