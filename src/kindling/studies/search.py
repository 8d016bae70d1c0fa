"""Search a config's hyperparameters: trials over a search space, compared in validation."""

from __future__ import annotations

import functools
import shlex
import warnings
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import yaml

from src.kindling.config.compose import COMMAND_LINE, CONFIGS, compose, flatten, get, record_path
from src.kindling.config.errors import InputError
from src.kindling.runs.files import display_path, write
from src.kindling.runs.metric_names import parse_name
from src.kindling.runs.redact import redacted
from src.kindling.studies.optuna_queue import OptunaQueue, load_optuna
from src.kindling.studies.plan import Plan, TrialResult, make_plan
from src.kindling.studies.search_space import Space, read_space
from src.kindling.studies.study import count_states
from src.kindling.training.distributed import distributed

OF_LOSS = ("task.loss.", "task.class_weights.")  # they change a monitored loss
KNOWN_LOSSES = ("torch.", "src.kindling.nn.")  # whose value for a split does not depend on batches


def make_sampler(kind: str, seed: int, grid: dict[str, dict[str, Any]], member: str) -> Any:
    """Make Optuna's sampler for one member; `grid` has the parameters of each."""
    samplers = load_optuna().samplers
    if kind == "grid":
        return samplers.PartialFixedSampler(grid[member], samplers.RandomSampler())
    sampler = samplers.RandomSampler if kind == "random" else samplers.TPESampler
    return sampler(seed=(seed + zlib.crc32(member.encode())) % 2**32)


def make_pruner(kind: str, epochs: int) -> Any:
    """Make Optuna's pruner: the median at the same epoch, or Hyperband; None for `none`."""
    pruners = load_optuna().pruners
    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 10))
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, epochs))
    return None


def plan_search(flags: Any) -> Plan:
    """Plan a search, and check its search space; raise InputError with a line for each mistake."""
    load_optuna()
    names = [word for word in flags.words if "=" not in word]
    overrides = [word for word in flags.words if "=" in word]
    if len(names) > 2:
        raise InputError(f"{names[2]}: not expected after CONFIG and SPACE")
    name = names[0] if names else "digits"
    space_name = names[1] if len(names) == 2 else "default"
    config, space = compose(name, overrides), read_space(space_name)
    if flags.trials is not None and flags.trials < 1:
        raise InputError(f"--trials: expected at least 1, got {flags.trials}")
    params = space.grid() if flags.sampler == "grid" else [{}] * (flags.trials or 50)
    grid = {f"{i:04d}": fixed for i, fixed in enumerate(params[: flags.trials])}
    seed, epochs = config.values.get("seed") or 0, get(config.values, "trainer.max_epochs") or 1000
    if flags.pruner != "none" and (processes := distributed(config.values)):
        key, value = next(iter(processes.items()))
        problem = f"cannot stop trials of several processes ({key}={value})"
        raise InputError(f"--pruner {flags.pruner}: {problem}; leave it out")
    members: dict[str, Any] = {member: {} for member in grid}
    plan = replace(
        make_plan(config, overrides, flags, f"tune-{space_name}", members),
        about={"space": space.to_plain(), "sampler": flags.sampler},
        suggest=space.suggest,
        sampler=functools.partial(make_sampler, flags.sampler, seed, grid),
        pruner=make_pruner(flags.pruner, epochs),
    )
    samples = check_space(space, plan)
    plan = plan.with_monitor(samples[0])
    keys = [p.key for p in space.parameters if f"{p.key}.".startswith(OF_LOSS)]
    if parse_name(plan.monitor)[1] == "loss" and keys:
        problem = f"changes {plan.monitor}, by which trials are compared"
        remedy = f"monitor another metric, such as monitor=val/accuracy ({space.file})"
        raise InputError([f"{key}: {problem}; {remedy}" for key in keys])
    own = get(config.values, "task.loss._target_") or "torch."
    varied = "data.batch_size" in [p.key for p in space.parameters]
    if varied and parse_name(plan.monitor)[1] == "loss" and not own.startswith(KNOWN_LOSSES):
        problem = "unless it is a mean over samples, it depends on the batch size"
        print(f"task.loss: {problem}; monitor a metric, or give it sums and from_sums, as DiceLoss")
    return plan


