"""WaveNet: dilated causal convolutions, exact likelihood in bits per sample, cached sampling.

Needs torch alone. Training (`wavenet.training`) and files (`wavenet.audio`) are imported by name.
What is named here is imported when it is first asked for (PEP 562), so that `wavenet --help` does
not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wavenet.version import __version__

if TYPE_CHECKING:
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

PLACES = ("conditioning", "generation", "layers", "likelihood", "model", "outputs")


def __getattr__(name: str) -> Any:
    """A name of `__all__`, or a module of the package, imported now."""
    for place in PLACES if name in __all__ else ():
        module = import_module(f"{__name__}.{place}")
        if hasattr(module, name):
            globals()[name] = getattr(module, name)
            return globals()[name]
    try:
        if not name.startswith("_"):
            return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":  # it is there, and needs something that is not
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
