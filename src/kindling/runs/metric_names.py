"""The stage and the name of a logged metric, however a task spells them."""

from __future__ import annotations

import re

STAGES = {"training": "train", "valid": "val", "validation": "val"}
LOGGED_NAME = re.compile(
    r"(train|training|val|valid|validation|test)[/_](.+?)(_step|_epoch)?(/dataloader_idx_\d+)?"
)


def parse_name(name: str) -> tuple[str, str]:
    """Return stage and metric: `("val", "loss")` for `val/loss`, `val_loss` and `valid_loss_epoch`.

    `train_loss_step`, a step's value, is `("train", "batch_loss")`. The stage of a name that begins
    with none is empty.
    """
    match = LOGGED_NAME.fullmatch(name)
    if match is None:
        return "", name
    stage, metric, suffix, loader = match.groups()
    batch = "batch_" if suffix == "_step" else ""
    return STAGES.get(stage, stage), f"{batch}{metric}{loader or ''}"


def canonical_name(name: str) -> str:
    """Return the name as Kindling's tasks log it: `val/loss` for `val_loss`."""
    stage, metric = parse_name(name)
    return f"{stage}/{metric}" if stage else metric
