"""The packages and the machine of a run, which src.reproduce compares."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from src.kindling.config.targets import allowed_by_user

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
    "omegaconf",
)


def packages() -> dict[str, str]:
    found = {}
    own = [name.partition(".")[0] for name in allowed_by_user()]
    for name in dict.fromkeys([*PACKAGES, *own]):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": gpus,
    }
