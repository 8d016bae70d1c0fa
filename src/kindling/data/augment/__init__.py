"""Random transforms of whole training batches, on the training device, after preprocessing.

A config names them in `data.train_transforms`, next to torchvision's, which transform single
samples in the workers. Names and arguments are torchvision's. Each sample gets its own draw from
torch's generator, which is seeded for each batch (training/repeatable.py). Consecutive
geometric transforms are composed into one resampling. Empty areas are 0, the mean of the
standardized data.
"""

from __future__ import annotations

from src.kindling.data.augment.base import BatchTransform as BatchTransform
from src.kindling.data.augment.color import ColorJitter as ColorJitter
from src.kindling.data.augment.color import RandomErasing as RandomErasing
from src.kindling.data.augment.geometric import Geometric as Geometric
from src.kindling.data.augment.geometric import RandomAffine as RandomAffine
from src.kindling.data.augment.geometric import RandomCrop as RandomCrop
from src.kindling.data.augment.geometric import RandomHorizontalFlip as RandomHorizontalFlip
from src.kindling.data.augment.geometric import RandomResizedCrop as RandomResizedCrop
from src.kindling.data.augment.geometric import RandomRotation as RandomRotation
from src.kindling.data.augment.geometric import RandomVerticalFlip as RandomVerticalFlip
from src.kindling.data.augment.geometric import Resample as Resample
from src.kindling.data.augment.geometric import compose as compose
from src.kindling.data.augment.mixing import CutMix as CutMix
from src.kindling.data.augment.mixing import MixUp as MixUp
