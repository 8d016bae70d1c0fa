"""Measure the throughput of an experiment's parts."""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from src.kindling.config import instantiate
from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.dev.benchmark_report import build_report
from src.kindling.nn.optimizers import fused
from src.kindling.runs.run import Run
from src.kindling.training.build import build_data, build_task
from src.kindling.training.monitor import Monitor
from src.kindling.training.trainer import build_trainer
from src.kindling.training.warning_filters import quiet

Batch = tuple[Tensor, Tensor]
BARE: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def benchmark(
    config: Config, rounds: int = 5, seconds: float = 2.0, raw: bool = False
) -> dict[str, Any]:
    """Measure an experiment's parts in turn, in this process, and report them.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        rounds: how often each part is measured; the report has medians, and ratios round by round.
        seconds: of each measurement, about.
        raw: whether to measure the textbook loop too.
    """
    quiet()
    torch.set_num_threads(instantiate.values(config).num_threads or 1)
    data = build_data(config)
    if not isinstance(data, DataModule):
        raise InputError(
            "data: src.benchmark needs a data module with a spec; "
            "subclass src.kindling.data.DataModule"
        )
    device = instantiate.build(config, "trainer", **BARE).strategy.root_device
    first = next(iter(data.train_dataloader()))
    batch = first[0].to(device), first[1].to(device)

    def fit(seconds: float, **options: bool) -> float:
        slowest = min(measured["step"][-1], measured["loader"][-1])
        batches = max(seconds * slowest / data.batch_size, 5)
        return _fit(config, data, int(min(batches, len(data.train_dataloader()))), **options)

    measures: dict[str, Callable[[float], float]] = {
        "model_only": lambda seconds: _model_only(config, data, batch, seconds),
        "step": lambda seconds: _step(config, data, batch, seconds),
        "loader": lambda seconds: _repeat_epochs(data.train_dataloader, None, seconds),
    }
    if device.type != "cpu":
        measures["copy"] = lambda seconds: _copy(data, first, device, seconds)
    if data.prepare.augment:  # else the step's own preprocessing is part of the step
        measures["augmentation"] = lambda seconds: _repeat(
            lambda: data.prepare(*batch, augment=True), len(batch[1]), seconds
        )
    measures["bare"] = lambda seconds: fit(seconds, callbacks=False)
    measures["unlogged"] = lambda seconds: fit(seconds, loggers=False)
    measures["fit"] = fit
    if raw:
        measures["raw"] = lambda seconds: _raw(config, data, seconds)
    measured: dict[str, list[float]] = {name: [] for name in measures}
    for name, measure in measures.items():  # warm up
        measured[name].append(measure(seconds / 4))
    for _ in range(rounds):
        for name, measure in measures.items():
            measured[name].append(measure(seconds))
    return build_report(
        config, data, {name: rates[1:] for name, rates in measured.items()}, str(device)
    )


# Each function below returns samples per second.


def _model_only(config: Config, data: DataModule, batch: Batch, seconds: float) -> float:
    """Time net, loss and optimizer alone, on the inputs that a training step gives them."""
    task, optimizer = _build_task(config, data, batch[0].device)
    net, loss = task.net, task.loss
    given: dict[str, tuple[Tensor, ...]] = {}
    hooks = [
        part.register_forward_pre_hook(lambda _, x, name=name: given.update({name: x}))
        for name, part in (("net", net), ("loss", loss))
    ]
    task.training_step(data.prepare(*batch), 0)
    for hook in hooks:
        hook.remove()
    x, target = given["net"][0], given["loss"][1]

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), target).backward()
        optimizer.step()

    return _repeat(step, len(batch[1]), seconds)


def _step(config: Config, data: DataModule, batch: Batch, seconds: float) -> float:
    task, optimizer = _build_task(config, data, batch[0].device)

    def step() -> None:
        optimizer.zero_grad()
        task.training_step(data.prepare(*batch), 0).backward()
        optimizer.step()

    rate = _repeat(step, len(batch[1]), seconds)
    task.train_meter.compute()
    return rate


