"""Nothing of validation or test samples reaches training, whatever the data: spoil them, and training stays the same."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageOps

from src.kindling.config.compose import ROOT, compose, configs, get
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Samples
from src.kindling.runs.checkpoint_file import read_checkpoint
from src.kindling.training.build import build_data
from tests.conftest import FEW_SCENES, checked, has_samples, train


def spoil_rows(path: Path, held: list[int]) -> None:
    """Other numbers, other levels, missing values where training has none: in some rows of a CSV file."""
    frame = pd.read_csv(path)
    for name in frame.columns:
        if name == "fur":
            frame.loc[held, name] = "never seen"
        elif frame[name].dtype != bool and name != "kind":
            frame[name] = frame[name].astype(float)
            frame.loc[held, name] = 1e6
    frame.loc[held[::2], frame.columns[0]] = np.nan
    frame.to_csv(path, index=False)


def spoil_pictures(data: DataModule, root: Path, held: list[int]) -> None:
    for index in held:
        path = root / data.samples.name(index)
        with Image.open(path) as picture:
            size, mode = picture.size, picture.mode
        Image.new(mode, size, "white").save(path)


def spoil_samples(
    load: Callable[[DataModule], Samples], held: list[int]
) -> Callable[[DataModule], Samples]:
    """A `load` that gives other pixels or numbers, and other values to predict, where training must not look."""

    def spoiled(self: DataModule) -> Samples:
        samples = load(self)
        assert isinstance(samples.x, torch.Tensor)
        assert isinstance(samples.y, torch.Tensor)
        x, y = samples.x.clone(), samples.y.clone()
        x[held] = 255 if x.dtype is torch.uint8 else 1e6
        if (
            samples.target_type == "values"
        ):  # a class decides where a sample goes, so that each split has its share
            y[held] = 1e6
        if samples.target_type == "mask":
            y[held] = y[held].flip(1)
        return dataclasses.replace(samples, x=x, y=y)

    return spoiled


def animals(path: Path) -> None:
    """A table of every kind of column, in which training misses some weights and no height."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "height": draw.normal(size=200),
            "weight": draw.normal(size=200),
            "tame": draw.random(200) > 0.5,
            "fur": draw.choice(["short", "long", "none"], 200),
        }
    )
    frame.loc[::7, "weight"] = np.nan
    frame.assign(kind=np.where(frame["height"] > 0, "cat", "dog")).to_csv(path, index=False)


# Of the same code as another: not each time.
TWINS = {"cifar10", "cifar100", "fashion_mnist", "image_folder", "multilabel", "localization"}
# Those with data of src/data; shards are in tests/data/test_shards.py: whole files.
OWN = [name for name in configs() if has_samples(name)]
NAMES = [
    pytest.param(name, marks=pytest.mark.long) if name in TWINS else name
    for name in [*OWN, "animals"]
    if name != "shards"
]


@pytest.mark.parametrize("name", NAMES)
def test_held_out_samples_do_not_change_training(
    name: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "trainer.max_epochs=1",
        *([FEW_SCENES] if name in ("segmentation", "multilabel", "localization") else []),
    ]
    if name == "table":
        table = tmp_path / "houses.csv"
        table.write_text((small_data / "houses.csv").read_text())
        words += [f"data.path={table}", "data.target=price"]
    if name == "animals":
        animals(table := tmp_path / "animals.csv")
        name, words = "table", [*words, f"data.path={table}", "data.target=kind"]
    if name == "image_folder":
        shutil.copytree(small_data / "cards", tmp_path / "cards")
        words += [f"data.root={tmp_path / 'cards'}"]
    if name == "mask_folder":
        shutil.copytree(small_data / "scans", tmp_path / "scans")
        words += [f"data.root={tmp_path / 'scans'}"]
    data = build_data(checked(name, *words))
    held = torch.cat([data.indices["val"], data.indices["test"]]).tolist()
    assert len(held) > 20
    before = train(name, *words)
    if name == "table":
        spoil_rows(table, held)
    elif name == "image_folder":
        spoil_pictures(data, tmp_path / "cards", held)
    elif name == "mask_folder":
        spoil_pictures(data, tmp_path / "scans" / "images", held)
        for index in held[::2]:
            mask = (tmp_path / "scans" / "masks" / data.samples.name(index)).with_suffix(".png")
            ImageOps.mirror(Image.open(mask)).save(mask)
    else:
        monkeypatch.setattr(type(data), "load", spoil_samples(type(data).load, held))
    after = train(name, *words)
    assert after.run.spec == before.run.spec
    states = [
        read_checkpoint(result.run.checkpoints / "last.ckpt")["state_dict"]
        for result in (before, after)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    losses = [pd.read_csv(result.run.path / "metrics.csv") for result in (before, after)]
    assert losses[0]["train/loss"].tolist() == losses[1]["train/loss"].tolist()
    assert losses[0]["val/loss"].tolist() != losses[1]["val/loss"].tolist()


def test_all_data_modules_are_in_configs() -> None:
    there = set()
    for path in (ROOT / "src" / "data").glob("*.py"):
        module = importlib.import_module(f"src.data.{path.stem}")
        there |= {
            f"{part.__module__}.{name}"
            for name, part in vars(module).items()
            if isinstance(part, type)
            and issubclass(part, LightningDataModule)
            and part.__module__.startswith("src.data.")
        }
    assert there == {
        target
        for name in configs()
        if (target := get(compose(name).values, "data._target_") or "").startswith("src.data.")
    }
