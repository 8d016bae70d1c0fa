"""The packages and the machine of a run, which src.reproduce compares."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
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
    for name in (*PACKAGES, *(name.partition(".")[0] for name in allowed_by_user())):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def hardware() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
