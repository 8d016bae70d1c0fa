"""The space of a search: a file of configs/space/, read, checked, and drawn from by src/tune.py.

Each line is a config key and what to try there: a list of choices, or `low` and `high` with `log` or `step`.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.kindling.analysis.leaderboard import OF_DATA
from src.kindling.config import compose as config_module
from src.kindling.config.compose import COMMAND_LINE, _read_yaml, compose, groups
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.studies.plan import Plan

if TYPE_CHECKING:
    import optuna

# What would make a trial's number another quantity; losses, where a loss is what is monitored; and the study's own.
OTHER = ("task.monitor", "task.mode", "data.split", "data.split_seed", "data", *OF_DATA)
OF_LOSS = ("task.loss", "task.class_weights")
OWN = ("data.fold", "threads", "name", "tags", "trainer", "trainer.devices", "trainer.strategy", "trainer.num_nodes")
FIELDS = ("choices", "low", "high", "log", "step", "when")


@dataclass(frozen=True)
class Parameter:
    """One key of a space: what Optuna draws, the values that stand for it, and the choices above that it needs.

    It is stepped where its line says a step.
    """

    key: str
    distribution: Any
    choices: tuple[Any, ...]
    when: dict[str, list[Any]]
    stepped: bool = False

    def value(self, drawn: Any) -> Any:
        """The config's value for what Optuna drew; a list or a dict has its text there."""
        return self.choices[self.distribution.choices.index(drawn)] if self.choices else drawn

    def draw(self, trial: optuna.Trial) -> Any:
        given = self.distribution
        if self.choices:
            return self.value(trial.suggest_categorical(self.key, given.choices))
        suggest: Any = trial.suggest_int if isinstance(given.low, int) else trial.suggest_float
        return suggest(self.key, given.low, given.high, step=given.step, log=given.log)

    def grid(self) -> list[Any]:
        """All that can be drawn.

        Raises:
            InputError: when it has no end.
        """
        given = self.distribution
        if self.choices:
            return list(given.choices)
        if given.step is None:
            raise InputError(
                f"{self.key}: --sampler grid needs choices or a step here; a range alone has no end of values"
            )
        return [given.low + given.step * i for i in range(round((given.high - given.low) / given.step) + 1)]


@dataclass(frozen=True)
class Space:
    """What a search draws from."""

    parameters: tuple[Parameter, ...]

    def told(self) -> dict[str, Any]:
        """As plain values."""
        return {p.key: {**p.distribution._asdict(), **({"when": p.when} if p.when else {})} for p in self.parameters}

    def active(self, values: dict[str, Any]) -> Iterator[Parameter]:
        """The parameters to set, one after the other, while `values` receives what is set."""
        for parameter in self.parameters:
            if all(key in values and values[key] in some for key, some in parameter.when.items()):
                yield parameter

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw config keys and their values."""
        changes: dict[str, Any] = {}
        for parameter in self.active(changes):
            changes[parameter.key] = parameter.draw(trial)
        return changes

    def chosen(self, given: dict[str, Any]) -> dict[str, Any]:
        """Config keys and values, for what is given of each parameter; without those that are not set then."""
        values: dict[str, Any] = {}
        for parameter in self.active(values):
            values[parameter.key] = given[parameter.key]
        return values

    def grid(self) -> list[dict[str, Any]]:
        """All that can be drawn, once."""
        found: dict[str, dict[str, Any]] = {}
        for drawn in itertools.product(*(parameter.grid() for parameter in self.parameters)):
            some = {parameter.key: name for parameter, name in zip(self.parameters, drawn, strict=True)}
            kept = self.chosen({parameter.key: parameter.value(some[parameter.key]) for parameter in self.parameters})
            found.setdefault(json.dumps(kept), {key: some[key] for key in kept})
        return list(found.values())

    def samples(self) -> Iterator[dict[str, Any]]:
        """Config keys and values that together have every choice and every bound.

        Raises:
            InputError: when a parameter can never be set.
        """
        ends = {p.key: p.choices or (p.distribution.low, p.distribution.high) for p in self.parameters}
        deciding = {key: ends[key] for key in dict.fromkeys(key for p in self.parameters for key in p.when)}
        seen: set[tuple[str, str]] = set()
        for combination in itertools.product(*deciding.values()):
            first = {key: some[0] for key, some in ends.items()} | dict(zip(deciding, combination, strict=True))
            for key, some in ends.items():
                for value in some:
                    values = self.chosen({**first, key: value})
                    if key in values and (key, repr(value)) not in seen:
                        seen.add((key, repr(value)))
                        yield values
        if never := set(ends) - {key for key, _ in seen}:
            raise InputError(f"{min(never)}: is never set: its conditions exclude each other")


def read_space(name: str) -> Space:
    """Read a file of configs/space/.

    Raises:
        InputError: with a line for each mistake in it.
    """
    path, errors = config_module.CONFIGS / "space" / f"{name}.yaml", list[str]()
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise InputError(f"{name}: no such space{did_you_mean(name, known)} (configs/space/ has: {', '.join(known)})")
    lines = _read_yaml(path, errors)
    if not lines and not errors:
        errors.append(
            f"{file_of(name)}: is empty; a line of it is 'task.optimizer.lr: {{low: 1e-4, high: 1e-1, log: true}}'"
        )
    parameters: dict[str, Parameter] = {}
    for key, given in lines.items():
        try:
            with warnings.catch_warnings(action="error"):  # Optuna's: of a step that does not fit
                parameters[key] = _parameter(key, {"choices": given} if isinstance(given, list) else given, parameters)
        except (ValueError, TypeError, UserWarning) as error:
            errors.append(f"{key}: {error} ({file_of(name)})")
    if errors:
        raise InputError(errors)
    return Space(tuple(parameters.values()))


def file_of(name: str) -> str:
    return f"configs/space/{name}.yaml"


def _parameter(key: str, given: Any, above: dict[str, Parameter]) -> Parameter:
    """Raises ValueError with what is wrong."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if key in OTHER + OWN:
        why = "the study sets it itself" if key in OWN else "its trials could not be compared"
        raise ValueError(f"is not for a search: {why}")
    if not isinstance(given, dict) or not ("choices" in given or {"low", "high"} <= given.keys()):
        raise ValueError(f"expected a list of choices, or 'low' and 'high', got {given!r}")
    if unknown := [str(name) for name in given if name not in FIELDS]:
        raise ValueError(f"has no '{unknown[0]}'{did_you_mean(unknown[0], FIELDS)} (it has: {', '.join(FIELDS)})")
    bounds = {name: value for name, value in given.items() if name not in ("choices", "when")}
    if not isinstance(conditions := given.get("when", {}), dict):
        raise ValueError(f"when: expected keys above and their choices, such as {{net: cnn}}, got {conditions!r}")
    when = {other: some if isinstance(some, list) else [some] for other, some in conditions.items()}
    for other, some in when.items():
        if other not in above:
            raise ValueError(f"when: no '{other}' stands above it{did_you_mean(str(other), above)}")
        if wrong := [value for value in some if value not in above[other].choices]:
            raise ValueError(f"when: '{other}' is never {wrong[0]!r} (its choices: {list(above[other].choices)})")
    if "choices" in given:
        choices = given["choices"]
        if not isinstance(choices, list):
            raise ValueError(f"expected a list of choices, got {choices!r}")
        names = [json.dumps(choice) if isinstance(choice, list | dict) else choice for choice in choices]
        if bounds or len(set(map(repr, names))) < len(names):
            raise ValueError(
                "has choices and a range; one of them is meant" if bounds else f"has a choice twice: {choices}"
            )
        return Parameter(key, CategoricalDistribution(names), tuple(choices), when)
    numbers = {name: value for name, value in bounds.items() if name != "log"}
    if not isinstance(bounds.get("log", False), bool):
        raise ValueError(f"log: expected true or false, got {bounds['log']!r}")
    if wrong := [value for value in numbers.values() if type(value) not in (int, float) or not math.isfinite(value)]:
        raise ValueError(f"expected numbers, got {wrong[0]!r}")
    whole = all(isinstance(given[name], int) for name in ("low", "high"))
    return Parameter(key, (IntDistribution if whole else FloatDistribution)(**bounds), (), when, "step" in bounds)


