"""Fill in a config's defaults; build its data and its task."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn.parameter import is_lazy

from src.kindling.config import instantiate
from src.kindling.config.compose import Config, get
from src.kindling.config.errors import InputError
from src.kindling.config.targets import accepts_any, locate, parameters
from src.kindling.config.values import COMMAND_LINE
from src.kindling.data.data_module import DataModule
from src.kindling.data.preprocess import InputStats
from src.kindling.data.spec import Spec
from src.kindling.training.error_hints import explain
from src.kindling.training.seeding import seed_hooks, seeded

# Compiling takes about a minute, and a step of a small net 10 ms: it pays off above these steps.
WORTH_COMPILING = 20_000


def fill_defaults(config: Config) -> Config:
    """Fill in the defaults of plain values, so that another machine repeats the run."""
    values = dataclasses.asdict(instantiate.values(config))
    for key in ("monitor", "mode"):  # they follow from the task
        del values[key]
    missing = {key: value for key, value in values.items() if config.values.get(key) is None}
    return config.replaced(missing, origin="a default")


def choose_speed(config: Config, data: LightningDataModule | None) -> Config:
    """On a GPU, use bf16-mixed, and compile for long trainings, unless the config sets them."""
    gpu = get(config.values, "trainer.accelerator") in (None, "auto", "gpu", "cuda")
    gpu = gpu and torch.cuda.is_available()
    chosen: dict[str, Any] = {}
    if gpu and get(config.values, "trainer.precision") is None and torch.cuda.is_bf16_supported():
        chosen["trainer.precision"] = "bf16-mixed"
    if config.values["compile"] is None:
        epochs = get(config.values, "trainer.max_epochs") or 1
        limit = get(config.values, "trainer.max_steps") or -1
        steps = epochs * len(data.loader("train")) if isinstance(data, DataModule) else 0
        chosen["compile"] = gpu and (steps if limit < 0 else min(steps, limit)) > WORTH_COMPILING
    return config.replaced(chosen, origin="a default")


def build_data(config: Config) -> LightningDataModule | None:
    """The config's data; None if the task defines its loaders itself.

    Kindling's own data is downloaded and split. For other data the Trainer does this later, unless
    the config names an attribute of the data (`${data.vocab_size}`).
    """
    if not config.values.get("data"):
        return None
    values = instantiate.values(config)
    with seeded(values.seed):
        data: LightningDataModule = instantiate.build(
            config, "data", seed=values.seed, num_threads=values.num_threads
        )
    if isinstance(data, DataModule):
        with seeded(values.seed):
            data.prepare_data()
            data.setup()
        return data
    seed_hooks(data, values.seed)
    if _used_attributes(config):
        data.prepare_data()
        data.setup("fit")
    return data


def _used_attributes(config: Config) -> set[str]:
    sections = [config.values.get(section) for section in ("net", "task")]
    return set(re.findall(r"\$\{data\.(\w+)", str(sections)))


def attributes_of(config: Config, data: Any) -> dict[str, Any]:
    """The values of `${data.…}` in the config's net and task, for checkpoints.

    A spec is not among them: it is saved with the checkpoint.
    """
    names = sorted(_used_attributes(config) - {"spec"})
    return {name: getattr(data, name) for name in names if hasattr(data, name)}


def check_settings(config: Config, data: LightningDataModule | None) -> None:
    """Refuse settings without effect, and those that the Trainer refuses without their name.

    Raises:
        InputError: for the first such setting.
    """
    settings = config.values.get("trainer") or {}
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value, key = settings.get(name), f"trainer.{name}"
        if isinstance(value, int) and value < 1:
            problem = f"expected a number of at least 1, got {value}"
            raise InputError(f"{key}: {problem} ({config.origin(key)})")
    if (settings.get("overfit_batches") or 0) > 0 and isinstance(data, DataModule):
        key, size = "trainer.overfit_batches", data.batch_size
        problem = "Kindling's data have no fixed order; train on few samples instead"
        remedy = f"data.split=[{2 * size},{size},{size}] trainer.max_epochs=100"
        raise InputError(f"{key}: {problem}: {remedy} ({config.origin(key)})")
    task = locate(config.values["task"]["_target_"])
    if not accepts_any(task) and "net" not in parameters(task):
        for key, origin in config.origins.items():
            if key.startswith("net.") and origin == COMMAND_LINE:
                config.fail(key, f"{task.__name__} takes no net, so it has no effect; remove it")
    keys = ("data.sampler", "task.class_weights")
    if all(get(config.values, key) == "balanced" for key in keys):
        raise InputError(
            f"{' and '.join(keys)}: both are 'balanced', which corrects for rare classes twice; "
            "set only task.class_weights=balanced, or only data.sampler=balanced "
            f"({config.origin(keys[0])})"
        )


def build_task(
    config: Config,
    data: LightningDataModule | None = None,
    spec: Spec | None = None,
    attributes: dict[str, Any] | None = None,
    load_weights: bool = True,
) -> LightningModule:
    """The config's task around its net, untrained.

    Args:
        config: a config that `instantiate.check` has accepted.
        data: from `build_data`.
        spec, attributes: of Kindling's data, and the values of `${data.…}`: a checkpoint's.
        load_weights: whether a pretrained net loads its weights; False if a checkpoint's follow.
    """
    known: Any = data
    if data is None or attributes is not None:
        # A checkpoint holds plain values only; others are read from the data where they are loaded.
        known = SimpleNamespace(spec=spec, **(attributes_of(config, data) | (attributes or {})))
    spec = getattr(known, "spec", None)
    given: dict[str, Any] = {"data": known}
    if isinstance(spec, Spec):
        given |= {"spec": spec, "in_shape": spec.in_shape, "num_outputs": spec.num_outputs}
    if config.values.get("net"):
        net: nn.Module = instantiate.build(config, "net", **given)
        if isinstance(spec, Spec):
            _materialize_lazy_layers(net, spec)
        load: Any = getattr(net, "load_weights", None)
        if load_weights and load is not None:
            load()
        stats = getattr(net, "input_stats", None)
        if isinstance(stats, InputStats) and isinstance(data, DataModule):
            data.use_input_stats(stats)
        if isinstance(spec, Spec) and spec.kind == "image":
            _choose_memory_format(net, config)
        given["net"] = net
    task: LightningModule = instantiate.build(config, "task", **given)
    return task


def _materialize_lazy_layers(net: nn.Module, spec: Spec) -> None:
    """Give lazy layers (`nn.LazyLinear`) their sizes, which they take from their first input."""
    if not any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        return
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(2, *spec.in_shape))
    except Exception as error:
        if line := explain(error, {"net": net}):
            raise InputError(line) from error
        raise
    net.train()


def _choose_memory_format(net: nn.Module, config: Config) -> None:
    """Use channels_last for convolutions unless the config says otherwise: 1.5 times as fast."""
    if get(config.values, "task.optimizer._target_") == "torch.optim.LBFGS":
        return  # it needs contiguous weights
    chosen = instantiate.values(config).channels_last
    if chosen is None:
        chosen = any(isinstance(module, nn.Conv2d) for module in net.modules())
    if chosen:
        net.to(memory_format=torch.channels_last)
