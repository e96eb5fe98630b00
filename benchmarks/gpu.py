"""All benchmarks that need a GPU, in one command of eight minutes at most, the most wanted first.

    python benchmarks/gpu.py --out benchmarks/results

Without a GPU, the same code runs at toy sizes on a CPU; its figures mean nothing:

    TRITON_INTERPRET=1 python benchmarks/gpu.py --rehearse

- training: a step of benchmarks/training.py: plain, compiled without fused blocks, with them, and
  what lies between.
- sampling: the Triton engine by tile, warps and stages, and the cached engine with its CUDA graph,
  for several batches; samples/s of all streams together and of one stream, with the bound of the
  tensor cores.
- exactness: codes of the Triton engine against float64, and bits per sample in bfloat16 against
  float32.
- learning: the last losses of plain and of fast training from the same two seeds.

Each part is a process of its own with its own time. Every row is added to gpu.jsonl in the folder
of --out as soon as it is measured, behind a row of the machine. The status says what failed, as a
sum: 1 training, 2 sampling, 4 exactness, 8 learning; 16 where there is no GPU.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import training
from generation import best, machine, network, products
from parts import Part, append, run_parts
from torch import Tensor

from wavenet import Sampling, WaveNet
from wavenet.engines import Engine, take_apart
from wavenet.engines.cached import CachedEngine
from wavenet.engines.triton.engine import TritonEngine, tile_for
from wavenet.ops import cross_entropy
from wavenet.training.module import training_loss

F32, BF16 = torch.float32, torch.bfloat16
NAMES = {F32: "float32", BF16: "bfloat16"}
EDGE = 1e-5  # of the CDF: the error allowed to float32 and its sums
MINUTES = 8.0
PARTS = [Part("training", 170), Part("sampling", 130), Part("exactness", 60), Part("learning", 120)]
NO_GPU = 16  # the status


class Row(NamedTuple):
    """Of the Triton engine."""

    batch: int
    dtype: torch.dtype
    tile: int
    warps: int = 4
    stages: int = 2


ROWS = [
    *(Row(1, BF16, tile, stages=stages) for tile in (1, 16) for stages in (2, 3)),
    Row(1, F32, 1),
    Row(132, BF16, 1),
    Row(132, BF16, 16),
    Row(2112, BF16, 16),
    Row(2112, BF16, 16, stages=3),
    Row(4224, BF16, 32, warps=8),
    Row(8448, BF16, 64, warps=8),
    *(Row(1, BF16, tile, warps=8) for tile in (1, 16)),
    Row(2112, BF16, 16, warps=8),
    Row(2112, F32, 16),
    Row(4224, BF16, 16),
    Row(8448, BF16, 16),
]
TOY = [Row(1, F32, 1), Row(3, BF16, 16, stages=3)]
GRAPHED = [1, 64, 1024]
# The three that decide come first: plain, compiled, compiled with fused blocks.
WAYS = [training.WAYS[number] for number in (0, 6, 7, 5, 4, 3)]
MOST_WORSE = 0.02  # bits by which the fast way may end above the plain one


def model_of(args: argparse.Namespace) -> WaveNet:
    """The reference model with logits scaled to look trained.

    Its codes are neither noise nor always the same.
    """
    torch.manual_seed(0)
    sizes = {
        "cycles": 1,
        "layers_per_cycle": 2,
        "residual_channels": 16,
        "gate_channels": 16,
        "skip_channels": 16,
    }
    model = WaveNet(**sizes) if args.rehearse else network("reference")
    with torch.no_grad():
        for block in model.stack.blocks:
            block.dilated.weight.mul_(2)
        model.head[3].weight.mul_(2 / model(torch.randint(256, (4, 200))).std())
    return model.to(args.device).eval()


# --- Exactness ---


def exactness(args: argparse.Namespace) -> bool:
    """Whether no code differs by more than rounding."""
    model, right = model_of(args), True
    samples = 20 if args.rehearse else 2000
    shapes = ((2, 1), (16, 16)) if args.rehearse else ((1, 1), (64, 1), (64, 16), (64, 64))
    for batch, tile in shapes:
        generator = torch.Generator().manual_seed(1)
        uniforms = torch.rand(batch, samples, generator=generator).to(args.device)
        codes = TritonEngine(take_apart(model), batch, F32, tile=tile).sample(uniforms, Sampling())
        silence = torch.full_like(codes[:, :1], model.codec.silence)
        inputs = torch.cat([silence, codes[:, :-1]], dim=1)
        different, wrong = compared(model, inputs, codes, uniforms)
        bits = {
            NAMES[kind]: forced_bits(TritonEngine(take_apart(model), batch, kind, tile=tile), codes)
            for kind in (F32, BF16)
        }
        row = {
            "batch": batch,
            "tile": tile,
            "codes": codes.numel(),
            "on_an_edge": different,
            "wrong": wrong,
            **bits,
            "bfloat16_costs": bits["bfloat16"] / bits["float32"] - 1,
        }
        right = right and wrong == 0
        append({"part": "exactness", **row})
        print(
            "batch {batch:>3} tile {tile:>2}: {codes} codes, {on_an_edge} differ from float64, "
            "{wrong} of them by more than rounding\n"
            "    bits {float32:.5f}, in bfloat16 {bfloat16:.5f} ({bfloat16_costs:+.3%})".format(
                **row
            ),
            flush=True,
        )
    return right


@torch.no_grad()
def compared(model: WaveNet, inputs: Tensor, codes: Tensor, uniforms: Tensor) -> tuple[int, int]:
    """How many codes differ from those that float64 draws, and how many by more than rounding.

    Rounding explains a difference if the uniform number is within EDGE of an edge of the CDF.
    """
    exact, different, wrong = (
        type(model)(**model.config.settings()).to(inputs.device).double(),
        0,
        0,
    )
    exact.load_state_dict(model.state_dict())
    for before, drawn, uniform in zip(
        inputs.split(4), codes.split(4), uniforms.split(4), strict=True
    ):
        logits = exact(before).transpose(1, 2).flatten(0, 1)
        u, code = uniform.double().flatten(), drawn.flatten()
        low, middle, high = (
            Sampling().draw(logits, (u + shift).clamp(0, 1)) for shift in (-EDGE, 0.0, EDGE)
        )
        different += int((middle != code).sum())
        wrong += int(((code < low) | (code > high)).sum())
    return different, wrong


def forced_bits(engine: TritonEngine, codes: Tensor) -> float:
    pieces = [
        cross_entropy(engine.teacher_forced(piece), piece).double()
        for piece in codes.split(500, dim=1)
    ]
    return float(torch.cat(pieces, dim=1).mean() / torch.log(torch.tensor(2.0)))


# --- Sampling ---


def sampling(args: argparse.Namespace) -> bool:
    """Whether every row ran that the engine would choose by itself."""
    model = model_of(args)
    flops, copied = training.limits(torch.device(args.device), BF16, 3)
    weights = sum(products(model))
    print(
        f"{weights * 2 / 1e6:.2f} MB of bfloat16 weights, "
        f"{2 * weights / 1e6:.2f} MFLOP per sample\n"
        f"tensor cores: {flops / 2 / weights:,.0f} samples/s at most; "
        f"copies run at {copied / 1e9:.0f} GB/s",
        flush=True,
    )
    bound = flops / 2 / weights
    append({"part": "sampling", "weights": weights, "tensor_core_samples_per_s": bound})
    ran = []
    for batch, dtype, tile, warps, stages in TOY if args.rehearse else ROWS:
        shape = {"tile": tile, "num_warps": warps, "num_stages": stages}
        build = partial(TritonEngine, take_apart(model), batch, dtype, **shape)
        shape["chosen"] = tile == tile_for(batch, torch.device(args.device))
        ran.append(timed("triton", build, batch, dtype, shape, args) or not shape["chosen"])
    for batch in [1, 2] if args.rehearse else GRAPHED:
        cached = partial(CachedEngine, take_apart(model), batch, F32)
        ran.append(timed("cached", cached, batch, F32, {}, args))
    return all(ran)


def timed(
    name: str,
    build: Callable[[], Engine],
    batch: int,
    dtype: torch.dtype,
    shape: dict[str, Any],
    args: argparse.Namespace,
) -> bool:
    """A row of an engine; False where it has an error in the place of its speed."""
    row: dict[str, Any] = {"engine": name, "batch": batch, "precision": NAMES[dtype], **shape}
    samples = 4 if args.rehearse else 200 if name == "cached" else 1000
    try:
        start = time.perf_counter()
        engine = build()
        row["ready_s"] = time.perf_counter() - start
        uniforms = torch.rand(batch, samples, device=args.device)
        seconds = best(
            lambda: (engine.sample(uniforms, Sampling()), training.synchronize(uniforms.device)), 3
        )
    except Exception as error:
        append({"part": "sampling", **row, "error": repr(error)})
        print(f"{row}: {error!r}", flush=True)
        return False
    row |= {"samples_per_s": batch * samples / seconds, "each_stream_per_s": samples / seconds}
    append({"part": "sampling", **row})
    options = ", ".join(f"{key} {value}" for key, value in shape.items())
    print(
        f"{name:<7} batch {batch:>5} {row['precision']:<9} {row['samples_per_s']:>14,.0f} "
        f"samples/s, each stream {row['each_stream_per_s']:>9,.0f}  "
        f"ready in {row['ready_s']:.1f} s  {options}",
        flush=True,
    )
    return True


# --- Learning ---


def learning(args: argparse.Namespace) -> bool:
    """The mean loss in bits over the last tenth of plain and of fast runs with the same seeds.

    Whether fast runs end as low as plain ones, but for MOST_WORSE.
    """
    steps, fast = (4, 5) if args.rehearse else (600, 6)
    ends = []
    for seed in (0, 1):
        for way in (training.WAYS[0], training.WAYS[fast]):
            bits = learned(way, seed, steps, args)
            ends.append(bits)
            name = way.name.strip()
            append({"part": "learning", "way": name, "seed": seed, "steps": steps, "bits": bits})
            print(f"{name:<16} seed {seed}: {bits:.4f} bits", flush=True)
    return all(quick <= plain + MOST_WORSE for plain, quick in zip(*[iter(ends)] * 2, strict=True))


def learned(way: training.Way, seed: int, steps: int, args: argparse.Namespace) -> float:
    device = torch.device(args.device)
    torch.compiler.reset()
    model = training.built("default" if args.rehearse else "reference", way, device)
    # `built` always gives the same weights: noise from the seed makes the networks differ.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_((1 + 0.1 * torch.randn(parameter.shape, generator=generator)).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_of = torch.compile(training_loss) if way.compiled else training_loss
    batch, width, losses = 4, 256 if args.rehearse else 4096, []
    scored = torch.tensor([[0, width]], device=device).expand(batch, 2)
    for step in range(steps):
        # 100 steps of warm-up, then constant, then linear decay over the last 30% of the steps
        share = min(1.0, (step + 1) / 100, (steps - step) / (0.3 * steps))
        optimizer.param_groups[0]["lr"] = 1e-3 * share
        random = torch.Generator().manual_seed(seed * 100_000 + step)
        codes = tones(batch, width + 1, random, model).to(device)
        with torch.autocast(device.type, BF16, enabled=way.dtype == BF16):
            loss = loss_of(model, codes, scored, {})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return float(torch.stack(losses[-max(1, steps // 10) :]).mean() / torch.log(torch.tensor(2.0)))


def tones(batch: int, time: int, generator: torch.Generator, model: WaveNet) -> Tensor:
    """Codes (B, T) of tones with three partials and a little noise; each row has another pitch."""
    pitch = 100 * 8 ** torch.rand(batch, 1, generator=generator)
    start = torch.rand(batch, 1, generator=generator)
    phase = 2 * torch.pi * (pitch * torch.arange(time) / model.sample_rate + start)
    audio = 0.3 * phase.sin() + 0.2 * (2 * phase).sin() + 0.1 * (3 * phase).sin()
    noise = 0.01 * torch.randn(batch, time, generator=generator)
    return model.codec.encode(audio + noise).to(torch.uint8)


# --- Training, and the command ---


def speed_of_training(args: argparse.Namespace) -> bool:
    """Whether every way ran."""
    full = {"batch": 8, "width": 16384, "steps": 5, "repeats": 3, "config": "reference"}
    toy = {"batch": 1, "width": 256, "steps": 1, "repeats": 1, "config": "default"}
    settings = argparse.Namespace(
        **(toy if args.rehearse else full), threads=torch.get_num_threads(), device=args.device
    )
    ran, plain = [], None
    for way in [WAYS[0], WAYS[3]] if args.rehearse else WAYS:
        try:
            row = training.measure(way, settings)
        except Exception as error:
            append({"part": "training", "way": way.name.strip(), "error": repr(error)})
            print(f"{way.name.strip()}: {error!r}", flush=True)
            ran.append(False)
            continue
        plain = plain or row["samples_per_s"]
        row |= {"way": f"{way.name.strip()} ({NAMES[way.dtype]})", "compiled": way.compiled}
        row |= {"fused": way.fused, "to_plain": row["samples_per_s"] / plain}
        append({"part": "training", **row})
        print(
            f"{row['way']:<40} {row['samples_per_s']:>12,.0f} samples/s {row['to_plain']:6.2f} x "
            f"plain, {row['peak_bytes'] / 2**20:,.0f} MiB, first steps "
            f"{row['first_steps_s']:.0f} s",
            flush=True,
        )
        ran.append(True)
    return all(ran)


WORK: dict[str, Callable[[argparse.Namespace], bool]] = {
    "training": speed_of_training,
    "sampling": sampling,
    "exactness": exactness,
    "learning": learning,
}


def status_of(failed: Sequence[str]) -> int:
    return sum(1 << place for place, part in enumerate(PARTS) if part.name in failed)


def run_all(args: argparse.Namespace) -> int:
    """Returns the status."""
    if not args.rehearse and not torch.cuda.is_available():
        print("There is no GPU that torch finds. At toy sizes: TRITON_INTERPRET=1 ... --rehearse")
        return NO_GPU
    name = machine()["cpu"] if args.rehearse else torch.cuda.get_device_name()
    folder = args.out or Path(tempfile.mkdtemp(prefix="gpu-benchmark-"))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "gpu.jsonl"
    append({"benchmark": "gpu", "device": name, **machine(), "rehearsal": args.rehearse}, file)
    parts = [part for part in PARTS if part.name in args.parts]
    more = ["--rehearse"] if args.rehearse else []
    failed = run_parts(
        parts,
        lambda part: [sys.executable, __file__, "--part", part, *more],
        file,
        60 * args.minutes,
    )
    print(f"\nrows: {file}; failed: {', '.join(failed) or 'nothing'}")
    print(json.dumps({"benchmark": "gpu", "rows": str(file), "failed": failed}))
    return status_of(failed)


def main() -> None:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description="All benchmarks that need a GPU, in one command.")
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all (%(default)s)")
    parser.add_argument(
        "--rehearse", action="store_true", help="toy sizes on the CPU; needs TRITON_INTERPRET=1"
    )
    parser.add_argument("--out", type=Path, help="folder for gpu.jsonl, to which rows are added")
    parser.add_argument("--part", choices=names, help=argparse.SUPPRESS)  # in its own process
    args = parser.parse_args()
    args.device = "cpu" if args.rehearse else "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sys.exit(run_all(args) if args.part is None else not WORK[args.part](args))


if __name__ == "__main__":
    main()