def check_space(space: Space, name: str, plan: Plan) -> None:
    """Check every choice and every bound as a config is checked: by the signatures of what they are given to.

    Raises:
        InputError: with a line for each mistake.
    """
    from src.kindling.config import instantiate

    keys, errors = [parameter.key for parameter in space.parameters], list[str]()
    for word in plan.words:
        key = word.partition("=")[0]
        if key in keys or (key.partition(".")[0] in keys):
            errors.append(f"{word}: {file_of(name)} searches it; leave one of them out ({COMMAND_LINE})")
    try:
        compose(plan.config, [f"{key}=0" for key in keys if key not in groups()])
        samples = list(space.samples())
    except InputError as error:
        raise InputError(
            [line.replace(f"({COMMAND_LINE})", f"({file_of(name)})") for line in error.lines + errors]
        ) from None
    for values in samples:
        try:
            instantiate.check(plan.configure(values))
        except InputError as error:
            for line in error.lines:
                origin = COMMAND_LINE if line.partition("=")[0] in keys else "study"
                errors.append(line.replace(f"({origin})", f"({file_of(name)})"))
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    for p in space.parameters:
        if p.choices or p.stepped or not isinstance(low := p.distribution.low, int):
            continue
        with suppress(InputError):  # where it takes whole numbers alone
            instantiate.check(
                plan.configure({**next(values for values in samples if p.key in values), p.key: low + 0.5})
            )
            high = p.distribution.high
            errors.append(f"{p.key}: whole numbers from {low} to {high} would be drawn; write {float(low)} and {float(high)}, "
                          f"or add 'step: 1' if they are meant ({file_of(name)})")  # fmt: skip
    if errors:
        raise InputError(errors)


def check_monitored(space: Space, name: str, monitor: str) -> None:
    """Refuse to search what a trial is measured by.

    Raises:
        InputError: for each key of the loss, where a loss is monitored.
    """
    keys = [p.key for p in space.parameters if any(p.key == key or p.key.startswith(f"{key}.") for key in OF_LOSS)]
    if monitor.endswith("/loss") and keys:
        raise InputError([f"{key}: changes {monitor} itself, by which trials are compared; monitor another metric, such as "
                          f"task.monitor=val/accuracy ({file_of(name)})" for key in keys])  # fmt: skip
