"""The gallery is one self-contained page: audio as `generate` gives it, and pictures as PNGs.

The tests read the page with an HTML parser and decode each data URI.
"""

import base64
import io
import zlib
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import LABELS, small_model
from matplotlib.image import imread
from torch import Tensor

import wavenet
from wavenet import WaveNet, gallery, plotting
from wavenet.audio import pcm16
from wavenet.gallery import combinations, write_gallery
from wavenet.plotting import PIXELS, spectrogram_png

VOID = {"meta", "img", "link", "br"}
SECONDS = 0.03


class Page(HTMLParser):
    """The tags with their attributes, and the text; asserts that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "unclosed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}>"

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def decoded(uri: str, kind: str) -> bytes:
    assert uri.startswith(f"data:{kind};base64,"), uri[:40]
    return base64.b64decode(uri.partition(",")[2], validate=True)


def sounds(page: Page) -> list[Tensor]:
    """The samples of each player as integers; asserts that each is 16-bit mono at 8 kHz."""
    heard = []
    for player in page.all("audio"):
        content = io.BytesIO(decoded(player["src"], "audio/wav"))
        info = soundfile.info(content)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (
            8000,
            1,
            "WAV",
            "PCM_16",
        )
        content.seek(0)
        heard.append(torch.from_numpy(soundfile.read(content, dtype="int16")[0]))
    return heard


def written(tmp_path: Path, model: WaveNet, **settings: Any) -> Page:
    path = write_gallery(
        tmp_path / "out",
        model,
        **{"name": "small", "seconds": SECONDS, "engine": "torch", **settings},
    )
    assert path == tmp_path / "out" / "index.html" and [*path.parent.iterdir()] == [path]
    return Page(path.read_text(encoding="utf-8"))


def model_with(labels: dict[str, Sequence[str]] | None) -> WaveNet:
    return small_model(dtype=torch.float32, labels=labels)


# --- audio ---


@pytest.mark.parametrize("batch", [64, 4, 1])
def test_each_player_holds_what_generate_gives_for_its_labels_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(wavenet.generation, "AT_ONCE", batch)
    model = model_with(LABELS)
    page = written(tmp_path, model, seed=11, temperature=0.8, top_k=50)
    heard = sounds(page)
    assert len(heard) == 6
    for index, clip in enumerate(heard):
        labels = {"digit": LABELS["digit"][index // 2], "speaker": LABELS["speaker"][index % 2]}
        assert (
            page.all("audio")[index]["aria-label"]
            == f"digit {labels['digit']}, speaker {labels['speaker']}"
        )
        alone = wavenet.generate(
            model,
            seconds=SECONDS,
            labels=labels,
            seed=11 + index,
            temperature=0.8,
            top_k=50,
            engine="torch",
        )
        assert torch.equal(clip, pcm16(alone[0])), labels
        assert f"seed {11 + index}" in page.text
    assert len({tuple(clip.tolist()) for clip in heard}) == 6


def test_a_model_with_clip_lengths_draws_the_length_of_each_clip(tmp_path: Path) -> None:
    prior = {"log_mean": 6.0, "log_std": 0.3, "offsets": {"digit": [0.0] * 3, "speaker": [0.0] * 2}}
    model = small_model(
        dtype=torch.float32, labels=LABELS, position_hop=16, unlabelled=True, clip_length=prior
    )
    page = written(tmp_path, model, seconds=None, seed=2)
    assert len({len(clip) for clip in sounds(page)}) > 3
    text = " ".join(page.words)
    assert "lengths as in the corpus" in text and "guidance 0.5" in text


def test_given_labels_apply_to_all_clips_and_the_others_are_varied(tmp_path: Path) -> None:
    model = model_with(LABELS)
    page = written(tmp_path, model, labels={"speaker": "bob"})
    assert [player["aria-label"] for player in page.all("audio")] == [
        "digit 0",
        "digit 1",
        "digit 2",
    ]
    assert "all clips speaker bob" in " ".join(page.words)
    third = wavenet.generate(
        model, seconds=SECONDS, labels={"digit": "2", "speaker": "bob"}, seed=2, engine="torch"
    )
    assert torch.equal(sounds(page)[2], pcm16(third[0]))


@pytest.mark.parametrize(
    ("labels", "given"), [(None, {}), (LABELS, {"digit": "1", "speaker": "ann"})]
)
def test_without_a_free_label_the_page_has_a_row_of_takes(
    tmp_path: Path, labels: Any, given: dict[str, str]
) -> None:
    model = model_with(labels)
    page = written(tmp_path, model, labels=given, seed=5)
    heard = sounds(page)
    assert (
        len(heard) == gallery.TAKES
        and page.all("table") == []
        and len(page.all("li")) == gallery.TAKES
    )
    last = wavenet.generate(
        model, seconds=SECONDS, labels=given, seed=5 + gallery.TAKES - 1, engine="torch"
    )
    assert torch.equal(heard[-1], pcm16(last[0]))


def speakers(count: int) -> WaveNet:
    return model_with(
        {"digit": ["0", "1", "2"], "speaker": [f"s{number}" for number in range(count)]}
    )


def test_up_to_200_combinations_are_all_shown_and_every_category_of_a_single_label() -> None:
    assert (
        len(combinations(speakers(66), {}, 7)) == 198
        and len(combinations(speakers(67), {}, 7)) == 3
    )
    assert len(combinations(speakers(250), {"digit": "1"}, 7)) == 250


def test_above_200_combinations_the_first_label_is_complete_and_the_others_are_drawn_as_by_generate(
    tmp_path: Path,
) -> None:
    model = speakers(67)
    page = written(tmp_path, model, seed=7)
    heard = sounds(page)
    assert len(heard) == 3 and page.all("table") == [] and "There are 201 combinations" in page.text
    assert "every digit, each with a random speaker, drawn from the seed" in page.text
    for index, clip in enumerate(heard):
        alone = wavenet.generate(
            model, seconds=SECONDS, labels={"digit": str(index)}, seed=7 + index, engine="torch"
        )
        assert torch.equal(clip, pcm16(alone[0]))
    assert [choice["speaker"] for choice in combinations(model, {}, 7)] != [
        choice["speaker"] for choice in combinations(model, {}, 8)
    ]


# --- the page ---


def test_the_page_loads_nothing_from_outside_and_its_policy_forbids_it(tmp_path: Path) -> None:
    page = written(tmp_path, model_with(LABELS))
    addresses = [
        value
        for _, tag in page.tags
        for name, value in tag.items()
        if name in ("src", "href", "srcset")
    ]
    assert len(addresses) == 12 and all(address.startswith("data:") for address in addresses)
    text = (tmp_path / "out" / "index.html").read_text()
    assert not any(
        outside in text for outside in ("://", "@import", "url(", "fetch(", "<link", "<iframe")
    )
    policy = next(
        tag["content"]
        for tag in page.all("meta")
        if tag.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "media-src data:" in policy


def test_a_table_has_a_row_for_each_first_label_and_a_column_for_the_others(tmp_path: Path) -> None:
    page = written(tmp_path, model_with({**LABELS, "loud": ["yes", "no"]}))
    heads = [tag["role"] for tag in page.all("th")]
    assert heads == ["columnheader"] * 4 + ["rowheader"] * 3
    assert len(page.all("audio")) == len(page.all("img")) == 12 == len(page.all("td")) - 1
    for words in ("digit 2", "speaker ann, loud yes", "speaker bob, loud no"):
        assert words in page.text


def test_every_picture_and_player_has_a_name_and_the_page_a_language_and_a_title(
    tmp_path: Path,
) -> None:
    page = written(tmp_path, model_with(LABELS))
    for picture, player in zip(page.all("img"), page.all("audio"), strict=True):
        assert picture["alt"] == f"Spectrogram of {player['aria-label']}" and "controls" in player
    assert page.all("html") == [{"lang": "en"}] and "Clips of small" in page.text
    assert "width=device-width" in str(page.all("meta"))


def test_the_caption_states_model_temperature_and_seed(tmp_path: Path) -> None:
    model = model_with(LABELS)
    page = written(tmp_path, model, name="runs of mine", temperature=0.85, seed=42, top_p=0.9)
    terms = dict(
        zip(
            page.words[page.words.index("model") :: 2],
            page.words[page.words.index("model") + 1 :: 2],
            strict=False,
        )
    )
    assert terms["model"].startswith("runs of mine, ")
    assert terms["audio"].startswith("0.03 s per clip, 8 kHz")
    assert (
        terms["temperature"] == "0.85"
        and terms["seed"].startswith("42,")
        and terms["top-p"] == "0.9"
    )
    assert "top-k" not in terms


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = ['"><script>alert(1)</script>', "a&b", "$body"]
    page = written(
        tmp_path, model_with({"digit": evil, "speaker": ["<b>", "c"]}), name="<i>$notes</i>"
    )
    assert len(page.all("script")) == 1 and page.all("b") == [] == page.all("i")
    assert page.all("audio")[0]["aria-label"] == f"digit {evil[0]}, speaker <b>"
    assert "Clips of <i>$notes</i>" in page.text and "digit $body" in page.text


@pytest.mark.parametrize("time", [1, 7, 8000, 20001])
def test_a_spectrogram_is_a_valid_png_with_low_frequencies_at_the_bottom(time: int) -> None:
    tone = 0.5 * torch.sin(torch.arange(time) * 2 * torch.pi * 500 / 8000)
    content = spectrogram_png(tone, 8000)
    picture = torch.from_numpy(imread(io.BytesIO(content), format="png"))[..., :3].sum(-1)
    assert picture.shape[0] == 129 and 1 <= picture.shape[1] <= PIXELS
    assert zlib.crc32(b"IEND").to_bytes(4, "big") == content[-4:]
    if time >= 8000:
        loudest = int(picture[:, picture.shape[1] // 2].argmax())
        assert abs(loudest - (128 - 500 / (4000 / 128))) <= 1


def test_silence_is_dark_and_not_an_error() -> None:
    picture = imread(io.BytesIO(spectrogram_png(torch.zeros(4000), 8000)), format="png")
    assert picture[..., :3].max() < 0.1


def test_sixty_clips_of_a_second_stay_well_under_5_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise, which compresses worst."""
    monkeypatch.setattr(
        gallery, "generate_each", lambda model, choices, **_: 0.3 * torch.randn(len(choices), 8000)
    )
    labels = {"digit": [str(digit) for digit in range(10)], "speaker": list("abcdef")}
    path = write_gallery(tmp_path, model_with(labels), "noise", seconds=1)
    assert len(Page(path.read_text()).all("audio")) == 60 and 1e6 < path.stat().st_size < 4e6


