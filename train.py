"""Train a WaveNet: `python train.py --help`. The command itself is `wavenet.commands.train`."""

import signal

from wavenet.commands import have_patience

if __name__ == "__main__":
    # Before the command's own handlers and after them, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    have_patience()

from wavenet.commands.train import main

if __name__ == "__main__":
    main()
