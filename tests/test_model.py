"""Properties of the model: its sizes, what steers it, and the folder it is saved in."""

import errno
import json
import os
import pickle
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import LABELS, assert_close, small_model, some_codes, some_labels
from safetensors.torch import load_file, save_file
from torch import Tensor

import wavenet
from wavenet import Config, MuLaw, WaveNet
from wavenet.model import MOST

FILES = ["config.json", "model.safetensors"]


def saved(folder: Path, **settings: Any) -> WaveNet:
    model = small_model(dtype=torch.float32, **settings)
    model.save_pretrained(folder)
    return model


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


# Sizes


def test_the_reference_model_has_the_published_size_and_reach() -> None:
    model = WaveNet()
    assert model.num_parameters == 1_271_424
    assert model.receptive_field == 3071
    assert model.receptive_field_ms == pytest.approx(3071 / 16)
    assert WaveNet(1, 2, sample_rate=8000).receptive_field_ms == pytest.approx(5 / 8)
    assert WaveNet(1, 2, input_kernel_size=1).receptive_field == 4


def test_logits_have_one_row_of_256_a_sample() -> None:
    model = small_model()
    assert model(some_codes(3, 41)).shape == (3, 256, 41)
    assert model(some_codes(1, 1)).shape == (1, 256, 1)


def test_the_model_is_its_equations() -> None:
    model, codes = small_model(labels=LABELS), some_codes(2, 23)
    weight = model.state_dict()

    def causal(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        kernel = weight[f"{name}.weight"]
        padded = F.pad(x, ((kernel.shape[-1] - 1) * dilation, 0))
        return F.conv1d(padded, kernel, weight.get(f"{name}.bias"), dilation=dilation)

    ids = some_labels(2)
    tables = [weight[f"label_embedding.tables.{index}.weight"] for index in (0, 1)]
    h = (tables[0][ids["digit"]] + tables[1][ids["speaker"]])[..., None]
    x = causal(weight["embedding.weight"][codes].transpose(1, 2), "input")
    skips = torch.zeros(2, 17, 23, dtype=torch.float64)
    for index, dilation in enumerate([1, 2, 4, 1, 2, 4]):
        name = f"stack.blocks.{index}"
        filter_, gate = (
            causal(x, f"{name}.dilated", dilation) + causal(h, f"{name}.condition")
        ).chunk(2, dim=1)
        z = filter_.tanh() * gate.sigmoid()
        skips = skips + causal(z, f"{name}.skip")
        x = (x + causal(z, f"{name}.residual")) * 0.8 if index < 5 else x
    expected = causal(causal(skips.relu(), "head.1").relu(), "head.3")
    assert_close(model(codes, ids), expected)


def test_codes_of_any_integer_type_are_taken() -> None:
    model, codes = small_model(), some_codes(2, 9)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        given = codes.clamp(max=127) if dtype == torch.int16 else codes
        assert torch.equal(model(given.to(dtype)), model(given))


def test_head_channels_are_the_skip_channels_where_none_are_given() -> None:
    assert WaveNet(1, 1, skip_channels=9).config.head_channels == 9
    assert WaveNet(1, 1, skip_channels=9, head_channels=4).config.head_channels == 4


@pytest.mark.parametrize(
    "codes", [torch.zeros(2, 5), torch.zeros(5, dtype=torch.long), torch.zeros(2, 5, 1).long()]
)
def test_codes_of_another_type_or_shape_are_refused(codes: Tensor) -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"\(batch, time\).*by model\.encode") as error:
        model(codes)
    assert str(tuple(codes.shape)) in str(error.value) and str(codes.dtype) in str(error.value)
    with pytest.raises(ValueError, match="WaveNet takes samples of shape"):
        model.step(codes, model.init_state(2))


