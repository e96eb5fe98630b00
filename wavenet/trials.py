"""Owns what is known of fast ways that may fail on a machine: the reason of a failure in one line.

Knows nothing of models, engines or training.
"""

REASON = 300  # characters of a reason


def reason_of(error: BaseException) -> str:
    """An error in one line, for a log: "RuntimeError: Failed to find C compiler."

    Of torch.compile's errors, which wrap the one that counts, the inner one.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    while lines and lines[0].startswith("backend=") and lines[0].endswith("raised:"):
        lines = lines[1:]
    text = lines[0] if lines else "no message"
    if not text.startswith(f"{type(error).__name__}:") and "Error: " not in text[:40]:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= REASON else f"{text[:REASON]}..."
