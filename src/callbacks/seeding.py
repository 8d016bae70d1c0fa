"""Seeds what a training step draws (dropout, say) from the experiment's seed and the step's place."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.data.batch import Batch
from src.seeds import derive


class Seeding(Callback):
    """Before each batch, seeds torch from (seed, epoch, batch, rank).

    So the draws of a batch depend on no other batch: not on how many came before it in this process, and not on
    what a data module or a logger has drawn in between. The generator's own `manual_seed` takes 1 µs, where
    `torch.manual_seed` takes 100.

    Args:
        seed: the experiment's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        seed = derive(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.default_generators[pl_module.device.index].manual_seed(seed)
        elif pl_module.device.type == "mps":
            torch.mps.manual_seed(seed)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        torch.default_generator.manual_seed(derive(self.seed, trainer.current_epoch, -1, trainer.global_rank))
