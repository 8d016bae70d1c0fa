"""Whether less or more of a monitored metric is better, where the config leaves it out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from src.errors import InputError

if TYPE_CHECKING:
    from torch import nn

LESS = re.compile(
    "loss|nll|ce|bce|error|err|mae|mse|rmse|mape|smape|mase|msle|crps|perplexity|ppl|ece|brier|wer|cer|fid|kid|lpips|"
    "hausdorff|fpr|fnr|cost"
)
MORE = re.compile(
    "accuracy|acc|f1|fbeta|precision|recall|sensitivity|specificity|auroc|auprc|auc|ap|map|iou|miou|jaccard|dice|r2|psnr|"
    "ssim|bleu|rouge|meteor|kappa|mcc|matthews|ndcg|mrr|tpr|tnr|reward"
)


def infer_mode(name: str, module: nn.Module) -> tuple[Literal["min", "max"], str] | None:
    """The direction of a metric, and where it is from: the metric that is logged under this name, else the name.

    Args:
        name: as it is logged: `val/accuracy`, `val_loss`.
        module: whose torchmetrics are looked at.
    """
    from torchmetrics import Metric

    names = {name.rpartition("/")[2], name.replace("/", "_")}
    for path, part in module.named_modules():
        own = {path.rpartition(".")[2], *getattr(part, "names", ())}
        if isinstance(part, Metric) and names & own:
            higher = getattr(getattr(part, "metric", part), "higher_is_better", None)
            if higher is not None:
                return ("max" if higher else "min"), "by its torchmetrics class"
    for word in reversed(re.split(r"[^a-z0-9]+", name.lower())):
        if LESS.fullmatch(word):
            return "min", "by its name"
        if MORE.fullmatch(word):
            return "max", "by its name"
    return None


def settle_mode(task: Any, section: dict[str, Any]) -> None:
    """Give a task its mode, where the config names what it monitors and leaves out the direction; printed as a note.

    Args:
        task: a LightningModule with `monitor` and `mode`.
        section: the config's `task`.

    Raises:
        InputError: when the direction is unknown.
    """
    if section.get("monitor") is None or section.get("mode") is not None or not hasattr(task, "monitor"):
        return
    task.mode, source = _known(task.monitor, task, "task")
    better = "higher" if task.mode == "max" else "lower"
    task.notes = [*getattr(task, "notes", []), f"monitor: {task.monitor}, {better} is better ({source})"]


def mode_of_callback(name: str, section: dict[str, Any], task: Any) -> str:
    """The direction of what a callback monitors.

    Raises:
        InputError: when it is unknown.
    """
    monitor = section.get("monitor")
    if monitor is None or monitor == task.monitor or "mode" in section:
        return str(task.mode)
    return _known(monitor, task, f"callbacks.{name}")[0]


def _known(monitor: str, task: nn.Module, key: str) -> tuple[str, str]:
    found = infer_mode(monitor, task)
    if found is None:
        raise InputError(
            f"{key}.mode: unknown whether a higher or a lower '{monitor}' is better; set {key}.mode=max or {key}.mode=min"
        )
    return found