@pytest.mark.parametrize(
    "name",
    [
        "cycles",
        "layers_per_cycle",
        "kernel_size",
        "residual_channels",
        "gate_channels",
        "skip_channels",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
def test_sizes_that_make_no_model_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        WaveNet(**{"cycles": 1, "layers_per_cycle": 1, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_residual_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="residual_scale"):
        WaveNet(1, 1, residual_scale=scale)


@pytest.mark.parametrize(("name", "most"), [*MOST.items(), ("position_hop", 1_000_000)])
@pytest.mark.parametrize("value", [-1, 2.5, "3", [1], 10**9, 2**31, 2**64])
def test_a_size_out_of_range_is_refused_with_what_is_allowed(
    name: str, most: int, value: object
) -> None:
    seen = re.escape(f"WaveNet got {name}={value!r}; it must be ")
    with pytest.raises(ValueError, match=rf"{seen}.*integer.* {most}\."):
        Config(**{name: value})


LENGTHS: dict[str, Any] = {"log_mean": 8, "log_std": 1, "offsets": {}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cycles": 500, "layers_per_cycle": 3}, "make 1500 blocks; it takes at most 1000"),
        ({"layers_per_cycle": 24}, "samples of receptive field; it takes at most 16777216"),
        ({"gate_channels": 60_000, "residual_channels": 60_000}, "weights; it takes at most"),
        ({"residual_channels": 60_000, "kernel_size": 99}, "weights; it takes at most"),
        ({"residual_scale": None}, "residual_scale=None; it must be a finite number"),
        ({"residual_scale": 2**64}, "residual_scale=18446744073709551616; it must be"),
        ({"residual_scale": True}, "residual_scale=True; it must be"),
        ({"residual_scale": "1"}, "residual_scale='1'; it must be"),
        ({"position_hop": 5}, r"position_hop=5; it must be 0 \(no position\)"),
        ({"unlabelled": 1}, "unlabelled=1; it must be true or false"),
        ({"unlabelled": None}, "unlabelled=None; it must be true or false"),
        ({"output": 5}, "output must be the distribution of a sample.* but got 5"),
        ({"output": MuLaw}, "output must be the distribution of a sample"),
        ({"output": {"name": ["MuLaw"]}}, r"no output \['MuLaw'\]"),
        ({"output": {"name": "MuLaw", "classes": 2**40}}, "at most 65536, but got 1099511627776"),
        ({"labels": ["a"]}, r"labels must be names with their categories.*\['a'\]"),
        ({"labels": "digit"}, "labels must be names with their categories"),
        ({"labels": {"digit": "012"}}, "Label 'digit' needs a list of categories.*'012'"),
        ({"labels": {"digit": 5}}, "Label 'digit' needs a list of categories.* 5"),
        ({"labels": {"digit": ["0", None]}}, "Label 'digit' needs a list of categories"),
        ({"labels": {"digit": ["0", ["1"]]}}, "Label 'digit' needs a list of categories"),
        ({"labels": {5: ["0"]}}, "Label name 5 must be letters"),
        ({"labels": {"digit": ["0", "0"]}}, "Label 'digit' needs at least one category, each once"),
        ({"clip_length": 5}, "clip_length must be what fit_clip_length gives, but got 5"),
        ({"clip_length": {**LENGTHS, "log_mean": "8"}}, "'8' is no number"),
        ({"clip_length": {"log_mean": 8, "log_std": 1}}, "fit_clip_length gives.*'offsets'"),
        ({"clip_length": {**LENGTHS, "offsets": {"a": 5}}}, "fit_clip_length gives"),
        ({"clip_length": {**LENGTHS, "log_std": -1}}, "log_std of at least 0"),
        ({"clip_length": {**LENGTHS, "log_mean": 80}}, "clips of at most 2147483648 samples"),
        ({"clip_length": {**LENGTHS, "log_mean": 10**400}}, "clip_length must be"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_model_are_refused_with_what_is_allowed(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WaveNet(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"labels": LABELS},
        {"position_hop": 16},
        {"labels": LABELS, "position_hop": 16, "unlabelled": True, "kernel_size": 3},
        {"cycles": 1, "layers_per_cycle": 1, "head_channels": None, "output": MuLaw(64)},
    ],
)
def test_weights_are_counted_without_a_network(settings: dict[str, Any]) -> None:
    model = small_model(codes=64, **settings)
    tables = [model.embedding, model.position_embedding]
    left_out = sum(p.numel() for table in tables if table is not None for p in table.parameters())
    assert model.config.weights == model.num_parameters - left_out


# Labels


def test_every_label_changes_every_output() -> None:
    model, codes, ids = small_model(labels=LABELS), some_codes(2, 9), some_labels(2)
    before = model(codes, ids)
    for name, count in (("digit", 3), ("speaker", 2)):
        after = model(codes, {**ids, name: (ids[name] + 1) % count})
        assert (after != before).any(dim=1).all()


def test_a_label_of_one_stream_leaves_the_others_alone() -> None:
    model, codes, ids = small_model(labels=LABELS), some_codes(3, 9), some_labels(3)
    moved = {**ids, "digit": ids["digit"] + torch.tensor([0, 1, 0])}
    before, after = model(codes, ids), model(codes, moved)
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize("given", [None, {}, {"digit": torch.tensor([0])}])
def test_missing_labels_are_refused_with_their_names(given: dict[str, Tensor] | None) -> None:
    model = small_model(labels=LABELS)
    with pytest.raises(ValueError, match=r"\['digit', 'speaker'\]"):
        model(some_codes(1, 5), given)
    with pytest.raises(ValueError, match=r"\['digit', 'speaker'\]"):
        model.step(some_codes(1, 5), model.init_state(1), given)


def test_labels_a_model_was_not_built_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"without labels.*'digit'"):
        small_model()(some_codes(1, 5), {"digit": torch.tensor([0])})
    with pytest.raises(ValueError, match="'pitch'"):
        small_model(labels=LABELS)(some_codes(1, 5), {**some_labels(1), "pitch": torch.tensor([0])})


def test_mel_is_refused_by_a_model_without_it() -> None:
    with pytest.raises(ValueError, match="leave mel out"):
        small_model()(some_codes(1, 5), mel=torch.zeros(1, 80, 3))


# The folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"labels": LABELS},
        {"labels": {"type": ["a"], "training": ["b", "c"], "forward": ["d"]}},
        {"kernel_size": 3},
    ],
)
def test_a_saved_model_comes_back_bit_equal(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = saved(tmp_path / "deep" / "model", **settings)
    again = WaveNet.from_pretrained(tmp_path / "deep" / "model")
    assert (
        again.config == model.config and again.labels == model.labels and again.sample_rate == 8000
    )
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items()
    )
    ids = {name: torch.tensor([0, 0]) for name in model.labels} or None
    assert torch.equal(again(some_codes(2, 30), ids), model(some_codes(2, 30), ids))


def test_the_config_says_everything(tmp_path: Path) -> None:
    model = saved(tmp_path, labels=LABELS)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["library_version"] == wavenet.__version__
    assert config["format_version"] == 1
    assert config["codec"] == {"name": "mu-law", "classes": 256, "silence": 128}
    assert config["receptive_field"] == model.receptive_field
    assert config["model"]["sample_rate"] == 8000 and config["model"]["labels"] == LABELS
    assert WaveNet(**config["model"]).num_parameters == model.num_parameters
    assert sorted(contents(tmp_path)) == FILES


def test_saving_replaces_an_older_model_and_others_may_read_it(tmp_path: Path) -> None:
    saved(tmp_path, seed=1)
    model = saved(tmp_path, seed=2, labels=LABELS)
    assert torch.equal(WaveNet.from_pretrained(tmp_path).embedding.weight, model.embedding.weight)
    assert sorted(contents(tmp_path)) == FILES
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644 for name in FILES)


