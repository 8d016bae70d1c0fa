"""Regression: one or several numbers, predicted and measured in the target's own unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanAbsoluteError, Metric

from src.kindling.config.errors import InputError
from src.kindling.data.batch import Batch, BatchTransform
from src.kindling.data.preprocess import Standardize, preprocess
from src.kindling.data.spec import Spec
from src.kindling.nn.meter import Meter, plain_names
from src.kindling.nn.optimizers import configure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from src.kindling.analysis.predictions import Array, Predictions


class Regression(LightningModule):
    """Raw input in, values in the target's unit out; the loss is taken on standardized values.

    The metrics stand beside those of the trivial predictor, which always says the training targets' mean. Of several
    values they are the mean over the values, and each value has its own as well: `mae`, `mae_height`, `mae_weight`.

    Args:
        net: maps standardized input `(B, *in_shape)` to standardized values `(B, num_outputs)`.
        spec: what is known of the data; filled in.
        optimizer: any `torch.optim.Optimizer`, built over the net's parameters.
        scheduler: any scheduler; what follows from the length of the training is filled in.
        loss: takes standardized predictions and targets, each `(B, num_outputs)`.
        metrics: further torchmetrics by name, taking predictions and targets in the target's unit.
        augment: random transforms of training batches, after preprocessing; filled in from the data.
        decay_all: False exempts biases and norms from weight decay.
        monitor: what picks the best checkpoint, stops early and steers schedules and studies.
        mode: whether less or more of it is better; a config that sets `monitor` may leave it out (training/monitor.py).

    Raises:
        InputError: when the data are of the other kind.
    """

    answers, scored = "value", "mae"

    def __init__(
        self,
        net: nn.Module,
        spec: Spec,
        optimizer: Callable[[Any], Optimizer] = AdamW,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss: nn.Module | None = None,
        metrics: dict[str, Metric] | None = None,
        augment: Sequence[BatchTransform] = (),
        decay_all: bool = True,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        super().__init__()
        if spec.classes:
            what, other = {
                "labels": ("labels", "multilabel"),
                "mask": ("classes in masks", "segmentation"),
            }.get(spec.predicts, ("classes", "classification"))
            raise InputError(
                f"task: Regression needs values, and the data has {len(spec.classes)} {what}; try task={other}"
            )
        self.spec, self.out_shape = spec, (spec.num_outputs,)
        self.preprocess = preprocess(spec, net)
        self.scale = Standardize(spec.target_mean, spec.target_std, dims=1)
        self.augment = nn.ModuleList(augment)
        self.net = net
        self.loss = loss or nn.MSELoss()
        self.optimizer, self.scheduler, self.decay_all = optimizer, scheduler, decay_all
        self.monitor, self.mode = monitor, mode
        val = RegressionScores(spec.names, spec.target_mean)
        test = RegressionScores(spec.names, spec.target_mean, baseline=True)
        extra = metrics or {}
        if taken := sorted({"scores", *test.names} & set(extra)):
            raise InputError(f"task.metrics.{taken[0]}: the name is taken by a metric of the task; choose another")
        self.train_meter = Meter("train", {"mae": MeanAbsoluteError()})
        self.val_meter = Meter("val", {"scores": val, **extra})
        self.val_meter.has(monitor)
        self.test_meter = Meter("test", {"scores": test, **extra})

    def forward(self, x: Tensor) -> Tensor:
        """Raw input `(B, *shape)` to values `(B, num_outputs)` in the target's unit."""
        return self.scale.inverse(self.net(self.preprocess(x)))

    def targets(self, y: Tensor) -> Tensor:
        """A batch's targets as the loss takes them: standardized."""
        scaled: Tensor = self.scale(y)
        return scaled

    def training_step(self, batch: Batch, _: int) -> Tensor:
        x, y = self.preprocess(batch.x), self.targets(batch.y)
        for transform in self.augment:
            x, y = transform(x, y)
        outputs = self.net(x)
        loss: Tensor = self.loss(outputs, y)
        self.train_meter.update(loss, self.scale.inverse(outputs), batch.y)
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        values = self(batch.x)
        self.val_meter.update(self.loss(self.scale(values), self.scale(batch.y)), values, batch.y)

    def test_step(self, batch: Batch, _: int) -> None:
        values = self(batch.x)
        self.test_meter.update(self.loss(self.scale(values), self.scale(batch.y)), values, batch.y)

    def predict_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        """Columns: `index` `(B,)`, `target` and `prediction` `(B, num_outputs)`."""
        return {"index": batch.index, "target": batch.y, "prediction": self.answer(batch.x)}

    def answer(self, x: Tensor) -> Tensor:
        """Raw input to values `(B, num_outputs)` in the target's unit: what a user gets, exported or served."""
        values: Tensor = self(x)
        return values

    def decide(self, answer: Tensor) -> Tensor:
        """Values are what they are."""
        return answer

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Each sample's absolute error, the mean over its values, `(B,)`."""
        return (outputs - targets).abs().mean(dim=1)

    def trivial(self) -> Tensor:
        """What is answered by who knows the training targets alone: their mean."""
        return torch.tensor(self.spec.target_mean)

    def rows(self, columns: dict[str, Tensor], top: int | None = None) -> dict[str, Array]:
        """A readable table of the columns of `predict_step`: a column for each value."""
        names = [f"prediction_{name}" for name in self.spec.names] if self.spec.num_outputs > 1 else ["prediction"]
        return {name: columns["prediction"][:, i].numpy() for i, name in enumerate(names)}

    def figures(self, predictions: Predictions) -> dict[str, Figure]:
        """Pictures by name, from the columns of `predict_step`."""
        from src.kindling.analysis import figures

        off = np.abs(predictions["prediction"] - predictions["target"]) / np.array(self.spec.target_std, np.float32)
        worst = predictions.take(np.argsort(-off.max(axis=1), kind="stable")[: figures.SAMPLES])
        captions = {
            told: [", ".join(f"{value:.4g}" for value in row) for row in worst[column]]
            for told, column in (("true", "target"), ("predicted", "prediction"))
        }
        off = worst["prediction"] - worst["target"]
        captions["error"] = [", ".join(f"{value:+.4g}" for value in row) for row in off]
        of = f" ({', '.join(self.spec.names)})" if self.spec.num_outputs > 1 else ""
        return {"errors": self.examples(predictions), "worst": figures.samples(worst, f"Largest errors{of}", captions)}

    def examples(self, predictions: Predictions, before: Predictions | None = None) -> Figure:
        """Predictions against the truth; beside them those made `before`, of the same samples."""
        from src.kindling.analysis import figures

        past = None if before is None else before["prediction"]
        return figures.values(predictions["target"], predictions["prediction"], self.spec.names, past)

    def on_train_epoch_end(self) -> None:
        self.log_dict(self.train_meter.compute())

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self.val_meter.compute())

    def on_test_epoch_end(self) -> None:
        self.log_dict(self.test_meter.compute())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return configure(self, self.optimizer, self.scheduler, self.monitor, self.mode, self.decay_all)


