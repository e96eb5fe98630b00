"""Owns the sizes that neural-amp-modeler trains: four of its first kind (A1), two of its second."""

from wavenet.interop.nam.activations import Written
from wavenet.interop.nam.settings import ArraySettings, LayerSettings, Settings

DOUBLING = [2**power for power in range(10)]
LITE = [2**power for power in range(7)], [128, 256, 512, *DOUBLING]
A2_DILATIONS = [1, 3, 7, 17, 41, 101, 239]


def _array(
    input_size: int,
    channels: int,
    head_size: int,
    kernels: list[int],
    dilations: list[int],
    activation: Written,
    head_kernel: int = 1,
    head_bias: bool = True,
) -> ArraySettings:
    layers = [LayerSettings(k, d, activation) for k, d in zip(kernels, dilations, strict=True)]
    return ArraySettings(
        input_size=input_size,
        condition_size=1,
        channels=channels,
        bottleneck=channels,
        layers=tuple(layers),
        head_size=head_size,
        head_kernel=head_kernel,
        head_bias=head_bias,
    )


def _first_kind(wide: int, narrow: int, dilations: tuple[list[int], list[int]]) -> Settings:
    """Two arrays of kernel size 3, tanh without a gate: a receptive field of 4093 samples."""
    tanh = {"type": "Tanh"}
    one, two = dilations
    return Settings(
        (
            _array(1, wide, narrow, [3] * len(one), one, tanh, head_bias=False),
            _array(wide, narrow, 1, [3] * len(two), two, tanh),
        ),
        head_scale=0.02,
    )


def _second_kind(channels: int) -> Settings:
    """One array of long kernels, a head of 16 taps: a receptive field of 6347 samples."""
    kernels = [6] * 14 + [15] * 2 + [6] * 7
    dilations = [*A2_DILATIONS * 2, 1, 13, *A2_DILATIONS]
    leaky = {"type": "LeakyReLU", "negative_slope": 0.01}
    array = _array(1, channels, 1, kernels, dilations, leaky, head_kernel=16)
    return Settings((array,), head_scale=0.01)


PRESETS = {
    "standard": _first_kind(16, 8, (DOUBLING, DOUBLING)),
    "lite": _first_kind(12, 6, LITE),
    "feather": _first_kind(8, 4, LITE),
    "nano": _first_kind(4, 2, LITE),
    "a2-small": _second_kind(3),
    "a2-large": _second_kind(8),
}