@pytest.mark.parametrize("missing", FILES)
def test_a_folder_without_a_file_is_refused_by_the_files_name(tmp_path: Path, missing: str) -> None:
    saved(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {missing}.*runs/NAME/model"):
        WaveNet.from_pretrained(tmp_path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere: there is no such model.*runs/NAME/model"
    ):
        WaveNet.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_truncated_weights_are_refused(tmp_path: Path, length: int) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not a whole safetensors file.*copy it again"
    ):
        WaveNet.from_pretrained(tmp_path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize(
    "write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_a_pickle_in_the_place_of_the_weights_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[object, Path], object]
) -> None:
    saved(tmp_path / "model")
    write(Payload(tmp_path / "ran"), tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        WaveNet.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "ran").exists()
    if write is not torch.save:  # the payload is a live one
        pickle.loads((tmp_path / "model" / "model.safetensors").read_bytes())
        assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "{}",
        '"text"',
        '{"format_version": 1}',
        "\x00\x01",
        '{"model": {}, "codec": 5}',
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    saved(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"config\.json is not the config\.json of a saved WaveNet"
    ):
        WaveNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("settings", [5, None, "text", [1]])
def test_a_config_whose_settings_are_no_settings_is_refused(
    tmp_path: Path, settings: object
) -> None:
    saved(tmp_path)
    edit_config(tmp_path, lambda config: config.update(model=settings))
    with pytest.raises(
        ValueError, match=r"config\.json is not the config\.json of a saved WaveNet"
    ):
        WaveNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda config: config.update(format_version=2), "format 2"),
        (lambda config: config["model"].update(mixture=10), "'mixture'"),
        (lambda config: config["codec"].update(classes=1024), "format 1"),
    ],
    ids=["format", "setting", "codec"],
)
def test_a_model_of_a_later_library_is_refused_with_both_versions(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], seen: str
) -> None:
    saved(tmp_path)
    edit_config(tmp_path, change)
    edit_config(tmp_path, lambda config: config.update(library_version="7.8.9"))
    with pytest.raises(ValueError, match=r"written by wavenet 7\.8\.9") as error:
        WaveNet.from_pretrained(tmp_path)
    assert f"this is wavenet {wavenet.__version__}" in str(error.value) and seen in str(error.value)
    assert "export the model again" in str(error.value)


