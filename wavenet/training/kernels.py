"""Owns the block as Triton kernels, for training on CUDA: `fuse(model)`.

`Block.unit` of the paper's block in one pass over the features: all taps, bias, condition, gate,
residual product and sum. It reads x and writes the residual and z; what lies before the gate is
never in memory. The backward computes that again from x: one kernel from the gradients of residual
and z to dh, the gradient before the gate, and one from dh to dx. The weights' gradients are
products of torch's. Knows nothing of steps, engines or losses.

Shapes: B batch, T time, C residual channels, G gate channels, K taps. Features are rows, (B, T, C).
taps is (K, C, 2G), the filter's half first: tap k sees x[t - (K - 1 - k) * dilation]. mix is
(G, C), the residual's 1x1 convolution.

Operands in bfloat16 or float32, sums in float32; in Triton's interpreter (TRITON_INTERPRET=1, on
the CPU) in float64 too.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from wavenet.layers import (
    Added,
    Block,
    CausalConv1d,
    Gated,
    PassThrough,
    Residual,
    Stack,
    Unconditional,
    check_features,
)
from wavenet.machine import on_device
from wavenet.triton_common import (
    INTERPRETED,
    Resources,
    compiled_resources,
    padded,
    product,
    tanh,
)

CHUNK = 128  # bytes of one operand's row in a product
SUMS = 8192  # values of a tile of sums, times x channels


def fuse(model: nn.Module) -> None:
    """From now on the stacks in `model` compute their blocks' `unit` here.

    Parameters, names and meaning stay the same. Raises ValueError for a block that has other parts
    than the paper's, naming the part.
    """
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    for stack in stacks:
        for index, block in enumerate(stack.blocks):
            _require_the_papers_block(index, block)
    for stack in stacks:
        stack.unit = fused_unit


def _require_the_papers_block(index: int, block: Block) -> None:
    kinds = {
        "dilated": (CausalConv1d,),
        "steer": (Added, Unconditional),
        "gate": (Gated,),
        "mix": (Residual, PassThrough),
    }
    for name, allowed in kinds.items():
        part = getattr(block, name)
        if type(part) not in allowed:
            raise ValueError(
                f"The fused kernel computes blocks whose {name} is "
                f"{' or '.join(kind.__name__ for kind in allowed)}, but block {index} has "
                f"{type(part).__name__}. Train it with --model.fused false."
            )
    if block.dropout:
        raise ValueError(
            f"The fused kernel has no dropout, but block {index} has one of {block.dropout}. Train "
            "it with --model.fused false, or --model.dropout 0."
        )
    if block.dilated.groups != 1 or block.dilated.bias is None:
        raise ValueError(
            f"The fused kernel computes convolutions with a bias and without groups, but block "
            f"{index} has {block.dilated}. Train it with --model.fused false."
        )


def fused_unit(block: Block, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """`Block.unit` as one kernel forward and two backward.

    Away from a GPU, and in float64, it is the plain one, so that a copy of the model moved there
    works; but for Triton's interpreter.
    """
    if not INTERPRETED and (x.device.type != "cuda" or x.dtype == torch.float64):
        return block.unit(x, condition)
    check_features(x, block.dilated.in_channels)
    dtype = _operand_dtype(x)
    steering, mix = _steering(block, x, condition), block.mix
    last = isinstance(mix, PassThrough)
    residual, z = residual_unit(
        x.mT.to(dtype).contiguous(),
        block.dilated.weight.to(dtype).permute(2, 1, 0).contiguous(),
        block.dilated.bias.to(dtype),
        None if steering is None else steering.mT.to(dtype).contiguous(),
        None if last else mix.weight.to(dtype).squeeze(-1).t().contiguous(),
        None if last else mix.bias.to(dtype),
        block.dilated.dilation[0],
        1.0 if last else mix.scale,
    )
    return x if last else residual.mT, z.mT


def _steering(block: Block, x: Tensor, condition: Tensor | None) -> Tensor | None:
    """What is added before the gate, (B, 2G, T or 1); None for a block without a condition."""
    if isinstance(block.steer, Added):
        return block.steer.steering(condition, x.shape[-1])
    block.steer(x, condition)  # refuses a condition
    return None


def _operand_dtype(x: Tensor) -> torch.dtype:
    """What F.linear would compute in: autocast's dtype where that is on, or x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# --- What torch sees: an operator, its shapes and its gradients ---------------------------------


