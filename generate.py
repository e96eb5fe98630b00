"""Draw audio from a WaveNet: `python generate.py --help`. See `wavenet.commands.generate`."""

import signal

if __name__ == "__main__":
    # Before the command's own handlers and after them, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from wavenet.commands.generate import main

if __name__ == "__main__":
    main()
