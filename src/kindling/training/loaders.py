"""Make a Trainer's loaders repeatable, and resume each of them at its position in the epoch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import DataLoader

from src.kindling.config.errors import format_count
from src.kindling.data.order import BatchOrder, derive_seed, seed_generators
from src.kindling.training import lightning_internals as internals
from src.kindling.training.attributes import Attributes
from src.kindling.training.epoch_state import collected_by, restart_epoch
from src.kindling.training.loader_parts import is_stream
from src.kindling.training.repeatable import (
    OrderError,
    RepeatableSampler,
    Repeated,
)
from src.kindling.training.repeatable_dataset import RepeatableDataset
from src.kindling.training.repeatable_stream import RepeatableStream
from src.kindling.training.resume import ResumeState


class Loaders:
    """The loaders of a Trainer, after Lightning has shared them between processes.

    Args:
        seed: of the experiment.
        state: of a resumed training.
        max_fast_forward: a stream without `state_dict` is read again up to so many batches; beyond
            them, a resumed epoch starts again. None sets no limit.
    """

    def __init__(
        self, seed: int, state: ResumeState | None = None, max_fast_forward: int | None = None
    ) -> None:
        self.seed, self.state, self.max_fast_forward = seed, state, max_fast_forward
        self.saved_loaders: Iterator[dict[str, Any]] = iter(())  # of a resumed epoch
        self.rewinds: list[Callable[[], None]] = []  # of the loaders that continue within it
        self.attributes = Attributes({})  # of the module and its parts, once data are loaded
        self.at_start: dict[str, Any] | None = None  # when a stream without state was begun
        self.checkpoint: dict[str, Any] = {}  # that Lightning resumes from
        self.started = False

    def attach(self, trainer: Trainer) -> None:
        """Wrap the loaders that the Trainer is going to load; its strategy is changed."""
        self.trainer = trainer
        process = trainer.strategy.process_dataloader

        def process_dataloader(dataloader: object) -> object:
            if isinstance(dataloader, list | tuple) and not dataloader:
                return process(dataloader)  # Lightning warns of its class
            loader = self._repeat(process(dataloader))
            if trainer.state.stage == RunningStage.TRAINING:
                self._start()
                if self.state:
                    self._resume(loader, self.state)
            return loader

        trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
        convert = trainer.precision_plugin.convert_input

        def convert_input(data: Any) -> Any:
            if trainer.state.stage == RunningStage.TRAINING:
                self._seed_transfer()
            return convert(data)

        trainer.precision_plugin.convert_input = convert_input  # type: ignore[method-assign]

    def _seed_transfer(self) -> None:
        """Seed the draws of hooks such as `on_after_batch_transfer` for the next batch."""
        place = (*self.place(), self.trainer.global_rank, -6)
        seed_generators(derive_seed(self.seed, *place), self.trainer.strategy.root_device)

    def _start(self) -> None:
        """Record the module's attributes, and restore them before a stream is read."""
        if self.started:
            return
        self.started = True
        self.attributes = Attributes.of_training(self.trainer, self.trainer.lightning_module)
        if self.state:
            saved = self._saved(self.state)
            self.at_start = at_start = saved.get("at_start")
            self.attributes.restore(saved.get("attributes", {}) if at_start is None else at_start)
            self.saved_loaders = iter(saved.get("loaders", ()))

    def resumed_attributes(self) -> dict[str, Any]:
        """The attributes for `on_train_start`, when the first batches may have been read."""
        if self.state and self.state.position[1] and not self.state.restarted:
            attributes: dict[str, Any] = self._saved(self.state).get("attributes", {})
            return attributes
        return self.attributes.changed()

    def _repeat(self, loader: Any) -> Any:
        """Return the loader, repeatable; of a map-style DataLoader a copy."""
        if isinstance(loader, DataLoader) and isinstance(loader.sampler, BatchOrder):
            return loader  # it repeats by itself
        repeated = repeated_of(loader)
        if repeated is not None:  # its author returns the same one again
            repeated.follow(self)
        elif is_stream(loader):
            return RepeatableStream(loader, self)
        else:
            loader = copy.copy(loader)  # its author may return the same one for validation
            name = "sampler" if loader.batch_sampler is None else "batch_sampler"
            # Past DataLoader.__setattr__, which refuses: no iterator has been made yet.
            vars(loader)[name] = RepeatableSampler(getattr(loader, name), self, loader.dataset)
            vars(loader)["dataset"] = RepeatableDataset(loader.dataset)
        return loader

    def place(self) -> tuple[int, int]:
        """The epoch, and how many of its batches were trained on; validation is the same in all."""
        if self.trainer.state.stage != RunningStage.TRAINING:
            return 0, 0
        if self.state and not self.trainer.fit_loop.epoch_progress.current.ready:
            return self.state.position[0], 0  # before Lightning has restored it
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return self.trainer.current_epoch, batches.ready

    def _resume(self, loader: Any, state: ResumeState) -> None:
        """Continue a loader at its position, or start the epoch again with all loaders."""
        epoch = state.position[0]
        if self.trainer.current_epoch > epoch:
            return
        repeated = repeated_of(loader)
        part = loader.sampler if repeated is None else repeated
        name = "the samples" if repeated is None else repeated.name
        problem = ""
        try:
            self._continue(part, name, state)
        except OrderError as error:
            problem = str(error)
        if not self.trainer.strategy.reduce_boolean_decision(not problem, all=True):
            if self.trainer.is_global_zero:
                problem = problem or f"another process has other batches of {name}"
                print(f"WARNING    data: {problem}; epoch {epoch + 1} starts again")
            state.restarted = True
            restart_epoch(self.trainer, self.checkpoint)
            for rewind in self.rewinds:
                rewind()

    def _continue(self, loader: BatchOrder | Repeated, name: str, state: ResumeState) -> None:
        """Continue Kindling's order, a function of (seed, epoch), or a loader by its state."""
        epoch, batch = state.position
        if isinstance(loader, BatchOrder):
            self.rewinds.append(functools.partial(loader.resume_from, epoch, 0))
            if batch and not self._same_processes(state):
                raise OrderError(self._missing_state(name, state))
            loader.resume_from(epoch, 0 if state.restarted else batch)
            return
        self.rewinds.append(loader.rewind)
        saved = next(self.saved_loaders, None)
        if saved is None:
            if batch or loader.has_state:
                raise OrderError(self._missing_state(name, state))
        elif batch and not state.restarted:
            loader.resume(epoch, saved)
        else:
            loader.restore(saved)

    def _same_processes(self, state: ResumeState) -> bool:
        return len(state.content["kindling"]["resume"]["meters"]) == self.trainer.world_size

    def _saved(self, state: ResumeState) -> dict[str, Any]:
        """The state that this process saved; empty if the number of processes has changed."""
        if not self._same_processes(state):
            return {}
        return collected_by(state.content["kindling"]["resume"], self.trainer.global_rank)

    def _missing_state(self, name: str, state: ResumeState) -> str:
        if self._same_processes(state):
            return f"the checkpoint does not hold the place in {name}"
        before = len(state.content["kindling"]["resume"]["meters"])
        processes = format_count(before, "process", "processes")
        return f"{processes} shared {name} before, {self.trainer.world_size} do now"

    def announce(self, line: str) -> None:
        """Print how a stream resumes."""
        if self.trainer.is_global_zero:
            print(f"resumed: {line}", flush=True)

    def begin_stream(self) -> None:
        """Record the module's attributes: a resumed epoch is read again with them."""
        if self.trainer.state.stage == RunningStage.TRAINING:
            self.at_start = self.attributes.changed()

    def collect(self, batch: int) -> dict[str, Any]:
        """The state of the loaders after `batch` batches of the epoch; 0 at its end."""
        found = map(repeated_of, internals.training_loaders(self.trainer))
        return {
            "loaders": [loader.state(batch) for loader in found if loader is not None],
            "attributes": self.attributes.changed(),
            "at_start": self.at_start if batch else None,
        }

    def sample_numbers(self, epoch: int, batch: int) -> list[int]:
        """The sample numbers of a recent training batch; empty unless one loader has such."""
        loaders = internals.training_loaders(self.trainer)
        if len(loaders) != 1:
            return []
        if (repeated := repeated_of(loaders[0])) is None:
            indices = loaders[0].sampler.numbers(epoch, batch).tolist()
        else:
            indices = repeated.passed_until(batch + 1).indices
        numbers = isinstance(indices, list) and all(isinstance(index, int) for index in indices)
        return indices if numbers else []


def repeated_of(loader: Any) -> Repeated | None:
    """The wrapper of a loader; None for Kindling's own."""
    if isinstance(loader, RepeatableStream):
        return loader
    if isinstance(loader, DataLoader):
        for sampler in (loader.batch_sampler, loader.sampler):
            if isinstance(sampler, RepeatableSampler):
                return sampler
    return None
