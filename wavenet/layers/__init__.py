"""Owns the building blocks: convolutions, parts of a block, `Block`, `Stack`, and containers.

Each has one meaning in two forms. `forward` takes a whole sequence; a causal one pads it with zeros
on the left. `init_state` and `step` take it piece by piece: for every way of cutting x along time,
the concatenated outputs of `step`, starting from `init_state`, equal `forward(x)`. A state is a
value: `step` returns a new one and never writes to the one it was given.

Knows nothing of samples, labels or sampling. Features are (B, C, T).
Shapes: B batch, C channels, T time, D condition channels, H history = (kernel_size - 1) * dilation.
"""

from wavenet.layers.block import Block, ResidualBlock
from wavenet.layers.chain import Chain, Concatenated, Delay, Parallel, Select, State, Summed
from wavenet.layers.convolution import (
    BlockState,
    CausalConv1d,
    CentredConv1d,
    LookaheadConv1d,
    check_features,
)
from wavenet.layers.parts import (
    Added,
    AddedBy,
    Blended,
    FiLM,
    Gated,
    GatedBy,
    PassThrough,
    Residual,
    Scaled,
    Shortcut,
    Unconditional,
)
from wavenet.layers.pointwise import Pointwise
from wavenet.layers.rates import CausalConvTranspose1d, CausalStridedConv1d
from wavenet.layers.stack import (
    ResidualStack,
    Stack,
    StackState,
    dilation_cycles,
    one_by_one,
    residual_blocks,
)
from wavenet.layers.timing import Timing, timing_of

__all__ = [
    "Added",
    "AddedBy",
    "Blended",
    "Block",
    "BlockState",
    "CausalConv1d",
    "CausalConvTranspose1d",
    "CausalStridedConv1d",
    "CentredConv1d",
    "Chain",
    "Concatenated",
    "Delay",
    "FiLM",
    "Gated",
    "GatedBy",
    "LookaheadConv1d",
    "Parallel",
    "PassThrough",
    "Pointwise",
    "Residual",
    "ResidualBlock",
    "ResidualStack",
    "Scaled",
    "Select",
    "Shortcut",
    "Stack",
    "StackState",
    "State",
    "Summed",
    "Timing",
    "Unconditional",
    "check_features",
    "dilation_cycles",
    "one_by_one",
    "residual_blocks",
    "timing_of",
]
