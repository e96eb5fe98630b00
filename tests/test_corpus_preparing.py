"""Properties of preparing: each file decoded once to 16-bit PCM, whole or not at all."""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import soundfile
import torch
from tiny_corpora import (
    LENGTHS,
    SILENCE,
    codes_of,
    decoded,
    encoded,
    prepared,
    prepared_folders,
    ramp,
    run,
    unprepared,
    write_codes,
    write_ramps,
    write_tone,
)

from wavenet.audio import load_audio, pcm16, resample
from wavenet.corpus import decoding, find_audio, preparing
from wavenet.corpus.decoding import normalize_audio
from wavenet.corpus.preparing import cache_of
from wavenet.installation import MissingPackage
from wavenet.outputs.mulaw import MuLaw


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    return write_ramps(tmp_path / "ramps")


# --- Decoding ---------------------------------------------------------------------------------


def test_codes_are_those_of_the_mu_law_codec_and_cannot_be_written(ramps: Path) -> None:
    data = prepared(ramps)
    clips = data.clips("train")
    assert data.num_samples("train") == sum(LENGTHS) == sum(clip.length for clip in clips)
    for number, clip in enumerate(clips):
        assert (codes_of(data, clip) == ramp(LENGTHS[number], number)).all()
    with pytest.raises(ValueError, match="read-only"):
        data.levels(clips[0])[0] = 1


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT"])
def test_every_bit_depth_is_used(tmp_path: Path, subtype: str) -> None:
    write_tone(tmp_path / "a.wav", subtype=subtype)
    data = prepared(tmp_path)
    audio = decoded(data, data.clips("train")[0])
    expected = 0.5 * np.sin(2 * math.pi * 440 * np.arange(400) / 8000)
    np.testing.assert_allclose(audio, expected, atol=0.03)


def test_stereo_at_another_rate_is_mixed_down_and_resampled_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.wav", "b.wav"):
        wave = np.sin(2 * math.pi * 440 * np.arange(44100) / 44100)
        soundfile.write(tmp_path / name, np.stack([wave, 0 * wave], axis=1), 44100)
    write_tone(tmp_path / "c.wav")
    with caplog.at_level(logging.INFO, "wavenet"):
        data = prepared(tmp_path)
    clip = data.clips("train")[0]
    assert clip.length == 8000
    audio = decoded(data, clip)
    assert float(audio[1000:-1000].abs().max()) == pytest.approx(0.5, abs=0.03)
    assert int(torch.fft.rfft(audio).abs().argmax()) == 440
    lines = [record.message for record in caplog.records if "Resampled" in record.message]
    assert lines == ["Resampled 2 of 3 files to 8000 Hz by torchaudio: 2 at 44100 Hz."]


def resampler_of(root: Path) -> object:
    (folder,) = prepared_folders(cache_of(root, None))
    return json.loads((folder / "manifest.json").read_text())["resampler"]


def test_the_manifest_names_what_resampled_where_anything_was(tmp_path: Path) -> None:
    for name, rate in (("same", 8000), ("other", 16000)):
        (tmp_path / name).mkdir()
        write_tone(tmp_path / name / "a.wav", rate=rate)
        prepared(tmp_path / name)
    assert resampler_of(tmp_path / "same") is None
    assert resampler_of(tmp_path / "other") == "torchaudio"


@pytest.mark.parametrize("older", [False, True])
def test_audio_of_another_resampler_is_used_with_a_warning(
    older: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tone(tmp_path / "a.wav", rate=16000)
    before = prepared(tmp_path).audio_path.read_bytes()
    (folder,) = prepared_folders(cache_of(tmp_path, None))
    if older:  # which did not say
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["resampler"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    caplog.clear()
    assert prepared(tmp_path).audio_path.read_bytes() == before
    assert "resampled by" not in caplog.text, "the same as here"
    monkeypatch.setattr(preparing, "resampler", lambda: "soxr")
    with caplog.at_level(logging.WARNING, "wavenet"):
        assert prepared(tmp_path).audio_path.read_bytes() == before
    (told,) = [m for m in caplog.messages if "resampled by" in m]
    assert told.startswith("That audio was resampled by torchaudio, and this environment resamples")


def test_without_a_resampler_nothing_is_skipped_but_the_remedy_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(tmp_path / "a.wav", rate=16000)
    write_tone(tmp_path / "b.wav")

    def none(*_: object) -> None:
        raise MissingPackage("Resampling audio needs soxr")

    monkeypatch.setattr(decoding, "resample", none)
    with pytest.raises(MissingPackage, match="needs soxr"):
        prepared(tmp_path)
    assert prepared_folders(cache_of(tmp_path, None)) == []


def test_samples_beyond_full_scale_are_clipped_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 1.5, -2.0, 1.0]), 8000, subtype="FLOAT")
    data = prepared(tmp_path)
    assert codes_of(data, data.clips("train")[0]).tolist() == [128, 255, 0, 255]
    assert "2 samples in 1 files lie beyond full scale" in caplog.text


