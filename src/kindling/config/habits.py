"""Words of Hydra, Ultralytics, LightningCLI and older Lightning, and what to write here instead."""

from __future__ import annotations

from typing import Any

OPTIMIZER = "set task.optimizer._target_=torch.optim.{value}"
STOP = "set callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping"
SCHEDULER = "set task.scheduler._target_=torch.optim.lr_scheduler.StepLR"
# As other tools write them: adam, adamw, sgd.
OPTIMIZERS = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"]
# For each hint the keys, flags and subcommands that it replaces; `{value}` is what was given.
HINTS = {
    "set data.batch_size={value}": "b batch batch_size",
    "set data.num_workers={value}": "j num_workers workers",
    "set data.size={value}": "img_size imgsz",
    "set task._target_=… for a LightningModule; net=mlp or net._target_=… for a net alone": "model",
    OPTIMIZER: "opt optimizer",
    "set task.optimizer.lr={value}": "learning_rate lr lr0",
    "set task.optimizer.weight_decay={value}": "weight_decay",
    f"{SCHEDULER} task.scheduler.step_size=10": "lr_scheduler sched scheduler",
    "set trainer.max_epochs={value}": "epoch epochs max_epochs max_nb_epochs num_epochs",
    "set trainer.accelerator={value}": "accelerator",
    "set trainer.devices={value}": "devices gpus num_processes tpu_cores",
    "set trainer.strategy={value}": "distributed_backend strategy",
    "set trainer=cpu, or trainer=gpu trainer.devices=[0] for the first GPU": "device",
    "set trainer.precision=16-mixed": "amp",
    "set trainer.precision={value}": "precision",
    "set trainer=debug": "debug",
    STOP: "early_stopping",
    f"{STOP} callbacks.stop.patience={{value}}": "patience",
    "set seed={value}, or --seeds 0,1,2 for several": "seed",
    "set seed={value}": "seed_everything",
    "use --seeds 0,1,2 for seeds, and python -m src.tune for other keys": "m multirun",
    "python -m src.tune [CONFIG] [SPACE] searches": "hparams_search",
    "name the config first: python -m src.train {value}": "config experiment",
    "remove it; train with python -m src.train [CONFIG]": "fit train",
    "--resume RUN continues a run, --init RUN starts from its weights": (
        "ckpt_path resume resume_from_checkpoint"
    ),
    "--find lr finds a learning rate": "auto_lr_find",
    "--find batch_size finds a batch size": "auto_scale_batch_size",
    "remove it; checkpoints are always written": "checkpoint_callback",
    "remove it; --show prints the net": "weights_summary",
    "remove it; a terminal shows the progress": "progress_bar_refresh_rate",
    "--no-test leaves the test out, python -m src.evaluate RUN measures a run again": (
        "test validate"
    ),
    "python -m src.predict RUN INPUT predicts": "predict",
    "--no-plots writes neither plots/ nor report.html": "no_pictures no_plots pictures",
    "leave it out: a run's folder is logs/<config>/<time>/, and name=… labels it": "hydra project",
}
HABITS = {word: hint for hint, words in HINTS.items() for word in words.split()}


def translate(word: str, value: Any = "…") -> str:
    """The hint `; set data.batch_size=32` for a word of another tool, else an empty string."""
    key = word.lstrip("-").replace("-", "_").partition(".")[0]
    if len(key) == 1 and not word.startswith("-"):
        return ""  # a letter is a flag, or a name like any other
    if HABITS.get(key) == OPTIMIZER:
        value = {name.lower(): name for name in OPTIMIZERS}.get(str(value).lower(), value)
    value = "…" if isinstance(value, dict) else value
    return f"; {HABITS[key].format(value=value)}" if key in HABITS else ""


# By words of YAML's parser, the fix.
YAML_HINTS = {
    "'\\t'": "indent with spaces, not tabs",
    "mapping values are not allowed": "check the indentation, and quote text with a colon",
    "expected <block end>": "check the indentation",
    "could not find expected ':'": "write 'key: value', with a space after the colon",
}


def explain_yaml(problem: str) -> str:
    """The hint `; check the indentation` for an error of YAML's parser, or an empty string."""
    return next((f"; {hint}" for words, hint in YAML_HINTS.items() if words in problem), "")
