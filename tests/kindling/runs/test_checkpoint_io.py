"""What a checkpoint holds: tensors and plain values, whatever a module keeps beside them."""

from __future__ import annotations

import csv
import enum
import functools
import io
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.training.checkpoint_io import plain
from src.kindling.training.trained_run import load_run
from src.nets.cnn import CNN
from tests.conftest import as_own_task, call, train


class Color(enum.Enum):
    RED = "red"


class Size(enum.StrEnum):
    SMALL = "small"


def test_plain_keeps_what_torch_loads_and_names_the_rest() -> None:
    state = nn.BatchNorm1d(2).state_dict()
    content = {
        "state_dict": state,
        "milestones": Counter([1, 1, 2]),
        "shape": torch.Size([2]),
        "half": torch.float16,
        "device": torch.device("cpu"),
        "net": nn.Linear(1, 1),
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "nested": {
            "color": Color.RED,
            "size": Size.SMALL,
            "loss": nn.MSELoss(),
            "path": Path("a/b"),
            3: [1, print],
        },
        "keys": {Color.RED: 1, int: 2, ("a", 1): 3},
        "number": np.float64(0.5),
        "config": OmegaConf.create({"a": [1, 2]}),
        "kind": dict,
        "pair": (1, {2}),
    }
    left_out: dict[str, str] = {}
    kept = plain(content, left_out)
    assert left_out == {
        "net": "Linear",
        "optimizer": "partial",
        "nested.loss": "MSELoss",
        "kind": "type",
        "nested.3.1": "builtin_function_or_method",
        "keys.<class 'int'>": "type",
    }
    assert kept["state_dict"]._metadata == state._metadata
    assert all(kept["state_dict"][name] is value for name, value in state.items())
    assert (kept["milestones"], type(kept["milestones"])) == (content["milestones"], Counter)
    assert kept["nested"] == {"color": "red", "size": "small", "path": "a/b", 3: [1]}
    assert kept["keys"] == {"red": 1, ("a", 1): 3}
    assert (kept["number"], type(kept["number"]), kept["config"]) == (0.5, float, {"a": [1, 2]})
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert isinstance(loaded["state_dict"], OrderedDict)
    assert {**loaded, "state_dict": None} == {**kept, "state_dict": None}


class Masked(Tensor):
    """A tensor of a class that torch does not load from a checkpoint."""


def test_unloadable_weights_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"checkpoint: state_dict\.weight \(Masked\) cannot be loaded again"
    ):
        plain({"state_dict": {"weight": torch.ones(2).as_subclass(Masked)}}, {})


class Keeping(LightningModule):
    """Keeps all of its arguments, as most public modules do."""

    monitor, mode = "val/loss", "min"

    def __init__(
        self,
        net: nn.Module,
        rate: float = 0.1,
        loss: nn.Module | None = None,
        size: str = "small",
        api_key: str = "",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net, self.loss = net, loss or nn.CrossEntropyLoss()

    def step(self, batch: Any) -> Tensor:
        loss: Tensor = self.loss(self.net(batch[0].float()), batch[1])
        return loss

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", self.step(batch), batch_size=len(batch[1]))

    def test_step(self, batch: Any, number: int) -> None:
        self.log("test/loss", self.step(batch), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate: Any = self.hparams["rate"]
        return torch.optim.SGD(self.parameters(), lr=rate)


def test_module_with_saved_hyperparameters_is_resumed_and_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        as_own_task(Keeping, monkeypatch),
        "task.rate=0.05",
        "task.loss={_target_: torch.nn.CrossEntropyLoss}",
        "task.api_key=${oc.env:PLANTED}",
    ]
    secret = "tr0ub" + "4dor"  # diff.patch holds this file where it is not committed
    monkeypatch.setenv("PLANTED", secret)
    run = train("digits", *words).run
    files = [file for file in run.path.rglob("*") if file.is_file()]
    assert [file.name for file in files if secret.encode() in file.read_bytes()] == []
    output = capsys.readouterr().out
    line = (
        "checkpoint: hyper_parameters.net (CNN), hyper_parameters.loss (CrossEntropyLoss) left "
        "out, neither"
    )
    assert output.count(line) == 1
    call("train", "--resume", str(run.path), "trainer.max_epochs=4")
    with (run.path / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file) if row["val/loss"]] == [
            "1",
            "2",
            "3",
            "4",
        ]
    run = load_run(run.path)
    assert run.checkpoint["hyper_parameters"] == {"rate": 0.05, "size": "small", "api_key": "***"}
    net = CNN(run.spec.in_shape, run.spec.num_outputs)
    loaded = Keeping.load_from_checkpoint(run.checkpoint_file, net=net, loss=nn.CrossEntropyLoss())
    assert loaded.hparams["rate"] == 0.05
    assert all(
        torch.equal(one, two)
        for one, two in zip(loaded.parameters(), run.task.parameters(), strict=True)
    )


class KeepingConfig(Keeping):
    """Keeps a config of OmegaConf, as modules written for Hydra do."""

    def __init__(self, net: nn.Module, cfg: Any) -> None:
        super(Keeping, self).__init__()
        self.rate = getattr(cfg, "rate", None)
        cfg = OmegaConf.create({"rate": cfg["rate"]})
        self.save_hyperparameters(cfg)
        self.net, self.loss = net, nn.CrossEntropyLoss()


def test_saved_omegaconf_is_loaded_by_lightning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("digits", as_own_task(KeepingConfig, monkeypatch), "task.cfg={rate: 0.05}").run
    assert "left out" not in capsys.readouterr().out
    run = load_run(run.path)
    net = CNN(run.spec.in_shape, run.spec.num_outputs)
    loaded = KeepingConfig.load_from_checkpoint(run.checkpoint_file, net=net)
    assert loaded.rate == 0.05  # an attribute, as the module's author expects
    assert torch.equal(loaded.net.head.bias, run.task.net.head.bias)
