"""Properties of the structure: imports go one way, engines know no model, commands are thin.

A room is a module or a package directly under `wavenet`, with all that lies in it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wavenet import WaveNet
from wavenet.engines.parts import Layer, Parts, Weights

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "wavenet"

# From the bottom up. A room imports only from levels (FLOORS) below its own, not from its own.
FLOORS = [
    {"version"},
    {"files", "installation", "machine", "ops", "testing", "triton_common"},
    {"outputs", "pretrained", "trials"},
    {"conditioning", "layers", "saving"},
    {"model"},
    {"likelihood", "checkpoints", "engines"},
    {"generation"},
    {"audio", "plotting", "terminal"},
    {"results", "frames"},
    {"corpus", "evaluation", "gallery", "interop"},
    {"training"},
    {"commands"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ONLY: dict[str, set[str]] = {  # rooms that could see more, and do not
    "audio": {"files", "installation", "machine"},
    "installation": set(),
    "plotting": {"files", "installation"},
    "ops": set(),
    "machine": set(),
    "testing": set(),
    "results": {"audio", "files", "machine", "plotting"},
    "conditioning": set(),
    "layers": {"ops"},
    "interop": {
        "audio",
        "checkpoints",
        "conditioning",
        "engines",
        "files",
        "generation",
        "installation",
        "layers",
        "model",
        "outputs",
        "saving",
    },
    "engines": {
        "conditioning",
        "layers",
        "model",
        "outputs",
        "triton_common",
        "files",
        "machine",
        "trials",
    },
    "corpus": {"audio", "conditioning", "files", "installation"},
}
WITH_LIGHTNING = {"training"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, at its top or inside a function, by its whole name.

    "wavenet.outputs.mulaw", "torch.nn".
    """
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                if node.level
                else ""
            )
            source = ".".join(part for part in (base, node.module) if part)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def rooms_of(modules: Iterator[str]) -> set[str]:
    """The rooms among them; `wavenet` itself, which imports many of them, counts as "wavenet"."""
    parts = [module.split(".") for module in modules]
    return {
        names[1] if len(names) > 1 and names[1] in FLOOR else "wavenet"
        for names in parts
        if names[0] == "wavenet"
    }


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_has_its_floor() -> None:
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms - set(FLOOR) == set(), "a new room: say in FLOORS what it may import"
    assert len(SOURCES) > 15


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_rooms_import_downwards_only(path: Path) -> None:
    room, seen = room_of(path), rooms_of(imports(path))
    if room == "__init__":
        assert max(FLOOR[other] for other in seen) < FLOOR["audio"]
        return
    upward = {other for other in seen - {room} if other == "wavenet" or FLOOR[other] >= FLOOR[room]}
    assert upward == set()
    assert seen - {room} <= ONLY.get(room, seen)


ENGINES = {  # the files of each engine; the others in that room are for all of them
    "naive": {"wavenet.engines.naive"},
    "step": {"wavenet.engines.stepped"},
    "cached": {"wavenet.engines.cached"},
    "native": {
        "wavenet.engines.native.engine",
        "wavenet.engines.native.feedforward",
        "wavenet.engines.native.compiler",
    },
    "triton": {
        "wavenet.engines.triton.engine",
        "wavenet.engines.triton.kernel",
        "wavenet.engines.triton.trial",
    },
}
ENGINE_FILES = [path for path in SOURCES if room_of(path) == "engines"]


def modules_of(path: Path) -> set[str]:
    """Every module of `wavenet` that the file imports, whether by itself or something from it."""
    names = {module_name(source) for source in SOURCES}
    found = set()
    for module in imports(path):
        parts = module.split(".")
        prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        found |= prefixes & names
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_does_not_know_the_others(engine: str) -> None:
    others = set().union(*(files for name, files in ENGINES.items() if name != engine))
    own = [path for path in ENGINE_FILES if module_name(path) in ENGINES[engine]]
    assert len(own) == len(ENGINES[engine])
    for path in own:
        assert modules_of(path) & others == set()


