"""How a training computes: precision, memory format and compilation, from the machine where a config leaves them out."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.profilers import PassThroughProfiler
from torch import nn

from src.kindling.config.compose import Config, get

if TYPE_CHECKING:
    from src.kindling.data.data_module import DataModule

# Compiling takes about a minute, and a step of a small net 10 ms: fewer steps than these would not pay for it.
WORTH_COMPILING = 20_000


class Unprofiled(PassThroughProfiler):
    """Lightning's default measures nothing, but enters a generator for it some forty times a step; this one does not."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()


def look_for_gpus_once() -> None:
    """Where there is no GPU, keep the optimizer from looking for one in every step.

    Lightning has torch look through NVML, so that asking does not start CUDA; with a CUDA build of torch and no driver,
    each time loads a library that is not there: 0.28 ms of the 2.5 that a step of a small net takes.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def choose(config: Config, data: DataModule) -> dict[str, Any]:
    """The values that a config leaves out, to be recorded with the run.

    Returns:
        `trainer.precision`: bf16-mixed on a GPU that has it. `compile`: on a GPU, for trainings of some minutes.
    """
    gpu = torch.cuda.is_available() and get(config.values, "trainer.accelerator") in (None, "auto", "gpu", "cuda")
    chosen: dict[str, Any] = {}
    if gpu and get(config.values, "trainer.precision") is None and torch.cuda.is_bf16_supported():
        chosen["trainer.precision"] = "bf16-mixed"
    if config.values.get("compile") is None:
        epochs, most = get(config.values, "trainer.max_epochs") or 1, get(config.values, "trainer.max_steps") or -1
        steps = epochs * len(data.train_dataloader())
        chosen["compile"] = gpu and (steps if most < 0 else min(steps, most)) > WORTH_COMPILING
    return chosen


def format_net(net: nn.Module, channels_last: bool | None) -> bool:
    """Put a net that convolves images into channels_last: half as fast again on a CPU, and what a GPU computes in.

    Returns:
        Whether it is.
    """
    if channels_last or (channels_last is None and any(isinstance(module, nn.Conv2d) for module in net.modules())):
        net.to(memory_format=torch.channels_last)
        return True
    return False
