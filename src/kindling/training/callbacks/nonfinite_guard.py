"""Stops a training whose loss or gradients are no numbers any more, before they reach the weights."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from src.kindling.config.errors import InputError, counted
from src.kindling.data.batch import Batch

# On a GPU the verdict is read every so many steps; reading it makes the host wait for the device.
EVERY = 50
AT_ONCE = ("cpu",)  # where nothing waits


class Step(NamedTuple):
    """A step, as much of it as is told where it is a bad one."""

    number: int
    batches: list[tuple[tuple[int, int], Tensor]]  # several where gradients are accumulated: their place, their samples
    loss: Tensor | None
    parameters: list[Tensor]
    norms: Tensor  # of their gradients
    lr: float
    bad: Tensor


class Guard(Callback):
    """Looks at the loss and at the gradients' norm before each update; the update of a bad step is not made.

    On a GPU nothing is read in the step: the fused optimizer itself leaves out the update where `found_inf` is set, and
    the verdict is read every 50 steps and before each save.

    Args:
        skip: how many bad steps may be left out before the training is ended; 0 ends it at the first.
    """

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.skipped = 0
        self.batches: list[tuple[tuple[int, int], Tensor]] = []  # of the step under way
        self.loss: Tensor | None = None
        self.buffers: list[tuple[Tensor, Tensor]] = []  # and what they held: batch norm has seen the bad batch already
        self.unread: list[Step] = []  # on a GPU: the steps since the last look

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.fit_loop._skip_backward:
            return  # StochasticWeightAveraging's last epoch measures the norms; no step follows
        if self.skip and not self.batches:
            self.buffers = [(buffer, buffer.clone()) for buffer in pl_module.buffers() if buffer.is_floating_point()]
        self.batches.append((batch.at, batch.index))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        loss = loss.detach()
        self.loss = loss if self.loss is None else self.loss + loss

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        batches, loss = self.batches, self.loss
        self.batches, self.loss = [], None
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16: the loss scale is found by overflowing, and its scaler leaves those steps out
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        here = pl_module.device.type in AT_ONCE
        # A sum is finite where all its terms are, and takes half the time of a norm.
        sums = [gradient.sum() for gradient in gradients] if here else []
        if sums and math.isfinite((torch.stack(sums).sum() + (0 if loss is None else loss)).item()):
            return
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        total = norms.sum() if loss is None else norms.sum() + loss.to(norms.device)
        bad = ~torch.isfinite(total)
        for buffer, before in self.buffers:
            buffer.copy_(torch.where(bad, before, buffer))
        step = Step(trainer.global_step + 1, batches, loss, parameters, norms, optimizer.param_groups[0]["lr"], bad)
        if here or not optimizer.defaults.get("fused"):
            if bad:
                self._left_out(step, pl_module)
                for parameter in parameters:
                    parameter.grad = None  # an optimizer leaves such parameters as they are
            return
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.unread.append(step)
        if len(self.unread) >= EVERY:
            self.look(pl_module)

    def look(self, module: LightningModule) -> None:
        """Read the verdicts of the last steps on a GPU."""
        steps, self.unread = self.unread, []
        if not steps:
            return
        for step, bad in zip(steps, torch.stack([step.bad for step in steps]).tolist(), strict=True):
            if bad:
                self._left_out(step, module)

    def _left_out(self, step: Step, module: LightningModule) -> None:
        """Count a bad step, and end the training where it is one too many."""
        self.skipped += 1
        if self.skipped > self.skip:
            raise InputError(_told(step, module))
        print(f"step {step.number}: not a finite number; its batch is left out ({self.skipped} of at most {self.skip})")


def _told(step: Step, module: LightningModule) -> list[str]:
    at = step.batches[-1][0] if step.batches else (module.current_epoch, 0)
    samples = [str(i) for _, index in step.batches for i in index.tolist()]
    with torch.no_grad():
        weights = torch.stack(torch._foreach_norm(list(module.parameters()))).norm()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    bad = [
        names.get(id(p), "?")
        for p, fine in zip(step.parameters, step.norms.isfinite().tolist(), strict=False)
        if not fine
    ]
    loss = step.loss
    what = f"the loss is {loss.item():g}" if loss is not None and not loss.isfinite() else "a gradient is not finite"
    return [
        f"step {step.number} (epoch {at[0] + 1}, batch {at[1] + 1}): {what}; the update was not made, "
        "and the training is ended",
        f"  learning rate {step.lr:.3g}, norm of the weights {weights.item():.3g}, of the "
        f"gradients {step.norms.norm().item():.3g}",
        f"  gradients that are not finite: {counted(bad) or 'none'}",
        f"  samples of the batch: {counted(samples, most=10)}",
        "  a smaller task.optimizer.lr or trainer.gradient_clip_val=1 often helps; look at the samples; "
        "skip_nonfinite=10 leaves out up to ten such batches",
    ]
