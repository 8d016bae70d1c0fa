"""Resume a run: compare its config, load its newest checkpoint, and apply accepted changes."""

from __future__ import annotations

import inspect
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config, change, flatten, get
from src.kindling.config.errors import InputError, format_count, join_names
from src.kindling.data.spec import Spec
from src.kindling.runs.checkpoint_file import newest
from src.kindling.runs.files import display_path, read_json
from src.kindling.runs.redact import HIDDEN, redacted
from src.kindling.runs.run import Run

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

# The version of a checkpoint's resume state; raise it whenever that changes.
FORM = 2
# Keys that may change without --override: they move the end of the training, or affect no result.
LENGTH = ("trainer.max_epochs", "trainer.max_steps")
ENDS = (*LENGTH, "trainer.max_time")
LOGGING = ("name", "tags", "logger", "trainer.log_every_n_steps")
FREE = (*ENDS, *LOGGING, "checkpoint_minutes", "max_fast_forward", "data.num_workers")
# Keys whose default is chosen for the machine.
MACHINE = ("num_threads", "compile", "channels_last", "trainer.precision")
# The parts of a checkpoint that another optimizer or scheduler cannot load.
OPTIMIZER_STATE = {
    "task.optimizer._target_": "optimizer_states",
    "task.decay_bias_and_norm": "optimizer_states",
    "finetune": "optimizer_states",
    "task.scheduler._target_": "lr_schedulers",
}
# The part of a plateau schedule's state that depends on the metric's history.
PLATEAU_HISTORY = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")


def resume_config(run: Run, overrides: Sequence[str], override: bool) -> Config:
    """Return a run's config with `key=value` overrides.

    Raises:
        InputError: a line for each redacted value, and those of `check_differences`.
    """
    config = change(run.config, overrides)
    if hidden := [key for key, value in flatten(config.values).items() if HIDDEN in str(value)]:
        problem = "redacted in the run's files; set it again, best as a reference"
        raise InputError([f"{key}: {problem}: {key}='${{oc.env:NAME}}'" for key in hidden])
    check_differences(run.config, config, override)
    return config


