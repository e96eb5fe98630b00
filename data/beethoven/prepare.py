"""Owns preparing Beethoven's piano sonatas: audio/ and a metadata.csv with path and split.

    python data/beethoven/prepare.py --source UNPACKED --out DIR

Ten hours of piano, 4,328 recordings of 8 s at 16 kHz, as SampleRNN's authors cut them and SaShiMi's
used them; see `data.excerpts`. Downloads nothing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.excerpts import command
from data.layout import run

RECORDINGS = 4328
SAMPLES = 128_000  # 8 s

if __name__ == "__main__":
    run(lambda: command("Piano sonatas with a metadata.csv of splits.", SAMPLES, RECORDINGS))