def test_a_model_of_another_library_version_in_the_same_format_is_read(tmp_path: Path) -> None:
    model = saved(tmp_path)
    edit_config(tmp_path, lambda config: config.update(library_version="7.8.9"))
    assert torch.equal(WaveNet.from_pretrained(tmp_path).embedding.weight, model.embedding.weight)


def without_settings(folder: Path) -> None:
    """The weights as libraries wrote them before they carried their settings."""
    path = folder / "model.safetensors"
    save_file(load_file(path), path, {"library_version": "0.1.0"})
    edit_config(folder, lambda config: config.pop("checksum"))


@pytest.mark.parametrize("gate_channels", [6, 8])
def test_weights_of_another_model_are_refused(tmp_path: Path, gate_channels: int) -> None:
    saved(tmp_path)
    without_settings(tmp_path)
    edit_config(tmp_path, lambda config: config["model"].update(gate_channels=gate_channels))
    with pytest.raises(ValueError, match=r"(?s)do not fit its config\.json.*size mismatch"):
        WaveNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_weights_with_a_name_missing_or_too_many_are_refused(tmp_path: Path, change: str) -> None:
    saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del weights["input.bias"]
    save_file(
        {**weights, **({"more": torch.zeros(3)} if change == "extra" else {})},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"do not fit its config\.json"):
        WaveNet.from_pretrained(tmp_path)


# Weights and settings that belong together


OTHER_ORDER = {"digit": ["2", "0", "1"], "speaker": ["ann", "bob"]}


def pair(folder: Path) -> dict[str, dict[str, bytes]]:
    """Both files of two models of the same sizes, with labels in another order."""
    saved(folder / "one", labels=LABELS, seed=1)
    saved(folder / "other", labels=OTHER_ORDER, seed=2)
    return {name: contents(folder / name) for name in ("one", "other")}


