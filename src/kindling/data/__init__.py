"""DataModules for images, tables and masks: split, order, preprocessing, augmentation, loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.kindling.exports import lazy_exports

if TYPE_CHECKING:
    from src.kindling.data.data_module import DataModule as DataModule
    from src.kindling.data.download import Archive as Archive
    from src.kindling.data.download import fetch as fetch
    from src.kindling.data.images.decode import convert as convert
    from src.kindling.data.images.image_folder import ImageFolder as ImageFolder
    from src.kindling.data.images.mask_folder import MaskFolder as MaskFolder
    from src.kindling.data.paths import data_path as data_path
    from src.kindling.data.preprocess import BatchTransform as BatchTransform
    from src.kindling.data.preprocess import InputStats as InputStats
    from src.kindling.data.preprocess import Standardize as Standardize
    from src.kindling.data.preprocess import build_preprocess as build_preprocess
    from src.kindling.data.samples import STAGES as STAGES
    from src.kindling.data.samples import Samples as Samples
    from src.kindling.data.samples import Stage as Stage
    from src.kindling.data.shards.describe import describe_shards as describe_shards
    from src.kindling.data.shards.describe import split_shards as split_shards
    from src.kindling.data.shards.files import KEY as KEY
    from src.kindling.data.shards.files import Rows as Rows
    from src.kindling.data.shards.loader import ShardLoader as ShardLoader
    from src.kindling.data.shards.loader import make_shard_loader as make_shard_loader
    from src.kindling.data.spec import Spec as Spec
    from src.kindling.data.tables.table import Table as Table

__getattr__ = lazy_exports(__name__, __file__)