class RegressionScores(Metric):
    """MAE, RMSE and R² of each value and their means over the values, from float64 sums.

    torchmetrics' R2Score takes the difference of two float32 sums, and sums below 1e-4 for zero:
    wrong for targets far from 0 or small ones. Here deviations are summed around the training mean.
    As in scikit-learn, R² of equal targets is 1 without any error, else 0; it needs two samples.

    Args:
        names: of the values.
        mean: of each value in the training split, in the target's unit.
        baseline: whether to add MAE and RMSE of the predictor that always says this mean.
    """

    count: Tensor
    absolute: Tensor
    squared: Tensor
    deviation: Tensor
    deviation_absolute: Tensor
    deviation_squared: Tensor

    def __init__(self, names: Sequence[str], mean: Sequence[float], baseline: bool = False) -> None:
        super().__init__()
        self.mean, self.baseline = tuple(mean), baseline
        self.values = plain_names(names) if len(names) > 1 else []
        endings = ["", *(f"_{value}" for value in self.values)]
        self.names = [f"{name}{ending}" for name in ("mae", "rmse", "r2") for ending in endings]
        self.names += ["mean_predictor_mae", "mean_predictor_rmse"] if baseline else []
        zeros = torch.zeros(len(names), dtype=torch.float64)
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("absolute", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("squared", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("deviation", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("deviation_absolute", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("deviation_squared", zeros.clone(), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        device = self.count.device  # on MPS, which has no float64, it is the CPU
        outputs, targets = outputs.to(device).double(), targets.to(device).double()
        errors, deviations = outputs - targets, targets - targets.new_tensor(self.mean)
        self.count += len(targets)
        self.absolute += errors.abs().sum(dim=0)
        self.squared += errors.square().sum(dim=0)
        self.deviation += deviations.sum(dim=0)
        self.deviation_absolute += deviations.abs().sum(dim=0)
        self.deviation_squared += deviations.square().sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        each = {
            "mae": self.absolute / self.count,
            "rmse": (self.squared / self.count).sqrt(),
            "r2": self._r2(),
        }
        values = {name: found.mean() for name, found in each.items()}
        for name, found in each.items():
            values |= {f"{name}_{of}": value for of, value in zip(self.values, found, strict=False)}
        if self.baseline:
            values["mean_predictor_mae"] = (self.deviation_absolute / self.count).mean()
            values["mean_predictor_rmse"] = (self.deviation_squared / self.count).sqrt().mean()
        return {name: value.float() for name, value in values.items()}

    def _r2(self) -> Tensor:
        total = self.deviation_squared - self.deviation.square() / self.count
        equal = total <= 1e-13 * self.deviation_squared  # of equal targets, rounding leaves less
        r2 = torch.where(equal, (self.squared == 0).double(), 1 - self.squared / total)
        return r2.masked_fill(self.count < 2, torch.nan)
