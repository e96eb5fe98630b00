"""Owns the activations of `.nam` files by their names, as modules, and back.

In a file an activation is a name, or {"type": name, settings}.
"""

from typing import Any

import torch
from torch import Tensor, nn

Written = dict[str, Any]  # {"type": name, settings}


class Fasttanh(nn.Module):
    """A rational function close to tanh, within 2e-3: plugins compute it in tanh's place."""

    pointwise = True

    def forward(self, x: Tensor) -> Tensor:
        size, square = x.abs(), x.square()
        above = x * (
            2.45550750702956 * (1 + size) + (0.893229853513558 + 0.821226666969744 * size) * square
        )
        inner = (x + 0.814642734961073 * x * size).abs()
        return above / (2.44506634652299 + (2.44506634652299 + square) * inner)

    def traced(self, reader: Any, x: Any, state: Any, condition: Any = None) -> Any:
        """How a compiled engine reads it (see `wavenet.engines.reading`)."""
        return reader.each("RATIONAL_TANH", x)


class LeakyHardtanh(nn.Module):
    """x between two bounds, and a slope of its own beyond each."""

    pointwise = True

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        min_slope: float = 0.01,
        max_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.min_val, self.max_val = min_val, max_val
        self.min_slope, self.max_slope = min_slope, max_slope

    def forward(self, x: Tensor) -> Tensor:
        inside = x.clamp(self.min_val, self.max_val)
        below, above = (x - self.min_val).clamp(max=0), (x - self.max_val).clamp(min=0)
        return inside + self.min_slope * below + self.max_slope * above

    def traced(self, reader: Any, x: Any, state: Any, condition: Any = None) -> Any:
        bends = [self.min_val, self.max_val, self.min_slope, self.max_slope]
        return reader.each("BENT", x, constants=bends)


class Softsigmoid(nn.Module):
    """(1 + softsign(x)) / 2."""

    pointwise = True

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (1 + nn.functional.softsign(x))

    def traced(self, reader: Any, x: Any, state: Any, condition: Any = None) -> Any:
        return reader.each("SOFTSIGMOID", x)


KINDS: dict[str, type[nn.Module]] = {
    "Tanh": nn.Tanh,
    "Hardtanh": nn.Hardtanh,
    "Fasttanh": Fasttanh,
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "Sigmoid": nn.Sigmoid,
    "SiLU": nn.SiLU,
    "Hardswish": nn.Hardswish,
    "LeakyHardtanh": LeakyHardtanh,
    "Softsign": nn.Softsign,
    "Softsigmoid": Softsigmoid,
}
SETTINGS = {  # of those that have some; PReLU's are its weights
    "Hardtanh": ("min_val", "max_val"),
    "LeakyReLU": ("negative_slope",),
    "LeakyHardtanh": ("min_val", "max_val", "min_slope", "max_slope"),
}
SLOPES = ("negative_slope", "negative_slopes")


def checked_activation(value: Any, where: str) -> Written:
    """A file's activation -> {"type": name, settings}. Raises ValueError for one not known."""
    written = {"type": value} if isinstance(value, str) else value
    name = written.get("type") if isinstance(written, dict) else written
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"{where} is {name!r}; known are {', '.join(KINDS)}.")
    allowed = SLOPES if name == "PReLU" else SETTINGS.get(name, ())
    for key, setting in written.items():
        if key == "type":
            continue
        if key not in allowed:
            raise ValueError(f"{where}, {name}, has the setting {key!r}; known are {[*allowed]}.")
        many = setting if key == "negative_slopes" else [setting]
        if not isinstance(many, list) or not many or not all(map(is_number, many)):
            raise ValueError(f"{where}, {name}: {key} must be a number, but is {setting!r}.")
    return dict(written)


def is_number(value: Any) -> bool:
    """Whether it is one that a float32 can hold."""
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return whole and abs(value) < 3.4e38  # not of NaN


def activation(written: Written) -> nn.Module:
    """The module of a checked activation."""
    settings = {key: value for key, value in written.items() if key != "type"}
    if written["type"] != "PReLU":
        return KINDS[written["type"]](**settings)
    slopes = settings.get("negative_slopes", [settings.get("negative_slope", 0.25)])
    made = nn.PReLU(len(slopes))
    with torch.no_grad():
        made.weight.copy_(torch.tensor(slopes))
    return made


def written_activation(module: nn.Module) -> Written:
    """What a file says of the module. Raises ValueError for one that it has no name for."""
    names = [name for name, kind in KINDS.items() if type(module) is kind]
    if not names:
        raise ValueError(f".nam files have no activation {type(module).__name__}.")
    name = names[0]
    if not isinstance(module, nn.PReLU):
        return {"type": name, **{key: getattr(module, key) for key in SETTINGS.get(name, ())}}
    slopes = module.weight.detach().tolist()
    return {"type": name} | (
        {"negative_slope": slopes[0]} if len(slopes) == 1 else {"negative_slopes": slopes}
    )


def by_name(written: Written) -> str | Written:
    """The name alone where all settings are the usual ones.

    neural-amp-modeler 0.13 reads the activation of a head in no other form.
    """
    name = written["type"]
    usual = {"type": name} if name == "PReLU" else written_activation(activation({"type": name}))
    return name if written in ({"type": name}, usual) else written
