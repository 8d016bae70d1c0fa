"""Check a config against the signatures that it names. Constructs nothing, touches no data.

This is the second pass over the user's input. The constructor's signature is the schema: any
argument that a target accepts may be set, whether or not a YAML file mentions it, and anything
else is refused. All mistakes are reported at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from src.kindling.config.annotations import describe, element, expected_part, validate
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.references import Unresolved, resolve
from src.kindling.config.sections import (
    DIRECTIVES,
    GIVEN,
    KINDS,
    NAMED,
    OF_SPEC,
    OPTIONAL,
    check_name,
    find_target,
    holds_components,
    is_section,
)
from src.kindling.config.signatures import accepts_any, parameters
from src.kindling.config.values import Config, Values, get

# The trainer's arguments that have a section of their own, or that the run decides.
ELSEWHERE = {
    "trainer.callbacks": "use the section 'callbacks', which gives each a name",
    "trainer.logger": "use the section 'logger'; metrics.csv and TensorBoard are always written",
    "trainer.default_root_dir": "a run's directory is made by the command, under logs/",
}
# A scheduler's arguments that follow from the length of the training and from the monitored metric.
OF_SCHEDULE = ("total_steps", "T_max", "mode")
# What the optimizer's or the scheduler's caller passes, so that its absence asks for a partial.
PASSED_LATER = ("params", "optimizer")


class _Report:
    def __init__(self, config: Config, trained: bool) -> None:
        self.config, self.trained = config, trained
        self.lines: list[str] = []

    def __call__(self, key: str, text: str) -> None:
        self.lines.append(f"{key}: {text} ({self.config.origin(key)})")


def check(config: Config, sections: Sequence[str] = tuple(KINDS), trained: bool = False) -> None:
    """Check sections against the signatures that they name.

    Args:
        config: the config.
        sections: those that are going to be built.
        trained: whether it is a run's, so that weights come from its checkpoint.

    Raises:
        InputError: with one line for each wrong target, and unknown, mistyped or missing argument.
    """
    report = _Report(config, trained)
    resolved = resolve(config, report=report)
    _check_plain_values(resolved, report)
    for section in sections:
        node = resolved.get(section)
        given = GIVEN[section]
        if section == "task" and resolved.get("net") is None:
            given = tuple(name for name in given if name != "net")
        if section == "trainer" and isinstance(node, dict | None):
            node = {"_target_": KINDS["trainer"], **(node or {})}
        if section not in NAMED:
            if node is not None or section not in OPTIONAL:
                _check_component(node, section, given, report)
        elif not isinstance(node, dict | None):
            report(section, f"expected named parts, each with its '_target_', got {node!r}")
        else:
            for name, part in (node or {}).items():
                if part is not None:  # null switches off what a file has switched on
                    _check_component(part, f"{section}.{name}", given, report)
    if report.lines:
        raise InputError(report.lines)


def check_training(config: Config) -> None:
    """Check what only a training refuses; a run that was trained with it can still be evaluated.

    Raises:
        InputError: when classes are balanced twice, which makes the rare ones outweigh the others.
    """
    keys = ("data.sampler", "task.class_weights")
    if all(get(config.values, key) == "balanced" for key in keys):
        raise InputError(
            f"{' and '.join(keys)}: both are 'balanced', which corrects for rare classes twice; "
            "set only task.class_weights=balanced, or only data.sampler=balanced "
            f"({config.origin(keys[0])})"
        )


def _check_plain_values(resolved: Mapping[str, Any], report: _Report) -> None:
    for key, annotation in get_type_hints(Values).items():
        if key in resolved:
            _check_value(resolved[key], key, annotation, (), report)
    for key, low, high in (("seed", 0, 2**32 - 1), ("num_threads", 1, 1024)):
        value = resolved.get(key)
        if type(value) is int and not low <= value <= high:
            report(key, f"expected a number from {low} to {high}, got {value}")


def _check_component(
    node: Any, key: str, given: Sequence[str], report: _Report, annotation: Any = None
) -> None:
    """Check a component's target and arguments; `given` are those that it gets by name."""
    if isinstance(node, Unresolved):
        return
    if not isinstance(node, dict) or "_target_" not in node:
        found = "null" if node is None else repr(node)
        report(key, f"expected a part with a '_target_', got {found}")
        return
    try:
        target = find_target(node, key, annotation)
    except ValueError as error:
        report(f"{key}._target_", str(error))
        return
    accepted = parameters(target)
    for name, value in node.items():
        if name not in DIRECTIVES:
            _check_argument(target, accepted, name, value, key, given, report)
    if "_partial_" in node:
        if is_section(key):
            report(f"{key}._partial_", "only an argument can be a partial; remove it")
        _check_value(node["_partial_"], f"{key}._partial_", bool, (), report)
    _, partial, positional = expected_part(annotation)
    filled = {*node, *list(accepted)[:positional], *given, *(OF_SCHEDULE if partial else ())}
    if not node.get("_partial_"):
        _check_missing(target, accepted, key, filled, report)
    downloads = accepted.get("weights_backbone")
    unset = downloads and downloads.default is not None and "weights_backbone" not in node
    if unset and not report.trained:
        line = f"{target.__name__} downloads weights unless it is set"
        report(f"{key}.weights_backbone", f"{line}; add {key}.weights_backbone=null")


def _check_argument(
    target: Any,
    accepted: Mapping[str, inspect.Parameter],
    name: str,
    value: Any,
    key: str,
    given: Sequence[str],
    report: _Report,
) -> None:
    argument, title = f"{key}.{name}", target.__name__
    if argument in ELSEWHERE:
        report(argument, f"not set here: {ELSEWHERE[argument]}")
    elif name not in accepted and not accepts_any(target):
        known = f" (it accepts: {', '.join(accepted) or 'none'})"
        report(
            argument,
            f"{title} has no argument '{name}'{did_you_mean(str(name), accepted) or known}",
        )
    elif value == "???":
        report(argument, f"{title} needs it, and it is not set; add {argument}=…")
    else:
        annotation = accepted[name].annotation if name in accepted else Any
        _check_value(value, argument, annotation, given, report)


def _check_missing(
    target: Any,
    accepted: Mapping[str, inspect.Parameter],
    key: str,
    filled: set[Any],
    report: _Report,
) -> None:
    for name, parameter in accepted.items():
        if parameter.default is not parameter.empty or name in filled:
            continue
        remedy = f"add {key}.{name}=…"
        if name in PASSED_LATER and not is_section(key):
            remedy = f"add {key}._partial_=true, which leaves it to the caller"
        elif (key, name) == ("task", "net"):
            remedy = "add a section net"
        report(f"{key}.{name}", f"{target.__name__} needs it, and it is not set; {remedy}")


def _check_value(
    value: Any, key: str, annotation: Any, given: Sequence[str], report: _Report
) -> None:
    if isinstance(value, Unresolved):
        return
    if isinstance(value, dict) and "_target_" in value:
        within = tuple(name for name in given if name in OF_SPEC)
        _check_component(value, key, within, report, annotation)
    elif isinstance(value, dict | list) and holds_components(value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            if line := check_name(name):
                report(key, line)
            _check_value(item, f"{key}.{name}", element(annotation), given, report)
    else:
        try:
            validate(value, annotation)
        except ValueError:
            report(key, f"expected {describe(annotation)}, got {value!r}")
