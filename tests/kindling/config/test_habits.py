"""Words of Hydra, Ultralytics and LightningCLI, met with those of this template."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.kindling.config import compose as config_module
from src.kindling.config.habits import HABITS, translate
from tests.conftest import checked, mistakes


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["batch_size=32"], ["batch_size: no such section; set data.batch_size=32 (command line)"]),
        (["epochs=3"], ["epochs: no such section; set trainer.max_epochs=3 (command line)"]),
        (["imgsz=64"], ["imgsz: no such section; set data.size=64 (command line)"]),
        (
            ["lr=0.1"],
            ["lr: no such section; did you mean 'task.optimizer.lr'? (command line)"],
        ),
        (
            ["device=0"],
            [
                "device: no such section; set trainer=cpu, or trainer=gpu trainer.devices=[0] for "
                "the first GPU (command line)"
            ],
        ),
        (
            ["model.lr=1"],
            [
                "model.lr: no such section; set net=mlp or net._target_=… for the net, and "
                "task.optimizer.lr=… for its training (command line)"
            ],
        ),
        (
            ["experiment=digits"],
            [
                "experiment: no such section; name the config first: python -m src.train digits "
                "(command line)"
            ],
        ),
        (
            ["hydra.run.dir=x"],
            [
                "hydra.run.dir: no such section; leave it out: a run's folder is "
                "logs/<config>/<time>/, and name=… labels it (command line)"
            ],
        ),
        (
            ["+trainer.precision=16"],
            [
                "+trainer.precision=16: every argument can be set as it is: trainer.precision=16 "
                "(command line)"
            ],
        ),
        (
            ["~logger"],
            [
                "~logger: not a key of a config; null removes a part or value: logger=null "
                "(command line)"
            ],
        ),
        (["fit"], ["fit: not a config; leave it out: python -m src.train [CONFIG] trains"]),
        (
            ["fit", "--config", "configs/digits.yaml"],
            [
                "--config: no such flag; name the config first: python -m src.train configs/digits.yaml"
            ],
        ),
        (
            ["-m", "seed=1,2"],
            [
                "-m: no such flag; use --seeds 0,1,2 for seeds, and python -m src.tune for other keys"
            ],
        ),
        (
            ["--lr", "0.1", "--batch-size=32"],
            [
                "--lr: no such flag; set task.optimizer.lr=0.1",
                "--batch-size: no such flag; set data.batch_size=32",
            ],
        ),
    ],
)
def test_habit_is_met(words: list[str], lines: list[str]) -> None:
    assert mistakes("train", *words) == lines


def test_habit_in_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yaml").write_text("epochs: 3\n")
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path / "configs")
    assert mistakes("train", "a") == [
        "epochs: no such section; set trainer.max_epochs=3 (configs/a.yaml)"
    ]


def test_remedies_are_accepted() -> None:
    """Each `key=value` that is recommended can be set."""
    values = {"imgsz": 64, "img_size": 64, "optimizer": "SGD", "model": "mlp"}
    found = set()
    for word in HABITS:
        for setting in re.findall(r"[\w.]+=[^ ,…]+", translate(word, values.get(word, 1))):
            if "…" not in setting:
                found.add(setting)
    assert {"data.size=64", "trainer.max_epochs=1", "net=mlp"} <= found
    for setting in found - {"trainer=gpu", "name="}:
        checked("image_folder", setting, "data.root=cards")
    checked("digits", "callbacks=null", "logger=null", "trainer.max_epochs=null")
