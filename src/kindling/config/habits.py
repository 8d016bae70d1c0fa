"""Words of Hydra, Ultralytics and LightningCLI, and what to write here instead."""

from __future__ import annotations

from typing import Any

BATCH_SIZE = "set data.batch_size={value}"
CONFIG = "name the config first: python -m src.train {value}"
DEVICES = "set trainer.devices={value}"
EPOCHS = "set trainer.max_epochs={value}"
FOLDER = "leave it out: a run's folder is logs/<config>/<time>/, and name=… labels it"
LR = "set task.optimizer.lr={value}"
MANY = "use --seeds 0,1,2 for seeds, and python -m src.tune for other keys"
NET = "set task._target_=… for a LightningModule; net=mlp or net._target_=… for a net alone"
OPTIMIZER = "set task.optimizer._target_=torch.optim.{value}"
RUN = "--resume RUN continues a run, --init RUN starts from its weights"
SCHEDULE = "set task.scheduler._target_=torch.optim.lr_scheduler.StepLR task.scheduler.step_size=10"
SIZE = "set data.size={value}"
TEST = "--no-test leaves the test out, python -m src.evaluate RUN measures a run again"
STOP = "lightning.pytorch.callbacks.EarlyStopping callbacks.stop.patience={value}"
TRAIN = "remove it; train with python -m src.train [CONFIG]"
WORKERS = "set data.num_workers={value}"
# As other tools write them: adam, adamw, sgd.
OPTIMIZERS = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"]
# By key, flag or subcommand; `{value}` is what was given.
HABITS = {
    "accelerator": "set trainer.accelerator={value}",
    "amp": "set trainer.precision=16-mixed",
    "b": BATCH_SIZE,
    "batch": BATCH_SIZE,
    "batch_size": BATCH_SIZE,
    "ckpt_path": RUN,
    "config": CONFIG,
    "debug": "set trainer=debug",
    "device": "set trainer=cpu, or trainer=gpu trainer.devices=[0] for the first GPU",
    "epoch": EPOCHS,
    "epochs": EPOCHS,
    "devices": DEVICES,
    "early_stopping": f"set callbacks.stop._target_={STOP.partition(' ')[0]}",
    "experiment": CONFIG,
    "fit": TRAIN,
    "gpus": DEVICES,
    "hparams_search": "python -m src.tune [CONFIG] [SPACE] searches",
    "hydra": FOLDER,
    "img_size": SIZE,
    "imgsz": SIZE,
    "j": WORKERS,
    "learning_rate": LR,
    "lr": LR,
    "lr0": LR,
    "lr_scheduler": SCHEDULE,
    "m": MANY,
    "max_epochs": EPOCHS,
    "model": NET,
    "multirun": MANY,
    "no_plots": "--no-pictures writes neither plots/ nor report.html",
    "num_epochs": EPOCHS,
    "num_workers": WORKERS,
    "opt": OPTIMIZER,
    "optimizer": OPTIMIZER,
    "patience": f"set callbacks.stop._target_={STOP}",
    "precision": "set trainer.precision={value}",
    "predict": "python -m src.predict RUN INPUT predicts",
    "project": FOLDER,
    "resume": RUN,
    "resume_from_checkpoint": RUN,
    "sched": SCHEDULE,
    "scheduler": SCHEDULE,
    "seed": "set seed={value}, or --seeds 0,1,2 for several",
    "seed_everything": "set seed={value}",
    "test": TEST,
    "train": TRAIN,
    "validate": TEST,
    "weight_decay": "set task.optimizer.weight_decay={value}",
    "workers": WORKERS,
}


def translate(word: str, value: Any = "…") -> str:
    """The hint `; set data.batch_size=32` for a word of another tool, else an empty string."""
    key = word.lstrip("-").replace("-", "_").partition(".")[0]
    if len(key) == 1 and not word.startswith("-"):
        return ""  # a letter is a flag, or a name like any other
    if HABITS.get(key) == OPTIMIZER:
        value = {name.lower(): name for name in OPTIMIZERS}.get(str(value).lower(), value)
    value = "…" if isinstance(value, dict) else value
    return f"; {HABITS[key].format(value=value)}" if key in HABITS else ""
