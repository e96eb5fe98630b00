"""Owns preparing VCTK 0.92: audio/ and a metadata.csv with the columns path, split and speaker.

    python data/vctk/prepare.py --out DIR [--source DIR]

110 English speakers, 48 kHz, two microphones, of which the first is taken. torchaudio downloads and
unpacks the corpus (11 GB, 22 GB unpacked). It has no splits: each speaker's clips are ordered by a
hash of their names, the first 1% is for test and the next 1% for val, at least one clip each. With
--source, an unpacked copy is linked instead of downloaded.
"""

import sys
import zipfile
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.layout import (
    METADATA,
    UNPACKED,
    counts,
    link,
    publish,
    require_apart,
    run,
    source_parser,
    splits_by_name,
    staging,
    torchaudio_class,
    write_metadata,
)

COLUMNS = ("path", "split", "speaker")
AUDIO = "wav48_silence_trimmed"
MICROPHONE = "_mic1.flac"
SPEAKERS = 110
HELD_OUT = 0.01
URL = "https://datashare.ed.ac.uk/handle/10283/3443"


def download(into: Path) -> Path:
    """Downloads and unpacks the corpus into `into`. Raises ValueError if that fails."""
    corpus = torchaudio_class("VCTK_092")
    try:
        corpus(str(into), download=True)
    except (OSError, RuntimeError, EOFError, HTTPException, zipfile.BadZipFile) as error:
        raise ValueError(
            f"could not download VCTK ({error}). Check the network and run the same command again, "
            f"or download VCTK-Corpus-0.92.zip from {URL} yourself, unpack it, and add --source "
            "FOLDER."
        ) from error
    return into / "VCTK-Corpus-0.92"


def recordings(source: Path) -> dict[str, list[Path]]:
    """Speaker -> their clips of the first microphone. Raises ValueError without any."""
    for place in (source / AUDIO, source):
        found = sorted(place.glob(f"*/*{MICROPHONE}"))
        if found:
            speakers = sorted({path.parent.name for path in found})
            return {name: [x for x in found if x.parent.name == name] for name in speakers}
    raise ValueError(
        f"{source} holds no recordings: there is no file SPEAKER/..{MICROPHONE} in it or in its "
        f"folder {AUDIO}. Give --source the VCTK-Corpus-0.92 folder."
    )


def build(corpus: Path, stage: Path) -> list[tuple[str, str, str]]:
    """Links the clips into `stage` and writes metadata.csv there. Returns its rows."""
    rows = []
    for speaker, clips in recordings(corpus).items():
        split = splits_by_name([path.name for path in clips], HELD_OUT)
        for path in clips:
            link(path, stage / "audio" / speaker / path.name)
            rows.append((f"audio/{speaker}/{path.name}", split[path.name], speaker))
    write_metadata(stage / METADATA, COLUMNS, rows)
    return rows


def prepare(out: Path, source: Path | None = None) -> None:
    """Writes audio/ and metadata.csv to `out`; downloads the corpus if needed."""
    if source is not None:
        require_apart(out, source)
    if source is None and (out / METADATA).is_file():
        print(f"{out} is prepared already")
        return
    with staging(out) as stage:
        rows = build(source or download(stage.parent), stage)
        publish(stage, out)
    speakers = len({speaker for *_, speaker in rows})
    missing = f" (the full corpus has {SPEAKERS})" if speakers != SPEAKERS else ""
    shown = counts([split for _, split, _ in rows])
    print(f"{len(rows)} clips of {speakers} speakers{missing} in {out}: {shown}")


def main() -> None:
    description = "VCTK 0.92 with a metadata.csv of speakers."
    args = source_parser(description, UNPACKED, needed=False).parse_args()
    prepare(args.out, args.source)


if __name__ == "__main__":
    run(main)
