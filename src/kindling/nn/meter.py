"""Metrics of one stage: collected batch by batch as tensors, computed once an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from src.kindling.config.errors import InputError, did_you_mean, join_names

# Buffered outputs update the metrics at this many numbers: rarely enough to cost nothing in a step,
# often enough to bound memory.
BUFFER_SIZE = 1 << 17


class Meter(nn.Module):
    """The loss and the metrics of one stage.

    Updating a torchmetrics collection in every step halves the speed of a small net. Here a step
    appends three tensors to a list; no value leaves the device before the epoch ends.

    Args:
        stage: prefix of the names: `val` makes `val/accuracy`.
        metrics: torchmetrics that take `(outputs, targets)`.
        activation: turns logits into the probabilities that the metrics take; left out, they take
            the outputs. torchmetrics would guess, and take logits within [0, 1] for probabilities.
    """

    def __init__(
        self,
        stage: str,
        metrics: dict[str, Metric],
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if "loss" in metrics:
            raise InputError("task.metrics.loss: the name is taken by the loss; choose another")
        self.stage, self.activation = stage, activation
        self.loss = MeanMetric()
        self.metrics = MetricCollection(dict(metrics), compute_groups=False)
        self.buffer: list[tuple[Tensor, Tensor, Tensor]] = []
        self.buffer_numbers = 0
        self.notes: list[str] = []  # on the values that were computed last

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Meter:
        """Move the metrics' sums and never convert them: half precision would miscount."""

        def move(value: Tensor) -> Tensor:
            device = fn(torch.empty(0, device=value.device)).device
            kept = device.type == "mps" and value.dtype is torch.float64  # which MPS does not have
            return value if kept else value.to(device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self

    def has(self, name: str) -> None:
        """Refuse a name, such as a task's `monitor`, that this meter does not give."""
        own = [
            name
            for key, metric in self.metrics.items()
            for name in getattr(metric, "names", (key,))
        ]
        names = [f"{self.stage}/{name}" for name in ("loss", *own)]
        if name.startswith(f"{self.stage}/") and name not in names:
            raise InputError(
                f"task.monitor: no metric '{name}'{did_you_mean(name, names)} "
                f"(there are: {', '.join(names)})"
            )

    def update(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch: its mean loss `()`, its outputs `(B, …)` and targets `(B, …)`."""
        self.buffer.append((loss.detach(), outputs.detach(), targets))
        self.buffer_numbers += outputs.numel()
        if self.buffer_numbers >= BUFFER_SIZE:
            self._hand_over()

    def compute(self) -> dict[str, Tensor]:
        """The epoch's values by name; empties the meter. Under DDP, over all ranks."""
        self._hand_over()
        values = {"loss": self.loss.compute(), **self.metrics.compute()}
        notes = {name: getattr(metric, "note", "") for name, metric in self.metrics.items()}
        self.notes = [f"{self.stage}/{name}: {note}" for name, note in notes.items() if note]
        self.loss.reset()
        self.metrics.reset()
        return {f"{self.stage}/{name}": value for name, value in values.items()}

    def state(self) -> dict[str, Any]:
        """What has been collected since the epoch began, on the CPU: tensors and plain values."""
        losses, outputs, targets = zip(*self.buffer, strict=True) if self.buffer else ((), (), ())
        return {
            "sizes": [len(target) for target in targets],
            "held": [torch.stack(losses).cpu(), torch.cat(outputs).cpu(), torch.cat(targets).cpu()]
            if losses
            else [],
            "metrics": {
                name: {"updates": part._update_count, "state": moved(part.metric_state, "cpu")}
                for name, part in self.named_modules()
                if isinstance(part, Metric)
            },
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over what another meter of this task had collected."""
        self.buffer, self.buffer_numbers = [], 0
        if state["held"]:
            losses, outputs, targets = moved(state["held"], device)
            parts = zip(
                losses, outputs.split(state["sizes"]), targets.split(state["sizes"]), strict=True
            )
            self.buffer, self.buffer_numbers = list(parts), outputs.numel()
        for name, part in self.named_modules():
            if isinstance(part, Metric) and name in state["metrics"]:
                for key, value in moved(state["metrics"][name]["state"], device).items():
                    setattr(part, key, value)
                part._update_count = state["metrics"][name]["updates"]
                part._computed = None

    def _hand_over(self) -> None:
        if not self.buffer:
            return
        losses, outputs, targets = zip(*self.buffer, strict=True)
        sizes = torch.tensor([len(target) for target in targets], device=losses[0].device)
        self.loss.update(torch.stack(losses).float(), sizes)
        together = torch.cat(outputs)
        together = together.float() if together.is_floating_point() else together
        if self.activation:
            together = self.activation(together)
        self.metrics.update(together, torch.cat(targets))
        self.buffer, self.buffer_numbers = [], 0


class Each(Metric):
    """A metric of each class, label or value `(K,)` and its mean: `mae`, `mae_height`, …

    Args:
        metric: gives a value for each.
        name: of the metric.
        of: the names of the classes, labels or values.
    """

    def __init__(self, metric: Metric, name: str, of: Sequence[str]) -> None:
        super().__init__()
        self.metric = metric
        self.names = [name, *(f"{name}_{one}" for one in plain_names(of))]

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.metric.update(outputs, targets)

    def compute(self) -> dict[str, Tensor]:
        values: Tensor = self.metric.compute()
        return dict(zip(self.names, (values.nanmean(), *values), strict=True))

    def reset(self) -> None:
        self.metric.reset()
        super().reset()


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
        self,
        metric: Callable[..., Tensor],
        classes: Sequence[str],
        negatives: bool,
    ) -> None:
        super().__init__()
        self.metric, self.classes, self.negatives = metric, classes, negatives
        self.note = ""  # which classes the mean leaves out
        self.add_state("probability", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, probability: Tensor, target: Tensor) -> None:
        """Take probabilities `(N, K)`; class numbers `(N,)`, or labels (0 or 1) `(N, K)`."""
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
        """Which classes the mean leaves out; empty where none."""
        missing = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        every = [name for name, count in zip(self.classes, counts, strict=True) if count > most]
        left_out = [f"missing: {join_names(missing)}"] if missing else []
        left_out += [f"in every sample: {join_names(every)}"] if every else []
        if not left_out:
            return ""
        mean = f"mean over the {found} of {len(counts)} classes that occur"
        return f"{mean if found else 'undefined'}; {'; '.join(left_out)}"


def plain_names(names: Sequence[str]) -> list[str]:
    """Names that may stand in a metric's: a slash parts the stage from the metric."""
    return ["_".join(name.replace("/", " ").split()) for name in names]


def moved(state: Any, device: torch.device | str) -> Any:
    """Copy nested values with all tensors on a device; float64, which MPS lacks, to the CPU."""
    if isinstance(state, dict):
        return {key: moved(value, device) for key, value in state.items()}
    if isinstance(state, list):
        return [moved(value, device) for value in state]
    if not isinstance(state, Tensor):
        return state
    without = torch.device(device).type == "mps" and state.dtype is torch.float64
    return state.detach().to("cpu" if without else device).clone()