@torch.library.custom_op("wavenet::residual_unit", mutates_args=())
def residual_unit(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    mix_bias: Tensor | None,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """x (B, T, C), bias (2G,), condition (B, T or 1, 2G) -> residual (B, T, C), z (B, T, G).

    All are contiguous and of one dtype.
    Without mix (the last block of a stack) there is no residual: it is empty, of shape (0,).
    """
    residual, z = _empty_outputs(x, taps, bias, condition, mix)
    _forward_launch(x, taps, bias, condition, mix, mix_bias, residual, z, dilation, scale).run(
        _forward_kernel
    )
    return residual, z


@residual_unit.register_fake
def _empty_outputs(
    x: Tensor, taps: Tensor, bias: Tensor, condition: Tensor | None, mix: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    z = x.new_empty((x.shape[0], x.shape[1], taps.shape[2] // 2))
    return x.new_empty(0) if mix is None else x.new_empty(x.shape), z


@torch.library.custom_op("wavenet::residual_unit_backward", mutates_args=())
def residual_unit_backward(
    d_residual: Tensor,
    d_z: Tensor,
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of residual (B, T, C) and z (B, T, G) -> those of x and of the gate's input.

    x (B, T, C); the gate's input (B, T, 2G).
    """
    dx, dh = _empty_gradients(d_residual, d_z, x, taps)
    d_residual = d_residual.contiguous()
    # A stack's is a slice of all blocks' gradients, which is not copied.
    d_z = d_z if d_z.stride(-1) == 1 else d_z.contiguous()
    _gate_backward_launch(d_residual, d_z, x, taps, bias, condition, mix, dh, dilation, scale).run(
        _gate_backward_kernel
    )
    _input_backward_launch(dh, taps, mix, d_residual, dx, dilation, scale).run(
        _input_backward_kernel
    )
    return dx, dh


@residual_unit_backward.register_fake
def _empty_gradients(
    d_residual: Tensor, d_z: Tensor, x: Tensor, taps: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((x.shape[0], x.shape[1], taps.shape[2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, taps, bias, condition, mix, _, ctx.dilation, ctx.scale = inputs
    ctx.save_for_backward(x, taps, bias, condition, mix, output[1])


def _gradients(ctx: Any, d_residual: Tensor, d_z: Tensor) -> tuple[Tensor | None, ...]:
    x, taps, bias, condition, mix, z = ctx.saved_tensors
    dx, dh = residual_unit_backward(
        d_residual, d_z, x, taps, bias, condition, mix, ctx.dilation, ctx.scale
    )
    delays = [(len(taps) - 1 - tap) * ctx.dilation for tap in range(len(taps))]
    d_taps = torch.stack([_delayed_product(x, dh, delay) for delay in delays])
    row = dh.sum(1, keepdim=True, dtype=d_taps.dtype)
    d_condition = None if condition is None else (dh if condition.shape[1] == dh.shape[1] else row)
    d_mix = d_mix_bias = None
    if mix is not None:
        d_mix = _product(z.flatten(0, 1).t(), d_residual.flatten(0, 1)) * ctx.scale
        d_mix_bias = d_residual.sum((0, 1), dtype=d_mix.dtype) * ctx.scale
    found = (d_taps, row.sum((0, 1)), d_condition, d_mix, d_mix_bias)
    return dx, *(None if d is None else d.to(x.dtype) for d in found), None, None


residual_unit.register_autograd(_gradients, setup_context=_save)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of bfloat16 in float32: what thousands of samples add up to is rounded once."""
    if a.dtype != torch.bfloat16:
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _delayed_product(x: Tensor, dh: Tensor, delay: int) -> Tensor:
    """sum over b and t >= delay of x[b, t - delay]^T dh[b, t]: (B, T, C), (B, T, 2G) -> (C, 2G).

    One large product over all rows end to end, without a shifted copy, less the pairs that reach
    into the row before, both in float32:

        delay 2     x   a b c d | e f g h
                    dh      A B C D | E F G H      c with E and d with F are taken off again
    """
    batch, time, channels = x.shape
    if delay >= time:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x.new_zeros(channels, dh.shape[-1], dtype=dtype)
    product = _product(x.flatten(0, 1)[: batch * time - delay].t(), dh.flatten(0, 1)[delay:])
    if delay == 0 or batch == 1:
        return product
    return product - _product(
        x[:-1, time - delay :].flatten(0, 1).t(), dh[1:, :delay].flatten(0, 1)
    )


# --- How a kernel is launched -------------------------------------------------------------------


class Launch(NamedTuple):
    """One program a tile of times and batch row, on the device of its tensors."""

    grid: tuple[int, int]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    device: torch.device

    def run(self, kernel: Any) -> None:
        with on_device(self.device):
            kernel[self.grid](*self.arguments, **self.constants, num_warps=self.warps)


def _forward_launch(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    mix_bias: Tensor | None,
    residual: Tensor,
    z: Tensor,
    dilation: int,
    scale: float,
) -> Launch:
    steering = (condition, _time_stride(condition))
    return _launch(
        x, taps, x, taps, bias, *steering, mix, mix_bias, residual, z, x.shape[1], dilation, scale
    )


def _gate_backward_launch(
    d_residual: Tensor,
    d_z: Tensor,
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    dh: Tensor,
    dilation: int,
    scale: float,
) -> Launch:
    steering, slices = (condition, _time_stride(condition)), (d_z, d_z.stride(0), d_z.stride(1))
    return _launch(
        x, taps, d_residual, *slices, x, taps, bias, *steering, mix, dh, x.shape[1], dilation, scale
    )


def _input_backward_launch(
    dh: Tensor,
    taps: Tensor,
    mix: Tensor | None,
    d_residual: Tensor,
    dx: Tensor,
    dilation: int,
    scale: float,
) -> Launch:
    return _launch(
        dx, taps, dh, taps, None if mix is None else d_residual, dx, dx.shape[1], dilation, scale
    )


def _time_stride(condition: Tensor | None) -> int:
    """Values from one time of a condition to the next; 0 where it is the same at all times."""
    return 0 if condition is None or condition.shape[1] == 1 else condition.shape[2]


def _launch(features: Tensor, taps: Tensor, *arguments: Any) -> Launch:
    batch, time, channels = features.shape
    kernel_size, _, gates = taps.shape[0], taps.shape[1], taps.shape[2] // 2
    whole = padded(channels)
    exact = features.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    tile = 32 if exact else 64
    # Without tensor cores a product lies in registers.
    chunk = 16 if exact else CHUNK // features.element_size()
    constants = {
        "C": channels,
        "G": gates,
        "K": kernel_size,
        "WIDTH": whole,
        "TIMES": max(16, min(tile, SUMS // whole)),
        "CHANNELS": min(chunk, whole),
        "GATES": min(chunk, padded(gates)),
        "SUM": tl.float64 if features.dtype == torch.float64 else tl.float32,
        "PRECISION": "ieee" if exact else "tf32",
    }
    return Launch(
        (triton.cdiv(time, constants["TIMES"]), batch),
        arguments,
        constants,
        8 if whole >= 128 else 4,
        features.device,
    )


def resources(
    channels: int, gates: int, kernel_size: int, dtype: torch.dtype, capability: int
) -> list[Resources]:
    """What the kernels take of a GPU of that compute capability (80, 90), for such a block.

    Needs no GPU.
    """
    sizes = {"x": (2, 1024, channels), "z": (2, 1024, gates), "dh": (2, 1024, 2 * gates)}
    x, z, dh = (torch.empty(size, dtype=dtype, device="meta") for size in sizes.values())
    taps, mix = x.new_empty(kernel_size, channels, 2 * gates), x.new_empty(gates, channels)
    bias, mix_bias, condition = taps[0, 0], mix[0], dh[:, :1]
    launches = {
        _forward_kernel: _forward_launch(x, taps, bias, condition, mix, mix_bias, x, z, 512, 0.5),
        _gate_backward_kernel: _gate_backward_launch(
            x, z, x, taps, bias, condition, mix, dh, 512, 0.5
        ),
        _input_backward_kernel: _input_backward_launch(dh, taps, mix, x, x, 512, 0.5),
    }
    return [_resources(kernel, launch, capability) for kernel, launch in launches.items()]


def _resources(kernel: Any, launch: Launch, capability: int) -> Resources:
    arguments = dict(zip(kernel.arg_names, launch.arguments, strict=False))
    return compiled_resources(
        kernel, arguments, launch.constants, capability, num_warps=launch.warps
    )


# --- The kernels --------------------------------------------------------------------------------
# WIDTH is C padded to a power of two, TIMES the times of a tile; CHANNELS and GATES are the
# channels of one product.


@triton.jit
def _tile(matrix, rows, columns, inside, width):
    """matrix[rows, columns] -> (rows, columns); zero where not `inside`, and past `width`."""
    mask = inside[:, None] & (columns < width)[None, :]
    return tl.load(matrix + rows[:, None] + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store(matrix, rows, columns, inside, width, values):
    mask = inside[:, None] & (columns < width)[None, :]
    tl.store(
        matrix + rows[:, None] + columns[None, :], values.to(matrix.dtype.element_ty), mask=mask
    )


@triton.jit
def _row(vector, columns, width):
    return tl.load(vector + columns, mask=columns < width, other=0.0)[None, :]


@triton.jit
def _before_gate(
    x, taps, bias, condition, condition_stride, t, T, gates, dilation,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Filter and gate before tanh and sigmoid at times t, (TIMES, GATES) each.

    Equation 3's sums, for some of the gates.
    """
    filter_ = tl.zeros([TIMES, GATES], SUM) + _row(bias, gates, G)
    gate = tl.zeros([TIMES, GATES], SUM) + _row(bias + G, gates, G)
    if condition is not None:
        filter_ += _tile(condition, t * condition_stride, gates, t < T, G)
        gate += _tile(condition + G, t * condition_stride, gates, t < T, G)
    for k in tl.static_range(K):
        then = t - (K - 1 - k) * dilation
        for c in range(0, C, CHANNELS):
            channels = c + tl.arange(0, CHANNELS)
            heard = _tile(x, then * C, channels, (then >= 0) & (t < T), C)
            rows = (k * C + channels) * 2 * G
            filter_ = product(heard, _tile(taps, rows, gates, channels < C, G), filter_, PRECISION)
            gate = product(heard, _tile(taps + G, rows, gates, channels < C, G), gate, PRECISION)
    return filter_, gate


@triton.jit(do_not_specialize=["dilation"])
def _forward_kernel(
    x, taps, bias, condition, condition_stride, mix, mix_bias, residual, z, T, dilation, scale,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t, batch = tl.program_id(0) * TIMES + tl.arange(0, TIMES), tl.program_id(1).to(tl.int64)
    x, z, residual = x + batch * T * C, z + batch * T * G, residual + batch * T * C
    if condition is not None:
        condition += batch * tl.maximum(T * condition_stride, 2 * G)
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([TIMES, WIDTH], SUM)
    for g in range(0, G, GATES):
        gates = g + tl.arange(0, GATES)
        filter_, gate = _before_gate(
            x, taps, bias, condition, condition_stride, t, T, gates, dilation,
            C, G, K, TIMES, CHANNELS, GATES, SUM, PRECISION,
        )  # fmt: skip
        here = (tanh(filter_) * tl.sigmoid(gate)).to(z.dtype.element_ty)
        _store(z, t * G, gates, t < T, G, here)
        if mix is not None:
            total = product(here, _tile(mix, gates * C, columns, gates < G, C), total, PRECISION)
    if mix is not None:
        total += _row(mix_bias, columns, C)
        total += _tile(x, t * C, columns, t < T, C)
        _store(residual, t * C, columns, t < T, C, total * scale)


@triton.jit(do_not_specialize=["dilation"])
def _gate_backward_kernel(
    d_residual, d_z, d_z_batch_stride, d_z_stride, x, taps, bias, condition, condition_stride,
    mix, dh, T, dilation, scale,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t, batch = tl.program_id(0) * TIMES + tl.arange(0, TIMES), tl.program_id(1).to(tl.int64)
    x, d_residual = x + batch * T * C, d_residual + batch * T * C
    d_z, dh = d_z + batch * d_z_batch_stride, dh + batch * T * 2 * G
    if condition is not None:
        condition += batch * tl.maximum(T * condition_stride, 2 * G)
    for g in range(0, G, GATES):
        gates = g + tl.arange(0, GATES)
        d_gated = tl.zeros([TIMES, GATES], SUM)
        if mix is not None:
            for c in range(0, C, CHANNELS):
                channels = c + tl.arange(0, CHANNELS)
                weights = tl.trans(_tile(mix, gates * C, channels, gates < G, C))
                d_gated = product(
                    _tile(d_residual, t * C, channels, t < T, C), weights, d_gated, PRECISION
                )
        d_gated = d_gated * scale + _tile(d_z, t * d_z_stride, gates, t < T, G)
        filter_, gate = _before_gate(
            x, taps, bias, condition, condition_stride, t, T, gates, dilation,
            C, G, K, TIMES, CHANNELS, GATES, SUM, PRECISION,
        )  # fmt: skip
        filter_, gate = tanh(filter_), tl.sigmoid(gate)
        _store(dh, t * 2 * G, gates, t < T, G, d_gated * gate * (1 - filter_ * filter_))
        _store(dh + G, t * 2 * G, gates, t < T, G, d_gated * filter_ * gate * (1 - gate))


@triton.jit(do_not_specialize=["dilation"])
def _input_backward_kernel(
    dh, taps, d_residual, dx, T, dilation, scale,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t, batch = tl.program_id(0) * TIMES + tl.arange(0, TIMES), tl.program_id(1).to(tl.int64)
    dh, dx = dh + batch * T * 2 * G, dx + batch * T * C
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([TIMES, WIDTH], SUM)
    for k in tl.static_range(K):
        later = t + (K - 1 - k) * dilation
        for g in range(0, 2 * G, GATES):
            gates = g + tl.arange(0, GATES)
            weights = tl.trans(_tile(taps, (k * C + columns) * 2 * G, gates, columns < C, 2 * G))
            total = product(
                _tile(dh, later * 2 * G, gates, later < T, 2 * G), weights, total, PRECISION
            )
    if d_residual is not None:
        total += _tile(d_residual + batch * T * C, t * C, columns, t < T, C).to(SUM) * scale
    _store(dx, t * C, columns, t < T, C, total)
