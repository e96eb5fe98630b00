"""Speed of the training step, one optimisation after the other, compared with the device's bound.

    python benchmarks/training.py [--config reference] [--batch 8] [--width 16384] [--out FOLDER]

Compare two rows in one process, alternating:

    python benchmarks/training.py --only 5 6 --turns

Data-parallel training, N processes with one core each, compared with one process:

    python benchmarks/training.py --processes 2

Each row adds one optimisation to the row before; an indented one is not kept for the next row. A
row shows samples/s (every position of every row of a batch; forward, loss, backward, clipping and
optimiser), the speed relative to the plain model, the share of the bound, and peak memory. The
plain model is a typical WaveNet implementation: Conv1d on (B, C, T) in eager float32 with TF32 off,
and a skip tensor in every layer.

The bound is the slower of two limits. Both are counted here and divided by speeds that this run
measures on the device:

- arithmetic: 6 FLOP per weight of a product (2 forward, 4 backward), at the speed of one large
  matrix product in torch.
- memory: the bytes that a step with fused blocks has to move, where each tensor is written once and
  read once by every pass over it, at the speed of a large copy.

Prints a table and a JSON line; with --out, writes that line to a file. The codes are random and
there are no labels, since the cost of a step does not depend on them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in train.py

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from generation import machine, network, products
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wavenet import CausalConv1d, Residual, WaveNet
from wavenet.training.cli import default_precision, keep_memory
from wavenet.training.exchange import CorpusFacts
from wavenet.training.module import LitWaveNet, training_loss


class Way(NamedTuple):
    """How a step is computed; each optimisation is one field."""

    name: str
    layout: str = "(B, T, C)"
    skips: str = "one product"
    lean: bool = True  # fused AdamW; codes copied to the device as uint8, not int64
    dtype: torch.dtype = torch.float32
    compiled: bool = False
    fused: bool = False


BF16 = torch.bfloat16
WAYS = [
    Way("plain", "(B, C, T)", "layer by layer", lean=False),
    Way("+ features (B, T, C)", skips="layer by layer", lean=False),
    Way("+ one skip product", lean=False),
    Way("+ fused AdamW, uint8 codes"),
    Way("  + torch.compile", compiled=True),
    Way("+ bfloat16", dtype=BF16),
    Way("+ torch.compile", dtype=BF16, compiled=True),
    Way("+ fused blocks", dtype=BF16, compiled=True, fused=True),
]


# --- The ways to train ---


def conv1d(conv: CausalConv1d, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x, (conv.history, 0)), conv.weight, conv.bias, dilation=conv.dilation)


class Layered(WaveNet):
    """The same network with a skip tensor in every layer."""

    def forward(self, codes: Tensor, *condition: Any, **more: Any) -> Tensor:
        """Nothing steers it: labels, mel and position are left out."""
        x, total = self.input(self.embed(codes)), None
        for block in self.stack.blocks:
            x, skip = block(x)
            total = skip if total is None else total + skip
        return self.head(total)


class Plain(WaveNet):
    """The same network in its usual form: Conv1d on features with the memory layout (B, C, T)."""

    def forward(self, codes: Tensor, *condition: Any, **more: Any) -> Tensor:
        """Nothing steers it: labels, mel and position are left out."""
        x, total = conv1d(self.input, self.embed(codes).contiguous()), None
        for block in self.stack.blocks:
            filter_, gate = conv1d(block.dilated, x).chunk(2, dim=1)
            z = torch.tanh(filter_) * torch.sigmoid(gate)
            skip = conv1d(block.skip, z)
            total = skip if total is None else total + skip
            if isinstance(block.residual, Residual):
                x = (x + conv1d(block.residual, z)) * block.residual.scale
        return conv1d(self.head[3], F.relu(conv1d(self.head[1], F.relu(total))))


def built(config: str, way: Way, device: torch.device) -> WaveNet:
    torch.manual_seed(0)
    kind: type[WaveNet] = WaveNet
    if way.layout == "(B, C, T)":
        kind = Plain
    elif way.skips == "layer by layer":
        kind = Layered
    model = kind(**network(config).config.settings()).to(device).train()
    if way.fused:
        from wavenet.training.kernels import fuse

        fuse(model)
    return model


def step_of(config: str, way: Way, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function: codes (B, W + 1) in host memory -> the loss, after one complete step."""
    model = built(config, way, device)
    optimizer = torch.optim.AdamW(model.parameters(), **({"fused": True} if way.lean else {}))
    loss_of = torch.compile(training_loss) if way.compiled else training_loss

    def step(codes: Tensor) -> Tensor:
        codes = codes.to(device, non_blocking=True)
        scored = torch.tensor([[0, codes.shape[1] - 1]], device=device).expand(len(codes), 2)
        with torch.autocast(device.type, BF16, enabled=way.dtype == BF16):
            loss = loss_of(model, codes, scored, {})
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


