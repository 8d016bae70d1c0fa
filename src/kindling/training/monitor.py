"""The monitored metric, and whether less or more of it is better if the config leaves it out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import Metric

from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.instantiate import Values
from src.kindling.config.targets import locate, parameters
from src.kindling.runs.metric_names import canonical_name, parse_name

Mode = Literal["min", "max"]
LOWER_IS_BETTER = (
    "loss nll ce bce error err mae mse rmse mape smape mase msle crps perplexity ppl ece brier "
    "wer cer fid kid lpips hausdorff fpr fnr cost"
)
HIGHER_IS_BETTER = (
    "accuracy acc f1 fbeta precision recall sensitivity specificity auroc auprc auc ap map iou "
    "miou jaccard dice r2 psnr ssim bleu rouge meteor kappa mcc matthews ndcg mrr tpr tnr reward"
)


@dataclass
class Monitor:
    """What picks the best checkpoint, stops early and steers schedules and studies.

    Attributes:
        name: the metric, as it is logged; None where nothing is monitored.
        mode: whether less or more of it is better.
    """

    name: str | None
    mode: Mode = "min"


def choose_monitor(values: Values, task: LightningModule, logged: Sequence[str] | None) -> Monitor:
    """What a training monitors; what is inferred is printed.

    The config's `monitor`; else the attribute `monitor` of the task; else `val/loss` or `val_loss`;
    else the only one of the metrics that validation logs (`logged`; None if unknown).

    Raises:
        InputError: when the monitor is not logged, or its mode is unknown.
    """
    declared = getattr(task, "monitor", None)
    name = values.monitor or declared
    mode = values.mode or (getattr(task, "mode", None) if name == declared else None)
    names = ", ".join(sorted(logged or ())) or "none"
    if name is not None and logged is not None and name not in logged:
        hint = did_you_mean(name, logged)
        raise InputError(f"monitor: '{name}' is not logged in validation{hint} (logged: {names})")
    if name is None:
        usual = ["val/loss"] if logged is None else logged
        usual = [name for name in usual if canonical_name(name) == "val/loss"] or usual
        if len(usual) != 1:
            if logged:
                print(f"monitor: none, so no best.ckpt; set monitor=… to one of: {names}")
            return Monitor(None)
        name = usual[0]
        if name != "val/loss":
            print(f"monitor: {name} (the default; set monitor=… to change it)")
    return Monitor(name, mode or _require_mode(name, task, "", announce=bool(values.monitor)))


def mode_of_callback(name: str, section: dict[str, Any], monitor: Monitor, task: Any) -> Mode:
    """The mode for what a callback monitors, printed if it is inferred."""
    own = section.get("monitor")
    takes_mode = "mode" in parameters(locate(section["_target_"]))
    if own in (None, monitor.name) or section.get("mode") is not None or not takes_mode:
        return monitor.mode
    return _require_mode(own, task, f"callbacks.{name}.")


def _require_mode(monitor: str, task: nn.Module, section: str, announce: bool = True) -> Mode:
    found = infer_mode(monitor, task)
    if found is None:
        raise InputError(
            f"{section}mode: unknown whether a higher or a lower '{monitor}' is better; "
            f"set {section}mode=max or {section}mode=min"
        )
    mode, source = found
    if announce:
        better = "higher" if mode == "max" else "lower"
        print(f"{section}monitor: {monitor}, {better} is better ({source})")
    return mode


def infer_mode(name: str, module: nn.Module) -> tuple[Mode, str] | None:
    """Return a metric's direction and its source: the metric logged under this name, or the name.

    The torchmetrics of the module come first; then the words of the name: `val/dice_loss`.
    """
    names = {parse_name(name)[1].rpartition("/")[2], name.replace("/", "_")}
    for path, part in module.named_modules():
        own = {path.rpartition(".")[2], *getattr(part, "names", ())}
        if isinstance(part, Metric) and names & own:
            higher = getattr(getattr(part, "metric", part), "higher_is_better", None)
            if higher is not None:
                return ("max" if higher else "min"), "by its torchmetrics class"
    for word in reversed(re.split(r"[^a-z0-9]+", name.lower())):
        if word in LOWER_IS_BETTER.split():
            return "min", "by its name"
        if word in HIGHER_IS_BETTER.split():
            return "max", "by its name"
    return None
