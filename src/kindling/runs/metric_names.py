"""One name for a metric, however a task logs it, and its direction by the words of the name."""

from __future__ import annotations

import re
from typing import Literal

LOWER_IS_BETTER = (
    "loss nll ce bce error err mae mse rmse mape smape mase msle crps perplexity ppl ece brier "
    "wer cer fid kid lpips hausdorff fpr fnr cost"
)
HIGHER_IS_BETTER = (
    "accuracy acc f1 fbeta precision recall sensitivity specificity auroc auprc auc ap map iou "
    "miou jaccard dice r2 psnr ssim bleu rouge meteor kappa mcc matthews ndcg mrr tpr tnr reward "
    "correlation pearson spearman"
)
STAGES = {"training": "train", "valid": "val", "validation": "val"}
LOGGED_NAME = re.compile(r"(train|training|val|valid|validation|test)[/_](.+?)(_step|_epoch)?")


def canonical_name(name: str) -> str:
    """Return `val/loss` for `val_loss`, `valid_loss` and `val_loss_epoch`.

    `train_loss_step`, a step's value, is `train/batch_loss`. Any other name stays as it is.
    """
    match = LOGGED_NAME.fullmatch(name)
    if match is None:
        return name
    stage, metric, suffix = match.groups()
    return f"{STAGES.get(stage, stage)}/{'batch_' if suffix == '_step' else ''}{metric}"


def mode_by_name(name: str) -> Literal["min", "max"] | None:
    """Return whether less or more of a metric is better, by the last word of its name that says so.

    `val/dice_loss` is a loss, `val_MulticlassAccuracy` an accuracy; `neg_mae` may be either.
    """
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)  # mIoU is a word, F1Score is two
    words = re.split(r"[^a-z0-9]+", f"{name} {separated}".lower())
    if "neg" in words or "negative" in words:
        return None
    for word in reversed(words):
        if word in LOWER_IS_BETTER.split():
            return "min"
        if word in HIGHER_IS_BETTER.split():
            return "max"
    return None
