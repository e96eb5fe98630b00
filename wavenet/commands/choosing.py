"""Owns how one of several commands is chosen by its name, with help and the nearest name.

Imports nothing but what the words need: the help is there at once.
"""

import sys
from collections.abc import Mapping, Sequence

from wavenet.installation import nearest


def chosen(prog: str, choices: Mapping[str, str], arguments: Sequence[str]) -> str:
    """The name that the arguments begin with, one of choices (name -> what it does).

    Ends the process with the help, status 0, where it is asked for or nothing is given; and with
    status 2 and one line for another name.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage(prog, choices))
        sys.exit(0)
    if name not in choices:
        print(
            f"error: {prog} has no command '{name}'{nearest(name, choices)}. The commands are "
            f"{', '.join(choices)}: {prog} --help",
            file=sys.stderr,
        )
        sys.exit(2)
    return name


def usage(prog: str, choices: Mapping[str, str]) -> str:
    width = max(map(len, choices)) + 2
    rows = [f"  {name:<{width}}{what}" for name, what in choices.items()]
    more = f"{prog} COMMAND --help: all of its flags"
    return "\n".join([f"usage: {prog} COMMAND ...", "", *rows, "", more])
