"""Silence warnings of the libraries that a user cannot act on, each by its message."""

from __future__ import annotations

import logging
import warnings

MESSAGES = (
    # Lightning asks torch's own pytree in the old way; only Lightning can change it.
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",
    # Data in memory is loaded fastest by the main process, and files have workers by their config.
    r".*does not have many workers which may be a bottleneck",
    # The values of an epoch are logged whatever the interval is.
    r".*is smaller than the logging interval Trainer\(log_every_n_steps",
    # The loaders resume at the epoch and batch (src/kindling/data/order.py); Lightning cannot know.
    r"You're resuming from a checkpoint that ended before the epoch ended",
    # The meters' values are of all processes already.
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",
    # Mixed precision keeps its weights in 32 bits, which is what the summary then assumes.
    r"Precision .* is not supported by the model summary",
    # Raised when a trainer is given a folder that the run has made for it.
    # Measuring needs the weights of a checkpoint, not the callbacks that made it.
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    r"Checkpoint directory .* exists and is not empty",
)


def quiet() -> None:
    """Silence them in this process, and Lightning's notes about hardware and other products."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