def config_differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two configs differ, and both values; without redacted values."""
    before, after = flatten(redacted(old.values)), flatten(redacted(new.values))
    differences = {}
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key), after.get(key)
        is_default = now is None or new.origin(key) == "a default"
        if was != now and not (key in MACHINE and is_default) and HIDDEN not in str(was):
            differences[key] = (was, now)
    return differences


def check_differences(old: Config, new: Config, override: bool) -> bool:
    """Return whether two configs differ in values that affect the training.

    Raises:
        InputError: a line for each such difference, unless `override` accepts them.
    """
    differences = config_differences(old, new)
    changed = [key for key in differences if not key.startswith(FREE)]
    length = [key for key in differences if key in LENGTH]
    remedy = "the run was trained with other values; pass --override to accept the changes"
    if not changed and length and (scheduler := length_scheduler(new)):
        changed = length
        remedy = (
            f"task.scheduler: {scheduler} spans the whole training, so a new length changes its "
            "remaining learning rates; pass --override to accept it"
        )
    if changed and not override:
        lines = []
        for key in changed:
            was, now = ("default" if value is None else value for value in differences[key])
            lines.append(f"{key}: changed from {was} to {now}")
        raise InputError([*lines, remedy])
    return bool(changed)


def length_scheduler(config: Config) -> str | None:
    """Return the scheduler's name if its curve depends on the training's length, else None."""
    from src.kindling.config.targets import locate

    section = get(config.values, "task.scheduler")
    if not isinstance(section, dict) or "_target_" not in section:
        return None
    scheduler = locate(section["_target_"])
    names = {"total_steps", "T_max"} & set(inspect.signature(scheduler).parameters) - set(section)
    return str(scheduler.__name__) if names and "epochs" not in section else None


def check_length(run: Run, config: Config, finished: bool, epochs: int, steps: int) -> None:
    """Refuse to resume a run after so many epochs and steps if nothing is left to train."""
    longer = any(get(config.values, end) != get(run.config.values, end) for end in ENDS)
    for key, done in zip(LENGTH, (epochs, steps), strict=True):
        limit = get(config.values, key)
        if limit in (None, -1):
            continue
        # Weight averaging may add an epoch, so that the run's own limit can be below `done`.
        if limit < done and limit != get(run.config.values, key):
            raise InputError(f"{key}: {limit} is less than the {done} already done; raise it")
        if finished and (limit == done or not longer):
            complete = f"{display_path(run.path)}: complete ({format_count(epochs, 'epoch')})"
            if limit > done and get(config.values, "trainer.max_time"):
                raise InputError(f"{complete}, trainer.max_time is reached; raise it")
            name = shlex.quote(display_path(run.path))
            command = f"python -m src.train --resume {name} {key}={2 * limit}"
            if scheduler := length_scheduler(config):
                key += f" with --override, since {scheduler} spans the whole training"
                command += " --override"
            raise InputError(f"{complete}; to train longer, raise {key}: {command}")


@dataclass
class ResumeState:
    """The newest readable checkpoint of a run.

    Attributes:
        position: the epoch and the batch with which the training resumes.
        step: the number of optimizer steps so far.
        logged_step: the same as loggers count it.
        rows: of steps.csv; None in checkpoints of earlier versions.
        notes: lines to print when the training starts.
        override: accept differences, now or at the last resume, which may have ended unsaved.
        changed: whether the config differs from the checkpoint's.
        restarted: whether the epoch in which training was interrupted starts again.
    """

    path: Path
    content: dict[str, Any]
    position: tuple[int, int]
    step: int
    logged_step: int
    rows: int | None
    notes: list[str]
    override: bool
    changed: bool
    restarted: bool = False

    @classmethod
    def load(cls, run: Run, config: Config, override: bool) -> ResumeState | None:
        """Load the checkpoint to resume from; None if the run was stopped before its first.

        Raises:
            InputError: no checkpoint is readable, nothing is left to train, or the config differs.
        """
        files = [run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"]
        path, content, problems = newest(files)
        if path is None or content is None:
            name = display_path(run.path)
            print(f"resumed: {name} has no checkpoint yet; training starts from scratch")
            return None
        facts = run.path / "meta.json"
        meta = read_json(facts) if facts.exists() else {}
        finished = meta.get("exit") == "finished"
        resume = content["kindling"].get("resume")
        if resume is None:
            raise InputError(
                f"{display_path(path)}: has no resume state, like a copy of best.ckpt or a file of "
                "another version; restore the run's own last.ckpt"
            )
        if (form := resume.get("form", 1)) != FORM:
            commit = (meta.get("git") or {}).get("commit")
            version = f"commit {commit}" if commit else "the version that started the run"
            expected = f"resume state {form}, expected {FORM}"
            line = f"saved by another version of src/ ({expected}); resume with {version}"
            raise InputError(f"{display_path(path)}: {line}")
        override = override or (meta.get("override", False) and not finished)
        before = Config(config.name, content["kindling"]["config"])
        changed = check_differences(before, config, override)
        epoch, batch, step = resume["epoch"], resume["batch"], resume["step"]
        place = f"epoch {epoch + 1}, batch {batch + 1}" if batch else f"the end of epoch {epoch}"
        notes = [f"WARNING    {line}" for line in problems]
        notes.append(f"resumed: {display_path(path)}, {place} ({step:,} steps)")
        interval = get(config.values, "trainer.val_check_interval")
        if isinstance(interval, str | dict):
            problem = "depends on the clock, so that validation may run after other batches"
            notes.append(f"WARNING    trainer.val_check_interval: {interval} {problem}")
        check_length(run, config, finished, epoch, step)
        logged_step, rows = resume.get("logged_step", step), resume.get("rows")
        position = (epoch, batch)
        return cls(path, content, position, step, logged_step, rows, notes, override, changed)

    def check_data(self, data: LightningDataModule | None) -> None:
        """Refuse data that differ from the run's."""
        from src.kindling.nn.additions import addition

        plain = self.content["kindling"]["spec"]
        spec = Spec.from_plain(plain) if plain else None
        if addition(data, "spec", Spec) != spec and not self.override:
            raise InputError(
                "data: other samples or another split than the run was trained on; "
                "restore them, or pass --override to resume with these"
            )

    def check_weights(self, task: LightningModule, run: Run, config: Config) -> None:
        """Refuse a net that the saved weights do not fit."""
        from lightning.pytorch.utilities.model_helpers import is_overridden

        saved = {name: tuple(value.shape) for name, value in self.content["state_dict"].items()}
        own = {name: tuple(value.shape) for name, value in task.state_dict().items()}
        # What `configure_model` builds is not there yet.
        names = own if is_overridden("configure_model", task) else {**saved, **own}
        # These may adapt to what they load.
        adapting = {
            prefix
            for prefix, module in task.named_modules()
            if not type(module)._load_from_state_dict.__module__.startswith("torch.")
        }
        changed = [name for name in names if saved.get(name) != own.get(name)]
        if wrong := [name for name in changed if name.rpartition(".")[0] not in adapting]:
            changes = config_differences(run.config, config).items()
            overrides = shlex.join(f"{key}={now}" for key, (_, now) in changes if now is not None)
            name = shlex.quote(display_path(run.path))
            command = f"python -m src.train {config.name} --init {name} {overrides}"
            problem = f"net: the run's weights do not fit: {join_names(wrong)}"
            raise InputError([problem, f"start a new run with the weights that fit: {command}"])


