"""Properties of the house: rooms import downwards only, `import wavenet` needs torch alone, the commands are thin."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "wavenet"

# From the cellar up. A room imports only from floors under its own; rooms of one floor do not know each other.
FLOORS = [
    {"version"},
    {"files", "ops", "triton_common"},
    {"outputs", "pretrained"},
    {"conditioning", "layers", "saving"},
    {"model"},
    {"likelihood", "checkpoints", "engines"},
    {"generation"},
    {"audio", "plotting", "terminal"},
    {"corpus", "evaluation", "gallery"},
    {"training"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ONLY: dict[str, set[str]] = {  # rooms that could see more, and do not
    "audio": {"files"},
    "plotting": {"files"},
    "ops": set(),
    "conditioning": set(),
    "layers": {"ops"},
    "engines": {"conditioning", "layers", "model", "outputs", "triton_common", "files"},
    "corpus": {"audio", "conditioning", "files", "outputs"},
}
WITH_LIGHTNING = {"training"}
LIGHTNING = {"data", "training", "callbacks", "cli"}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, at its top or inside a function, in full: "wavenet.outputs.mulaw", "torch.nn"."""
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
    """The rooms of `wavenet` among them; `wavenet` itself, which opens them all, counts as "wavenet"."""
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


def test_an_engine_does_not_know_the_others() -> None:
    engines = [
        path for path in SOURCES if path.parent.name == "engines" and path.name != "__init__.py"
    ]
    names = {
        module_name(path) for path in engines if not path.stem.endswith("_kernel")
    }  # a kernel belongs to its engine
    for path in engines:
        seen = {".".join(module.split(".")[:3]) for module in imports(path)}
        assert seen & names == set()
    assert len(names) >= 2


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
        "import wavenet\n"
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


@pytest.mark.parametrize(("command", "most"), [("train.py", 10), ("generate.py", 80)])
def test_the_commands_are_thin(command: str, most: int) -> None:
    path = REPOSITORY / command
    tree = ast.parse(path.read_text())
    assert 0 < statements(path) <= most
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert rooms_of(imports(path)) & {"layers", "outputs", "conditioning", "likelihood"} == set()
