"""Old names in configs: dotted paths and keys of earlier versions, and their present ones.

A run or a checkpoint of an earlier version, and a config written for one, are read through this table.
"""

from __future__ import annotations

from typing import Any

# A module that has moved: `src.augment.RandomCrop` is `src.kindling.data.augment.RandomCrop`.
MODULES = {
    "src.augment": "src.kindling.data.augment",
    "src.callbacks.finetune": "src.kindling.training.callbacks.finetune",
    "src.data.image_folder": "src.kindling.data.images.image_folder",
    "src.data.mask_folder": "src.kindling.data.images.mask_folder",
    "src.data.table": "src.kindling.data.tables.table",
    "src.nets.pretrained": "src.kindling.nn.pretrained",
    "src.tasks.dice": "src.kindling.nn.dice",
}


def rename_old(values: Any) -> Any:
    """A copy of a config's values in which old names are replaced by the present ones."""
    if isinstance(values, list):
        return [rename_old(value) for value in values]
    if not isinstance(values, dict):
        return values
    renamed = {key: rename_old(value) for key, value in values.items()}
    for key, value in renamed.items():
        if isinstance(value, str) and key.rpartition(".")[2] == "_target_":
            module, _, name = value.rpartition(".")
            renamed[key] = f"{MODULES[module]}.{name}" if module in MODULES else value
    return renamed
