"""Owns preparing Speech Commands v0.02: a metadata.csv next to the folders of the words.

    python data/speech_commands/prepare.py --out DIR [--source DIR] [--words zero one ... | all]

torchaudio downloads and unpacks the corpus (2.3 GB, 3.4 GB unpacked); its item loading is not used
because it needs torchcodec. The default words are the ten digits (SC09). metadata.csv has the
columns path, split, word and speaker; the splits are the corpus's own lists. With --source, an
unpacked copy is linked instead of downloaded.
"""

import sys
import tarfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.layout import (
    METADATA,
    UNPACKED,
    counts,
    link,
    publish,
    run,
    source_parser,
    staging,
    torchaudio_class,
    write_metadata,
)

SC09 = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLUMNS = ("path", "split", "word", "speaker")
LISTS = {"validation_list.txt": "val", "testing_list.txt": "test"}
SPEAKER_ENDS = "_nohash_"  # SPEAKER_nohash_REPETITION.wav; not in the names of noise recordings
URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"


def unpacked(place: Path) -> bool:
    """Whether `place` has the complete corpus: its lists are published last."""
    return all((place / name).is_file() for name in LISTS)


def download(out: Path) -> None:
    """Downloads and unpacks the corpus into `out`. Raises ValueError if that fails."""
    corpus = torchaudio_class("SPEECHCOMMANDS")
    with staging(out) as stage:
        try:
            corpus(stage, download=True)
        except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError) as error:
            raise ValueError(
                f"could not download Speech Commands ({error}). Check the network and run the same "
                f"command again, or download {URL} yourself, unpack it, and add --source FOLDER."
            ) from error
        publish(stage / "SpeechCommands" / "speech_commands_v0.02", out)


def splits(source: Path) -> dict[str, str]:
    """Path in the corpus -> val or test, from the corpus's lists; all other clips are train."""
    return {
        line.strip(): split
        for name, split in LISTS.items()
        for line in (source / name).read_text(encoding="utf-8").splitlines()
        if line.strip()
    }


def metadata(source: Path, words: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """One row (path, split, word, speaker) for each utterance of the words, sorted by path."""
    available = sorted({path.parent.name for path in source.glob(f"*/*{SPEAKER_ENDS}*.wav")})
    words = available if list(words) == ["all"] else words
    absent = [word for word in words if word not in available]
    if absent or not available:
        choice = ", ".join(available) or "(no word found: is this the corpus?)"
        raise ValueError(
            f"{source} has no recordings of {', '.join(absent) or 'any word'}. "
            f"Choose --words from: {choice}."
        )
    split = splits(source)
    names = sorted(
        f"{word}/{path.name}"
        for word in set(words)
        for path in (source / word).glob(f"*{SPEAKER_ENDS}*.wav")
    )
    return [(name, split.get(name, "train"), *_word_and_speaker(name)) for name in names]


def _word_and_speaker(name: str) -> tuple[str, str]:
    word, file = name.split("/")
    return word, file.split(SPEAKER_ENDS)[0]


def prepare(out: Path, source: Path | None = None, words: Sequence[str] = SC09) -> None:
    """Puts the recordings of the words and metadata.csv into `out`.

    Downloads the corpus if there is no `source` and `out` does not have it.
    """
    if source is None and not unpacked(out):
        download(out)
    source = source or out
    if not unpacked(source):
        raise ValueError(
            f"{source} lacks {' or '.join(LISTS)}. "
            "Give --source the folder that holds them and the words."
        )
    rows = metadata(source, words)
    if source == out:
        write_metadata(out / METADATA, COLUMNS, rows)
    else:
        _link_all(source, out, rows)
    shown = counts([split for _, split, *_ in rows])
    print(f"{len(rows)} utterances, {len({row[2] for row in rows})} words in {out}: {shown}")


def _link_all(source: Path, out: Path, rows: list[tuple[str, str, str, str]]) -> None:
    with staging(out) as stage:
        for path, *_ in rows:
            link(source / path, stage / path)
        write_metadata(stage / METADATA, COLUMNS, rows)
        publish(stage, out)


def main() -> None:
    description = "Speech Commands v0.02 with a metadata.csv of words and speakers."
    parser = source_parser(description, UNPACKED, needed=False)
    parser.add_argument(
        "--words", nargs="+", default=SC09, help="words to list, or all (default: zero to nine)"
    )
    args = parser.parse_args()
    prepare(args.out, args.source, args.words)


if __name__ == "__main__":
    run(main)