@pytest.mark.parametrize(
    ("how", "level", "peak"), [("peak", 0.1, 10 ** (-1 / 20)), ("loudness", 0.9, 0.1001)]
)
def test_normalising_brings_clips_to_one_level(
    tmp_path: Path, how: str, level: float, peak: float
) -> None:
    write_tone(tmp_path / "a.wav", 0.5, level=level, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 8000)
    data = prepared(tmp_path, normalize=how)
    tone, silent = data.clips("train")
    audio = decoded(data, tone)
    assert float(audio.abs().max()) == pytest.approx(peak, rel=0.03)
    assert set(codes_of(data, silent).tolist()) == {SILENCE}


def test_loudness_stops_short_of_clipping() -> None:
    click = torch.zeros(8000)
    click[100] = 0.01  # its RMS lies at -79 dBFS; 56 dB more would clip it
    assert float(normalize_audio(click, "loudness").max()) == pytest.approx(1.0)


def test_trimming_cuts_silence_at_both_ends_only_and_reports_what_it_keeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio = np.full(1000, 1e-4)  # 74 dB below the peak
    audio[300:400] = audio[600:700] = 0.5
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    with caplog.at_level(logging.INFO, "wavenet"):
        assert [clip.length for clip in prepared(tmp_path).clips("train")] == [1000], (
            "off unless asked for"
        )
        assert [
            clip.length for clip in prepared(tmp_path, trim_silence_db=60.0).clips("train")
        ] == [400]
        assert [
            clip.length for clip in prepared(tmp_path, trim_silence_db=80.0).clips("train")
        ] == [1000]
    assert "keeps 40.0% of the audio" in caplog.text


def write_levels(path: Path, seed: int = 0, samples: int = 5000, rate: int = 8000) -> np.ndarray:
    """A 16-bit wav of random levels, both ends of the scale among them; returns the levels."""
    levels = np.random.default_rng(seed).integers(-32768, 32768, samples, dtype=np.int16)
    levels[:2] = -32768, 32767
    soundfile.write(path, levels, rate, subtype="PCM_16")
    return levels


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_files_at_the_corpus_rate_are_kept_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    written = [write_levels(tmp_path / f"{seed}.{suffix}", seed) for seed in range(3)]
    data = prepared(tmp_path)
    for levels, clip in zip(written, data.clips("train"), strict=True):
        np.testing.assert_array_equal(data.levels(clip), levels)
        np.testing.assert_array_equal(data.audio(clip), levels.astype(np.float32) / 32768)
    assert data.audio_path.read_bytes() == b"".join(
        levels.astype("<i2").tobytes() for levels in written
    )


def test_what_is_no_16_bit_file_is_rounded_as_written_wav_files_are(tmp_path: Path) -> None:
    audio = 0.6 * np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    for settings, expected in (
        ({}, torch.from_numpy(audio)),
        ({"normalize": "peak"}, normalize_audio(torch.from_numpy(audio), "peak")),
        ({"sample_rate": 6000}, resample(torch.from_numpy(audio), 8000, 6000)),
    ):
        data = prepared(tmp_path, **settings)
        levels = data.levels(data.clips("train")[0])
        np.testing.assert_array_equal(levels, pcm16(expected).numpy())


def test_long_files_are_rounded_in_blocks_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = write_levels(tmp_path / "a.wav", samples=1000)
    monkeypatch.setattr(decoding, "PCM_BLOCK", 300)
    data = prepared(tmp_path)
    np.testing.assert_array_equal(data.levels(data.clips("train")[0]), levels)


# --- Preparing once ---------------------------------------------------------------------------


