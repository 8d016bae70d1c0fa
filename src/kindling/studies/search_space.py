"""A search space: a file of configs/space/, read and drawn from.

Each line is a config key and the values to try: a list of choices, or `low` and `high` with `log`
or `step`; `when` lists choices of keys above it without which the key is not set.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.kindling.analysis.leaderboard import DATA_KEYS
from src.kindling.config import compose as config_module
from src.kindling.config.compose import _read_yaml
from src.kindling.config.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import optuna

# Keys that change what the metric measures; and keys that the study sets.
OTHER = ("monitor", "mode", "data.split", "data.split_seed", "data", *DATA_KEYS)
OWN = (
    "data.fold",
    "num_threads",
    "name",
    "tags",
    "trainer",
    "trainer.devices",
    "trainer.strategy",
    "trainer.num_nodes",
)
FIELDS = ("choices", "low", "high", "log", "step", "when")


@dataclass(frozen=True)
class Parameter:
    """One key of a search space.

    Attributes:
        key: the config key.
        distribution: Optuna's distribution; a choice that is a list or a dict is JSON text there.
        choices: the choices as config values; empty for a range.
        when: choices of earlier keys without which this one is not set.
        stepped: whether the file sets a step.
    """

    key: str
    distribution: Any
    choices: tuple[Any, ...]
    when: dict[str, list[Any]]
    stepped: bool = False

    def to_config(self, drawn: Any) -> Any:
        """The config's value for a value of Optuna's."""
        return self.choices[self.distribution.choices.index(drawn)] if self.choices else drawn

    def is_active(self, values: dict[str, Any]) -> bool:
        """Whether `when` holds for the values of the keys above."""
        return all(key in values and values[key] in some for key, some in self.when.items())

    def suggest(self, trial: optuna.Trial) -> Any:
        given = self.distribution
        if self.choices:
            return self.to_config(trial.suggest_categorical(self.key, given.choices))
        suggest: Any = trial.suggest_int if isinstance(given.low, int) else trial.suggest_float
        return suggest(self.key, given.low, given.high, step=given.step, log=given.log)

    def grid(self) -> list[Any]:
        """All values of Optuna's.

        Raises:
            InputError: for a range without a step.
        """
        given = self.distribution
        if self.choices:
            return list(given.choices)
        if given.step is None:
            raise InputError(
                f"{self.key}: a range without a step has no grid; add 'step' or list "
                "choices, or leave out --sampler grid"
            )
        count = round((given.high - given.low) / given.step) + 1
        return [given.low + given.step * i for i in range(count)]


@dataclass(frozen=True)
class Space:
    """A search space: the parameters, in the order of the file."""

    file: str
    parameters: tuple[Parameter, ...]

    def to_plain(self) -> dict[str, Any]:
        """The space as plain values."""
        return {
            p.key: {**p.distribution._asdict(), **({"when": p.when} if p.when else {})}
            for p in self.parameters
        }

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw config keys and values."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_active(values):
                values[parameter.key] = parameter.suggest(trial)
        return values

    def select(self, given: dict[str, Any]) -> dict[str, Any]:
        """Drop the values whose `when` does not hold."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_active(values):
                values[parameter.key] = given[parameter.key]
        return values

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of Optuna's values, each once."""
        found: dict[str, dict[str, Any]] = {}
        for combination in itertools.product(*(parameter.grid() for parameter in self.parameters)):
            drawn = {p.key: value for p, value in zip(self.parameters, combination, strict=True)}
            values = self.select({p.key: p.to_config(drawn[p.key]) for p in self.parameters})
            found.setdefault(json.dumps(values), {key: drawn[key] for key in values})
        return list(found.values())

    def samples(self) -> Iterator[dict[str, Any]]:
        """Config keys and values that together contain every choice and every bound.

        Raises:
            InputError: when a parameter is never set.
        """
        ends = {
            p.key: p.choices or (p.distribution.low, p.distribution.high) for p in self.parameters
        }
        deciding = {key: ends[key] for p in self.parameters for key in p.when}
        seen: set[tuple[str, str]] = set()
        for combination in itertools.product(*deciding.values()):
            chosen = dict(zip(deciding, combination, strict=True))
            first = {key: some[0] for key, some in ends.items()} | chosen
            for key, value in ((key, value) for key, some in ends.items() for value in some):
                values = self.select({**first, key: value})
                if key in values and (key, repr(value)) not in seen:
                    seen.add((key, repr(value)))
                    yield values
        if never := set(ends) - {key for key, _ in seen}:
            raise InputError(f"{min(never)}: never set; change its 'when' ({self.file})")


