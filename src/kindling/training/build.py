"""Build the data and the task of a config."""

from __future__ import annotations

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
from src.kindling.data.data_module import DataModule
from src.kindling.data.preprocess import InputStats
from src.kindling.data.spec import Spec
from src.kindling.training.repeatable import seed_hooks, seeded
from src.kindling.training.speed import format_net

OF_DATA = re.compile(r"\$\{data\.(\w+)")


def build_data(config: Config) -> LightningDataModule | None:
    """The config's data; None if the task defines its loaders itself.

    Kindling's own data are downloaded and split. Of others the Trainer does this in its own time,
    unless the config names an attribute of the data (`${data.vocab_size}`).
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
    if used_attributes(config):
        data.prepare_data()
        data.setup("fit")
    return data


def used_attributes(config: Config) -> list[str]:
    """The attributes of the data that the config's net and task refer to: `${data.vocab_size}`."""
    texts = str([config.values.get(section) for section in ("net", "task")])
    return list(dict.fromkeys(OF_DATA.findall(texts)))


def attributes_of(config: Config, data: Any) -> dict[str, Any]:
    """The values of `used_attributes`, for checkpoints; those of a spec are saved with it."""
    names = [name for name in used_attributes(config) if name != "spec"]
    return {name: getattr(data, name) for name in names if hasattr(data, name)}


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
        data: after `build_data`; or, without it, what a checkpoint holds of it:
        spec: of the data, if it is Kindling's.
        attributes: the values of `${data.…}`.
        load_weights: whether a pretrained net gets its weights; not where a checkpoint's follow.
    """
    if data is not None and attributes is None:
        spec = getattr(data, "spec", None)
        known: Any = data
    else:
        known = SimpleNamespace(spec=spec, **(attributes or {}))
    given: dict[str, Any] = {"data": known}
    if isinstance(spec, Spec):
        given |= {"spec": spec, "in_shape": spec.in_shape, "num_outputs": spec.num_outputs}
    if config.values.get("net"):
        given["net"] = _build_net(config, data, given, load_weights)
    task: LightningModule = instantiate.build(config, "task", **given)
    return task


def _build_net(
    config: Config, data: LightningDataModule | None, given: dict[str, Any], load_weights: bool
) -> nn.Module:
    net: nn.Module = instantiate.build(config, "net", **given)
    spec = given.get("spec")
    if spec is not None:
        materialize_lazy_layers(net, spec)
    load: Any = getattr(net, "load_weights", None)
    if load_weights and load is not None:
        load()
    stats = getattr(net, "input_stats", None)
    if isinstance(stats, InputStats) and isinstance(data, DataModule):
        data.use_input_stats(stats)
    wants_plain_memory = get(config.values, "task.optimizer._target_") == "torch.optim.LBFGS"
    if spec is not None and spec.kind == "image" and not wants_plain_memory:
        format_net(net, instantiate.values(config).channels_last)
    return net


def materialize_lazy_layers(net: nn.Module, spec: Spec) -> None:
    """Give lazy layers (`nn.LazyLinear`) their sizes, which they take from their first input."""
    if not any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        return
    x = torch.zeros(2, *spec.in_shape)
    try:
        with torch.no_grad():
            net.eval()(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        message = str(error).partition("\n")[0]
        name = type(net).__name__
        raise InputError(
            f"net: {name} does not take these data: {tuple(x.shape)}: {message}"
        ) from error
    net.train()
