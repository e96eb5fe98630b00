"""Owns what comes out of a model: distributions of the next sample, and how one is drawn from them.

An output knows its samples (mu-law codes, 16-bit levels, ...): how audio becomes samples and back,
how a model reads them, how likely they are, how one is drawn. Knows nothing of networks or engines.
"""

from wavenet.outputs.codes import Codes
from wavenet.outputs.gaussians import Gaussian, MixtureOfGaussians
from wavenet.outputs.levels import LevelEmbedding
from wavenet.outputs.linear import Linear
from wavenet.outputs.logistics import MixtureOfLogistics
from wavenet.outputs.mixture import Mixture
from wavenet.outputs.mulaw import FlooredMuLaw, MuLaw
from wavenet.outputs.protocol import Output, require_applicable, require_scale
from wavenet.outputs.registry import OUTPUTS, checked_output, output_from, output_settings
from wavenet.outputs.sampling import Sampling, guided, require_finite

__all__ = [
    "OUTPUTS",
    "Codes",
    "FlooredMuLaw",
    "Gaussian",
    "LevelEmbedding",
    "Linear",
    "Mixture",
    "MixtureOfGaussians",
    "MixtureOfLogistics",
    "MuLaw",
    "Output",
    "Sampling",
    "checked_output",
    "guided",
    "output_from",
    "output_settings",
    "require_applicable",
    "require_finite",
    "require_scale",
]
