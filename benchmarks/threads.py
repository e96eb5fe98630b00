"""Threads on a machine that does other work: samples/s and steps/s, alone and beside busy loops.

    python benchmarks/threads.py [--seconds 6] [--only generating,training]

Each figure is of a process of its own, as whoever starts the commands has it: `wavenet generate`
(the bundled model, guided, so that a clip is two streams) and `wavenet train` (the default recipe),
with their own choice of threads and with a number given. Beside: as many busy loops as there are
cores. Waiting threads spin (OMP_WAIT_POLICY=ACTIVE) or sleep (PASSIVE). Prints a table and a JSON
line; a figure is the median of the turns, which take turns with each other.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from generation import machine

REPOSITORY = Path(__file__).resolve().parents[1]
BATCHES = (1, 2, 4, 16)
NAMES, PLACES = ("what", "batch", "threads", "waiting"), ("alone", "beside")
SETTLING = 8  # seconds at the start of a training that are not counted
BUSY = "while True: pass"
DRAW = """
import sys, time
import wavenet
from wavenet.machine import set_threads
engine, batch, threads, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
set_threads(None if threads == "own" else int(threads))
model = wavenet.WaveNet.from_pretrained("fsdd").eval()
stream = wavenet.stream(model, num_samples=10**6, batch_size=batch, engine=engine, chunk_size=256,
    labels={"digit": "7", "speaker": "jackson"}, guidance=0.5)
drawn, begun, first = 0, time.monotonic(), True
for chunk in stream:
    if first:  # what is built and warmed up is not counted
        first, begun = False, time.monotonic()
        continue
    drawn += chunk.numel()
    if time.monotonic() - begun > seconds:
        break
print(drawn / (time.monotonic() - begun))
"""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Beside so many processes that do nothing but compute."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def environment(policy: str | None) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    paths = [str(REPOSITORY), *filter(None, [given.get("PYTHONPATH")])]
    given["PYTHONPATH"] = os.pathsep.join(paths)
    return given if policy is None else {**given, "OMP_WAIT_POLICY": policy}


def drawn(engine: str, batch: int, threads: str, policy: str | None, seconds: float) -> float:
    """Samples/s over all streams."""
    command = [sys.executable, "-c", DRAW, engine, str(batch), threads, str(seconds)]
    done = subprocess.run(
        command, env=environment(policy), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1])


def trained(threads: str, policy: str | None, seconds: float) -> float:
    """Optimiser steps/s of the default recipe, by the run's own metrics.csv."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data.root", str(REPOSITORY / "data/instruments/audio"), "--runs", folder]
        flags += ["--trainer.max_time", f"00:00:00:{SETTLING + round(seconds):02d}"]
        flags += ["--trainer.log_every_n_steps", "1", "--data.val_seconds", "0.1"]
        flags += ["--samples.count", "0"]
        given = environment(policy) | ({} if threads == "own" else {"OMP_NUM_THREADS": threads})
        command = [sys.executable, "-m", "wavenet", "train", *flags]
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        with Path(folder, "default", "metrics.csv").open() as file:
            rows = [(float(row["seconds"]), int(row["step"])) for row in csv.DictReader(file)]
    kept = [row for row in rows if row[0] > SETTLING]
    return (kept[-1][1] - kept[0][1]) / (kept[-1][0] - kept[0][0])


def rows(seconds: float, repeats: int, only: str) -> Iterator[dict[str, Any]]:
    """Each of a way, with its median alone and beside busy loops."""
    ways: dict[tuple[str, ...], Callable[[], float]] = {}
    counts = dict.fromkeys(["own", "1", str(os.cpu_count())])
    if "generating" in only:
        for engine in ("native", "cached"):
            for batch in BATCHES:
                for threads in counts:
                    for policy in ("ACTIVE", "PASSIVE") if threads not in ("own", "1") else (None,):
                        ways[engine, f"batch {batch}", threads, policy or ""] = partial(
                            drawn, engine, batch, threads, policy, seconds
                        )
    if "training" in only:
        for threads in counts:
            for policy in ("ACTIVE", "PASSIVE") if threads not in ("own", "1") else (None,):
                ways["train", "steps", threads, policy or ""] = partial(
                    trained, threads, policy, seconds
                )
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for _ in range(repeats):
        for loops in (0, os.cpu_count() or 1):
            for way, measure in ways.items():
                with busy(loops):
                    found[(*way, loops)].append(measure())
    for what, batch, threads, policy in ways:
        alone, beside = (
            statistics.median(found[what, batch, threads, policy, loops])
            for loops in (0, os.cpu_count() or 1)
        )
        yield {
            "what": what,
            "batch": batch,
            "threads": threads,
            "waiting": policy.lower(),
            "alone": alone,
            "beside": beside,
        }


def main() -> None:
    p = argparse.ArgumentParser(description="Threads on a machine that does other work.")
    p.add_argument("--seconds", type=float, default=6.0, help="of each figure")
    p.add_argument("--repeats", type=int, default=3, help="turns")
    p.add_argument("--only", default="generating,training", help="one of the two")
    args = p.parse_args()
    table = list(rows(args.seconds, args.repeats, args.only))
    print(f"| what | | threads | waiting | alone | beside {os.cpu_count()} busy loops |")
    print("|---|---|---|---|---|---|")
    for row in table:
        figures = (f"{row[name]:,.{2 if row['what'] == 'train' else 0}f}" for name in PLACES)
        print("|", " | ".join([*(row[name] for name in NAMES), *figures]), "|")
    print(json.dumps({"benchmark": "threads", **machine(), "rows": table}))


if __name__ == "__main__":
    main()
