"""Print a table of a task's layers before it is trained."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from rich.console import Console
from rich.table import Table

from src.kindling.training.layer_trace import Layer, find_layer

DEPTH = 2  # of the modules in the table


class LayerTable(Callback):
    """Prints the layers that have parameters, with what they do for one sample if it is known."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers = layers

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        table = Table("", "layer", "kind", "parameters", header_style="bold")
        for name in ("FLOPs", "output") if self.layers else ():
            table.add_column(name)
        for column in (*table.columns[3:], table.columns[0]):
            column.justify = "right"
        for name, part in module.named_modules():
            count = sum(parameter.numel() for parameter in part.parameters())
            if name and name.count(".") < DEPTH and count:
                row = str(table.row_count + 1), name, type(part).__name__, f"{count:,}"
                table.add_row(*row, *self._describe(name))
        parameters = list(module.parameters())
        count = sum(parameter.numel() for parameter in parameters)
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        line = f"{count:,} parameters, {'all' if trained == count else f'{trained:,}'} trained"
        found = [find_layer(name, self.layers) for name, _ in module.named_children()]
        if flops := sum(layer.flops for layer in found if layer):
            number = get_human_readable_count(flops).strip()
            line += f"; {number} FLOPs for one sample (multiply-add: 2)"
        if table.row_count:
            Console().print(table)
        print(line)

    def _describe(self, name: str) -> tuple[str, ...]:
        """FLOPs and output; empty where there are none, as for batch norm."""
        layer = find_layer(name, self.layers)
        if layer is None:
            return ()
        flops = get_human_readable_count(layer.flops) if layer.flops else ""
        shape = "" if layer.output is None else " x ".join(map(str, layer.output)) or "1"
        return flops, shape
