"""A page that plays a model draws what `generate` draws, holds all it needs, and shuts nobody out.

What runs in the page, player.cpp, is compiled here for this machine. WebAssembly and browsers are
in test_web_browser.py.
"""

import base64
import ctypes
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS, small_model
from torch import Tensor

import wavenet
from wavenet import MixtureOfLogistics, WaveNet
from wavenet.audio import pcm16
from wavenet.commands import main
from wavenet.conditioning import Mel, draw_lengths
from wavenet.engines import take_apart
from wavenet.engines.native import SOURCE
from wavenet.engines.native.compiler import library
from wavenet.engines.native.engine import Vectors, macros
from wavenet.interop import web
from wavenet.interop.web import building
from wavenet.interop.web.packing import arrays, constants
from wavenet.pretrained import credit

F32 = torch.float32
ARRAYS = ("body", "head", "embedding", "biases", "gates", "steering", "rows", "audio", "lengths")
PRIOR = {
    "log_mean": 6.0,
    "log_std": 0.4,
    "offsets": {"digit": [0.3, 0.0, -0.2], "speaker": [0.1, -0.1]},
}
MODELS: dict[str, dict[str, Any]] = {
    "planned": {
        "labels": LABELS, "position_hop": 16, "unlabelled": True, "clip_length": PRIOR,
        "layers_per_cycle": 4,
    },
    "labels": {"labels": {"note": ["A4", "C5"]}, "kernel_size": 3, "condition_channels": 17},
    "alone": {"residual_scale": 1.0},
}  # fmt: skip
MODULE = b"\0asm of some length"


def model_of(kind: str) -> WaveNet:
    return small_model(dtype=F32, **MODELS[kind])


class Player:
    """player.cpp on this machine, called as worker.js calls it."""

    def __init__(self, model: WaveNet, folder: Path) -> None:
        source = folder / "player.cpp"
        source.write_text(building.unit())
        self.model = model
        self.vectors = Vectors.of(library(SOURCE, macros(take_apart(model), F32)))
        self.library = library(source, constants(model, self.vectors))
        content, self.residual_scale = arrays(model, self.vectors)
        self.arrays = torch.frombuffer(bytearray(content), dtype=torch.uint8).clone()
        self.room = torch.full((self.library.player_bytes(2),), 255, dtype=torch.uint8)  # NaN
        assert self.arrays.data_ptr() % 64 == self.room.data_ptr() % 64 == 0
        for name, kind in (("audio", ctypes.c_int16), ("codes", ctypes.c_int64)):
            getattr(self.library, name).restype = ctypes.POINTER(kind)
        self.player = ctypes.c_void_p(self.room.data_ptr())

    def begin(
        self,
        seed: int,
        labels: Mapping[str, str] | None = None,
        samples: float = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 0.0,
    ) -> int:
        """The length of the new clip."""
        f, scale = ctypes.c_float, ctypes.c_float(self.residual_scale)
        place = ctypes.c_void_p(self.arrays.data_ptr())
        seed32 = ctypes.c_uint32(seed & 0xFFFFFFFF)
        self.library.begin(self.player, place, 2 if guidance else 1, scale, seed32)
        first = 0
        for label, (name, categories) in enumerate(self.model.labels.items()):
            row = first + categories.index((labels or {})[name])
            self.library.choose(self.player, label, row)
            first += len(categories)
        self.library.how(self.player, f(temperature), top_k, f(top_p), f(guidance))
        return self.library.plan(self.player, ctypes.c_double(samples))

    def draw(self, n: int) -> Tensor:
        """The next n samples, 16 bits; fewer where the numbers were not finite."""
        made = self.library.draw(self.player, n)
        return torch.tensor(self.library.audio(self.player)[:made], dtype=torch.int16)

    def clip(self, seed: int, chunks: int = 1024, **settings: Any) -> Tensor:
        length = self.begin(seed, **settings)
        pieces = [self.draw(min(chunks, length - done)) for done in range(0, length, chunks)]
        return torch.cat(pieces)


