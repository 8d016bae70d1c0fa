"""The stage and the name of a logged metric, however a task spells them, and its direction."""

from __future__ import annotations

import math
import re
from typing import Literal

LOWER_IS_BETTER = (
    "loss nll ce bce error err mae mse rmse mape smape mase msle crps perplexity ppl ece brier "
    "wer cer fid kid lpips hausdorff fpr fnr cost"
)
SHARES = (  # within [0, 1]
    "accuracy acc f1 fbeta precision recall sensitivity specificity tpr tnr auroc auprc auc ap map "
    "iou miou jaccard dice match"
)
HIGHER_IS_BETTER = SHARES + (
    " r2 psnr ssim bleu rouge meteor kappa mcc matthews ndcg mrr reward correlation pearson "
    "spearman"
)
STAGES = {"training": "train", "valid": "val", "validation": "val"}
STAGE = "(?P<stage>train|training|val|valid|validation|test)"
ADDED = r"(?P<suffix>_step|_epoch)?(?P<loader>/dataloader_idx_\d+)?"  # by Lightning
LOGGED_NAME = re.compile(rf"{STAGE}[/_](?P<metric>.+?){ADDED}")
LOGGED_AFTER = re.compile(rf"(?P<metric>.+)/{STAGE}{ADDED}")  # `loss/val`


def parse_name(name: str) -> tuple[str, str]:
    """Return stage and metric: `("val", "loss")` for `val_loss`, `valid_loss_epoch` and `loss/val`.

    `train_loss_step`, a step's value, is `("train", "batch_loss")`. The stage of a name that has
    none is empty.
    """
    match = LOGGED_NAME.fullmatch(name) or LOGGED_AFTER.fullmatch(name)
    if match is None:
        return "", name
    batch = "batch_" if match["suffix"] == "_step" else ""
    metric = f"{batch}{match['metric']}{match['loader'] or ''}"
    return STAGES.get(match["stage"], match["stage"]), metric


def canonical_name(name: str) -> str:
    """Return the name as Kindling's tasks log it: `val/loss` for `val_loss`."""
    stage, metric = parse_name(name)
    return f"{stage}/{metric}" if stage else metric


def mode_by_name(name: str) -> Literal["min", "max"] | None:
    """Return whether less or more of a metric is better, by the last known word of its name.

    `val/dice_loss` is a loss, `val_MulticlassAccuracy` an accuracy; `neg_mae` may be either.
    """
    words = _split(name)
    if "neg" in words or "negative" in words:
        return None
    for word in reversed(words):
        if word in LOWER_IS_BETTER.split():
            return "min"
        if word in HIGHER_IS_BETTER.split():
            return "max"
    return None


def is_share(name: str) -> bool:
    """Return whether a metric is a share of samples, pixels or pairs, or a mean of such.

    torchmetrics' `plot_lower_bound` is no help: it is 0 for Cohen's kappa, which goes to -1.
    """
    others = {"neg", "negative", "r2", *LOWER_IS_BETTER.split()}
    words = {*_split(name)}
    return bool(words & {*SHARES.split()}) and not words & others


def find_limits(name: str) -> tuple[float, float]:
    """Return the least and the largest value of an error or of R²; infinite for other metrics."""
    words = {*_split(name)}
    is_error, is_r2 = bool(words & {"mae", "mse", "rmse"}), "r2" in words
    if is_error == is_r2 or words & {"neg", "negative", "log"}:  # neither, or a target's name
        return -math.inf, math.inf
    return (-math.inf, 1.0) if is_r2 else (0.0, math.inf)


def _split(name: str) -> list[str]:
    """The words of a name in lower case: `mIoU` is one, `F1Score` is one and two."""
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.split(r"[^a-z0-9]+", f"{name} {separated}".lower())
