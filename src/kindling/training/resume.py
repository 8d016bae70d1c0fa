"""Going on with a run: what may differ from it, and how a difference that is asked for takes effect."""

from __future__ import annotations

import inspect
import os
import shlex
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config, change, flatten, get
from src.kindling.config.errors import InputError, counted, counting
from src.kindling.data.spec import Spec
from src.kindling.runs.files import read_json, shown
from src.kindling.runs.redact import HIDDEN, redacted
from src.kindling.runs.run import Run
from src.kindling.training.distributed import rank

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from src.kindling.data.data_module import DataModule

# The form in which a checkpoint says where to go on; one more whenever that changes.
FORM = 2
# What may change without a word: it moves the end of the training, or nothing that is computed.
FREE = ("name", "tags", "logger", "save_minutes", "data.num_workers", "trainer.max_epochs", "trainer.max_steps",
        "trainer.max_time", "trainer.log_every_n_steps")  # fmt: skip
# What of a checkpoint means nothing to another optimizer or schedule.
FOREIGN = {"task.optimizer._target_": "optimizer_states", "task.decay_all": "optimizer_states",
           "finetune": "optimizer_states", "task.scheduler._target_": "lr_schedulers"}  # fmt: skip
SEEN = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")  # a plateau's memory
MACHINE = ("threads", "compile", "channels_last", "trainer.precision")  # what a config may leave to the machine
LENGTH = ("trainer.max_epochs", "trainer.max_steps")
ENDS = (*LENGTH, "trainer.max_time")


def changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configs differ, with both values; not what was secret, nor left to the machine."""
    one, two = flatten(redacted(old.values)), flatten(redacted(new.values))
    keys = [key for key in dict.fromkeys([*one, *two]) if one.get(key) != two.get(key)]
    left = [key for key in MACHINE if two.get(key) is None or new.origin(key) == "a default"]
    return {key: (one.get(key), two.get(key)) for key in keys if key not in left and HIDDEN not in str(one.get(key))}


def go_on(run: Run, words: Sequence[str], override: bool) -> Config:
    """The config that a run goes on with.

    Args:
        run: the run.
        words: `key=value` words, on top of the run's own config.
        override: whether any difference is meant.

    Raises:
        InputError: when something differs that may not, with a line for each.
    """
    new = change(run.config, words)
    secret = [key for key, value in flatten(new.values).items() if isinstance(value, str) and HIDDEN in value]
    if secret:
        raise InputError([f"{key}: kept out of the run's files; give it again, best as a reference: "
                          f"{key}='${{oc.env:NAME}}'" for key in secret])  # fmt: skip
    differs(run.config, new, override)
    return new


def differs(old: Config, new: Config, override: bool) -> bool:
    """Whether two configs differ in what has to take effect.

    Raises:
        InputError: when they do, and it is not meant; with a line for each difference.
    """
    differences = changed(old, new)

    def told(key: str) -> str:
        was, now = ("its default" if value is None else value for value in differences[key])
        return f"{key}: the run has {was}, and {now} is asked for"

    asked = [key for key in differences if not any(key == free or key.startswith(free + ".") for free in FREE)]
    if asked and not override:
        raise InputError([*map(told, asked), "a resumed run goes on as it was; --override makes it so all the same"])
    stretched, length = schedule_of_length(new), [key for key in differences if key in LENGTH]
    if stretched and length and not override:
        raise InputError([*map(told, length), f"task.scheduler: {stretched} runs over the whole training, and would be "
                          "stretched from where it stands; --override makes it so all the same"])  # fmt: skip
    return bool(asked or (stretched and length))


def schedule_of_length(config: Config) -> str | None:
    """The name of the scheduler whose course follows from the length of the training, if there is such a one."""
    from src.kindling.config.targets import locate

    section = get(config.values, "task.scheduler")
    if not isinstance(section, dict) or "_target_" not in section:
        return None
    scheduler = locate(section["_target_"])
    names = {"total_steps", "T_max"} & set(inspect.signature(scheduler).parameters) - set(section)
    return str(scheduler.__name__) if names and "epochs" not in section else None


def forget(checkpoint: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Leave out of a checkpoint what was learned by another optimizer or schedule than these values name."""
    before = checkpoint["kindling"]["config"]
    for key in (key for key in FOREIGN if get(before, key) != get(values, key)):
        checkpoint[FOREIGN[key]] = []
    parts, now = before.get("callbacks") or {}, values.get("callbacks") or {}
    for kind in (part["_target_"].rpartition(".")[2] for name, part in parts.items() if part and part != now.get(name)):
        states = checkpoint["callbacks"]
        checkpoint["callbacks"] = {key: state for key, state in states.items() if not key.startswith(kind)}


def renew(trainer: Trainer, task: LightningModule, epochs: int, keep_rate: bool) -> None:
    """Give optimizer and schedule the config's values; what the optimizer has learned of the gradients stays.

    Args:
        trainer, task: restored from a checkpoint.
        epochs: how many are done.
        keep_rate: leave a plateau's rate where it has come to.
    """
    made: Any = task.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    kept = {"params"}
    for config in trainer.lr_scheduler_configs:
        fresh, old = made["lr_scheduler"]["scheduler"], config.scheduler
        state = fresh.state_dict()
        if config.reduce_on_plateau:  # what it has seen of the metric stays
            state |= {key: value for key, value in old.state_dict().items() if key in SEEN}
            kept |= {"lr"} if keep_rate else set()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is moved without a step of the optimizer is meant
                for _ in range(trainer.global_step if config.interval == "step" else epochs):
                    fresh.step()
            state = fresh.state_dict()
        old.load_state_dict(state)
    for group, new in zip(trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in new.items() if key not in kept})


