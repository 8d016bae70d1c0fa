"""One name for a metric, however a task logs it."""

from __future__ import annotations

import re

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
