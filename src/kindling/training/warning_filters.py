"""Silence warnings of the libraries that a user cannot act on, each by its message.

One that asks for a change of the user's code is printed once, in one line without a path.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from functools import partial
from typing import Any

MESSAGES = (
    # Lightning asks torch's pytree in a deprecated way.
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",
    # Data in memory is loaded fastest by the main process; files have workers by their config.
    r".*does not have many workers which may be a bottleneck",
    # The interval is shortened to the epoch, see Curves.
    r".*is smaller than the logging interval Trainer\(log_every_n_steps",
    # The loaders resume within the epoch, which Lightning cannot know.
    r"You're resuming from a checkpoint that ended before the epoch ended",
    # The meters' values are of all processes already.
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",
    # Mixed precision keeps 32-bit weights, as the summary then assumes.
    r"Precision .* is not supported by the model summary",
    # Measuring needs a checkpoint's weights, not its callbacks.
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # Checkpoints leave nets out of the hyperparameters, and say so.
    r"Attribute .* is an instance of `nn\.Module` and is already saved during checkpointing",
    # The choice of the monitor prints that there is no best.ckpt.
    r"You passed in a `val_dataloader` but have no `validation_step`",
    r"You defined a `validation_step` but have no `val_dataloader`",
    # The run has made the folder.
    r"Checkpoint directory .* exists and is not empty",
)

# Lightning repeats this one for each batch size.
AMBIGUOUS = "Trying to infer the `batch_size` from an ambiguous collection"
BATCH_SIZE = (
    "self.log: the tensors of a batch differ in length, and the mean over batches is weighted by "
    "the length of the first; pass batch_size=… to self.log"
)

REPORT_THREAD = threading.excepthook
printed: set[str] = set()


def quiet() -> None:
    """Silence them in this process, and Lightning's notes about hardware and other products."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    threading.excepthook = _report_thread
    show: Any = warnings.showwarning
    if getattr(show, "func", None) is not _show_warning:
        warnings.showwarning = partial(_show_warning, show)


def _show_warning(show: Any, message: Warning | str, *args: Any, **kwargs: Any) -> None:
    """As before, except for the warning about the batch size."""
    if not str(message).startswith(AMBIGUOUS):
        show(message, *args, **kwargs)
    elif BATCH_SIZE not in printed:
        printed.add(BATCH_SIZE)
        print(BATCH_SIZE, file=sys.stderr)


def _report_thread(error: threading.ExceptHookArgs) -> None:
    """As before, except for TensorBoard's writer: its errors are raised again where it is used."""
    if not type(error.thread).__module__.startswith("tensorboard."):
        REPORT_THREAD(error)
