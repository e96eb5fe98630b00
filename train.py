"""Train a WaveNet: `python train.py --help`. The command itself is `wavenet.training.cli`."""

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # Before the command's own handlers and after them, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # huge pages for torch's CPU tensors: 10 to 20% faster training

from wavenet.training.cli import main

if __name__ == "__main__":
    main(sys.argv[1:], default_config=Path(__file__).parent / "configs" / "default.yaml")
