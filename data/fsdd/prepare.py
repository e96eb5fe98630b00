"""Owns preparing a copy of the Free Spoken Digit Dataset. Downloads nothing.

    python data/fsdd/prepare.py --source DIR --out DIR

The corpus already has the layout that the data module reads: its `recordings/` folder can be the
data root. This script checks a copy, leaves out files that are not recordings, and links the
others. The file names contain labels and splits:

    label_pattern: (?P<digit>\\d)_(?P<speaker>[a-z]+)_\\d+\\.wav
    val_pattern:   _[5-9]\\.wav$      test_pattern: _[0-4]\\.wav$ (the corpus's own test split)
"""

import argparse
import re
import sys
from pathlib import Path

import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.layout import counts, folder, link, publish, run, staging

LABEL_PATTERN = r"(?P<digit>\d)_(?P<speaker>[a-z]+)_\d+\.wav"
HOME = "https://github.com/Jakobovski/free-spoken-digit-dataset"


def split_of(name: str) -> str:
    """The split of a recording by its index: 0 to 4 test, 5 to 9 val, 10 and up train."""
    index = int(name.removesuffix(".wav").rsplit("_", 1)[1])
    return "test" if index < 5 else "val" if index < 10 else "train"


def recordings(source: Path) -> list[Path]:
    """The recordings in `source` or in its recordings/ folder. Raises ValueError without any."""
    for place in (source, source / "recordings"):
        found = sorted(
            path for path in place.glob("*.wav") if re.fullmatch(LABEL_PATTERN, path.name)
        )
        if found:
            return found
    raise ValueError(
        f"{source} holds no DIGIT_SPEAKER_INDEX.wav, such as 7_jackson_32.wav, and neither does a "
        f"folder recordings in it. The corpus is at {HOME}: git clone it, then add "
        "--source free-spoken-digit-dataset."
    )


def readable(path: Path) -> bool:
    """Whether a file opens as audio and is not empty; otherwise prints a warning on stderr."""
    try:
        frames = soundfile.info(path).frames
    except soundfile.SoundFileError:
        frames = 0
    if not frames:
        print(f"warning: left out {path.name}: empty, or not audio", file=sys.stderr)
    return bool(frames)


def prepare(source: Path | None, out: Path) -> None:
    """Links every readable recording of `source` into `out` and prints a summary."""
    if source is None:
        raise ValueError(
            f"this script does not download the corpus. Run `git clone {HOME}`, then "
            f"`python data/fsdd/prepare.py --source free-spoken-digit-dataset --out {out}`."
        )
    if not source.is_dir():
        raise ValueError(
            f"--source {source} is not a folder. Give the folder that holds the recordings."
        )
    names = [path for path in recordings(source) if readable(path)]
    if not names:
        raise ValueError(f"No recording in {source} can be read. Clone the corpus again: {HOME}.")
    if names[0].parent != out:
        with staging(out) as stage:
            for path in names:
                link(path, stage / path.name)
            publish(stage, out)
    print(summary([path.name for path in names], out))


def summary(names: list[str], out: Path) -> str:
    digits = {name.split("_")[0] for name in names}
    speakers = {name.split("_")[1] for name in names}
    splits = [split_of(name) for name in names]
    missing = [name for name in ("train", "val", "test") if name not in splits]
    note = f"\nno recordings for {', '.join(missing)}: that split cannot be used" if missing else ""
    return (
        f"{len(names)} recordings, {len(digits)} digits, {len(speakers)} speakers in {out}: "
        f"{counts(splits)}{note}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Checks a copy of the Free Spoken Digit Dataset and links its recordings."
    )
    parser.add_argument(
        "--source",
        type=folder,
        help="the clone, its folder recordings, or any folder with its files",
    )
    parser.add_argument(
        "--out", type=folder, required=True, help="folder to link (or copy) the recordings to"
    )
    args = parser.parse_args()
    prepare(args.source, args.out)


if __name__ == "__main__":
    run(main)
