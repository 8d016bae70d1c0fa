"""Words of Hydra, Ultralytics and LightningCLI, and what to write here instead."""

from __future__ import annotations

from typing import Any

BATCH_SIZE = "set data.batch_size={value}"
CONFIG = "name the config first: python -m src.train {value}"
EPOCHS = "set trainer.max_epochs={value}"
FOLDER = "leave it out: a run's folder is logs/<config>/<time>/, and name=… labels it"
LR = "set task.optimizer.lr={value}"
MANY = "use --seeds 0,1,2 for seeds, and python -m src.tune for other keys"
NET = "set net=mlp or net._target_=… for the net, and task.optimizer.lr=… for its training"
RUN = "--resume RUN continues a run, --init RUN starts from its weights"
SIZE = "set data.size={value}"
TEST = "--no-test leaves the test out, python -m src.evaluate RUN measures a run again"
TRAIN = "leave it out: python -m src.train [CONFIG] trains"
# By key, flag or subcommand; `{value}` is what was given.
HABITS = {
    "batch": BATCH_SIZE,
    "batch_size": BATCH_SIZE,
    "ckpt_path": RUN,
    "config": CONFIG,
    "debug": "set trainer=debug",
    "device": "set trainer=cpu, or trainer=gpu trainer.devices=[0] for the first GPU",
    "epochs": EPOCHS,
    "experiment": CONFIG,
    "fit": TRAIN,
    "hparams_search": "python -m src.tune [CONFIG] [SPACE] searches",
    "hydra": FOLDER,
    "img_size": SIZE,
    "imgsz": SIZE,
    "learning_rate": LR,
    "lr": LR,
    "lr0": LR,
    "m": MANY,
    "max_epochs": EPOCHS,
    "model": NET,
    "multirun": MANY,
    "optimizer": "set task.optimizer._target_=torch.optim.{value}",
    "predict": "python -m src.predict RUN INPUT predicts",
    "project": FOLDER,
    "resume": RUN,
    "seed_everything": "set seed={value}",
    "test": TEST,
    "train": TRAIN,
    "validate": TEST,
    "weight_decay": "set task.optimizer.weight_decay={value}",
    "workers": "set data.num_workers={value}",
}


def translate(word: str, value: Any = "…") -> str:
    """The hint `; set data.batch_size=32` for a word of another tool, else an empty string."""
    key = word.lstrip("-").replace("-", "_").partition(".")[0]
    return f"; {HABITS[key].format(value=value)}" if key in HABITS else ""