def attributes(tree: ast.AST) -> set[str]:
    """Names after a dot, but for those of libraries: torch.stack is no model's stack."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id in ("torch", "F", "tl"))
    }


def own_attributes(tree: ast.AST) -> set[str]:
    """Names that the file's classes give to themselves, or define."""
    given = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return given | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def names_of_a_model() -> set[str]:
    """Attributes of a model and of its blocks, but for what any network offers an engine."""
    model = WaveNet(1, 1, labels={"digit": ["0"]}, position_hop=16)
    parts = [model, model.stack, model.stack.blocks[0]]
    plain = set(dir(torch.nn.Module())) | {"output", "init_state", "step", "receptive_field"}
    names = set().union(*({*dir(part), *(name for name, _ in part.named_children())}
                          for part in parts))  # fmt: skip
    of_outputs = {"encode", "decode"}  # and of texts
    return (
        {name for name in names if not name.startswith("_")}
        - plain
        - of_outputs
        - {"predict", "predict_step"}
    )


@pytest.mark.parametrize("path", ENGINE_FILES, ids=module_name)
def test_only_what_reads_models_for_all_engines_names_their_attributes(path: Path) -> None:
    tree, model = ast.parse(path.read_text()), names_of_a_model()
    assert {"stack", "blocks", "dilated", "head", "embedding", "labels", "config"} <= model
    if module_name(path) in ("wavenet.engines.parts", "wavenet.engines.reading"):
        assert len(attributes(tree) & model) > 5
        return
    fields = {name for kind in (Parts, Weights, Layer) for name in kind.__dataclass_fields__}
    assert attributes(tree) & model - fields - own_attributes(tree) == set()
    assert "wavenet.layers" not in modules_of(path)


@pytest.mark.parametrize("path", ENGINE_FILES, ids=module_name)
def test_no_file_of_the_engines_names_labels_position_or_mel(path: Path) -> None:
    words = set(re.findall(r"[a-z]+", path.read_text().lower()))
    assert words & {"label", "labels", "position", "positions", "mel", "mels"} == set()


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_lightning_is_known_to_the_training_rooms_only(path: Path) -> None:
    known = {module.split(".")[0] for module in imports(path)} & LIGHTNING
    assert not known or room_of(path) in WITH_LIGHTNING


def test_the_parser_of_imports_sees_every_kind() -> None:
    assert {"audio", "generation", "model"} <= rooms_of(
        imports(PACKAGE / "training" / "callbacks.py")
    )
    assert "lightning.pytorch" in {name for path in SOURCES for name in imports(path)}
    source = PACKAGE / "engines" / "cached.py"
    assert "torch.Tensor" in set(imports(source)) and "outputs" in rooms_of(imports(source))


def test_importing_wavenet_needs_torch_alone() -> None:
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "from wavenet import *\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('wavenet')))\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    new, own, everything = (set(line.split()) for line in ran.stdout.splitlines())
    assert new - set(sys.stdlib_module_names) == {"wavenet"}
    assert (
        everything
        & {*LIGHTNING, "torchaudio", "matplotlib", "soundfile", "safetensors", "huggingface_hub"}
        == set()
    )
    assert "wavenet.model" in own
    assert (
        own & {"wavenet.audio", "wavenet.training", "wavenet.engines.cached", "wavenet.plotting"}
        | {name for name in own if name.startswith("wavenet.interop")}
        == set()
    )


def statements(path: Path) -> int:
    """Statements, but for imports and docstrings: lines of code, however they are wrapped."""
    return sum(
        isinstance(node, ast.stmt)
        and not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.walk(ast.parse(path.read_text()))
    )


COMMANDS = sorted((PACKAGE / "commands").glob("*.py"))


@pytest.mark.parametrize("script", ["train.py", "generate.py"])
def test_the_scripts_of_a_clone_start_the_commands_and_no_more(script: str) -> None:
    assert 0 < statements(REPOSITORY / script) <= 6
    assert rooms_of(imports(REPOSITORY / script)) == {"commands"}


@pytest.mark.parametrize("path", COMMANDS, ids=module_name)
def test_the_commands_are_thin(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert 0 < statements(path) <= 80
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert rooms_of(imports(path)) & {"layers", "outputs", "likelihood"} == set()
