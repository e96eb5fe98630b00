"""Names of models: bundled models load as described, folders have priority, errors are helpful.

Nothing here needs a network or huggingface_hub: a folder and a recorder replace the Hub.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import small_model
from safetensors import safe_open
from test_model import contents

import wavenet
from wavenet import WaveNet, pretrained
from wavenet.audio import save_audio
from wavenet.checkpoints import load_model, model_name, newest_or_bundled

REPOSITORY = Path(__file__).parent.parent
LIMIT = 4_000_000  # bytes of weights for each model in a clone and in a wheel


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- bundled ---


def test_every_folder_in_pretrained_is_a_bundled_model() -> None:
    folders = sorted(path.name for path in pretrained.HERE.iterdir() if path.is_dir())
    assert [name for name in folders if name[0] != "_"] == pretrained.bundled()
    assert pretrained.DEFAULT in pretrained.bundled()


@pytest.mark.parametrize("name", pretrained.bundled())
def test_a_bundled_model_is_complete_small_and_float32(name: str) -> None:
    folder = pretrained.HERE / name
    assert sorted(path.name for path in folder.iterdir()) == [
        "LICENSE",
        "README.md",
        *pretrained.FILES,
    ]
    assert (folder / "model.safetensors").stat().st_size < LIMIT
    with safe_open(folder / "model.safetensors", "pt") as weights:
        tensors = {key: weights.get_tensor(key) for key in list(weights.keys())}
    stored = {key: (value.shape, value.dtype) for key, value in tensors.items()}
    model = WaveNet(**json.loads((folder / "config.json").read_text())["model"])
    expected = {key: (value.shape, torch.float32) for key, value in model.state_dict().items()}
    assert stored == expected


@pytest.mark.parametrize("name", pretrained.bundled())
def test_a_bundled_model_is_trained_and_the_same_by_every_way_of_loading(name: str) -> None:
    model = WaveNet.from_pretrained(name)
    assert not model.training and all(
        value.isfinite().all() for value in model.state_dict().values()
    )
    first = wavenet.generate(model, num_samples=40, seed=3, engine="torch")
    for other in (
        WaveNet.from_pretrained(pretrained.HERE / name),
        load_model(name),
        load_model(Path(name)),
    ):
        assert torch.equal(wavenet.generate(other, num_samples=40, seed=3, engine="torch"), first)
    choice = {label: categories[0] for label, categories in model.labels.items()}
    silence = torch.zeros(1, 400)
    assert wavenet.bits_per_sample(model, silence, choice) < 6, "an untrained model needs 8 bits"


@pytest.mark.parametrize("name", pretrained.bundled())
def test_the_card_states_data_licence_recipe_and_limits_of_the_model(name: str) -> None:
    card = (pretrained.HERE / name / "README.md").read_text()
    model = WaveNet.from_pretrained(name)
    for said in (
        "## Data",
        "## Recipe",
        "## Limits",
        "## Licence",
        f"configs/{name}.yaml",
        "watermark",
        "MIT",
    ):
        assert said in card, said
    assert (REPOSITORY / "configs" / f"{name}.yaml").is_file()
    assert f"{model.num_parameters / 1e6:.2f} M" in card
    assert f"{model.receptive_field} samples" in card
    for label, categories in model.labels.items():
        assert f"`{label}` {categories[0]}" in card and categories[-1] in card


def test_fsdd_has_ten_digits_and_six_speakers() -> None:
    model = WaveNet.from_pretrained("fsdd")
    assert model.labels["digit"] == [str(digit) for digit in range(10)]
    assert len(model.labels["speaker"]) == 6 and model.sample_rate == 8000
    card = (pretrained.HERE / "fsdd" / "README.md").read_text()
    assert "CC BY-SA 4.0" in card and "Zohar Jackson" in card and "cc-by-sa-4.0" in card


def test_the_package_ships_the_models() -> None:
    setup = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert (pretrained.HERE / "__init__.py").is_file(), "setuptools finds only packages with one"
    found = setup["packages"]["find"]["include"]
    assert any(fnmatch("wavenet.pretrained", pattern) for pattern in found)
    shipped = {
        path
        for glob in setup["package-data"]["wavenet.pretrained"]
        for path in pretrained.HERE.glob(glob)
    }
    assert {
        pretrained.HERE / name / file for name in pretrained.bundled() for file in pretrained.FILES
    } <= shipped
    tracked = subprocess.run(
        ["git", "ls-files", "wavenet/pretrained"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.split()
    assert not tracked or {
        str(path.relative_to(REPOSITORY)) for path in shipped if path.is_file()
    } <= set(tracked)


# --- which model a name means ---


def test_an_existing_folder_has_priority_over_a_bundled_model_of_its_name(tmp_path: Path) -> None:
    small_model(dtype=torch.float32).save_pretrained(tmp_path / "fsdd")
    assert WaveNet.from_pretrained("fsdd").labels == {}
    (tmp_path / "fsdd" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"fsdd has no config\.json"):
        WaveNet.from_pretrained("fsdd")
    assert load_model(newest_or_bundled()).labels, "the default is the bundled model, by its path"


def test_a_file_of_a_bundled_name_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "fsdd").touch()
    assert "digit" in WaveNet.from_pretrained("fsdd").labels


@pytest.mark.parametrize(
    "name", ["fsd", "FSDD", "a/b/c", "/nowhere/x", "", "https://huggingface.co/a/b"]
)
@pytest.mark.parametrize("load", [WaveNet.from_pretrained, load_model])
def test_an_unknown_name_lists_what_is_accepted(name: str, load: Any, hub: "Hub") -> None:
    with pytest.raises(FileNotFoundError) as raised:
        load(name or "nothing")
    message = str(raised.value)
    assert "there is no such model" in message and (name or "nothing") in message
    for accepted in (*pretrained.bundled(), "runs/NAME/model", "user/model"):
        assert accepted in message
    assert hub.asked == [] and ("ckpt" in message) == (load == load_model)


def test_a_file_is_not_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"x\.ckpt: this is a file"):
        WaveNet.from_pretrained("x.ckpt")


def test_without_a_run_the_bundled_model_is_used_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="wavenet"):
        source = newest_or_bundled()
    assert model_name(source) == "fsdd"
    assert len(caplog.messages) == 1 and "fsdd" in caplog.text and "python train.py" in caplog.text
    with pytest.raises(
        FileNotFoundError, match=r"no trained model in elsewhere yet(?s:.)*--checkpoint fsdd"
    ):
        newest_or_bundled(Path("elsewhere"))
    small_model(dtype=torch.float32).save_pretrained(tmp_path / "runs" / "mine" / "model")
    caplog.clear()
    assert newest_or_bundled() == Path("runs/mine/model") and caplog.messages == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("runs/mine/model", "mine"),
        ("runs/mine", "mine"),
        ("x.ckpt", "x.ckpt"),
        ("fsdd", "fsdd"),
        ("ann/model", "ann/model"),
    ],
)
def test_a_model_s_name_leaves_out_parent_folders(tmp_path: Path, source: str, name: str) -> None:
    (tmp_path / "runs" / "mine" / "model").mkdir(parents=True)
    (tmp_path / "x.ckpt").touch()
    assert model_name(source) == name


# --- the Hub ---


class Hub:
    """Replaces huggingface_hub: repositories are folders; requests and uploads are recorded.

    tests/test_hub.py runs the client itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.made: list[tuple[str, bool, bool]] = []
        self.uploaded: dict[str, bytes] = {}

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str], **_: object) -> str:
        self.asked.append(repo_id)
        assert allow_patterns == pretrained.FILES
        if not (self.folder / repo_id).is_dir():
            raise OSError("404 Client Error.\nRepository Not Found")
        return str(self.folder / repo_id)

    def HfApi(self, **_: object) -> "Hub":
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        self.made.append((repo_id, private, exist_ok))
        return Address(f"https://huggingface.co/{repo_id if '/' in repo_id else 'ann/' + repo_id}")

    def file_exists(self, repo_id: str, filename: str) -> bool:
        return (self.folder / repo_id / filename).is_file()

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str
    ) -> None:
        self.uploaded = contents(folder_path)
        assert set(self.uploaded) == set(allow_patterns) and "wavenet-torch" in commit_message
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


