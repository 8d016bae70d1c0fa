"""The Trainer of a config, with a run's own callbacks and loggers, and what it measures; the commands share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from src.kindling.config import instantiate
from src.kindling.config.compose import Config, get
from src.kindling.runs.files import as_floats
from src.kindling.runs.run import Run
from src.kindling.training.callbacks.checkpoint import Checkpoint
from src.kindling.training.callbacks.guarded_logger import shielded
from src.kindling.training.callbacks.metrics_file import MetricsFile
from src.kindling.training.callbacks.nonfinite_guard import Guard
from src.kindling.training.callbacks.progress import progress
from src.kindling.training.callbacks.seeding import Seeding
from src.kindling.training.callbacks.step_curves import Curves
from src.kindling.training.callbacks.tensorboard import TensorBoard
from src.kindling.training.checkpoint_io import AtomicIO
from src.kindling.training.loggers import muted
from src.kindling.training.monitor import mode_of_callback
from src.kindling.training.speed import Unprofiled, look_for_gpus_once

if TYPE_CHECKING:
    from src.kindling.data.batch import Stage
    from src.kindling.runs.signals import Interrupts
    from src.kindling.training.resume import Saved


def build_trainer(
    config: Config, run: Run | None, task: LightningModule, spec: Any, interrupts: Interrupts | None = None,
    saved: Saved | None = None,
) -> Trainer:  # fmt: skip
    """The config's Trainer; with a run, its checkpoints and loggers write there, and go on from what was saved."""
    look_for_gpus_once()
    values = instantiate.values(config)
    seeding = Seeding(values.seed)
    callbacks: list[Callback] = [] if run else [seeding]
    loggers: list[Any] = []
    on_terminal = False
    if run is not None:
        monitored: dict[str, Any] = {"monitor": task.monitor, "mode": task.mode}
        named = {name: part for name, part in (instantiate.resolve(config).get("callbacks") or {}).items() if part}
        step = saved.step if saved else 0
        for name, part in named.items():
            mode = mode_of_callback(name, part, task)
            callbacks.append(instantiate.build(config, f"callbacks.{name}", monitor=task.monitor, mode=mode))
        callbacks += [
            seeding, Guard(values.skip_nonfinite), Curves(),
            Checkpoint(run.checkpoints, config, spec, **monitored, minutes=values.save_minutes, interrupts=interrupts,
                       saved=saved),
        ]  # fmt: skip
        shown_by, on_terminal = progress()
        callbacks += shown_by
        if config.values.get("finetune"):
            callbacks.append(instantiate.build(config, "finetune"))
        # TensorBoard first: the first logger is `self.logger` of the task, for its `experiment`.
        board = TensorBoard(run.path, name="", version="", default_hp_metric=False, purge_step=step)
        loggers = [board, MetricsFile(run.path / "metrics.csv", step)]
        extra = config.values.get("logger") or {}
        ids = {"version": run.logger_id, "run_name": run.logger_id}
        loggers += [
            instantiate.build(config, f"logger.{name}", save_dir=run.path, name=config.name, **ids)
            for name, part in extra.items() if part
        ]  # fmt: skip
        loggers = [shielded(logger) for logger in loggers]
    trainer: Trainer = instantiate.build(
        config, "trainer", callbacks=callbacks, logger=loggers or False, default_root_dir=run.path if run else None,
        enable_checkpointing=run is not None, enable_progress_bar=on_terminal, enable_model_summary=on_terminal,
        # The order and its share for each process are the data module's; all samples count once.
        num_sanity_val_steps=0, use_distributed_sampler=False, plugins=[AtomicIO()],
        **({} if get(config.values, "trainer.profiler") else {"profiler": Unprofiled()}),
    )  # fmt: skip
    return trainer


def measure(trainer: Trainer, task: LightningModule, data: Any, stage: Stage) -> dict[str, float]:
    """The metrics of one stage with the task's present weights; nothing is logged.

    Prints which classes a mean leaves out, where the stage lacks some.
    """
    if len(data.indices[stage]) == 0:
        return {}
    with muted(trainer.loggers):
        measured = (trainer.validate if stage == "val" else trainer.test)(
            task, dataloaders=data.loader(stage), verbose=False
        )
    for note in getattr(getattr(task, f"{stage}_meter", None), "notes", ()):
        print(note)
    return as_floats(measured[0]) if measured else {}  # nothing where limit_…_batches is 0