# --- Measuring ---


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest of `repeats`."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def memory(device: torch.device, line: str) -> int:
    """Bytes: on a GPU the peak of all tensors, on a CPU the resident memory of the process.

    line: VmRSS for the present value, VmHWM for the peak (Linux).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text().splitlines()
    (found,) = [each for each in status if each.startswith(line)]
    return 1024 * int(found.split()[1])


def prepare(args: argparse.Namespace) -> torch.device:
    torch.set_num_threads(args.threads)
    keep_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()
    return torch.device(args.device)


def warmed(
    way: Way, args: argparse.Namespace, device: torch.device
) -> tuple[Callable[[], object], dict[str, Any]]:
    """A function that runs some steps, to be timed, and the results of three steps before it."""
    step = step_of(args.config, way, device)
    dtype = torch.uint8 if way.lean else torch.int64
    codes = torch.randint(256, (args.batch, args.width + 1), dtype=dtype)
    codes = codes.pin_memory() if device.type == "cuda" else codes
    start = time.perf_counter()
    losses = [float(step(codes)) for _ in range(3)]
    row = {
        "way": way.name.strip(),
        "first_steps_s": time.perf_counter() - start,
        "third_loss": losses[-1],
    }
    return lambda: [step(codes) for _ in range(args.steps)], row


def measure(way: Way, args: argparse.Namespace) -> dict[str, Any]:
    device = prepare(args)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = 0 if device.type == "cuda" else memory(device, "VmRSS")
    steps, row = warmed(way, args, device)
    row["samples_per_s"] = samples(args) / fastest(steps, args.repeats, device)
    row["peak_bytes"] = memory(device, "VmHWM") - before
    return row


def measure_in_turns(ways: list[Way], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Times all ways in this process in alternation, so that a drift in speed affects all of them.

    Memory is not measured.
    """
    device = prepare(args)
    ready = [warmed(way, args, device) for way in ways]
    turns = [[fastest(steps, 1, device) for steps, _ in ready] for _ in range(args.repeats)]
    return [
        {**row, "samples_per_s": samples(args) / min(seconds)}
        for (_, row), seconds in zip(ready, zip(*turns, strict=True), strict=True)
    ]


def samples(args: argparse.Namespace) -> int:
    return args.steps * args.batch * args.width


