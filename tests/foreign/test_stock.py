"""Each foreign module is valid on its own: stock Lightning trains it from its yaml."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import lightning
import pytest
import yaml
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from tests.foreign.cases import CASES, CONFIGS, Case

# Lightning's advice about workers, epochs shorter than the logging interval, and the like.
pytestmark = [pytest.mark.filterwarnings("ignore")]
QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def build(node: Any, data: Any = None, **given: Any) -> Any:
    """Build a yaml node: nested `_target_`s, `_partial_`, and `${data.…}` after `setup`."""
    if isinstance(node, str) and node.startswith("${data."):
        return getattr(data, node.removeprefix("${data.").removesuffix("}"))
    if isinstance(node, list):
        return [build(item, data) for item in node]
    if not isinstance(node, dict):
        return node
    values = {key: build(value, data) for key, value in node.items()} | given
    if "_target_" not in values:
        return AttributeDict(values)  # modules may read it as a Namespace
    module, _, name = values.pop("_target_").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    partial = values.pop("_partial_", False)
    return functools.partial(target, **values) if partial else target(**values)


def build_pair(config: dict[str, Any]) -> tuple[Any, Any]:
    """The module and its data module, or None where the module has its own loaders."""
    data = build(config.get("data"))
    if "${data." in str(config["task"]):
        data.prepare_data()
        data.setup("fit")
    given = {"net": build(config["net"])} if "net" in config else {}
    return build(config["task"], data, **given), data


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stock_lightning_trains(case: Case, tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIGS / f"{case.name}.yaml").read_text(encoding="utf-8"))
    lightning.seed_everything(0, verbose=False)
    module, data = build_pair(config)
    loggers = [TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv")]
    is_old = not isinstance(module, lightning.LightningModule)  # imported as pytorch_lightning
    package = importlib.import_module("pytorch_lightning") if is_old else lightning
    trainer = package.Trainer(**config["trainer"], **QUIET, logger=loggers)
    trainer.fit(module, data)
    assert trainer.current_epoch == 2
    assert case.has_forward == (type(module).forward is not lightning.LightningModule.forward)
    assert case.has_test == (type(module).test_step is not lightning.LightningModule.test_step)
    own_predict_step = type(module).predict_step is not lightning.LightningModule.predict_step
    assert case.has_predict_step == own_predict_step
    assert case.has_validation == (sum(trainer.num_val_batches) > 0)
    assert case.monitor is None or case.monitor in trainer.callback_metrics
    assert set(case.logged) == {name for name in trainer.logged_metrics if name != "epoch"}
    if case.has_test:
        trainer.test(module, data, verbose=False)
    if case.columns:
        batches = trainer.predict(module, data)
        assert all(set(batch) == set(case.columns) for batch in batches)


def test_every_config_has_a_case() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(c.name for c in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_config_sets_ambiguous_monitor(case: Case) -> None:
    config = yaml.safe_load((CONFIGS / f"{case.name}.yaml").read_text(encoding="utf-8"))
    assert config.get("monitor") == (case.monitor if case.monitor_from_config else None)
