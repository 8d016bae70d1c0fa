"""Keep checkpoints that the author's callbacks save apart from the run's own."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class CheckpointFolders(Callback):
    """Gives checkpoint callbacks of the author a folder: Lightning's default is the run's own."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(Path(trainer.default_root_dir) / "model_checkpoints")
