"""Old names in configs: dotted paths and keys of earlier versions, and their present ones.

Runs, checkpoints and configs of an earlier version are read through this table.
"""

from __future__ import annotations

from typing import Any

from src.kindling.config.values import map_text

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
# it is a top-level key of the config.
KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "threads": ("num_threads", ()),
    "save_minutes": ("checkpoint_minutes", ()),
    "skip_nonfinite": ("max_nonfinite_steps", ()),
    "net.over_places": ("net.global_pool", ("src.nets.cnn.CNN",)),
    "finetune.backbone_lr": ("finetune.backbone_lr_ratio", FINETUNE),
    "data.test_transforms": ("data.eval_transforms", KINDLING_DATA),
    "data.fit": ("data.resize_mode", FOLDERS),
    "data.group": ("data.group_column", (*TABLE, *FOLDERS)),
    "data.missing": ("data.na_values", TABLE),
    "task.monitor": ("monitor", SUPERVISED),
    "task.mode": ("mode", SUPERVISED),
    "task.decay_all": ("task.decay_bias_and_norm", SUPERVISED),
}


def rename_old(values: Any, origins: dict[str, str] | None = None) -> Any:
    """A copy of a whole config's values with present names; `origins` are renamed in place."""
    origins = {} if origins is None else origins
    references: dict[str, str] = {}

    def rename_target(text: str, steps: tuple[Any, ...]) -> str:
        module, _, name = text.rpartition(".")
        old = module in MODULES and steps[-1] == "_target_"
        return f"{MODULES[module]}.{name}" if old else text

    def rename_reference(text: str, _: tuple[Any, ...]) -> str:
        for old, new in references.items():
            text = text.replace(old, new)
        return text

    values = map_text(values, rename_target)
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
        references[f"${{{old}}}"] = f"${{{new}}}"
    return map_text(values, rename_reference)
