"""The loggers of every run (TensorBoard, CSV files), and the curves within an epoch."""

from __future__ import annotations

import csv
import functools
import io
import math
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer
from torch.utils.tensorboard.summary import hparams

from src.kindling.config.compose import Config, flatten
from src.kindling.config.defaults import with_defaults
from src.kindling.runs.csv_text import neutralize
from src.kindling.runs.files import require_folder, write
from src.kindling.runs.metric_names import parse_name
from src.kindling.runs.redact import redact, redacted

GUARDED = ("log_metrics", "log_hyperparams", "log_result", "save", "finalize", "close")
BATCH_LOSS = "train/batch_loss"
HEADER = 100  # bytes; an event file without values has 88


def guarded(logger: Logger, run: Path) -> Logger:
    """Return the logger; its exceptions (a full disk, a lost server) are printed once only.

    It ends the training only if the directory of the run was deleted.
    """
    printed: list[str] = []

    def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if method.__name__ == "log_hyperparams":  # Lightning passes on all that a module keeps
            args = tuple(redacted(vars(a) if isinstance(a, Namespace) else a) for a in args)
        try:
            method(*args, **kwargs)
        except Exception as error:
            require_folder(run)
            # Lightning's TensorBoard raises a ValueError from that of a full disk.
            cause = error.__cause__ or error
            if not printed:
                problem = f"{type(logger).__name__}: {type(cause).__name__}: {cause}"
                printed.append(redact(problem))
                print(f"{printed[0]}; training continues without it")

    for name in GUARDED:
        if hasattr(logger, name):
            setattr(logger, name, functools.partial(call, getattr(logger, name)))
    return logger


class GrowingCSV:
    """A CSV file whose last row grows, or is followed by another one; the file has it at once.

    Args:
        path: the file.
        key: `epoch` or `step`; there is one row for each of its values.
        rows: what the file begins with.
    """

    def __init__(self, path: Path, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.path, self.key, self.columns = path, key, ["epoch", "step"]
        self.rows: list[dict[str, Any]] = []
        self.last = 0  # where the last row begins in the file, in bytes
        for row in rows:
            self._merge(row)
        if self.rows or path.exists():
            self._rewrite()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add values to the last row, or begin another one."""
        known = len(self.columns)
        if self._merge(row):
            self.last = self.path.stat().st_size if self.path.exists() else 0
        if len(self.columns) > known or not self.path.exists():
            self._rewrite()
            return
        # The last row only grows: a process killed here leaves the old row, or more of it.
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            file.seek(self.last)
            csv.DictWriter(file, self.columns).writerow(self.rows[-1])
            file.truncate()

    def _merge(self, row: Mapping[str, Any]) -> bool:
        """Return whether the row is another one."""
        self.columns += [name for name in row if name not in self.columns]
        if self.rows and self.rows[-1][self.key] == row[self.key]:
            self.rows[-1].update(row)
            return False
        self.rows.append({**row})
        return True

    @rank_zero_only  # each process of a resumed training makes its loggers
    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows[:-1])
        self.last = len(text.getvalue().encode())
        writer.writerows(self.rows[-1:])
        write(self.path, text.getvalue())


class MetricsFiles(DummyLogger):
    """Writes steps.csv, a row for each logged step, and metrics.csv, each epoch's last values.

    Training and validation are side by side, and epochs are counted from 1, as on the terminal.
    Lightning's CSVLogger deletes its file when a run is resumed, and writes separate rows.

    Args:
        folder: of the run; files in it are continued.
        step: where the training starts or resumes; later rows are dropped, and written again.
        rows: the number of rows of steps.csv to keep; None keeps those before `step`.
    """

    def __init__(self, folder: Path, step: int, rows: int | None = None) -> None:
        super().__init__()
        self.trainer: Trainer | None = None  # set when a training begins
        steps, epochs = folder / "steps.csv", folder / "metrics.csv"
        # An earlier version wrote all steps to metrics.csv, and counted epochs from 0.
        found = _read(steps if steps.exists() else epochs)
        first = 0 if found and found[0]["epoch"] == "0" else 1
        kept = [row for row in found if int(row["step"]) < step] if rows is None else found[:rows]
        for row in kept:
            row["epoch"] = str(int(row["epoch"]) + 1 - first)
        self.steps = GrowingCSV(steps, "step", kept)
        self.epochs = GrowingCSV(epochs, "epoch", map(_without_step_values, kept))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step and to that of its epoch."""
        # Lightning leaves out the epoch of what a validation logs in each step.
        epoch = self.trainer.current_epoch if self.trainer else 0
        metrics = {neutralize(name): value for name, value in metrics.items()}
        row = {**metrics, "epoch": str(int(metrics.get("epoch", epoch)) + 1), "step": str(step)}
        self.steps.add(row)
        of_epoch = _without_step_values(row)
        if of_epoch.keys() > {"epoch", "step"}:
            self.epochs.add(of_epoch)


def _read(path: Path) -> list[dict[str, str]]:
    """The whole rows of a file, without empty fields; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{k: text for k, text in row.items() if k and text} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", "").isdigit()]


def _without_step_values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != BATCH_LOSS and not k.endswith("_step")}


@rank_zero_only
def continue_csv(logger: CSVLogger, step: int) -> None:
    """Keep the rows before `step`, where a training resumes: Lightning deletes the file."""
    found = _read(Path(logger.log_dir, "metrics.csv"))
    rows: list[dict[str, Any]] = [row for row in found if int(row["step"]) < step]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*directory .* exists and is not empty")
        logger.experiment.metrics = rows
    logger.save()


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open from the training to the final test: one event file a run.

    Lightning closes a logger after each of fit, validate and test, and writes a hparams.yaml.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write values, without the epoch, which would be the first of all curves."""
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)

    @rank_zero_only
    def save(self) -> None:
        """Nothing: the writer flushes by itself."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called after each stage; `close` ends the file."""
        if self._experiment is not None:
            self.experiment.flush()

    def log_result(self, config: Config, metrics: Mapping[str, float], step: int) -> None:
        """A row of the HParams tab: the config's values and defaults beside the final numbers.

        Through Lightning's `log_hyperparams`, the numbers would be points at step 0 of the curves.
        """
        flat = flatten(redacted(with_defaults(config.values)))
        values = {key: value for key, value in flat.items() if value not in (None, [], {})}
        values = {k: v if isinstance(v, int | float | str) else str(v) for k, v in values.items()}
        # The curves of val/ end with the last epoch; these numbers are the best checkpoint's.
        final = {}
        for name, value in metrics.items():
            stage, metric = parse_name(name)
            if stage == "val":
                name = f"val_best/{metric}"
                self.experiment.add_scalar(name, value, step)
            final[name] = value
        for summary in hparams(values, final):  # type: ignore[no-untyped-call]
            self.experiment._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """End the event file."""
        if self._experiment is not None:
            self.experiment.close()


