"""Properties of checkpoints of r9y9/wavenet_vocoder: loaded, they are the same function.

The reference is written here from plain torch calls. Shapes: B batch, C channels, T time, M bands.
"""

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TOLERANCE, assert_close
from torch import Tensor

from wavenet import Gaussian, MixtureOfGaussians, MixtureOfLogistics, WaveNet, generate, stream
from wavenet.interop import r9y9
from wavenet.outputs import FlooredMuLaw

LAYERS, STACKS, RESIDUAL, GATE, SKIP, KERNEL = 6, 2, 7, 5, 9, 3
BANDS, SPEAKERS, WIDTH, PAD, HOP, RATE = 4, 3, 2, 2, 8, 8000
HALF = math.sqrt(0.5)
Weights = dict[str, Tensor]

SIZES = {
    "name": "wavenet_vocoder",
    "sample_rate": RATE,
    "hop_size": HOP,
    "layers": LAYERS,
    "stacks": STACKS,
    "residual_channels": RESIDUAL,
    "gate_channels": 2 * GATE,
    "skip_out_channels": SKIP,
    "kernel_size": KERNEL,
    "n_speakers": SPEAKERS,
    "dropout": 0.05,
    "batch_size": 2,
}
LOGISTICS = {"input_type": "raw", "quantize_channels": 65536, "out_channels": 9}
CODES = {"input_type": "mulaw-quantize", "quantize_channels": 16, "out_channels": 16}
NEWER = {
    **SIZES,
    "output_distribution": "Logistic",
    "log_scale_min": -16.0,
    "cin_channels": BANDS,
    "gin_channels": -1,
    "cin_pad": PAD,
    "upsample_conditional_features": True,
    "upsample_net": "ConvInUpsampleNetwork",
    "upsample_params": {"upsample_scales": [4, 2]},
}
LEGACY = {
    **SIZES,
    "log_scale_min": math.log(1e-14),
    "cin_channels": BANDS,
    "gin_channels": -1,
    "upsample_conditional_features": True,
    "upsample_scales": [4, 2],
    "freq_axis_kernel_size": 3,
    "weight_normalization": True,
}
ALONE = {"cin_channels": -1, "upsample_conditional_features": False}
VOICES = {"gin_channels": WIDTH}
CASES: dict[str, dict[str, Any]] = {
    "newer, mel, logistics": {**NEWER, **LOGISTICS},
    "newer, mel, three stages over three bands": {
        **NEWER,
        **LOGISTICS,
        "upsample_params": {"upsample_scales": [2, 1, 4], "freq_axis_kernel_size": 3},
    },
    "newer, mel without padding": {**NEWER, **LOGISTICS, "cin_pad": 0},
    "newer, mel repeated": {**NEWER, **LOGISTICS, "upsample_conditional_features": False},
    "newer, mel, codes": {**NEWER, **CODES},
    "newer, codes": {**NEWER, **CODES, **ALONE},
    "newer, mel, speakers": {**NEWER, **LOGISTICS, **VOICES},
    "newer, mel, one Gaussian": {
        **NEWER,
        **LOGISTICS,
        "output_distribution": "Normal",
        "out_channels": 2,
    },
    "newer, mel, Gaussians": {**NEWER, **LOGISTICS, "output_distribution": "Normal"},
    "legacy, mel, logistics": {**LEGACY, **LOGISTICS},
    "legacy, mel, skips not halved": {**LEGACY, **LOGISTICS, "legacy": False},
    "legacy, codes": {**LEGACY, **CODES, **ALONE, "legacy": True},
    "legacy, mel, speakers": {**LEGACY, **LOGISTICS, **VOICES, "legacy": True},
}


# The checkpoints


def is_legacy(hparams: Mapping[str, Any]) -> bool:
    return "weight_normalization" in hparams


