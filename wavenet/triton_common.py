"""Owns what the Triton kernels share, in training and in the engine: small functions and figures.

Triton is imported here, so this file is imported only where Triton is wanted. Knows no model.
"""

import re
import subprocess
import tempfile
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget

# Kernels run on the CPU, one tile after the other: for tests.
INTERPRETED: bool = triton.knobs.runtime.interpret
_INTERPRETED = tl.constexpr(INTERPRETED)  # as a kernel may see it


def padded(channels: int) -> int:
    return max(16, triton.next_power_of_2(channels))  # tl.dot multiplies no less than 16 x 16


class Resources(NamedTuple):
    kernel: str
    registers: int  # of a thread, at most 255
    spilled: int  # bytes of a thread that did not fit into registers
    shared: int  # bytes of a block
    loops: tuple["Loop", ...] = ()  # in the order of their beginnings


class Loop(NamedTuple):
    """Of a compiled kernel. At a barrier all warps of a program wait for the slowest."""

    depth: int  # 1: within no other loop
    barriers: int  # in its text, those of the loops within it too


def compiled_resources(
    kernel: Any,
    arguments: dict[str, Any],
    constants: dict[str, Any],
    capability: int,
    **options: int,
) -> Resources:
    """What a Triton kernel takes of a GPU, compiled for a compute capability (80, 90).

    arguments, constants: of a call, by name; their types and alignment count, not their values.
    Needs no GPU.
    """
    signature = {name: _signature(value) for name, value in arguments.items()} | dict.fromkeys(
        constants, "constexpr"
    )
    places = [
        kernel.arg_names.index(name)
        for name, value in arguments.items()
        if isinstance(value, Tensor)
    ]
    aligned = {(place,): [["tt.divisibility", 16]] for place in places}
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{name}:(\d+)", report)[-1]) for name in ("REG", "STACK"))
    name, loops = kernel.__name__.strip("_"), loops_of(compiled.asm["ptx"])
    return Resources(name, registers, stack, compiled.metadata.shared, loops)


def loops_of(ptx: str) -> tuple[Loop, ...]:
    """The loops of a kernel's PTX: from a label to the last jump back to it."""
    lines, labels, ends = ptx.splitlines(), dict[str, int](), dict[int, int]()
    for number, line in enumerate(lines):
        if label := re.match(r"(\$\w+):", line):
            labels[label[1]] = number
        jump = re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", line)
        if jump and jump[1] in labels:
            ends[labels[jump[1]]] = number
    barriers = [number for number, line in enumerate(lines) if re.search(r"\bbar\.sync\b", line)]
    return tuple(
        Loop(
            depth=sum(first <= begin and end <= last for first, last in ends.items()),
            barriers=sum(begin < number < end for number in barriers),
        )
        for begin, end in sorted(ends.items())
    )


def _signature(value: Tensor | int | float) -> str:
    if isinstance(value, Tensor):
        return {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    # The interpreter keeps bfloat16 as integers, and would multiply those.
    if _INTERPRETED and a.dtype == tl.bfloat16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1