def refuse(*args: object) -> Any:
    raise AssertionError("decoded again")


def test_preparing_again_reads_nothing_and_other_labels_or_splits_decode_nothing(
    ramps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(ramps)
    monkeypatch.setattr(preparing, "decode_clip", refuse)
    monkeypatch.setattr(preparing, "_digest", refuse)
    data = prepared(ramps, label_from_folder="clip", val_fraction=0.2)
    assert len(data.clips("val")) == 2 and len(data.labels["clip"]) == len(LENGTHS)
    later = unprepared(ramps)
    later.open()  # as in a process that did not prepare
    assert later.num_samples("train") == sum(LENGTHS)


def test_a_changed_file_is_prepared_anew_and_a_touched_one_is_not(
    ramps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(ramps)
    os.utime(ramps / "9" / "clip.wav", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "decode_clip", refuse)
        prepared(ramps)
    write_codes(ramps / "9" / "clip.wav", ramp(5, 100))
    data = prepared(ramps)
    assert (codes_of(data, data.clips("train")[9]) == ramp(5, 100)).all()
    assert len(prepared_folders(cache_of(ramps, None))) == 2


def test_one_preparation_serves_every_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_levels(tmp_path / "a.wav")
    prepared(tmp_path)
    monkeypatch.setattr(preparing, "decode_clip", refuse)
    data = prepared(tmp_path)
    (clip,) = data.clips("train")
    audio = load_audio(tmp_path / "a.wav")
    for output in (MuLaw(256), MuLaw(64)):
        wanted = output.encode(audio).numpy()
        np.testing.assert_array_equal(codes_of(data, clip, output), wanted)
        row = encoded(data.whole_clips("train", 1)[0], output)[0]
        np.testing.assert_array_equal(row, [output.silence, *wanted])
    assert len(prepared_folders(cache_of(tmp_path, None))) == 1


def test_a_folder_of_the_format_before_is_left_alone_and_prepared_anew(ramps: Path) -> None:
    """Format 1 held a file of codes; its folder's name is the hash that format made."""
    files = {path: preparing._digest(ramps / path) for path in find_audio(ramps)}
    settings = {"sample_rate": 8000, "normalize": None, "trim_silence_db": None}
    contents = json.dumps([1, settings, sorted(files.items()), []])
    name = hashlib.blake2b(contents.encode(), digest_size=16).hexdigest()
    old = cache_of(ramps, None) / name
    old.mkdir(parents=True)
    (old / "codes.u8").write_bytes(bytes(sum(LENGTHS)))
    manifest = {"format_version": 1, "settings": settings, "codec": "mu-law", "clips": []}
    (old / "manifest.json").write_text(json.dumps(manifest))
    data = prepared(ramps)
    assert data.audio_path.parent != old
    assert (codes_of(data, data.clips("train")[3]) == ramp(LENGTHS[3], 3)).all()
    assert sorted(path.name for path in old.iterdir()) == ["codes.u8", "manifest.json"]


def test_settings_that_change_the_audio_have_folders_of_their_own(ramps: Path) -> None:
    lengths = [
        prepared(ramps, **settings).num_samples("train") for settings in ({}, {"sample_rate": 4000})
    ]
    assert lengths[1] == sum(math.ceil(length / 2) for length in LENGTHS)
    prepared(ramps, normalize="peak")
    assert len(prepared_folders(cache_of(ramps, None))) == 3


def test_the_manifest_says_what_lies_where(ramps: Path, tmp_path: Path) -> None:
    (ramps / "broken.wav").write_text("no")
    prepared(ramps, cache_dir=str(tmp_path / "cache"))
    assert not cache_of(ramps, None).exists()
    (folder,) = prepared_folders(tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["audio.s16", "manifest.json"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format_version"] == 2
    assert manifest["settings"] == {"sample_rate": 8000, "normalize": None, "trim_silence_db": None}
    assert [clip["length"] for clip in manifest["clips"]] == LENGTHS
    assert [clip["offset"] for clip in manifest["clips"]] == np.cumsum([0, *LENGTHS[:-1]]).tolist()
    assert [entry["path"] for entry in manifest["skipped"]] == ["broken.wav"]
    assert (folder / "audio.s16").stat().st_size == 2 * sum(LENGTHS)


def test_an_audio_file_of_the_wrong_size_is_refused(ramps: Path) -> None:
    prepared(ramps)
    (folder,) = prepared_folders(cache_of(ramps, None))
    with (folder / "audio.s16").open("ab") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"100 bytes instead of 15756; delete that folder"):
        prepared(ramps)


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def no_audio(folder: Path) -> None:
    (folder / "audio.s16").unlink()


def a_pipe_for_audio(folder: Path) -> None:
    no_audio(folder)
    os.mkfifo(folder / "audio.s16")


def a_file_for_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def manifest_of(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return write


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (no_manifest, "manifest.json': No such file"),
        (no_audio, "audio.s16': No such file"),
        (a_pipe_for_audio, "audio.s16 has 0 bytes instead of 15756"),
        (a_file_for_the_folder, "manifest.json': Not a directory"),
        (manifest_of(b""), "manifest.json is no JSON"),
        (manifest_of(b'{"format_version": 2, "clips"'), "manifest.json is no JSON"),
        (manifest_of(b"\xff\xfe\0\0"), "manifest.json is no JSON"),
        (manifest_of(b"[" * 100_000), "manifest.json is no JSON"),
        (manifest_of(b"[1, 2]"), "is not in format 2"),
        (manifest_of(b"null"), "is not in format 2"),
        (manifest_of(b'{"format_version": 2}'), "lacks what belongs there"),
        (changed(lambda it: it.update(format_version=3)), "is not in format 2"),
        (changed(lambda it: it.pop("clips")), "lacks what belongs there"),
        (changed(lambda it: it.update(clips={})), "lacks what belongs there"),
        (changed(lambda it: it["clips"].append(3)), "lacks what belongs there"),
        (changed(lambda it: it["clips"][0].pop("path")), "lacks what belongs there"),
        (changed(lambda it: it["clips"][0].update(more=1)), "lacks what belongs there"),
        (changed(lambda it: it["clips"][9].update(length=True)), "has it in another type"),
        (changed(lambda it: it["clips"][0].update(length=3000.0)), "has it in another type"),
        (changed(lambda it: it["skipped"].append(["a.wav", "x"])), "has it in another type"),
        (changed(lambda it: it.update(rates=[8000])), "has it in another type"),
        (changed(lambda it: it.update(rates={"fast": 1})), "has it in another type"),
        (changed(lambda it: it["totals"].pop("kept")), "lacks what belongs there"),
        (changed(lambda it: it["settings"].update(sample_rate=4000)), "has other settings"),
        (changed(lambda it: it.update(settings=None)), "has other settings"),
        (changed(lambda it: it["clips"][0].update(path="x.wav")), "lists other files"),
        (changed(lambda it: it["clips"].reverse()), "does not put its clips end to end"),
        (changed(lambda it: it["clips"][3].update(offset=10**30)), "does not put its clips"),
        (changed(lambda it: it["clips"][9].update(length=10**9)), "has 15756 bytes instead of"),
        (changed(lambda it: it["clips"][9].update(length=-1)), "does not put its clips"),
    ],
)
def test_a_damaged_prepared_folder_is_refused_by_name(
    ramps: Path, damage: Callable[[Path], object], flaw: str
) -> None:
    prepared(ramps)
    (folder,) = prepared_folders(cache_of(ramps, None))
    damage(folder)
    for use in (prepared, lambda root: unprepared(root).open()):
        with pytest.raises(ValueError, match=flaw) as raised:
            use(ramps)
        assert str(raised.value).startswith(f"The prepared audio in '{folder}' is damaged: ")
        assert str(raised.value).endswith("; delete that folder and start again.")


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"3", b'{"0/clip.wav": 3, "1/clip.wav": [0]}', b"{" * 100_000]
)
def test_damaged_hashes_are_made_anew(ramps: Path, content: bytes) -> None:
    prepared(ramps)
    (hashes,) = cache_of(ramps, None).glob("digests-*.json")
    whole = hashes.read_bytes()
    hashes.write_bytes(content)
    assert prepared(ramps).num_samples("train") == sum(LENGTHS)
    assert json.loads(hashes.read_bytes()) == json.loads(whole)
    odd = {path: [*stamp, ["no hash"]] for path, (*stamp, _) in json.loads(whole).items()}
    hashes.write_text(json.dumps(odd))
    assert prepared(ramps).num_samples("train") == sum(LENGTHS)
    assert len(prepared_folders(cache_of(ramps, None))) == 1


