"""The Trainer of a rehearsal: a batch of each loader, in a training that seems to be whole."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.data import has_len
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader, IterableDataset

from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.training.loader_parts import is_stream, stateful_part

KEPT = (
    "accelerator",
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "inference_mode",
)


def build_rehearsal_trainer(
    config: Config, folder: str, callbacks: list[Callback], count: int | None
) -> Trainer:
    """Build a Trainer that reads one batch of each loader, cut to `count` samples if possible.

    Tasks see the length of the training, from which they compute schedules.
    """
    given = config.values.get("trainer") or {}
    trainer = Trainer(
        **{key: given[key] for key in KEPT if given.get(key) is not None},
        fast_dev_run=True,
        devices=1,
        callbacks=[*callbacks, _StopAfterBatch()],
        plugins=[LightningEnvironment()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.loggers = [_NoLogger(folder)]
    # Schedules are computed from the training's length; _StopAfterBatch ends it.
    steps = given.get("max_steps") or -1
    trainer.fit_loop.max_epochs = given.get("max_epochs") or (1000 if steps == -1 else -1)
    trainer.fit_loop.epoch_loop.max_steps = steps
    trainer.limit_train_batches = given.get("limit_train_batches") or 1.0
    process = trainer.strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        loader = process(dataloader)
        batches = _first_batch(loader, count)
        if batches == [] and trainer.training:
            problem = "the training loader gives no batch"
            raise InputError(f"data: {problem}; check its samples, batch size and drop_last")
        return _Shortened(batches, loader) if trainer.training and has_len(loader) else batches

    trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
    return trainer


class _NoLogger(DummyLogger):
    """Drops what is logged; modules write files into its folder."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    @property
    def save_dir(self) -> str:
        return self.folder

    root_dir = log_dir = save_dir


class _StopAfterBatch(Callback):
    """Ends a training after its first batch, and validates before."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = True


class _Shortened:
    """The first batch of a loader, with the length of the whole."""

    def __init__(self, batches: Any, loader: Any) -> None:
        self.batches, self.loader = batches, loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.loader)


def _first_batch(loader: Any, count: int | None) -> Any:
    """The first batch of a loader, read in this process; cut to `count` samples if possible."""
    stateful = stateful_part(loader) if is_stream(loader) else None
    if stateful is not None:  # the training begins where it is now
        try:
            return list(islice(copy.deepcopy(loader), 1))
        except TypeError:  # it cannot be copied
            state = copy.deepcopy(stateful.state_dict())
            first = list(islice(loader, 1))
            stateful.load_state_dict(state)
            return first
    if not isinstance(loader, DataLoader):
        return loader
    alone = copy.copy(loader)
    # torch refuses to set these on a loader.
    options = vars(alone)
    options.update(num_workers=0, prefetch_factor=None, timeout=0, persistent_workers=False)
    if loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset):
        batches: Any = islice(loader.batch_sampler, 1)
        cut = [batch[:count] if isinstance(batch, list) else batch for batch in batches]
        options["batch_sampler"] = cut
    return list(islice(alone, 1))
