"""A finished run whose data and task can be built again.

from src.kindling.training import load_run
run = load_run("logs/digits/2026-11-21_13-24-00")     # or "latest", "digits/latest", a checkpoint file
run.task(x)                                            # raw input in, logits out
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from lightning.pytorch import LightningModule

from src.kindling.config import instantiate
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.spec import Spec
from src.kindling.runs.files import shown
from src.kindling.runs.run import Run, find_run
from src.kindling.training.build import build_data, build_task


class TrainedRun(Run):
    """A run with the objects that its config and its checkpoint describe."""

    @classmethod
    def of(cls, run: Run) -> TrainedRun:
        """The same run."""
        return run if isinstance(run, cls) else cls(run.path, run.chosen_checkpoint)

    @cached_property
    def spec(self) -> Spec:
        """What the task knows of its data."""
        try:
            return Spec.from_plain(self.checkpoint["kindling"]["spec"])
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{shown(self.checkpoint_file)}: its spec cannot be read: {error!r}") from None

    @cached_property
    def task(self) -> LightningModule:
        """The trained task in eval mode, on the CPU: `run.task(x)` takes raw input."""
        instantiate.check(self.config, sections=("net", "task"), trained=True)
        task = build_task(self.config, self.spec, begin=False)
        try:
            task.load_state_dict(self.checkpoint["state_dict"])
        except RuntimeError as error:
            reason = " ".join(str(error).partition(":\n")[2].split()) or str(error)
            raise InputError(
                f"{shown(self.path)}: the checkpoint does not fit the net of its config: {reason}"
            ) from None
        return task.eval()

    def data(self) -> DataModule:
        """The run's data, ready to use."""
        return build_data(self.config)


def load_run(name: str | Path) -> TrainedRun:
    """Find a run: see `find_run`."""
    return TrainedRun.of(find_run(name))
