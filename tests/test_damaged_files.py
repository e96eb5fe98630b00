"""Files from elsewhere: the same model, or an error that names the file, in a moment.

Whatever happened to a file, `load_model` raises ValueError or an OSError and nothing else, and
never loads another model than the one that was saved.
"""

import json
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS, small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from wavenet import WaveNet
from wavenet.checkpoints import load_model, read_checkpoint
from wavenet.outputs import output_settings

REPOSITORY = Path(__file__).parent.parent
SECONDS = 5  # for a file of 40 kB
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model's two files and x.ckpt, a training checkpoint of the same model."""
    folder = tmp_path_factory.mktemp("whole")
    model = small_model(dtype=torch.float32, labels=LABELS, cycles=1, residual_scale=1.0)
    model.save_pretrained(folder)
    save_checkpoint(folder / "x.ckpt", model)
    return folder


def save_checkpoint(path: Path, model: WaveNet, **changes: Any) -> None:
    hyper = {**model.config.settings(), "output": output_settings(model.output), "betas": (0.9, 1)}
    weights = {f"wavenet.{name}": weight for name, weight in model.state_dict().items()}
    content = {"state_dict": weights, "hyper_parameters": hyper, "wavenet_version": "0.1"}
    torch.save({**content, **changes}, path)


def loaded(path: Path) -> WaveNet | None:
    """None for a file that is refused, with an error that names it, and in time."""
    started = time.monotonic()
    try:
        return load_model(path)
    except (ValueError, OSError) as error:
        assert str(path) in str(error), error
        return None
    finally:
        assert time.monotonic() - started < SECONDS


def assert_the_same_or_refused(folder: Path, name: str, whole: Path) -> None:
    """name: of the file of `whole` that was changed in `folder`."""
    model = loaded(folder / name if name == "x.ckpt" else folder)
    if model is None:
        return
    expected = WaveNet.from_pretrained(whole)
    assert model.config == expected.config and list(model.labels) == list(expected.labels)
    weights = model.state_dict()
    assert all(torch.equal(weights[n], value) for n, value in expected.state_dict().items())


