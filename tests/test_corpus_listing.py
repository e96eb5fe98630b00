"""Properties of a corpus's list: what is found, labelled and split, and what is refused."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_corpora import prepared, unprepared, write_tone

from wavenet.corpus import find_audio, hold_out, patterns, preparing


def refuse(*args: object) -> Any:
    raise AssertionError("decoded")


def test_audio_is_found_recursively_by_any_case_of_suffix_and_hidden_files_are_not(
    tmp_path: Path,
) -> None:
    names = ["a.wav", "b/c.FLAC", "b/d/e.ogg", "f.mp3", "g.aiff", "h.AIF"]
    for name in [*names, "notes.txt", "._a.wav", ".wavenet-cache/x.wav", "b/.hidden/y.wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert find_audio(tmp_path) == sorted(names)


def test_a_folder_that_may_not_be_opened_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as root:
        for name in ("open", "shut"):
            write_tone(Path(root, name, "a.wav"))
        os.chmod(root, 0o755)
        Path(root, "shut").chmod(0)
        user = os.geteuid()
        if user == 0:  # who may open everything
            os.seteuid(65534)
        try:
            assert find_audio(Path(root)) == ["open/a.wav"]
        finally:
            os.seteuid(user)
            Path(root, "shut").chmod(0o755)
    assert [record.message for record in caplog.records] == [
        f"Skipped: '{root}/shut' cannot be opened: Permission denied."
    ]


def test_labels_come_from_named_groups_of_the_path(tmp_path: Path) -> None:
    for name in ("10_ann_0.wav", "9_bob_0.wav", "2_ann_1.wav"):
        write_tone(tmp_path / "deep" / name)
    data = prepared(tmp_path, label_pattern=r"(?P<digit>\d+)_(?P<speaker>[a-z]+)_")
    assert data.labels == {"digit": ["2", "9", "10"], "speaker": ["ann", "bob"]}
    assert {clip.path: clip.labels for clip in data.clips("train")} == {
        "deep/10_ann_0.wav": {"digit": "10", "speaker": "ann"},
        "deep/2_ann_1.wav": {"digit": "2", "speaker": "ann"},
        "deep/9_bob_0.wav": {"digit": "9", "speaker": "bob"},
    }


def test_labels_come_from_the_parent_folder_over_all_splits(tmp_path: Path) -> None:
    for name in ("x/ann/0.wav", "bob/0.wav", "bob/1.wav"):
        write_tone(tmp_path / name)
    data = prepared(tmp_path, label_from_folder="speaker", val_pattern="ann")
    assert data.labels == {"speaker": ["ann", "bob"]}
    assert [clip.labels for clip in data.clips("train")] == [{"speaker": "bob"}] * 2
    assert data.whole_clips("val", 16)[0]["labels"]["speaker"].tolist() == [0]


def test_labels_and_splits_come_from_a_csv_and_only_its_files_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.wav", "b/c.wav", "d.wav", "unlisted.wav"):
        write_tone(tmp_path / name)
    table = "\ufeffpath,split,note,player\na.wav,train,C4,ann\n./b/c.wav,val,D4,bob\n"
    table += "d.wav,test,C4,bob\ngone.wav,train,E4,x\n"
    (tmp_path / "clips.csv").write_text(table, encoding="utf-8")
    with caplog.at_level(logging.INFO, "wavenet"):
        data = prepared(tmp_path, metadata="clips.csv")
    assert data.labels == {"note": ["C4", "D4"], "player": ["ann", "bob"]}
    splits = {
        split: [clip.path for clip in data.clips(split)] for split in ("train", "val", "test")
    }
    assert splits == {"train": ["a.wav"], "val": ["b/c.wav"], "test": ["d.wav"]}
    assert (
        "gone.wav' does not exist" in caplog.text
        and "3 clips" in caplog.text
        and "1 skipped" in caplog.text
    )


def test_a_csv_without_split_or_label_columns_leaves_them_to_the_settings(tmp_path: Path) -> None:
    for name in ("a_1.wav", "b_2.wav"):
        write_tone(tmp_path / name)
    (tmp_path / "clips.csv").write_text("path\na_1.wav\nb_2.wav\n")
    data = prepared(
        tmp_path,
        metadata=str(tmp_path / "clips.csv"),
        label_pattern=r"(?P<take>\d)",
        val_pattern="^b",
    )
    assert data.labels == {"take": ["1", "2"]}
    assert [clip.path for clip in data.clips("val")] == ["b_2.wav"]


def test_test_clips_are_never_validated_on(tmp_path: Path) -> None:
    for number in range(6):
        write_tone(tmp_path / f"{number}.wav")
    data = prepared(tmp_path, test_pattern="[01]", val_pattern="[12]")
    splits = {
        split: [clip.path[0] for clip in data.clips(split)] for split in ("train", "val", "test")
    }
    assert splits == {"train": ["3", "4", "5"], "val": ["2"], "test": ["0", "1"]}


def test_the_held_out_fraction_depends_on_each_path_alone() -> None:
    paths = [f"clip{number}.wav" for number in range(200)]
    held = hold_out(paths, 0.1)
    assert len(held) == 20 and held == hold_out(paths[::-1], 0.1)
    assert len(hold_out(paths[:101], 0.1)) == 11, "rounded up"
    fewer = hold_out(paths[:-20], 0.1)
    assert len(held ^ (fewer | (held & set(paths[-20:])))) <= 2, (
        "taking files away hardly moves the others"
    )
    assert hold_out(paths[:2], 0.99) < set(paths[:2]) and hold_out(
        paths[:1], 0.5
    ) == set() == hold_out([], 0.5)


def test_label_names_choose_among_the_labels_found(tmp_path: Path) -> None:
    for name in ("0_ann_0.wav", "1_bob_1.wav", "0_bob_2.wav"):
        soundfile.write(tmp_path / name, 0.1 * np.random.default_rng(0).standard_normal(400), 8000)
    pattern = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_"
    settings = {"label_pattern": pattern}
    assert unprepared(tmp_path, **settings, label_names=["speaker"]).labels == {
        "speaker": ["ann", "bob"]
    }
    assert unprepared(tmp_path, **settings, label_names=[]).labels == {}
    with pytest.raises(ValueError, match=r"\['note'\].*\['digit', 'speaker'\]"):
        _ = unprepared(tmp_path, **settings, label_names=["note"]).labels


# --- What is refused --------------------------------------------------------------------------


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere' does not exist"):
        unprepared(tmp_path / "nowhere").prepare()


def test_a_root_without_audio_is_refused_with_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no audio \(.wav .*: it is empty"):
        unprepared(tmp_path).prepare()
    (tmp_path / "a.m4a").touch()
    with pytest.raises(ValueError, match=r"holds no audio \(.wav .*: it holds 1 of .m4a"):
        unprepared(tmp_path).prepare()


@pytest.mark.parametrize(
    ("settings", "split", "remedy"),
    [
        ({}, "val", "Set --data.val_fraction .now 0.0. higher"),
        ({"val_pattern": "nothing"}, "val", "Change --data.val_pattern"),
        ({"val_pattern": "."}, "train", "Change --data.val_pattern"),
        ({}, "test", "Set --data.test_pattern"),
        ({"metadata": "clips.csv"}, "test", "clips.csv' the split test"),
        ({}, "valid", "one of train, val, test"),
    ],
)
def test_an_empty_split_says_what_to_change(
    tmp_path: Path, settings: dict[str, str], split: str, remedy: str
) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text("path,split\na.wav,train\n")
    data = prepared(tmp_path, **settings)
    with pytest.raises(ValueError, match=remedy):
        data.clips(split)


def test_a_label_pattern_that_misses_names_files_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1_a.wav", "x.wav", "y.wav"):
        write_tone(tmp_path / name)
    monkeypatch.setattr(preparing, "decode_clip", refuse)
    for pattern in (r"(?P<digit>\d)_", r"(?P<digit>\d)?.*\.wav"):
        with pytest.raises(
            ValueError, match=r"misses 2 of 3 files, such as 'x.wav', 'y.wav'"
        ) as raised:
            unprepared(tmp_path, label_pattern=pattern).prepare()
        assert repr(pattern) in str(raised.value)


@pytest.mark.parametrize("setting", ["label_pattern", "val_pattern", "test_pattern"])
def test_a_pattern_that_would_never_end_is_stopped_and_names_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 2.0)
    for name in ("b.wav", "b" + "a" * 200 + ".wav", "c.wav"):
        write_tone(tmp_path / name)
    pattern = r"(?P<x>b)((a+)+c|\.)"
    with pytest.raises(ValueError, match=r"in 3 names for 2 seconds and stood at") as raised:
        unprepared(tmp_path, **{setting: pattern}).prepare()
    assert f"--data.{setting} {pattern!r} was searched" in str(raised.value)
    assert f"stood at 'b{'a' * 200}.wav'. It tries" in str(raised.value)


@pytest.mark.parametrize("pattern", ["(?P<x>a", "(?P<x>a{99999999999})", "(" * 9999 + ")" * 9999])
def test_what_is_no_regular_expression_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"--data.val_pattern .* is not a regular expression: "):
        unprepared(tmp_path, val_pattern=pattern)


def test_names_that_are_no_text_have_labels_too(tmp_path: Path) -> None:
    write_tone(tmp_path / "x.wav")
    os.rename(tmp_path / "x.wav", os.fsencode(tmp_path) + b"/\xe9_1.wav")
    data = prepared(tmp_path, label_pattern=r"^(?P<letter>.)_(?P<take>\d)")
    assert data.labels == {"letter": ["\udce9"], "take": ["1"]}


def test_a_file_without_a_folder_has_no_folder_label(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"1 of 1 files lie directly in the root, such as 'a.wav'"):
        unprepared(tmp_path, label_from_folder="speaker").prepare()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\na.wav,x\n", "needs one named 'path'"),
        ("", "is empty or begins with an empty line; its first line names the columns"),
        ("\npath\na.wav\n", "begins with an empty line"),
        ("path,x,path\na.wav,1,b.wav\n", "line 1 has the column 'path' 2 times"),
        ("path,x, x\na.wav,1,2\n", "line 1 has the column 'x' 2 times"),
        ("path,,x\na.wav,1,2\n", "line 1 has a column without a name"),
        ("path,x\na.wav\n", "line 2 has no value for x"),
        ('path,x\n"a.wav,1\nb.wav,2\n', "line 3 cannot be read as CSV.*not closed"),
        ("path,x\na.wav," + "y" * 131_073, "line 2 cannot be read as CSV.*131072"),
        ("path\n../a.wav\n", r"line 2 has the path '\.\./a.wav', which leaves --data.root"),
        ("path\na.wav\nb/../../a.wav\n", "line 3 has the path .*, which leaves --data.root"),
        ("path\n..\\\\a.wav\n", "line 2 has the path .*, which leaves --data.root"),
        ("path\n/etc/a.wav\n", "line 2 has the path '/etc/a.wav', which leaves --data.root"),
        ("path\nb/..\n", "line 2 has the path 'b/..', which leaves --data.root"),
        ("path\n" + "n" * 256, "line 2 has a path that no file can have.*256 bytes.*255"),
        ("path\n" + "n/" * 2100 + "a.wav", "line 2 has a path that no file can have.*4000"),
        ("path,label\n", "lists no files"),
        (
            "path,split\na.wav,training\n",
            "line 2 has the split 'training'; write train, val or test",
        ),
        ("path,label\na.wav,\n", "line 2 has no value for label"),
        ("path,label\na.wav,x,y\n", "more values than the header"),
        ("path,label\na.wav,x\na.wav,y\n", "line 3 lists 'a.wav' a second time"),
        ("path\t\na.wav\tx\n", r"has the columns .'path.+'., but needs one named 'path'"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_refused(tmp_path: Path, table: str, message: str) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        unprepared(tmp_path, metadata="clips.csv").prepare()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path\na.wav\n".encode("utf-16"), "clips.csv' is in UTF-16; save it again as UTF-8"),
        ("path,x\na.wav,é\n".encode("latin-1"), r"clips.csv' line 2 is not in UTF-8 .byte 0xe9"),
        (b"path,x\na.wav,y\nb\0.wav,z\n", "clips.csv' line 3 has a NUL byte"),
    ],
)
def test_a_csv_that_is_no_text_in_utf_8_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes, message: str
) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "clips.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        unprepared(tmp_path, metadata="clips.csv").prepare()


def test_a_csv_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_tone(tmp_path / name)
    table = '\ufeffpath, note \r\na.wav,"C, é"\r\n\r\nb.wav,"D""\u2028s"\r\n'
    (tmp_path / "clips.csv").write_bytes(table.encode())
    assert prepared(tmp_path, metadata="clips.csv").labels == {"note": ["C, é", 'D"\u2028s']}


def test_links_may_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_tone(tmp_path / "elsewhere" / "a.wav")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "b.wav").symlink_to(tmp_path / "elsewhere" / "a.wav")
    (root / "clips.csv").write_text("path\nlinked/a.wav\nb.wav\n")
    for settings in ({}, {"metadata": "clips.csv"}):
        clips = prepared(root, **settings).clips("train")
        assert [clip.path for clip in clips] == ["b.wav", "linked/a.wav"]


def test_what_a_csv_lists_and_is_no_file_is_skipped_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tone(tmp_path / "a.wav")
    (tmp_path / "b.wav").mkdir()
    os.mkfifo(tmp_path / "c.wav")
    (tmp_path / "clips.csv").write_text("path\na.wav\nb.wav\nc.wav\ngone.wav\na.wav/d.wav\n")
    assert [clip.path for clip in prepared(tmp_path, metadata="clips.csv").clips("train")] == [
        "a.wav"
    ]
    warned = [record.message for record in caplog.records]
    for name, reason in {
        "a.wav/d.wav": "does not exist",
        "b.wav": "is a folder",
        "c.wav": "is a pipe, a socket or a device",
        "gone.wav": "does not exist",
    }.items():
        assert any(f"/{name}' {reason}" in line for line in warned), name
    assert len([line for line in warned if line.startswith("Skipped")]) == 4, warned


@pytest.mark.parametrize(
    ("table", "settings", "message"),
    [
        ("path,label\na.wav,x\n", {"label_from_folder": "b"}, "labels come from one of them"),
        ("path,split\na.wav,val\n", {"val_pattern": "a"}, "has a split column"),
        (None, {}, "neither in the working folder nor in"),
    ],
)
def test_a_csv_and_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, table: str | None, settings: dict[str, str], message: str
) -> None:
    write_tone(tmp_path / "a.wav")
    if table is not None:
        (tmp_path / "clips.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        unprepared(tmp_path, metadata="clips.csv", **settings).prepare()
