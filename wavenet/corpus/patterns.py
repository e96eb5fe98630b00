"""Owns searching many names for one regular expression, within a limit of time.

Knows nothing of files, labels or splits. Some expressions take longer than the universe lasts on
one name, such as (a+)+b, and Python's `re` lets no other thread stop it: the search is in a process
of its own, which can be killed. It starts in about 20 ms.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 60.0  # for all names together; a million take a few
SEARCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
search = re.compile(pattern).search
for name in names:
    found = search(name)
    print(json.dumps(found and found.groupdict()), flush=True)
"""

Groups = dict[str, str | None]  # named groups; None for one that took no part


def search_all(
    setting: str, pattern: re.Pattern[str], names: Sequence[str]
) -> dict[str, Groups | None]:
    """Each name's named groups where `pattern` is found in it, None where it is not.

    Raises ValueError, naming the setting and the name at which it stood, if it takes too long.
    """
    command = [sys.executable, "-I", "-S", "-c", SEARCH]
    asked = json.dumps([pattern.pattern, list(names)]).encode()
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        stood = names[(error.stdout or b"").count(b"\n")]
        raise ValueError(
            f"--data.{setting} {pattern.pattern!r} was searched for in {len(names)} names for "
            f"{SECONDS:g} seconds and stood at '{stood}'. It tries too many ways to "
            "match; repeat nothing inside of what is repeated, as (a+)+ does."
        ) from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(
            f"--data.{setting} {pattern.pattern!r} could not be searched for: {reason}."
        )
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))
