"""The monitored metric, and whether less or more of it is better if the config leaves it out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torchmetrics import Metric

from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.instantiate import Values, resolve
from src.kindling.config.targets import locate, parameters
from src.kindling.nn.additions import addition
from src.kindling.runs.metric_names import canonical_name, mode_by_name, parse_name

Mode = Literal["min", "max"]
# The names that validation logs, each with its torchmetrics object if that is what is logged.
LoggedMetrics = Mapping[str, Metric | None]
# The code whose callbacks log no metric that another callback could monitor.
LOGS_NONE = ("lightning.", "src.kindling.")

NOTHING_LOGGED = (
    "monitor: validation logs no metric, so last.ckpt is kept and there is no best.ckpt; define "
    "val_dataloader and validation_step, and call self.log in it"
)


@dataclass
class Monitor:
    """The metric that selects the best checkpoint, and that callbacks and studies follow.

    Attributes:
        name: the metric, as it is logged; None where nothing is monitored.
        mode: whether less or more of it is better.
        logged: what a callback may monitor instead; None if unknown.
    """

    name: str | None
    mode: Mode = "min"
    logged: LoggedMetrics | None = None


def choose_monitor(values: Values, task: LightningModule, logged: LoggedMetrics | None) -> Monitor:
    """Choose the monitored metric and its mode; print what is inferred.

    The config's `monitor`; else the attribute `monitor` of the task; else `val/loss` or `val_loss`;
    else the only one of the metrics that validation logs (`logged`; None if unknown).

    Raises:
        InputError: when the monitor is not logged, or its mode is unknown.
    """
    if logged is None and not is_overridden("validation_step", task):
        logged = {}
    declared = addition(task, "monitor", str)
    name = values.monitor or declared
    mode: Any = values.mode or (getattr(task, "mode", None) if name == declared else None)
    mode = mode if mode in ("min", "max") else None
    names = ", ".join(sorted(logged or ())) or "none"
    if name is not None and logged is not None and name not in logged:
        spelled = [one for one in logged if canonical_name(one) == canonical_name(name)]
        if not spelled and (values.monitor or logged):
            problem = f"'{name}' is not logged in validation{did_you_mean(name, logged)}"
            raise InputError(f"monitor: {problem} (logged: {names})")
        name = spelled[0] if spelled else None  # `val_loss` for `val/loss`
    default = ""
    if name is None:
        usual = ["val/loss"] if logged is None else [*logged]
        losses = [name for name in usual if canonical_name(name) == "val/loss"]
        usual = losses[:1] or usual  # `val_loss_epoch` is the same as `val_loss`
        if len(usual) != 1:
            if logged:
                print(f"monitor: none, so no best.ckpt; set monitor=… to one of: {names}")
            elif logged is not None:
                print(NOTHING_LOGGED)
            return Monitor(None, logged=logged)
        name = usual[0]
        default = "; set monitor=… to change it"
    return Monitor(name, _require_mode(name, mode, task, logged, default=default), logged)


def check_callbacks(config: Config, task: LightningModule, logged: Collection[str]) -> None:
    """Refuse a callback's `monitor` that is not logged and resembles a name that is.

    Lightning finds it after the first epoch. Callbacks of the user's own may log metrics which a
    rehearsal does not see; with one of them, nothing is refused.
    """
    callbacks = (resolve(config).get("callbacks") or {}).items()
    sections = {name: section for name, section in callbacks if section}
    modules = [locate(section["_target_"]).__module__ for section in sections.values()]
    if is_overridden("configure_callbacks", task) or not all(
        f"{module}.".startswith(LOGS_NONE) for module in modules
    ):
        return
    lines = []
    for name, section in sections.items():
        key, watched = f"callbacks.{name}.monitor", section.get("monitor")
        # Another name may be logged in later epochs only.
        fix = did_you_mean(watched, logged) if watched and watched not in logged else ""
        if fix and section.get("strict", True):
            lines.append(f"{key}: '{watched}' is not logged{fix} ({config.origin(key)})")
    if lines:
        raise InputError(lines)


def mode_of_callback(name: str, section: dict[str, Any], monitor: Monitor, task: Any) -> Mode:
    """Return the mode of the metric that a callback monitors; print it if it is inferred."""
    accepted = parameters(locate(section["_target_"]))
    watched, mode = section.get("monitor") or monitor.name, section.get("mode")
    if watched is None and "monitor" in accepted and accepted["monitor"].default is Parameter.empty:
        names = ", ".join(sorted(monitor.logged or ())) or "none"
        raise InputError(
            f"callbacks.{name}.monitor: nothing is monitored; set it (logged: {names})"
        )
    if watched is None or "mode" not in accepted or (mode is None and watched == monitor.name):
        return monitor.mode
    return _require_mode(watched, mode, task, monitor.logged, f"callbacks.{name}.")


def _require_mode(
    name: str,
    mode: Mode | None,
    task: nn.Module,
    logged: LoggedMetrics | None,
    section: str = "",
    default: str = "",
) -> Mode:
    """Return the given mode, else the inferred one; print what the config does not say."""
    inferred, source = infer_mode(name, task, logged)
    chosen = mode or inferred
    if chosen is None:
        names = f" (logged: {', '.join(sorted(logged))})" if logged else ""
        raise InputError(
            f"{section}mode: unknown whether a higher or a lower '{name}' is better; "
            f"set {section}mode=max or {section}mode=min{names}"
        )
    better = "higher is better" if (inferred or chosen) == "max" else "lower is better"
    if inferred not in (None, chosen):
        print(f"{section}mode: {chosen}, but {better} for {name} ({source}); remove mode")
    elif (mode is None or default) and canonical_name(name) != "val/loss":
        print(f"{section}monitor: {name}, {better} ({source if inferred else 'as set'}){default}")
    return chosen


def infer_mode(
    name: str, module: nn.Module, logged: LoggedMetrics | None = None
) -> tuple[Mode | None, str]:
    """Return a metric's direction, and its source: its torchmetrics class, or its name.

    The object that is logged under the name comes first, then one of the module that is called so,
    then the words of the name: `val/dice_loss`.
    """
    names = {parse_name(name)[1].rpartition("/")[2], name.replace("/", "_")}
    called_so = [
        part
        for path, part in module.named_modules()
        if names & {path.rpartition(".")[2], *getattr(part, "names", ())}
    ]
    for part in [(logged or {}).get(name), *called_so]:
        if isinstance(part, Metric):
            higher = getattr(getattr(part, "metric", part), "higher_is_better", None)
            if higher is not None:
                return ("max" if higher else "min"), "by its torchmetrics class"
    return mode_by_name(name), "by its name"
