"""WaveNet: dilated causal convolutions, exact likelihood in bits per sample, cached sampling.

Needs torch alone. Training (`wavenet.training`) and files (`wavenet.audio`) are imported by name.
"""

from wavenet.conditioning import Condition, Mel, label_ids
from wavenet.generation import generate, stream
from wavenet.layers import (
    Added,
    Block,
    CausalConv1d,
    CentredConv1d,
    FiLM,
    Gated,
    Residual,
    ResidualBlock,
    ResidualStack,
    Stack,
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
    "Block",
    "CausalConv1d",
    "CentredConv1d",
    "Condition",
    "Config",
    "FiLM",
    "Gated",
    "Gaussian",
    "Linear",
    "Mel",
    "MixtureOfGaussians",
    "MixtureOfLogistics",
    "MuLaw",
    "Residual",
    "ResidualBlock",
    "ResidualStack",
    "Sampling",
    "Stack",
    "WaveNet",
    "__version__",
    "bits_per_sample",
    "dilation_cycles",
    "generate",
    "label_ids",
    "nats_per_sample",
    "stream",
]
