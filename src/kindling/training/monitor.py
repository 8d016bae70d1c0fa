"""Whether less or more of a monitored metric is better, where the config leaves it out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from src.kindling.config.errors import InputError
from src.kindling.config.targets import locate, parameters

if TYPE_CHECKING:
    from torch import nn

LOWER_IS_BETTER = re.compile(
    "loss|nll|ce|bce|error|err|mae|mse|rmse|mape|smape|mase|msle|crps|perplexity|ppl|ece|brier|wer|cer|fid|kid|lpips|"
    "hausdorff|fpr|fnr|cost"
)
HIGHER_IS_BETTER = re.compile(
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
        if LOWER_IS_BETTER.fullmatch(word):
            return "min", "by its name"
        if HIGHER_IS_BETTER.fullmatch(word):
            return "max", "by its name"
    return None


def set_mode(task: Any, section: dict[str, Any]) -> None:
    """Give a task that is to be trained its mode, where the config changes what it monitors and leaves out the mode.

    The mode is printed with the task's notes.

    Args:
        task: a LightningModule with `monitor` and `mode`.
        section: the config's `task`.

    Raises:
        InputError: when the mode is unknown.
    """
    default = parameters(type(task)).get("monitor")
    changed = section.get("monitor") is not None and not (default and default.default == section["monitor"])
    if changed and section.get("mode") is None and hasattr(task, "monitor"):
        task.mode, line = _require_mode(task.monitor, task, "task")
        task.notes = [*getattr(task, "notes", []), line]


def mode_of_callback(name: str, section: dict[str, Any], task: Any) -> str:
    """The mode for what a callback monitors; one that is inferred is printed.

    Raises:
        InputError: when it is unknown.
    """
    monitor = section.get("monitor")
    takes_mode = "mode" in parameters(locate(section["_target_"]))
    if monitor in (None, task.monitor) or section.get("mode") is not None or not takes_mode:
        return str(task.mode)
    mode, line = _require_mode(monitor, task, f"callbacks.{name}")
    print(line)
    return mode


def _require_mode(monitor: str, task: nn.Module, key: str) -> tuple[str, str]:
    """The mode, and a line that names its source."""
    found = infer_mode(monitor, task)
    if found is None:
        raise InputError(
            f"{key}.mode: unknown whether a higher or a lower '{monitor}' is better; set {key}.mode=max or {key}.mode=min"
        )
    better = "higher" if found[0] == "max" else "lower"
    return found[0], f"{key}.monitor: {monitor}, {better} is better ({found[1]})"
