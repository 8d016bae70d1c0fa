"""From a config to objects: find each `_target_`, check its arguments against its signature, build it.

This is the second pass over what the user gave. The constructor's signature is the schema: any argument that a
target accepts may be set, whether or not a YAML file mentions it, and anything else is refused. `check` reports
all mistakes at once and constructs nothing; `build` constructs one part.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from src.kindling.config.annotations import describe, element, expected_part, validate
from src.kindling.config.compose import Config, get
from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.targets import NESTED, OF_TRAINER, find, load, parameters

# What the part of each section has to be.
KINDS = {
    "data": "src.kindling.data.data_module.DataModule",
    "net": "torch.nn.Module",
    "task": "lightning.pytorch.LightningModule",
    "finetune": "lightning.pytorch.callbacks.Callback",
    "trainer": "lightning.pytorch.Trainer",
    "callbacks": "lightning.pytorch.callbacks.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
}
NAMED = ("callbacks", "logger")  # sections of several named parts
# Names of parts become names of modules, which torch.fx and torch.export write into code that they run.
NAME = re.compile(r"[\w ./:+-]+")
EXTRAS = ("wandb", "mlflow")  # of the loggers, by their keys
# The arguments that a part is given by name, where its signature has them, so that a config leaves them out.
OF_SPEC = ("spec", "in_shape", "num_outputs")
GIVEN = {
    "data": ("seed", "threads"),
    "net": OF_SPEC,
    "task": (*OF_SPEC, "net", "augment"),
    "finetune": (),
    "trainer": (),
    "callbacks": ("monitor", "mode"),
    "logger": ("save_dir", "name", "version", "run_name"),
}
# The trainer's arguments that have a section of their own, or that the run decides.
ELSEWHERE = {
    "trainer.callbacks": "use the section 'callbacks', which gives each a name",
    "trainer.logger": "use the section 'logger'; metrics.csv and TensorBoard are always written",
    "trainer.default_root_dir": "a run's directory is made by the command, under logs/",
}
# A scheduler's arguments that follow from the length of the training and from what the task monitors.
OF_SCHEDULE = ("total_steps", "T_max", "mode")


@dataclass
class Values:
    """The sections that are plain values, and their types and defaults.

    Attributes:
        seed: of the weights, the order of the batches and everything else that is drawn.
        threads: torch's; changes results, and so is recorded.
        name, tags: what a person calls the run.
        compile: whether the net is compiled; None compiles on a GPU where it pays.
        channels_last: the memory format; None takes it for nets that convolve.
        save_minutes: how often a checkpoint is saved within an epoch.
        skip_nonfinite: how many batches whose loss or gradients are not finite are left out before training ends.
    """

    seed: int = 0
    threads: int | None = None
    name: str | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    compile: bool | None = None
    channels_last: bool | None = None
    save_minutes: float = 10.0
    skip_nonfinite: int = 0


def values(config: Config) -> Values:
    """The config's plain values, their defaults filled in.

    `threads` are the machine's cores, at most 8; or 1 where a GPU does the work, which leaves the cores to workers.
    """
    import torch

    filled = Values(**{key: value for key, value in resolve(config).items() if key in Values.__annotations__})
    if filled.threads is None:
        filled.threads = 1 if torch.cuda.is_available() else min(usable_cores(), 8)
    return filled


def check(config: Config, sections: Sequence[str] = tuple(KINDS), trained: bool = False) -> None:
    """Check sections against the signatures that they name. Constructs nothing, touches no data.

    Args:
        config: the config.
        sections: those that are going to be built.
        trained: whether it is a run's, so that weights come from its checkpoint.

    Raises:
        InputError: with one line for each unknown, mistyped or missing argument and each wrong target.
    """
    report = _Report(config, trained)
    resolved = resolve(config, report=report)
    hints = get_type_hints(Values)
    for key, annotation in hints.items():
        if key in resolved and resolved[key] is not _UNRESOLVED:
            _check_value(resolved[key], key, annotation, (), report)
    seed, threads = resolved.get("seed"), resolved.get("threads")
    if type(seed) is int and not 0 <= seed < 2**32:
        report("seed", f"expected a number from 0 to {2**32 - 1}, got {seed}")
    if type(threads) is int and not 1 <= threads <= 1024:
        report("threads", f"expected a number from 1 to 1024, got {threads}")

    for section in sections:
        node = resolved.get(section)
        if section in NAMED:
            if not isinstance(node, dict | None):
                report(section, f"expected named parts, each with its '_target_', got {node!r}")
                continue
            for name, part in (node or {}).items():
                if part is not None:  # null switches off what a file has switched on
                    _check_part(part, f"{section}.{name}", GIVEN[section], report)
            continue
        if section == "finetune" and node is None:
            continue
        if section == "trainer" and isinstance(node, dict | None):
            node = {"_target_": KINDS["trainer"], **(node or {})}
        _check_part(node, section, GIVEN[section], report)
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
            f"{' and '.join(keys)}: both are 'balanced', which corrects for rare classes twice; set only "
            f"task.class_weights=balanced, or only data.sampler=balanced ({config.origin(keys[0])})"
        )


def build(config: Config, key: str, **given: Any) -> Any:
    """Build the part under a dotted key.

    Args:
        config: a config that `check` has accepted.
        key: `net`, or `callbacks.early_stopping`.
        given: arguments offered by name to the part, and to the parts within it, where they accept them. A
            `spec` among them also gives the values of `${spec.…}` in the config.

    Raises:
        InputError: where a library's constructor refuses the values.
    """
    spec = given.get("spec")
    node = get(resolve(config, spec), key)
    if key == "trainer":
        node = {"_target_": KINDS["trainer"], **(node or {})}
    return _build_part(node, key, given, config)


def resolve(config: Config, spec: Any = None, report: _Report | None = None) -> dict[str, Any]:
    """The config's values with their references (`${oc.env:HOME}`, `${spec.num_outputs}`) replaced.

    Without a spec, references to it stay behind as `Later`. With a report, errors are added to it instead of
    being raised.
    """
    names = (
        [field.name for field in dataclasses.fields(spec)] if spec is not None else _OF_SPEC.findall(str(config.values))
    )
    of_spec = dataclasses.asdict(spec) if spec is not None else {name: f"{_LATER}{name}" for name in names}

    @functools.cache  # made where there is a reference: it takes 5 ms, ten times in a training
    def tree() -> Any:
        return OmegaConf.create({**dataclasses.asdict(Values()), **config.values, "spec": of_spec})

    def walk(value: Any, node: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: walk(value[key], lambda key=key: node()[key], f"{path}.{key}".lstrip(".")) for key in value}
        if isinstance(value, list):
            return [walk(item, lambda i=i: node()[i], f"{path}.{i}") for i, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            found = node()
        except OmegaConfBaseException as error:
            message = str(error).partition("\n")[0].rpartition("interpolation: ")[2].strip('"')
            if isinstance(error, InterpolationKeyError) and "${spec." in value:
                wrong = value.partition("${spec.")[2].partition("}")[0]
                message = f"the data's spec has no '{wrong}'{did_you_mean(wrong, names)}"
            if report is None:
                raise InputError(f"{path}: {value}: {message} ({config.origin(path)})") from None
            report(path, f"{value}: {message}")
            return _UNRESOLVED
        if isinstance(found, str) and _LATER in found:
            if path.partition(".")[0] not in ("net", "task"):
                line = f"{value}: the data's spec is known to net and task alone"
                if report is None:
                    raise InputError(f"{path}: {line} ({config.origin(path)})")
                report(path, line)
            return _UNRESOLVED
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    return {key: walk(value, lambda key=key: tree()[key], key) for key, value in config.values.items()}


# ---------------------------------------------------------------------------------------------------------------
# Checking and building


class _Unresolved:
    """Stands for a value that is not known yet, or that has been reported as wrong already."""


_UNRESOLVED = _Unresolved()
_LATER = "\0spec."
_OF_SPEC = re.compile(r"\$\{spec\.(\w+)\}")


class _Report:
    def __init__(self, config: Config, trained: bool = False) -> None:
        self.config, self.trained = config, trained
        self.lines: list[str] = []

    def __call__(self, key: str, text: str) -> None:
        self.lines.append(f"{key}: {text} ({self.config.origin(key)})")


def _target(node: Mapping[str, Any], key: str, annotation: Any = None) -> Any:
    """The class or function of a part, if its place takes it: a section, or an argument with this annotation.

    Raises:
        ValueError: with the reason.
    """
    section, _, rest = key.partition(".")
    if section in KINDS and "." not in (rest if section in NAMED else key):
        return find(node["_target_"], (load(KINDS[section]),))
    expected, _, _ = expected_part(annotation)
    return find(node["_target_"], expected, OF_TRAINER if section == "trainer" else NESTED)


def _check_part(node: Any, key: str, given: Sequence[str], report: _Report, annotation: Any = None) -> None:
    if isinstance(node, _Unresolved):
        return
    if not isinstance(node, dict) or "_target_" not in node:
        report(key, f"expected a part with a '_target_', got {'null' if node is None else repr(node)}")
        return
    try:
        target = _target(node, key, annotation)
    except ValueError as error:
        report(f"{key}._target_", str(error))
        return
    _, partial, positional = expected_part(annotation)
    accepted = parameters(target)
    title = target.__name__
    for name, value in node.items():
        if name == "_target_":
            continue
        if f"{key}.{name}" in ELSEWHERE:
            report(f"{key}.{name}", f"not set here: {ELSEWHERE[f'{key}.{name}']}")
        elif name not in accepted:
            hint = did_you_mean(str(name), accepted) or f" (it accepts: {', '.join(accepted) or 'none'})"
            report(f"{key}.{name}", f"{title} has no argument '{name}'{hint}")
        elif value == "???":
            report(f"{key}.{name}", f"{title} needs it, and it is not set; add {key}.{name}=…")
        else:
            _check_value(value, f"{key}.{name}", accepted[name].annotation, given, report)
    filled = {*list(accepted)[:positional], *given, *(OF_SCHEDULE if partial else ())}
    for name, parameter in accepted.items():
        if parameter.default is parameter.empty and name not in node and name not in filled:
            report(f"{key}.{name}", f"{title} needs it, and it is not set; add {key}.{name}=…")
        downloads = name == "weights_backbone" and parameter.default is not None
        if downloads and name not in node and not report.trained:
            report(f"{key}.{name}", f"{title} downloads weights unless it is set; add {key}.{name}=null")


def _check_value(value: Any, key: str, annotation: Any, given: Sequence[str], report: _Report) -> None:
    if isinstance(value, _Unresolved):
        return
    if isinstance(value, dict) and "_target_" in value:
        within = tuple(name for name in given if name in OF_SPEC)
        _check_part(value, key, within, report, annotation)
    elif isinstance(value, dict | list) and _holds_parts(value):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            if line := _wrong_name(name):
                report(key, line)
            _check_value(item, f"{key}.{name}", element(annotation), given, report)
    else:
        try:
            validate(value, annotation)
        except ValueError:
            report(key, f"expected {describe(annotation)}, got {value!r}")


def _wrong_name(name: Any) -> str | None:
    fits = isinstance(name, int) or NAME.fullmatch(str(name))
    return None if fits else f"{name!r} cannot name a part; use letters, digits, spaces and ._:/+-"


def _holds_parts(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(item, _Unresolved | dict) and (isinstance(item, _Unresolved) or "_target_" in item)
               for item in items)  # fmt: skip


def _build_part(node: Any, key: str, given: Mapping[str, Any], config: Config, annotation: Any = None) -> Any:
    try:
        target = _target(node, key, annotation)
    except ValueError as error:
        raise InputError(f"{key}._target_: {error} ({config.origin(key)})") from None
    _, partial, _ = expected_part(annotation)
    accepted = parameters(target)
    arguments = {
        name: _build_value(value, f"{key}.{name}", accepted[name].annotation, given, config)
        for name, value in node.items()
        if name != "_target_"
    }
    if "weights_backbone" in accepted:  # never downloaded here: `check` asks for it, or a checkpoint has the weights
        arguments.setdefault("weights_backbone", None)
    if partial:
        return functools.partial(target, **arguments)
    if not {"monitor", "mode"} <= accepted.keys():  # a mode of something else
        given = {name: value for name, value in given.items() if name not in ("monitor", "mode")}
    arguments = {**{name: value for name, value in given.items() if name in accepted}, **arguments}
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    # In a module of this repository, a TypeError is more likely to be a mistake there than in the values.
    refusals: tuple[type[Exception], ...] = (ValueError, MisconfigurationException, ImportError)
    if not target.__module__.startswith("src."):
        refusals += (TypeError, RuntimeError, AssertionError)
    try:
        return target(**arguments)
    except refusals as error:
        message = str(error).partition("\n")[0]
        extra = key.rpartition(".")[2]
        if isinstance(error, ImportError) and extra in EXTRAS:
            message = f"{extra} is not installed: pip install -e '.[{extra}]'"
        if "No supported gpu backend" in message:
            message = "torch finds no GPU here; trainer=cpu does without"
        raise InputError(f"{key}: {target.__name__}: {message} ({config.origin(key)})") from error


def _build_value(value: Any, key: str, annotation: Any, given: Mapping[str, Any], config: Config) -> Any:
    if isinstance(value, dict) and "_target_" in value:
        within = {name: item for name, item in given.items() if name in OF_SPEC}
        return _build_part(value, key, within, config, annotation)
    if isinstance(value, dict) and _holds_parts(value):
        for line in filter(None, map(_wrong_name, value)):
            raise InputError(f"{key}: {line} ({config.origin(key)})")
        return {k: _build_value(v, f"{key}.{k}", element(annotation), given, config) for k, v in value.items()}
    if isinstance(value, list) and _holds_parts(value):
        return [_build_value(v, f"{key}.{i}", element(annotation), given, config) for i, v in enumerate(value)]
    return validate(value, annotation)
