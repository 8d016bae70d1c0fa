"""Search a config's hyper-parameters: many trials over a space, each measured on the validation split.

    python -m src.tune [CONFIG] [SPACE] [key=value ...] [--trials 50] [--workers 2] [--sampler tpe|random|grid]
                       [--pruner none|median|hyperband] [--storage URL] [--name NAME] [--retry]

SPACE is a file in configs/space/. Each line of it is a config key and what to try there: a list of choices, or `low` and
`high` with `log` or `step` (whole numbers between whole numbers); a group such as `net` has the names of its options.
With `when: {net: cnn}` a key is set only where that was chosen above. The same command goes on with a search, or joins it.
"""

from __future__ import annotations

import functools
import io
import math
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.kindling.config.compose import compose, get
from src.kindling.config.errors import InputError
from src.kindling.runs import run as run_module
from src.kindling.runs.files import shown, write
from src.kindling.runs.redact import redacted
from src.kindling.studies.plan import Member, Outcome, Plan, for_members
from src.kindling.studies.search_space import check_monitored, check_space, read_space
from src.kindling.studies.storage import load_optuna
from src.kindling.training.distributed import distributed

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

PLOTS = {"history": "optimization_history", "parallel": "parallel_coordinate", "slices": "slice",
         "importances": "param_importances"}  # fmt: skip

# Of the hundred steps of `find`, over seven decades of rates: until the smoothed loss is one, and in one decade.
SETTLED, DECADE = 10, 15


def make_sampler(kind: str, seed: int, place: int) -> Any:
    """Optuna's sampler for one draw."""
    samplers = load_optuna().samplers
    return (samplers.RandomSampler if kind == "random" else samplers.TPESampler)(seed=(seed + place) % 2**32)


def make_pruner(kind: str, epochs: int) -> Any:
    """Optuna's pruner: by the median of others at the same epoch, or by successive halving from several starts."""
    pruners = load_optuna().pruners
    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 10))
    return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, epochs)) if kind == "hyperband" else None


def plan_search(flags: Any) -> Plan:
    """The plan of a search, its space checked.

    Raises:
        InputError: with a line for each mistake.
    """
    load_optuna()
    names, words = [w for w in flags.words if "=" not in w], [w for w in flags.words if "=" in w]
    if len(names) > 2:
        raise InputError(f"{names[2]}: not expected after CONFIG and SPACE")
    name, space_name = names[0] if names else "digits", names[1] if len(names) > 1 else "default"
    config = compose(name, words)
    space = read_space(space_name)
    if flags.trials is not None and flags.trials < 1:
        raise InputError(f"--trials: expected at least 1, got {flags.trials}")
    given = space.grid()[: flags.trials] if flags.sampler == "grid" else [{}] * (flags.trials or 50)
    members = tuple(Member(f"{number:04d}", params=params) for number, params in enumerate(given))
    seed = config.values.get("seed") or 0
    plan = Plan(config.name, for_members(config, words, flags.workers), flags.name or f"tune-{space_name}", members,
                {"space": space.told(), "sampler": flags.sampler}, storage=flags.storage, suggest=space.suggest,
                sampler=functools.partial(make_sampler, flags.sampler, seed),
                pruner=make_pruner(flags.pruner, get(config.values, "trainer.max_epochs") or 1000),
                pictures=flags.pictures)  # fmt: skip
    if flags.pruner != "none" and (asked := distributed(config.values)):
        key, value = next(iter(asked.items()))
        raise InputError(
            f"--pruner {flags.pruner}: does not reach trials of several processes ({key}={value}); leave it out"
        )
    check_space(space, space_name, plan)
    plan = plan.monitored(next(space.samples()))
    check_monitored(space, space_name, plan.monitor)
    return plan


def report(plan: Plan, study: optuna.Study, found: list[Outcome]) -> dict[str, Any] | None:
    """Print the best trial and what mattered; write its config, and pictures of the search."""
    states = dict.fromkeys(outcome.state for outcome in found)
    print("\n" + ", ".join(f"{sum(outcome.state == state for outcome in found)} {state}" for state in states))
    values = {one.name: one.value for one in found if one.state == "finished" and one.value is not None}
    if not values:
        return None
    name = (min if plan.mode == "min" else max)(values, key=lambda name: values[name])
    best, importances = next(one for one in found if one.name == name), importance(study)
    print(f"best       {name}: {plan.monitor} {best.value!r}")
    for key, value in best.changes.items():
        print(f"           {key}={value}" + (f"  (importance {importances[key]:.2f})" if key in importances else ""))
    path, config = plan.folder / "best.yaml", f"{plan.config}_best"
    write(path, best_config(plan, best))
    plots = draw(study, plan.folder / "plots", plan.monitor)
    print(f"plots      {shown(plan.folder / 'plots')}: {', '.join(plots)}")
    print(f"config     {shown(path)}; to train and test it:\n"
          f"           cp {shown(path)} configs/{config}.yaml && python -m src.train {config}")  # fmt: skip
    return {"name": name, "value": best.value, "changes": best.changes, "importances": importances}


def importance(study: optuna.Study) -> dict[str, float]:
    """The share of each parameter in what sets good trials apart (PED-ANOVA); empty where there are too few trials."""
    with suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
        return dict(load_optuna().importance.get_param_importances(study))
    return {}


