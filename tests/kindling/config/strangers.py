"""Classes as other people write them: without annotations, with wrong ones, with `**kwargs`."""

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Optional

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn

if TYPE_CHECKING:
    from somewhere import Vocabulary

lr_scheduler: ModuleType = torch.optim.lr_scheduler


class Untyped(LightningModule):
    def __init__(self, net, optimizer, scheduler=None, compile=False):
        super().__init__()
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler


class WronglyTyped(LightningModule):
    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler,
        sizes: [int] = (1,),
        vocabulary: "Vocabulary" = None,
        criterion: Optional["nn.Module"] = None,
        anything: any = None,  # noqa: RUF013
        width: int = 1,
    ) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler
        self.sizes, self.criterion = sizes, criterion


class WronglyTypedStrings(LightningModule):
    def __init__(self, optimizer: "torch.optim.Optimizer", scheduler: "lr_scheduler", width: "int"):
        super().__init__()
        self.optimizer, self.scheduler, self.width = optimizer, scheduler, width


class Open(LightningModule):
    def __init__(self, vocab_size, **kwargs):
        super().__init__()
        self.vocab_size, self.kwargs = vocab_size, kwargs


class Words(LightningDataModule):
    def __init__(self, batch_size=2, **kwargs):
        super().__init__()
        self.batch_size = batch_size

    @functools.cached_property
    def vocabulary(self):
        return {"a": 0, "b": 1}

    @property
    def vocab_size(self):
        return torch.tensor(len(self.vocabulary))


class Sized(nn.Module):
    def __init__(self, in_shape, num_outputs):
        super().__init__()
        self.size = (*in_shape, num_outputs)
