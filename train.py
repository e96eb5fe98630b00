"""Train a WaveNet: `python train.py --help`. The command itself is `wavenet.commands.train`."""

import os
import signal

if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # see wavenet.commands.PATIENCE; before torch is there
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Before the command's own handlers and after them, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from wavenet.commands.train import main

if __name__ == "__main__":
    main()