def test_weights_carry_their_settings_and_a_mixed_pair_is_the_weights_own_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = pair(tmp_path)
    WaveNet.from_pretrained(tmp_path / "one")
    assert caplog.text == ""
    (tmp_path / "one" / "config.json").write_bytes(files["other"]["config.json"])
    mixed, model = WaveNet.from_pretrained(tmp_path / "one"), saved(tmp_path, labels=LABELS, seed=1)
    assert mixed.labels == LABELS
    assert all(torch.equal(w, model.state_dict()[name]) for name, w in mixed.state_dict().items())
    assert "one/config.json is of another model than model.safetensors beside it" in caplog.text
    assert "save the model again" in caplog.text


def test_a_config_beside_weights_of_an_older_library_is_refused(tmp_path: Path) -> None:
    files = pair(tmp_path)
    without_settings(tmp_path / "one")
    WaveNet.from_pretrained(tmp_path / "one")
    (tmp_path / "one" / "config.json").write_bytes(files["other"]["config.json"])
    with pytest.raises(ValueError, match=r"not the ones that were saved together.*copy both files"):
        WaveNet.from_pretrained(tmp_path / "one")


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_an_export_killed_at_any_rename_leaves_the_old_or_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, renamed: int
) -> None:
    pair(tmp_path)
    if older:
        without_settings(tmp_path / "one")
    old, new = (WaveNet.from_pretrained(tmp_path / name) for name in ("one", "other"))
    original, calls = os.replace, []

    def replace(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) > renamed:
            raise KeyboardInterrupt  # as good as a kill: the second file is never renamed
        original(*paths)

    monkeypatch.setattr(os, "replace", replace)
    with suppress(KeyboardInterrupt):
        new.save_pretrained(tmp_path / "one")
    left = WaveNet.from_pretrained(tmp_path / "one")
    expected = new if renamed == 2 or (older and renamed == 1) else old
    assert left.labels == expected.labels
    assert torch.equal(left.embedding.weight, expected.embedding.weight)


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path, where: float) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    begins = 8 + int.from_bytes(content[:8], "little")
    content[begins + int(where * (len(content) - begins))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        WaveNet.from_pretrained(tmp_path)


def test_weights_changed_on_purpose_load_without_the_checksum_as_the_message_says(
    tmp_path: Path,
) -> None:
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"remove the line \"checksum\" from config\.json"):
        WaveNet.from_pretrained(tmp_path)
    edit_config(tmp_path, lambda config: config.pop("checksum"))
    assert WaveNet.from_pretrained(tmp_path).embedding.weight.dtype == torch.float32


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    saved(tmp_path / "a", labels=LABELS)
    saved(tmp_path / "b", labels=LABELS)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


# Writing that fails


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_leaves_every_old_file_whole_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failing: int
) -> None:
    saved(tmp_path / "old", seed=1)
    saved(tmp_path / "new", seed=2)
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    original, calls = getattr(os, call), []

    def full(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        small_model(2, torch.float32).save_pretrained(tmp_path / "old")
    assert len(calls) == failing + 1
    after = contents(tmp_path / "old")
    assert sorted(after) == FILES
    assert after["model.safetensors"] == old["model.safetensors"] != new["model.safetensors"]
    assert after["config.json"] in (old["config.json"], new["config.json"])


def test_a_disk_full_from_the_start_leaves_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        small_model().save_pretrained(tmp_path / "model")
    assert contents(tmp_path / "model") == {}


@pytest.mark.parametrize("clips", [1, 3])
def test_labels_are_for_one_clip_or_for_each(clips: int) -> None:
    model = small_model(labels=LABELS)
    for batch_size in (1, clips):
        assert model(some_codes(clips, 9), some_labels(batch_size)).shape == (clips, 256, 9)
    with pytest.raises(ValueError, match=rf"{clips} clips of samples, but .* of 2\. Give one for"):
        model(some_codes(clips, 9), some_labels(2))
    with pytest.raises(ValueError, match=r"of 2\. Give one for each clip"):
        model.step(some_codes(clips, 9), model.init_state(clips), some_labels(2))