def in_its_own_process(way: Way, args: argparse.Namespace) -> dict[str, Any]:
    """On a CPU, peak memory can be measured only for a whole process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, way, args).result()


# --- The bound ---


def flops_per_sample(model: WaveNet) -> int:
    return 6 * sum(products(model))


def bytes_per_sample(model: WaveNet, size: int) -> int:
    """The bytes that a step with fused blocks moves per sample, in values of `size` bytes.

    Weights are not counted: they are read from a cache.

    Block: forward reads x, writes the residual and z; backward reads x, z and the gradients of
    residual and z, writes dx, and writes and reads dh. Skips: read all z, write the gradients of
    all z, read all z again for the gradient of the weights. Head: every tensor and its gradient are
    written and read; all except the logits are read again for the gradient of the weights.
    """
    config = model.config.settings()
    residual, gates, skips, head = (
        config[f"{name}_channels"] for name in ("residual", "gate", "skip", "head")
    )
    forward, backward = 2 * residual + gates, 3 * residual + 2 * gates + 4 * gates
    blocks = len(model.stack.blocks) * (forward + backward + 3 * gates)
    return size * (6 * residual + blocks + 5 * skips + 5 * head + 4 * model.codec.classes)


def limits(device: torch.device, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """FLOP/s of a large product, bytes/s of a large copy."""
    size, length = (8192, 2**30) if device.type == "cuda" else (2048, 2**27)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source, target = (torch.zeros(length, dtype=torch.uint8, device=device) for _ in range(2))
    fastest(lambda: (a @ b, target.copy_(source)), 2, device)
    product, copy = (
        fastest(work, repeats, device) for work in (lambda: a @ b, lambda: target.copy_(source))
    )
    return 2 * size**3 / product, 2 * length / copy


def bound(
    model: WaveNet, device: torch.device, dtype: torch.dtype, repeats: int
) -> dict[str, float]:
    flops, copied = limits(device, dtype, repeats)
    work, moved = flops_per_sample(model), bytes_per_sample(model, dtype.itemsize)
    return {
        "flop_per_sample": work,
        "bytes_per_sample": moved,
        "flop_per_s": flops,
        "bytes_per_s": copied,
        "arithmetic_samples_per_s": flops / work,
        "memory_samples_per_s": copied / moved,
        "samples_per_s": min(flops / work, copied / moved),
    }


# --- Data-parallel ---


class RandomAudio(pl.LightningDataModule):
    """The same batch of noise in every step; each process has another one."""

    def __init__(self, batch: int, width: int, sample_rate: int) -> None:
        super().__init__()
        self.shape = (batch, width + 1)
        self.facts = CorpusFacts(sample_rate, labels={}, unlabelled=False, clip_length=None)

    def train_dataloader(self) -> DataLoader:
        audio = torch.randint(-(2**15), 2**15, self.shape, dtype=torch.int16)
        scored = torch.tensor([[0, self.shape[1] - 1]]).expand(len(audio), 2)
        batch = {"audio": audio, "scored": scored, "labels": {}}
        return DataLoader([batch] * 10_000, batch_size=None)


class Clock(pl.Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def pin(process: int) -> None:
    """Binds a process to one core, if the system supports it."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        # Lightning starts the other processes from this one, and they inherit its single core: the
        # environment variable passes all cores on to them.
        mine = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        cores = os.environ.setdefault("BENCHMARK_CORES", mine).split(",")
        os.sched_setaffinity(0, {int(cores[process % len(cores)])})