def read_space(name: str) -> Space:
    """Read a file of configs/space/.

    Raises:
        InputError: with a line for each mistake in it.
    """
    path, errors = config_module.CONFIGS / "space" / f"{name}.yaml", list[str]()
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        hint = did_you_mean(name, known)
        raise InputError(f"{name}: no such space{hint} (configs/space/ has: {', '.join(known)})")
    lines, file = _read_yaml(path, errors), f"configs/space/{name}.yaml"
    if not lines and not errors:
        example = "task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}"
        errors.append(f"{file}: empty; add a line such as '{example}'")
    parameters: dict[str, Parameter] = {}
    for key, given in lines.items():
        given = {"choices": given} if isinstance(given, list) else given
        try:
            with warnings.catch_warnings(action="error"):  # Optuna's, for a step that does not fit
                parameters[key] = _read_parameter(key, given, parameters)
        except (ValueError, TypeError, UserWarning) as error:
            errors.append(f"{key}: {error} ({file})")
    if errors:
        raise InputError(errors)
    return Space(file, tuple(parameters.values()))


def _read_parameter(key: str, given: Any, above: dict[str, Parameter]) -> Parameter:
    """Read one line; raises ValueError with the problem."""
    if key in OTHER + OWN:
        why = "the study sets it" if key in OWN else "its trials would not be comparable"
        raise ValueError(f"cannot be searched: {why}; remove the line")
    if not isinstance(given, dict) or not ("choices" in given or {"low", "high"} <= given.keys()):
        raise ValueError(f"expected a list of choices, or 'low' and 'high', got {given!r}")
    if unknown := [str(name) for name in given if name not in FIELDS]:
        hint = did_you_mean(unknown[0], FIELDS)
        raise ValueError(f"has no '{unknown[0]}'{hint} (it has: {', '.join(FIELDS)})")
    when = _read_conditions(given.get("when", {}), above)
    bounds = {name: value for name, value in given.items() if name not in ("choices", "when")}
    if "choices" not in given:
        return Parameter(key, _read_range(bounds), (), when, "step" in bounds)
    if bounds:
        raise ValueError("has choices and a range; remove one of them")
    return Parameter(key, _read_choices(given["choices"]), tuple(given["choices"]), when)


def _read_conditions(given: Any, above: dict[str, Parameter]) -> dict[str, list[Any]]:
    if not isinstance(given, dict):
        raise ValueError(
            f"when: expected keys above it and their choices, such as {{net: cnn}}, got {given!r}"
        )
    when = {key: some if isinstance(some, list) else [some] for key, some in given.items()}
    for key, some in when.items():
        if key not in above:
            raise ValueError(f"when: no '{key}' above it{did_you_mean(str(key), above)}")
        choices = list(above[key].choices)
        if wrong := [value for value in some if value not in choices]:
            raise ValueError(f"when: '{key}' is never {wrong[0]!r} (its choices: {choices})")
    return when


def _read_choices(choices: Any) -> Any:
    from optuna.distributions import CategoricalDistribution

    if not isinstance(choices, list):
        raise ValueError(f"expected a list of choices, got {choices!r}")
    names = [json.dumps(one) if isinstance(one, list | dict) else one for one in choices]
    if len(set(map(repr, names))) < len(names):
        raise ValueError(f"has a choice twice: {choices}")
    return CategoricalDistribution(names)


def _read_range(bounds: dict[str, Any]) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    numbers = [value for name, value in bounds.items() if name != "log"]
    if not isinstance(bounds.get("log", False), bool):
        raise ValueError(f"log: expected true or false, got {bounds['log']!r}")
    for value in numbers:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"expected numbers, got {value!r}")
    whole = all(isinstance(bounds[name], int) for name in ("low", "high"))
    return (IntDistribution if whole else FloatDistribution)(**bounds)
