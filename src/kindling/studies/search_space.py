"""A search space: a file of configs/space/, read and sampled; see docs/how-to/tune.md."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.kindling.analysis.leaderboard import MEASURED
from src.kindling.config import compose as config_module
from src.kindling.config.compose import _read_yaml
from src.kindling.config.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

# Keys that change what the metric measures; and keys that the study sets.
OTHER = ("monitor", "mode", "data", *MEASURED)
DEVICES = ("trainer", "trainer.devices", "trainer.strategy", "trainer.num_nodes")
OWN = ("data.fold", "num_threads", "name", "tags", *DEVICES)
FIELDS = ("choices", "low", "high", "log", "step", "when")
EXAMPLE = "task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}"


@dataclass(frozen=True)
class Parameter:
    """One key of a search space."""

    key: str
    distribution: Any  # Optuna's; a choice that is a list or a dict is JSON text there
    choices: dict[Any, Any]  # the config value of each of Optuna's choices; empty for a range
    when: dict[str, list[Any]]  # choices of earlier keys without which this one is not set
    stepped: bool  # whether the file sets a step

    @property
    def ends(self) -> list[Any]:
        """Optuna's values of all choices, or of both bounds."""
        return [*self.choices] or [self.distribution.low, self.distribution.high]

    def suggest(self, trial: BaseTrial) -> Any:
        """Draw a config value."""
        given = self.distribution
        if self.choices:
            return self.choices[trial.suggest_categorical(self.key, given.choices)]
        suggest: Any = trial.suggest_int if isinstance(given.low, int) else trial.suggest_float
        return suggest(self.key, given.low, given.high, step=given.step, log=given.log)

    def grid(self) -> list[Any]:
        """All of Optuna's values; raise InputError for a range without a step."""
        given = self.distribution
        if self.choices:
            return self.ends
        if given.step is None:
            problem = "a range without a step has no grid"
            remedy = "add 'step' or list choices, or leave out --sampler grid"
            raise InputError(f"{self.key}: {problem}; {remedy}")
        count = round((given.high - given.low) / given.step) + 1
        return [given.low + given.step * i for i in range(count)]


@dataclass(frozen=True)
class Space:
    """A search space: the parameters, in the order of the file."""

    file: str
    parameters: tuple[Parameter, ...]

    def to_plain(self) -> dict[str, Any]:
        """The space as plain values."""
        conditions = {p.key: {"when": p.when} if p.when else {} for p in self.parameters}
        return {p.key: p.distribution._asdict() | conditions[p.key] for p in self.parameters}

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Draw config keys and values."""
        values: dict[str, Any] = {}
        for p in self.parameters:
            if all(key in values and values[key] in some for key, some in p.when.items()):
                values[p.key] = p.suggest(trial)
        return values

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of Optuna's values, each once."""
        from optuna.trial import FixedTrial

        keys, found = [p.key for p in self.parameters], dict[str, dict[str, Any]]()
        for combination in itertools.product(*(p.grid() for p in self.parameters)):
            trial = FixedTrial(dict(zip(keys, combination, strict=True)))
            found.setdefault(json.dumps(self.suggest(trial)), trial.params)
        return list(found.values())

    def samples(self) -> list[dict[str, Any]]:
        """Draws that contain every choice and every bound; raise InputError for a key in none."""
        from optuna.trial import FixedTrial

        ends, found = {p.key: p.ends for p in self.parameters}, list[dict[str, Any]]()
        left = [(key, value) for key, some in ends.items() for value in some]
        deciding = {key: ends[key] for p in self.parameters for key in p.when}
        first = {key: some[0] for key, some in ends.items()}
        for combination in itertools.product(*deciding.values()):
            chosen = first | dict(zip(deciding, combination, strict=True))
            for key, value in list(left):
                values = self.suggest(FixedTrial({**chosen, key: value}))
                if key in values:
                    left.remove((key, value))
                    found.append(values)
        if left:
            raise InputError(f"{left[0][0]}: never set; change its 'when' ({self.file})")
        return found


def read_space(name: str) -> Space:
    """Read a file of configs/space/; raise InputError with a line for each mistake in it."""
    path, errors = config_module.CONFIGS / "space" / f"{name}.yaml", list[str]()
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        hint = did_you_mean(name, known)
        raise InputError(f"{name}: no such space{hint} (configs/space/ has: {', '.join(known)})")
    lines, file = _read_yaml(path, errors), f"configs/space/{name}.yaml"
    if not lines and not errors:
        errors.append(f"{file}: empty; add a line such as '{EXAMPLE}'")
    parameters: dict[str, Parameter] = {}
    for key, given in lines.items():
        try:
            with warnings.catch_warnings(action="error"):  # Optuna's, for a step that does not fit
                parameters[key] = _read_parameter(key, given, parameters)
        except (ValueError, TypeError, UserWarning) as error:
            errors.append(f"{key}: {error} ({file})")
    if errors:
        raise InputError(errors)
    return Space(file, tuple(parameters.values()))


def describe_space() -> dict[str, Any]:
    """Describe a file of configs/space/ by a JSON schema."""
    number, choices = {"type": "number"}, {"type": "array", "minItems": 1}
    known = {"choices": choices, "log": {"type": "boolean"}, "when": {"type": "object"}}
    fields = {name: known.get(name, number) for name in FIELDS}
    one = {"type": "object", "properties": fields, "additionalProperties": False}
    return {"additionalProperties": {"anyOf": [choices, one]}}


def _read_parameter(key: str, given: Any, above: dict[str, Parameter]) -> Parameter:
    """Read one line; raises ValueError with the problem."""
    from optuna.distributions import CategoricalDistribution

    given = {"choices": given} if isinstance(given, list) else given
    if key == "seed":
        problem = "cannot be searched: the best of several seeds is luck"
        raise ValueError(f"{problem}; remove the line, and pass --confirm 5 to train several")
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
        return Parameter(key, _read_range(bounds), {}, when, "step" in bounds)
    if bounds:
        raise ValueError("has choices and a range; remove one of them")
    choices = _read_choices(given["choices"])
    return Parameter(key, CategoricalDistribution([*choices]), choices, when, False)


def _read_conditions(given: Any, above: dict[str, Parameter]) -> dict[str, list[Any]]:
    if not isinstance(given, dict):
        expected = "expected keys above it and their choices, such as {net: cnn}"
        raise ValueError(f"when: {expected}, got {given!r}")
    when = {key: some if isinstance(some, list) else [some] for key, some in given.items()}
    for key, some in when.items():
        if key not in above:
            raise ValueError(f"when: no '{key}' above it{did_you_mean(str(key), above)}")
        choices = [*above[key].choices.values()]
        if wrong := [value for value in some if value not in choices]:
            raise ValueError(f"when: '{key}' is never {wrong[0]!r} (its choices: {choices})")
    return when


def _read_choices(choices: Any) -> dict[Any, Any]:
    if not isinstance(choices, list):
        raise ValueError(f"expected a list of choices, got {choices!r}")
    found = {json.dumps(one) if isinstance(one, list | dict) else one: one for one in choices}
    if len(found) < len(choices):
        raise ValueError(f"has a choice twice: {choices}")
    return found


def _read_range(bounds: dict[str, Any]) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if not isinstance(bounds.get("log", False), bool):
        raise ValueError(f"log: expected true or false, got {bounds['log']!r}")
    for name, value in bounds.items():
        if name != "log" and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"expected numbers, got {value!r}")
    whole = isinstance(bounds["low"], int) and isinstance(bounds["high"], int)
    return (IntDistribution if whole else FloatDistribution)(**bounds)
