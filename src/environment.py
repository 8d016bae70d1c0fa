"""What a run was made in: the commit, the packages, the machine; a run writes it down, src.reproduce compares it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from src.config import ROOT

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "scikit-learn", "hydra-core")


def git_state() -> tuple[str | None, bool, str]:
    """The commit, whether tracked files differ from it, and how."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    try:
        diff = git("diff", "HEAD", "--no-ext-diff", "--", ".")
        return git("rev-parse", "HEAD").strip(), bool(diff), diff
    except (OSError, subprocess.CalledProcessError):
        return None, False, ""


def packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {"machine": platform.machine(), "system": platform.platform(), "cores": os.cpu_count(), "gpus": gpus}
