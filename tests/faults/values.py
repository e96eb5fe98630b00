"""Owns what a case's plain values stand for: tensors, and bytes that were damaged on the way.

Knows nothing of what is called with them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def value_of(plain: Any) -> Any:
    """A case's value as the library is given it."""
    if isinstance(plain, Mapping):
        if "tensor" in plain:
            return tensor_of(plain)
        return {name: value_of(item) for name, item in plain.items()}
    return [value_of(item) for item in plain] if isinstance(plain, list) else plain


def tensor_of(plain: Mapping[str, Any]) -> Any:
    """{"tensor": shape, "dtype", "fill"}."""
    kind = getattr(torch, plain["dtype"])
    made = _filled(plain["tensor"], plain["fill"])
    if not kind.is_floating_point:
        made = made.nan_to_num(0, 127, 0).clamp(-128, 255)
        made = made * 100 if plain["fill"] in ("noise", "ramp") and kind != torch.int8 else made
    made = made.to(kind)
    return made.numpy() if plain.get("numpy") else made


def _filled(shape: Sequence[int], fill: str) -> Tensor:
    constants = {"zeros": 0.0, "ones": 1.0, "nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}
    constants |= {"huge": 1e30, "tiny": 1e-40, "negative": -0.5}
    if fill in constants:
        return torch.full(list(shape), constants[fill])
    noise = torch.rand(list(shape), generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    return noise if fill == "noise" else torch.linspace(-1, 1, noise.numel()).view_as(noise)


def damaged(whole: bytes, mutations: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes after each mutation in turn."""
    content = bytearray(whole)
    for mutation in mutations:
        _damage(content, mutation)
    return bytes(content)


def _damage(content: bytearray, mutation: Mapping[str, Any]) -> None:
    size = len(content)
    if "cut" in mutation:
        del content[int(mutation["cut"] * size) :]
    elif "append" in mutation:
        content += mutation["append"].encode("latin-1")
    elif not size:
        return
    elif "flip" in mutation:
        content[int(mutation["flip"] * size)] ^= 1 << mutation["bit"]
    elif "byte" in mutation:
        content[mutation["byte"] % size] = mutation["value"]
    elif "zeros" in mutation:
        start = int(mutation["zeros"] * size)
        stop = min(size, start + mutation["count"])
        content[start:stop] = bytes(stop - start)


def set_path(table: dict[str, Any], path: str, value: Any) -> None:
    """table["a"]["b"] = value for the path a.b, where there is such a place."""
    *parents, last = path.split(".")
    for name in parents:
        if not isinstance(table.get(name), dict):
            return
        table = table[name]
    table[last] = value


def drop_path(table: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if not isinstance(table.get(name), dict):
            return
        table = table[name]
    table.pop(last, None)
