"""Measure the throughput of an experiment's parts."""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

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
from src.kindling.dev.benchmark_report import Round, build_report
from src.kindling.dev.step_profiler import StepProfiler, synchronize
from src.kindling.nn.meter import Meter
from src.kindling.nn.optimizers import fused
from src.kindling.runs.run import Run
from src.kindling.training.build import build_data, build_task
from src.kindling.training.monitor import Monitor
from src.kindling.training.trainer import build_trainer
from src.kindling.training.warning_filters import quiet

Batch = tuple[Tensor, Tensor]
EPOCHS = 3  # of a measured training: one to warm up, one for the time, one for its parts
WARM_UP = 2.0  # seconds
T = TypeVar("T")


def benchmark(
    config: Config, rounds: int = 5, seconds: float = 60.0, raw: bool = False, line: str = ""
) -> dict[str, Any]:
    """Measure an experiment's parts in turn, in this process, and report them.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        rounds: how often each part is measured, if the time suffices; the report has medians.
        seconds: of all measurements together; at least, each part is measured over some steps.
        raw: whether to measure the textbook loop too.
        line: is printed when the experiment is known to be measurable.
    """
    until = time.perf_counter() + seconds
    quiet()
    torch.set_num_threads(instantiate.values(config).num_threads or 1)
    data = build_data(config)
    if not isinstance(data, DataModule):
        remedy = "subclass src.kindling.data.DataModule"
        raise InputError(f"data: src.benchmark needs a data module with a spec; {remedy}")
    device = instantiate.build(config, "trainer", logger=False).strategy.root_device
    x, y = next(iter(data.train_dataloader()))
    batch = x.to(device), y.to(device)
    _take_step(config, data, batch)
    if line:
        print(line, flush=True)

    def measure(seconds: float) -> Round:
        each = seconds / (4 if raw else 3)
        rates = {
            "model_only": _model_only(config, data, batch, each),
            "loader": _repeat_epochs(data.train_dataloader, None, each),
        }
        steps = int(each / EPOCHS * min(rates.values()) / data.batch_size)
        batches = min(max(steps, 2), len(data.train_dataloader()))
        rates["fit"], parts = _fit(config, data, batches)
        if raw:
            rates["raw"] = _raw(config, data, each)
        return Round(rates, parts, batches)

    return build_report(config, data, repeat_rounds(measure, rounds, until), str(device))


