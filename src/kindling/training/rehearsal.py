"""Rehearse a training: one batch of each stage through a copy of the task, in a real Trainer.

It finds what would end the training with a traceback (shapes, types, a missing step), and the names
of the metrics that validation logs.
"""

from __future__ import annotations

import copy
import re
import shutil
import warnings
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.nn.additions import net_of
from src.kindling.runs.files import display_path
from src.kindling.runs.run import Run
from src.kindling.training.build import check_settings
from src.kindling.training.error_hints import advise, explain, watch_output
from src.kindling.training.layer_trace import LayerTrace
from src.kindling.training.monitor import LoggedMetrics, check_callbacks
from src.kindling.training.rehearsal_trainer import build_rehearsal_trainer
from src.kindling.training.stages import has_stage

COPIED = 1 << 30  # bytes of the largest task that is copied
# Samples of the first attempt: a number that is seldom that of the outputs, so that shapes do not
# agree by chance. What fails with a few is tried with a whole batch.
FEW = 13
# Some nets run on a GPU only; such an error of the copy on a CPU is not one of the training.
OF_DEVICE = re.compile(r"cuda|nvidia|triton|not implemented for|process group", re.IGNORECASE)
# Refused by Lightning 2, which names them after the rehearsal of a task that cannot be copied.
HOOKS_OF_LIGHTNING_1 = {
    "training_epoch_end": "on_train_epoch_end",
    "validation_epoch_end": "on_validation_epoch_end",
    "test_epoch_end": "on_test_epoch_end",
}
# What Lightning adds to the name of a logged metric.
ADDED = re.compile(r"(_step|_epoch)?(/dataloader_idx_\d+)?$")


def rehearse(
    config: Config,
    data: LightningDataModule | None,
    task: LightningModule,
    trace: LayerTrace | None = None,
    stages: Stages | None = None,
) -> LoggedMetrics | None:
    """Run a batch of each stage through a copy of the task.

    No weight, buffer, gradient, metric or random generator is changed. `trace` gets the layers, if
    the task takes a few samples, and `stages` the batches and metrics.

    Returns:
        The metrics that validation logs; None if the task cannot be rehearsed: it is large, cannot
        be copied, or runs on another device only.

    Raises:
        InputError: one line. An error in the code of a task or a net is raised as it is.
    """
    check_settings(config, data)
    for hook, now in HOOKS_OF_LIGHTNING_1.items():
        if callable(getattr(task, hook, None)):
            problem = f"{type(task).__name__} defines {hook}, which Lightning 2 never calls"
            raise InputError(f"task: {problem}; move its code to {now}")
    builds_later = is_overridden("configure_model", task) or is_overridden("setup", task)
    trains = builds_later or any(p.requires_grad for p in task.parameters())
    if sum(value.nbytes for value in (*task.parameters(), *task.buffers())) > COPIED:
        return None
    errors, stages = [], stages or Stages()
    for count in (FEW, None):
        with isolate_rng(include_cuda=False), warnings.catch_warnings(action="ignore"):
            try:
                logged = _try(config, data, task, count, trace, stages)
            except Exception as error:
                errors.append(error)
                trace = None  # it may have caused the error
                continue
        if logged is not None:
            check_callbacks(config, task, stages.logged)
        return logged
    if task.automatic_optimization and not trains:
        net = net_of(task)
        key, name = "task" if net is task else "net", type(net).__name__
        problem = f"{name} has no parameter to train (requires_grad); choose another"
        raise InputError(f"{key}: {problem}") from errors[0]
    if not isinstance(errors[0], InputError):
        errors[0].add_note(f"(in a trial batch of at most {FEW} samples before training)")
    raise errors[0]


