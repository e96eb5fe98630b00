"""Owns the speed of the data path: crops per worker against a plain read of the same audio.

Knows nothing of models.

    python benchmarks/data.py

Writes random 16-bit audio as one prepared file of minute-long clips, then takes training batches
from it, both in this process and through a loader with one worker, and reads the file from end to
end through a memory map. All find it in the page cache. Every sample that is handed on counts,
context included. Limit: 20 million samples/s per worker.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from wavenet.corpus import Batch, ClipTable, CropBatches, batch_loader

LIMIT = 20e6  # samples/s per worker
BLOCK = 1 << 20  # samples per read


def make_corpus(folder: Path, samples: int, rate: int, seed: int) -> ClipTable:
    """`samples` of random audio in clips of a minute at `rate` Hz, with one label."""
    length = 60 * rate
    count = max(samples // length, 1)
    rng = np.random.default_rng(seed)
    path = folder / "audio.s16"
    with path.open("wb") as file:
        for _ in range(count):
            file.write(rng.integers(-32768, 32768, length, dtype=np.int16).astype("<i2").tobytes())
    labels = {"speaker": rng.integers(0, 10, count)}
    return ClipTable(path, np.arange(count) * length, np.full(count, length), labels)


def read_plainly(path: Path) -> int:
    """Copy every sample out of a memory map, in order; return how many."""
    audio, buffer = np.memmap(path, "<i2", "r"), np.empty(BLOCK, "<i2")
    for start in range(0, len(audio), BLOCK):
        block = audio[start : start + BLOCK]
        buffer[: len(block)] = block
    return len(audio)


def read_crops(batches: Iterable[Batch]) -> int:
    """Take every batch; return how many targets they handed on."""
    return sum(int(batch["scored"][:, 1].sum()) for batch in batches)


def fastest(read: Callable[[], int], repeats: int) -> float:
    """Samples/s of the fastest of `repeats` runs."""
    rates = []
    for _ in range(repeats):
        begun = time.perf_counter()
        rates.append(read() / (time.perf_counter() - begun))
    return max(rates)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        table = make_corpus(Path(folder), arguments.samples, arguments.rate, arguments.seed)
        shape = (arguments.receptive_field, arguments.crop_samples, arguments.batch_size)
        dataset = CropBatches(table, *shape)
        worker = batch_loader(dataset, num_workers=1)
        plain = fastest(lambda: read_plainly(table.audio_path), arguments.repeats)
        crops = fastest(
            lambda: read_crops(map(dataset.__getitem__, range(len(dataset)))), arguments.repeats
        )
        loaded = fastest(lambda: read_crops(worker), arguments.repeats)
    rates = {"crops": crops, "worker": loaded, "plain_read": plain, "limit": LIMIT}
    return {**rates, "crops_of_plain": crops / plain, "worker_of_limit": loaded / LIMIT}


def report(result: dict[str, float], arguments: argparse.Namespace) -> None:
    shape = f"batch {arguments.batch_size}, crop {arguments.crop_samples}"
    print(
        f"{shape}, receptive field {arguments.receptive_field}\n\n"
        f"{'way':<28}{'million samples/s':>18}"
    )
    names = {
        "crops": "crops, this process",
        "worker": "crops, one worker",
        "plain_read": "plain memory-map read",
    }
    for key, name in {**names, "limit": "limit, per worker"}.items():
        print(f"{name:<28}{result[key] / 1e6:>18.1f}")
    print(
        f"\ncrops / plain read: {result['crops_of_plain']:.2f}; "
        f"worker / limit: {result['worker_of_limit']:.1f}"
    )
    print(
        json.dumps(
            {
                "benchmark": "data",
                **vars(arguments),
                **{key: round(value, 3) for key, value in result.items()},
            }
        )
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Crops per worker against a plain memory-map read."
    )
    parser.add_argument("--samples", type=int, default=200_000_000, help="samples in the corpus")
    parser.add_argument(
        "--rate", type=int, default=16000, help="samples per second of a clip, of one minute"
    )
    parser.add_argument("--crop-samples", type=int, default=16384)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--receptive-field", type=int, default=3071)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    report(measure(arguments), arguments)
