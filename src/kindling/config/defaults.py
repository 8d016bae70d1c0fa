"""The values of a config with the defaults of the arguments that it does not set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from src.kindling.config.allowed import GIVEN, KINDS
from src.kindling.config.targets import locate, parameters

PLAIN = (int, float, str, list, tuple)


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a checked config, each component's plain defaults filled in."""
    trainer = {"_target_": KINDS["trainer"], **(values.get("trainer") or {})}
    sections = {**values, "trainer": trainer}
    return {key: _fill(value, GIVEN.get(key, ())) for key, value in sections.items()}


def _fill(node: Any, given: Collection[str]) -> Any:
    """Fill in a part of a config; the arguments `given` by name are no defaults."""
    if isinstance(node, list):
        return [_fill(item, given) for item in node]
    if not isinstance(node, dict):
        return node
    filled = {name: _fill(value, given) for name, value in node.items()}
    if "_target_" not in node:
        return filled
    arguments = parameters(locate(node["_target_"])).values()
    plain = {p.name: p.default for p in arguments if isinstance(p.default, PLAIN)}
    left_out = plain.keys() - filled.keys() - {*given}
    return filled | {name: plain[name] for name in plain if name in left_out}
