"""Owns preparing YouTubeMix: audio/ and a metadata.csv with the columns path and split.

    python data/youtubemix/prepare.py --source UNPACKED --out DIR

Four hours of piano, 241 recordings of a minute at 16 kHz, on which SampleRNN's and SaShiMi's
authors trained. Cut into excerpts of 131,072 samples as in the SaShiMi paper; see `data.excerpts`.
Downloads nothing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.excerpts import command
from data.layout import run

RECORDINGS = 241
SAMPLES = 131_072  # 8.2 s

if __name__ == "__main__":
    run(lambda: command("YouTubeMix with a metadata.csv of splits.", SAMPLES, RECORDINGS))
