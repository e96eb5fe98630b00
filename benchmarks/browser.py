"""How fast a page of `wavenet export --web` draws, in headless Chromium on one core.

    taskset -c 1 python benchmarks/browser.py page/index.html

For each clip: the processor time of the worker's thread and of all threads of the browser, and the
time by the clock, as multiples of real time; and the milliseconds from the click to the first
sound. The processor time is the same on a busy machine; the clock is not. Needs Linux, chromium and
playwright; see tests/test_web_browser.py.
"""

import argparse
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WORKER = "DedicatedWorker"  # Chromium's name of the thread
MARKS = "performance.getEntriesByType('mark').map((mark) => [mark.name, mark.startTime])"


def processor_time(profile: str) -> Counter[str]:
    """Seconds by the names of threads, of the browser with that profile."""
    spent: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if profile not in (process / "cmdline").read_text() and not _is_child(process, profile):
                continue
            for thread in (process / "task").iterdir():
                nanoseconds = int((thread / "schedstat").read_text().split()[0])
                spent[(thread / "comm").read_text().strip()] += nanoseconds / 1e9
        except OSError:  # it has ended
            continue
    return spent


def _is_child(process: Path, profile: str) -> bool:
    """Renderers do not name the profile: a process above them does."""
    while (
        parent := re.search(r"^PPid:\t(\d+)", (process / "status").read_text(), re.M)
    ) is not None:
        process = Path("/proc", parent[1])
        if parent[1] in ("0", "1"):
            return False
        if profile in (process / "cmdline").read_text():
            return "chromium" in (process / "cmdline").read_text()
    return False


@contextmanager
def opened(page: Path) -> Iterator[tuple[Any, str]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=shutil.which("chromium"), args=FLAGS
        )
        tab = browser.new_page()
        tab.goto(page.resolve().as_uri())
        tab.locator("#status").filter(has_text="Ready.").wait_for()
        yield tab, profile
        browser.close()


def measured(
    tab: Any, profile: str, seconds: float, guidance: float, seed: int
) -> dict[str, float]:
    fields = {"seconds": seconds, "guidance": guidance, "seed": seed}
    for name, value in fields.items():
        if tab.locator(f"#{name}").count():
            tab.fill(f"#{name}", str(value))
    before = processor_time(profile)
    tab.click("#draw")
    tab.locator("#status").filter(has_text=re.compile(f"Drawn: .*seed {seed},")).wait_for(
        timeout=300_000
    )
    spent = processor_time(profile) - before
    clock = re.search(r"at ([\d.]+) times", tab.inner_text("#status"))
    assert clock is not None
    marks = {name.split()[0]: at for name, at in tab.evaluate(MARKS)}
    return {
        **fields,
        "worker": seconds / spent[WORKER],
        "browser": seconds / spent.total(),
        "clock": float(clock[1]),
        "first sound ms": marks["heard"] - marks["asked"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a clip (%(default)s)")
    parser.add_argument("--clips", type=int, default=3, help="of each kind (%(default)s)")
    args = parser.parse_args()
    rows = []
    with opened(args.page) as (tab, profile):
        for seed in range(args.clips):
            for guidance in (0.0, 0.5):
                rows.append(measured(tab, profile, args.seconds, guidance, seed))
    for row in rows:
        print("  ".join(f"{name} {value:.2f}" for name, value in row.items()))
    print(
        json.dumps(
            {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "clips": rows}
        )
    )


if __name__ == "__main__":
    main()
