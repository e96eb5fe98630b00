"""WaveNet: dilated causal convolutions over mu-law audio, exact likelihood, cached sampling.

Needs torch alone. Training (`wavenet.training`, `wavenet.training.data`) and files (`wavenet.audio`) are imported by name.
"""

from wavenet.conditioning.labels import label_ids
from wavenet.generation import generate, stream
from wavenet.layers import CausalConv1d, ResidualBlock, ResidualStack, dilation_cycles
from wavenet.likelihood import bits_per_sample, nats_per_sample
from wavenet.model import WaveNet
from wavenet.outputs.mulaw import MuLaw
from wavenet.outputs.sampling import Sampling
from wavenet.version import __version__

__all__ = [
    "CausalConv1d",
    "MuLaw",
    "ResidualBlock",
    "ResidualStack",
    "Sampling",
    "WaveNet",
    "__version__",
    "bits_per_sample",
    "dilation_cycles",
    "generate",
    "label_ids",
    "nats_per_sample",
    "stream",
]
