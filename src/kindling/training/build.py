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
from src.kindling.training.seeded import seed_hooks, seeded


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
        load_weights: whether a pretrained net loads its weights; False if a checkpoint's follow.
    """
    known: Any = data
    if data is None or attributes is not None:
        known = SimpleNamespace(spec=spec, **(attributes or {}))
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
    x = torch.zeros(2, *spec.in_shape)
    try:
        with torch.no_grad():
            net.eval()(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        message = str(error).partition("\n")[0]
        line = f"net: {type(net).__name__} does not accept {tuple(x.shape)}: {message}"
        raise InputError(f"{line}; check the sizes of its layers") from error
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
