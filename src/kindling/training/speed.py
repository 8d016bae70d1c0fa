"""Choose precision, memory format and compilation where a config leaves them to the machine."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn

from src.kindling.config.compose import Config, get
from src.kindling.data.data_module import DataModule

# Compiling takes about a minute, and a step of a small net 10 ms: it pays off above these steps.
WORTH_COMPILING = 20_000


class NullProfiler(PassThroughProfiler):
    """Measures nothing; Lightning's default enters a generator some forty times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()


def look_for_gpus_once() -> None:
    """Where there is no GPU, keep the optimizer from looking for one in every step.

    Lightning lets torch ask NVML, which does not start CUDA. With a CUDA build of torch and no
    driver, each time looks for a missing library: 0.28 ms of the 2.5 of a small net's step.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def choose(config: Config, data: LightningDataModule | None) -> dict[str, Any]:
    """The values that a config leaves out, to be recorded with the run.

    Returns:
        `trainer.precision`: bf16-mixed on a GPU that has it.
        `compile`: on a GPU, for trainings of some minutes.
    """
    gpu = torch.cuda.is_available() and get(config.values, "trainer.accelerator") in (
        None,
        "auto",
        "gpu",
        "cuda",
    )
    chosen: dict[str, Any] = {}
    if gpu and get(config.values, "trainer.precision") is None and torch.cuda.is_bf16_supported():
        chosen["trainer.precision"] = "bf16-mixed"
    if config.values.get("compile") is None:
        epochs, most = (
            get(config.values, "trainer.max_epochs") or 1,
            get(config.values, "trainer.max_steps") or -1,
        )
        steps = epochs * len(data.loader("train")) if isinstance(data, DataModule) else 0
        chosen["compile"] = gpu and (steps if most < 0 else min(steps, most)) > WORTH_COMPILING
    return chosen


def format_net(net: nn.Module, channels_last: bool | None) -> bool:
    """Put a net that convolves images into channels_last, the format in which a GPU computes.

    On a CPU it is 1.5 times as fast.

    Returns:
        Whether it is.
    """
    if channels_last or (
        channels_last is None and any(isinstance(module, nn.Conv2d) for module in net.modules())
    ):
        net.to(memory_format=torch.channels_last)
        return True
    return False
