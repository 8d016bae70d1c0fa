"""Metrics of one stage: outputs are collected as tensors, metrics computed once per epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torchmetrics import CatMetric, MeanMetric, Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from src.kindling.config.errors import InputError, join_names
from src.kindling.nn.losses import loss_sums

# Numbers of buffered outputs after which the metrics are updated, which bounds memory.
BUFFER_SIZE = 1 << 17


class Meter(nn.Module):
    """The loss and the metrics of one stage.

    Updating torchmetrics in every step halves the speed of a small net. Here a step appends three
    tensors to a list, and no value is copied from the device before the end of the epoch.

    Args:
        stage: prefix of the names: `val` makes `val/accuracy`.
        metrics: torchmetrics that take `(outputs, targets)`.
        activation: converts logits to the probabilities that the metrics take; default: none.
            torchmetrics would mistake logits within [0, 1] for probabilities.
    """

    def __init__(
        self,
        stage: str,
        metrics: Mapping[str, Metric],
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if "loss" in metrics:
            raise InputError("task.metrics.loss: this name is reserved; choose another")
        self.stage, self.activation = stage, activation
        self.loss, self.sums = MeanMetric(), CatMetric(nan_strategy="disable")
        self.metrics = MetricCollection(dict(metrics), compute_groups=False)
        self.buffer: list[tuple[Tensor, Tensor, Tensor]] = []
        self.buffer_numbers = 0
        self.notes: list[str] = []  # about the last computed values

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Meter:
        """Move the metrics' sums without converting them; half precision would miscount."""

        def move(value: Tensor) -> Tensor:
            return on_device(value, fn(torch.empty(0, device=value.device)).device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def compute_loss(self, loss: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of a batch, `()`, before `update`.

        In validation and test, the epoch's loss is then exact, also if it is no mean over samples.
        """
        value: Tensor = loss(outputs, targets)
        if self.stage != "train" and (found := loss_sums(value, loss, outputs, targets)):
            sums, self.from_sums = found
            self.sums.update(sums.detach().unsqueeze(0))
        return value

    def update(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch's mean loss `()`, and outputs and targets for the metrics, each `(B, …)`."""
        self.buffer.append((loss.detach(), outputs.detach(), targets))
        self.buffer_numbers += outputs.numel()
        if self.buffer_numbers >= BUFFER_SIZE:
            self._flush()

    def compute(self) -> dict[str, Tensor]:
        """Compute the epoch's values by name, over all ranks under DDP, and reset."""
        self._flush()
        values = {"loss": self._compute_loss(), **self.metrics.compute()}
        notes = {name: getattr(metric, "note", "") for name, metric in self.metrics.items()}
        self.notes = [f"{self.stage}/{name}: {note}" for name, note in notes.items() if note]
        for metric in (self.loss, self.sums, self.metrics):
            metric.reset()
        return {f"{self.stage}/{name}": value for name, value in values.items()}

    def _compute_loss(self) -> Tensor:
        if not self.sums.value:
            return self.loss.compute()
        return self.from_sums(self.sums.compute().cpu().double().sum(dim=0)).float()

    def state(self) -> dict[str, Any]:
        """Return the state within the epoch as CPU tensors and plain values."""
        losses, outputs, targets = zip(*self.buffer, strict=True) if self.buffer else ((), (), ())
        buffers = [torch.stack(losses), torch.cat(outputs), torch.cat(targets)] if losses else []
        return {
            "sizes": [len(target) for target in targets],
            "held": moved(buffers, "cpu"),
            "metrics": {name: metric_state(metric) for name, metric in self._named_metrics()},
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore the state of `state`."""
        self.buffer, self.buffer_numbers = [], 0
        if state["held"]:
            losses, *buffers = moved(state["held"], device)
            parts = (buffer.split(state["sizes"]) for buffer in buffers)
            self.buffer = list(zip(losses, *parts, strict=True))
            self.buffer_numbers = buffers[0].numel()
        for name, metric in self._named_metrics():
            if name in state["metrics"]:
                restore_metric(metric, state["metrics"][name], device)

    def _named_metrics(self) -> list[tuple[str, Metric]]:
        return [(name, part) for name, part in self.named_modules() if isinstance(part, Metric)]

    def _flush(self) -> None:
        if not self.buffer:
            return
        losses, outputs, targets = zip(*self.buffer, strict=True)
        sizes = torch.tensor([len(target) for target in targets], device=losses[0].device)
        if not self.sums.value:
            self.loss.update(torch.stack(losses).float(), sizes)
        together = torch.cat(outputs)
        if together.is_floating_point() and together.itemsize < 4:  # half precision
            together = together.float()
        if self.activation:
            together = self.activation(together)
        self.metrics.update(together, torch.cat(targets))
        self.buffer, self.buffer_numbers = [], 0


class MeanOverClasses(Metric):
    """A metric of each class against the rest: the mean over the classes that occur, else NaN.

    torchmetrics gives a class without samples 0 and counts it in the mean.

    Args:
        metric: a binary metric of torchmetrics.functional, of probabilities and truth `(N,)`.
        classes: the names of the classes or labels.
        negatives: whether a class needs samples without it too, as AUROC does.
    """

    probability: list[Tensor]
    target: list[Tensor]

    def __init__(
        self, metric: Callable[..., Tensor], classes: Sequence[str], negatives: bool
    ) -> None:
        super().__init__()
        self.metric, self.classes, self.negatives = metric, classes, negatives
        self.note = ""  # classes left out of the mean
        self.add_state("probability", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add probabilities `(N, K)` and class indices `(N,)` or labels (0 or 1) `(N, K)`."""
        self.probability.append(probability)
        self.target.append(target)

    def compute(self) -> Tensor:
        probability, target = dim_zero_cat(self.probability), dim_zero_cat(self.target)
        N, K = probability.shape
        classes = torch.arange(K, device=target.device)
        truth = target if target.ndim == 2 else target[:, None] == classes  # (N, K)
        counts = truth.sum(dim=0).tolist()
        most = N - 1 if self.negatives else N
        found = [i for i, count in enumerate(counts) if 0 < count <= most]
        self.note = self._describe(counts, most, len(found))
        values = [self.metric(probability[:, i], truth[:, i], validate_args=False) for i in found]
        return torch.stack(values).mean() if values else probability.new_tensor(torch.nan)

    def _describe(self, counts: Sequence[int], most: int, found: int) -> str:
        """List the classes that are left out of the mean."""
        missing = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        every = [name for name, count in zip(self.classes, counts, strict=True) if count > most]
        left_out = [f"missing: {join_names(missing)}"] if missing else []
        left_out += [f"in every sample: {join_names(every)}"] if every else []
        if not left_out:
            return ""
        mean = f"mean over the {found} of {len(counts)} classes that occur"
        return f"{mean if found else 'undefined'}; {'; '.join(left_out)}"


def plain_names(names: Sequence[str]) -> list[str]:
    """Replace slashes, which separate stage and metric, and spaces in names."""
    return ["_".join(name.replace("/", " ").split()) for name in names]


def metric_state(metric: Metric) -> dict[str, Any]:
    """A metric's state within an epoch as CPU tensors and plain values."""
    return {"updates": metric._update_count, "state": moved(metric.metric_state, "cpu")}


def restore_metric(metric: Metric, saved: Mapping[str, Any], device: torch.device) -> None:
    """Restore the state of `metric_state`."""
    state = moved(saved["state"], device)
    vars(metric).update(state, _update_count=saved["updates"], _computed=None)


def moved(state: Any, device: torch.device | str) -> Any:
    """Copy nested values to a device."""
    return tree_map_only(Tensor, lambda one: on_device(one.detach(), device).clone(), state)


def on_device(value: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor; float64 stays on the CPU for MPS, which lacks it."""
    lacking = torch.device(device).type == "mps" and value.dtype is torch.float64
    return value if lacking else value.to(device)
