"""Fine-tuning: train a net's head first, and its backbone later, more slowly, or never."""

from __future__ import annotations

import math
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch.nn.modules.batchnorm import _NormBase

from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.nn.backbones import find_head


class Finetune(Callback):
    """Freezes a net's backbone for some or all epochs, and sets its learning rate.

    A frozen backbone has no gradients, and its norm layers stay in eval mode with the statistics
    of pretraining. The frozen parameters follow from the epoch, and the optimizer holds its groups
    from the start, so any schedule works and resuming is exact. (Lightning's BackboneFinetuning
    adds a group in mid-training, and raises the backbone's rate again on resume.)

    Args:
        frozen_epochs: for how many epochs the backbone is frozen; `all` trains only the head.
        backbone_lr_ratio: the backbone's learning rate, as a share of the head's.
        head: the head's dotted name in the net; by default the part named `head`, else the last
            layer with parameters.

    Raises:
        InputError: when the net has no such part, or another setting is incompatible.
    """

    def __init__(
        self,
        frozen_epochs: int | Literal["all"] = "all",
        backbone_lr_ratio: float = 1.0,
        head: str | None = None,
    ) -> None:
        if frozen_epochs != "all" and frozen_epochs < 0:
            raise ValueError(f"frozen_epochs: expected at least 0, or 'all', got {frozen_epochs}")
        if not 0 < backbone_lr_ratio <= 1:
            expected = "expected a share above 0, at most 1"
            raise ValueError(f"backbone_lr_ratio: {expected}, got {backbone_lr_ratio}")
        self.frozen_epochs = math.inf if frozen_epochs == "all" else frozen_epochs
        self.backbone_lr_ratio, self.head = backbone_lr_ratio, head
        self.frozen: bool | None = None

    # Called before the task makes its optimizer.
    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        net: Any = module.net
        head = self.head or find_head(net)
        names = [name for name, _ in net.named_modules() if name]
        if head not in names:
            known = ", ".join(name for name, _ in net.named_children())
            hint = did_you_mean(head, names) or f" (it has: {known})"
            raise InputError(f"finetune.head: {type(net).__name__} has no part '{head}'{hint}")
        if 0 < self.frozen_epochs < math.inf and trainer.world_size > 1:
            # DDP does not share the gradients of what is frozen at the start.
            raise InputError(
                "finetune.frozen_epochs: unfreezing a backbone needs a single process; "
                "train with finetune=head first, then with finetune=all --init RUN"
            )

        def in_backbone(name: str) -> bool:
            return name.startswith("net.") and not name.startswith(f"net.{head}.")

        parameters, parts = module.named_parameters(), module.named_modules()
        backbone = {name: parameter for name, parameter in parameters if in_backbone(name)}
        self.backbone = list(backbone.values())
        norms = [(name, part) for name, part in parts if isinstance(part, _NormBase)]
        self.norms = [norm for name, norm in norms if in_backbone(name)]
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        averaging = any(isinstance(one, StochasticWeightAveraging) for one in callbacks)
        if averaging and self.frozen_epochs > (trainer.max_epochs or 0) and self.norms:
            raise InputError(
                "callbacks: StochasticWeightAveraging would recompute the norm statistics of the "
                "frozen backbone; use lightning.pytorch.callbacks.EMAWeightAveraging"
            )
        module.lr_scales = dict.fromkeys(backbone, self.backbone_lr_ratio)  # type: ignore[assignment]
        if self.frozen_epochs == math.inf:  # otherwise the optimizer has to hold all
            self._freeze(True)

    # A training resumed within an epoch does not call `on_train_epoch_start`.
    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.frozen = None
        self.on_train_epoch_start(trainer, module)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        frozen = trainer.current_epoch < self.frozen_epochs
        if frozen == self.frozen:
            return
        self.frozen = frozen
        self._freeze(frozen)
        for norm in self.norms:
            norm.train(not frozen)
        how = "all at one rate"
        if frozen:
            how = "the backbone is frozen"
            how += f" until epoch {self.frozen_epochs}" if self.frozen_epochs < math.inf else ""
        elif self.backbone_lr_ratio != 1:
            how = f"the backbone at {self.backbone_lr_ratio:g} of the learning rate"
        net: Any = module.net
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        total = sum(p.numel() for p in net.parameters())
        print(f"finetune: {trained:,} of {total:,} parameters are trained; {how}")

    def _freeze(self, frozen: bool) -> None:
        for parameter in self.backbone:
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None
