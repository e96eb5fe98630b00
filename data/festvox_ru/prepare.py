"""Owns preparing festvox-ru: wavs/, transcripts.txt and a metadata.csv with path and split.

    apt-get download festvox-ru && dpkg-deb -x festvox-ru_*.deb festvox-ru
    python data/festvox_ru/prepare.py --source festvox-ru --out DIR

620 read Russian sentences of one speaker, 99.5 minutes, 16 kHz 16-bit mono, from the Festival voice
of Nickolay V. Shmyrev (2005), under a BSD-like licence whose notice is kept as LICENCE.txt. The
corpus has no splits: the clips are ordered by a hash of their names, the first 5% is for test and
the next 5% for val, the same clips every time.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.layout import (
    METADATA,
    link,
    publish,
    require_apart,
    run,
    source_parser,
    splits_by_name,
    staging,
    summary,
    write_metadata,
)

COLUMNS = ("path", "split")
CLIPS = 620
HELD_OUT = 0.05  # the share of val and of test: 31 clips, 5 minutes
VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"
LICENCE = "usr/share/doc/festvox-ru/copyright"


def recordings(source: Path) -> list[Path]:
    """The wav files of the unpacked package, of the voice's folder, or of its folder wav."""
    for place in (source / VOICE / "wav", source / "wav", source):
        found = sorted(place.glob("ru_*.wav"))
        if found:
            return found
    raise ValueError(
        f"{source} holds no recordings: there is neither {VOICE}/wav nor a file ru_*.wav in it. "
        "Give --source the folder that the package was unpacked to: dpkg-deb -x festvox-ru_*.deb "
        "FOLDER."
    )


def prepare(out: Path, source: Path) -> None:
    """Writes wavs/, metadata.csv, the transcripts and the licence to `out`."""
    require_apart(out, source)
    with staging(out) as stage:
        rows = build(source, stage)
        publish(stage, out)
    print(summary(rows, out, CLIPS))


def build(source: Path, stage: Path) -> list[tuple[str, str]]:
    """Links the files into `stage` and writes metadata.csv there. Returns its rows."""
    clips = recordings(source)
    split = splits_by_name([path.name for path in clips], HELD_OUT)
    for path in clips:
        link(path, stage / "wavs" / path.name)
    transcripts = clips[0].parent.parent / "etc" / "txt.done.data"
    for path, name in ((transcripts, "transcripts.txt"), (source / LICENCE, "LICENCE.txt")):
        if path.is_file():
            link(path, stage / name)
    rows = [(f"wavs/{path.name}", split[path.name]) for path in clips]
    write_metadata(stage / METADATA, COLUMNS, rows)
    return rows


def main() -> None:
    args = source_parser(
        "festvox-ru with a metadata.csv of splits.", "the unpacked package"
    ).parse_args()
    prepare(args.out, args.source)


if __name__ == "__main__":
    run(main)
