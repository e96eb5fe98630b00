"""Owns the block as Triton kernels, for training on CUDA: `fuse(model)`.

The paper's blocks of a stack, each in one pass over the features: all taps, bias, condition, gate,
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

from collections.abc import Sequence
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
    one_by_one,
)
from wavenet.layers.parts import checked_condition
from wavenet.layers.stack import Gates
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
    """From now on the stacks in `model` compute their blocks here.

    Parameters, names and meaning stay the same. Raises ValueError for a block that has other parts
    than the paper's, naming the part.
    """
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    for stack in stacks:
        for index, block in enumerate(stack.blocks):
            _require_the_papers_block(index, block)
        _require_alike(stack.blocks)
    for stack in stacks:
        stack.units = fused_units


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


def _require_alike(blocks: Sequence[Block]) -> None:
    """Since they are packed into one tensor of weights of each kind."""
    last = blocks[-1]
    for index, block in enumerate(blocks):
        mix, first = block.mix, blocks[0].mix
        same = all(
            kind(block) == kind(blocks[0])
            for kind in (
                lambda b: (b.dilated.weight.shape, b.dilated.weight.dtype),
                lambda b: (type(b.steer), b.condition_channels),
            )
        )
        if isinstance(mix, PassThrough):
            same = same and block is last
        else:
            same = same and (mix.bias is not None and mix.scale == first.scale)
        if not same:
            raise ValueError(
                f"The fused kernel computes stacks of blocks of one size, of which only the last "
                f"may be without a residual, but block {index} differs from block 0. Train it "
                "with --model.fused false."
            )


def fused_units(
    blocks: Sequence[Block], x: Tensor, condition: Tensor | None
) -> tuple[Tensor, Gates]:
    """As `one_by_one`, with z of all blocks side by side, (B, L * G, T).

    One kernel a block forward and two backward. Away from a GPU, and in float64, it is the plain
    way, so that a copy of the model moved there works; but for Triton's interpreter.
    """
    if not INTERPRETED and (x.device.type != "cuda" or x.dtype == torch.float64):
        return one_by_one(blocks, x, condition)
    check_features(x, blocks[0].dilated.in_channels)
    dtype = _operand_dtype(x)
    steering = _steering(blocks, x, condition, dtype)
    mixes = [block.mix for block in blocks if isinstance(block.mix, Residual)]
    residual, _, z = residual_units(
        x.mT.to(dtype).contiguous(),
        Packed.apply(dtype, (3, 2, 1), *(block.dilated.weight for block in blocks)),
        Packed.apply(dtype, (1,), *(block.dilated.bias for block in blocks)),
        steering,
        Packed.apply(dtype, (2, 1, 3), *(mix.weight for mix in mixes))[..., 0] if mixes else None,
        Packed.apply(dtype, (1,), *(mix.bias for mix in mixes)) if mixes else None,
        [block.dilated.dilation[0] for block in blocks],
        mixes[0].scale if mixes else 1.0,
    )
    return residual.mT if mixes else x, z.mT


def _steering(
    blocks: Sequence[Block], x: Tensor, condition: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """What is added before the gates, (B, T or 1, L * 2G); None for blocks without a condition."""
    steer = blocks[0].steer
    if not isinstance(steer, Added):
        steer(x, condition)  # refuses a condition
        return None
    condition = checked_condition(condition, steer.in_channels, x.shape[-1])
    weights = Packed.apply(dtype, (1, 2, 3), *(block.steer.weight for block in blocks))
    return condition.mT.to(dtype) @ weights.flatten(0, 1)[..., 0].t()


class Packed(torch.autograd.Function):
    """Weights of one shape, stacked, their axes in another order, in another dtype.

    In few launches for all of them, and so are their gradients: each is a piece of one tensor, laid
    out as its weight is. order: one that is its own inverse, of the axes from 1 on.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, order: tuple[int, ...], *weights: Tensor) -> Tensor:
        ctx.order, ctx.dtype = order, weights[0].dtype
        return _reordered(torch.stack(weights), order, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return None, None, *_reordered(gradient, ctx.order, ctx.dtype).unbind(0)


def _reordered(weights: Tensor, order: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Always a clone: a compiler loses track of views of a gradient, and of what is written to."""
    return weights.permute(0, *order).to(dtype).clone(memory_format=torch.contiguous_format)


def _operand_dtype(x: Tensor) -> torch.dtype:
    """What F.linear would compute in: autocast's dtype where that is on, or x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


# --- What torch sees: an operator, its shapes and its gradients ---------------------------------


@torch.library.custom_op("wavenet::residual_units", mutates_args=())
def residual_units(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    mix_bias: Tensor | None,
    dilations: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """All blocks of a stack, as far as z: the last residual (B, T, C), those before it, and z.

    x (B, T, C), taps (L, K, C, 2G), bias (L, 2G), condition (B, T or 1, L * 2G), mix (N, G, C),
    mix_bias (N, C), all contiguous and of one dtype. N is L, or L - 1 where the last block has no
    residual of its own. The residuals before the last are (N - 1, B, T, C), kept for the backward;
    z is (B, T, L * G). Without mix there is no residual: it is empty, of shape (0,).
    """
    residual, kept, z = _empty_outputs(x, taps, bias, condition, mix)
    features = [x, *kept, residual]
    for block, dilation in enumerate(dilations):
        own, own_bias = _of_block(mix, mix_bias, block)
        _forward_launch(
            features[block],
            taps[block],
            bias[block],
            None if condition is None else _slice(condition, taps, block),
            own,
            own_bias,
            features[block + 1] if own is not None else residual,
            _slice(z, taps, block),
            dilation,
            scale,
        ).run(_forward_kernel)
    return residual, kept, z


@residual_units.register_fake
def _empty_outputs(
    x: Tensor, taps: Tensor, bias: Tensor, condition: Tensor | None, mix: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    z = x.new_empty((x.shape[0], x.shape[1], len(taps) * (taps.shape[3] // 2)))
    if mix is None:
        return x.new_empty(0), x.new_empty((0, *x.shape)), z
    return x.new_empty(x.shape), x.new_empty((len(mix) - 1, *x.shape)), z


def _slice(values: Tensor, taps: Tensor, block: int) -> Tensor:
    """A block's own of (B, T, L * channels), or of a gradient of it."""
    return values.chunk(len(taps), dim=-1)[block]


def _of_block(
    mix: Tensor | None, mix_bias: Tensor | None, block: int
) -> tuple[Tensor | None, Tensor | None]:
    if mix is None or mix_bias is None or block >= len(mix):
        return None, None
    return mix[block], mix_bias[block]


@torch.library.custom_op("wavenet::residual_units_backward", mutates_args=())
def residual_units_backward(
    d_residual: Tensor | None,
    d_z: Tensor,
    x: Tensor,
    kept: Tensor,
    residual: Tensor,
    z: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    dilations: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the last residual and of z -> those of x and of all weights, of x's dtype.

    Of x, taps, bias, condition, mix and mix_bias; the last three are of shape (0,) where there are
    none.
    """
    features, over_time = [x, *kept, residual], condition is not None and condition.shape[1] > 1
    d_condition, d_mix, d_mix_bias = (x.new_empty(0) for _ in range(3))
    if condition is not None and over_time:
        d_condition = torch.empty_like(condition)  # each block's dh is its own of this
    else:
        dh = x.new_empty((x.shape[0], x.shape[1], taps.shape[3]))
    d_z = d_z if d_z.stride(-1) == 1 else d_z.contiguous()
    behind = None if d_residual is None else d_residual.contiguous()
    # From the last block to the first; what all have in common is done to all at once, below.
    of_taps, rows, of_mixes, of_mix_biases = (list[Tensor]() for _ in range(4))
    for block in reversed(range(len(taps))):
        here, own = features[block], _of_block(mix, mix, block)[0]
        if own is not None and behind is None:
            behind = torch.zeros_like(x)
        if over_time:
            dh = _slice(d_condition, taps, block)
        _gate_backward_launch(
            here if own is None or behind is None else behind,
            _slice(d_z, taps, block),
            here,
            taps[block],
            bias[block],
            None if condition is None else _slice(condition, taps, block),
            own,
            dh,
            dilations[block],
            scale,
        ).run(_gate_backward_kernel)
        dx = torch.empty_like(x)
        _input_backward_launch(dh, taps[block], own, behind, dx, dilations[block], scale).run(
            _input_backward_kernel
        )
        delays = [delay * dilations[block] for delay in range(taps.shape[1])]
        of_taps += [_delayed_product(here, dh, delay) for delay in delays]  # the last tap first
        rows.append(dh.sum(1, dtype=_sums(x)))
        if own is not None and behind is not None:
            after = behind.flatten(0, 1)
            of_mixes.append(_product(_slice(z, taps, block).flatten(0, 1).t(), after))
            of_mix_biases.append(after.sum(0, dtype=_sums(x)))
        elif behind is not None:  # the last block hands x on
            dx += behind
        behind = dx
    whole = torch.stack(rows[::-1])  # (L, B, 2G)
    if condition is not None and not over_time:
        d_condition = whole.transpose(0, 1).flatten(1)[:, None].to(x.dtype)
    if mix is not None:
        d_mix = (torch.stack(of_mixes[::-1]) * scale).to(x.dtype)
        d_mix_bias = (torch.stack(of_mix_biases[::-1]) * scale).to(x.dtype)
    d_taps = torch.stack(of_taps[::-1]).to(x.dtype).view(taps.shape)
    return dx, d_taps, whole.sum(1).to(x.dtype), d_condition, d_mix, d_mix_bias


def _sums(x: Tensor) -> torch.dtype:
    """What thousands of samples are added up in."""
    return torch.promote_types(x.dtype, torch.float32)


@residual_units_backward.register_fake
def _empty_gradients(
    d_residual: Tensor | None,
    d_z: Tensor,
    x: Tensor,
    kept: Tensor,
    residual: Tensor,
    z: Tensor,
    taps: Tensor,
    bias: Tensor,
    condition: Tensor | None,
    mix: Tensor | None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_condition = x.new_empty(0 if condition is None else condition.shape)
    d_mix = x.new_empty(0 if mix is None else mix.shape)
    d_mix_bias = x.new_empty(0 if mix is None else (len(mix), x.shape[2]))
    first = (x.new_empty(x.shape), x.new_empty(taps.shape), x.new_empty(bias.shape))
    return *first, d_condition, d_mix, d_mix_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, taps, bias, condition, mix, _, ctx.dilations, ctx.scale = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, *output, taps, bias, condition, mix)


def _gradients(
    ctx: Any, d_residual: Tensor | None, d_kept: None, d_z: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, residual, kept, z, *weights = ctx.saved_tensors
    d_residual = None if residual.numel() == 0 else d_residual
    d_z = torch.zeros_like(z) if d_z is None else d_z
    *found, d_condition, d_mix, d_mix_bias = residual_units_backward(
        d_residual, d_z, x, kept, residual, z, *weights, ctx.dilations, ctx.scale
    )
    steered, mixed = weights[2] is not None, weights[3] is not None
    of_mix = (d_mix, d_mix_bias) if mixed else (None, None)
    return *found, d_condition if steered else None, *of_mix, None, None


residual_units.register_autograd(_gradients, setup_context=_save)


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
    given = (x, taps, bias, *_strided(condition), mix, mix_bias, residual, z, z.stride(1))
    return _launch(x, taps, *given, x.shape[1], dilation, scale)


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
    before = (d_residual, d_z, d_z.stride(0), d_z.stride(1), x, taps, bias, *_strided(condition))
    return _launch(x, taps, *before, mix, dh, dh.stride(1), x.shape[1], dilation, scale)


def _input_backward_launch(
    dh: Tensor,
    taps: Tensor,
    mix: Tensor | None,
    d_residual: Tensor | None,
    dx: Tensor,
    dilation: int,
    scale: float,
) -> Launch:
    behind = None if mix is None else d_residual
    return _launch(*(dx, taps, dh, dh.stride(1), taps, behind, dx, dx.shape[1], dilation, scale))


def _strided(condition: Tensor | None) -> tuple[Tensor | None, int, int]:
    """With its strides from clip to clip, and in time: 0 where it is the same at all times."""
    if condition is None:
        return None, 0, 0
    return condition, condition.stride(0), 0 if condition.shape[1] == 1 else condition.stride(1)


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
    x, taps, bias, condition, condition_batch_stride, condition_stride, mix, mix_bias, residual,
    z, z_stride, T, dilation, scale,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t, batch = tl.program_id(0) * TIMES + tl.arange(0, TIMES), tl.program_id(1).to(tl.int64)
    x, z, residual = x + batch * T * C, z + batch * T * z_stride, residual + batch * T * C
    if condition is not None:
        condition += batch * condition_batch_stride
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([TIMES, WIDTH], SUM)
    for g in range(0, G, GATES):
        gates = g + tl.arange(0, GATES)
        filter_, gate = _before_gate(
            x, taps, bias, condition, condition_stride, t, T, gates, dilation,
            C, G, K, TIMES, CHANNELS, GATES, SUM, PRECISION,
        )  # fmt: skip
        here = (tanh(filter_) * tl.sigmoid(gate)).to(z.dtype.element_ty)
        _store(z, t * z_stride, gates, t < T, G, here)
        if mix is not None:
            total = product(here, _tile(mix, gates * C, columns, gates < G, C), total, PRECISION)
    if mix is not None:
        total += _row(mix_bias, columns, C)
        total += _tile(x, t * C, columns, t < T, C)
        _store(residual, t * C, columns, t < T, C, total * scale)


@triton.jit(do_not_specialize=["dilation"])
def _gate_backward_kernel(
    d_residual, d_z, d_z_batch_stride, d_z_stride, x, taps, bias, condition,
    condition_batch_stride, condition_stride, mix, dh, dh_stride, T, dilation, scale,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t, batch = tl.program_id(0) * TIMES + tl.arange(0, TIMES), tl.program_id(1).to(tl.int64)
    x, d_residual = x + batch * T * C, d_residual + batch * T * C
    d_z, dh = d_z + batch * d_z_batch_stride, dh + batch * T * dh_stride
    if condition is not None:
        condition += batch * condition_batch_stride
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
        _store(dh, t * dh_stride, gates, t < T, G, d_gated * gate * (1 - filter_ * filter_))
        _store(dh + G, t * dh_stride, gates, t < T, G, d_gated * filter_ * gate * (1 - gate))


@triton.jit(do_not_specialize=["dilation"])
def _input_backward_kernel(
    dh, dh_stride, taps, d_residual, dx, T, dilation, scale,
    C: tl.constexpr, G: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr,
    TIMES: tl.constexpr, CHANNELS: tl.constexpr, GATES: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t, batch = tl.program_id(0) * TIMES + tl.arange(0, TIMES), tl.program_id(1).to(tl.int64)
    dh, dx = dh + batch * T * dh_stride, dx + batch * T * C
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([TIMES, WIDTH], SUM)
    for k in tl.static_range(K):
        later = t + (K - 1 - k) * dilation
        for g in range(0, 2 * G, GATES):
            gates = g + tl.arange(0, GATES)
            weights = tl.trans(_tile(taps, (k * C + columns) * 2 * G, gates, columns < C, 2 * G))
            total = product(
                _tile(dh, later * dh_stride, gates, later < T, 2 * G), weights, total, PRECISION
            )
    if d_residual is not None:
        total += _tile(d_residual + batch * T * C, t * C, columns, t < T, C).to(SUM) * scale
    _store(dx, t * C, columns, t < T, C, total)
