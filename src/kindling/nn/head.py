"""A net's head: the last layer, which knows the classes or values of one data set; all before it is the backbone."""

from __future__ import annotations

from torch import nn

from src.kindling.config.errors import InputError


def find_head(net: nn.Module) -> str:
    """The head's dotted name in the net: `head` where the net has such a part, else its last layer with parameters.

    Raises:
        InputError: when no layer has parameters.
    """
    if isinstance(getattr(net, "head", None), nn.Module):
        return "head"
    layers: list[str] = [
        name for name, layer in net.named_modules() if name and any(True for _ in layer.parameters(recurse=False))
    ]
    if not layers:
        raise InputError(f"net: {type(net).__name__} has no layer with parameters")
    return layers[-1]