def changed(whole: Path, folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_bytes(content)


# Any mutation

FILES = ("config.json", "model.safetensors", "x.ckpt")
SHARES = st.floats(0, 1, exclude_max=True)  # where in a file
ODD: list[Any] = [None, True, -1, 0, 1.5, 2**31, 2**64, 1e300, float("nan"), "", "text", [], {}]
ODD += [[[[]]], {"a": {"b": 1}}, ["0", "0"], 10**9, "\udcff", {"name": []}]


@pytest.mark.parametrize("name", FILES)
@EXAMPLES
@given(flips=st.lists(SHARES, min_size=1, max_size=3), bit=st.integers(0, 7))
def test_flipped_bits_give_the_same_model_or_an_error(
    whole: Path, tmp_path: Path, name: str, flips: list[float], bit: int
) -> None:
    content = bytearray((whole / name).read_bytes())
    for flip in flips:
        content[int(flip * len(content))] ^= 1 << bit
    changed(whole, tmp_path / "changed", name, bytes(content))
    assert_the_same_or_refused(tmp_path / "changed", name, whole)


@pytest.mark.parametrize("name", FILES)
@EXAMPLES
@given(flip=st.integers(0, 4000), bit=st.integers(0, 7), end=st.booleans())
def test_flipped_bits_of_a_files_structure_give_the_same_model_or_an_error(
    whole: Path, tmp_path: Path, name: str, flip: int, bit: int, end: bool
) -> None:
    """The header of safetensors and the directory of a zip file lie at their ends."""
    content = bytearray((whole / name).read_bytes())
    content[(-1 - flip if end else flip) % len(content)] ^= 1 << bit
    changed(whole, tmp_path / "changed", name, bytes(content))
    assert_the_same_or_refused(tmp_path / "changed", name, whole)


@pytest.mark.parametrize("name", FILES)
@EXAMPLES
@given(kept=SHARES, more=st.binary(max_size=9))
def test_cut_and_continued_files_give_the_same_model_or_an_error(
    whole: Path, tmp_path: Path, name: str, kept: float, more: bytes
) -> None:
    content = (whole / name).read_bytes()
    changed(whole, tmp_path / "changed", name, content[: int(kept * len(content))] + more)
    assert_the_same_or_refused(tmp_path / "changed", name, whole)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in nested dictionaries and lists there is a value."""
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


@EXAMPLES
@given(where=SHARES, odd=st.sampled_from(ODD), old=st.booleans())
def test_odd_values_in_a_config_give_the_same_model_or_an_error(
    whole: Path, tmp_path: Path, where: float, odd: Any, old: bool
) -> None:
    """old: beside weights that carry no settings, so that config.json alone decides."""
    config = json.loads((whole / "config.json").read_text())
    all_places = places(config)
    odd_config = replaced(config, all_places[int(where * len(all_places))], odd)
    changed(whole, tmp_path / "changed", "config.json", json.dumps(odd_config).encode())
    if old:
        weights = tmp_path / "changed" / "model.safetensors"
        save_file(load_file(weights), weights)
    assert_the_same_or_refused(tmp_path / "changed", "config.json", whole)


@EXAMPLES
@given(where=SHARES, odd=st.sampled_from([*ODD, torch.zeros(2), b"x"]))
def test_odd_values_in_a_checkpoint_give_a_model_or_an_error(
    whole: Path, tmp_path: Path, where: float, odd: Any
) -> None:
    """A model, not the model: a checkpoint whose settings another program wrote is a whole one."""
    content = torch.load(whole / "x.ckpt", weights_only=True)
    all_places = places(content)
    path = tmp_path / "changed.ckpt"
    torch.save(replaced(content, all_places[int(where * len(all_places))], odd), path)
    loaded(path)


# One by one

NO_CHECKPOINT = "is not a training checkpoint of this library"


def refused(path: Path, match: str) -> str:
    with pytest.raises((ValueError, FileNotFoundError), match=match) as raised:
        load_model(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("content", [b"root:x:0:0:root:/root:/bin/bash\n", b"\x80\x02}.", b"PKPK"])
def test_a_file_of_another_kind_is_refused_without_reading_it(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(tmp_path / "file", "was refused: it is not a training checkpoint, which is a zip file")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hyper_parameters": 5}, NO_CHECKPOINT),
        ({"hyper_parameters": [("cycles", 1)]}, NO_CHECKPOINT),
        ({"hyper_parameters": {5: 5}}, NO_CHECKPOINT),
        ({"state_dict": None}, NO_CHECKPOINT),
        ({"state_dict": {"wavenet.a": 5}}, NO_CHECKPOINT),
        ({"state_dict": {5: torch.zeros(2)}}, NO_CHECKPOINT),
        ({"state_dict": {"wavenet.a": torch.zeros(2).long()}}, f"{NO_CHECKPOINT}.*torch.int64"),
        ({"state_dict": {"wavenet.a": torch.zeros(2).to_sparse()}}, f"{NO_CHECKPOINT}.*sparse"),
        ({"state_dict": {"wavenet.a": torch.zeros(2)}}, "do not fit the model of this version"),
        ({"state_dict": {"a": torch.zeros(1).expand(10**12)}}, "weights larger than the file"),
        ({"hyper_parameters": {"cycles": 10**9}}, "cycles=1000000000; it must be an integer from"),
        ({"hyper_parameters": {"labels": ["a"]}}, "labels must be names with their categories"),
        ({"hyper_parameters": {"residual_channels": 60_000}}, "do not fit.*size mismatch"),
    ],
)
def test_a_checkpoint_with_other_things_in_its_parts_is_refused(
    tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    save_checkpoint(tmp_path / "x.ckpt", small_model(), **changes)
    refused(tmp_path / "x.ckpt", match)


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(
    whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"0" * 10_000_000)
    refused(path, "is not a whole training checkpoint.*compressed")


def test_a_checkpoint_is_read_as_it_was_written(whole: Path) -> None:
    """What the tests here change is a live one."""
    model = WaveNet.from_pretrained(whole)
    assert load_model(whole / "x.ckpt").config == model.config
    assert set(read_checkpoint(whole / "x.ckpt")) >= {"state_dict", "hyper_parameters"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 100_000, "RecursionError"),
        ('{"a":' * 100_000, "RecursionError"),
        ('{"model": 1' + "0" * 5000 + "}", "is not the config.json of a saved WaveNet"),
        ('{"model": {}, "model": {}}', "there twice: model"),
        ("\xff", "UnicodeDecodeError"),
    ],
    ids=["lists", "objects", "number", "twice", "encoding"],
)
def test_a_config_that_no_parser_likes_is_refused(
    whole: Path, tmp_path: Path, text: str, match: str
) -> None:
    changed(whole, tmp_path, "config.json", text.encode("latin-1"))
    assert "of a saved WaveNet" in refused(tmp_path, match)


@pytest.mark.parametrize(
    ("setting", "value", "match"),
    [
        ("cycles", 1_000_000_000, "cycles=1000000000; it must be an integer from 1 to 1000"),
        ("kernel_size", 10**9, "kernel_size=1000000000; it must be an integer from 1 to 1024"),
        ("residual_scale", None, "residual_scale=None; it must be"),
        ("labels", 5, "labels must be names"),
        ("residual_channels", 60_000, "do not fit its config.json.*size mismatch"),
        ("cycles", 100, "do not fit its config.json.*size mismatch"),
        ("layers_per_cycle", 20, "do not fit its config.json.*size mismatch"),
    ],
)
def test_huge_sizes_in_a_config_are_refused_at_once_and_without_memory(
    whole: Path, tmp_path: Path, setting: str, value: Any, match: str
) -> None:
    config = json.loads((whole / "config.json").read_text())
    config["model"][setting] = value
    changed(whole, tmp_path, "config.json", json.dumps(config).encode())
    save_file(load_file(whole / "model.safetensors"), tmp_path / "model.safetensors")
    started = time.monotonic()
    refused(tmp_path, match)
    assert time.monotonic() - started < 1


def header(change: Callable[[dict[str, Any]], object], content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + size])
    del entries["__metadata__"]
    change(entries)
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries["input.bias"].update(shape=[2**36]),
        lambda entries: entries["input.bias"].update(shape=[2**36], data_offsets=[0, 2**38]),
        lambda entries: entries["input.bias"].update(dtype="NaN"),
        lambda entries: entries["input.bias"].update(dtype="I32"),
        lambda entries: entries["input.bias"].update(shape=[-1]),
        lambda entries: entries["input.bias"].update(shape=[1, 5]),
        lambda entries: entries.update(more=entries.pop("input.bias")),
        lambda entries: entries.pop("input.bias"),
    ],
    ids=["shape", "244 GiB", "NaN", "integers", "negative", "misshapen", "renamed", "missing"],
)
def test_weights_that_promise_other_things_than_they_hold_are_refused(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    weights = (whole / "model.safetensors").read_bytes()
    changed(whole, tmp_path, "model.safetensors", header(change, weights))
    refused(tmp_path, r"is not a whole safetensors file|do not fit its config\.json")


def test_generate_says_error_and_not_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_text("root:x:0:0")
    command = [sys.executable, "generate.py", "--checkpoint", str(tmp_path / "x.ckpt")]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'x.ckpt'} was refused")