def random_weights(hparams: Mapping[str, Any], seed: int = 0) -> Weights:
    """A state_dict of theirs, weight norm and all; no ReLU is shut for good."""
    random = torch.Generator().manual_seed(seed)
    weights: Weights = {}

    def plain(name: str, *shape: int) -> None:
        weights[name] = torch.randn(*shape, generator=random)

    def normed(name: str, *shape: int, bias: bool = True) -> None:
        plain(f"{name}.weight_v", *shape)
        lengths = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=random)
        weights[f"{name}.weight_g"] = lengths + 1
        if bias:
            weights[f"{name}.bias"] = torch.rand(shape[0], generator=random) / 2

    legacy, outputs = is_legacy(hparams), hparams["out_channels"]
    normed("first_conv", RESIDUAL, outputs if hparams["input_type"] != "raw" else 1, 1)
    for i in range(LAYERS):
        normed(f"conv_layers.{i}.conv", 2 * GATE, RESIDUAL, KERNEL)
        for part, width in (("c", hparams["cin_channels"]), ("g", hparams["gin_channels"])):
            if width > 0:
                normed(f"conv_layers.{i}.conv1x1{part}", 2 * GATE, width, 1, bias=legacy)
        normed(f"conv_layers.{i}.conv1x1_out", RESIDUAL, GATE, 1)
        normed(f"conv_layers.{i}.conv1x1_skip", SKIP, GATE, 1)
    normed("last_conv_layers.1", SKIP, SKIP, 1)
    normed("last_conv_layers.3", outputs, SKIP, 1)
    if hparams["gin_channels"] > 0:
        plain("embed_speakers.weight", SPEAKERS, hparams["gin_channels"])
    if not hparams["upsample_conditional_features"]:
        return weights
    if legacy:
        for i, scale in enumerate(hparams["upsample_scales"]):
            stage = f"upsample_conv.{2 * i}"
            normed(stage, 1, 1, hparams["freq_axis_kernel_size"], scale)
            weights[f"{stage}.weight_v"].abs_()
        return weights
    plain("upsample_net.conv_in.weight", BANDS, BANDS, 2 * hparams["cin_pad"] + 1)
    params = hparams["upsample_params"]
    for i, scale in enumerate(params["upsample_scales"]):
        shape = (1, 1, params.get("freq_axis_kernel_size", 1), 2 * scale + 1)
        normed(f"upsample_net.upsample.up_layers.{2 * i + 1}", *shape, bias=False)
    return weights


