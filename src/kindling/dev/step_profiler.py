"""Split the time of a training into parts: data, net, backward, optimizer, callbacks, loop."""

from __future__ import annotations

import functools
import re
import time
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler

LOOP = "Lightning's loop"
# Names of Lightning's actions, read in 2.6.6, and of `time_calls`; the first match counts.
PARTS = {
    r"train_dataloader_next": "data",
    r"\[Strategy\].*\.batch_to_device": "copy to the device",
    r"\.on_after_batch_transfer": "preprocessing and augmentation",
    r"\.training_step": "net and loss",
    r"\[Strategy\].*\.backward": "backward",
    r"\[LightningModule\].*\.(optimizer_step|optimizer_zero_grad|configure_grad)": "optimizer",
    r"^Meter\.": "metrics",
    r"\[Callback\].*Checkpoint|save_checkpoint": "checkpoints",
    r"\[Callback\]": "callbacks",
    r"\.log_metrics": "logging",
    r"validation|val_next": "validation",
}


class StepProfiler(Profiler):
    """Lightning's profiler, with each moment in one part: that of the innermost action.

    The parts add up to the time since it was made. On a GPU, each change of part waits until the
    GPU has finished, which slows the training down; the parts' shares are what counts.

    Args:
        device: of the training.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.stack = [LOOP]
        self.last = time.perf_counter()

    def start(self, action_name: str) -> None:
        self.record()
        self.stack.append(find_part(action_name) or self.stack[-1])

    def stop(self, action_name: str) -> None:
        self.record()
        self.stack.pop()

    def record(self) -> None:
        """Add the time since the last change to the current part."""
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def time_calls(self, owner: Any, method: str) -> None:
        """Make the calls of a method an action, such as `Meter.update`."""
        call, action = getattr(owner, method), f"{type(owner).__name__}.{method}"

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.profile(action):
                return call(*args, **kwargs)

        setattr(owner, method, timed)


@functools.cache
def find_part(action: str) -> str | None:
    """Return the part of an action; None for an action that belongs to the one around it."""
    return next((part for pattern, part in PARTS.items() if re.search(pattern, action)), None)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
