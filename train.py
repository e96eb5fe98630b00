"""Train a WaveNet: `python train.py --help`. The command itself is `wavenet.training.cli`."""

import os
import sys
from pathlib import Path

os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # huge pages for torch's CPU tensors: 10 to 20% faster training

from wavenet.training.cli import main

if __name__ == "__main__":
    main(sys.argv[1:], default_config=Path(__file__).parent / "configs" / "default.yaml")
