"""Seed the random draws of a training step (dropout, say) from the seed, epoch and batch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from src.kindling.data.data_module import DataModule
from src.kindling.data.order import derive_seed, seed_generators


class Seeding(Callback):
    """Seeds torch, numpy and Python from (seed, epoch, batch, rank) before each batch.

    The draws of a batch depend on no other batch, and not on the draws of a data module or a
    logger. A test is seeded from (seed, rank).

    Args:
        seed: the experiment's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, DataModule) and data.prepare.augment:
            return  # seeded for this batch before it was augmented
        self._seed(pl_module, trainer.current_epoch, batch_idx, trainer.global_rank)

    # Not from the batch before it: a training resumed at a validation has not run that batch.
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (
            trainer.state.fn != "fit"
        ):  # the best checkpoint is measured: now, or again by src.evaluate
            self._seed(pl_module, -3, trainer.global_rank)
            return
        self._seed(pl_module, trainer.current_epoch, -2, trainer.global_step, trainer.global_rank)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed(pl_module, -4, trainer.global_rank)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._seed(pl_module, trainer.current_epoch, -1, trainer.global_rank)

    def _seed(self, pl_module: LightningModule, *place: int) -> None:
        seed_generators(derive_seed(self.seed, *place), pl_module.device)
