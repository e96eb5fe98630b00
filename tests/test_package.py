"""The wheel: what is in it, what it says of itself, and that it works once installed.

It is built without a network, by the setuptools that is installed.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import REPOSITORY, environment

import wavenet
from wavenet.commands import COMMANDS
from wavenet.pretrained import bundled

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
BUILD = "import sys; from setuptools import build_meta as b; print(b.{what}(sys.argv[1]))"
OF_THE_CLONE = ("runs", "build", "dist", ".git", "*.egg-info", "audio", "__pycache__", ".*_cache")


def built(place: Path, what: str) -> Path:
    """A wheel or an sdist of the repository, made of a copy of it: nothing is left here."""
    shutil.copytree(REPOSITORY, place / "copy", ignore=shutil.ignore_patterns(*OF_THE_CLONE))
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(what=what), str(place)],
        cwd=place / "copy",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return place / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"), "build_wheel")


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


# --- what is in it ---


def test_the_wheel_has_every_module_of_the_package_and_no_tests(names: set[str]) -> None:
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "wavenet").rglob("*.py")}
    code = {name for name in names if name.endswith(".py") and "/recipes/" not in name}
    assert code == modules and len(code) > 90
    assert {name.split("/")[0] for name in names} == {
        "wavenet",
        f"wavenet_torch-{wavenet.__version__}.dist-info",
    }


def test_the_wheel_has_what_the_code_reads(names: set[str]) -> None:
    assert {"wavenet/py.typed", "wavenet/gallery.html"} <= names
    web = "wavenet/interop/web"
    assert {f"{web}/{name}" for name in ("page.html", "page.js", "worker.js")} <= names
    sources = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "wavenet").rglob("*.cpp")}
    assert sources and sources <= names
    for model in bundled():
        for file in ("config.json", "model.safetensors", "README.md", "LICENSE"):
            assert f"wavenet/pretrained/{model}/{file}" in names


def test_the_wheel_has_the_recipes_as_they_are_in_a_clone(wheel: Path, names: set[str]) -> None:
    shipped = {name.removeprefix("wavenet/recipes/") for name in names if "/recipes/" in name}
    assert {name for name in shipped if name.startswith("configs/")} == {
        f"configs/{path.name}" for path in (REPOSITORY / "configs").glob("*.yaml")
    }
    scripts = {f"data/{p.parent.name}/prepare.py" for p in REPOSITORY.glob("data/*/prepare.py")}
    assert {"data/layout.py", "data/__init__.py", "examples/speak_onnx.py", *scripts} <= shipped
    with zipfile.ZipFile(wheel) as archive:
        for name in shipped:
            assert archive.read(f"wavenet/recipes/{name}") == (REPOSITORY / name).read_bytes()


def test_every_script_that_a_recipe_names_is_among_the_recipes(names: set[str]) -> None:
    configs = [yaml.safe_load(p.read_text()) for p in (REPOSITORY / "configs").glob("*.yaml")]
    named = {config["data"].get("prepare") for config in configs} - {None}
    assert len(named) >= 4
    assert {f"wavenet/recipes/{name}" for name in named} <= names


# --- what it says of itself ---


def test_the_metadata_say_what_it_is(metadata: Message, names: set[str]) -> None:
    assert metadata["Name"] == "wavenet-torch" and metadata["Version"] == wavenet.__version__
    assert metadata["Author"] == "The wavenet-torch developers"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT AND CC-BY-SA-4.0"
    assert metadata.get_all("Project-URL") is None, "there is none to give"
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in metadata.get_all("Classifier", [])
    licences = metadata.get_all("License-File", [])
    assert set(licences) == {"LICENSE", "wavenet/pretrained/fsdd/LICENSE"}
    for licence in licences:
        assert f"wavenet_torch-{wavenet.__version__}.dist-info/licenses/{licence}" in names


def test_what_an_index_shows_is_the_readme_without_links_that_it_cannot_follow(
    metadata: Message,
) -> None:
    text = str(metadata.get_payload())
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert text.startswith("# ") and "python train.py" in text
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith("https://") for link in links)
    assert "](benchmarks/" in (REPOSITORY / "README.md").read_text(), "which a clone shows"


def test_the_core_depends_on_four_packages(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {re.split(r"[<>=!\[ ]", line)[0] for line in required} == {
        "numpy",
        "safetensors",
        "soundfile",
        "torch",
    }
    assert "torch>=2.9" in required
    extras = set(metadata.get_all("Provides-Extra", []))
    assert {"train", "hub", "onnx", "vocoder", "docs", "web", "dev"} <= extras


def test_the_weights_licence_is_the_whole_text_of_the_one_that_is_named() -> None:
    text = (REPOSITORY / "wavenet" / "pretrained" / "fsdd" / "LICENSE").read_text()
    assert text.startswith("Attribution-ShareAlike 4.0 International\n")
    assert "Section 8 -- Interpretation." in text
    assert "license: cc-by-sa-4.0" in (REPOSITORY / "wavenet/pretrained/fsdd/README.md").read_text()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == wavenet.__version__ and citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": PROJECT["authors"][0]["name"]}]
    assert " AND ".join(citation["license"]) == PROJECT["license"]


def test_the_command_starts_what_it_lists(names: set[str], wheel: Path) -> None:
    assert PROJECT["scripts"] == {"wavenet": "wavenet.commands:entry"}
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in names if name.endswith("entry_points.txt"))
        assert "wavenet = wavenet.commands:entry" in archive.read(name).decode()
    for command in COMMANDS:
        assert f"wavenet/commands/{command}.py" in names


def test_ci_runs_the_tests_of_the_core_beside_other_torches() -> None:
    assert "\n.ci/core\n" in (REPOSITORY / ".ci" / "run").read_text()
    listed = re.search(r"^tests=\((.*?)\)", (REPOSITORY / ".ci" / "core").read_text(), re.M | re.S)
    assert listed is not None and len(listed[1].split()) > 20
    for name in listed[1].split():
        text = (REPOSITORY / "tests" / f"test_{name}.py").read_text()
        assert not re.search(r"^(import|from) (lightning|torchaudio|jsonargparse)", text, re.M), (
            name
        )


@pytest.mark.slow
def test_a_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = built(tmp_path, "build_sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (root,) = (tmp_path / "unpacked").iterdir()
    pages = ("mkdocs.yml", "docs/blocks.md", "docs/hooks.py", "docs/tour.ipynb")
    for name in ("README.md", "CITATION.cff", *pages, "tests/conftest.py", "train.py"):
        assert (root / name).is_file(), name
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (REPOSITORY / "README.md").read_text())
    assert images and all((root / image).is_file() for image in images)
    again = [sys.executable, "-c", BUILD.format(what="build_wheel"), str(tmp_path)]
    done = subprocess.run(again, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    both = [zipfile.ZipFile(path) for path in (wheel, tmp_path / wheel.name)]
    assert both[0].namelist() and set(both[0].namelist()) == set(both[1].namelist())


# --- once installed ---


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's folder of programs; its packages are the wheel's, and this one's."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([programs / "python", *install], check=True, timeout=300)
    own = next(place.rglob("site-packages"))
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own / "others.pth").write_text("\n".join(others))  # behind the wheel's own
    return programs


def run(programs: Path, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`wavenet ARGS` in a folder, without the clone on the path."""
    given = environment()
    del given["PYTHONPATH"]
    command = [str(programs / "wavenet"), *args]
    return subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, timeout=600)


