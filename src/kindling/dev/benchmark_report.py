"""What the benchmark's rates say: the share of the limit, where the time of a batch goes, and what to change."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config
from src.kindling.config.errors import counting

if TYPE_CHECKING:
    from src.kindling.data.data_module import DataModule

# What is measured, in turn, in every round; the first round warms up and is not counted.
LABELS = {
    "limit": "the limit: net, loss and optimizer over one batch",
    "step": "the task's whole step over one batch",
    "loader": "the loader alone",
    "copy": "the copy to the device",
    "augmentation": "preprocessing and augmentation",
    "bare": "Lightning's loop without callbacks and loggers",
    "unlogged": "the fit without loggers",
    "fit": "the whole fit",
    "raw": "the textbook loop",
}


def report_of(config: Config, data: DataModule, found: dict[str, list[float]], device: str) -> dict[str, Any]:
    import torch

    rates = {name: statistics.median(values) for name, values in found.items()}
    batch = data.batch_size
    milliseconds = {name: 1000 * batch / rate for name, rate in rates.items()}
    overlapped, augmentation = data.num_workers > 0, milliseconds.get("augmentation", 0.0)
    goes = {
        "net, loss, optimizer": milliseconds["limit"],
        "preprocessing and augmentation": augmentation,
        "metrics": milliseconds["step"] - milliseconds["limit"] - augmentation,
        "data": max(0.0, milliseconds["loader"] - milliseconds["step"]) if overlapped else milliseconds["loader"],
        "copy to the device": milliseconds.get("copy", 0.0),
        "logging": milliseconds["fit"] - milliseconds["unlogged"],
        "callbacks": milliseconds["unlogged"] - milliseconds["bare"],
    }
    if not augmentation:
        goes["preprocessing and metrics"] = goes.pop("metrics")
        del goes["preprocessing and augmentation"]
    goes["Lightning's loop"] = milliseconds["fit"] - sum(goes.values())

    def against(name: str, other: str) -> float:
        return statistics.median(one / two for one, two in zip(found[name], found[other], strict=True))

    ratios = {f"fit / {other}": against("fit", other) for other in ("limit", "raw") if other in found}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "config": config.name,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "num_workers": data.num_workers,
        "batch_size": batch,
        "unit": "images/s" if data.spec.kind == "image" else "rows/s",
        "rates": rates,
        "of_the_limit": {name: against(name, "limit") for name in found},
        "ratios": ratios,
        "milliseconds": goes,
        "peak_memory_mib": peak,
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else None,
        "advice": list(advice(data, rates, goes)),
    }


def advice(data: DataModule, rates: dict[str, float], goes: dict[str, float]) -> Iterator[str]:
    unit = "images/s" if data.spec.kind == "image" else "rows/s"
    if rates["loader"] < rates["step"]:
        gives = f"the loader gives {rates['loader']:,.0f} {unit}, the net could take {rates['step']:,.0f}"
        if data.transforms["train"] is not None:
            yield f"{gives}: the batch transforms of src/kindling/data/augment.py do the same on whole batches"
        elif hasattr(data.samples.x, "paths") and getattr(data, "cache", None) == "none":
            yield f"{gives}: set data.cache=memmap"
        else:
            yield f"{gives}: threads=1 makes room for more workers"
    if min(goes.values()) < -0.05 * goes["net, loss, optimizer"]:
        yield "a part of a batch comes out below zero: the machine did something else; measure again when it is idle"
    loop = goes["Lightning's loop"] + goes["callbacks"] + goes["logging"]
    if loop > goes["net, loss, optimizer"]:
        yield "most of a step is the loop around the net: a larger data.batch_size has fewer steps"


def table(report: dict[str, Any]) -> None:
    """Print the report."""
    from rich.console import Console
    from rich.table import Table

    unit = report["unit"]
    threads, workers = counting(report["threads"], "thread"), counting(report["num_workers"], "worker")
    print(f"{report['config']} on {report['device']}, {threads}, {workers}, "
          f"batches of {report['batch_size']}")  # fmt: skip
    rates = Table("", unit, "of the limit", box=None, pad_edge=False, header_style="bold")
    for name, rate in report["rates"].items():
        rates.add_row(LABELS[name], f"{rate:,.0f}", f"{report['of_the_limit'][name]:.2f}")
    parts = Table("a batch", "ms", box=None, pad_edge=False, header_style="bold")
    for name, value in report["milliseconds"].items():
        parts.add_row(name, f"{value:.2f}")
    for printed in (rates, parts):
        for column in printed.columns[1:]:
            column.justify = "right"
        Console().print(printed)
    for name, ratio in report["ratios"].items():
        print(f"{name:<12} {ratio:.2f}")
    print(f"peak memory  {report['peak_memory_mib']:,.0f} MiB")
    if report["peak_gpu_memory_mib"] is not None:
        print(f"GPU memory   {report['peak_gpu_memory_mib']:,.0f} MiB")
    for line in report["advice"]:
        print(f"advice       {line}")
