"""Rehearse a training: a batch of each stage through a copy of the task, under a real Trainer.

It finds what would end the training with a traceback (shapes, types, a missing step), and the names
of the metrics that the task logs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.runs.files import shown
from src.kindling.runs.run import ELSEWHERE, Run
from src.kindling.training.misfit import Watched
from src.kindling.training.stages import has_stage

SHARED = Path("/dev/shm")  # where workers leave their batches
COPIED = 1 << 30  # bytes of the largest task that is copied
FEW = (2, 16)  # samples of a rehearsal; what only a few cannot do is no mistake
# Some nets run on a GPU alone: such an error of a copy on the CPU says nothing of the training.
OF_DEVICE = re.compile(r"cuda|nvidia|triton|not implemented for", re.IGNORECASE)


@dataclass
class Rehearsal:
    """What a rehearsal has found.

    Attributes:
        logged: the names of the metrics that validation logs; None where nothing was rehearsed.
    """

    logged: tuple[str, ...] | None = None


def rehearse(config: Config, data: LightningDataModule | None, task: LightningModule) -> Rehearsal:
    """Put a batch of each stage through a copy of the task.

    No weight, buffer, gradient, metric or random generator is changed.

    Raises:
        InputError: one line. An error in the code of a task or a net is raised as it is.
    """
    builds_later = is_overridden("configure_model", task) or is_overridden("setup", task)
    trains = builds_later or any(p.requires_grad for p in task.parameters())
    if task.automatic_optimization and not trains:
        key, part = ("net", task.net) if hasattr(task, "net") else ("task", task)
        name = type(part).__name__
        raise InputError(f"{key}: {name} has no parameter to train (requires_grad); choose another")
    if sum(value.nbytes for value in (*task.parameters(), *task.buffers())) > COPIED:
        return Rehearsal()
    counts = sorted({min(count, getattr(data, "batch_size", count) or count) for count in FEW})
    if isinstance(data, DataModule) and data.spec.num_outputs == counts[0]:
        counts[0] += 1  # as many samples as outputs would fit where they should not
    errors: list[Exception] = []
    for count in (*counts, None):
        with isolate_rng(include_cuda=False), warnings.catch_warnings(action="ignore"):
            try:
                return _try(config, data, task, count)
            except _Unsuitable:
                return Rehearsal()
            except Exception as error:
                errors.append(error)
    raise errors[0]


def check_disk(run: Run, data: LightningDataModule | None, task: LightningModule) -> None:
    """Write to the run's directory, and compare the space that checkpoints and workers need.

    Raises:
        InputError: when it cannot be written, or there is too little room.
    """
    probe = run.path / f".probe-{os.getpid()}"
    try:
        with probe.open("wb", buffering=0) as file:
            file.write(b"probe")
            os.fsync(file.fileno())
        probe.replace(probe.with_suffix(".renamed")).unlink()
    except PermissionError:  # error_hints.py has the advice
        raise
    except OSError as error:
        raise InputError(
            f"{shown(run.path)}: cannot be written: {error.strerror}; {ELSEWHERE}"
        ) from error
    weights = sum(value.nbytes for value in task.state_dict().values() if isinstance(value, Tensor))
    trained = sum(parameter.nbytes for parameter in task.parameters() if parameter.requires_grad)
    # The best holds the weights; the last, the one before it and the one being written hold two
    # states of each as well.
    there = sum(file.stat().st_size for file in run.checkpoints.glob("*.ckpt"))
    needed = 4 * weights + 6 * trained - there
    _need(run.path, needed, "the checkpoints", "make room, or let logs/ be a link elsewhere")
    if isinstance(data, DataModule) and SHARED.is_dir():  # each worker has two batches ready
        remedy = (
            "set it to 0, take a smaller data.batch_size or more shared memory (docker: --shm-size)"
        )
        size = 2 * data.num_workers * data.batch_bytes()
        _need(SHARED, size, "the batches of data.num_workers", remedy)


def _need(place: Path, needed: int, what: str, remedy: str) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        needs = f"{what} need {-(-needed >> 20):,} MiB, and {free >> 20:,} are free"
        raise InputError(f"{shown(place)}: {needs}; {remedy}")


class _Unsuitable(Exception):
    """The task cannot be copied, or runs on another device alone."""


class _Logged(Callback):
    """Collects the names of the metrics that a validation logs."""

    def __init__(self) -> None:
        self.before: set[str] = set()
        self.names: tuple[str, ...] = ()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = {*trainer.callback_metrics}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.names = tuple(name for name in trainer.callback_metrics if name not in self.before)


def _no_callbacks() -> list[Callback]:
    return []


def _try(
    config: Config, data: LightningDataModule | None, task: LightningModule, count: int | None
) -> Rehearsal:
    try:
        twin = copy.deepcopy(task)
    except Exception as error:  # it holds what there is only one of: an open file, a lock
        raise _Unsuitable from error
    twin.configure_callbacks = _no_callbacks  # type: ignore[method-assign]  # which may write files
    watched = Watched(twin, getattr(data, "spec", None))
    few = _few_samples(data, count) if isinstance(data, DataModule) else data
    logged = _Logged()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = _trainer(config, folder, logged, count)
        try:
            trainer.fit(twin, datamodule=few)
            if has_stage("test", few, twin):
                trainer.test(twin, datamodule=few, verbose=False)
        except MisconfigurationException as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        except Exception as error:
            if isinstance(error, NotImplementedError) or OF_DEVICE.search(str(error)):
                raise _Unsuitable from error
            watched.explain(error)
            raise
        finally:
            if data is not None:
                data.trainer = None
    return Rehearsal(logged.names)


def _trainer(config: Config, folder: str, logged: _Logged, count: int | None) -> Trainer:
    given = config.values.get("trainer") or {}
    kept = ("accelerator", "precision", "gradient_clip_val", "gradient_clip_algorithm")
    trainer = Trainer(
        **{key: given[key] for key in kept if given.get(key) is not None and key in given},
        devices=1,
        max_epochs=1,
        limit_train_batches=1,
        limit_val_batches=1,
        limit_test_batches=1,
        num_sanity_val_steps=0,
        logger=DummyLogger(),
        callbacks=[logged],
        plugins=[LightningEnvironment()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    process = trainer.strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        return first_batch(process(dataloader), count)

    trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
    return trainer


def _few_samples(data: DataModule, count: int | None) -> DataModule:
    """A copy of Kindling's data that reads small batches in this process."""
    few = copy.copy(data)
    few.batch_size = count or data.batch_size
    few.num_workers, few.keep_on_device, few.position = 0, False, (0, 0)
    return few


def first_batch(loader: Any, count: int | None) -> Any:
    """A loader of the first batch, read in this process; cut to so many samples where it can be."""
    if not isinstance(loader, DataLoader):
        return loader
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return _Once(loader)
    indices: Any = next(iter(loader.batch_sampler))
    if count is not None and isinstance(indices, list):
        indices = indices[:count]
    dataset: Any = loader.dataset
    read_all = getattr(dataset, "__getitems__", None)
    samples = read_all(indices) if read_all else [dataset[index] for index in indices]
    return [loader.collate_fn(samples)]


class _Once:
    """The first batch of a loader, without workers."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = copy.copy(loader)
        vars(self.loader).update(
            num_workers=0, prefetch_factor=None, timeout=0, persistent_workers=False
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield batch
            return
