"""WaveNet: dilated causal convolutions, exact likelihood in bits per sample, cached sampling.

Needs torch alone. Training (`wavenet.training`) and files (`wavenet.audio`) are imported by name.
"""

from wavenet import testing
from wavenet.conditioning import Condition, Mel, label_ids
from wavenet.generation import generate, stream
from wavenet.layers import (
    Added,
    AddedBy,
    Blended,
    Block,
    CausalConv1d,
    CausalConvTranspose1d,
    CausalStridedConv1d,
    CentredConv1d,
    Chain,
    Concatenated,
    Delay,
    FiLM,
    Gated,
    GatedBy,
    LookaheadConv1d,
    Parallel,
    Pointwise,
    Residual,
    ResidualBlock,
    ResidualStack,
    Scaled,
    Select,
    Shortcut,
    Stack,
    Summed,
    dilation_cycles,
)
from wavenet.likelihood import bits_per_sample, nats_per_sample
from wavenet.model import Config, WaveNet
from wavenet.outputs import (
    Gaussian,
    Linear,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
    Sampling,
)
from wavenet.version import __version__

__all__ = [
    "Added",
    "AddedBy",
    "Blended",
    "Block",
    "CausalConv1d",
    "CausalConvTranspose1d",
    "CausalStridedConv1d",
    "CentredConv1d",
    "Chain",
    "Concatenated",
    "Condition",
    "Config",
    "Delay",
    "FiLM",
    "Gated",
    "GatedBy",
    "Gaussian",
    "Linear",
    "LookaheadConv1d",
    "Mel",
    "MixtureOfGaussians",
    "MixtureOfLogistics",
    "MuLaw",
    "Parallel",
    "Pointwise",
    "Residual",
    "ResidualBlock",
    "ResidualStack",
    "Sampling",
    "Scaled",
    "Select",
    "Shortcut",
    "Stack",
    "Summed",
    "WaveNet",
    "__version__",
    "bits_per_sample",
    "dilation_cycles",
    "generate",
    "label_ids",
    "nats_per_sample",
    "stream",
    "testing",
]