def _copy(data: DataModule, batch: Batch, device: torch.device, seconds: float) -> float:
    pinned = batch[0].pin_memory(), batch[1].pin_memory()
    return _repeat(lambda: data.transfer_batch_to_device(pinned, device, 0), len(batch[1]), seconds)


class Clock(Callback):
    """The times at which each epoch and the end of the training began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _synchronize(pl_module.device)
        self.times.append(time.perf_counter())

    on_train_end = on_train_epoch_start


def _fit(
    config: Config, data: DataModule, batches: int, callbacks: bool = True, loggers: bool = True
) -> float:
    """Time the second of two epochs, each of so many training batches and one of validation."""
    changes = {
        "trainer.max_epochs": 2,
        "trainer.max_steps": -1,
        "trainer.limit_train_batches": batches,
        "trainer.limit_val_batches": 1,
        "callbacks": None,
        "logger": None,
    }
    short = config.replaced(changes)
    task, _ = _build_task(short, data, torch.device("cpu"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        if callbacks:
            trainer = build_trainer(short, Run(Path(folder)), task, data, Monitor("val/loss"))
            trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
            trainer.loggers = trainer.loggers if loggers else []
        else:
            options = {**BARE, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
            trainer = instantiate.build(short, "trainer", callbacks=[clock], **options)
        gc.collect()
        gc.freeze()  # or a collection is part of what is timed
        trainer.fit(task, datamodule=data)
        gc.unfreeze()
        for logger in trainer.loggers:
            if hasattr(logger, "close"):
                logger.close()
    samples = min(batches * data.batch_size, len(data.indices["train"]))
    return samples / (clock.times[2] - clock.times[1])


def _raw(config: Config, data: DataModule, seconds: float) -> float:
    """Time the tutorials' loop: a data set of single samples, a DataLoader, and five lines."""
    task, _ = _build_task(config, data, torch.device("cpu"))
    optimizer = task.optimizer(list(task.parameters()))
    net, criterion = task.net.to(memory_format=torch.contiguous_format), task.loss
    samples, train = data.samples, data.indices["train"].tolist()
    transform = _textbook_transform(data)

    class SingleSamples(Dataset[Any]):
        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return transform(samples.x[train[i]]), samples.y[train[i]]

    standardize = getattr(task, "scale", None)
    as_floats = isinstance(criterion, nn.BCEWithLogitsLoss)
    loader: DataLoader[Any] = DataLoader(
        SingleSamples(), batch_size=data.batch_size, shuffle=True, num_workers=data.num_workers
    )

    def step(x: Tensor, y: Tensor) -> None:
        if standardize:
            y = standardize(y)
        elif as_floats:
            y = y.float()
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()

    return _repeat_epochs(lambda: loader, step, seconds)


def _textbook_transform(data: DataModule) -> Callable[[Tensor], Tensor]:
    if data.spec.kind == "table":
        encode: Callable[[Tensor], Tensor] = data.prepare.preprocess
        return lambda row: encode(row[None])[0]
    steps = [transforms.ToPILImage(), *(data.transforms["train"] or []), transforms.ToTensor()]
    mean, std = ([value / 255 for value in values] for values in (data.spec.mean, data.spec.std))
    composed: Callable[[Tensor], Tensor] = transforms.Compose(
        [*steps, transforms.Normalize(mean, std)]
    )
    return composed


def _build_task(config: Config, data: DataModule, device: torch.device) -> tuple[Any, Any]:
    """A new task in training mode, and its optimizer."""
    torch.manual_seed(0)
    task: Any = build_task(config, data, load_weights=False).to(device).train()
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    return task, fused(task.optimizer, device)(trained)


def _repeat(step: Callable[[], object], size: int, seconds: float) -> float:
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return size / timer.blocked_autorange(min_run_time=seconds).median


def _repeat_epochs(
    load: Callable[[], Iterable[Any]],
    step: Callable[[Tensor, Tensor], None] | None,
    seconds: float,
) -> float:
    count, started = 0, time.perf_counter()
    while True:
        for x, y in load():
            if step:
                step(x, y)
            count += len(y)
            if time.perf_counter() - started > seconds:
                return count / (time.perf_counter() - started)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