SMALL = ("--trainer.max_steps=2", "--data.batch_size=2", "--data.crop_samples=1024",
         "--trainer.limit_val_batches=1", "--samples.seconds=0.05")  # fmt: skip


@pytest.mark.slow
def test_the_installed_commands_run_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    program = "import wavenet, wavenet.installation as i; print(wavenet.__file__, i.recipes())"
    told = subprocess.run(
        [installed / "python", "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={k: v for k, v in environment().items() if k != "PYTHONPATH"}, check=True,
    ).stdout.split()  # fmt: skip
    assert all(str(installed.parent) in path for path in told), "of the wheel, not of a clone"

    made = run(installed, tmp_path, "generate", "--seconds", "0.1", "--out", "a.wav")
    assert (made.returncode, made.stdout) == (0, "a.wav\n"), made.stderr
    assert "Train your own with: wavenet train" in made.stderr

    trained = run(installed, tmp_path, "train", "--config", "default", *SMALL)
    assert trained.returncode == 0, trained.stderr
    audio = tmp_path / "data" / "instruments" / "audio"
    assert f"'{audio}' holds no audio yet" in trained.stderr and any(audio.rglob("*.wav"))
    assert "wavenet generate --checkpoint runs/default/model" in trained.stdout
    checkpoint = tmp_path / "runs" / "default" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2

    resumed = run(installed, tmp_path, "train", "--ckpt_path", "last", "--trainer.max_steps=3")
    assert resumed.returncode == 0, resumed.stderr
    folder = run(installed, tmp_path, "export", "runs/default", "--folder", "model")
    assert (folder.returncode, folder.stdout) == (0, "model\n"), folder.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_recipes_script_is_the_shipped_one_whatever_lies_in_the_folder(
    installed: Path, tmp_path: Path
) -> None:
    own = tmp_path / "data" / "instruments" / "prepare.py"
    own.parent.mkdir(parents=True)
    own.write_text("raise SystemExit('this ran')\n")
    trained = run(installed, tmp_path, "train", *SMALL)
    assert trained.returncode == 0 and "this ran" not in trained.stderr
    assert any((tmp_path / "data" / "instruments" / "audio").rglob("*.wav"))
