"""Describe what a training begins with: the net, the data, and what matters for its speed."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from src.kindling.config.compose import Config
from src.kindling.config.errors import format_count
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import STAGES
from src.kindling.nn.additions import addition, net_of


def describe_start(
    config: Config, data: LightningDataModule | None, task: LightningModule, trainer: Trainer
) -> list[str]:
    """List the lines that a training prints first, with the `notes` of its parts."""
    speed = [format_count(config.values["num_threads"], "thread")]
    source = f"data: {type(data).__name__}" if data else "data of the task"
    if isinstance(data, DataModule):
        source = ", ".join(f"{len(data.indices[stage]):,} {stage}" for stage in STAGES)
        speed.append(format_count(data.num_workers, "worker"))
    speed.append(str(trainer.precision))
    kernels = [p for p in task.parameters() if p.ndim == 4 and not p.is_contiguous()]
    if any(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels):
        speed.append("channels_last")
    if config.values["compile"]:
        speed.append("compiled")
    net = net_of(task)
    size = type(net).__name__
    if parameters := sum(parameter.numel() for parameter in task.parameters()):
        size += f" with {parameters:,} parameters"  # without any, configure_model adds them later
    lines = [f"{config.name}: {size} on {trainer.strategy.root_device}; {source}"]
    lines.append("speed: " + ", ".join(speed))
    for part in (data, net, task if net is not task else None):
        lines += addition(part, "notes", (list, tuple), ())
    return lines