def best_config(plan: Plan, best: Outcome) -> str:
    """A file for configs/: the best trial's whole config."""
    config = plan.configure(best.changes)
    head = [f"{plan.config}, tuned: {plan.monitor} {best.value:.6g} in validation.", "",
            f"  python -m src.train {plan.config}_best   {best.seconds:.0f} s for the trial", "",
            f"the best of {len(plan.members)} trials of {shown(plan.folder)}; its run: {best.run}",
            *(f"{key}: {value}" for key, value in best.changes.items())]  # fmt: skip
    text = yaml.safe_dump(redacted(config.values), sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}".rstrip() + "\n" for line in head) + text


def draw(study: optuna.Study, folder: Path, monitor: str) -> list[str]:
    """Write Optuna's pictures of a search, and return their names; those that need more trials are left out."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    plots, drawn = load_optuna().visualization.matplotlib, []
    folder.mkdir(exist_ok=True)
    parameters = {name for trial in study.get_trials(deepcopy=False) for name in trial.params}
    for name, plot in PLOTS.items():
        # Optuna changes matplotlib's style for whatever is drawn afterwards.
        with pyplot.rc_context(), suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
            axes = getattr(plots, f"plot_{plot}")(study, target_name=monitor)
            axes = axes if hasattr(axes, "__len__") else [axes]
            figure = axes[0].figure
            if name in ("parallel", "slices"):  # room for the names of keys and choices
                figure.set_size_inches(max(6.4, 3.2 * len(parameters)), 4.8)
            for axis in figure.axes:
                if name == "parallel":
                    axis.grid(False)  # of every axis at once
                elif name == "slices":
                    pyplot.setp(axis.get_xticklabels(), rotation=20, ha="right")
                    axis.xaxis.label.set_size("small")
            figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
            drawn.append(f"{name}.png")
    pyplot.close("all")
    return drawn


# ---------------------------------------------------------------------------------------------------------------
# What to begin with: python -m src.train CONFIG --find lr|batch_size


def find(what: str, name: str, words: Sequence[str]) -> float:
    """Say which learning rate or batch size a config may begin with, by Lightning's Tuner; nothing is changed.

    The learning rate rises with each of a hundred steps, and the suggested one lies where the loss falls fastest (Smith,
    "Cyclical Learning Rates for Training Neural Networks", 2017). The batch size doubles until memory ends.

    Raises:
        InputError: when the config has a mistake, or the loss falls nowhere.
    """
    import torch
    from lightning.pytorch import seed_everything
    from lightning.pytorch.tuner.tuning import Tuner

    from src.kindling.config import instantiate
    from src.kindling.training.build import build_data, build_task
    from src.kindling.training.warning_filters import quiet

    quiet()
    config = compose(name, words)
    for key, value in distributed(config.values).items():
        raise InputError(f"{key}: --find tries one process on one device, and {value!r} is set; leave it out")
    config = config.replaced({"trainer.devices": 1}, origin="--find")
    instantiate.check(config)
    values = instantiate.values(config)
    torch.set_num_threads(values.threads or 1)
    data = build_data(config)
    seed_everything(values.seed, verbose=False)
    task, count = build_task(config, data.spec, data.augment), len(data.indices["train"])
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, redirect_stderr(bar):
        trainer = instantiate.build(config, "trainer", logger=False, default_root_dir=scratch, enable_checkpointing=False,
                              enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                              use_distributed_sampler=False)  # fmt: skip
        tuner = Tuner(trainer)
        if what == "lr":
            found = tuner.lr_find(task, datamodule=data, update_attr=False, min_lr=1e-6, max_lr=10)
        else:
            beyond = 2 ** count.bit_length()  # is not tried any more: the training split has fewer samples
            size = tuner.scale_batch_size(task, datamodule=data, init_val=16, max_val=beyond) or 0
    if what == "batch_size":
        size, why = (
            (size // 2, f"there are {count:,} training samples") if size >= beyond else (size, "memory ends there")
        )
        print(f"found      {size}: the largest that was tried and fits; {why}")
        print(f"to use it  data.batch_size={size}, and try a larger task.optimizer.lr with it")
        return size
    rate = steepest(found.results["lr"], found.results["loss"]) if found else None
    if not found or not rate:
        raise InputError("--find lr: the loss falls nowhere between 1e-06 and 10; look at the targets and the loss")
    path = run_module.LOGS / config.name / "find_lr.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    curve(found.results["lr"], found.results["loss"], rate).savefig(path, dpi=100)
    print(f"found      {rate:.2g}: there the loss falls fastest; the curve: {shown(path)}")
    print(f"to use it  task.optimizer.lr={rate:.2g}")
    return float(rate)


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The middle of the decade of rates over which the loss falls fastest; None where it falls nowhere.

    Lightning's own suggestion is where two neighbours differ most, which on a noisy curve may be anywhere.
    """
    import numpy as np
    from scipy.signal import savgol_filter

    known = [i for i in range(SETTLED, len(losses)) if math.isfinite(losses[i])]
    if len(known) < DECADE:
        return None
    slopes = savgol_filter([losses[i] for i in known], DECADE, polyorder=1, deriv=1)  # of a line through each window
    inner = slopes[DECADE // 2 : len(slopes) - DECADE // 2]
    place = int(np.argmin(inner))
    return float(rates[known[place + DECADE // 2]]) if inner[place] < 0 else None


def curve(rates: Sequence[float], losses: Sequence[float], rate: float) -> Figure:
    """The smoothed training loss over the learning rate, with the suggested one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axis.plot(rates[SETTLED:], losses[SETTLED:])
    axis.axvline(rate, color="tab:orange", label=f"falls fastest: {rate:.2g}")
    axis.legend()
    return figure
