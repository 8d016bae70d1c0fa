"""The imports of all trainings, for processes of the tests that fork from one that has done them."""

import atexit
import os

import lightning.pytorch.loggers  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import omegaconf  # noqa: F401
import pandas  # noqa: F401
import pydantic  # noqa: F401
import sklearn.datasets
import sklearn.metrics  # noqa: F401
import torch._dynamo
import torch.utils.tensorboard  # noqa: F401
import torchvision.transforms.v2  # noqa: F401


def end(first: int = os.getpid()) -> None:
    """End the process that others fork from without unloading torch, which prints what leaked."""
    if os.getpid() == first:
        os._exit(0)


atexit.register(end)