# --- pictures ---


def test_a_picture_shows_the_first_clips_and_the_first_minutes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plotting, "MOST_CLIPS", 2)
    monkeypatch.setattr(plotting, "LONGEST", 1)
    figure = plotting.plot_clips([torch.zeros(2500)] * 2, 1000, ["a", "b"])
    assert [axes.get_xlim() for axes in figure.axes[:2]] == [(0, 1)] * 2
    assert caplog.messages == ["the picture shows the first 1 of 2 seconds"]
    caplog.clear()
    figure = plotting.plot_clips([torch.zeros(900)] * 3, 1000, ["a", "b", "c"])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["a", "b"] and len(figure.axes) == 5
    assert caplog.messages == ["the picture shows the first 2 of 3 clips"]


@pytest.mark.parametrize("name", ["p.jpg", "p", "p.svg"])
def test_a_picture_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"PNG files, but got '.*{name}'; give it the suffix"):
        plotting.save_plot(tmp_path / name, [torch.zeros(9)], 1000, ["a"])
    assert [*tmp_path.iterdir()] == []


# --- errors ---


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"labels": {"digit": "9"}}, r"'9'.*0, 1, 2"),
        ({"labels": {"note": "A4"}}, r"note.*digit, speaker"),
        ({"seconds": 0}, "at least one sample"),
        ({"temperature": -1}, "temperature"),
        ({"engine": "fast"}, "fast.*auto"),
    ],
)
def test_invalid_settings_are_refused_and_leave_no_page(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        written(tmp_path, model_with(LABELS), **settings)
    assert [*tmp_path.iterdir()] == []


def test_titles_are_the_labels_of_each_clip_or_its_number() -> None:
    labels = {"digit": ["7", "1"], "speaker": "theo"}
    assert plotting.titles_of(labels, 2) == ["7, theo", "1, theo"]
    assert plotting.titles_of({}, 2) == ["clip 0", "clip 1"]


def test_the_spectrograms_of_a_picture_have_one_scale_and_a_prompt_ends_at_a_line() -> None:
    loud = 0.5 * torch.sin(torch.arange(2000) / 3)
    figure = plotting.plot_clips([loud, loud / 100], 1000, ["a", "b"], prompt_seconds=0.5)
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert pictures[0].max() == pytest.approx(0, abs=0.1)
    assert pictures[1].max() == pytest.approx(-40, abs=0.5)
    lines = [line for axis in figure.axes for line in axis.lines if line.get_linestyle() == "--"]
    assert {tuple(line.get_xdata()) for line in lines} == {(0.5, 0.5)} and len(lines) == 4


def test_curves_are_drawn_with_their_means() -> None:
    points = [(1000.0 * step, 8.0 - step / 50) for step in range(100)]
    figure = plotting.plot_curves({"training": points, "validation": points[::50], "none": []})
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["training, smoothed", "validation"]
    smooth = figure.axes[0].lines[1].get_ydata()
    assert smooth[50] == pytest.approx(7.0, abs=0.01) and len(smooth) == 100
