"""Owns corpora of long recordings cut into excerpts, as the audio baselines of S4 use them.

The files are taken in natural order (out2.wav before out10.wav): the first 88% are for training,
the next 6% for validation, the rest for testing. Each is cut into excerpts of one length from its
beginning; what is left at its end is dropped. So has the code of the SaShiMi paper (Goel et al.
2022) it. Knows nothing of particular corpora.
"""

import re
import sys
from pathlib import Path

import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.layout import (
    METADATA,
    counts,
    link,
    publish,
    require_apart,
    source_parser,
    staging,
    write_metadata,
)

COLUMNS = ("path", "split")
TRAINING, HELD_OUT = 0.88, 0.06  # of the files: training, and each of validation and test


def in_natural_order(paths: list[Path]) -> list[Path]:
    def key(path: Path) -> list[tuple[bool, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]

    return sorted(paths, key=key)


def splits(count: int) -> list[str]:
    """The split of each of `count` files in order. Raises ValueError where one gets none."""
    first, second = int(TRAINING * count), int((TRAINING + HELD_OUT) * count)
    names = ["train"] * first + ["val"] * (second - first) + ["test"] * (count - second)
    if len(set(names)) < 3:
        raise ValueError(
            f"Of {count} recordings, splits of 88%, 6% and 6% leave one without any. Is the copy "
            "complete?"
        )
    return names


def cut(path: Path, samples: int, out: Path) -> list[str]:
    """The excerpts of one file in `out`, by name. One that is an excerpt already is linked."""
    with soundfile.SoundFile(path) as file:
        if file.frames == samples and path.suffix == ".wav":
            link(path, out / path.name)
            return [path.name]
        names = [f"{path.stem}_{i:03d}.wav" for i in range(file.frames // samples)]
        for name in names:
            soundfile.write(out / name, file.read(samples), file.samplerate, file.subtype)
    return names


def prepare(source: Path, out: Path, samples: int, full: int) -> None:
    """Writes audio/ and metadata.csv to `out`, of the wav files in `source`.

    full: recordings that the whole corpus has.
    """
    require_apart(out, source)
    recordings = in_natural_order(list(source.glob("*.wav")))
    if not recordings:
        raise ValueError(f"{source} holds no wav files. Give --source the unpacked corpus.")
    with staging(out) as stage:
        (stage / "audio").mkdir()
        rows = [
            (f"audio/{name}", split)
            for path, split in zip(recordings, splits(len(recordings)), strict=True)
            for name in cut(path, samples, stage / "audio")
        ]
        write_metadata(stage / METADATA, COLUMNS, rows)
        publish(stage, out)
    missing = f" (the full corpus has {full})" if len(recordings) != full else ""
    shown = counts([split for _, split in rows])
    print(f"{len(recordings)} recordings{missing}, {len(rows)} excerpts in {out}: {shown}")


def command(description: str, samples: int, full: int) -> None:
    parser = source_parser(description, "the unpacked corpus")
    parser.add_argument(
        "--samples", type=int, default=samples, help="of an excerpt (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.samples < 1:
        raise ValueError(f"--samples must be at least 1, but got {args.samples}.")
    prepare(args.source, args.out, args.samples, full)
