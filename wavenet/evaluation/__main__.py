"""The command `python -m wavenet.evaluation`."""

from wavenet.evaluation.digits import main

if __name__ == "__main__":
    main()