@pytest.fixture(scope="module", autouse=True)
def _compiled_sooner() -> Iterator[None]:
    """Player and engine alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAVENET_CXXFLAGS", "-O1")
        yield


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Player]:
    return {kind: Player(model_of(kind), tmp_path_factory.mktemp(kind)) for kind in MODELS}


def drawn(model: WaveNet, seed: int, **settings: Any) -> Tensor:
    """What the page is to give."""
    return pcm16(wavenet.generate(model, seed=seed, engine="native", **settings)[0])


# --- what it draws ---

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "guided": {"guidance": 0.7},
    "cool": {"temperature": 0.8},
    "likeliest": {"temperature": 0.0},
    "narrow": {"top_k": 20, "top_p": 0.9, "guidance": 0.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_seed_gives_the_audio_of_generate_and_its_length(
    players: dict[str, Player], way: str
) -> None:
    player, labels = players["planned"], {"digit": "2", "speaker": "bob"}
    for seed in (0, 5, 2**32 - 1):
        settings = {"labels": labels, **WAYS[way]}
        wanted = drawn(player.model, seed, **{"guidance": 0.0, **settings})
        assert torch.equal(player.clip(seed, **settings), wanted), seed


def test_seeds_beyond_32_bits_are_torchs(players: dict[str, Player]) -> None:
    seed, labels = 2**40 + 7, {"note": "C5"}
    wanted = drawn(players["labels"].model, seed, labels=labels, num_samples=300)
    assert torch.equal(players["labels"].clip(seed, labels=labels, samples=300), wanted)


def test_a_model_that_nothing_steers(players: dict[str, Player]) -> None:
    wanted = drawn(players["alone"].model, 3, num_samples=1500)
    assert torch.equal(players["alone"].clip(3, samples=1500), wanted)


def test_clips_in_chunks_of_any_length_one_after_the_other(players: dict[str, Player]) -> None:
    settings = {"labels": {"digit": "0", "speaker": "ann"}, "guidance": 0.5, "samples": 421}
    whole = players["planned"].clip(9, **settings)
    for chunks in (1, 16, 100):
        assert torch.equal(players["planned"].clip(9, chunks, **settings), whole), chunks


def test_lengths_are_those_of_the_seed_and_labels(players: dict[str, Player]) -> None:
    player = players["planned"]
    prior, seeds = player.model.clip_length, range(0, 4000, 7)
    assert prior is not None
    for digit, speaker in ((0, 0), (2, 1)):
        labels = {"digit": LABELS["digit"][digit], "speaker": LABELS["speaker"][speaker]}
        ids = {"digit": torch.tensor([digit]), "speaker": torch.tensor([speaker])}
        wanted = [int(draw_lengths(prior, ids, 1, seed)) for seed in seeds]
        assert [player.begin(seed, labels) for seed in seeds] == wanted
        assert len(set(wanted)) > 200


@pytest.mark.parametrize("seconds", [0.0125, 0.01256, 2.5 / 8000, 3.5 / 8000, 1e-9, 11.0])
def test_a_given_length_is_rounded_as_by_generate(
    players: dict[str, Player], seconds: float
) -> None:
    length = players["alone"].begin(0, samples=seconds * 8000)
    if seconds == 1e-9:
        assert length == 1, "generate refuses it, and so does the page's form"
    else:
        chunks = wavenet.stream(players["alone"].model, seconds=seconds, engine="step")
        assert chunks.lengths is not None and length == int(chunks.lengths[0])


def test_numbers_that_are_not_finite_end_the_clip(tmp_path: Path) -> None:
    model = model_of("alone")
    model.head[3].bias.data.fill_(3e38)
    model.head[1].bias.data.fill_(3e38)
    model.head[3].weight.data.fill_(3e38)
    player = Player(model, tmp_path)
    player.begin(0, samples=10)
    assert len(player.draw(10)) < 10


# --- what is packed ---


def unpacked(content: bytes) -> dict[str, Tensor]:
    """The arrays by name, float32 but for audio and lengths."""
    kinds = {"audio": torch.int16, "lengths": torch.float64}
    begins = [int.from_bytes(content[4 * i : 4 * i + 4], "little") for i in range(len(ARRAYS))]
    assert all(begin % 64 == 0 for begin in begins) and begins == sorted(begins)
    pieces = [content[a:b] for a, b in zip(begins, [*begins[1:], len(content)], strict=True)]
    return {
        name: torch.frombuffer(bytearray(piece), dtype=kinds.get(name, F32)) if piece
        else torch.empty(0)
        for name, piece in zip(ARRAYS, pieces, strict=True)
    }  # fmt: skip


def test_the_arrays_are_the_models_numbers() -> None:
    model = model_of("planned")
    assert model.position_embedding is not None and model.label_embedding is not None
    found = unpacked(arrays(model, building.VECTORS)[0])
    tables = [t.weight for t in model.label_embedding.tables]  # type: ignore[union-attr]
    position = model.position_embedding
    rows = torch.cat([*tables, position.since.weight, position.left.weight, position.share.weight])
    padded = found["rows"].view(-1, 4)[: len(rows)]
    assert torch.equal(padded[:, :3], rows) and not padded[:, 3].any()
    assert torch.equal(found["embedding"].view(-1, 8)[:, :5], model.embedding.weight)
    assert torch.equal(found["audio"][:256], pcm16(model.output.decode(torch.arange(256))))
    assert found["lengths"][:7].tolist() == [6.0, 0.4, 0.3, 0.0, -0.2, 0.1, -0.1]
    packed = {x for name in ("body", "head", "steering") for x in found[name].tolist()}
    weights = {name: w for name, w in model.named_parameters() if w.dim() == 3}
    missing = {name for name, w in weights.items() if not {*w.flatten().tolist()} <= packed}
    assert len(weights) > 30 and missing <= {"stack.blocks.7.residual.weight"}, "nobody reads it"


# --- the page ---


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._script = self.tags[-1][1].get("id", "main") if tag == "script" else ""

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._script = ""

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name in tags]


def page_of(model: WaveNet, name: str = "small", said: str = "") -> Page:
    return Page(web.page(model, MODULE, name, said))


def test_the_page_holds_the_module_and_the_arrays() -> None:
    model = model_of("planned")
    page = page_of(model)
    assert base64.b64decode(page.scripts["wasm"], validate=True) == MODULE
    content, scale = arrays(model, building.VECTORS)
    assert base64.b64decode(page.scripts["arrays"], validate=True) == content
    assert json.loads(page.scripts["settings"]) == {
        "checkpoint": "small",
        "rate": 8000,
        "labels": LABELS,
        "drawsLengths": True,
        "residualScale": scale,
    }
    assert page.scripts["worker"] == (web.HERE / "worker.js").read_text()
    assert page.scripts["main"].strip() == (web.HERE / "page.js").read_text().strip()


def test_the_bundled_models_page_is_small_and_gives_credit() -> None:
    model = WaveNet.from_pretrained("fsdd")
    text = web.page(model, bytes(40_000), "fsdd", credit("fsdd"))
    assert len(text) < 5_000_000
    words = "".join(Page(text).words)
    for word in ("Free Spoken Digit Dataset", "Zohar Jackson", "CC BY-SA 4.0", "0.71 M"):
        assert word in words
    assert credit("runs/default") == credit("user/model") == ""


def test_the_page_loads_nothing_from_outside_and_its_policy_forbids_it() -> None:
    page = page_of(model_of("planned"))
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    text = web.page(model_of("alone"), MODULE, "small", "")
    assert not re.search(r"https?:|//\w+\.\w|@import|url\(|fetch\(|<link|<iframe", text)
    policy = next(tag["content"] for tag in page.all("meta") if "http-equiv" in tag)
    assert policy.startswith("default-src 'none'") and "connect-src" not in policy


def test_every_control_has_a_label_and_the_state_is_told() -> None:
    for kind in MODELS:
        page = page_of(model_of(kind))
        labelled = {tag["for"] for tag in page.all("label")}
        assert {tag["id"] for tag in page.all("input")} == labelled
        names = [tag["id"] for _, tag in page.tags if "id" in tag]
        assert len(names) == len(set(names))
        status = next(tag for tag in page.all("p") if tag.get("role") == "status")
        assert status["aria-live"] == "polite"
        assert all("aria-label" in tag for tag in page.all("canvas", "progress"))
        assert page.all("html")[0]["lang"] == "en" and page.all("title") and page.all("main")
    text = (web.HERE / "page.html").read_text()
    assert ":focus-visible" in text and "prefers-color-scheme: dark" in text
    assert "prefers-reduced-motion" in (web.HERE / "page.js").read_text()


def test_the_form_asks_for_what_the_model_can_do() -> None:
    fields = {
        kind: {tag["id"]: tag for tag in page_of(model_of(kind)).all("input")} for kind in MODELS
    }
    usual = {"seed", "seconds", "temperature", "topK", "topP"}
    assert set(fields["planned"]) == usual | {"guidance"}
    assert set(fields["labels"]) == set(fields["alone"]) == usual
    assert fields["planned"]["guidance"]["value"] == "0.5"
    assert "required" not in fields["planned"]["seconds"], "it is drawn"
    assert fields["alone"]["seconds"]["value"] == "2" and "required" in fields["alone"]["seconds"]


def test_no_name_ends_a_script_or_becomes_a_tag() -> None:
    bad = "</script><b>$credit"
    labels = {"word": [bad, "b"]}
    page = page_of(small_model(dtype=F32, labels=labels), name=bad, said=bad)
    settings = json.loads(page.scripts["settings"])
    assert settings["labels"] == labels and settings["checkpoint"] == bad
    assert not page.all("b") and f"{bad}: a WaveNet" in "".join(page.words)


def test_the_worker_has_what_the_module_imports_and_calls_what_it_exports() -> None:
    worker = (web.HERE / "worker.js").read_text()
    line = next(line for line in worker.splitlines() if line.startswith("const LIBRARY"))
    assert set(re.findall(r"(\w+): Math\.(\w+)", line)) == {(x, x) for x in building.IMPORTS}
    called = set(re.findall(r"library\.(\w+)", worker))
    assert called - {"memory"} <= set(building.EXPORTS)
    player = building.PLAYER.read_text()
    chunk = re.search(r"^constexpr int CHUNK = (\d+);", player, re.M)
    assert chunk is not None
    for name in ("FIRST", "CHUNK"):
        own = re.search(rf"^const {name} = (\d+)", worker, re.M)
        assert own is not None and int(own[1]) <= int(chunk[1])


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mel": Mel(bands=4, hop=16, window=64)}, "steered by mel frames"),
        ({"preemphasis": 0.85}, "preemphasis of 0.85"),
        ({"output": MixtureOfLogistics(2)}, "MixtureOfLogistics has 6 parameters a sample"),
        ({"output": wavenet.MuLaw(100)}, "MuLaw has 100 parameters a sample"),
    ],
)
def test_a_model_that_no_page_can_play_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        web.export(WaveNet(1, 2, **settings), tmp_path / "page")
    assert not [*tmp_path.iterdir()]


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    model = model_of("alone")
    model.head[1].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"head\.1\.bias is not finite"):
        web.export(model, tmp_path)


def test_without_the_compiler_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wavenet.installation._is_there", lambda package: package != "ziglang")
    with pytest.raises(SystemExit) as ended:
        main(["export", "fsdd", "--web", str(tmp_path / "page")])
    assert str(ended.value) == (
        "error: A page that plays a model needs ziglang, which this installation has not: "
        "pip install 'wavenet-torch[web]'"
    )
    assert not [*tmp_path.iterdir()]


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "require", lambda *names, **extra: None)
    monkeypatch.setattr(building.sys, "executable", "false")
    with pytest.raises(ValueError, match="ziglang did not compile the page's network"):
        building.webassembly({})


# --- the command ---


def test_the_command_writes_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web, "webassembly", lambda constants: MODULE)
    model = model_of("labels")
    model.save_pretrained(tmp_path / "notes")
    target = tmp_path / "new" / "page"
    main(["export", str(tmp_path / "notes"), "--web", str(target), "--credit", "mine <all>"])
    assert capsys.readouterr().out == f"{target / 'index.html'}\n"
    assert [path.name for path in target.iterdir()] == ["index.html"]
    page = Page((target / "index.html").read_text())
    assert "mine <all>" in "".join(page.words)
    assert json.loads(page.scripts["settings"])["checkpoint"] == "notes"


def test_a_folder_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target, said in (("file", "cannot be written"), ("file/in", "cannot be written")):
        with pytest.raises(SystemExit, match=said):
            main(["export", "no such model", "--web", str(tmp_path / target)])
