"""Streaming a guitar amplifier in real time: blocks of 64 samples at 48 kHz, on one core.

    python benchmarks/realtime.py [--preset standard] [--block 64] [--repeats 20]

One row for each way to stream the same network with the same state: `step` in PyTorch, `step` under
torch.compile, `step` in ONNX Runtime, and the native engine, each through its own Python interface,
as whoever uses it would call it. Where pytorch-tcn is installed, a network of the same channels,
kernel size and dilations in it: its blocks have two convolutions each, so its weights are more. And
whole seconds at once: `forward` in PyTorch, and the native engine.

The ways take turns, and of each the best turn counts, in CPU time of all threads of the process: on
a machine that does other work too, the time on the wall would count that. Each is first compared
with `forward`. The weights are untrained, since the cost of a sample does not depend on them. A
real-time factor of 20: a twentieth of one core. The limit is that of multiply-adds in registers,
from benchmarks/limits.cpp, which takes its turns too; activations and everything else are not in
it. Prints a table and a JSON line.
"""

import argparse
import ctypes
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from generation import machine
from torch import Tensor

from wavenet.engines import build_streamer
from wavenet.engines.native.compiler import library
from wavenet.interop import nam, onnx

RATE = 48_000
LIMIT = "multiply-adds alone"
ROUNDS = 100_000  # of multiply-adds, a turn: about a millisecond
CLOSE = 1e-4  # to forward, relative to its loudest sample
Way = Callable[[Tensor], Tensor]  # the next block (1, 1, n) -> its output; it keeps the state


def stepped(step: Callable[..., Any], model: nam.NAM) -> Way:
    state = model.init_state(1)

    def process(x: Tensor) -> Tensor:
        nonlocal state
        y, state = step(x, state)
        return y

    return process


def in_onnx_runtime(model: nam.NAM, block: int) -> Way:
    """State tensors stay in ONNX Runtime: what came out is handed back as it is."""
    import numpy
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "step.onnx")
        onnx.export(model, path, torch.randn(1, 1, block))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        first = numpy.load(path.with_suffix(".npz"))
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(first[name])
            for name in first.files
            if name.startswith("state_")
        }
    states = list(values)
    names = ["y", *(f"new_{name}" for name in states)]

    def process(x: Tensor) -> Tensor:
        values["x"] = onnxruntime.OrtValue.ortvalue_from_numpy(x.numpy())
        y, *state = session.run_with_ort_values(names, values)
        values.update(zip(states, state, strict=True))
        return torch.from_numpy(y.numpy())

    return process


def in_pytorch_tcn(settings: nam.Settings) -> tuple[Way, int]:
    """The way, and how many weights it has."""
    from pytorch_tcn import TCN

    layers = [(array.channels, layer) for array in settings.arrays for layer in array.layers]
    network = TCN(
        num_inputs=1,
        num_channels=[channels for channels, _ in layers],
        kernel_size=layers[0][1].kernel_size,
        dilations=[layer.dilation for _, layer in layers],
        dropout=0.0,
        use_norm=None,
        activation="tanh",
        output_projection=1,
    ).eval()
    return lambda x: network(x, inference=True), sum(p.numel() for p in network.parameters())


def require_same(name: str, way: Way, model: nam.NAM, block: int) -> None:
    """Raises AssertionError where the first blocks are not those of `forward`."""
    x = torch.randn(1, 1, 5 * block, generator=torch.Generator().manual_seed(0))
    made = torch.cat([way(piece).clone() for piece in x.split(block, dim=-1)], dim=-1)
    expected = model(x)
    error = float((made - expected).abs().max() / expected.abs().max())
    assert error < CLOSE, f"{name} is off by {error:.1e} of the loudest sample"


def ways(model: nam.NAM, settings: nam.Settings, block: int) -> Iterator[tuple[str, int, Way]]:
    """Name, weights and way of each that can be imported here."""
    weights = sum(parameter.numel() for parameter in model.parameters()) + 1  # head_scale
    compiled = torch.compile(model.step, dynamic=False)
    same = {
        "step, PyTorch eager": lambda: stepped(model.step, model),
        "step, torch.compile": lambda: stepped(compiled, model),
        "step, ONNX Runtime": lambda: in_onnx_runtime(model, block),
        "native": lambda: build_streamer(model, engine="native").process,
    }
    for name, make in same.items():
        try:
            way = make()
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        require_same(name, way, model, block)
        yield name, weights, way
    try:
        way, weights = in_pytorch_tcn(settings)
    except ImportError:
        print("pytorch-tcn: left out (pip install pytorch-tcn)")
    else:
        yield "pytorch-tcn, PyTorch eager", weights, way


def best_in_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest of `repeats`, each right after a turn that warms the caches."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            work()
            begun = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - begun)
    return best


def multiply_adds() -> tuple[Callable[[], object], int]:
    """A turn of nothing but multiply-adds, and how many they are."""
    limits = library(Path(__file__).with_name("limits.cpp"), {})
    limits.multiply_add.argtypes = [ctypes.c_int64, ctypes.c_float]
    return lambda: limits.multiply_add(ROUNDS, 0.5), ROUNDS * limits.multiply_adds_per_round()


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    settings = nam.PRESETS[args.preset]
    model = nam.NAM(settings, sample_rate=RATE).eval()
    count, second = args.blocks, torch.randn(1, 1, RATE)
    blocks = list(torch.randn(1, 1, count * args.block).split(args.block, dim=-1))
    found = list(ways(model, settings, args.block))
    amp = build_streamer(model, engine="native")
    whole = {
        "forward, PyTorch eager": lambda: model(second),
        "native": lambda: amp.process(second),
    }
    in_blocks = {name: (lambda way=way: [way(block) for block in blocks]) for name, _, way in found}
    sizes = {name: weights for name, weights, _ in found}
    limiting, adds = multiply_adds()
    for what, works, samples in (
        (f"blocks of {args.block}", in_blocks, count * args.block),
        ("a second at once", whole, RATE),
    ):
        best = best_in_turns({LIMIT: limiting, **works}, args.repeats)
        limit = adds / best.pop(LIMIT)
        for name, seconds in best.items():
            weights = sizes.get(name, sizes["native"])
            yield {
                "what": what,
                "way": name,
                "weights": weights,
                "us_a_block": seconds / samples * args.block * 1e6,
                "real_time": samples / RATE / seconds,
                "multiply_adds_per_s": limit,
                "of_multiply_adds": weights * samples / seconds / limit,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description="Real-time factors of a streamed amplifier.")
    parser.add_argument("--preset", default="standard", choices=list(nam.PRESETS))
    parser.add_argument("--block", type=int, default=64, help="samples")
    parser.add_argument("--blocks", type=int, default=32, help="of a turn")
    parser.add_argument("--repeats", type=int, default=20, help="turns")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        table = list(rows(args))
    limit = max(row["multiply_adds_per_s"] for row in table)
    real_time = limit / (table[0]["weights"] * RATE)
    print(f"\n{args.preset}, {RATE} Hz, one core of {limit / 1e9:.1f} G multiply-adds/s:")
    print(f"{real_time:.0f} times real time, were there nothing but multiply-adds")
    for row in table:
        print(
            "{what:<18} {way:<28} {weights:>7,} weights {us_a_block:>8.1f} us a block "
            "{real_time:>7.2f} x real time {of_multiply_adds:>6.1%} of multiply-adds".format(**row)
        )
    summary = {"benchmark": "realtime", **machine(), "preset": args.preset, "block": args.block}
    print(json.dumps({**summary, "rows": table}))


if __name__ == "__main__":
    main()
