"""How fast an experiment trains, how close that is to the limit, and what to change.

python -m src.benchmark [CONFIG] [key=value ...] [--against raw] [--json FILE]
"""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config
from src.kindling.dev.benchmark_report import report_of

if TYPE_CHECKING:
    from torch import Tensor

    from src.kindling.data.batch import Batch
    from src.kindling.data.data_module import DataModule


def benchmark(config: Config, rounds: int = 5, seconds: float = 2.0, raw: bool = False) -> dict[str, Any]:
    """Measure one experiment's parts in turn, in this process.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        rounds: how often each part is measured; medians are reported.
        seconds: about how long each measurement takes.
        raw: whether to measure the textbook loop as well.

    Returns:
        Samples a second of each part, their ratios round by round, milliseconds of a batch and where they go, and
        what to change.
    """
    import torch

    from src.kindling.config import instantiate
    from src.kindling.training.build import build_data
    from src.kindling.training.speed import look_for_gpus_once
    from src.kindling.training.warning_filters import quiet

    quiet()
    look_for_gpus_once()
    values = instantiate.values(config)
    torch.set_num_threads(values.threads or 1)
    data = build_data(config)
    device = instantiate.build(config, "trainer", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False).strategy.root_device  # fmt: skip
    whole = next(iter(data.train_dataloader()))
    batch = whole._replace(x=whole.x.to(device), y=whole.y.to(device))
    measures: dict[str, Callable[[float], float]] = {
        "limit": lambda seconds: _limit(config, data, batch, seconds),
        "step": lambda seconds: _step(config, data, batch, seconds),
        "loader": lambda seconds: _loader(data, seconds),
        "copy": lambda seconds: _copy(data, whole, device, seconds),
        "augmentation": lambda seconds: _augmentation(config, data, batch, seconds),
        "bare": lambda seconds: _fit(config, data, _batches(found, data, seconds), callbacks=False, loggers=False),
        "unlogged": lambda seconds: _fit(config, data, _batches(found, data, seconds), loggers=False),
        "fit": lambda seconds: _fit(config, data, _batches(found, data, seconds)),
    }
    if device.type == "cpu":  # the batch lies there already
        del measures["copy"]
    if not data.augment:  # the step's own preprocessing is part of the step
        del measures["augmentation"]
    if raw:
        measures["raw"] = lambda seconds: _raw(config, data, seconds)
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            found[name].append(measure(seconds if number else seconds / 4))
    found = {name: rates[1:] for name, rates in found.items()}
    return report_of(config, data, found, str(device))


def _batches(found: dict[str, list[float]], data: DataModule, seconds: float) -> int:
    """How many batches of a fit take about so many seconds."""
    slowest = min(found["step"][-1], found["loader"][-1])
    return int(min(max(seconds * slowest / data.batch_size, 5), len(data.train_dataloader())))


# ---------------------------------------------------------------------------------------------------------------
# What is measured: each function gives samples a second


def _limit(config: Config, data: DataModule, batch: Batch, seconds: float) -> float:
    task, optimizer = _task(config, data, batch.x.device)
    with_grad = task.preprocess(batch.x)
    net, loss = task.net, task.loss
    targets = task.targets(batch.y)

    def step() -> None:
        optimizer.zero_grad()
        loss(net(with_grad), targets).backward()
        optimizer.step()

    return _repeated(step, len(batch.y), seconds, batch.x.device)


def _step(config: Config, data: DataModule, batch: Batch, seconds: float) -> float:
    task, optimizer = _task(config, data, batch.x.device)

    def step() -> None:
        optimizer.zero_grad()
        task.training_step(batch, 0).backward()
        optimizer.step()

    rate = _repeated(step, len(batch.y), seconds, batch.x.device)
    task.train_meter.compute()
    return rate


def _loader(data: DataModule, seconds: float) -> float:
    count, started = 0, time.perf_counter()
    while True:
        for batch in data.train_dataloader():
            count += len(batch.y)
            if time.perf_counter() - started > seconds:
                return count / (time.perf_counter() - started)


def _copy(data: DataModule, batch: Batch, device: Any, seconds: float) -> float:
    pinned = batch._replace(x=batch.x.pin_memory(), y=batch.y.pin_memory()) if batch.x.device.type == "cpu" else batch
    return _repeated(lambda: data.transfer_batch_to_device(pinned, device, 0), len(batch.y), seconds, device)


