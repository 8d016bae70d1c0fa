"""Show a config without training: its values and their origins, its net's layers, its stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, seed_everything
from torch import nn

from src.kindling.config import instantiate
from src.kindling.config.compose import Config, compose, flatten
from src.kindling.config.defaults import with_defaults
from src.kindling.config.errors import escape_control
from src.kindling.nn.additions import net_of
from src.kindling.runs.redact import redacted
from src.kindling.training.build import build_data, build_task, choose_speed, fill_defaults
from src.kindling.training.layer_trace import LayerTrace, format_layers, summarize_layers
from src.kindling.training.monitor import choose_monitor
from src.kindling.training.rehearsal import Stages, rehearse
from src.kindling.training.warning_filters import quiet

COLUMN = 48  # of the comments


def show(name: str, overrides: Sequence[str], dry_run: bool = False) -> None:
    """Print a config as YAML; its net and, of a dry run, each stage follow as comments.

    A batch of each stage runs through a copy of the task, which gives the shapes. No run is made.

    Raises:
        InputError: as a training does before its first step.
    """
    composed = compose(name, overrides)
    instantiate.check(composed)
    quiet()
    stages, trace, printed = Stages(), LayerTrace(), StringIO()
    with redirect_stdout(printed):  # building may print; these lines become comments
        filled = fill_defaults(composed)
        values = instantiate.values(filled)
        torch.set_num_threads(values.num_threads or 1)
        data = build_data(filled)
        config = choose_speed(filled, data)
        seed_everything(values.seed, verbose=False)
        task = build_task(config, data, load_weights=False)
        logged = rehearse(config, data, task, trace, stages)
        monitor = choose_monitor(values, task, logged)
    lines = ["", *printed.getvalue().splitlines(), *_describe_net(task, trace)]
    if dry_run:
        lines += ["", *_describe_stages(stages), f"monitor: {monitor.name or 'nothing'}"]
        if logged is None:
            lines.append("not rehearsed: the task is large, cannot be copied, or needs a GPU")
    print("\n".join(format_values(composed, filled, config)))
    print("\n".join(f"# {escape_control(line)}".rstrip() for line in lines))


def format_values(composed: Config, filled: Config, config: Config) -> list[str]:
    """Format a config as YAML, with a comment that has the origin of each value.

    Args:
        composed: the config as written.
        filled: with the defaults of its plain values.
        config: with the choices for this machine.
    """
    written = flatten(composed.values)
    defaults = flatten(with_defaults(filled.values))

    def origin(key: str, value: Any) -> str:
        if key in written:
            return composed.origin(key)
        chosen = key == "num_threads" or defaults.get(key, value) != value
        return "chosen for this machine" if chosen else "default"

    return [*_annotate(redacted(with_defaults(config.values)), origin)]


class _Dumper(yaml.SafeDumper):
    """Writes each plain value, also a list of such, in one line, as OmegaConf reads it."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        nested = isinstance(sequence, list) and any(isinstance(item, dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=not nested)

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> Any:
        return super().represent_scalar(tag, value, style if value.isprintable() else '"')


# OmegaConf takes such a text for a number.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d.]*[eE][-+]?\d+$"), list("-+0123456789")
)
# A constructor's default may hold anything, such as (torch.float32,).
_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))


def _annotate(values: Any, origin: Callable[[str, Any], str]) -> Iterator[str]:
    """The lines of YAML, with a comment after each value."""
    dumped = yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True)
    items = iter(flatten(values).items())
    for line in dumped.splitlines():
        is_key = line.endswith(":") or line.lstrip("-: ").startswith("? ")  # long keys
        yield line if is_key else f"{line:<{COLUMN}}  # {origin(*next(items))}"


def _describe_net(task: LightningModule, trace: LayerTrace) -> Iterator[str]:
    """The parameters of the net and its parts, then its layers with the shapes of their outputs."""
    net = net_of(task)
    yield f"{type(net).__name__}: {_count_parameters(net)}"
    for name, part in net.named_children():
        if any(True for _ in part.parameters()):
            yield f"  {name}: {_count_parameters(part)}"
    yield from ["", *format_layers(summarize_layers(task, trace.layers)).splitlines()]


def _count_parameters(module: nn.Module) -> str:
    parameters = [*module.parameters()]
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return f"{sum(p.numel() for p in parameters):,} parameters, {trained:,} trainable"


def _describe_stages(stages: Stages) -> Iterator[str]:
    for stage, shapes in stages.batches.items():
        logged = ", ".join(stages.metrics.get(stage, [])) or "nothing"
        yield f"{stage}: passed; batch {', '.join(shapes) or 'without tensors'}; logged {logged}"
