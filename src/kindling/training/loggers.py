"""Build a run's loggers, mute them in the final test, and finish a W&B run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from lightning.pytorch.loggers import Logger

from src.kindling.config import instantiate
from src.kindling.config.compose import Config
from src.kindling.runs.run import Run
from src.kindling.training.callbacks.guarded_logger import shielded
from src.kindling.training.callbacks.metrics_file import MetricsFile
from src.kindling.training.callbacks.tensorboard import TensorBoard

MUTED = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")


def build_loggers(config: Config, run: Run, step: int) -> list[Logger]:
    """TensorBoard, metrics.csv, and the config's loggers, for a training that starts at a step.

    TensorBoard is the first: it is `self.logger` of the task, for its `experiment`.
    """
    board = TensorBoard(run.path, name="", version="", default_hp_metric=False, purge_step=step)
    loggers: list[Logger] = [board, MetricsFile(run.path / "metrics.csv", step)]
    given = {"save_dir": run.path, "name": config.name}
    given |= {"version": run.logger_id, "run_name": run.logger_id}
    for name, part in (config.values.get("logger") or {}).items():
        if part:
            loggers.append(instantiate.build(config, f"logger.{name}", **given))
    return [shielded(logger) for logger in loggers]


@contextmanager
def muted(loggers: Sequence[Logger]) -> Iterator[None]:
    """Drop what the Trainer logs; a task can still write to `self.logger.experiment`."""

    def drop(*args: Any, **kwargs: Any) -> None:
        return None

    with ExitStack() as stack:
        for logger in loggers:
            for name in MUTED:
                stack.enter_context(patch.object(logger, name, drop))
        yield


def finish_wandb(run_id: str, exit_code: int) -> None:
    """End the process's W&B run if it has this ID, or the next training's logger continues it.

    A run that was started outside the training stays open.
    """
    wandb = sys.modules.get("wandb")
    active = getattr(wandb, "run", None)
    if wandb is None or active is None or active.id != run_id:
        return
    try:
        wandb.finish(exit_code=exit_code)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        print(f"wandb: not finished: {reason}; upload the run with 'wandb sync'")