class Address(str):
    @property
    def repo_id(self) -> str:
        return "/".join(self.split("/")[-2:])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub_module(hub))
    yield hub


def hub_module(hub: Hub) -> Any:
    return SimpleNamespace(snapshot_download=hub.snapshot_download, HfApi=hub.HfApi)


def test_a_model_goes_to_the_hub_and_comes_back_bit_for_bit(tmp_path: Path, hub: Hub) -> None:
    model = small_model(dtype=torch.float32, labels={"digit": ["0", "1"]})
    model.save_pretrained(tmp_path / "here")
    for repo_id, private in (("ann/voice", False), ("voice", True)):
        hub.uploaded = {}
        assert model.push_to_hub(repo_id, private=private) == "https://huggingface.co/ann/voice"
        assert hub.made[-1] == (repo_id, private, True)
        files = {k: content for k, content in hub.uploaded.items() if k != "README.md"}
        assert files == contents(tmp_path / "here"), "the two files of save_pretrained"
    again = WaveNet.from_pretrained("ann/voice")
    assert hub.asked == ["ann/voice"] and again.config == model.config
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )
    assert load_model("ann/voice").config == model.config


def fields_of(text: str) -> dict[str, str]:
    """The fields at the head of a model card."""
    _, head, _ = text.split("---\n", 2)
    return dict(line.split(": ", 1) for line in head.splitlines())


