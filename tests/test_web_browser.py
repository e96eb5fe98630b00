"""A page that plays a model, in Node and in Chromium: the audio of `generate`, and use by keyboard.

Slow, as ziglang compiles the network. Needs ziglang (the extra `web`), node, and for the browser
playwright and chromium (Debian: apt-get install chromium nodejs; pip install playwright).
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model
from torch import Tensor

import wavenet
from wavenet import WaveNet
from wavenet.audio import pcm16, wav_bytes
from wavenet.commands import main
from wavenet.interop import web

pytestmark = pytest.mark.slow

# Chromium as on a machine without a screen, that asks nothing of a network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
# Runs the worker of a page as a browser does, on clips from the command line; prints their codes.
NODE = """
const fs = require("fs")
const text = fs.readFileSync(process.argv[2], "utf8")
const script = (id) => text.split('id="' + id + '">')[1].split("</script>")[0]
const bytes = (id) => new Uint8Array(Buffer.from(script(id), "base64")).buffer
const heard = {}
let answer
globalThis.self = { postMessage: (message) => {
  if (message.kind === "audio") heard[message.id].push(...message.pcm)
  else if (message.kind === "length") heard[message.id] = []
  else answer(message)
} }
eval(script("worker"))
const tell = (data) => new Promise((told) => { answer = told; self.onmessage({ data }) })
const { residualScale } = JSON.parse(script("settings"))
;(async () => {
  const [wasm, arrays] = [bytes("wasm"), bytes("arrays")]
  const ready = await tell({ kind: "model", wasm, arrays, residualScale })
  const messages = [ready]
  for (const clip of JSON.parse(process.argv[3])) messages.push(await tell(clip))
  process.stdout.write(JSON.stringify({ messages, heard }), () => process.exit(0))
})()
"""


def required(program: str) -> str:
    found = shutil.which(program)
    assert found, f"This test needs {program} on the PATH; see the top of {Path(__file__).name}."
    return found


@pytest.fixture(scope="module")
def fsdd() -> WaveNet:
    return WaveNet.from_pretrained("fsdd")


@pytest.fixture(scope="module")
def page(fsdd: WaveNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return web.export(fsdd, tmp_path_factory.mktemp("page"), name="fsdd", credit="somebody")


def played(page: Path, clips: list[dict[str, Any]]) -> dict[str, Any]:
    usual = {"kind": "clip", "samples": 0, "temperature": 1, "topK": 0, "topP": 1, "guidance": 0}
    asked = json.dumps([{**usual, "id": i, **clip} for i, clip in enumerate(clips)])
    command = [required("node"), "-e", NODE, "node", str(page), asked]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def difference(made: Tensor, wanted: Tensor) -> int | None:
    """The first sample at which two clips part; None: they are the same."""
    assert len(made) == len(wanted)
    parts = (made != wanted).nonzero()
    return int(parts[0]) if len(parts) else None


# --- WebAssembly, in Node ---


def test_the_module_gives_the_codes_of_the_native_engine(page: Path, fsdd: WaveNet) -> None:
    clips, wanted = [], []
    for seed, digit, speaker, guidance in ((0, 7, 1, 0.5), (1, 3, 4, 0.5), (2, 0, 0, 0.0)):
        rows = [digit, 10 + speaker]
        clips.append({"seed": seed, "rows": rows, "guidance": guidance})
        names = {"digit": str(digit), "speaker": fsdd.labels["speaker"][speaker]}
        how: dict[str, Any] = {"seed": seed, "engine": "native", "guidance": guidance}
        wanted.append(pcm16(wavenet.generate(fsdd, labels=names, **how)[0]))
    told = played(page, clips)
    assert [message["kind"] for message in told["messages"]] == ["ready", "end", "end", "end"]
    for index, clip in enumerate(wanted):
        assert difference(torch.tensor(told["heard"][str(index)]), clip) is None, index


SETTINGS: dict[str, dict[str, Any]] = {
    "kernel 3, odd channels, one label": {"labels": {"note": ["A4", "C5"]}, "kernel_size": 3},
    "nothing steers it": {"input_kernel_size": 1},
    "linear codes": {"output": wavenet.outputs.Linear(256)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_models_of_all_kinds(name: str, tmp_path: Path) -> None:
    model = small_model(dtype=torch.float32, **SETTINGS[name])
    rows = [1] if model.labels else []
    labels = {"note": "C5"} if model.labels else {}
    how: dict[str, Any] = {"temperature": 0.9, "top_k": 60, "top_p": 0.95}
    clip = {"seed": 4, "rows": rows, "samples": 700, "temperature": 0.9, "topK": 60, "topP": 0.95}
    told = played(web.export(model, tmp_path), [clip])
    wanted = wavenet.generate(model, num_samples=700, labels=labels, seed=4, engine="native", **how)
    assert difference(torch.tensor(told["heard"]["0"]), pcm16(wanted[0])) is None


def test_weights_that_are_not_finite_there_are_told(tmp_path: Path) -> None:
    model = small_model(dtype=torch.float32)
    for parameter in model.head[3].parameters():
        parameter.data.fill_(3e38)
    model.head[1].bias.data.fill_(3e38)
    told = played(web.export(model, tmp_path), [{"seed": 0, "rows": [], "samples": 5}])
    assert told["messages"][1]["kind"] == "error" and "not finite" in told["messages"][1]["message"]


# --- Chromium ---


class Browser:
    """One page that is open, with what it asked of a network and what it complained of."""

    def __init__(self, context: Any, page: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab = context.new_page()
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", lambda line: self.complaints.append(line.text))
        self.tab.goto(page.as_uri())
        self.wait("Ready.")

    def wait(self, words: str) -> str:
        """Until the status begins with them. Returns all of it."""
        status = self.tab.locator("#status").filter(has_text=re.compile("^" + re.escape(words)))
        status.wait_for(timeout=120_000)
        return self.tab.inner_text("#status")

    def drawn(self, **fields: str) -> bytes:
        """The wav of a clip that is asked for and downloaded."""
        for name, value in fields.items():
            if name in ("digit", "speaker"):
                self.tab.select_option(f"#label-{name}", value)
            else:
                self.tab.fill(f"#{name}", value)
        self.tab.click("#draw")
        self.wait("Drawing")
        self.wait("Drawn: ")
        with self.tab.expect_download() as download:
            self.tab.click("#download")
        return Path(download.value.path()).read_bytes()

    def painted(self, canvas: str) -> list[int]:
        """The red of each painted pixel of a picture, and how many pixels there are."""
        return self.tab.evaluate(
            """(id) => {
              const { width, height } = document.getElementById(id)
              const copy = new OffscreenCanvas(width, height)
              const brush = copy.getContext("2d", { willReadFrequently: true })
              brush.drawImage(document.getElementById(id), 0, 0)
              const { data } = brush.getImageData(0, 0, width, height)
              const pixels = Array.from({ length: width * height }, (_, i) => 4 * i)
              return [...pixels.filter((i) => data[i + 3]).map((i) => data[i]), pixels.length] }""",
            canvas,
        )

    def marked(self, what: str) -> list[float]:
        """When it happened, in milliseconds, for each clip."""
        entries = "(what) => performance.getEntriesByType('mark').filter((x) => x.name.startsWith"
        return self.tab.evaluate(f"{entries}(what)).map((x) => x.startTime)", what)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = required("chromium")
    assert importlib.util.find_spec("playwright"), "This test needs playwright: pip install it."
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=chromium,
            args=FLAGS,
            viewport={"width": 900, "height": 900},
        )
        yield opened
        opened.close()


@pytest.fixture
def browser(context: Any, page: Path) -> Iterator[Browser]:
    opened = Browser(context, page)
    yield opened
    opened.tab.close()


def test_the_page_gives_the_wav_of_generate(browser: Browser, fsdd: WaveNet) -> None:
    for seed, digit, speaker, guidance in (("0", "7", "jackson", "0.5"), ("1", "3", "theo", "0.5"),
                                           ("2", "0", "george", "0")):  # fmt: skip
        made = browser.drawn(seed=seed, digit=digit, speaker=speaker, guidance=guidance)
        labels = {"digit": digit, "speaker": speaker}
        how: dict[str, Any] = {"seed": int(seed), "engine": "native", "guidance": float(guidance)}
        wanted = wav_bytes(wavenet.generate(fsdd, labels=labels, **how)[0], 8000)
        assert made == wanted, seed
        said = browser.tab.inner_text("#status")
        assert f"digit {digit}, speaker {speaker}, seed {seed}" in said and "real time" in said
        for picture, share in (("wave", 0.005), ("spectrum", 0.2)):
            *reds, pixels = browser.painted(picture)
            assert len(reds) > share * pixels
        name = browser.tab.get_attribute("#spectrum", "aria-label")
        assert name == f"Spectrogram of digit {digit}, speaker {speaker}, seed {seed}"
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "blob:"))] == []


def test_the_command_that_the_page_shows_draws_the_same(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"seed": "12", "digit": "4", "speaker": "lucas", "temperature": "0.9"}
    made = browser.drawn(**fields, seconds="0.2", guidance="0")
    words = browser.tab.inner_text("#command").split()
    assert words[:2] == ["wavenet", "generate"]
    monkeypatch.chdir(tmp_path)
    main([*words[1:], "--engine", "native", "--out", "a.wav"])
    assert (tmp_path / "a.wav").read_bytes() == made


def test_sound_begins_before_the_clip_is_drawn(browser: Browser) -> None:
    for guidance in ("0", "0.5"):
        browser.drawn(guidance=guidance, seconds="1.5")
    asked, heard, drawn = (browser.marked(what) for what in ("asked", "heard", "drawn"))
    assert len(asked) == len(heard) == len(drawn) == 2
    assert all(a < h < d for a, h, d in zip(asked, heard, drawn, strict=True))


def test_a_clip_can_be_stopped_and_another_drawn(browser: Browser) -> None:
    browser.tab.fill("#seconds", "600")
    browser.tab.click("#draw")
    browser.wait("Drawing")
    assert browser.tab.is_enabled("#stop") and not browser.tab.is_enabled("#download")
    browser.tab.wait_for_timeout(1500)
    browser.tab.click("#stop")
    said = browser.wait("Stopped after ")
    assert float(said.split()[2]) < 60 and browser.tab.is_enabled("#download")
    assert browser.tab.evaluate("document.activeElement.id") == "draw"
    browser.tab.fill("#seconds", "")
    before = len(browser.marked("heard"))
    browser.tab.click("#another")
    browser.wait("Drawn: ")
    assert browser.tab.input_value("#seed") == "1"
    assert len(browser.marked("heard")) == before + 1
    browser.tab.click("#again")
    assert len(browser.marked("heard")) == before + 2 and browser.complaints == []


def test_the_keyboard_alone_reaches_everything(browser: Browser) -> None:
    keys, tab = browser.tab.keyboard, browser.tab
    reached = []
    for _ in range(8):
        keys.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.tagName"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert tab.evaluate(outline) == "solid", "the focus is to be seen"
    fields = ["label-digit", "label-speaker", "seed", "seconds", "temperature", "guidance"]
    assert reached == [*fields, "SUMMARY", "draw"]
    keys.press("Enter")
    assert "digit 0, speaker george, seed 0" in browser.wait("Drawn: ")


def test_what_the_form_does_not_take_is_not_drawn(browser: Browser) -> None:
    for name, value in (("seed", "-1"), ("seed", "x"), ("temperature", "-1"), ("guidance", "")):
        usual = browser.tab.input_value(f"#{name}")
        browser.tab.fill(f"#{name}", value)
        browser.tab.click("#draw")
        browser.tab.fill(f"#{name}", usual)
    assert browser.tab.inner_text("#status") == "Ready."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_follow_the_colours_of_the_page(
    browser: Browser, scheme: str, tmp_path: Path
) -> None:
    browser.tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    browser.drawn(seed="3", guidance="0")
    assert browser.tab.is_hidden("#place"), "no motion was asked for"
    *reds, _ = browser.painted("wave")
    assert max(reds) < 64 if scheme == "light" else min(reds) > 192
    folder = os.environ.get("WAVENET_SCREENSHOTS")
    browser.tab.screenshot(path=Path(folder or tmp_path, f"{scheme}.png"), full_page=True)
