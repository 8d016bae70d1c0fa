"""Seeds what a training step draws (dropout, say) from the experiment's seed and the step's place."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.kindling.data.batch import Batch
from src.kindling.data.seeds import derive


class Seeding(Callback):
    """Before each batch, seeds torch, numpy and Python from (seed, epoch, batch, rank); before a test, from (seed, rank).

    So the draws of a batch depend on no other batch: not on how many came before it in this process, and not on
    what a data module or a logger has drawn in between. The generator's own `manual_seed` takes 1 µs, where
    `torch.manual_seed` takes 100.

    Args:
        seed: the experiment's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._seed(pl_module, trainer.current_epoch, batch_idx, trainer.global_rank)

    # Apart from the batch before it: a training that goes on with a validation has not seen that batch.
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":  # the best checkpoint is measured: now, or again by src.evaluate
            self._seed(pl_module, -3, trainer.global_rank)
            return
        self._seed(pl_module, trainer.current_epoch, -2, trainer.global_step, trainer.global_rank)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed(pl_module, -4, trainer.global_rank)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._seed(pl_module, trainer.current_epoch, -1, trainer.global_rank)

    def _seed(self, pl_module: LightningModule, *place: int) -> None:
        seed = derive(self.seed, *place)
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if pl_module.device.type == "cuda":
            torch.cuda.default_generators[pl_module.device.index].manual_seed(seed)
        elif pl_module.device.type == "mps":
            torch.mps.manual_seed(seed)
