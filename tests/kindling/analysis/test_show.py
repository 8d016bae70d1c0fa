"""`--show` and `--dry-run` of src.train: the config with origins, the net, the stages; no run is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.kindling.analysis.show import _annotate
from src.kindling.config import compose as compose_module
from src.kindling.config import instantiate
from src.kindling.config.compose import CONFIGS, ROOT, compose, flatten
from src.kindling.config.defaults import with_defaults
from src.kindling.training.build import fill_defaults
from src.kindling.training.rehearsal import Stages
from tests.conftest import as_own_task, call, folders, mistakes

WORDS = ("task.optimizer.lr=0.1", 'name="1e-4"', "num_threads=1", "trainer.accelerator=cpu")
CROP = "data.train_transforms=[{_target_: src.kindling.data.augment.RandomCrop, padding: 1}]"


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    call("train", *argv)
    return capsys.readouterr().out


def comment(text: str, line: str) -> str:
    """The comment behind the line of a value."""
    (found,) = [one for one in text.splitlines() if one.strip().startswith(line)]
    return found.partition("  # ")[2]


def as_lists(values: Any) -> Any:
    """Values as YAML has them, without tuples."""
    return json.loads(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "words"), [("digits", (*WORDS, CROP)), ("diabetes", (*WORDS, "seed=3"))]
)
def test_printed_config_is_yaml_that_composes_to_the_same(
    name: str,
    words: tuple[str, ...],
    logs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, name, *words, "--show")
    config = compose(name, words)
    assert folders(logs) == []
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "shown.yaml").write_text(text)
    monkeypatch.setattr(compose_module, "CONFIGS", tmp_path / "configs")
    again = compose("shown")
    instantiate.check(again)
    assert again.values == yaml.safe_load(text)
    assert flatten(config.values).items() <= flatten(again.values).items()
    expected = with_defaults(fill_defaults(config).values) | {"compile": False}
    assert as_lists(expected) == again.values


def test_each_value_has_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "digits", "task.optimizer.lr=0.1", CROP, "--show")
    assert comment(text, "lr: 0.1") == "command line"
    assert comment(text, "padding: 1") == "command line"
    assert comment(text, "max_epochs: 15") == "configs/digits.yaml"
    assert comment(text, "_target_: src.nets.cnn.CNN") == "configs/net/cnn.yaml"
    assert comment(text, "channels: [32, 64]") == "default"
    assert comment(text, "split: [0.7, 0.15, 0.15]") == "default"
    assert comment(text, "checkpoint_minutes: 10.0") == "default"
    assert comment(text, "num_threads: ") == "chosen for this machine"


def test_values_stay_what_they_are() -> None:
    values: dict[str, Any] = {
        "a": "1e-4",
        "b": 1e-5,
        "c": "x\n\ny",
        "d": [1, "2"],
        "e": {},
        "f": [{"g": None}],
    }
    text = "\n".join(_annotate(values, lambda key, _: f"of {key}"))
    assert yaml.safe_load(text) == values
    assert "a: '1e-4'" in text
    assert comment(text, "- g: null") == "of f.0.g"
    assert comment(text, "d: [1, '2']") == "of d"
    (line,) = _annotate({"a": (torch.float32,)}, lambda *_: "default")
    assert line.split() == ["a:", "[torch.float32]", "#", "default"]


def test_net_is_counted_and_has_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "digits", *WORDS, "--show").splitlines()
    assert "# CNN: 29,162 parameters, 29,162 trainable" in lines
    assert "#   head: 10,250 parameters, 10,250 trainable" in lines
    assert any(line.split()[1:5] == ["net.head", "Linear", "10", "10,250"] for line in lines)
    assert not any(line.startswith("# train: ") for line in lines)


def test_page_shows_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "how-to" / "edit-configs.md").read_text().partition("## Completion")[0]
    block = [line[4:] for line in page.splitlines() if line.startswith("    ")]
    lines = [line for line in block if "…" not in line and "python -m" not in line]
    printed = shown(capsys, "digits", "net.dropout=0.1", "--dry-run").splitlines()
    assert len(lines) > 15
    assert [line for line in lines if line not in printed] == []


def test_dry_run_names_batches_and_metrics(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "diabetes", *WORDS, "--dry-run").splitlines()
    batch = "batch (13, 10) float32, (13, 1) float32"
    stages = [line for line in lines if ": passed; " in line]
    assert stages[0] == f"# train: passed; {batch}; logged train/loss, train/mae"
    assert stages[1].startswith(f"# validate: passed; {batch}; logged val/loss, ")
    assert stages[2].startswith(f"# test: passed; {batch}; logged test/loss, ")
    assert lines[-1] == "# monitor: val/loss"
    assert folders(logs) == []


def test_batches_of_several_loaders() -> None:
    stages, trainer = Stages(), Trainer(logger=False, enable_checkpointing=False)
    trainer.state.stage = RunningStage.VALIDATING
    for _ in range(2):  # with a few samples, and with whole batches where these fail
        for loader, size in enumerate((6, 5)):
            stages.on_validation_batch_start(trainer, Foreign(), torch.ones(size, 1), 0, loader)
    assert stages.batches == {"validate": ["(6, 1) float32", "(5, 1) float32"]}


class Foreign(LightningModule):
    """A module of its own data, which logs one metric of validation."""

    def __init__(self, width: int = 3, fails: bool = False) -> None:
        super().__init__()
        self.body, self.fails = nn.Linear(4, width), fails

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.body(batch["x"]).square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.fails:
            raise ValueError("a mistake of the task")
        self.log("val_error", self.body(batch["x"]).mean())

    def train_dataloader(self) -> Any:
        return DataLoader([{"x": torch.ones(4)} for _ in range(8)], batch_size=2)

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


FOREIGN = ("digits", "data=null", "net=null", "num_threads=1", "trainer.accelerator=cpu")


def test_dry_run_of_foreign_module(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = as_own_task(Foreign, monkeypatch)
    lines = shown(capsys, *FOREIGN, task, "task.width=5", "--dry-run").splitlines()
    assert "# Foreign: 25 parameters, 25 trainable" in lines
    assert "# train: passed; batch (2, 4) float32; logged nothing" in lines
    assert "# validate: passed; batch (2, 4) float32; logged val_error" in lines
    assert lines[-1] == "# monitor: val_error"
    with pytest.raises(ValueError, match="a mistake of the task"):
        shown(capsys, *FOREIGN, task, "task.fails=true", "--dry-run")
    assert capsys.readouterr().out == ""
    assert folders(logs) == []


def test_mistakes_are_those_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["net.chanels=[8]"], ["monitor=val/acuracy"], ["task=segmentation"]):
        found = mistakes("train", "digits", *WORDS, *words, "--dry-run")
        assert found == mistakes("train", "digits", *WORDS, *words)
        assert len(found) == 1
    assert "parameters" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ("--show", "--resume", "latest"),
            "--resume: has no effect with --show; remove one of them",
        ),
        (
            ("--dry-run", "--init", "latest"),
            "--init: has no effect with --dry-run; remove one of them",
        ),
        (
            ("--show", "--by-order"),
            "--by-order: has no effect with --show; remove one of them",
        ),
        (("--show", "--seeds", "0,1"), "--show: has no effect with --seeds; remove one of them"),
        (("--dry-run", "--find", "lr"), "--dry-run: has no effect with --find; remove one of them"),
        (("--show", "--dry-run"), "--dry-run: has no effect with --show; remove one of them"),
    ],
)
def test_flags_that_exclude_each_other(flags: tuple[str, ...], line: str) -> None:
    assert mistakes("train", "digits", *flags) == [line]