def repeat_rounds(
    measure: Callable[[float], T],
    rounds: int,
    until: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[T]:
    """Measure for some seconds, again and again, until `until` (by the clock) at the latest.

    The first round warms up; it is kept if there is no time for another.
    """
    began = clock()
    first, results = measure(min(WARM_UP, until - began)), list[T]()
    longest = clock() - began
    seconds = 0.8 * (until - clock()) / rounds  # starting each part takes time too
    while len(results) < rounds and clock() + 1.2 * longest <= until:
        began = clock()
        results.append(measure(seconds))
        longest = max(longest, clock() - began)
    return results or [first]


# Each function below returns samples per second.


def _model_only(config: Config, data: DataModule, batch: Batch, seconds: float) -> float:
    """Time net, loss and optimizer alone, on the inputs that a training step gives them."""
    task, optimizer, x, y = _take_step(config, data, batch)
    step = _create_step(task.net, task.loss, optimizer)
    inputs = {"step": step, "x": x, "y": y}
    timer = Timer("step(x, y)", globals=inputs, num_threads=torch.get_num_threads())
    return len(batch[1]) / timer.blocked_autorange(min_run_time=seconds).median


def _take_step(config: Config, data: DataModule, batch: Batch) -> tuple[Any, Any, Tensor, Tensor]:
    """A new task, its optimizer, and the input of its net and target of its loss in a step."""
    task, optimizer = _build_task(config, data, batch[0].device)
    net, loss = task.net, task.loss
    given: dict[nn.Module, tuple[Tensor, ...]] = {}
    hooks = [part.register_forward_pre_hook(given.__setitem__) for part in (net, loss)]
    task.training_step(data.prepare(*batch), 0)
    for hook in hooks:
        hook.remove()
    if not {net, loss} <= given.keys():
        raise InputError("task: src.benchmark measures net and loss; call both in training_step")
    return task, optimizer, given[net][0], given[loss][1]


class Clock(Callback):
    """Time the second of three epochs, and split the third into parts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []  # at which the epochs and the end of the training began

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronize(self.device)
        self.times.append(time.perf_counter())
        if len(self.times) == EPOCHS:
            self.profiler = StepProfiler(self.device)
            for logger in trainer.loggers:
                self.profiler.time_calls(logger, "log_metrics")
            for meter in pl_module.modules():
                if isinstance(meter, Meter):
                    self.profiler.time_calls(meter, "update")
                    self.profiler.time_calls(meter, "compute")
            trainer.profiler = self.profiler  # type: ignore[attr-defined]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.profiler.record()


def _fit(config: Config, data: DataModule, batches: int) -> tuple[float, dict[str, float]]:
    """Return samples per second of a training, and the seconds of each part of an epoch."""
    changes = {
        "trainer.max_epochs": EPOCHS,
        "trainer.max_steps": -1,
        "trainer.limit_train_batches": batches,
        "trainer.limit_val_batches": 1,
        "callbacks": None,
        "logger": None,
    }
    short = config.replaced(changes)
    task, _ = _build_task(short, data, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = build_trainer(short, Run(Path(folder)), task, data, Monitor("val/loss"))
        clock = Clock(trainer.strategy.root_device)
        trainer.callbacks.insert(0, clock)  # type: ignore[attr-defined]
        gc.collect()
        gc.freeze()  # or a collection is part of what is timed
        trainer.fit(task, datamodule=data)
        gc.unfreeze()
        for logger in trainer.loggers:
            if hasattr(logger, "close"):
                logger.close()
    samples = min(batches * data.batch_size, len(data.indices["train"]))
    return samples / (clock.times[2] - clock.times[1]), dict(clock.profiler.seconds)


def _raw(config: Config, data: DataModule, seconds: float) -> float:
    """Time the tutorials' loop: a data set of single samples, a DataLoader, and five lines."""
    task, _ = _build_task(config, data, torch.device("cpu"))
    optimizer = task.optimizer(list(task.parameters()))
    net = task.net.to(memory_format=torch.contiguous_format)
    step = _create_step(net, task.loss, optimizer)
    samples, train = data.samples, data.indices["train"].tolist()
    transform = _textbook_transform(data)

    class SingleSamples(Dataset[Any]):
        def __len__(self) -> int:
            return len(train)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return transform(samples.x[train[i]]), samples.y[train[i]]

    encode = getattr(task, "scale", lambda y: y)  # a regression standardizes its targets
    if isinstance(task.loss, nn.BCEWithLogitsLoss):
        encode = Tensor.float
    options: dict[str, Any] = {"batch_size": data.batch_size, "num_workers": data.num_workers}
    loader: DataLoader[Any] = DataLoader(SingleSamples(), shuffle=True, **options)
    return _repeat_epochs(lambda: loader, lambda x, y: step(x, encode(y)), seconds)


def _textbook_transform(data: DataModule) -> Any:
    if data.spec.kind == "table":
        return lambda row: data.prepare.preprocess(row[None])[0]
    steps = [transforms.ToPILImage(), *(data.transforms["train"] or []), transforms.ToTensor()]
    mean, std = ([value / 255 for value in values] for values in (data.spec.mean, data.spec.std))
    return transforms.Compose([*steps, transforms.Normalize(mean, std)])


def _build_task(config: Config, data: DataModule, device: torch.device) -> tuple[Any, Any]:
    """A new task in training mode, and its optimizer."""
    torch.manual_seed(0)
    task: Any = build_task(config, data, load_weights=False).to(device).train()
    kinds: dict[str, Any] = {"net": nn.Module, "loss": nn.Module, "optimizer": Callable}
    if missing := [key for key in kinds if not isinstance(getattr(task, key, None), kinds[key])]:
        problem = "src.benchmark needs the attributes net, loss and optimizer"
        remedy = f"add {' and '.join(missing)} to {type(task).__name__}"
        raise InputError(f"task: {problem}; {remedy}, as in src/tasks/classification.py")
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    return task, fused(task.optimizer, device)(trained)


def _create_step(net: Any, loss: Any, optimizer: Any) -> Callable[[Tensor, Tensor], None]:
    """A training step without Lightning, on inputs and targets that are ready."""

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    return step


def _repeat_epochs(
    load: Callable[[], Iterable[Any]], step: Callable[[Tensor, Tensor], None] | None, seconds: float
) -> float:
    count, started = 0, time.perf_counter()
    while True:
        for x, y in load():
            if step:
                step(x, y)
            count += len(y)
            if time.perf_counter() - started > seconds:
                return count / (time.perf_counter() - started)
