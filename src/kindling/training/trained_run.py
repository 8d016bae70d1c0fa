"""A finished run whose data and task can be built again.

from src.kindling.training import load_run
run = load_run("logs/digits/2026-11-21_13-24-00")     # or "latest", "digits/latest", a file
run.predict(x)                                         # raw input in, predictions out
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from src.kindling.config import instantiate
from src.kindling.config.compose import get
from src.kindling.config.errors import TRUST, InputError
from src.kindling.data.preprocess import build_preprocess
from src.kindling.data.spec import Spec
from src.kindling.nn.additions import outputs_of
from src.kindling.runs.files import display_path
from src.kindling.runs.run import Run, find_run
from src.kindling.training.build import build_data, build_task
from src.kindling.training.seeding import seed_hooks, seeded


class TrainedRun(Run):
    """A run with the objects that its config and its checkpoint describe."""

    @classmethod
    def of(cls, run: Run) -> TrainedRun:
        """The same run."""
        if isinstance(run, cls):
            return run
        return cls(run.path, run.chosen_checkpoint, run.trusted)

    @cached_property
    def spec(self) -> Spec | None:
        """The spec of Kindling's data; None for other data."""
        plain = self.checkpoint["kindling"]["spec"]
        try:
            return Spec.from_plain(plain) if plain else None
        except ValueError as error:
            name = display_path(self.checkpoint_file)
            raise InputError(f"{name}: its spec cannot be read: {error}") from None

    def require_spec(self, what: str) -> Spec:
        """The spec, or an InputError that `what` needs one."""
        if self.spec is None:
            remedy = "subclass src.kindling.data.DataModule, or call load_run(RUN).task in Python"
            raise InputError(f"data: {what} needs a data module with a spec; {remedy}")
        return self.spec

    @cached_property
    def task(self) -> LightningModule:
        """The trained task in eval mode, on the CPU; it takes what a batch of its data holds."""
        content, task = self.checkpoint, self.build_task()
        task.on_load_checkpoint(content)
        if is_overridden("configure_model", task):
            task.configure_model()
        try:
            task.load_state_dict(content["state_dict"], strict=task.strict_loading)
            restore_buffers(task, content["kindling"].get("buffers", {}))
        except RuntimeError as error:
            raise self.misfit(error) from None
        return task.eval()

    def misfit(self, error: RuntimeError) -> InputError:
        """The line for a checkpoint whose weights do not fit."""
        reason = " ".join(str(error).partition(":\n")[2].split()) or str(error)
        line = "the checkpoint does not fit the net of its config"
        return InputError(f"{display_path(self.path)}: {line}: {reason}")

    def build_task(self, data: LightningDataModule | None = None) -> LightningModule:
        """The task without its weights; with `data`, pretrained nets prepare its inputs."""
        instantiate.check(self.config, sections=("net", "task"), trained=True)
        attributes = self.checkpoint["kindling"].get("attributes") or {}
        seed = instantiate.values(self.config).seed
        with seeded(seed):  # as in training: for what a constructor draws and a checkpoint lacks
            task = build_task(self.config, data, self.spec, attributes, load_weights=False)
        if not self.config.values.get("data"):
            seed_hooks(task, seed)
        return task

    @cached_property
    def preprocess(self) -> nn.Module:
        """Raw input `(B, *raw_shape)` to what the task takes, `(B, *in_shape)`."""
        if self.spec is None:
            return nn.Identity()
        net = getattr(self.task, "net", None)
        return build_preprocess(self.spec, getattr(net, "input_stats", None))

    def predict(self, x: Tensor) -> dict[str, Tensor]:
        """Predictions of raw input `(B, *raw_shape)`, on the CPU.

        Returns:
            The columns of the task's `outputs`: `prediction`, and `probability` for classes;
            without `outputs`, the result of `forward` as `prediction`.
        """
        outputs = outputs_of(self.task)
        with torch.inference_mode():
            raw = self.task(self.preprocess(x))
            return {"prediction": raw} if outputs is None else dict(outputs.columns(raw))

    @property
    def device(self) -> torch.device:
        """The machine's accelerator; the CPU without one, or if the run was trained on it."""
        found = torch.accelerator.current_accelerator(check_available=True)
        on_cpu = get(self.config.values, "trainer.accelerator") == "cpu"
        return torch.device("cpu") if found is None or on_cpu else found

    def data(self) -> LightningDataModule | None:
        """The run's data; None if the task defines its loaders itself."""
        return build_data(self.config)


def unsaved_buffers(task: LightningModule) -> dict[str, Tensor]:
    """The buffers that a state dict lacks (`persistent=False`), by name."""
    saved = task.state_dict().keys()
    return {name: buffer for name, buffer in task.named_buffers() if name not in saved}


def restore_buffers(task: LightningModule, buffers: Mapping[str, Tensor]) -> None:
    """Set buffers that the task has, by name."""
    for name, buffer in unsaved_buffers(task).items():
        if name in buffers:
            owner, _, attribute = name.rpartition(".")
            setattr(task.get_submodule(owner), attribute, buffers[name].to(buffer))


@contextmanager
def one_line(run: Run) -> Iterator[None]:
    """Turn an error over a run from elsewhere into a line: its files may hold anything."""
    try:
        yield
    except Exception as error:
        if run.trusted or isinstance(error, InputError):
            raise
        reason = str(error).strip().partition("\n")[0]
        line = f"written elsewhere, and cannot be used: {type(error).__name__}: {reason}"
        raise InputError(f"{display_path(run.path)}: {line}; {TRUST}") from error


def load_run(name: str | Path, trust: bool = False) -> TrainedRun:
    """Find a run: see `find_run`."""
    return TrainedRun.of(find_run(name, trust))