def test_recordings_are_prepared_in_the_users_cache_and_a_run_says_where(
    ramps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WAVENET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    before = sorted(ramps.rglob("*"))
    with caplog.at_level(logging.INFO, "wavenet"):
        assert prepared(ramps).num_samples("train") == sum(LENGTHS)
        caplog.clear()
        prepared(ramps)
    assert sorted(ramps.rglob("*")) == before
    (own,) = (tmp_path / "home" / "wavenet" / "prepared").iterdir()
    assert own.name.startswith(ramps.name)
    (folder,) = prepared_folders(own)
    assert f"prepared audio: {folder}" in caplog.messages


def test_what_an_older_version_prepared_in_the_corpus_is_used(ramps: Path, tmp_path: Path) -> None:
    older = ramps / ".wavenet-cache"
    older.mkdir()
    first = prepared(ramps)
    assert first.audio_path.parent.parent == older == cache_of(ramps, None)
    assert prepared(ramps).audio_path == first.audio_path


def test_files_that_are_not_used_are_named_on_every_run(
    ramps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(12):
        (ramps / f"broken-{index:02d}.wav").write_text("no")
    prepared(ramps)
    caplog.clear()
    prepared(ramps)
    (told,) = [m for m in caplog.messages if "not used" in m]
    assert told.startswith("12 files are not used (each with its reason in manifest.json")
    assert told.endswith("broken-09.wav and 2 others.") and "broken-00.wav, broken-01" in told


# --- Beside other processes -------------------------------------------------------------------


PREPARE_SLOWLY = """
import logging, time
from wavenet.corpus import corpus, preparing
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
decode = preparing.decode_clip
def slow(path, settings):
    time.sleep(0.05)
    print("decodes", flush=True)
    return decode(path, settings)
preparing.decode_clip = slow
print("ready", flush=True)
data = tiny_corpora.prepared(sys.argv[1])
print(data.num_samples("train"))
"""


def wait_for(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"ended without {word}")


def names_in(cache: Path) -> list[str]:
    """What lies in a cache, but for the files' hashes."""
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("digests-"))


def test_of_two_processes_that_prepare_at_once_one_waits_for_the_other(ramps: Path) -> None:
    first = run(PREPARE_SLOWLY, str(ramps))
    wait_for(first, "decodes")
    first.send_signal(signal.SIGSTOP)
    second = run(PREPARE_SLOWLY, str(ramps))
    wait_for(second, "Another process is making")
    first.send_signal(signal.SIGCONT)
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert [output.split()[-1] for output in outputs] == [str(sum(LENGTHS))] * 2
    assert "decodes" not in outputs[1]
    assert len(names_in(cache_of(ramps, None))) == 1


def test_where_the_one_is_killed_the_one_that_waits_goes_on(ramps: Path) -> None:
    first = run(PREPARE_SLOWLY, str(ramps))
    wait_for(first, "decodes")
    first.send_signal(signal.SIGSTOP)
    second = run(PREPARE_SLOWLY, str(ramps))
    wait_for(second, "Another process is making")
    first.send_signal(signal.SIGKILL)
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0 and output.split()[-1] == str(sum(LENGTHS)), output
    assert output.count("decodes") == len(LENGTHS)
    assert first.wait(timeout=30) == -signal.SIGKILL
    first.communicate()
    prepared(ramps)
    assert len(names_in(cache_of(ramps, None))) == 1


def test_where_there_are_no_locks_the_first_to_finish_is_kept(
    ramps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = preparing._publish

    def come_second(temporary: Path, target: Path) -> None:
        monkeypatch.setattr(preparing, "_publish", publish)
        prepared(ramps)
        publish(temporary, target)

    def refuse_locks(self: object, timeout: float | None = None) -> None:
        raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse_locks)
    monkeypatch.setattr(preparing, "_publish", come_second)
    data = prepared(ramps)
    assert (codes_of(data, data.clips("train")[2]) == ramp(LENGTHS[2], 2)).all()
    assert len(prepared_folders(cache_of(ramps, None))) == 1


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_makes_is_not(
    ramps: Path,
) -> None:
    cache = cache_of(ramps, None)
    killed = run(PREPARE_SLOWLY, str(ramps))
    wait_for(killed, "decodes")
    killed.send_signal(signal.SIGKILL)
    assert killed.communicate() is not None and killed.returncode == -signal.SIGKILL
    left = names_in(cache)
    assert [name.rpartition(".")[2] for name in left] == ["tmp", "lock"]

    write_tone(ramps / "10" / "new.wav")
    living = run(PREPARE_SLOWLY, str(ramps))
    wait_for(living, "decodes")
    living.send_signal(signal.SIGSTOP)
    made = names_in(cache)
    assert [name.rpartition(".")[2] for name in made] == ["tmp", "lock"]
    assert not set(left) & set(made)

    (cache / ".digests-0123456789abcdef.json.abcd1234").touch()
    (cache / "not_ours.lock").touch()
    other = prepared(ramps, sample_rate=4000).audio_path.parent.name
    assert names_in(cache) == sorted([*made, other, "not_ours.lock"])
    living.send_signal(signal.SIGCONT)
    output = living.communicate(timeout=60)[0]
    assert living.returncode == 0 and output.split()[-1] == str(sum(LENGTHS) + 400), output


def prepare_slowly(root: Path) -> None:
    decode = preparing.decode_clip

    def slow(path: Path, settings: decoding.DecodeSettings) -> decoding.Decoded:
        time.sleep(0.01)
        return decode(path, settings)

    preparing.decode_clip = slow
    prepared(root)


def test_killed_at_any_moment_nothing_half_made_counts_and_nothing_is_left(ramps: Path) -> None:
    cache, moments = cache_of(ramps, None), np.random.default_rng(0).uniform(0, 0.25, 12)
    for moment in moments:
        process = get_context("fork").Process(target=prepare_slowly, args=(ramps,))
        process.start()
        process.join(moment)
        process.kill()
        process.join(30)
        whole = [name for name in names_in(cache) if "." not in name] if cache.is_dir() else []
        if whole:
            assert unprepared(ramps).num_samples("train") == sum(LENGTHS)
            shutil.rmtree(cache / whole[0])
    data = prepared(ramps)
    for number, clip in enumerate(data.clips("train")):
        assert (codes_of(data, clip) == ramp(LENGTHS[number], number)).all()
    assert names_in(cache) == [data.audio_path.parent.name]


PREPARE_ON_A_FULL_DISK = """
import resource, shutil
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
usage = shutil.disk_usage("/")
shutil.disk_usage = lambda path: usage._replace(free=2000)
tiny_corpora.prepared(sys.argv[1])
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(ramps: Path) -> None:
    process = run(PREPARE_ON_A_FULL_DISK, str(ramps))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    cache = cache_of(ramps, None)
    assert f"Could not write the prepared audio to '{cache}': File too large. About" in output
    said = re.search(r"About ([\d.]+) kB are needed, and 6.0 kB are free there. Free more", output)
    assert said is not None and float(said[1]) == pytest.approx(15.8, rel=0.3)
    assert prepared_folders(cache) == []


def test_a_cache_that_cannot_be_made_is_named(ramps: Path) -> None:
    (ramps / "taken").touch()
    with pytest.raises(
        OSError, match=r"taken/in': Not a directory. Name another folder with --data.cache_dir"
    ):
        prepared(ramps, cache_dir=str(ramps / "taken" / "in"))


# --- The corpus's own prepare.py --------------------------------------------------------------


CORPUS = """
import sys, time, pathlib, numpy, soundfile
assert sys.argv[1] == "--out"
root = pathlib.Path(sys.argv[2])
root.mkdir(parents=True)  # a second run would fail here
time.sleep(0.5)
soundfile.write(root / "made.wav", numpy.zeros(800), 8000)
"""


def test_the_corpus_is_made_once_even_by_two_processes_at_once(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(CORPUS)
    code = "tiny_corpora.prepared(sys.argv[1], prepare=sys.argv[2])"
    processes = [
        run(code, str(tmp_path / "new" / "audio"), str(tmp_path / "prepare.py")) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert prepared(tmp_path / "new" / "audio").num_samples("train") == 800


def test_a_corpus_that_is_there_is_not_made_again(ramps: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("raise SystemExit(3)")
    assert prepared(ramps, prepare=str(tmp_path / "prepare.py")).num_samples("train") == sum(
        LENGTHS
    )


def test_a_prepare_script_that_fails_or_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match=r"prepare.py' ended with status 3"):
        unprepared(tmp_path / "audio", prepare=str(tmp_path / "prepare.py")).prepare()
    with pytest.raises(ValueError, match=r"other.py' does not exist"):
        unprepared(tmp_path / "audio", prepare=str(tmp_path / "other.py")).prepare()


# --- What is skipped, and what is refused -----------------------------------------------------


def test_each_unusable_file_is_skipped_with_one_warning_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tone(tmp_path / "good.wav", 1.0)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "zero.flac").touch()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, math.nan]), 8000, subtype="FLOAT")
    with caplog.at_level(logging.INFO, "wavenet"):
        data = prepared(tmp_path)
    assert [clip.path for clip in data.clips("train")] == ["good.wav"]
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    for name, reason in {
        "text.wav": "cannot be read as audio",
        "zero.flac": "cannot be read as audio",
        "gone.wav": "does not exist",
        "empty.wav": "0 samples",
        "nan.wav": "NaN",
    }.items():
        assert [reason in line for line in warnings if name in line] == [True], name
    assert len(warnings) == 5
    assert "1 clips, 0:00:01 at 8000 Hz, 5 skipped, 0 labels; train 1." in caplog.text


def test_a_summary_counts_clips_time_and_labels(
    ramps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "wavenet"):
        prepared(ramps, label_from_folder="clip", val_pattern="^[12]/")
    assert (
        "10 clips, 0:00:01 at 8000 Hz, 0 skipped, 1 labels (clip: 10); train 8, val 2."
        in caplog.text
    )


def test_a_root_without_one_usable_file_is_refused_with_reasons_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.wav").write_text("no")
    with pytest.raises(
        ValueError, match=r"None of the 1 audio files .* can be used:\n.*a.wav' cannot be read"
    ):
        unprepared(tmp_path).prepare()
    assert prepared_folders(cache_of(tmp_path, None)) == []


def write_promise(path: Path, kept: int | None = None) -> None:
    """A FLAC of 5000 samples whose header states 2**36 - 1, 256 GiB as float32.

    `kept` bytes of it are written; by default all.
    """
    soundfile.write(path, np.zeros(5000), 8000)
    content = bytearray(path.read_bytes())[:kept]
    content[21] |= 0x0F  # of the stream's description: the highest 4 bits of 36
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


def write_wav_header(path: Path, channels: int = 1, rate: int = 8000) -> None:
    """A 16-bit wav of 1000 frames, whatever the header says."""
    data, width = bytes(2000 * max(channels, 1)), 2 * channels
    layout = struct.pack("<HHIIHH", 1, channels, rate, rate * width % 2**32, width, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + layout + b"data" + struct.pack("<I", len(data))
    size = struct.pack("<I", len(chunks) + len(data) + 4)
    path.write_bytes(b"RIFF" + size + b"WAVE" + chunks + data)


def write_bad_files(root: Path) -> dict[str, str]:
    """Files of no use and links to such, each with what is to be said of it."""
    write_wav_header(root / "fast.wav", rate=16_000_000)
    write_wav_header(root / "slow.wav", rate=1)
    write_wav_header(root / "no_rate.wav", rate=0)
    write_wav_header(root / "no_channels.wav", channels=0)
    write_promise(root / "empty_promise.flac", kept=86)
    soundfile.write(root / "inf.wav", np.array([0.0, math.inf]), 8000, subtype="FLOAT")
    soundfile.write(root / "vast.wav", np.array([0.0, 1e300]), 8000, subtype="DOUBLE")
    os.mkfifo(root / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(root):
        bound.bind("socket.wav")
    (root / "zeros.wav").symlink_to("/dev/zero")
    (root / "dangling.wav").symlink_to(root / "nowhere.wav")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    (root / "folder.wav").mkdir()
    return {
        "fast.wav": "from 16000000 Hz to 8000 Hz: the rates differ by a factor of more than 1000",
        "slow.wav": "from 1 Hz to 8000 Hz: the rates differ by a factor of more than 1000",
        "no_rate.wav": "cannot be read as audio",
        "no_channels.wav": "cannot be read as audio",
        "empty_promise.flac": "is empty (0 samples)",
        "inf.wav": "1 samples that are NaN or infinite",
        "vast.wav": "1 samples that are NaN or infinite",
        "pipe.wav": "is a pipe, a socket or a device",
        "socket.wav": "is a pipe, a socket or a device",
        "zeros.wav": "is a pipe, a socket or a device",
        "dangling.wav": "is a link to what does not exist",
        "loop.wav": "is a link to what does not exist",
        "folder.wav": "is a folder",
    }


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


PREPARE_IN_LITTLE_MEMORY = """
import logging, resource
logging.basicConfig(format="%(message)s", level=logging.INFO)
memory = 16 << 30  # address space; a plain import takes some
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
data = tiny_corpora.prepared(sys.argv[1])
print([(clip.path, clip.length) for clip in data.clips("train")])
"""


def test_no_bad_file_stops_the_others_and_each_is_named_and_counted(tmp_path: Path) -> None:
    said = write_bad_files(tmp_path)
    write_tone(tmp_path / "good.wav")
    write_wav_header(tmp_path / "many.wav", channels=255)
    write_promise(tmp_path / "promise.flac")
    process = run(PREPARE_IN_LITTLE_MEMORY, str(tmp_path))
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    lines = output.splitlines()
    assert lines[-1] == "[('good.wav', 400), ('many.wav', 1000), ('promise.flac', 5000)]"
    assert f"3 clips, 0:00:01 at 8000 Hz, {len(said)} skipped, 0 labels; train 3." in lines
    skipped = [line for line in lines if line.startswith("Skipped: ")]
    assert len(skipped) == len(said)
    for name, reason in said.items():
        assert [reason in line for line in skipped if f"/{name}'" in line] == [True], name
    assert any("promise.flac' is cut short" in line for line in lines)


def test_a_corpus_of_bad_files_alone_is_a_clear_error(tmp_path: Path) -> None:
    count = len(write_bad_files(tmp_path))
    with pytest.raises(ValueError, match=rf"None of the {count} audio files for .* can be used:\n"):
        unprepared(tmp_path).prepare()


def test_files_that_vanish_while_preparing_are_skipped_by_name(
    ramps: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decode = preparing.decode_clip

    def vanish_first(path: Path, settings: decoding.DecodeSettings) -> decoding.Decoded:
        if path.parent.name in ("3", "7"):
            path.unlink()
        return decode(path, settings)

    monkeypatch.setattr(preparing, "decode_clip", vanish_first)
    assert len(prepared(ramps).clips("train")) == len(LENGTHS) - 2
    assert [line.split("/")[-2] for line in warnings_of(caplog)] == ["3", "7"]


def test_a_file_that_may_not_be_read_is_skipped_by_name() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.wav")
        write_tone(path)
        os.chmod(folder, 0o755)
        path.chmod(0)
        user = os.geteuid()
        if user == 0:  # who may read everything
            os.seteuid(65534)
        try:
            decoded = decoding.decode_clip(path, decoding.DecodeSettings(8000))
        finally:
            os.seteuid(user)
    assert decoded.skipped == f"'{path}' cannot be opened: Permission denied."


def test_a_file_that_memory_does_not_hold_is_skipped_by_name(
    ramps: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = decoding.read_audio

    def short_of_memory(path: Path) -> tuple[torch.Tensor, int]:
        if path.parent.name == "4":
            raise MemoryError
        return read(path)

    monkeypatch.setattr(decoding, "read_audio", short_of_memory)
    assert len(prepared(ramps).clips("train")) == len(LENGTHS) - 1
    (warning,) = warnings_of(caplog)
    assert "4/clip.wav': there is not enough memory for all of it; split it" in warning


def test_a_file_longer_than_the_limit_is_skipped_as_it_is_or_resampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wavenet.audio.READ_BLOCK", 256)
    monkeypatch.setattr("wavenet.audio.LONGEST", 1000)
    for length in (1000, 1001):
        soundfile.write(tmp_path / f"{length}.wav", np.zeros(length), 8000)
    soundfile.write(tmp_path / "slow.wav", np.zeros(501), 4000)
    assert [clip.path for clip in prepared(tmp_path).clips("train")] == ["1000.wav"]
    long, slow = warnings_of(caplog)
    assert "1001.wav' holds more than 1,000 samples (channels times time)" in long
    assert "slow.wav'" in slow and "at most 1,000 are possible" in slow
