"""Record the output shape and the FLOPs of each layer, and list them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Layer:
    """The output and the FLOPs of a layer for one sample."""

    output: tuple[int, ...] | None  # the first tensor's shape; None if there is none
    flops: int  # of the forward pass; a multiply-add counts as two


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of torch's operations while entered.

    Unlike torch's FlopCounterMode, it does not track modules, which fails for some backward passes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class LayerTrace(Callback):
    """Traces the first call of each module in a training of a copy of the task.

    Attributes:
        layers: by the module's name, in the order in which they end.
        counter: to be entered around the training.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}
        self.counter = FlopCounter()
        self.batch_size = 1

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        with suppress(MisconfigurationException):  # the batch holds no tensor
            self.batch_size = extract_batch_size(batch)
        for name, part in module.named_modules():
            self._watch(name, part)

    def _watch(self, name: str, module: nn.Module) -> None:
        before: list[int] = []

        def start(*_: Any) -> None:
            before.append(self.counter.total)

        def end(_: nn.Module, inputs: Any, output: Any) -> None:
            if name in self.layers:
                return
            shapes = [leaf.shape for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
            shape = tuple(shapes[0]) if shapes else None
            # torch has no formula for the fused operation of a recurrent layer.
            if isinstance(module, nn.RNNBase) and self.counter.total == before[0]:
                weights = sum(p.numel() for p in module.parameters() if p.ndim == 2)
                self.counter.total += 2 * weights * math.prod(shapes[0][:-1])
            if shape and shape[0] == self.batch_size:
                shape = shape[1:]
            flops = (self.counter.total - before[0]) // self.batch_size
            self.layers[name] = Layer(shape, flops)

        module.register_forward_pre_hook(start)
        module.register_forward_hook(end)


def summarize_layers(task: LightningModule, layers: Mapping[str, Layer]) -> pd.DataFrame:
    """List kind, output shape, parameters and FLOPs of each layer for one sample, and the sums.

    A multiply-add counts as two FLOPs.

    Args:
        task: whose layers are listed: those with parameters, and those that return a tensor.
        layers: of a `LayerTrace`; empty where the task was not rehearsed.
    """
    rows = []
    for name, part in task.named_modules():
        count = sum(parameter.numel() for parameter in part.parameters())
        output = layers[name].output if name in layers else None
        if not any(part.children()) and (count or output):
            shape = " x ".join(map(str, output or ()))
            flops = layers[name].flops if name in layers else 0
            rows.append((name, type(part).__name__, shape, count, flops))
    total = sum(parameter.numel() for parameter in task.parameters())
    rows.append(("all", "", "", total, sum(row[-1] for row in rows)))
    return pd.DataFrame(rows, columns=["layer", "kind", "output", "parameters", "FLOPs"])


def format_layers(table: pd.DataFrame, max_rows: int | None = None) -> str:
    """Format a table of `summarize_layers` for the terminal, with thousands separators."""
    formatters = {"parameters": "{:,}".format, "FLOPs": "{:,}".format}
    for name in ("layer", "kind", "output"):
        formatters[name] = f"{{:<{table[name].str.len().max()}}}".format
    return str(
        table.to_string(index=False, formatters=formatters, justify="left", max_rows=max_rows)
    )
