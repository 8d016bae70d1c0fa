"""Load the state of a resumed run, check that it fits, and apply changes of the config."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config, get
from src.kindling.config.errors import InputError, join_names
from src.kindling.data.spec import Spec
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.run import Run
from src.kindling.training.resume_config import (
    check_differences,
    check_length,
    config_differences,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

# The version of a checkpoint's resume state; raise it whenever that changes.
FORM = 2
# The parts of a checkpoint that another optimizer or scheduler cannot load.
OPTIMIZER_STATE = {
    "task.optimizer._target_": "optimizer_states",
    "task.decay_bias_and_norm": "optimizer_states",
    "finetune": "optimizer_states",
    "task.scheduler._target_": "lr_schedulers",
}
# The part of a plateau schedule's state that depends on the metric's history.
PLATEAU_HISTORY = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")


@dataclass
class ResumeState:
    """The newest readable checkpoint of a run.

    Attributes:
        path: the file.
        content: its content.
        notes: lines to print when the training starts.
        override: accept differences: by --override now, or by the last resume, which may have
            ended before it saved.
        changed: whether the config differs from the checkpoint's.
    """

    path: Path
    content: dict[str, Any]
    notes: list[str]
    override: bool
    changed: bool = False

    @classmethod
    def load(cls, run: Run, config: Config, override: bool) -> ResumeState | None:
        """Load the checkpoint to resume from; None if the run was stopped before its first.

        Raises:
            InputError: if no checkpoint is readable, if nothing is left to train, or if the
                config differs.
        """
        from src.kindling.runs.checkpoint_file import newest

        path, content, warning_lines = newest(
            [run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"]
        )
        if path is None or content is None:
            print(f"resumed: {shown(run.path)} has no checkpoint yet; training starts from scratch")
            return None
        facts = run.path / "meta.json"
        meta = read_json(facts) if facts.exists() else {}
        _check_form(path, content["kindling"], meta)
        finished = meta.get("exit") == "finished"
        override = override or (meta.get("override", False) and not finished)
        state = cls(path, content, [f"WARNING    {line}" for line in warning_lines], override)
        before = Config(config.name, content["kindling"]["config"])
        state.changed = check_differences(before, config, override)
        epoch, batch = state.position
        place = f"epoch {epoch + 1}, batch {batch + 1}" if batch else f"the end of epoch {epoch}"
        state.notes.append(f"resumed: {shown(path)}, {place} ({state.step:,} steps)")
        check_length(run, config, finished, epoch, state.step)
        return state

    @property
    def position(self) -> tuple[int, int]:
        """The epoch and the batch with which the training resumes."""
        resume = self.content["kindling"]["resume"]
        return resume["epoch"], resume["batch"]

    @property
    def step(self) -> int:
        """The number of optimizer steps so far."""
        step: int = self.content["kindling"]["resume"]["step"]
        return step

    def check_data(self, data: LightningDataModule | None) -> None:
        """Refuse data that differ from the run's."""
        plain = self.content["kindling"]["spec"]
        spec = Spec.from_plain(plain) if plain else None
        if getattr(data, "spec", None) != spec and not self.override:
            raise InputError(
                "data: other samples or another split than the run was trained on; "
                "restore them, or pass --override to resume with these"
            )

    def check_weights(self, task: LightningModule, run: Run, config: Config) -> None:
        """Refuse a net that the saved weights do not fit."""
        saved, own = (
            {name: tuple(value.shape) for name, value in state.items()}
            for state in (self.content["state_dict"], task.state_dict())
        )
        wrong = [name for name in {**saved, **own} if saved.get(name) != own.get(name)]
        if wrong:
            changes = config_differences(run.config, config).items()
            overrides = [f"{key}={now}" for key, (_, now) in changes if now is not None]
            raise InputError(
                [
                    f"net: the run's weights do not fit: {join_names(wrong)}",
                    "start a new run with the weights that fit: "
                    f"python -m src.train {config.name} --init {shown(run.path)} "
                    + shlex.join(overrides),
                ]
            )


def _check_form(path: Path, kindling: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    if "resume" not in kindling:
        raise InputError(
            f"{shown(path)}: has no resume state, as a copy of best.ckpt or a file of another "
            "version; restore the run's own last.ckpt"
        )
    form = kindling["resume"].get("form", 1)
    if form != FORM:
        commit = (meta.get("git") or {}).get("commit")
        version = f"commit {commit}" if commit else "the version that started the run"
        raise InputError(
            f"{shown(path)}: saved by another version of src/ (resume state {form}, expected "
            f"{FORM}); resume with {version}"
        )


def drop_optimizer_state(checkpoint: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Remove the states of optimizer, scheduler and callbacks that a config's values replace."""
    before = checkpoint["kindling"]["config"]
    for key, part in OPTIMIZER_STATE.items():
        if get(before, key) != get(values, key):
            checkpoint[part] = []
    callbacks, now = before.get("callbacks") or {}, values.get("callbacks") or {}
    for name, section in callbacks.items():
        if section and section != now.get(name):
            class_name = section["_target_"].rpartition(".")[2]
            for key in [key for key in checkpoint["callbacks"] if key.startswith(class_name)]:
                del checkpoint["callbacks"][key]


def apply_config(trainer: Trainer, task: LightningModule, epochs: int, keep_lr: bool) -> None:
    """Give optimizer and schedule the config's values; the optimizer keeps its moments.

    Args:
        trainer, task: restored from a checkpoint.
        epochs: how many are done.
        keep_lr: keep the learning rate that a plateau schedule has reached.
    """
    configured: Any = task.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    kept = {"params"}
    for config in trainer.lr_scheduler_configs:
        scheduler = configured["lr_scheduler"]["scheduler"]
        state = scheduler.state_dict()
        if config.reduce_on_plateau:
            old = config.scheduler.state_dict()
            state |= {key: value for key, value in old.items() if key in PLATEAU_HISTORY}
            if keep_lr:
                kept.add("lr")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about steps without the optimizer's
                for _ in range(trainer.global_step if config.interval == "step" else epochs):
                    scheduler.step()
            state = scheduler.state_dict()
        config.scheduler.load_state_dict(state)
    for group, new in zip(trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key not in kept})
