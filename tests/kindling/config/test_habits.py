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
        (["--epoch", "3"], ["--epoch: no such flag; set trainer.max_epochs=3"]),
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
                "model.lr: no such section; set task._target_=… for a LightningModule; net=mlp or "
                "net._target_=… for a net alone (command line)"
            ],
        ),
        (
            ["optimizer={class_path: torch.optim.SGD}"],
            [
                "optimizer: no such section; set task.optimizer._target_=torch.optim.… "
                "(command line)"
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
        (
            ["optimizer=adamw"],
            [
                "optimizer: no such section; set task.optimizer._target_=torch.optim.AdamW (command line)"
            ],
        ),
        (
            ["patience=5"],
            [
                "patience: no such section; set callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping "
                "callbacks.stop.patience=5 (command line)"
            ],
        ),
        (
            ["-b", "32", "--sched", "cosine"],
            [
                "-b: no such flag; set data.batch_size=32",
                "--sched: no such flag; set task.scheduler._target_=torch.optim.lr_scheduler.StepLR "
                "task.scheduler.step_size=10",
            ],
        ),
        (
            ["--no-pictures", "--seed", "3"],
            [
                "--no-pictures: no such flag; --no-plots writes neither plots/ nor report.html",
                "--seed: no such flag; set seed=3, or --seeds 0,1,2 for several",
            ],
        ),
        (
            ["callbacks=early_stopping"],
            [
                "callbacks: expected named parts, each with its '_target_', got 'early_stopping' (command line)"
            ],
        ),
        (["fit"], ["fit: not a config; remove it; train with python -m src.train [CONFIG]"]),
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


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("gpus=1", "set trainer.devices=1"),
        ("max_nb_epochs=3", "set trainer.max_epochs=3"),
        ("distributed_backend=ddp", "set trainer.strategy=ddp"),
        (
            "resume_from_checkpoint=a.ckpt",
            "--resume RUN continues a run, --init RUN starts from its weights",
        ),
        ("auto_lr_find=true", "--find lr finds a learning rate"),
        ("auto_scale_batch_size=true", "--find batch_size finds a batch size"),
        ("checkpoint_callback=true", "remove it; checkpoints are always written"),
        ("weights_summary=full", "remove it; --show prints the net"),
        ("progress_bar_refresh_rate=5", "remove it; a terminal shows the progress"),
    ],
)
def test_argument_of_an_older_trainer(word: str, fix: str) -> None:
    name = word.partition("=")[0]
    (line,) = mistakes("train", "digits", f"trainer.{word}")
    assert line == f"trainer.{name}: Trainer has no argument '{name}'; {fix} (command line)"


def test_habit_in_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yaml").write_text("epochs: 3\n")
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path / "configs")
    assert mistakes("train", "a") == [
        "epochs: no such section; set trainer.max_epochs=3 (configs/a.yaml)"
    ]


def test_remedies_are_accepted() -> None:
    """Each `key=value` that is recommended can be set."""
    values = {"imgsz": 64, "img_size": 64, "model": "mlp", "accelerator": "cpu"}
    values |= {
        "strategy": "ddp",
        "distributed_backend": "ddp",
        "optimizer": "SGD",
        "opt": "adam",
        "precision": "bf16-mixed",
    }
    found = set()
    for word in HABITS:
        text = translate(f"--{word}", values.get(word, 1))
        for settings in re.findall(r"(?:[\w.]+=[^ ,…]+ ?)+", text):
            if "_target_=…" not in text or "_target_" not in settings:
                found.add(settings.strip())
    assert {"data.size=64", "trainer.max_epochs=1", "net=mlp"} <= found
    for settings in found - {"trainer=gpu", "name="}:
        checked("image_folder", *settings.split(), "data.root=cards")
    checked("digits", "callbacks=null", "logger=null", "trainer.max_epochs=null")