LABELLED = {"labels": {"digit": ["0", "1"], "speaker": [f"s_{i}" for i in range(30)]}}
VOCODER = {"mel": wavenet.Mel(bands=4, hop=16, window=32), "sample_rate": 8000}


@pytest.mark.parametrize(
    ("settings", "task"), [(LABELLED, "text-to-audio"), (VOCODER, "audio-to-audio")]
)
def test_the_card_of_a_pushed_model_has_the_hubs_fields_and_a_program_that_runs(
    settings: Any, task: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_model(dtype=torch.float32, **settings).push_to_hub("ann/voice", license="cc-by-4.0")
    text = hub.uploaded["README.md"].decode()
    tags = "wavenet, audio, raw-audio" + ", vocoder" * ("mel" in settings)
    assert fields_of(text) == {
        "library_name": "wavenet-torch",
        "license": "cc-by-4.0",
        "pipeline_tag": task,
        "tags": f"[{tags}]",
    }
    assert ("s\\_11 and 18 more" in text) == ("labels" in settings)
    assert ("log mel frames of 4 bands" in text) == ("mel" in settings)
    save_audio(Path("in.wav"), torch.rand(100) - 0.5, 8000)
    program = text.split("```python\n")[1].split("```")[0]
    exec(compile(program.replace("seconds=2", "seconds=0.01"), "card", "exec"), {})
    assert Path("out.wav").stat().st_size > 44 + 2 * 70


def test_a_card_that_is_there_stays(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    theirs = hub.folder / "ann" / "voice" / "README.md"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with caplog.at_level("INFO", logger="wavenet"):
        small_model(dtype=torch.float32).push_to_hub("ann/voice", license="mit")
    assert theirs.read_text() == "mine" and sorted(hub.uploaded) == pretrained.FILES
    assert "ann/voice has a model card, which stays as it is" in caplog.text


def test_a_licence_is_written_as_the_hub_names_it_or_not_at_all(hub: Hub) -> None:
    model = small_model(dtype=torch.float32)
    for wrong in ("CC BY 4.0", "mit\ntags: [x]", "", 4):
        with pytest.raises(ValueError, match=r"license is the Hub's name.*lower case.*but got"):
            model.push_to_hub("ann/voice", license=wrong)  # type: ignore[arg-type]
    assert hub.made == []
    model.push_to_hub("ann/voice")
    text = hub.uploaded["README.md"].decode()
    assert "license" not in fields_of(text) and "None was named." in text


def test_a_bundled_models_card_has_the_same_fields() -> None:
    for name in pretrained.bundled():
        fields = fields_of((pretrained.HERE / name / "README.md").read_text())
        assert fields["library_name"] == "wavenet-torch" and fields["license"]
        assert fields["pipeline_tag"] == "text-to-audio" and "wavenet" in fields["tags"]


def test_a_folder_has_priority_over_the_hub_and_a_mistyped_path_is_not_looked_up(
    tmp_path: Path, hub: Hub
) -> None:
    small_model(dtype=torch.float32).save_pretrained(tmp_path / "runs" / "mine")
    assert WaveNet.from_pretrained("runs/mine").labels == {}
    with pytest.raises(FileNotFoundError, match=r"runs/mime: there is no such model"):
        WaveNet.from_pretrained("runs/mime")
    with pytest.raises(FileNotFoundError, match=r"there is no such model"):
        WaveNet.from_pretrained(Path("ann/voice"))
    assert hub.asked == []


def test_a_failed_download_is_reported_with_its_reason(hub: Hub) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"ann/nothing is not a folder here.*404 Client Error.*fsdd"
    ):
        WaveNet.from_pretrained("ann/nothing")


def test_a_failed_download_without_a_reason_is_reported(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=r"ann/nothing.*\(OSError: no reason given\)"):
        WaveNet.from_pretrained("ann/nothing")


def test_without_the_extra_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With None there, importing the module raises ModuleNotFoundError.
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # type: ignore[arg-type]
    for function in (WaveNet.from_pretrained, load_model, small_model().push_to_hub):
        with pytest.raises(ValueError, match=r"ann/voice.*pip install 'wavenet-torch\[hub\]'"):
            function("ann/voice")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["hub"]
    assert any(requirement.startswith("huggingface_hub") for requirement in extra)


def test_no_text_sends_anybody_to_the_unrelated_package_of_the_index() -> None:
    """There, `wavenet` is another project; this library's distribution is wavenet-torch."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["name"] == "wavenet-torch"
    kinds = ("*.py", "*.md", "*.toml", "*.yaml", "*.html", "*.cff", "*.cpp", ".ci/*")
    texts = [path for kind in kinds for path in REPOSITORY.rglob(kind) if ".git" not in path.parts]
    assert len(texts) > 100
    named = re.compile(
        r"""pip install\s+(-\S+\s+)*["']?wavenet(?!-torch)|["'`]wavenet\[\w"""  # or its extras
    )
    assert [str(path) for path in texts if named.search(path.read_text())] == []
