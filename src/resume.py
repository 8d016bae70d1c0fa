"""Going on with a run: what may differ from it, and how a difference that is asked for takes effect."""

from __future__ import annotations

import dataclasses
import inspect
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Config, change, flatten, get
from src.errors import InputError
from src.ranks import rank
from src.run import Run, read_json, shown

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from src.data.base import DataModule

# What may change without a word: it moves the end of the training, or nothing that is computed.
FREE = ("name", "tags", "logger", "save_minutes", "data.num_workers", "trainer.max_epochs", "trainer.max_steps",
        "trainer.max_time", "trainer.log_every_n_steps")  # fmt: skip
# What cannot take effect on weights and optimizer states that are there.
FIXED = ("net", "task._target_", "task.optimizer._target_", "finetune")
SEEN = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")  # a plateau's memory
LENGTH = ("trainer.max_epochs", "trainer.max_steps")


def changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configs differ, with both values."""
    one, two = flatten(old.values), flatten(new.values)
    keys = [key for key in dict.fromkeys([*one, *two]) if one.get(key) != two.get(key)]
    return {key: (one.get(key), two.get(key)) for key in keys}


def go_on(run: Run, words: Sequence[str], override: bool) -> Config:
    """The config that a run goes on with.

    Args:
        run: the run.
        words: `key=value` words, on top of the run's own config.
        override: whether any difference is meant.

    Raises:
        InputError: when something differs that may not, with a line for each.
    """
    old = run.config
    new = change(old, words)
    differences = changed(old, new)

    def within(key: str, sections: Sequence[str]) -> bool:
        return any(key == section or key.startswith(section + ".") for section in sections)

    def told(key: str) -> str:
        was, now = ("its default" if value is None else value for value in differences[key])
        return f"{key}: the run has {was}, and {now} is asked for"

    fixed = [key for key in differences if within(key, FIXED)]
    if fixed:
        raise InputError([*map(told, fixed), f"its weights and optimizer states do not fit that; begin a new run from its "
                          f"weights: python -m src.train {run.path.parent.name} --init {shown(run.path)} "
                          + " ".join(words)])  # fmt: skip
    asked = [key for key in differences if not within(key, FREE)]
    if asked and not override:
        raise InputError([*map(told, asked), "a resumed run goes on as it was; --override makes it so all the same"])
    stretched = schedule_of_length(new)
    if stretched and not override and (length := [key for key in differences if key in LENGTH]):
        raise InputError([*map(told, length), f"task.scheduler: {stretched} runs over the whole training, and would be "
                          "stretched from where it stands; --override makes it so all the same"])  # fmt: skip
    return new


def schedule_of_length(config: Config) -> str | None:
    """The name of the scheduler whose course follows from the length of the training, if there is such a one."""
    from src.targets import locate

    section = get(config.values, "task.scheduler")
    if not isinstance(section, dict) or "_target_" not in section:
        return None
    scheduler = locate(section["_target_"])
    names = {"total_steps", "T_max"} & set(inspect.signature(scheduler).parameters) - set(section)
    return str(scheduler.__name__) if names and "epochs" not in section else None


def renew(trainer: Trainer, task: LightningModule) -> None:
    """Give optimizer and schedule the config's values; what the optimizer has learned of the gradients stays."""
    made: Any = task.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    for config in trainer.lr_scheduler_configs:
        fresh, old = made["lr_scheduler"]["scheduler"], config.scheduler
        state = fresh.state_dict()
        if config.reduce_on_plateau:  # what it has seen of the metric stays
            state |= {key: value for key, value in old.state_dict().items() if key in SEEN}
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is moved without a step of the optimizer is meant
                for _ in range(old.last_epoch):
                    fresh.step()
            state = fresh.state_dict()
        old.load_state_dict(state)
    for group, new in zip(trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key != "params"})


@dataclass
class Saved:
    """Where a run stands: its newest whole checkpoint.

    Attributes:
        path: the file.
        content: what it holds.
        notes: what a user should be told.
    """

    path: Path
    content: dict[str, Any]
    notes: list[str]

    @classmethod
    def newest(cls, run: Run, config: Config) -> Saved | None:
        """The checkpoint to go on from; None where the run was stopped before its first.

        Raises:
            InputError: when no checkpoint is whole, and when there is nothing left to train.
        """
        from src.checkpoint_io import newest

        path, content, notes = newest([run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"])
        if path is None or content is None:
            print(f"resumed: {shown(run.path)} was stopped before its first checkpoint; it begins again")
            return None
        saved = cls(path, content, [f"WARNING    {line}" for line in notes])
        epochs, steps = saved.position[0], saved.step
        at = f"epoch {epochs + 1}, batch {saved.position[1] + 1}" if saved.position[1] else f"the end of epoch {epochs}"
        saved.notes.append(f"resumed: {shown(path)}, {at} ({steps:,} steps)")
        for key, done in (("trainer.max_epochs", epochs), ("trainer.max_steps", steps)):
            asked, before = get(config.values, key), get(run.config.values, key)
            if asked in (None, -1):
                continue
            if asked < done and asked != before:  # averaging weights may add an epoch of its own
                raise InputError(f"{key}: the run has done {done} already, and {asked} is asked for")
            if read_json(run.path / "meta.json").get("exit") == "finished" and asked in (done, before):
                raise InputError(f"{shown(run.path)}: complete ({epochs} epochs); to train on, raise {key}: "
                                 f"python -m src.train --resume {shown(run.path)} {key}={2 * asked}")  # fmt: skip
        return saved

    @property
    def position(self) -> tuple[int, int]:
        """The epoch that goes on, and its first batch."""
        resume = self.content["kindling"]["resume"]
        return resume["epoch"], resume["batch"]

    @property
    def step(self) -> int:
        """The optimizer's steps so far."""
        step: int = self.content["kindling"]["resume"]["step"]
        return step

    def check_data(self, data: DataModule, override: bool) -> None:
        """Refuse data that are not those of the run."""
        if dataclasses.asdict(data.spec) != self.content["kindling"]["spec"] and not override:
            raise InputError("data: they are not those that the run was trained on (other samples, or another split); "
                             "bring them back, or go on with these by --override")  # fmt: skip


@contextmanager
def owned(run: Run, values: Mapping[str, Any]) -> Iterator[None]:
    """This process's while it is entered; another that trains the same run is refused.

    Raises:
        InputError: naming the process that owns it.
    """
    from filelock import FileLock, Timeout

    if rank(values):
        yield  # the first process of a distributed training owns the run for all
        return
    lock, owner = FileLock(run.path / ".lock", timeout=0), run.path / ".owner"
    try:
        lock.acquire()
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise InputError(f"{shown(run.path)}: is being trained by {who}; wait for it, or stop it") from None
    except OSError as error:
        raise InputError(f"{shown(run.path)}: cannot be written: {error.strerror}") from None
    try:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()