class Stages(Callback):
    """Notes the batches and the metrics of each stage of a rehearsal.

    Attributes:
        batches: the shapes of a batch's tensors, by stage.
        metrics: the names that are logged, by stage, with the torchmetrics objects among them.
        validated: the metrics of the validation under the names that Lightning gives them.
        logged: these names, and those of the training.
    """

    def __init__(self) -> None:
        self.batches: dict[str, list[str]] = {}
        self.metrics: dict[str, dict[str, Metric | None]] = {}
        self.validated: dict[str, Metric | None] = {}
        self.logged: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        log = pl_module.log

        def note_and_log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            metric = value if isinstance(value, Metric) else None
            self.metrics.setdefault(_stage(trainer), {})[name] = metric
            log(name, value, *args, **kwargs)

        if stage == "fit":
            pl_module.log = note_and_log  # type: ignore[method-assign]

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
        shapes = [f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in tensors]
        loader = args[3] if len(args) > 3 else 0
        before = self.batches[_stage(trainer)] if loader else []
        self.batches[_stage(trainer)] = [*before, *shapes]

    on_validation_batch_start = on_test_batch_start = on_train_batch_start

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = {*trainer.callback_metrics}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        objects = self.metrics.get(_stage(trainer), {})
        for name in trainer.callback_metrics:
            if name not in self.before:
                self.validated[name] = objects.get(name, objects.get(ADDED.sub("", name)))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged = {*trainer.callback_metrics}


def _stage(trainer: Trainer) -> str:
    assert trainer.state.stage is not None
    return str(trainer.state.stage.value)


def _try(
    config: Config,
    data: LightningDataModule | None,
    task: LightningModule,
    count: int | None,
    trace: LayerTrace | None,
    stages: Stages,
) -> LoggedMetrics | None:
    parts_of = [vars(part).values() for part in task.modules()]
    results = [v for part in parts_of for v in part if isinstance(v, Tensor) and not v.is_leaf]
    try:  # results cannot be copied; the old weight_norm keeps one, which each forward replaces
        twin = copy.deepcopy(task, {id(result): result.detach().clone() for result in results})
    except Exception:  # it holds an open file, a lock
        return None
    twin.configure_callbacks = list  # type: ignore[method-assign]  # none, which may write files
    few, parts = data, {}
    if isinstance(data, DataModule):
        few = copy.copy(data)
        few.batch_size = min(count or few.batch_size, few.batch_size)
        few.keep_on_device = False
        parts = {"net": getattr(twin, "net", None), "task.loss": getattr(twin, "loss", None)}
        watch_output(twin)
    counter = trace.counter if trace else nullcontext()
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), counter:
        try:
            watching = [stages, *([trace] if trace else [])]
            trainer = build_rehearsal_trainer(config, folder, watching, count)
            trainer.fit(twin, datamodule=few)
            if has_stage("test", few, twin):
                trainer.test(twin, datamodule=few, verbose=False)
        except OSError:
            raise
        except Exception as error:
            misconfigured = isinstance(error, MisconfigurationException)
            if OF_DEVICE.search(str(error)) and not misconfigured:
                return None
            line = advise(error, config) or explain(error, parts)
            if line:
                raise InputError(line) from error
            if isinstance(error, NotImplementedError):  # of an operation on a device
                return None
            raise
        finally:
            if data is not None:
                data.trainer = None
    return stages.validated


def check_disk(run: Run, task: LightningModule) -> None:
    """Raise an InputError if the run's disk has less space than the checkpoints need."""
    weights = sum(value.nbytes for value in task.state_dict().values() if isinstance(value, Tensor))
    trained = sum(parameter.nbytes for parameter in task.parameters() if parameter.requires_grad)
    # best.ckpt holds the weights. last.ckpt, previous.ckpt and the file being written hold the
    # weights and two optimizer states for each that is trained.
    present = sum(file.stat().st_size for file in run.checkpoints.glob("*.ckpt"))
    needed = 4 * weights + 6 * trained - present
    free = shutil.disk_usage(run.path).free
    if needed > free:
        sizes = f"the checkpoints need {-(-needed >> 20):,} MiB, and {free >> 20:,} are free"
        raise InputError(
            f"{display_path(run.path)}: {sizes}; make room, or let logs/ be a link elsewhere"
        )
