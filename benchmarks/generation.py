"""Sampling speed of the engines, compared in one run and with the limits of the machine.

    python benchmarks/generation.py [--configs reference default] [--batches 1 4 16 64] \\
        [--threads 1 2] [--out FOLDER]

One row for each engine, precision, batch and number of threads: samples/s over all streams,
multiples of real time of each stream, and the shares of two limits that benchmarks/limits.cpp
measures just before:

- reading: every sample of a batch has to read the weights of all products once. The limit is the
  speed of reading alone.
- multiply-adds: of float32, in registers. Dot products of bfloat16 do two at a time, of int8 four,
  so their share can be above 100%.

The limit nearer to 100% is the bottleneck: reading for one stream, multiply-adds for many. The
weights are untrained, since the cost of a sample does not depend on them. Prints a table and a JSON
line; with --out, writes generation.json and generation.png.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from wavenet import Config, Sampling, WaveNet
from wavenet.engines import build_engine
from wavenet.engines.native.compiler import library

HERE = Path(__file__).parent
ENGINES = [
    ("naive", "float32"),
    ("cached", "float32"),
    *(("native", p) for p in ("float32", "bfloat16", "int8")),
]
# per weight of the body; a weight of the head always has four
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
# per repeat: of the whole batch for the native engine (at least 2 per stream), else of each stream
SAMPLES = {"naive": 4, "cached": 300, "native": 4000}


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats`, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Limits:
    """The speed limits of `threads` cores together."""

    def __init__(self, threads: int) -> None:
        self._threads, self._pool = threads, ThreadPoolExecutor(threads)
        self._c = library(HERE / "limits.cpp", {})
        self._c.read_block.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self._c.multiply_add.argtypes = [ctypes.c_int64, ctypes.c_float]
        rounds = 20_000_000
        seconds = self._seconds(lambda: self._c.multiply_add(rounds, 0.5))
        self.multiply_adds = threads * rounds * self._c.multiply_adds_per_round() / seconds

    def reads(self, size: int) -> float:
        """How many times per second all threads together read a block of `size` bytes.

        Each thread reads the whole block.
        """
        block, times = torch.zeros(size // 1024 * 1024, dtype=torch.uint8), max(1, 2**30 // size)
        read = partial(self._c.read_block, block.data_ptr(), block.nbytes, times)
        return self._threads * times / self._seconds(read)

    def _seconds(self, work: Callable[[], object]) -> float:
        return best(lambda: list(self._pool.map(lambda _: work(), range(self._threads))), 5)


def network(config: str) -> WaveNet:
    settings = yaml.safe_load(Path("configs", f"{config}.yaml").read_text())
    names = set(Config.names())
    return WaveNet(
        **{name: value for name, value in settings["model"].items() if name in names},
        sample_rate=settings["data"]["sample_rate"],
    ).eval()


def products(model: WaveNet) -> tuple[int, int]:
    """Multiply-adds per sample, of the body and of the head."""
    sizes = {name: weight.numel() for name, weight in model.named_parameters() if weight.dim() == 3}
    head = sum(size for name, size in sizes.items() if name.startswith("head"))
    return sum(sizes.values()) - head, head


def measure(model: WaveNet, batches: list[int], threads: int, repeats: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    limits, (body, head), rows = Limits(threads), products(model), []
    for batch in batches:
        naive = None
        for name, precision in ENGINES:
            engine = build_engine(model, batch, engine=name, precision=precision)
            samples = max(2, SAMPLES[name] // batch) if name == "native" else SAMPLES[name]
            uniforms = torch.rand(batch, samples)
            # The block has the size of all weights that one sample reads.
            reads = limits.reads(BYTES[precision] * body + 4 * head)
            speed = uniforms.numel() / best(partial(engine.sample, uniforms, Sampling()), repeats)
            naive = naive or speed
            rows.append(
                {
                    "engine": name,
                    "precision": precision,
                    "threads": threads,
                    "batch": batch,
                    "samples_per_s": round(speed),
                    "real_time_each": speed / batch / model.sample_rate,
                    "of_reading": speed / batch / (reads / threads),
                    "of_multiply_adds": speed * (body + head) / limits.multiply_adds,
                    "to_naive": speed / naive,
                }
            )
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print(
        "{engine:<7} {precision:<9} {threads} threads  batch {batch:<3} "
        "{samples_per_s:>10,} samples/s {real_time_each:8.3f} x real time each  "
        "{of_reading:7.1%} of reading {of_multiply_adds:7.1%} of multiply-adds "
        "{to_naive:7.1f} x naive".format(**row),
        flush=True,
    )


def first_and_second_build(model: WaveNet, precision: str) -> tuple[float, float]:
    """Seconds until a native engine is ready, before and after its library is in the cache."""
    before = os.environ.get("WAVENET_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WAVENET_CACHE"] = folder
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            build_engine(model, 1, engine="native", precision=precision)
            seconds.append(time.perf_counter() - start)
    os.environ.pop("WAVENET_CACHE")
    os.environ |= {"WAVENET_CACHE": before} if before else {}
    return seconds[0], seconds[1]


def picture(results: dict[str, dict], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    size = (5.5 * len(results) + 1.5, 4.5)
    figure, axes = plt.subplots(1, len(results), figsize=size, squeeze=False, layout="constrained")
    for ax, (config, result) in zip(axes[0], results.items(), strict=True):
        plot(ax, result, f"{config}: {result['parameters'] / 1e6:.2f} M parameters")
    axes[0][0].set_ylabel("samples per second, all streams")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)


def plot(ax: Any, result: dict[str, Any], title: str) -> None:
    """One line for each engine, precision and number of threads: samples/s over the batch."""
    every_threads = sorted({row["threads"] for row in result["rows"]})
    for name, precision in ENGINES:
        for threads, line in zip(every_threads, ("-", "--"), strict=False):
            shown = (name, precision, threads)
            rows = [
                row
                for row in result["rows"]
                if (row["engine"], row["precision"], row["threads"]) == shown
            ]
            ax.plot(
                [row["batch"] for row in rows],
                [row["samples_per_s"] for row in rows],
                line,
                marker="o",
                color=f"C{ENGINES.index((name, precision))}",
                label=f"{name}, {precision}, {threads} thread{'s' * (threads > 1)}",
            )
    rate = result["sample_rate"]
    ax.axhline(rate, color="black", linewidth=0.8)
    below = {"xytext": (0, -10), "textcoords": "offset points", "fontsize": 8}
    ax.annotate("real time, one stream", (16, rate), **below)
    ax.set(xscale="log", yscale="log", xlabel="streams", title=title)
    batches = sorted({row["batch"] for row in result["rows"]})
    ax.set_xticks(batches, [str(batch) for batch in batches])
    ax.minorticks_off()
    ax.grid(alpha=0.3)


def machine() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "cpu": names[0] if names else platform.processor(),
        "torch": torch.__version__,
        "commit": commit,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sampling speed of the engines, side by side.")
    parser.add_argument("--configs", nargs="+", default=["reference", "default"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()})
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for generation.json and generation.png")
    return parser.parse_args()


def measure_config(config: str, args: argparse.Namespace) -> dict[str, Any]:
    model = network(config)
    builds = {precision: first_and_second_build(model, precision) for precision in BYTES}
    print(
        f"\n{config}: {model.num_parameters / 1e6:.2f} M parameters, "
        f"{sum(products(model)) / 1e6:.2f} M multiply-adds per sample"
    )
    for precision, (first, second) in builds.items():
        print(
            f"native, {precision}: ready in {first:.1f} s the first time, "
            f"{second:.2f} s the second time"
        )
    rows = [
        row
        for threads in args.threads
        for row in measure(model, args.batches, threads, args.repeats)
    ]
    return {
        "parameters": model.num_parameters,
        "sample_rate": model.sample_rate,
        "first_and_second_build_s": builds,
        "rows": rows,
    }


def main() -> None:
    args = arguments()
    results = {config: measure_config(config, args) for config in args.configs}
    summary = {"benchmark": "generation", **machine(), "configs": results}
    print(json.dumps(summary))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "generation.json").write_text(json.dumps(summary, indent=1) + "\n")
        picture(
            results,
            args.out / "generation.png",
            f"{summary['cpu']}, torch {summary['torch']}, commit {summary['commit']}",
        )


if __name__ == "__main__":
    main()
