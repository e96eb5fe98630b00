"""The prepare scripts in data/, run on small synthesised corpora, and benchmarks/pitch.py."""

import csv
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch

from wavenet.outputs.mulaw import MuLaw

ROOT = Path(__file__).resolve().parents[1]


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        script.replace("/", "_").removesuffix(".py"), ROOT / script
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


instruments = load("data/instruments/prepare.py")
fsdd = load("data/fsdd/prepare.py")
speech_commands = load("data/speech_commands/prepare.py")
ljspeech = load("data/ljspeech/prepare.py")
festvox_ru = load("data/festvox_ru/prepare.py")
layout = sys.modules["data.layout"]
pitch = load("benchmarks/pitch.py")

EVERY_NOTE = [
    (instrument, note) for instrument in instruments.INSTRUMENTS for note in instruments.NOTES
]


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    # No test downloads anything: port 9 refuses connections.
    proxies = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    environment = {**os.environ, **proxies, "no_proxy": "", "NO_PROXY": ""}
    command = [sys.executable, str(ROOT / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def succeeds(script: str, *args: object) -> str:
    done = run(script, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails_in_one_line(script: str, *args: object) -> str:
    done = run(script, *args)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def write_tone(path: Path, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(sample_rate // 50) / 5), sample_rate, "PCM_16")


def wavs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav"))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in wavs(folder)}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("instruments") / "audio"
    instruments.prepare(out)
    return out


# --- the default corpus ---


def test_two_runs_write_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    succeeds("data/instruments/prepare.py", "--out", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(corpus)


def test_another_seed_gives_other_takes_of_the_same_notes(corpus: Path, tmp_path: Path) -> None:
    instruments.prepare(tmp_path / "other", seed=1)
    ours, others = contents(corpus), contents(tmp_path / "other")
    assert ours.keys() == others.keys()
    assert all(ours[name] != others[name] for name in ours)


def test_every_path_contains_its_labels_and_one_take_of_each_note_is_held_out(corpus: Path) -> None:
    found = [re.fullmatch(instruments.LABEL_PATTERN, name) for name in wavs(corpus)]
    assert len(found) == len(EVERY_NOTE) * 6
    assert {(m["instrument"], m["note"]) for m in found if m} == set(EVERY_NOTE) and all(found)
    held_out = [m for m in found if m and re.search(r"_5\.wav$", m.string)]
    assert sorted((m["instrument"], m["note"]) for m in held_out) == sorted(EVERY_NOTE)


def test_the_corpus_is_three_to_four_minutes_of_16_bit_mono(corpus: Path) -> None:
    headers = [soundfile.info(corpus / name) for name in wavs(corpus)]
    assert {(h.samplerate, h.channels, h.subtype) for h in headers} == {(8000, 1, "PCM_16")}
    assert 180 < sum(h.duration for h in headers) < 240


@pytest.mark.parametrize("instrument", instruments.INSTRUMENTS)
@pytest.mark.parametrize("sample_rate", [8000, 22050])
def test_clips_are_finite_unclipped_centred_and_end_in_silence(
    instrument: str, sample_rate: int
) -> None:
    for note in instruments.NOTES:
        audio = instruments.render(instrument, note, 0, sample_rate)
        assert audio.dtype == np.float32 and audio.shape == (round(0.7 * sample_rate),)
        assert np.isfinite(audio).all() and 0.34 < np.abs(audio).max() < 0.71
        assert abs(audio.mean()) < 0.005
        assert np.abs(audio[-4:]).max() < 1e-3


@pytest.mark.parametrize("instrument", instruments.INSTRUMENTS)
def test_the_fundamental_is_exact_within_three_in_a_thousand(instrument: str) -> None:
    """Measured independently of benchmarks/pitch.py: the peak of a fine spectrum near the pitch."""
    for note in instruments.NOTES:
        asked = instruments.note_frequency(note)
        candidates = asked * np.linspace(0.97, 1.03, 601)
        for take in range(2):
            audio = instruments.render(instrument, note, take)
            weighted = audio * np.hanning(len(audio))
            time = np.arange(len(audio)) / 8000
            strength = np.abs(np.exp(-2j * np.pi * candidates[:, None] * time) @ weighted)
            measured = candidates[strength.argmax()]
            assert abs(measured / asked - 1) < 0.003, (instrument, note, take, measured)


def test_takes_differ_and_a_clip_depends_only_on_its_arguments() -> None:
    takes = [instruments.render("pluck", "A4", take) for take in (0, 1)]
    assert np.abs(takes[0] - takes[1]).max() > 0.05
    assert np.array_equal(takes[1], instruments.render("pluck", "A4", 1))


def test_notes_are_in_equal_temperament_from_a440() -> None:
    assert instruments.note_frequency("A4") == 440
    assert instruments.note_frequency("C3") == pytest.approx(130.8128, abs=1e-4)
    assert instruments.note_frequency("Cs4") == pytest.approx(277.1826, abs=1e-4)


@pytest.mark.parametrize("name", ["H4", "C#4", "Es4", "C", "c4", "C44"])
def test_an_invalid_note_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        instruments.note_frequency(name)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--takes", 1), "at least 2"),
        (("--seed", -1), "0 or more"),
        (("--sample-rate", 2000), "at least 4000"),
    ],
)
def test_bad_arguments_of_the_default_corpus_give_one_line_and_leave_no_files(
    tmp_path: Path, args: tuple[object, ...], says: str
) -> None:
    assert says in fails_in_one_line(
        "data/instruments/prepare.py", "--out", tmp_path / "audio", *args
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_instrument_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'tuba'.*flute, keys, organ, pluck"):
        instruments.render("tuba", "A4", 0)


def test_other_audio_in_the_folder_is_refused_and_kept(tmp_path: Path) -> None:
    write_tone(tmp_path / "mine.wav", 8000)
    assert "mine.wav" in fails_in_one_line("data/instruments/prepare.py", "--out", tmp_path)
    assert wavs(tmp_path) == ["mine.wav"]


def test_an_interrupted_run_leaves_the_folder_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = soundfile.write

    def interrupted(path: Path, *args: object) -> None:
        if path.name == "G4_1.wav":
            raise KeyboardInterrupt
        write(path, *args)

    monkeypatch.setattr(soundfile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        instruments.prepare(tmp_path / "audio")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_at_once_write_one_complete_corpus(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "audio"
    command = [sys.executable, str(ROOT / "data/instruments/prepare.py"), "--out", str(out)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert contents(out) == contents(corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["audio"]


STAGE = """
import sys, time, pathlib
sys.path.insert(0, sys.argv[1])
from data.layout import staging
with staging(pathlib.Path(sys.argv[2])) as stage:
    (stage / "half.wav").touch()
    print("begun", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_swept_and_what_a_living_one_builds_is_not(
    tmp_path: Path,
) -> None:
    out = tmp_path / "audio[1]"
    command = [sys.executable, "-c", STAGE, str(ROOT), str(out)]
    folders = []
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        folders.append(set(tmp_path.iterdir()))
        if len(folders) == 1:
            process.kill()
            process.communicate()
    assert len(folders[0]) == len(folders[1]) == 1 and folders[0] != folders[1]
    instruments.prepare(out, takes=2)
    assert set(tmp_path.iterdir()) == {out, *folders[1]}
    assert list(next(iter(folders[1])).glob("corpus/half.wav"))
    process.kill()
    process.communicate()


def test_other_files_in_the_folder_are_kept(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / ".lock").touch()
    instruments.prepare(tmp_path / "audio", takes=2)
    assert (tmp_path / "audio" / ".lock").is_file()
    assert len(wavs(tmp_path / "audio")) == len(EVERY_NOTE) * 2


def test_published_folders_have_the_permissions_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with layout.staging(tmp_path / "corpus") as stage:
        layout.publish(stage, tmp_path / "corpus")
    assert (tmp_path / "corpus").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_with_the_name_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audio").touch()
    assert "is a file" in fails_in_one_line(
        "data/instruments/prepare.py", "--out", tmp_path / "audio"
    )


def test_linking_falls_back_to_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: object, **kwargs: object) -> None:
        raise OSError("another file system")

    (tmp_path / "a").write_text("audio")
    monkeypatch.setattr(os, "link", refuses)
    layout.link(tmp_path / "a", tmp_path / "folder" / "b")
    assert (tmp_path / "folder" / "b").read_text() == "audio"


# --- spoken digits ---

DIGITS = [
    f"{digit}_{speaker}_{index}.wav"
    for digit in (0, 7)
    for speaker in ("ann", "bob")
    for index in (0, 4, 5, 9, 10)
]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    for name in DIGITS:
        write_tone(tmp_path / "clone" / "recordings" / name, 8000)
    return tmp_path / "clone"


@pytest.mark.parametrize("given", [".", "recordings"])
def test_fsdd_takes_the_clone_or_its_recordings(digits: Path, tmp_path: Path, given: str) -> None:
    text = succeeds("data/fsdd/prepare.py", "--source", digits / given, "--out", tmp_path / "out")
    assert wavs(tmp_path / "out") == sorted(DIGITS)
    assert "20 recordings, 2 digits, 2 speakers" in text and "train 4, val 8, test 8" in text


def test_fsdd_leaves_out_unreadable_files_with_a_warning(digits: Path, tmp_path: Path) -> None:
    recordings = digits / "recordings"
    (recordings / "3_ann_1.wav").write_text("not audio")
    soundfile.write(recordings / "3_ann_2.wav", np.zeros(0), 8000)
    write_tone(recordings / "intro.wav", 8000)
    done = run("data/fsdd/prepare.py", "--source", digits, "--out", tmp_path / "out")
    assert done.returncode == 0 and wavs(tmp_path / "out") == sorted(DIGITS)
    assert "3_ann_1.wav" in done.stderr and "3_ann_2.wav" in done.stderr


def test_fsdd_prepared_in_place_is_unchanged(digits: Path) -> None:
    succeeds("data/fsdd/prepare.py", "--source", digits, "--out", digits / "recordings")
    assert wavs(digits / "recordings") == sorted(DIGITS)


def test_fsdd_can_be_prepared_twice(digits: Path, tmp_path: Path) -> None:
    for _ in range(2):
        succeeds("data/fsdd/prepare.py", "--source", digits, "--out", tmp_path / "out")
    assert wavs(tmp_path / "out") == sorted(DIGITS)


def test_fsdd_patterns_in_the_script_agree_with_its_splits() -> None:
    for name in DIGITS:
        match = re.search(fsdd.LABEL_PATTERN, name)
        assert match is not None and [match["digit"], match["speaker"]] == name.split("_")[:2]
        assert (fsdd.split_of(name) == "val") == bool(re.search(r"_[5-9]\.wav$", name))
        assert (fsdd.split_of(name) == "test") == bool(re.search(r"_[0-4]\.wav$", name))


def test_fsdd_names_missing_splits(tmp_path: Path) -> None:
    write_tone(tmp_path / "some" / "1_ann_12.wav", 8000)
    assert "no recordings for val, test" in succeeds(
        "data/fsdd/prepare.py", "--source", tmp_path / "some", "--out", tmp_path / "out"
    )


def test_fsdd_without_a_source_names_its_address_and_the_commands(tmp_path: Path) -> None:
    error = fails_in_one_line("data/fsdd/prepare.py", "--out", tmp_path / "out")
    assert f"git clone {fsdd.HOME}" in error and "--source free-spoken-digit-dataset" in error


def test_fsdd_sources_without_recordings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a folder" in fails_in_one_line(
        "data/fsdd/prepare.py", "--source", tmp_path / "no", "--out", tmp_path / "o"
    )
    assert "DIGIT_SPEAKER_INDEX" in fails_in_one_line(
        "data/fsdd/prepare.py", "--source", tmp_path / "empty", "--out", tmp_path / "o"
    )


# --- Speech Commands ---


def write_commands(corpus: Path) -> Path:
    """Ten digits and another word by three speakers: aa in train, bb in val, cc in test."""
    words = [*speech_commands.SC09, "yes"]
    for word in words:
        for speaker in ("aa", "bb", "cc"):
            write_tone(corpus / word / f"{speaker}_nohash_0.wav", 16000)
    write_tone(corpus / "_background_noise_" / "hiss.wav", 16000)
    (corpus / "validation_list.txt").write_text(
        "".join(f"{word}/bb_nohash_0.wav\n" for word in words)
    )
    (corpus / "testing_list.txt").write_text("".join(f"{word}/cc_nohash_0.wav\n" for word in words))
    return corpus


def test_speech_commands_lists_the_digits_by_the_corpus_own_splits(tmp_path: Path) -> None:
    source = write_commands(tmp_path / "unpacked")
    text = succeeds(
        "data/speech_commands/prepare.py", "--source", source, "--out", tmp_path / "out"
    )
    table = rows(tmp_path / "out")
    assert "train 10, val 10, test 10" in text
    assert sorted(row["path"] for row in table) == wavs(tmp_path / "out")
    assert {row["word"] for row in table} == set(speech_commands.SC09)
    assert {(row["speaker"], row["split"]) for row in table} == {
        ("aa", "train"),
        ("bb", "val"),
        ("cc", "test"),
    }
    assert all(row["path"] == f"{row['word']}/{row['speaker']}_nohash_0.wav" for row in table)


@pytest.mark.parametrize(("given", "count"), [(["yes", "one"], 6), (["all"], 33)])
def test_speech_commands_in_place_lists_the_given_words(
    tmp_path: Path, given: list[str], count: int
) -> None:
    corpus = write_commands(tmp_path / "unpacked")
    before = wavs(corpus)
    succeeds("data/speech_commands/prepare.py", "--out", corpus, "--words", *given)
    assert len(rows(corpus)) == count and wavs(corpus) == before


def test_speech_commands_refuses_unknown_words_and_folders_that_are_not_the_corpus(
    tmp_path: Path,
) -> None:
    source = write_commands(tmp_path / "unpacked")
    out = tmp_path / "out"
    error = fails_in_one_line(
        "data/speech_commands/prepare.py", "--source", source, "--out", out, "--words", "eleven"
    )
    assert "eleven" in error and "eight, five" in error
    assert "validation_list.txt" in fails_in_one_line(
        "data/speech_commands/prepare.py", "--source", tmp_path, "--out", out
    )
    assert not out.exists()


def archive(corpus: Path, name: str, mode: str) -> Callable[..., None]:
    """Replaces torchaudio's downloader: writes an archive of `corpus` under the name `name`."""

    def download(url: str, target: object, **kwargs: object) -> None:
        with tarfile.open(str(target), mode) as tar:  # type: ignore[call-overload]
            tar.add(corpus, name)

    return download


def test_speech_commands_is_downloaded_completely_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "torchaudio.datasets.speechcommands.download_url_to_file"
    monkeypatch.setattr(place, archive(write_commands(tmp_path / "theirs"), ".", "w:gz"))
    speech_commands.prepare(tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 30 and wavs(tmp_path / "out") == wavs(tmp_path / "theirs")
    monkeypatch.delattr(place)
    speech_commands.prepare(tmp_path / "out", words=["yes"])
    assert len(rows(tmp_path / "out")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_speech_commands_that_cannot_be_unpacked_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(url: str, target: str, **kwargs: object) -> None:
        Path(target).write_bytes(b"half a file")

    monkeypatch.setattr("torchaudio.datasets.speechcommands.download_url_to_file", broken)
    with pytest.raises(ValueError, match="could not download Speech Commands"):
        speech_commands.prepare(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- LJ Speech ---


def write_lj(corpus: Path, count: int = 12) -> Path:
    for i in range(count):
        write_tone(corpus / "wavs" / f"LJ001-{i:04d}.wav", 22050)
    (corpus / "metadata.csv").write_text(
        "".join(f"LJ001-{i:04d}|Text|Text\n" for i in range(count))
    )
    return corpus


@pytest.mark.parametrize("given", [".", "wavs"])
def test_ljspeech_has_three_splits_and_keeps_its_transcripts(tmp_path: Path, given: str) -> None:
    source = write_lj(tmp_path / "LJSpeech-1.1")
    text = succeeds(
        "data/ljspeech/prepare.py", "--source", source / given, "--out", tmp_path / "out"
    )
    table = rows(tmp_path / "out")
    assert [row["path"] for row in table] == wavs(tmp_path / "out") == wavs(source)
    assert "train 10, val 1, test 1" in text and "13100" in text
    transcripts = (tmp_path / "out" / "transcripts.csv").read_text()
    assert transcripts == (source / "metadata.csv").read_text()


def test_ljspeech_splits_are_independent_of_order_and_hold_out_one_percent_each() -> None:
    names = [f"LJ{chapter:03d}-{i:04d}.wav" for chapter in range(1, 51) for i in range(262)]
    split = ljspeech.splits(names)
    assert split == ljspeech.splits(names[::-1])
    sizes = [list(split.values()).count(name) for name in ("train", "val", "test")]
    assert sizes == [12838, 131, 131]
    # The validation clips come from chapters all over the corpus.
    assert len({name[:5] for name in names if split[name] == "val"}) > 30


def test_ljspeech_is_downloaded_completely_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "torchaudio.datasets.ljspeech.download_url_to_file"
    monkeypatch.setattr(place, archive(write_lj(tmp_path / "theirs"), "LJSpeech-1.1", "w:bz2"))
    ljspeech.prepare(tmp_path / "out")
    monkeypatch.delattr(place)
    ljspeech.prepare(tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]


def test_ljspeech_never_replaces_the_corpus_own_metadata(tmp_path: Path) -> None:
    source = write_lj(tmp_path / "LJSpeech-1.1")
    before = (source / "metadata.csv").read_text()
    for out in (source, source / "wavs"):
        assert "Choose another" in fails_in_one_line(
            "data/ljspeech/prepare.py", "--source", source, "--out", out
        )
    assert (source / "metadata.csv").read_text() == before


def test_ljspeech_sources_too_small_or_without_audio_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert "holds no wav" in fails_in_one_line(
        "data/ljspeech/prepare.py", "--source", tmp_path / "empty", "--out", out
    )
    source = write_lj(tmp_path / "two", count=2)
    assert "at least 3" in fails_in_one_line(
        "data/ljspeech/prepare.py", "--source", source, "--out", out
    )
    assert not out.exists()


@pytest.mark.parametrize(
    "script", [f"data/{name}/prepare.py" for name in ("speech_commands", "ljspeech", "vctk")]
)
def test_a_failed_download_says_what_to_do_and_leaves_no_files(tmp_path: Path, script: str) -> None:
    error = fails_in_one_line(script, "--out", tmp_path / "out")
    assert "could not download" in error and "--source" in error
    assert list(tmp_path.iterdir()) == []


# --- festvox-ru ---


@pytest.mark.parametrize("given", ["", "voice", "voice/wav"])
def test_festvox_ru_is_linked_from_the_package_with_its_notice(tmp_path: Path, given: str) -> None:
    package = tmp_path / "package"
    voice = package / festvox_ru.VOICE
    for index in range(12):
        write_tone(voice / "wav" / f"ru_{index:04d}.wav", 16000)
    (voice / "etc").mkdir()
    (voice / "etc" / "txt.done.data").write_text('( ru_0000 "text" )\n')
    (package / festvox_ru.LICENCE).parent.mkdir(parents=True)
    (package / festvox_ru.LICENCE).write_text("Copyright")
    source = package / given.replace("voice", festvox_ru.VOICE)
    text = succeeds("data/festvox_ru/prepare.py", "--source", source, "--out", tmp_path / "out")
    assert "12 clips (the full corpus has 620)" in text and "train 10, val 1, test 1" in text
    assert [row["path"] for row in rows(tmp_path / "out")] == wavs(tmp_path / "out")
    assert "ru_0000" in (tmp_path / "out" / "transcripts.txt").read_text()
    assert (tmp_path / "out" / "LICENCE.txt").exists() == (given == "")


def test_festvox_ru_names_what_it_looked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    error = fails_in_one_line("data/festvox_ru/prepare.py", "--source", tmp_path, "--out", out)
    assert "inside it" in error
    (tmp_path / "empty").mkdir()
    error = fails_in_one_line(
        "data/festvox_ru/prepare.py", "--source", tmp_path / "empty", "--out", out
    )
    assert "holds no recordings" in error and "dpkg-deb -x" in error and not out.exists()


# --- Excerpts: YouTubeMix, Beethoven ---


def test_recordings_are_cut_into_excerpts_and_split_in_natural_order(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for index in range(20):
        samples = np.arange(250 + index, dtype=np.int16) + 1000 * index
        soundfile.write(source / f"out{index}.wav", samples, 16000)
    soundfile.write(source / "out7.wav", np.arange(100, dtype=np.int16), 16000)
    text = succeeds(
        *("data/youtubemix/prepare.py", "--source", source, "--out", tmp_path / "out"),
        *("--samples", 100),
    )
    assert "20 recordings (the full corpus has 241), 39 excerpts" in text
    assert "train 33, val 2, test 4" in text
    named = {row["path"]: row["split"] for row in rows(tmp_path / "out")}
    assert named["audio/out7.wav"] == "train", "an excerpt already"
    held = {path.split("_")[0]: split for path, split in named.items() if split != "train"}
    assert held == {"audio/out17": "val", "audio/out18": "test", "audio/out19": "test"}
    second, _ = soundfile.read(tmp_path / "out/audio/out10_001.wav", dtype="int16")
    assert second.tolist() == list(range(10_100, 10_200))


@pytest.mark.parametrize("name", ["youtubemix", "beethoven"])
def test_excerpts_name_what_is_wrong(tmp_path: Path, name: str) -> None:
    script, out, source = f"data/{name}/prepare.py", tmp_path / "out", tmp_path / "source"
    source.mkdir()
    assert "holds no wav files" in fails_in_one_line(script, "--source", source, "--out", out)
    for index in range(8):
        write_tone(source / f"{index}.wav", 16000)
    error = fails_in_one_line(script, "--source", source, "--out", out)
    assert "Of 8 recordings" in error and "Is the copy complete?" in error and not out.exists()
    error = fails_in_one_line(script, "--source", source, "--out", out, "--samples", 0)
    assert "--samples must be at least 1, but got 0" in error


# --- VCTK ---


@pytest.mark.parametrize("given", ["", "wav48_silence_trimmed"])
def test_vctk_takes_one_microphone_and_splits_each_speaker(tmp_path: Path, given: str) -> None:
    corpus = tmp_path / "VCTK-Corpus-0.92"
    for speaker in ("p225", "s5"):
        for index in range(5):
            for microphone in (1, 2):
                name = f"{speaker}_{index:03d}_mic{microphone}.flac"
                write_tone(corpus / "wav48_silence_trimmed" / speaker / name, 48000)
    out = tmp_path / "out"
    text = succeeds("data/vctk/prepare.py", "--source", corpus / given, "--out", out)
    assert "10 clips of 2 speakers (the full corpus has 110)" in text
    assert "train 6, val 2, test 2" in text
    assert {(row["speaker"], row["split"]) for row in rows(out)} == {
        (speaker, split) for speaker in ("p225", "s5") for split in ("train", "val", "test")
    }
    assert all("_mic1" in row["path"] and (out / row["path"]).is_file() for row in rows(out))
    error = fails_in_one_line("data/vctk/prepare.py", "--source", tmp_path / "x", "--out", out)
    assert "holds no recordings" in error and "_mic1.flac" in error


# --- every script, and the README ---


SCRIPTS = [
    *("instruments", "fsdd", "speech_commands", "ljspeech", "festvox_ru"),
    *("vctk", "youtubemix", "beethoven"),
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_corpus_is_in_the_readme_with_its_command(name: str) -> None:
    assert f"python data/{name}/prepare.py" in (ROOT / "data" / "README.md").read_text()


def test_the_readme_states_the_patterns_of_the_scripts() -> None:
    text = (ROOT / "data" / "README.md").read_text()
    assert instruments.LABEL_PATTERN in text and fsdd.LABEL_PATTERN in text


def test_importing_a_script_does_not_import_torch(tmp_path: Path) -> None:
    for script in SCRIPTS:
        path = str(ROOT / "data" / script / "prepare.py")
        code = f"import runpy, sys; runpy.run_path({path!r}); print('torch' in sys.modules)"
        command = [sys.executable, "-c", code]
        assert subprocess.check_output(command, text=True, cwd=tmp_path).strip() == "False"


# --- the pitch benchmark ---


def decoded_codes(audio: np.ndarray) -> np.ndarray:
    return MuLaw().decode(MuLaw().encode(torch.from_numpy(audio))).numpy()


def noisy(audio: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(audio))
    return audio + 0.5 * np.sqrt(np.mean(audio**2)) * noise  # 6 dB below the note


def late_and_drifting(audio: np.ndarray) -> np.ndarray:
    drift = 0.2 + 0.3 * np.sin(2 * np.pi * 3 * np.arange(4800) / 8000)
    return np.concatenate([np.zeros(2000), audio[:2800]]) + drift


def unchanged(audio: np.ndarray) -> np.ndarray:
    return audio


@pytest.mark.parametrize("change", [unchanged, decoded_codes, noisy, late_and_drifting])
def test_measured_pitch_of_every_clip_is_within_half_a_percent(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    for instrument, note in EVERY_NOTE:
        for take in range(6 if change is unchanged else 2):
            measured = pitch.fundamental(change(instruments.render(instrument, note, take)), 8000)
            asked = instruments.note_frequency(note)
            assert abs(measured / asked - 1) < 0.005, (instrument, note, take, measured)


@pytest.mark.parametrize("frequency", [62, 131, 700, 1190])
@pytest.mark.parametrize("sample_rate", [8000, 22050])
def test_measured_pitch_makes_no_octave_errors(frequency: float, sample_rate: int) -> None:
    turns = frequency * np.arange(round(0.6 * sample_rate)) / sample_rate
    impulses = sum(
        np.cos(2 * np.pi * k * turns) for k in range(1, math.ceil(sample_rate / 2 / frequency))
    )
    strong_octave = np.sin(2 * np.pi * turns) + 2.5 * np.sin(4 * np.pi * turns + 1)
    for audio in (np.sin(2 * np.pi * turns), strong_octave, impulses):
        assert pitch.fundamental(np.asarray(audio), sample_rate) == pytest.approx(
            frequency, rel=1e-3
        )


def test_audio_without_a_pitch_gives_nan() -> None:
    rng = np.random.default_rng(0)
    white, walk = rng.standard_normal(4800), np.cumsum(rng.standard_normal(4800))
    for audio in (np.zeros(4800), white, walk, np.zeros(0), np.ones(3), np.full(4800, np.nan)):
        assert math.isnan(pitch.fundamental(audio, 8000))


def test_other_shapes_and_invalid_limits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4800\)"):
        pitch.fundamental(np.zeros((1, 4800)), 8000)
    with pytest.raises(ValueError, match="fmin < fmax"):
        pitch.fundamental(np.zeros(4800), 8000, fmin=500, fmax=100)


class StandInModel:
    """A model that plays every note except B4 (silence) and Gs4 (a semitone too high)."""

    labels: ClassVar = {
        "note": sorted(instruments.NOTES),
        "instrument": list(instruments.INSTRUMENTS),
    }
    sample_rate = 8000


def stand_in_generate(
    model: StandInModel, *, labels: dict[str, list[str]], batch_size: int, **rest: object
) -> torch.Tensor:
    wrong = {"Gs4": "A4"}
    clips = [
        instruments.render(instrument, wrong.get(note, note), 0)[:4800] * (note != "B4")
        for note, instrument in zip(labels["note"], labels["instrument"], strict=True)
    ]
    assert len(clips) == batch_size
    return torch.from_numpy(np.stack(clips))


def test_the_benchmark_counts_hits_and_ends_in_a_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model = staticmethod(lambda folder: StandInModel())
    stand_in: Any = ModuleType("wavenet")
    stand_in.WaveNet = type("WaveNet", (), {"from_pretrained": load_model})
    stand_in.generate = stand_in_generate
    monkeypatch.setitem(sys.modules, "wavenet", stand_in)
    arguments = ["--checkpoint", "any", "--count", "52", "--out", str(tmp_path / "notes")]
    monkeypatch.setattr(sys, "argv", ["pitch.py", *arguments])
    pitch.main()
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert (summary["hits"], summary["count"]) == (44, 52)
    missed = [line.split()[0] for line in lines[1:53] if line.endswith("no")]
    assert sorted(set(missed)) == ["B4", "Gs4"]
    # Every pair of 13 notes and 4 instruments occurs once.
    assert len({tuple(line.split()[:2]) for line in lines[1:53]}) == 52
    assert len(wavs(tmp_path / "notes")) == 52


def test_the_benchmark_takes_models_without_instruments_and_refuses_those_without_notes() -> None:
    assert pitch.asked({"note": ["C4", "D4"]}, 3) == {"note": ["C4", "D4", "C4"]}
    with pytest.raises(ValueError, match="its labels are: digit, speaker"):
        pitch.asked({"digit": ["0"], "speaker": ["ann"]}, 3)


def test_the_benchmark_finds_the_newest_model_or_says_how_to_make_one(tmp_path: Path) -> None:
    for age, name in enumerate(["b", "c", "a"]):
        (tmp_path / name / "model").mkdir(parents=True)
        os.utime(tmp_path / name / "model", (1000 - age, 1000 - age))
    assert pitch.newest_model(tmp_path) == tmp_path / "b" / "model"
    shutil.rmtree(tmp_path / "b")
    assert pitch.newest_model(tmp_path) == tmp_path / "c" / "model"
    with pytest.raises(ValueError, match=r"train\.py"):
        pitch.newest_model(tmp_path / "a")