def _augmentation(config: Config, data: DataModule, batch: Batch, seconds: float) -> float:
    import torch

    task, _ = _task(config, data, batch.x.device)
    targets = batch.y if not data.spec.classes else torch.nn.functional.one_hot(batch.y, data.spec.num_outputs).float()

    def augment() -> None:
        x, y = task.preprocess(batch.x), targets
        for transform in task.augment:
            x, y = transform(x, y)

    return _repeated(augment, len(batch.y), seconds, batch.x.device)


def _fit(config: Config, data: DataModule, batches: int, callbacks: bool = True, loggers: bool = True) -> float:
    """Two epochs of so many training batches and one of validation; the second is timed, from its start to its end."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from src.kindling.config import instantiate
    from src.kindling.runs.run import Run
    from src.kindling.training.trainer import build_trainer

    class Clock(Callback):
        times: list[float]

        def __init__(self) -> None:
            self.times = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            _wait(pl_module.device)
            self.times.append(time.perf_counter())

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            _wait(pl_module.device)
            self.times.append(time.perf_counter())

    short = config.replaced({
        "trainer.max_epochs": 2, "trainer.max_steps": -1, "trainer.limit_train_batches": batches,
        "trainer.limit_val_batches": 1, "callbacks": None, "logger": None,
    })  # fmt: skip
    torch.manual_seed(0)
    task, _ = _task(short, data, torch.device("cpu"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        if callbacks:
            trainer = build_trainer(short, Run(Path(folder)), task, data.spec)
            trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
            trainer.loggers = trainer.loggers if loggers else []
        else:
            trainer = instantiate.build(short, "trainer", callbacks=[clock], logger=False, enable_checkpointing=False,
                                  enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                                  use_distributed_sampler=False)  # fmt: skip
        gc.collect()
        gc.freeze()  # as src.train does
        trainer.fit(task, datamodule=data)
        gc.unfreeze()
        for logger in trainer.loggers:
            logger.close() if hasattr(logger, "close") else None
    samples = batches * data.batch_size
    return min(samples, len(data.indices["train"])) / (clock.times[2] - clock.times[1])


def _raw(config: Config, data: DataModule, seconds: float) -> float:
    """The loop of the textbooks: one sample at a time, PIL, ToTensor, Normalize, DataLoader, and five lines."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    task, _ = _task(config, data, torch.device("cpu"))
    optimizer = task.optimizer(list(task.parameters()))
    samples, train = data.samples, data.indices["train"].tolist()
    transform = _textbook_transform(data)

    class OneByOne(Dataset[Any]):
        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return transform(samples.x[train[i]]), samples.y[train[i]]

    loader = DataLoader(OneByOne(), batch_size=data.batch_size, shuffle=True, num_workers=data.num_workers)
    net, loss_function = task.net.to(memory_format=torch.contiguous_format), task.loss
    count, started = 0, time.perf_counter()
    while True:
        for x, y in loader:
            targets = task.targets(y)
            optimizer.zero_grad()
            loss = loss_function(net(x), targets)
            loss.backward()
            optimizer.step()
            count += len(y)
            if time.perf_counter() - started > seconds:
                return count / (time.perf_counter() - started)


def _textbook_transform(data: DataModule) -> Callable[[Tensor], Tensor]:
    from src.kindling.data.preprocess import preprocess

    if data.spec.kind == "table":
        encode: Callable[[Tensor], Tensor] = preprocess(data.spec)
        return lambda row: encode(row[None])[0]
    from torchvision import transforms

    highest = 255.0
    steps = [transforms.ToPILImage(), *(data.transforms["train"] or []), transforms.ToTensor()]
    steps.append(transforms.Normalize([m / highest for m in data.spec.mean], [s / highest for s in data.spec.std]))
    composed: Callable[[Tensor], Tensor] = transforms.Compose(steps)
    return composed


# ---------------------------------------------------------------------------------------------------------------
# Helpers of the measurements


def _task(config: Config, data: DataModule, device: Any) -> tuple[Any, Any]:
    """A fresh task in training mode and its optimizer."""
    import torch

    from src.kindling.nn.optimizers import fused
    from src.kindling.training.build import build_task

    torch.manual_seed(0)
    task: Any = build_task(config, data.spec, data.augment, begin=False).to(device).train()
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    return task, fused(task.optimizer, device)(trained)


def _repeated(step: Callable[[], object], size: int, seconds: float, device: Any) -> float:
    for _ in range(3):
        step()
    _wait(device)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(5):
            step()
        count += 5 * size
        _wait(device)
    return count / (time.perf_counter() - started)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