def write(path: Path, weights: Weights, zipped: bool = True, **others: Any) -> Path:
    """As their train.py does; its learning rates may be numpy's."""
    optimizer = {"param_groups": [{"lr": np.float64(1e-3)}], "state": {}}
    content = {"state_dict": weights, "optimizer": optimizer, "global_step": 5, "global_epoch": 1}
    torch.save(content | others, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint_step000000005.pth"


def loaded(path: Path, case: str, seed: int = 0) -> WaveNet:
    return r9y9.load(write(path, random_weights(CASES[case], seed)), CASES[case])


# The reference


def layer(weights: Weights, name: str) -> tuple[Tensor, Tensor | None]:
    v, g = weights[f"{name}.weight_v"], weights[f"{name}.weight_g"]
    length = v.square().sum(dim=tuple(range(1, v.dim())), keepdim=True).sqrt()
    return g * v / length, weights.get(f"{name}.bias")


def upsampled(weights: Weights, hparams: Mapping[str, Any], frames: Tensor) -> Tensor:
    """Their features (B, M, T) of frames (B, M, F)."""
    if not hparams["upsample_conditional_features"]:
        return frames.repeat_interleave(HOP, -1)
    if is_legacy(hparams):
        x = frames.unsqueeze(1)
        for i, scale in enumerate(hparams["upsample_scales"]):
            weight, bias = layer(weights, f"upsample_conv.{2 * i}")
            x = F.conv_transpose2d(x, weight, bias, stride=(1, scale), padding=(1, 0)).relu()
        return x.squeeze(1)
    pad, params = hparams["cin_pad"], hparams["upsample_params"]
    padded = F.pad(frames, (pad, pad), mode="replicate") if pad else frames
    x = F.conv1d(padded, weights["upsample_net.conv_in.weight"]).unsqueeze(1)
    across = params.get("freq_axis_kernel_size", 1)
    for i, scale in enumerate(params["upsample_scales"]):
        weight, _ = layer(weights, f"upsample_net.upsample.up_layers.{2 * i + 1}")
        held = F.interpolate(x, scale_factor=(1, scale), mode="nearest")
        x = F.conv2d(held, weight, padding=(across // 2, scale))
    return x.squeeze(1)


def reference(
    weights: Weights,
    hparams: Mapping[str, Any],
    x: Tensor,
    frames: Tensor | None,
    speaker: Tensor | None,
) -> Tensor:
    """Their params (B, Q, T) of x (B, 1 or Q, T): audio, or one-hot codes."""
    legacy, skips = is_legacy(hparams), torch.zeros(())
    features = None if frames is None else upsampled(weights, hparams, frames)
    x = F.conv1d(x, *layer(weights, "first_conv"))
    for i in range(LAYERS):
        block, dilation = f"conv_layers.{i}", 2 ** (i % (LAYERS // STACKS))
        held = F.pad(x, ((KERNEL - 1) * dilation, 0))
        z = F.conv1d(held, *layer(weights, f"{block}.conv"), dilation=dilation)
        if features is not None:
            z = z + F.conv1d(features, *layer(weights, f"{block}.conv1x1c"))
        if speaker is not None:
            voice = weights["embed_speakers.weight"][speaker].unsqueeze(-1)
            z = z + F.conv1d(voice, *layer(weights, f"{block}.conv1x1g"))
        z = z[:, :GATE].tanh() * z[:, GATE:].sigmoid()
        h = F.conv1d(z, *layer(weights, f"{block}.conv1x1_skip"))
        x = (x + F.conv1d(z, *layer(weights, f"{block}.conv1x1_out"))) * HALF
        halved = legacy and i > 0 and hparams.get("legacy", True)
        skips = (skips + h) * (HALF if halved else 1.0)
    if not legacy:
        skips = skips * math.sqrt(1 / LAYERS)
    hidden = F.conv1d(skips.relu(), *layer(weights, "last_conv_layers.1"))
    return F.conv1d(hidden.relu(), *layer(weights, "last_conv_layers.3"))


def inputs(model: WaveNet, frames: int = 6, seed: int = 1) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Samples (2, T), what their network reads of them, and what steers the model."""
    random = torch.Generator().manual_seed(seed)
    samples = torch.randint(0, model.output.levels, (2, frames * HOP), generator=random)
    if model.output.categorical:
        x = F.one_hot(samples, model.output.levels).float().transpose(1, 2)
    else:
        x = ((2 * samples - 65535) / 65535).unsqueeze(1)
    steering: dict[str, Any] = {}
    if model.mel is not None:
        steering["mel"] = torch.rand(2, BANDS, frames, generator=random)
    if model.labels:
        steering["labels"] = {"speaker": torch.tensor([2, 1])}
    return samples, x, steering


# The same function


@pytest.mark.parametrize("case", CASES)
def test_params_are_those_of_the_same_function(case: str, here: Path) -> None:
    model, weights = loaded(here, case), random_weights(CASES[case])
    samples, x, steering = inputs(model)
    speaker = steering.get("labels", {}).get("speaker")
    expected = reference(weights, CASES[case], x, steering.get("mel"), speaker)
    with torch.no_grad():
        assert_close(model(samples, **steering), expected, case)
    assert float(expected.std(dim=-1).mean()) > 0.1 and not model.training


@pytest.mark.parametrize("case", CASES)
def test_what_steers_reaches_the_params(case: str, here: Path) -> None:
    """The test above would not see a condition that both ways leave out."""
    model = loaded(here, case)
    samples, _, steering = inputs(model)
    with torch.no_grad():
        before = model(samples, **steering)
        for name in steering:
            other = steering[name] + 1 if name == "mel" else {"speaker": torch.tensor([0, 0])}
            change = (model(samples, **{**steering, name: other}) - before).abs().max()
            assert float(change) > 1000 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("case", ["legacy, mel, logistics", "newer, codes"])
def test_a_file_as_torch_saved_them_before_2020_is_read(case: str, here: Path) -> None:
    weights, path = random_weights(CASES[case]), here.with_name("older.pth")
    write(path, weights, zipped=False)
    older = r9y9.load(path, CASES[case]).state_dict()
    assert path.read_bytes()[:2] != b"PK"
    for name, weight in r9y9.load(write(here, weights), CASES[case]).state_dict().items():
        assert torch.equal(older[name], weight)


def test_weights_without_weight_norm_are_read(here: Path) -> None:
    case = CASES["newer, mel, logistics"]
    weights = random_weights(case)
    normed = {name[:-2] for name in weights if name.endswith("weight_g")}
    folded = {name: layer(weights, name.rpartition(".")[0])[0] for name in normed}
    kept = {n: w for n, w in weights.items() if not n.endswith(("weight_g", "weight_v"))}
    one, other = r9y9.load(write(here, weights), case), r9y9.load(write(here, kept | folded), case)
    for name, weight in one.state_dict().items():
        assert_close(other.state_dict()[name], weight, name)


def test_the_hyperparameters_may_be_a_json_file(here: Path) -> None:
    case = "legacy, mel, speakers"
    path = here.with_name("hparams.json")
    path.write_text(json.dumps(CASES[case]))
    model = r9y9.load(write(here, random_weights(CASES[case])), str(path))
    assert model.config == loaded(here, case).config
    assert model.labels == {"speaker": ["0", "1", "2"]} and model.sample_rate == RATE


def test_outputs_are_those_of_the_hyperparameters(here: Path) -> None:
    outputs = {
        "newer, mel, logistics": MixtureOfLogistics(3, -16.0),
        "legacy, mel, logistics": MixtureOfLogistics(3, math.log(1e-14)),
        "newer, mel, one Gaussian": Gaussian(-16.0),
        "newer, mel, Gaussians": MixtureOfGaussians(3, -16.0),
        "newer, codes": FlooredMuLaw(16, 15),
        "legacy, codes": FlooredMuLaw(16, 16),
    }
    assert {case: loaded(here, case).output for case in outputs} == outputs


def test_the_upsampling_of_a_model_without_mel_is_left_out(here: Path) -> None:
    hparams = {**LEGACY, **CODES, "cin_channels": -1}
    model = r9y9.load(write(here, random_weights(hparams)), hparams)
    assert model.mel is None and any("upsample_conv" in name for name in random_weights(hparams))


# As any other model


def steering_of(model: WaveNet) -> dict[str, Any]:
    given = inputs(model)[2]
    return given | ({"labels": {"speaker": ["2", "1"]}} if model.labels else {})


SAMPLED = ["newer, mel, speakers", "legacy, mel, logistics", "newer, codes"]


def quiet(here: Path, case: str) -> WaveNet:
    """As loaded; a mixture's means and scales inside [-1, 1], where audio is neither clipped nor
    so wide that float error decides its level."""
    weights, last = random_weights(CASES[case]), "last_conv_layers.3"
    if CASES[case]["input_type"] == "raw":
        weights[f"{last}.weight_g"] *= 0.05
        weights[f"{last}.bias"][-3:] -= 4
    return r9y9.load(write(here, weights), CASES[case])


@pytest.mark.parametrize("case", SAMPLED)
def test_engines_give_the_same_audio_after_saving_and_loading(case: str, here: Path) -> None:
    model = quiet(here, case)
    model.save_pretrained(here.parent / "model")
    again = WaveNet.from_pretrained(here.parent / "model")
    assert again.config == model.config
    asked = {"num_samples": 5 * HOP + 3, "batch_size": 2, "seed": 3}
    expected = generate(model, engine="naive", **asked, **steering_of(model))
    assert 0.01 < float(expected.std()) < 0.9
    for engine in ("naive", "cached", "native"):
        made = generate(again, engine=engine, **asked, **steering_of(model))
        apart = (made - expected).abs()
        # codes are equal; a level is 2 / 65535 wide, and float error may decide between two
        assert float(apart.max()) <= (0 if model.output.categorical else 2.1 / 65535), engine
        assert float((apart == 0).float().mean()) > 0.9, engine


@pytest.mark.parametrize("case", ["newer, mel, logistics", "legacy, mel, logistics"])
def test_frames_as_they_come_give_the_same_audio(case: str, here: Path) -> None:
    model = quiet(here, case)
    frames = inputs(model)[2]["mel"][:1]
    whole = generate(model, mel=frames, engine="cached")
    pieces = stream(model, mel=iter(frames.split(1, dim=-1)), chunk_size=5, engine="cached")
    assert float((torch.cat(list(pieces), dim=-1) - whole).abs().max()) <= 2.1 / 65535


def test_its_mel_frames_are_not_ours(here: Path) -> None:
    mel = loaded(here, "newer, mel, logistics").mel
    assert mel is not None and mel.context == PAD + 2
    with pytest.raises(ValueError, match="another program's, on its own scale"):
        mel.spectrogram(torch.zeros(100), RATE)


# What is refused


class Harmful:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "code ran"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_contains_code_is_refused_and_does_not_run(
    zipped: bool, here: Path
) -> None:
    ran, case = here.with_name("ran"), CASES["newer, codes"]
    write(here, random_weights(case), zipped, global_step=Harmful(ran))
    with pytest.raises(ValueError, match="was refused: it contains more than tensors, numbers"):
        r9y9.load(here, case)
    assert not ran.exists()
    torch.load(here, weights_only=False)
    assert ran.exists(), "the payload does run where it is not refused"


def test_a_plain_pickle_is_refused_and_does_not_run(here: Path) -> None:
    ran = here.with_name("ran")
    here.write_bytes(pickle.dumps({"state_dict": Harmful(ran)}))
    with pytest.raises(ValueError, match="was refused: it is not a training checkpoint"):
        r9y9.load(here, CASES["newer, codes"])
    assert not ran.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_short_is_refused(zipped: bool, here: Path) -> None:
    whole = write(here, random_weights(CASES["newer, codes"]), zipped).read_bytes()
    here.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"not a whole checkpoint|was refused"):
        r9y9.load(here, CASES["newer, codes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_conv.bias": None}, "newer layout. Weights missing: first_conv.bias. Give the"),
        (
            {"extra.weight": torch.zeros(2), "first_conv.bias": None},
            "missing: first_conv.bias; not expected: extra.weight",
        ),
        (
            {"conv_layers.1.conv.bias": torch.zeros(3)},
            r"of another shape: conv_layers.1.conv.bias \(3,\), not \(10,\)",
        ),
        ({"first_conv.weight_g": None}, "has first_conv.weight_v without first_conv.weight_g"),
        ({"first_conv.weight_g": torch.zeros(2)}, r"weight_g is \(2,\) and .*weight_v \(7, 1, 1\)"),
        ({"first_conv.bias": torch.full((7,), math.nan)}, "first_conv.bias has values that are"),
        ({"first_conv.bias": torch.zeros(7, dtype=torch.int64)}, "first_conv.bias is torch.int64"),
        ({"embed_speakers.weight": torch.zeros(3, 2)}, "not expected: embed_speakers.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, Tensor | None], message: str, here: Path
) -> None:
    case = CASES["newer, mel, logistics"]
    changed = {**random_weights(case), **change}
    write(here, {name: weight for name, weight in changed.items() if weight is not None})
    with pytest.raises(ValueError, match=message):
        r9y9.load(here, case)


def test_a_layout_with_the_hyperparameters_of_the_other_is_refused(here: Path) -> None:
    newer, legacy = CASES["newer, mel, logistics"], CASES["legacy, mel, logistics"]
    with pytest.raises(ValueError, match=r"the legacy layout by its weights \(upsample_conv.0.bia"):
        r9y9.load(write(here, random_weights(legacy)), newer)
    with pytest.raises(ValueError, match=r"the newer layout by its weights \(upsample_net.conv_in"):
        r9y9.load(write(here, random_weights(newer)), legacy)
    both = {**newer, "legacy": True}
    with pytest.raises(ValueError, match=r"of the legacy layout \(legacy\) and of the newer one"):
        r9y9.load(here, both)
    alone = {**CASES["newer, codes"]}
    neither = {k: v for k, v in alone.items() if k in {*SIZES, *CODES, *ALONE, "gin_channels"}}
    with pytest.raises(ValueError, match="does not say which layout the checkpoint has"):
        r9y9.load(write(here, random_weights(alone)), neither)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": None}, "hparams misses layers. Give all hyperparameters"),
        ({"layers": 5}, "layers is 5, but this library reads a multiple of stacks, 2"),
        ({"layers": "6"}, "layers is '6', but this library reads a whole number from 1"),
        ({"kernel_size": 0}, "kernel_size is 0, but this library reads a whole number from 1"),
        ({"kernel_size": 2}, r"conv_layers.0.conv.weight \(10, 7, 3\), not \(10, 7, 2\)"),
        ({"gate_channels": 11}, "gate_channels is 11, but this library reads an even number"),
        ({"input_type": "mulaw"}, "input_type is 'mulaw', but .* 'raw' or 'mulaw-quantize'"),
        ({"input_type": "mulaw-quantize"}, "out_channels is 9, but .* quantize_channels, 65536"),
        ({"quantize_channels": 256}, "quantize_channels is 256, but this library reads 65536"),
        ({"output_distribution": "Laplace"}, "'Laplace', but this library reads 'Logistic' or 'No"),
        ({"out_channels": 10}, "out_channels is 10, but this library reads 3 for each"),
        ({"log_scale_min": -90}, "log_scale_min is -90, but this library reads a number from -40"),
        ({"upsample_net": "UpsampleNetwork"}, "reads 'ConvInUpsampleNetwork'"),
        ({"cin_pad": -1}, "cin_pad is -1, but this library reads a whole number from 0"),
        ({"hop_size": 9}, "upsample_scales is .*4, 2.*, but .* whole numbers whose product is 9"),
        ({"upsample_params": [4, 2]}, "upsample_params is .*, but this library reads a mapping"),
        ({"gin_channels": 2}, "has no embed_speakers.weight: it takes a speaker's features"),
        ({"sample_rate": 0}, "sample_rate is 0, but this library reads a whole number"),
    ],
)
def test_hyperparameters_that_are_not_supported_are_refused_by_name(
    change: dict[str, Any], message: str, here: Path
) -> None:
    case = CASES["newer, mel, logistics"]
    write(here, random_weights(case))
    changed = {name: value for name, value in {**case, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        r9y9.load(here, changed)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "bilinear"}, "upsample_params.mode is 'bilinear', but this library reads 'near"),
        ({"upsample_activation": "ReLU"}, "upsample_activation is 'ReLU', but .* reads 'none'"),
        ({"freq_axis_kernel_size": 2}, "freq_axis_kernel_size is 2, but .* an odd number of bands"),
        ({"dilation": 2}, "upsample_params.dilation is 2, but .* reads of upsample_params"),
        ({"upsample_scales": []}, "upsample_scales is .*, but this library reads whole numbers"),
    ],
)
def test_upsamplings_that_are_not_supported_are_refused_by_name(
    params: dict[str, Any], message: str, here: Path
) -> None:
    case = CASES["newer, mel, logistics"]
    changed = {**case, "upsample_params": {**case["upsample_params"], **params}}
    with pytest.raises(ValueError, match=message):
        r9y9.load(write(here, random_weights(case)), changed)


def test_sizes_that_make_no_model_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "LAYERS", 25)
    case = {**CASES["newer, codes"], "layers": 25, "stacks": 1}
    with pytest.raises(ValueError, match="hparams: WaveNet got layers_per_cycle=25; it must be"):
        r9y9.load(write(here, random_weights(case)), case)


def test_files_that_are_not_there_or_no_json_are_refused(here: Path) -> None:
    case, hparams = CASES["newer, codes"], here.with_name("hparams.json")
    with pytest.raises(FileNotFoundError, match="there is no such checkpoint"):
        r9y9.load(here, case)
    write(here, random_weights(case))
    with pytest.raises(FileNotFoundError, match="no such file of hyperparameters"):
        r9y9.load(here, hparams)
    for text in ("{", "[1, 2]"):
        hparams.write_text(text)
        with pytest.raises(ValueError, match="is not a JSON file of hyperparameters"):
            r9y9.load(here, hparams)
    torch.save({"model": {}}, here)
    with pytest.raises(ValueError, match=r"is not a whole checkpoint of wavenet_vocoder \(KeyErr"):
        r9y9.load(here, case)