@dataclass
class Saved:
    """Where a run stands: its newest whole checkpoint.

    Attributes:
        path: the file.
        content: what it holds.
        notes: what a user should be told.
        override: whether differences from it are meant: now, or the last time, when the run may not have saved again.
        renewed: whether the config differs from it.
    """

    path: Path
    content: dict[str, Any]
    notes: list[str]
    override: bool
    renewed: bool = False

    @classmethod
    def newest(cls, run: Run, config: Config, override: bool) -> Saved | None:
        """The checkpoint to go on from; None where the run was stopped before its first.

        Raises:
            InputError: when no checkpoint is whole, when there is nothing left to train, and when the config differs.
        """
        from src.kindling.runs.checkpoint_file import newest

        path, content, notes = newest([run.checkpoints / "last.ckpt", run.checkpoints / "previous.ckpt"])
        if path is None or content is None:
            print(f"resumed: {shown(run.path)} was stopped before its first checkpoint; it begins again")
            return None
        kindling, facts = content["kindling"], run.path / "meta.json"
        meta = read_json(facts) if facts.exists() else {}
        if "resume" not in kindling:
            raise InputError(
                f"{shown(path)}: does not say where to go on: it is a copy of best.ckpt, or of another version"
            )
        if (form := kindling["resume"].get("form", 1)) != FORM:
            commit = (meta.get("git") or {}).get("commit")
            began = f"commit {commit}" if commit else "the version"
            raise InputError(f"{shown(path)}: saved by another version of src/ (in form {form}, and this one goes on from "
                             f"form {FORM}); go on with {began} that began it")  # fmt: skip
        override = override or (meta.get("override", False) and meta["exit"] != "finished")
        saved = cls(path, content, [f"WARNING    {line}" for line in notes], override)
        saved.renewed = differs(Config(config.name, kindling["config"]), config, saved.override)
        epochs, steps = saved.position[0], saved.step
        at = f"epoch {epochs + 1}, batch {saved.position[1] + 1}" if saved.position[1] else f"the end of epoch {epochs}"
        saved.notes.append(f"resumed: {shown(path)}, {at} ({steps:,} steps)")
        for key, done in (("trainer.max_epochs", epochs), ("trainer.max_steps", steps)):
            asked, before = get(config.values, key), get(run.config.values, key)
            if asked in (None, -1):
                continue
            if asked < done and asked != before:  # averaging weights may add an epoch of its own
                raise InputError(f"{key}: the run has done {done} already, and {asked} is asked for")
            longer = any(get(config.values, end) != get(run.config.values, end) for end in ENDS)
            if meta.get("exit") == "finished" and (asked == done or not longer):
                if asked > done and get(config.values, "trainer.max_time"):
                    raise InputError(
                        f"{shown(run.path)}: complete ({counting(epochs, 'epoch')}): trainer.max_time is over; raise it"
                    )
                stretched = schedule_of_length(config)
                aside, flag = (
                    (f", by --override since it stretches {stretched}", " --override") if stretched else ("", "")
                )
                raise InputError(f"{shown(run.path)}: complete ({counting(epochs, 'epoch')}); to train on, raise {key}{aside}: "
                                 f"python -m src.train --resume {shown(run.path)} {key}={2 * asked}{flag}")  # fmt: skip
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

    def check_data(self, data: DataModule) -> None:
        """Refuse data that are not those of the run."""
        if data.spec != Spec.from_plain(self.content["kindling"]["spec"]) and not self.override:
            raise InputError("data: they are not those that the run was trained on (other samples, or another split); "
                             "bring them back, or go on with these by --override")  # fmt: skip

    def check_fits(self, task: LightningModule, run: Run, config: Config) -> None:
        """Refuse a net that the saved weights do not fit."""
        states = self.content["state_dict"], task.state_dict()
        there, here = ({name: tuple(value.shape) for name, value in state.items()} for state in states)
        if wrong := [name for name in {**there, **here} if there.get(name) != here.get(name)]:
            words = [f"{key}={value}" for key, (_, value) in changed(run.config, config).items() if value is not None]
            raise InputError([f"net: the run's weights do not fit it any more: {counted(wrong)}", "begin a new run with "
                              f"those that do: python -m src.train {config.name} --init {shown(run.path)} "
                              + shlex.join(words)])  # fmt: skip


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
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        for pattern in ("*.tmp", "checkpoints/*.tmp", ".probe-*"):  # of one that was killed while it wrote
            for left in run.path.glob(pattern):
                left.unlink()
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise InputError(f"{shown(run.path)}: is being trained by {who}; wait for it, or stop it") from None
    except OSError as error:
        lock.release()
        denied = isinstance(error, PermissionError)
        reason = (
            "this user may not open or write it; ls -ld shows who may"
            if denied
            else f"cannot be written: {error.strerror}"
        )
        raise InputError(f"{shown(Path(error.filename or run.path))}: {reason}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()
