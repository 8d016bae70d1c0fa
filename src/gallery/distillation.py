"""Knowledge distillation: a small student learns from the probabilities of a trained teacher.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network,
https://arxiv.org/abs/1503.02531; on mixed images, about which a teacher can say more than labels:
Beyer et al., Knowledge distillation: A good teacher is patient and consistent,
https://arxiv.org/abs/2106.05237.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn

from src.data.digits import Digits
from src.kindling.analysis import Predictions
from src.kindling.config import InputError
from src.kindling.data import Spec
from src.kindling.training import load_run
from src.tasks.classification import Classification

Batch = tuple[Tensor, Tensor]


class TransferSet(Digits):
    """Digits of which the student is trained on a few; the rest of the split is the teacher's.

    Args:
        images: how many images of the training split are used.
        base: see Digits and DataModule.
    """

    def __init__(self, images: int = 100, **base: Any) -> None:
        super().__init__(**base)
        self.images = images

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)  # standardizes by the whole training split, as for the teacher
        self.indices["train"] = self.indices["train"][: self.images]


class Distillation(Classification):
    """Train a small net on labels and on the probabilities of a teacher, a run of one's own.

    The teacher is loaded when the training starts or resumes. It is not part of the student: the
    optimizer, checkpoints and exports do not have it, so that evaluating a student needs no
    teacher. Checkpoints hold its path, and a resumed training loads the same one.

    Args:
        net: the student.
        spec: of the data; filled in.
        teacher: a run, as in other commands; null trains the student on labels alone.
        temperature: divides the logits of both, so that the less probable classes count more.
        weight: share of the loss that is the teacher's; the rest is the labels' cross-entropy.
        mix: train on averages of two images, weighted at random, in place of single images.
        base: see Classification.

    Raises:
        InputError: when there is no such run, or it was trained on other data.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        teacher: str | None = "digits/latest",
        temperature: float = 4.0,
        weight: float = 0.9,
        mix: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(net, spec, **base)
        self.spec, self.teacher, self.mix = spec, teacher, mix
        self.temperature, self.weight = temperature, weight
        self.teacher_task: LightningModule | None = None

    # After the checkpoint of a resumed training was read.
    def on_fit_start(self) -> None:
        if self.teacher is None:
            return
        try:
            run = load_run(self.teacher)
            task = run.task
        except InputError as error:
            remedy = "train it first: python -m src.train digits; or set task.teacher=null"
            raise InputError(f"task.teacher: {error.lines[0]}; {remedy}") from None
        if run.spec != self.spec:
            problem = f"{self.teacher} was trained on other data, or another split of them"
            raise InputError(f"task.teacher: {problem}; name a run of the same split")
        self.teacher = str(run.path)
        # Set like this it is no submodule: neither trained nor saved, and never in training mode.
        vars(self)["teacher_task"] = task.requires_grad_(False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["teacher"] = self.teacher

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.teacher = checkpoint["teacher"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        labels = F.one_hot(y, len(self.spec.classes)).float()  # B, classes
        if self.mix:
            order, share = torch.randperm(len(x)), torch.rand(len(x), 1, device=x.device)
            labels = torch.lerp(labels[order], labels, share)
            x = torch.lerp(x[order], x, share[:, :, None, None])
        logits = self.net(x)
        loss: Tensor = self.loss(logits, labels)
        if self.teacher_task is not None:
            soft = distillation_loss(logits, self.ask_teacher(x), self.temperature)
            loss = torch.lerp(loss, soft, self.weight)
        self.train_meter.update(loss, logits, labels.argmax(dim=1))
        return loss

    @torch.no_grad()
    def ask_teacher(self, x: Tensor) -> Tensor:
        """Standardized images `(B, 1, 8, 8)` to the teacher's logits `(B, classes)`."""
        logits: Tensor = self.teacher_task.to(x.device)(x)  # type: ignore[union-attr]
        return logits

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: those of Classification; `teacher` `(B, classes)`, softened probabilities."""
        columns = super().predict_step(batch, batch_idx)
        if self.teacher_task is not None:  # in a training
            logits = self.ask_teacher(batch[0])
            columns["teacher"] = (logits / self.temperature).softmax(dim=1)
        return columns

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot softened probabilities for the images that the teacher is least sure of."""
        if "teacher" not in predictions.columns:
            return {}
        teacher = predictions["teacher"]
        student = predictions["probability"] ** (1 / self.temperature)
        student /= student.sum(axis=1, keepdims=True)
        rows = teacher.max(axis=1).argsort()[:7]
        figure = Figure((7.6, 2.6), layout="constrained")
        axes = figure.subplots(2, len(rows), sharey="row", squeeze=False)
        for row, image, (above, below) in zip(rows, predictions.inputs(rows), axes.T, strict=True):
            above.imshow(image[0], cmap="gray_r")
            above.axis("off")
            places = torch.arange(teacher.shape[1]).numpy()
            below.bar(places - 0.2, teacher[row], 0.4, label="teacher")
            below.bar(places + 0.2, student[row], 0.4, label="student")
            below.set_xticks(places, predictions.spec.names, fontsize=6)  # type: ignore[union-attr]
        axes[1, 0].set_ylabel("probability", fontsize=8)
        axes[1, 0].tick_params(axis="y", labelsize=7)
        figure.legend(
            *below.get_legend_handles_labels(), fontsize=7, ncols=2, loc="outside upper right"
        )
        return {"soft_targets": figure}


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the student's from the teacher's softened probabilities, `()`.

    Multiplied by the squared temperature, so that its gradients keep their size.

    Args:
        student, teacher: logits, each `(B, classes)`.
        temperature: divides both.
    """
    log_student = (student / temperature).log_softmax(dim=1)
    log_teacher = (teacher / temperature).log_softmax(dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence
