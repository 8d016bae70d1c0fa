"""Stop a training on a NaN/Inf loss or gradient, before the optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from src.kindling.config.errors import TrainingError, join_names
from src.kindling.data.data_module import DataModule
from src.kindling.training.lightning_internals import skips_backward

# On a GPU the results are read once in so many steps, since reading synchronizes.
CHECK_INTERVAL = 50
# Devices on which reading a result does not wait.
SYNCHRONOUS = ("cpu",)


@dataclass
class Step:
    """An optimizer step, as far as a message on it needs.

    Attributes:
        number: of the step.
        batches: epoch and number of each; several where gradients are accumulated.
        loss: the sum over the batches.
        parameters, norms: the parameters with gradients, and the gradients' norms.
        lr: the learning rate of the first group.
        bad: whether the loss or a gradient is NaN/Inf.
    """

    number: int
    batches: list[tuple[int, int]]
    loss: Tensor | None
    parameters: list[Tensor]
    norms: Tensor
    lr: float
    bad: Tensor


class NonFiniteGuard(Callback):
    """Checks the loss and the gradients before each optimizer step, and skips a NaN/Inf step.

    On a GPU nothing is read in the step: the fused optimizer itself skips the update where
    `found_inf` is set, and the results are read every 50 steps and before each save.

    Args:
        skip: how many NaN/Inf steps may be skipped; one more ends the training.
    """

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.skipped = 0
        self.batches: list[tuple[int, int]] = []  # of the current step
        self.loss: Tensor | None = None
        # The buffers and copies of them: batch norm sees a bad batch before the check.
        self.buffers: list[tuple[Tensor, Tensor]] = []
        self.pending: list[Step] = []  # on a GPU: steps whose results are not read yet

    @property
    def state_key(self) -> str:
        """Its key in a checkpoint, the class's name in earlier versions."""
        return "Guard"

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if skips_backward(trainer):
            return
        if self.skip and not self.batches:
            buffers = [buffer for buffer in pl_module.buffers() if buffer.is_floating_point()]
            self.buffers = [(buffer, buffer.clone()) for buffer in buffers]
        self.batches.append((trainer.current_epoch, batch_idx))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        loss = loss.detach()
        self.loss = loss if self.loss is None else self.loss + loss

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        batches, loss = self.batches, self.loss
        self.batches, self.loss = [], None
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16: the scaler skips overflowing steps while it looks for its scale
        groups = optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        synchronous = pl_module.device.type in SYNCHRONOUS
        if synchronous and gradients and _is_finite(gradients, loss):
            return
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        total = norms.sum() if loss is None else norms.sum() + loss.to(norms.device)
        bad = ~torch.isfinite(total)
        for buffer, before in self.buffers:
            buffer.copy_(torch.where(bad, before, buffer))
        number, lr = trainer.global_step + 1, groups[0]["lr"]
        step = Step(number, batches, loss, parameters, norms, lr, bad)
        if not synchronous and optimizer.defaults.get("fused"):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            self.pending.append(step)
            if len(self.pending) >= CHECK_INTERVAL:
                self.check_pending(pl_module)
        elif bad:
            self._count_skipped(step, pl_module)
            for parameter in parameters:
                parameter.grad = None  # the optimizer skips such parameters

    def check_pending(self, module: LightningModule) -> None:
        """Read the results of the last steps on a GPU."""
        steps, self.pending = self.pending, []
        if not steps:
            return
        results = torch.stack([step.bad for step in steps]).tolist()
        for step, bad in zip(steps, results, strict=True):
            if bad:
                self._count_skipped(step, module)

    def _count_skipped(self, step: Step, module: LightningModule) -> None:
        """Count a NaN/Inf step, and end the training if it is one too many."""
        self.skipped += 1
        if self.skipped > self.skip:
            raise TrainingError(_describe(step, module))
        print(
            f"step {step.number}: NaN/Inf loss or gradient; batch skipped "
            f"({self.skipped} of at most {self.skip})"
        )


def _is_finite(gradients: list[Any], loss: Tensor | None) -> bool:
    """Whether the gradients and the loss are finite; a sum takes half the time of a norm."""
    total = torch.stack([gradient.sum() for gradient in gradients]).sum()
    return math.isfinite((total if loss is None else total + loss).item())


def _samples(step: Step, module: LightningModule) -> list[str]:
    """Return the indices of the step's samples, if the data is Kindling's."""
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, DataModule):
        return []
    return [str(i) for place in step.batches for i in data.sample_numbers("train", *place).tolist()]


def _describe(step: Step, module: LightningModule) -> list[str]:
    epoch, batch = step.batches[-1] if step.batches else (module.current_epoch, 0)
    samples = _samples(step, module)
    with torch.no_grad():
        weights = torch.stack(torch._foreach_norm(list(module.parameters()))).norm()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    bad = [
        names.get(id(parameter), "?")
        for parameter, finite in zip(step.parameters, step.norms.isfinite().tolist(), strict=False)
        if not finite
    ]
    cause = "a gradient is NaN/Inf"
    if step.loss is not None and not step.loss.isfinite():
        cause = f"the loss is {step.loss.item():g}"
    lines = [
        f"step {step.number} (epoch {epoch + 1}, batch {batch + 1}): {cause}; training stopped "
        "before the optimizer step",
        f"  learning rate {step.lr:.3g}, weight norm {weights.item():.3g}, "
        f"gradient norm {step.norms.norm().item():.3g}",
        f"  NaN/Inf gradients: {join_names(bad) or 'none'}",
    ]
    if samples:
        lines.append(f"  samples of the batch: {join_names(samples, most=10)}")
    lines.append(
        "  set a smaller task.optimizer.lr or trainer.gradient_clip_val=1; inspect the samples; "
        "max_nonfinite_steps=10 skips up to ten such batches"
    )
    return lines
