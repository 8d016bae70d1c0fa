"""Compare the config of a resumed run with the run's own, and refuse unintended changes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from src.kindling.config.compose import Config, change, flatten, get
from src.kindling.config.errors import InputError, format_count
from src.kindling.runs.files import shown
from src.kindling.runs.redact import HIDDEN, redacted
from src.kindling.runs.run import Run

# Keys that may change without --override: they move the end of the training, or affect no result.
FREE = (
    "name",
    "tags",
    "logger",
    "checkpoint_minutes",
    "data.num_workers",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.log_every_n_steps",
)
# Keys whose value is chosen for the machine where a config leaves them out.
MACHINE = ("num_threads", "compile", "channels_last", "trainer.precision")
LENGTH = ("trainer.max_epochs", "trainer.max_steps")
ENDS = (*LENGTH, "trainer.max_time")


def config_differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two configs differ, with both values.

    Redacted values, and those that were chosen for the machine, are not compared.
    """
    before, after = flatten(redacted(old.values)), flatten(redacted(new.values))
    differences = {}
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key), after.get(key)
        chosen = key in MACHINE and (now is None or new.origin(key) == "a default")
        if was != now and not chosen and HIDDEN not in str(was):
            differences[key] = (was, now)
    return differences


def resume_config(run: Run, overrides: Sequence[str], override: bool) -> Config:
    """Return the config with which a run is resumed.

    Args:
        run: the run.
        overrides: `key=value` words, applied to the run's own config.
        override: accept any difference.

    Raises:
        InputError: a line for each difference that needs --override, and each redacted value.
    """
    config = change(run.config, overrides)
    values = flatten(config.values).items()
    hidden = [key for key, value in values if isinstance(value, str) and HIDDEN in value]
    if hidden:
        raise InputError(
            [
                f"{key}: redacted in the run's files; set it again, best as a reference: "
                f"{key}='${{oc.env:NAME}}'"
                for key in hidden
            ]
        )
    check_differences(run.config, config, override)
    return config


def check_differences(old: Config, new: Config, override: bool) -> bool:
    """Return whether two configs differ in values that have to be applied to the restored state.

    Raises:
        InputError: a line for each such difference, unless `override` accepts them.
    """
    differences = config_differences(old, new)

    def describe(key: str) -> str:
        was, now = ("default" if value is None else value for value in differences[key])
        return f"{key}: changed from {was} to {now}"

    changed = [
        key
        for key in differences
        if not any(key == free or key.startswith(free + ".") for free in FREE)
    ]
    if changed and not override:
        remedy = "the run was trained with other values; pass --override to accept the changes"
        raise InputError([*map(describe, changed), remedy])
    scheduler, length = length_scheduler(new), [key for key in differences if key in LENGTH]
    if scheduler and length and not override:
        remedy = (
            f"task.scheduler: {scheduler} spans the whole training, so a new length changes its "
            "remaining learning rates; pass --override to accept it"
        )
        raise InputError([*map(describe, length), remedy])
    return bool(changed or (scheduler and length))


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
    """Refuse to resume a run that has nothing left to train.

    Args:
        run, config: the run, and the config with which it is resumed.
        finished: whether its training ended by itself.
        epochs, steps: how many are done.
    """
    longer = any(get(config.values, end) != get(run.config.values, end) for end in ENDS)
    for key, done in zip(LENGTH, (epochs, steps), strict=True):
        limit = get(config.values, key)
        if limit in (None, -1):
            continue
        # Weight averaging may add an epoch, so that the run's own limit can be below `done`.
        if limit < done and limit != get(run.config.values, key):
            raise InputError(f"{key}: {limit} is less than the {done} already done; raise it")
        if finished and (limit == done or not longer):
            complete = f"{shown(run.path)}: complete ({format_count(epochs, 'epoch')})"
            if limit > done and get(config.values, "trainer.max_time"):
                raise InputError(f"{complete}, trainer.max_time is reached; raise it")
            command = f"python -m src.train --resume {shown(run.path)} {key}={2 * limit}"
            if scheduler := length_scheduler(config):
                key += f" with --override, since {scheduler} spans the whole training"
                command += " --override"
            raise InputError(f"{complete}; to train longer, raise {key}: {command}")