def check_space(space: Space, plan: Plan) -> list[dict[str, Any]]:
    """Check every choice and every bound as a config is checked; return draws with all of them."""
    keys, errors = [p.key for p in space.parameters], list[str]()
    for override in plan.overrides:
        key = override.partition("=")[0]
        if key in keys or key.partition(".")[0] in keys:
            problem = f"{space.file} searches it; remove one of them"
            errors.append(f"{override}: {problem} ({COMMAND_LINE})")
    samples = space.samples()
    for values in samples:
        errors += _mistakes(space, plan, values)
    for p in space.parameters if not errors else ():
        low, high = p.ends[0], p.ends[-1]
        if p.choices or p.stepped or not isinstance(low, int):
            continue
        values = next(values for values in samples if p.key in values) | {p.key: low + 0.5}
        if not _mistakes(space, plan, values):  # it accepts other numbers, too
            errors.append(
                f"{p.key}: only whole numbers from {low} to {high} would be drawn; write "
                f"{float(low)} and {float(high)}, or add 'step: 1' ({space.file})"
            )
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    return samples


def _mistakes(space: Space, plan: Plan, values: dict[str, Any]) -> list[str]:
    """The mistakes in the config of some values; those in the values name the space's file."""
    from src.kindling.config import instantiate

    try:
        instantiate.check(plan.configure(values))
    except InputError as error:
        own, file = tuple(f"{key}{end}" for key in values for end in ".:="), f"({space.file})"
        lines = [
            line.replace(f"({COMMAND_LINE})", file) if line.startswith(own) else line
            for line in error.lines
        ]
        return [_blame_space(line, space, plan, values) for line in lines]
    return []


def _blame_space(line: str, space: Space, plan: Plan, values: dict[str, Any]) -> str:
    """Name the space's file for a section that only the space sets: `task.optimizer`."""
    section = line.partition(": ")[0]
    searched = any(key.startswith(f"{section}.") for key in values)
    known = flatten(plan.configure({}).values)
    if not searched or any(f"{key}.".startswith(f"{section}.") for key in known):
        return line
    fix = f"write another space, configs/space/NAME.yaml, and pass NAME ({space.file})"
    return f"{line.removesuffix(f' ({COMMAND_LINE})')}; {fix}"


def report_search(plan: Plan, results: list[TrialResult]) -> tuple[dict[str, Any], list[str]]:
    """Print the best trial, write its config and plots; return facts for study.json, and lines."""
    from src.kindling.studies.search_plots import plot_search  # with matplotlib

    print(f"\n{count_states(results)}")
    finished = [one for one in results if one.state == "finished" and one.value is not None]
    if not finished:
        return {"best": None}, []
    best = plan.best(finished)
    queue = OptunaQueue(plan)
    queue.connect()
    importances: dict[str, float] = {}
    with suppress(ValueError, RuntimeError), warnings.catch_warnings(action="ignore"):
        importances = dict(load_optuna().importance.get_param_importances(queue.study))
    print(f"best       {best.name}: {plan.monitor} {best.value:.6g}")
    # best.yaml has all digits.
    short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in best.changes.items()}
    for key, value in short.items():
        note = f"  (importance {importances[key]:.2f})" if key in importances else ""
        print(f"           {key}={value}{note}")
    optimistic = f"the best of {len(finished)}, therefore optimistic"
    print(f"           {optimistic}; to retest it: --confirm 5")
    path, config, folder = plan.folder / "best.yaml", f"{plan.config}_best", plan.folder / "plots"
    write(path, best_config(plan, best))
    plots = ", ".join(plot_search(queue.study, folder, plan.monitor))
    print(f"plots      {display_path(folder)}: {plots}")
    print(f"config     {display_path(path)}; to train and test it:")
    copy = shlex.join(["cp", display_path(path), display_path(CONFIGS / f"{config}.yaml")])
    print(f"           {copy} && python -m src.train {config}")
    changes = ", ".join(f"{key}={value}" for key, value in short.items())
    found = {"name": best.name, "value": best.value, "changes": best.changes}
    line = f"Best: {best.name}, {plan.monitor} {best.value:.6g} ({optimistic}), with {changes}"
    return {"best": found | {"importances": importances}}, [line]


def best_config(plan: Plan, best: TrialResult) -> str:
    """The best trial's whole config, as a file for configs/."""
    head = [
        f"{plan.config}, tuned: {plan.monitor} {best.value:.6g} in validation.",
        "",
        f"  python -m src.train {plan.config}_best   {best.seconds:.0f} s for the trial",
        "",
        f"best of {len(plan.members)} trials of {record_path(plan.folder)}; its run: {best.run}",
        *(f"{key}: {value}" for key, value in best.changes.items()),
    ]
    values = redacted(plan.configure(best.changes).values)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}".rstrip() + "\n" for line in head) + text
