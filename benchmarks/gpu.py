"""All benchmarks that need a GPU, in one command of some minutes: correctness first, then speed.

    python benchmarks/gpu.py --out benchmarks/results

Without a GPU, the same code runs at toy sizes on a CPU; its figures mean nothing:

    TRITON_INTERPRET=1 python benchmarks/gpu.py --rehearse

- right: codes of the Triton engine against float64, and bits per sample in bfloat16 against
  float32.
- sampling: the Triton engine with every tile, and the torch engine with its CUDA graph, for several
  batches; samples/s of all streams together and of one stream, with the bound of the tensor cores.
- learning: the last losses of plain and of fast training from the same two seeds.
- training: benchmarks/training.py, one optimisation after the other.

If a part fails, its error is printed and the next part runs. Prints tables and a JSON line; with
--out, writes gpu.json after every part.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import training
from generation import best, machine, network, products
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
# batch, dtype, tile, warps; the engine itself chooses the first of each batch
TILES = [
    *((1, BF16, tile, warps) for tile in (1, 16) for warps in (4, 8)),
    (1, F32, 1, 4),
    (132, BF16, 1, 4),
    (132, BF16, 16, 4),
    (2112, BF16, 16, 4),
    (2112, BF16, 16, 8),
    (2112, F32, 16, 4),
    (4224, BF16, 32, 8),
    (4224, BF16, 16, 4),
    (8448, BF16, 64, 8),
    (8448, BF16, 16, 4),
]
TOY = [(1, F32, 1, 4), (3, BF16, 16, 4)]
GRAPHED = [1, 64, 1024]


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


# --- Correctness ---


def right(args: argparse.Namespace) -> dict[str, Any]:
    model, rows = model_of(args), []
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
        rows.append(row)
        print(
            "batch {batch:>3} tile {tile:>2}: {codes} codes, {on_an_edge} differ from float64, "
            "{wrong} of them by more than rounding\n"
            "    bits {float32:.5f}, in bfloat16 {bfloat16:.5f} ({bfloat16_costs:+.3%})".format(
                **row
            )
        )
    return {"rows": rows}


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


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    model, rows = model_of(args), []
    flops, copied = training.limits(torch.device(args.device), BF16, 3)
    weights = sum(products(model))
    print(
        f"{weights * 2 / 1e6:.2f} MB of bfloat16 weights, "
        f"{2 * weights / 1e6:.2f} MFLOP per sample\n"
        f"tensor cores: {flops / 2 / weights:,.0f} samples/s at most; "
        f"copies run at {copied / 1e9:.0f} GB/s"
    )
    for batch in [1, 2] if args.rehearse else GRAPHED:
        build: Callable[[], Engine] = partial(CachedEngine, take_apart(model), batch, F32)
        rows.append(timed("cached", build, batch, F32, {}, args))
    for batch, dtype, tile, warps in TOY if args.rehearse else TILES:
        shape = {"tile": tile, "num_warps": warps, "chosen": tile == tile_for(batch)}
        build = partial(TritonEngine, take_apart(model), batch, dtype, tile=tile, num_warps=warps)
        rows.append(timed("triton", build, batch, dtype, shape, args))
    return {"weights": weights, "tensor_core_samples_per_s": flops / 2 / weights, "rows": rows}


def timed(
    name: str,
    build: Callable[[], Engine],
    batch: int,
    dtype: torch.dtype,
    shape: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, Any]:
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
    except (ValueError, RuntimeError) as error:
        print(f"{row}: {error}", flush=True)
        return {**row, "error": str(error)}
    row |= {"samples_per_s": batch * samples / seconds, "each_stream_per_s": samples / seconds}
    options = ", ".join(f"{key} {value}" for key, value in shape.items())
    print(
        f"{name:<7} batch {batch:>5} {row['precision']:<9} {row['samples_per_s']:>14,.0f} "
        f"samples/s, each stream {row['each_stream_per_s']:>9,.0f}  "
        f"ready in {row['ready_s']:.1f} s  {options}",
        flush=True,
    )
    return row


# --- Learning ---


def learning(args: argparse.Namespace) -> dict[str, Any]:
    """The mean loss in bits over the last tenth of plain and of fast runs with the same seeds."""
    steps, rows = (4 if args.rehearse else 2000), []
    for way in [training.WAYS[0], training.WAYS[5 if args.device == "cpu" else -1]]:
        for seed in (0, 1):
            rows.append(
                {"way": way.name.strip(), "seed": seed, "bits": learned(way, seed, steps, args)}
            )
            print("{way:<16} seed {seed}: {bits:.4f} bits".format(**rows[-1]), flush=True)
    return {"steps": steps, "rows": rows}


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


def speed_of_training(args: argparse.Namespace) -> dict[str, Any]:
    full = {"batch": 8, "width": 16384, "steps": 5, "repeats": 3}
    toy = {"batch": 1, "width": 256, "steps": 1, "repeats": 1}
    config, only = ("default", [0, 5]) if args.rehearse else ("reference", None)
    settings = argparse.Namespace(
        **(toy if args.rehearse else full),
        threads=torch.get_num_threads(),
        device=args.device,
        config=config,
        only=only,
        turns=False,
    )
    return training.compare(settings)


PARTS = {"right": right, "sampling": sampling, "learning": learning, "training": speed_of_training}


def main() -> None:
    parser = argparse.ArgumentParser(description="All benchmarks that need a GPU, in one command.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--rehearse", action="store_true", help="toy sizes on the CPU; needs TRITON_INTERPRET=1"
    )
    parser.add_argument("--out", type=Path, help="folder for gpu.json")
    args = parser.parse_args()
    args.device = "cpu" if args.rehearse else "cuda"
    name = machine()["cpu"] if args.rehearse else torch.cuda.get_device_name()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    summary: dict[str, Any] = {
        "benchmark": "gpu",
        "device": name,
        **machine(),
        "rehearsal": args.rehearse,
    }
    for part in args.parts:
        print(f"\n== {part}", flush=True)
        start = time.perf_counter()
        try:
            summary[part] = PARTS[part](args)
        except Exception as error:  # a failing part must not lose the results of the others
            traceback.print_exc()
            summary[part] = {"error": repr(error)}
        summary[part]["seconds"] = time.perf_counter() - start
        print(f"-- {summary[part]['seconds']:.0f} s", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "gpu.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
