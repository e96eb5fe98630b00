"""Owns preparing LJ Speech 1.1: wavs/ and a metadata.csv with the columns path and split.

    python data/ljspeech/prepare.py --out DIR [--source DIR]

torchaudio downloads and unpacks the corpus (2.6 GB, 3.6 GB unpacked); its item loading is not used
because it needs torchcodec. The corpus's own metadata.csv, the transcripts, is kept as
transcripts.csv. The corpus has no splits: the clips are ordered by a hash of their names, the
first 1% is for test and the next 1% for val, the same clips every time. With --source, an unpacked
copy is linked instead of downloaded.
"""

import sys
import tarfile
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.layout import (
    METADATA,
    UNPACKED,
    link,
    publish,
    run,
    source_parser,
    splits_by_name,
    staging,
    summary,
    torchaudio_class,
    write_metadata,
)

COLUMNS = ("path", "split")
TRANSCRIPTS = "transcripts.csv"
CLIPS = 13_100
HELD_OUT = 0.01  # the share of val and of test: 131 clips, about 14 minutes
URL = "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2"


def download(into: Path) -> Path:
    """Downloads and unpacks the corpus into `into`. Raises ValueError if that fails."""
    corpus = torchaudio_class("LJSPEECH")
    try:
        corpus(into, download=True)
    except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError) as error:
        raise ValueError(
            f"could not download LJ Speech ({error}). Check the network and run the same command "
            f"again, or download {URL} yourself, unpack it, and add --source FOLDER."
        ) from error
    return into / "LJSpeech-1.1"


def recordings(source: Path) -> list[Path]:
    """The wav files in source/wavs, or in `source` itself."""
    for place in (source / "wavs", source):
        found = sorted(place.glob("*.wav"))
        if found:
            return found
    raise ValueError(
        f"{source} holds no wav files, and it has no folder wavs with wav files. "
        "Give --source the LJSpeech-1.1 folder."
    )


def splits(names: list[str]) -> dict[str, str]:
    """Clip name -> train, val or test; see `splits_by_name`."""
    return splits_by_name(names, HELD_OUT)


def prepare(out: Path, source: Path | None = None) -> None:
    """Writes wavs/, metadata.csv and transcripts.csv to `out`; downloads the corpus if needed."""
    if source is not None and (source == out or source in out.parents):
        raise ValueError(
            f"--out {out} is --source or inside it, and would replace the metadata.csv of the "
            "corpus. Choose another folder for --out."
        )
    if source is None and is_prepared(out):
        print(f"{out} is prepared already")
        return
    with staging(out) as stage:
        corpus = source or download(stage.parent)
        rows = build(corpus, stage)
        publish(stage, out)
    print(summary(rows, out, CLIPS))


def is_prepared(out: Path) -> bool:
    """Whether this script has finished in `out`: metadata.csv is published after the audio."""
    path = out / METADATA
    return path.is_file() and path.read_text(encoding="utf-8").startswith(",".join(COLUMNS))


def build(corpus: Path, stage: Path) -> list[tuple[str, str]]:
    """Links the clips and transcripts of `corpus` into `stage`, and writes metadata.csv there.

    Returns the rows of metadata.csv.
    """
    clips = recordings(corpus)
    split = splits([path.name for path in clips])
    for path in clips:
        link(path, stage / "wavs" / path.name)
    transcripts = (
        clips[0].parent.parent / METADATA if clips[0].parent.name == "wavs" else corpus / METADATA
    )
    if transcripts.is_file():
        link(transcripts, stage / TRANSCRIPTS)
    rows = [(f"wavs/{path.name}", split[path.name]) for path in clips]
    write_metadata(stage / METADATA, COLUMNS, rows)
    return rows


def main() -> None:
    description = "LJ Speech 1.1 with a metadata.csv of splits."
    args = source_parser(description, UNPACKED, needed=False).parse_args()
    prepare(args.out, args.source)


if __name__ == "__main__":
    run(main)
