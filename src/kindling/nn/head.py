"""A net's head: its last layer, specific to one data set's classes or values."""

from __future__ import annotations

from torch import nn

from src.kindling.config.errors import InputError


def find_head(net: nn.Module) -> str:
    """Find the head's dotted name: `head`, or else the last layer with parameters."""
    if isinstance(getattr(net, "head", None), nn.Module):
        return "head"
    layers: list[str] = [
        name for name, layer in net.named_modules() if [*layer.parameters(recurse=False)]
    ]
    if not any(layers):
        raise InputError(f"net: {type(net).__name__} has no layer with parameters")
    return layers[-1]
