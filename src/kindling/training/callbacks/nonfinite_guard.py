"""Stop a training on a NaN/Inf loss or gradient, before the optimizer step."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from src.kindling.config.errors import TrainingError, join_names
from src.kindling.nn.optimizers import learning_rate_key
from src.kindling.training.lightning_internals import skips_backward
from src.kindling.training.loaders import Loaders

REMEDY = (
    "  set a smaller {lr} or trainer.gradient_clip_val=1; inspect the samples; "
    "max_nonfinite_steps=10 skips up to ten such batches"
)


class NonFiniteGuard(Callback):
    """Checks loss and gradients before each optimizer step, skips up to `skip` NaN/Inf steps."""

    def __init__(self, skip: int, loaders: Loaders) -> None:
        self.skip, self.skipped, self.loaders = skip, 0, loaders
        self.hooks: list[Any] = []
        # Of the current step: epoch and number of each accumulated batch, the sum of the losses.
        self.batches: list[tuple[int, int]] = []
        self.loss: Tensor | None = None
        # The buffers and copies of them: batch norm sees a bad batch before the check.
        self.buffers: list[tuple[Tensor, Tensor]] = []

    @property
    def state_key(self) -> str:
        """Its key in a checkpoint, the class's name in earlier versions."""
        return "Guard"

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, number: int) -> None:
        if skips_backward(trainer):
            return
        if self.skip and not self.batches:
            buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
            self.buffers = [(buffer, buffer.clone()) for buffer in buffers]
        if not module.automatic_optimization:  # its optimizers step when they like
            self.batches, self.loss = [], None
        self.batches.append((trainer.current_epoch, number))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Check the steps of optimizers that manual optimization calls without Lightning too."""
        if module.automatic_optimization:
            return

        def check(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(args) == 1 and not kwargs:  # Lightning passes a closure, and has its own hook
                self.on_before_optimizer_step(trainer, module, optimizer)

        self.hooks = [one.register_step_pre_hook(check) for one in trainer.optimizers]

    def on_train_end(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        loss = loss.detach().sum()
        self.loss = loss if self.loss is None else self.loss + loss

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = [p for p in parameters if p.grad is not None]
        # A sum takes half the time of a norm, and all of them are read at once.
        sums = [p.grad.sum() for p in parameters] + ([] if self.loss is None else [self.loss])
        # float16: the scaler skips overflowing steps while it looks for its scale.
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if sums and not scaled and not math.isfinite(torch.stack(sums).sum().item()):
            groups = optimizer.param_groups  # none, if `configure_optimizers` returns None
            self._skip(module, groups[0]["lr"] if groups else 0.0, parameters)
        if module.automatic_optimization:
            self.batches = []
        self.loss = None

    def _skip(self, module: LightningModule, lr: float, parameters: list[Tensor]) -> None:
        """Skip the step, or end the training if it is one too many."""
        self.skipped += 1
        if self.skipped > self.skip:
            raise TrainingError(self._describe(module, lr, parameters))
        print(
            f"step {module.global_step + 1}: NaN/Inf loss or gradient; batch skipped "
            f"({self.skipped} of at most {self.skip})"
        )
        for buffer, before in self.buffers:
            buffer.copy_(before)
        for parameter in parameters:
            parameter.grad = None  # the optimizer skips such parameters

    def _describe(self, module: LightningModule, lr: float, parameters: list[Tensor]) -> list[str]:
        epoch, batch = self.batches[-1] if self.batches else (module.current_epoch, 0)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        gradients = {names.get(id(p), "?"): p.grad for p in parameters if p.grad is not None}
        bad = [name for name, gradient in gradients.items() if not math.isfinite(gradient.sum())]
        loss_is_bad = self.loss is not None and not self.loss.isfinite()
        cause = f"the loss is {self.loss:g}" if loss_is_bad else "a gradient is NaN/Inf"
        weight_norm = get_total_norm(module.parameters()).item()
        gradient_norm = get_total_norm(gradients.values()).item()
        lines = [
            f"step {module.global_step + 1} (epoch {epoch + 1}, batch {batch + 1}): {cause}; "
            "training stopped before the optimizer step",
            f"  learning rate {lr:.3g}, weight norm {weight_norm:.3g}, "
            f"gradient norm {gradient_norm:.3g}",
            f"  NaN/Inf gradients: {join_names(bad) or 'none'}",
        ]
        if samples := [str(i) for at in self.batches for i in self.loaders.sample_numbers(*at)]:
            lines.append(f"  samples of the batch: {join_names(samples, most=10)}")
        key = learning_rate_key(type(module)) or "learning rate"
        return [*lines, REMEDY.format(lr=key)]
