"""Old names in configs: dotted paths and keys of earlier versions, and their present ones.

Runs, checkpoints and configs of an earlier version are read through this table.
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
    "src.tasks.dice": "src.kindling.nn.losses",
}

SUPERVISED = (
    "src.tasks.auto.supervised",
    "src.tasks.classification.Classification",
    "src.tasks.multilabel.Multilabel",
    "src.tasks.regression.Regression",
    "src.tasks.segmentation.Segmentation",
)
TABLE = ("src.kindling.data.tables.table.Table",)
FOLDERS = (
    "src.kindling.data.images.image_folder.ImageFolder",
    "src.kindling.data.images.mask_folder.MaskFolder",
)
FINETUNE = ("src.kindling.training.callbacks.finetune.Finetune",)
KINDLING_DATA = (
    *TABLE,
    *FOLDERS,
    "src.data.breast_cancer.BreastCancer",
    "src.data.cifar.CIFAR10",
    "src.data.cifar.CIFAR100",
    "src.data.diabetes.Diabetes",
    "src.data.digits.Digits",
    "src.data.mnist.FashionMNIST",
    "src.data.mnist.MNIST",
    "src.data.scenes.Scenes",
)
# A key that has another name, where its section names one of these targets. Without targets, where
# it stands at the top of the config.
KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "threads": ("num_threads", ()),
    "save_minutes": ("checkpoint_minutes", ()),
    "skip_nonfinite": ("max_nonfinite_steps", ()),
    "net.over_places": ("net.global_pool", ("src.nets.cnn.CNN",)),
    "finetune.backbone_lr": ("finetune.backbone_lr_ratio", FINETUNE),
    "data.test_transforms": ("data.eval_transforms", KINDLING_DATA),
    "data.fit": ("data.resize_mode", FOLDERS),
    "data.group": ("data.group_column", TABLE),
    "data.missing": ("data.na_values", TABLE),
    "task.monitor": ("monitor", SUPERVISED),
    "task.mode": ("mode", SUPERVISED),
    "task.decay_all": ("task.decay_bias_and_norm", SUPERVISED),
}


def rename_keys(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Give old keys of a whole config their present names, in place; so the keys of its origins."""
    for old, (new, targets) in KEYS.items():
        section, _, name = old.rpartition(".")
        inside = values.get(section) if section else values
        if not isinstance(inside, dict) or name not in inside:
            continue
        if section and inside.get("_target_") not in targets:
            continue
        new_section, _, key = new.rpartition(".")
        outside = values[new_section] if new_section else values
        outside[key] = inside.pop(name)
        if old in origins:
            origins[new] = origins.pop(old)
        for key in values:
            values[key] = _replace(values[key], f"${{{old}}}", f"${{{new}}}")


def _replace(value: Any, old: str, new: str) -> Any:
    """A copy of nested values in which a reference has another name."""
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value


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
