"""What each section of a config may hold, and which arguments it is given by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from src.kindling.config.annotations import expected_part
from src.kindling.config.references import Unresolved
from src.kindling.config.targets import NESTED, OF_TRAINER, find, load

# What a section's `_target_` has to make.
KINDS = {
    "data": "lightning.pytorch.LightningDataModule",
    "net": "torch.nn.Module",
    "task": "lightning.pytorch.LightningModule",
    "finetune": "lightning.pytorch.callbacks.Callback",
    "trainer": "lightning.pytorch.Trainer",
    "callbacks": "lightning.pytorch.callbacks.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
}
OPTIONAL = ("data", "net", "finetune")
NAMED = ("callbacks", "logger")  # sections of several named components
# Names of components become names of modules, which torch.fx and torch.export write into code
# that they run.
NAME = re.compile(r"[\w ./:+-]+")
# The arguments that a component is given where its signature has them; a config leaves them out.
OF_SPEC = ("spec", "in_shape", "num_outputs")
GIVEN = {
    "data": ("seed", "num_threads"),
    "net": OF_SPEC,
    "task": (*OF_SPEC, "net"),
    "finetune": (),
    "trainer": (),
    "callbacks": ("monitor", "mode"),
    "logger": ("save_dir", "name", "version", "run_name"),
}
DIRECTIVES = ("_target_", "_partial_")


def find_target(node: Mapping[str, Any], key: str, annotation: Any = None) -> Any:
    """The class or function of a component, if its place takes it.

    Args:
        node: the component, with its `_target_`.
        key: its dotted key: a section, or an argument of another component.
        annotation: the argument's.

    Raises:
        ValueError: with the reason.
    """
    if is_section(key):
        return find(node["_target_"], (load(KINDS[key.partition(".")[0]]),))
    expected, _, _ = expected_part(annotation)
    nested = OF_TRAINER if key.startswith("trainer.") else NESTED
    return find(node["_target_"], expected, nested)


def is_section(key: str) -> bool:
    """Whether a dotted key is a section or a named component of one, not an argument."""
    section, _, rest = key.partition(".")
    return section in KINDS and "." not in (rest if section in NAMED else key)


def is_partial(node: Mapping[str, Any], annotation: Any) -> bool:
    """Whether a component becomes a `functools.partial`, by `_partial_` or by its annotation."""
    _, partial, _ = expected_part(annotation)
    return bool(node.get("_partial_", partial))


def holds_components(value: Any) -> bool:
    """Whether a list or a mapping has items with a `_target_`, or items that are not known yet."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(
        isinstance(item, Unresolved) or (isinstance(item, dict) and "_target_" in item)
        for item in items
    )


def check_name(name: Any) -> str | None:
    """The error in a component's name, if there is one."""
    if isinstance(name, int) or NAME.fullmatch(str(name)):
        return None
    return f"{name!r} cannot name a part; use letters, digits, spaces and ._:/+-"