@contextmanager
def evaluation_board(run: Path) -> Iterator[TensorBoard]:
    """A logger for the folder `evaluation` of a run; a task that writes nothing leaves no file."""
    board = TensorBoard(run, name="", version="evaluation")
    try:
        yield board
    finally:
        board.close()
        for file in Path(board.log_dir).glob("events.*"):
            if file.stat().st_size < HEADER:
                file.unlink()
        with suppress(OSError):  # it has events, or was never made
            Path(board.log_dir).rmdir()


def steps_done(trainer: Trainer) -> int:
    """The steps as Lightning counts them for loggers: of manual optimization, the batches."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


class Curves(Callback):
    """Logs the batch's loss and the learning rate every `trainer.log_every_n_steps` steps.

    A short training has them too: of its first step, and of the last one of each epoch. Where an
    epoch has fewer steps, the interval becomes its length, also for what a task logs in each step.
    Reading a value synchronizes with the device, so it is not done in every step. Under DDP the
    loss is that of rank 0's batch.
    """

    def __init__(self) -> None:
        self.logged, self.lr = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"lr": self.lr}  # of the last step, where one has several batches

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lr = state_dict["lr"]

    def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFiles):
                logger.trainer = trainer

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self.logged = steps_done(trainer)  # the next batch of a resumed step logs nothing
        if trainer.num_training_batches < math.inf:
            steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            every = trainer.log_every_n_steps  # type: ignore[attr-defined]
            trainer.log_every_n_steps = min(every, max(steps, 1))  # type: ignore[attr-defined]

    # The rate of the step itself: by a batch's end, its schedule may have moved on.
    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups[:1]:  # none, if `configure_optimizers` returns None
            self.lr = group["lr"]

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        step = steps_done(trainer)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = every and (not step % every or step == 1 or trainer.is_last_batch)
        if step == self.logged or not due or not trainer.is_global_zero:
            return
        self.logged = step
        values = {"lr": self.lr, "epoch": trainer.current_epoch}
        if isinstance(outputs, dict) and "loss" in outputs:
            values = {BATCH_LOSS: float(outputs["loss"]), **values}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step - 1)  # as Lightning counts the current step
