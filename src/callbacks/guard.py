"""Stops a training whose loss or gradients are no numbers any more, before they reach the weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from src.data.batch import Batch, counted
from src.errors import InputError

# On a GPU the verdict is read every so many steps; reading it makes the host wait for the device.
EVERY = 50


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
        self.batches: list[Batch] = []  # of the step under way: several where gradients are accumulated
        self.loss: Tensor | None = None
        self.bad: list[tuple[int, Tensor]] = []  # on a GPU: the steps since the last look and their verdicts

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if not trainer.fit_loop._skip_backward:  # else no step follows
            self.batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        loss = loss.detach()
        self.loss = loss if self.loss is None else self.loss + loss

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        batches, loss = self.batches, self.loss
        self.batches, self.loss = [], None
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # float16: the loss scale is found by overflowing, and its scaler leaves those steps out
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(grads)) if grads else torch.zeros(1)
        total = norms.sum() if loss is None else norms.sum() + loss.to(norms.device)
        if total.device.type == "cpu":
            if not torch.isfinite(total):
                self._leave_out(trainer, pl_module, optimizer, batches, loss, norms)
            return
        bad = (~torch.isfinite(total)).float()
        if not optimizer.defaults.get("fused"):
            if bad.item():
                self._leave_out(trainer, pl_module, optimizer, batches, loss, norms)
            return
        optimizer.found_inf = bad.reshape(1)  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.bad.append((trainer.global_step, bad))
        if len(self.bad) >= EVERY:
            self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Read the verdicts of the last steps on a GPU."""
        verdicts, self.bad = self.bad, []
        if not verdicts:
            return
        for (step, _), bad in zip(verdicts, torch.stack([bad for _, bad in verdicts]).tolist(), strict=True):
            if bad:
                self.skipped += 1
                if self.skipped > self.skip:
                    raise InputError([f"step {step + 1}: the loss or a gradient is not a finite number; the update was "
                                      "not made, and the training is ended", *self._advice()])  # fmt: skip

    def _leave_out(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, batches: list[Batch],
        loss: Tensor | None, norms: Tensor,
    ) -> None:  # fmt: skip
        self.skipped += 1
        if self.skipped > self.skip:
            raise InputError(list(self._told(trainer, module, optimizer, batches, loss, norms)))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # an optimizer leaves such parameters as they are
        step = trainer.global_step + 1
        print(f"step {step}: not a finite number; its batch is left out ({self.skipped} of at most {self.skip})")

    def _told(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer, batches: list[Batch],
        loss: Tensor | None, norms: Tensor,
    ) -> list[str]:  # fmt: skip
        at = batches[-1].at if batches else (trainer.current_epoch, 0)
        samples = [str(i) for batch in batches for i in batch.index.tolist()]
        with torch.no_grad():
            weights = torch.stack(torch._foreach_norm(list(module.parameters()))).norm()
        bad = [name for name, p in module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        what = (
            f"the loss is {loss.item():g}" if loss is not None and not loss.isfinite() else "a gradient is not finite"
        )
        return [
            f"step {trainer.global_step + 1} (epoch {at[0] + 1}, batch {at[1] + 1}): {what}; the update was not made, "
            "and the training is ended",
            f"  learning rate {optimizer.param_groups[0]['lr']:.3g}, norm of the weights {weights.item():.3g}, of the "
            f"gradients {norms.norm().item():.3g}",
            f"  gradients that are not finite: {counted(bad) or 'none'}",
            f"  samples of the batch: {counted(samples, most=10)}",
            *self._advice(),
        ]

    @staticmethod
    def _advice() -> list[str]:
        return ["  a smaller task.optimizer.lr or trainer.gradient_clip_val=1 often helps; look at the samples; "
                "skip_nonfinite=10 leaves out up to ten such batches"]  # fmt: skip
