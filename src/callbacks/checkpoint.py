"""The run's checkpoints: best.ckpt and last.ckpt, whole in themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from src.config import Config
from src.data.spec import Spec


class Checkpoint(ModelCheckpoint):
    """Keeps the best and the last state of a training.

    A file holds tensors and plain values only, the config and the spec among them: it is enough to build the task
    again, and `weights_only=True` loads it.

    Args:
        folder: where the files go.
        config: the experiment.
        spec: of its data.
        monitor, mode: what is best, as the task says.
    """

    def __init__(self, folder: Path, config: Config, spec: Spec, monitor: str, mode: str) -> None:
        super().__init__(
            dirpath=folder, filename="best", monitor=monitor, mode=mode, save_last=True,
            auto_insert_metric_name=False, enable_version_counter=False,
        )  # fmt: skip
        self.content = {"name": config.name, "config": config.values, "spec": dataclasses.asdict(spec)}

    @property
    def state_key(self) -> str:
        """Its name in a checkpoint. Lightning asks for it around every hook, and would make it anew each time."""
        return "Checkpoint"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["kindling"] = self.content