def drop_optimizer_state(checkpoint: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Remove the states of optimizer, scheduler and callbacks that a config's values replace."""
    before = checkpoint["kindling"]["config"]
    for key, part in OPTIMIZER_STATE.items():
        if get(before, key) != get(values, key):
            checkpoint[part] = []
    callbacks, now = before.get("callbacks") or {}, values.get("callbacks") or {}
    replaced = [section for name, section in callbacks.items() if section != now.get(name)]
    classes = tuple(section["_target_"].rpartition(".")[2] for section in replaced if section)
    states = checkpoint["callbacks"].items()
    checkpoint["callbacks"] = {key: state for key, state in states if not key.startswith(classes)}


def apply_config(trainer: Trainer, task: LightningModule, epochs: int, keep_lr: bool) -> None:
    """Give the restored optimizers and schedules the config's values; moments are kept.

    Args:
        epochs: how many are done.
        keep_lr: keep the learning rate that a plateau schedule has reached.
    """
    from src.kindling.training.lightning_internals import configure_optimizers

    optimizers, schedules = configure_optimizers(task)
    kept = {"params"}
    for config, new in zip(trainer.lr_scheduler_configs, schedules, strict=True):
        history = {}
        if config.reduce_on_plateau:
            state = config.scheduler.state_dict()
            history = {key: state[key] for key in PLATEAU_HISTORY if key in state}
            kept |= {"lr"} if keep_lr else set()
        else:
            done = trainer.global_step if config.interval == "step" else epochs
            if not task.automatic_optimization:  # which steps it itself
                done = config.scheduler.last_epoch
            scheduler: Any = new.scheduler
            with warnings.catch_warnings(action="ignore"):  # about steps without the optimizer's
                for _ in range(done):
                    scheduler.step()
        config.scheduler.load_state_dict(new.scheduler.state_dict() | history)
    for optimizer, fresh in zip(trainer.optimizers, optimizers, strict=True):
        for group, values in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            group.update({key: value for key, value in values.items() if key not in kept})
