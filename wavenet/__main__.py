"""The command `python -m wavenet`, which is the command `wavenet`."""

from wavenet.commands import entry

if __name__ == "__main__":
    entry()
