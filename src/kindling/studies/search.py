"""Search a config's hyperparameters: trials over a search space, compared in validation."""

from __future__ import annotations

import functools
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from src.kindling.config.compose import COMMAND_LINE, compose, get, groups
from src.kindling.config.errors import InputError
from src.kindling.runs.files import shown, write
from src.kindling.runs.redact import redacted
from src.kindling.studies.optuna_queue import OptunaQueue
from src.kindling.studies.plan import Plan, TrialResult, TrialSpec, member_overrides
from src.kindling.studies.search_space import Space, read_space
from src.kindling.studies.storage import load_optuna
from src.kindling.studies.trial_queue import TrialQueue
from src.kindling.training.distributed import distributed

if TYPE_CHECKING:
    import optuna

OF_LOSS = ("task.loss", "task.class_weights")  # they change a monitored loss
PLOTS = {
    "history": "optimization_history",
    "parallel": "parallel_coordinate",
    "slices": "slice",
    "importances": "param_importances",
}


def make_sampler(kind: str, seed: int, offset: int) -> Any:
    """Make Optuna's sampler for one trial."""
    samplers = load_optuna().samplers
    sampler = samplers.RandomSampler if kind == "random" else samplers.TPESampler
    return sampler(seed=(seed + offset) % 2**32)


def make_pruner(kind: str, epochs: int) -> Any:
    """Make Optuna's pruner: the median at the same epoch, or Hyperband; None for `none`."""
    pruners = load_optuna().pruners
    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 10))
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, epochs))
    return None


def plan_search(flags: Any) -> Plan:
    """Plan a search, and check its search space.

    Raises:
        InputError: with a line for each mistake.
    """
    load_optuna()
    names = [word for word in flags.words if "=" not in word]
    overrides = [word for word in flags.words if "=" in word]
    if len(names) > 2:
        raise InputError(f"{names[2]}: not expected after CONFIG and SPACE")
    name = names[0] if names else "digits"
    space_name = names[1] if len(names) > 1 else "default"
    config, space = compose(name, overrides), read_space(space_name)
    if flags.trials is not None and flags.trials < 1:
        raise InputError(f"--trials: expected at least 1, got {flags.trials}")
    drawn: list[dict[str, Any]] = [{}] * (flags.trials or 50)
    params = space.grid()[: flags.trials] if flags.sampler == "grid" else drawn
    if flags.pruner != "none" and (distribution := distributed(config.values)):
        key, value = next(iter(distribution.items()))
        raise InputError(
            f"--pruner {flags.pruner}: cannot stop trials of several processes ({key}={value}); "
            "leave it out"
        )
    plan = Plan(
        config.name,
        member_overrides(config, overrides, flags.workers),
        flags.name or f"tune-{space_name}",
        tuple(TrialSpec(f"{i:04d}", params=values) for i, values in enumerate(params)),
        {"space": space.to_plain(), "sampler": flags.sampler},
        storage=flags.storage,
        suggest=space.suggest,
        sampler=functools.partial(make_sampler, flags.sampler, config.values.get("seed") or 0),
        pruner=make_pruner(flags.pruner, get(config.values, "trainer.max_epochs") or 1000),
        pictures=flags.pictures,
    )
    check_space(space, plan)
    plan = plan.with_monitor(next(space.samples()))
    check_monitor(space, plan.monitor)
    return plan


def check_space(space: Space, plan: Plan) -> None:
    """Check every choice and every bound as a config is checked, against the signatures.

    Raises:
        InputError: with a line for each mistake.
    """
    from src.kindling.config import instantiate

    keys = [parameter.key for parameter in space.parameters]
    errors = []
    for override in plan.overrides:
        key = override.partition("=")[0]
        if key in keys or key.partition(".")[0] in keys:
            problem = f"{space.file} searches it; leave one of them out ({COMMAND_LINE})"
            errors.append(f"{override}: {problem}")
    try:
        compose(plan.config, [f"{key}=0" for key in keys if key not in groups()])
        samples = list(space.samples())
    except InputError as error:
        lines = [line.replace(f"({COMMAND_LINE})", f"({space.file})") for line in error.lines]
        raise InputError(lines + errors) from None
    for values in samples:
        try:
            instantiate.check(plan.configure(values))
        except InputError as error:
            for line in error.lines:
                origin = COMMAND_LINE if line.partition("=")[0] in keys else "study"
                errors.append(line.replace(f"({origin})", f"({space.file})"))
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    _check_whole_numbers(space, plan, samples)