def train_in_parallel(args: argparse.Namespace) -> None:
    """Trains in this process; Lightning starts the others with the same command line."""
    pin(int(os.environ.get("LOCAL_RANK", 0)))
    model, clock = network(args.config), Clock()
    settings = model.config.settings()
    lit = LitWaveNet(**{**settings, "labels": None, "sample_rate": None}, warmup_steps=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=args.workers,
        strategy="ddp" if args.workers > 1 else "auto",
        precision=default_precision("cpu"),
        callbacks=[clock],
        max_steps=2 + args.steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(lit, RandomAudio(args.batch, args.width, model.sample_rate))
    if trainer.is_global_zero:
        seconds = (clock.times[-1] - clock.times[1]) / args.steps
        speed = args.workers * args.batch * args.width / seconds
        print(json.dumps({"processes": args.workers, "samples_per_s": speed}))


def scaling(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One process on one core, then N with one core each, with the same batch size per process."""
    names = ("config", "batch", "width", "steps")
    sizes = [f"--{name}={getattr(args, name)}" for name in names]
    rows = []
    for workers in (1, args.processes):
        command = [sys.executable, __file__, f"--workers={workers}", *sizes]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        row["efficiency"] = row["samples_per_s"] / workers / rows[0]["samples_per_s"]
        print(
            f"{row['processes']} processes {row['samples_per_s']:>12,.0f} samples/s "
            f"{row['efficiency']:7.1%} of linear scaling"
        )
    return rows


# --- The command ---


def possible(args: argparse.Namespace) -> list[Way]:
    """The ways that this device supports: bfloat16 if it computes in it, fused blocks on a GPU."""
    bfloat16 = args.device == "cuda" or default_precision("cpu") == "bf16-mixed"
    ways = [
        way
        for way in WAYS
        if (bfloat16 or way.dtype != BF16) and (args.device == "cuda" or not way.fused)
    ]
    return [ways[index] for index in args.only] if args.only else ways


def compare(args: argparse.Namespace) -> dict[str, Any]:
    device, model, ways = torch.device(args.device), network(args.config), possible(args)
    torch.set_num_threads(args.threads)
    dtype = BF16 if any(way.dtype == BF16 for way in ways) else torch.float32
    best = bound(model, device, dtype, args.repeats)
    print(
        f"{args.config}: {model.num_parameters / 1e6:.2f} M parameters, "
        f"batch {args.batch} x {args.width}, {args.device}\n"
        f"{best['flop_per_sample'] / 1e6:.2f} MFLOP and {best['bytes_per_sample'] / 1e3:.1f} KB "
        f"per sample; measured {best['flop_per_s'] / 1e12:.2f} TFLOP/s and "
        f"{best['bytes_per_s'] / 1e9:.0f} GB/s: {best['arithmetic_samples_per_s']:,.0f} and "
        f"{best['memory_samples_per_s']:,.0f} samples/s at most\n"
    )
    # A generator, not a list: each row is printed as soon as it is measured.
    rows: list[dict[str, Any]] = []
    alone = measure if device.type == "cuda" else in_its_own_process
    measured = measure_in_turns(ways, args) if args.turns else (alone(way, args) for way in ways)
    for way, row in zip(ways, measured, strict=True):
        row["to_plain"] = row["samples_per_s"] / (rows or [row])[0]["samples_per_s"]
        row["of_bound"] = row["samples_per_s"] / best["samples_per_s"]
        rows.append(row)
        peak = "" if args.turns else f" {row['peak_bytes'] / 2**20:>9,.0f} MiB"
        print(
            f"{way.name:<28} {row['samples_per_s']:>12,.0f} samples/s "
            f"{row['to_plain']:6.2f} x plain {row['of_bound']:7.1%} of the bound{peak}  "
            f"first steps {row['first_steps_s']:.0f} s, loss {row['third_loss']:.4f}",
            flush=True,
        )
    return {"bound": best, "rows": rows}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Speed of the training step, one optimisation after the other."
    )
    parser.add_argument("--config", default="reference")
    parser.add_argument("--batch", type=int, default=8, help="rows per step, in each process")
    parser.add_argument("--width", type=int, default=16384, help="samples per row")
    parser.add_argument("--steps", type=int, default=5, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=3, help="repeats; the fastest one counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--only", type=int, nargs="+", help="numbers of the rows, from 0; the first is the baseline"
    )
    parser.add_argument(
        "--turns",
        action="store_true",
        help="time all rows in one process, alternating; without memory",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="measure data-parallel scaling over this many processes instead",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for training.json or training-parallel.json"
    )
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.workers:
        train_in_parallel(args)
        return
    results = {"scaling": scaling(args)} if args.processes > 1 else compare(args)
    device = torch.cuda.get_device_name() if args.device == "cuda" else machine()["cpu"]
    sizes = {name: getattr(args, name) for name in ("config", "batch", "width", "steps", "threads")}
    summary = {"benchmark": "training", "device": device, **machine(), **sizes, **results}
    print(json.dumps(summary))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        name = "training-parallel.json" if args.processes > 1 else "training.json"
        (args.out / name).write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
