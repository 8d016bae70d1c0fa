"""Build the data and the task of a config."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.nn.parameter import is_lazy

from src.kindling.config import instantiate
from src.kindling.config.compose import Config, get
from src.kindling.config.errors import InputError
from src.kindling.data.batch import BatchTransform
from src.kindling.data.data_module import DataModule
from src.kindling.data.preprocess import InputStats
from src.kindling.data.spec import Spec
from src.kindling.training.speed import format_net


def build_data(config: Config) -> DataModule:
    """The config's data, downloaded where it must be, and split; what they draw follows from the config's seed."""
    values = instantiate.values(config)
    with isolate_rng(include_cuda=False):  # which moves no other draws
        torch.manual_seed(values.seed)
        random.seed(values.seed)
        np.random.seed(values.seed)
        data: DataModule = instantiate.build(config, "data", seed=values.seed, threads=values.threads)
        data.prepare_data()
        data.setup()
    return data


def build_task(
    config: Config, spec: Spec, augment: Sequence[BatchTransform] = (), begin: bool = True
) -> LightningModule:
    """The config's task around its net, untrained.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        spec: of its data.
        augment: the data's transforms of training batches.
        begin: whether a net that begins with the weights of another training is given them (`load_weights`); not where
            a checkpoint's follow.
    """
    given = {"spec": spec, "in_shape": spec.in_shape, "num_outputs": spec.num_outputs}
    net = instantiate.build(config, "net", **given)
    materialize_lazy_layers(net, spec)
    if begin and hasattr(net, "load_weights"):
        net.load_weights()
    if isinstance(stats := getattr(net, "input_stats", None), InputStats):
        for transform in augment:
            transform.fit(stats.of(spec))
    if (
        spec.kind == "image" and get(config.values, "task.optimizer._target_") != "torch.optim.LBFGS"
    ):  # it wants plain memory
        format_net(net, instantiate.values(config).channels_last)
    task: LightningModule = instantiate.build(config, "task", net=net, augment=augment, **given)
    return task


def materialize_lazy_layers(net: nn.Module, spec: Spec) -> None:
    """Give lazy layers (`nn.LazyLinear`) their sizes, which they take from what they see first."""
    if not any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        return
    x = torch.zeros(2, *spec.in_shape)
    try:
        with torch.no_grad():
            net.eval()(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        message = str(error).partition("\n")[0]
        raise InputError(f"net: {type(net).__name__} does not take these data: {tuple(x.shape)}: {message}") from error
    net.train()
