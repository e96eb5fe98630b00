"""Sampling speed of the engines, side by side in one run.

    python benchmarks/generation.py [--config reference|default] [--samples 400] [--threads 1]

One row an engine and batch: samples/s over all streams, times real time of one stream, and the ratio to `naive` at the same
batch. Untrained weights: what a sample costs does not depend on them. One readable table and one JSON line.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import yaml

from wavenet import Sampling, WaveNet
from wavenet.engines import ENGINES, Engine, build_engine


def rate(engine: Engine, batch: int, samples: int, repeats: int = 3) -> float:
    """Samples/s over all streams, the best of `repeats`, after a warm-up."""
    engine.sample(torch.rand(batch, max(2, samples // 10)), Sampling())
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        engine.sample(torch.rand(batch, samples), Sampling())
        best = min(best, time.perf_counter() - start)
    return batch * samples / best


def network(config: str) -> WaveNet:
    settings = yaml.safe_load(Path("configs", f"{config}.yaml").read_text())
    names = set(WaveNet().config)
    return WaveNet(
        **{name: value for name, value in settings["model"].items() if name in names},
        sample_rate=settings["data"]["sample_rate"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampling speed of the engines, side by side.")
    parser.add_argument("--config", default="reference")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = network(args.config)
    rows = []
    for batch in args.batches:
        slow = None
        for name in ENGINES:
            samples = args.samples if name != "naive" else 4
            speed = rate(build_engine(model, batch, engine=name), batch, samples)
            slow = slow or speed
            rows.append({"engine": name, "batch": batch, "samples_per_s": round(speed), "to_naive": speed / slow})
            print(
                f"{name:<8} batch {batch:<3} {speed:>10,.0f} samples/s   "
                f"{speed / batch / model.sample_rate:6.3f} x real time each   {speed / slow:8.1f} x naive",
                flush=True,
            )
    machine = {"cpu": platform.machine(), "threads": args.threads, "torch": torch.__version__}
    print(json.dumps({"config": args.config, "parameters": model.num_parameters, **machine, "rows": rows}))


if __name__ == "__main__":
    main()