def _check_whole_numbers(space: Space, plan: Plan, samples: list[dict[str, Any]]) -> None:
    """Refuse a range of whole numbers for a key that also accepts others, such as 0 to 1."""
    from src.kindling.config import instantiate

    errors = []
    for p in space.parameters:
        if p.choices or p.stepped or not isinstance(low := p.distribution.low, int):
            continue
        values = next(values for values in samples if p.key in values)
        with suppress(InputError):  # it accepts whole numbers alone
            instantiate.check(plan.configure({**values, p.key: low + 0.5}))
            high = p.distribution.high
            errors.append(
                f"{p.key}: only whole numbers from {low} to {high} would be drawn; write "
                f"{float(low)} and {float(high)}, or add 'step: 1' ({space.file})"
            )
    if errors:
        raise InputError(errors)


def check_monitor(space: Space, monitor: str) -> None:
    """Refuse to search the parameters of a monitored loss.

    Raises:
        InputError: with a line for each.
    """
    prefixes = tuple(f"{key}." for key in OF_LOSS)
    keys = [p.key for p in space.parameters if f"{p.key}.".startswith(prefixes)]
    if monitor.endswith("/loss") and keys:
        problem = f"changes {monitor}, by which trials are compared"
        remedy = f"monitor another metric, such as monitor=val/accuracy ({space.file})"
        raise InputError([f"{key}: {problem}; {remedy}" for key in keys])


def report_search(
    plan: Plan, queue: TrialQueue, results: list[TrialResult]
) -> dict[str, Any] | None:
    """Print the best trial and the importances; write its config, and plots of the search."""
    states = dict.fromkeys(result.state for result in results)
    counts = [f"{sum(result.state == state for result in results)} {state}" for state in states]
    print("\n" + ", ".join(counts))
    finished = [one for one in results if one.state == "finished" and one.value is not None]
    if not finished:
        return None
    best = (min if plan.mode == "min" else max)(finished, key=lambda result: result.value or 0.0)
    assert isinstance(queue, OptunaQueue)
    importances = compute_importances(queue.study)
    print(f"best       {best.name}: {plan.monitor} {best.value!r}")
    for key, value in best.changes.items():
        note = f"  (importance {importances[key]:.2f})" if key in importances else ""
        print(f"           {key}={value}{note}")
    path, config = plan.folder / "best.yaml", f"{plan.config}_best"
    write(path, best_config(plan, best))
    plots = plot_search(queue.study, plan.folder / "plots", plan.monitor)
    print(f"plots      {shown(plan.folder / 'plots')}: {', '.join(plots)}")
    print(f"config     {shown(path)}; to train and test it:")
    print(f"           cp {shown(path)} configs/{config}.yaml && python -m src.train {config}")
    return {
        "name": best.name,
        "value": best.value,
        "changes": best.changes,
        "importances": importances,
    }


def compute_importances(study: optuna.Study) -> dict[str, float]:
    """The importance of each parameter by PED-ANOVA; empty when there are too few trials."""
    with suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
        return dict(load_optuna().importance.get_param_importances(study))
    return {}


def best_config(plan: Plan, best: TrialResult) -> str:
    """The best trial's whole config, as a file for configs/."""
    head = [
        f"{plan.config}, tuned: {plan.monitor} {best.value:.6g} in validation.",
        "",
        f"  python -m src.train {plan.config}_best   {best.seconds:.0f} s for the trial",
        "",
        f"the best of {len(plan.members)} trials of {shown(plan.folder)}; its run: {best.run}",
        *(f"{key}: {value}" for key, value in best.changes.items()),
    ]
    values = redacted(plan.configure(best.changes).values)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}".rstrip() + "\n" for line in head) + text


def plot_search(study: optuna.Study, folder: Path, monitor: str) -> list[str]:
    """Write Optuna's plots of a search and return their names; without those of too few trials."""
    import matplotlib

    matplotlib.use("agg")
    import numpy as np
    from matplotlib import pyplot

    optuna_plots, names = load_optuna().visualization.matplotlib, []
    folder.mkdir(exist_ok=True)
    parameters = {name for trial in study.get_trials(deepcopy=False) for name in trial.params}
    for name, plot in PLOTS.items():
        # Optuna changes matplotlib's style for all later plots.
        ignored = warnings.catch_warnings(action="ignore")
        with pyplot.rc_context(), suppress(ValueError, RuntimeError), ignored:
            drawn = getattr(optuna_plots, f"plot_{plot}")(study, target_name=monitor)
            figure = np.ravel(drawn)[0].figure
            if name in ("parallel", "slices"):  # room for the names of keys and choices
                figure.set_size_inches(max(6.4, 3.2 * len(parameters)), 4.8)
            for axis in figure.axes:
                if name == "parallel":
                    axis.grid(False)  # of every axis at once
                elif name == "slices":
                    pyplot.setp(axis.get_xticklabels(), rotation=20, ha="right")
                    axis.xaxis.label.set_size("small")
            figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
            names.append(f"{name}.png")
    pyplot.close("all")
    return names
