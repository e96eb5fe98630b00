"""Owns how what happened is judged: the verdicts, and what counts as a clear error.

An error is clear where the library raised it on purpose: the innermost frame lies in `wavenet`, and
stands at a `raise`. What Python, torch or NumPy raise while they are used wrongly is raw, also
where a frame of the library called them. Knows nothing of processes or inputs.
"""

import dis
import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import wavenet

PACKAGE = Path(wavenet.__file__).parent
COMMANDS = ("generate.py", "train.py")  # beside the package
OK, CLEAR = "ok", "clear error"
TRACEBACK, HANG, CRASH, WRONG, CODE = "traceback", "hang", "crash", "wrong", "code ran"
VERDICTS = (OK, CLEAR, TRACEBACK, HANG, CRASH, WRONG, CODE)
FAULTS = frozenset((TRACEBACK, HANG, CRASH, WRONG, CODE))
DELIBERATE = (ValueError, TypeError, OSError, ImportError)
ALWAYS_RAW = (UnicodeError,)  # a ValueError that Python raises; it names no file
SHORTEST = 12  # letters of a message that says something
OTHER_DTYPE = "must have the same dtype"  # torch's word for a layer given another than its weights'
REFUSED_BY_NAME = re.compile(r"unexpected keyword argument|required (keyword-only|positional)")


@dataclass(frozen=True)
class Outcome:
    """verdict: one of VERDICTS; where: the same for every input that meets the same fault."""

    verdict: str
    where: str = ""
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        return self.verdict in FAULTS

    @property
    def signature(self) -> str:
        return f"{self.verdict}: {self.where}"


class Wrong(Exception):
    """What an oracle raises. what: in short, the same for the same fault; detail: what was seen."""

    def __init__(self, what: str, detail: object = "") -> None:
        super().__init__(f"{what}: {detail}" if detail != "" else what)
        self.what = what


class OtherType(Exception):
    """Python's own TypeError, where the caller gave a value of another type."""


def judge_exception(error: BaseException) -> Outcome:
    """Of a call of the library."""
    if isinstance(error, Wrong):
        return Outcome(WRONG, error.what, str(error))
    text = "".join(traceback.format_exception(error))[-4000:]
    if isinstance(error, OtherType) or _is_clear(error):
        return Outcome(CLEAR, _name(error), str(error)[:400])
    return Outcome(TRACEBACK, f"{_name(error)} in {_innermost(error.__traceback__)}", text)


def judge_exit(exit: SystemExit, output: str) -> Outcome:
    """Of a command that ended so, with what it wrote to stdout and stderr."""
    status, cause = exit.code, exit.__context__
    message = status if isinstance(status, str) else output
    if "Traceback (most recent call last)" in output:
        return Outcome(TRACEBACK, "printed by the command", output[-4000:])
    if status in (None, 0):
        return Outcome(OK)
    said = re.search(r"(error|interrupted|Stopped[^:]*): *(.*)", message, re.S)
    if said is None or len(said[2].strip()) < SHORTEST:
        return Outcome(TRACEBACK, "an exit that does not say why", f"{status!r}\n{output[-2000:]}")
    if isinstance(cause, Exception) and _only_repeats(said[2], cause) and _is_raw_inside(cause):
        where = f"a raw message: {_name(cause)} in {_innermost(cause.__traceback__)}"
        return Outcome(TRACEBACK, where, said[0][:400])
    return Outcome(CLEAR, "exit", said[0][:400])


def _only_repeats(message: str, cause: Exception) -> bool:
    """Whether a message begins with the cause's own words, or gives up on explaining them."""
    own = " ".join(str(cause).split())[:20]
    return "No setting explains this" in message or message.startswith((own, _name(cause)))


def _is_raw_inside(error: Exception) -> bool:
    """Whether a command prints what torch, NumPy or Python itself said.

    What Lightning and jsonargparse say of a setting is meant for its user.
    """
    if isinstance(error, ALWAYS_RAW):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return False
    file = _frames(error.__traceback__)[-1][0]
    if _is_ours(file):
        return not _raised_by_the_library(error.__traceback__)
    return any(f"/{package}/" in file for package in ("torch", "numpy", "torchaudio"))


def _is_clear(error: BaseException) -> bool:
    if isinstance(error, RuntimeError) and OTHER_DTYPE in str(error):
        return True
    if not isinstance(error, DELIBERATE) or isinstance(error, ALWAYS_RAW):
        return False
    if len(str(error)) < SHORTEST:
        return False
    if isinstance(error, TypeError) and REFUSED_BY_NAME.search(str(error)):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return True  # the system's own: it says what is wrong
    return _raised_by_the_library(error.__traceback__)


def _raised_by_the_library(trace: TracebackType | None) -> bool:
    """Whether the innermost frame is the library's, and stands at a `raise`."""
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    if not _is_ours(trace.tb_frame.f_code.co_filename):
        return False
    operation = trace.tb_frame.f_code.co_code[trace.tb_lasti]
    return dis.opname[operation] == "RAISE_VARARGS"


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(PACKAGE) or path in [PACKAGE.parent / name for name in COMMANDS]


def _innermost(trace: TracebackType | None) -> str:
    """The library's innermost frame, FILE:FUNCTION."""
    return _last_of_ours(_frames(trace))


def _frames(trace: TracebackType | None) -> list[tuple[str, str]]:
    """(file, function), the innermost last."""
    return [(x.filename, x.name) for x in traceback.extract_tb(trace)] or [("", "")]


def innermost_of_dump(dump: str) -> str:
    """The same of what faulthandler wrote, which begins with the innermost frame."""
    stack = dump.partition("most recent call first")[2].partition("\n\n")[0]
    frames = re.findall(r'File "([^"]+)", line \d+ in (\S+)', stack)
    return _last_of_ours(frames[::-1])


def _last_of_ours(frames: list[tuple[str, str]]) -> str:
    ours = [(Path(file), name) for file, name in frames if _is_ours(file)]
    if not ours:
        return "no frame of the library"
    file, name = ours[-1]
    return f"{file.relative_to(PACKAGE.parent).as_posix()}:{name}"


def _name(error: BaseException) -> str:
    return type(error).__name__
