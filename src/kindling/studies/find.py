"""Find a learning rate or batch size to start from: `python -m src.train --find lr|batch_size`."""

from __future__ import annotations

import io
import math
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

from src.kindling.config.compose import Config, compose
from src.kindling.config.errors import InputError
from src.kindling.config.targets import locate
from src.kindling.runs import run as run_module
from src.kindling.runs.files import display_path
from src.kindling.training.distributed import distributed

# Of the 100 steps of `find_lr`, over seven decades: until the smoothed loss settles; in one decade.
SETTLED, DECADE = 10, 15


def find(what: str, name: str, overrides: Sequence[str]) -> float:
    """Find a config's `lr` or `batch_size` by Lightning's Tuner; nothing is changed.

    Raises InputError when the config has a mistake, or the loss never falls.
    """
    config = compose(name, overrides)
    for key, value in distributed(config.values).items():
        problem = f"--find takes one process on one device, and {value!r} is set"
        raise InputError(f"{key}: {problem}; leave it out")

    import torch
    from lightning.fabric.plugins import TorchCheckpointIO
    from lightning.pytorch import seed_everything
    from lightning.pytorch.loggers.logger import DummyLogger
    from lightning.pytorch.tuner.tuning import Tuner

    from src.kindling.config import instantiate
    from src.kindling.data.data_module import DataModule
    from src.kindling.training.build import build_data, build_task, check_settings
    from src.kindling.training.checkpoint_io import AtomicIO
    from src.kindling.training.warning_filters import quiet

    # The tuner takes 100 steps at most; an epoch may have only one.
    changes = {"trainer.devices": 1, "trainer.max_epochs": 100}
    config = config.replaced(changes, origin="--find")
    instantiate.check(config)
    quiet()
    values = instantiate.values(config)
    torch.set_num_threads(values.num_threads or 1)
    data = build_data(config)
    seed_everything(values.seed, verbose=False)
    if what == "batch_size" and not isinstance(data, DataModule):
        problem = "--find batch_size needs data of src.kindling.data.DataModule"
        raise InputError(f"data: {problem}; double data.batch_size until memory runs out")
    check_settings(config, data)
    task = build_task(config, data)
    memory = AtomicIO()
    memory.load_checkpoint = TorchCheckpointIO().load_checkpoint  # type: ignore[method-assign]
    progress = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, redirect_stderr(progress):
        trainer = instantiate.build(
            config,
            "trainer",
            logger=DummyLogger(),
            default_root_dir=scratch,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[memory],
        )
        tuner = Tuner(trainer)
        if what == "lr":
            return _find_lr(config, tuner, task, data)
        return _find_size(tuner, task, data)


def _find_lr(config: Config, tuner: Any, task: Any, data: Any) -> float:
    """Raise the rate over 100 steps, and suggest where the loss falls most (Smith, WACV 2017)."""
    from matplotlib.figure import Figure

    from src.kindling.nn.optimizers import learning_rate_key

    if not task.automatic_optimization:
        raise InputError("task: --find lr needs automatic optimization; try some rates instead")
    found = tuner.lr_find(task, datamodule=data, update_attr=False, min_lr=1e-6, max_lr=10)
    rates, losses = (found.results["lr"], found.results["loss"]) if found else ([], [])
    rate = steepest(rates, losses)
    if rate is None:
        problem = "the loss never falls between 1e-06 and 10"
        raise InputError(f"--find lr: {problem}; check the targets and the loss")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    labels = {"xlabel": "learning rate", "ylabel": "training loss, smoothed"}
    axis = figure.add_subplot(xscale="log", **labels)
    axis.plot(rates[SETTLED:], losses[SETTLED:])
    axis.axvline(rate, color="tab:orange", label=f"falls fastest: {rate:.2g}")
    axis.legend()
    path = run_module.LOGS / config.name / "find_lr.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"found      {rate:.2g}: the loss falls fastest there; plot: {display_path(path)}")
    key = learning_rate_key(locate(config.values["task"]["_target_"]))
    use = f"{key}={rate:.2g}" if key else "set it in configure_optimizers"
    print(f"to use it  {use}")
    return rate


def _find_size(tuner: Any, task: Any, data: Any) -> int:
    """Double the batch size until memory runs out, or it exceeds the training split."""
    from src.kindling.nn.optimizers import learning_rate_key

    count = len(data.indices["train"])
    limit = 2 ** count.bit_length()
    size: int = tuner.scale_batch_size(task, datamodule=data, init_val=16, max_val=limit) or 0
    why = "a larger one runs out of memory"
    if size >= limit:
        size, why = size // 2, f"the training split has {count:,} samples"
    print(f"found      {size}: the largest that fits; {why}")
    lr = learning_rate_key(type(task)) or "learning rate"
    print(f"to use it  data.batch_size={size}, and try a larger {lr} with it")
    return size


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The middle of the decade of rates in which the loss falls fastest; None if it never falls."""
    from scipy.signal import savgol_filter

    # Noise decides Lightning's suggestion, the largest difference of two neighbors.
    known = [i for i in range(SETTLED, len(losses)) if math.isfinite(losses[i])]
    if len(known) < DECADE:
        return None
    # The slope of a line through each window; at the ends, windows are incomplete.
    slopes = savgol_filter([losses[i] for i in known], DECADE, polyorder=1, deriv=1)
    margin = DECADE // 2
    inner = slopes[margin : len(slopes) - margin]
    return float(rates[known[inner.argmin() + margin]]) if inner.min() < 0 else None
