"""The loggers of every run, TensorBoard and metrics.csv, and what is logged within an epoch."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.optim import Optimizer
from torch.utils.tensorboard.summary import hparams

from src.kindling.config.compose import Config, flatten
from src.kindling.runs.files import require_folder, write
from src.kindling.runs.redact import redacted

GUARDED = ("log_metrics", "log_hyperparams", "log_result", "save", "finalize", "close")
# Values of a config that are no hyperparameters.
KEPT = ("num_threads", "compile", "channels_last", "checkpoint_minutes", "max_nonfinite_steps")


def guarded(logger: Logger, run: Path) -> Logger:
    """Return the logger; its exceptions (a full disk, a lost server) are printed once only.

    It ends the training only if the directory of the run was deleted.
    """
    printed: list[str] = []

    def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            require_folder(run)
            # Lightning's TensorBoard raises a ValueError from that of a full disk.
            cause = error.__cause__ or error
            if not printed:
                printed.append(f"{type(logger).__name__}: {type(cause).__name__}: {cause}")
                print(f"{printed[0]}; training continues without it")

    for name in GUARDED:
        if hasattr(logger, name):
            setattr(logger, name, functools.partial(call, getattr(logger, name)))
    return logger


class MetricsFile(DummyLogger):
    """Writes metrics.csv: one row for each logged step, training and validation side by side.

    Lightning's CSVLogger deletes the file when a run is resumed, and writes validation and
    training to separate rows.

    Args:
        path: the CSV file; one that exists is continued.
        step: where the training starts or resumes; later rows are dropped, and written again.
    """

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path, self.columns = path, ["epoch", "step"]
        self.rows: list[dict[str, Any]] = []
        self.last = 0  # where the last row begins in the file, in bytes
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if (row["step"] or "").isdigit()]
            self.columns = list(reader.fieldnames or self.columns)
            self.rows = [row for row in rows if int(row["step"]) < step]
            self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step, or begin its row; the file has them at once."""
        row = {**metrics, "epoch": int(metrics.get("epoch", 0)), "step": str(step)}
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
            self.last = self.path.stat().st_size if self.path.exists() else 0
        new = [name for name in row if name not in self.columns]
        self.columns += new
        if new or not self.path.exists():
            self._rewrite()
            return
        # The last row only grows: a process killed here leaves the old row, or more of it.
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            file.seek(self.last)
            csv.DictWriter(file, self.columns).writerow(self.rows[-1])
            file.truncate()

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows[:-1])
        self.last = len(text.getvalue().encode())
        writer.writerows(self.rows[-1:])
        write(self.path, text.getvalue())


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open from the training to the final test: one event file a run.

    Lightning closes a logger after each of fit, validate and test, and writes a hparams.yaml.
    """

    @rank_zero_only
    def save(self) -> None:
        """Nothing: the writer flushes by itself."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called after each stage; `close` ends the file."""
        if self._experiment is not None:
            self.experiment.flush()

    def log_result(self, config: Config, metrics: Mapping[str, float], step: int) -> None:
        """A row of the HParams tab: the config's values beside the final numbers.

        Through Lightning's `log_hyperparams`, the numbers would be points at step 0 of the curves.
        """
        flat = flatten(redacted(config.values)).items()
        values = {key: v for key, v in flat if v not in (None, [], {}) and key not in KEPT}
        values = {k: v if isinstance(v, int | float | str) else str(v) for k, v in values.items()}
        # The curves of val/ end with the last epoch; these numbers are the best checkpoint's.
        final = {name.replace("val/", "val_best/"): value for name, value in metrics.items()}
        for name, value in final.items():
            if name.startswith("val_best/"):
                self.experiment.add_scalar(name, value, step)
        for summary in hparams(values, final):  # type: ignore[no-untyped-call]
            self.experiment._get_file_writer().add_summary(summary)

    def close(self) -> None:
        """End the event file."""
        if self._experiment is not None:
            self.experiment.close()


class Curves(Callback):
    """Logs the batch's loss and the learning rate every `trainer.log_every_n_steps` steps.

    Reading a value synchronizes with the device, so it is not done in every step. Under DDP the
    loss is that of rank 0's batch.
    """

    def __init__(self) -> None:
        self.logged, self.lr = 0, 0.0

    # The rate of the step itself: by a batch's end, its schedule may have moved on.
    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Optimizer) -> None:
        self.lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self.logged or not every or step % every or not trainer.is_global_zero:
            return
        self.logged = step
        values = {"lr": self.lr, "epoch": trainer.current_epoch}
        if isinstance(outputs, dict) and "loss" in outputs:
            values = {"train/batch_loss": float(outputs["loss"]), **values}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step - 1)  # as Lightning counts the current step
