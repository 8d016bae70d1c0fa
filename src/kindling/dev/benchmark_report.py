"""Report a benchmark: throughput, where the time of a batch goes, and what to change."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from src.kindling.config.compose import Config
from src.kindling.config.errors import format_count
from src.kindling.data.data_module import DataModule

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LABELS = {  # of the parts, in the order in which they are measured
    "model_only": "model only: net, loss and optimizer over one batch",
    "step": "the task's training step over one batch",
    "loader": "the data loader",
    "copy": "the copy to the device",
    "augmentation": "preprocessing and augmentation",
    "bare": "Lightning's loop without callbacks and loggers",
    "unlogged": "the fit without loggers",
    "fit": "the whole fit",
    "raw": "the textbook loop",
}


def build_report(
    config: Config, data: DataModule, measured: dict[str, list[float]], device: str
) -> dict[str, Any]:
    """Summarize the throughput that was measured in each round."""
    on_gpu = device.startswith("cuda")
    rates = {name: statistics.median(values) for name, values in measured.items()}
    milliseconds = _split_batch_time(rates, data)

    def compare(name: str, other: str) -> float:
        pairs = zip(measured[name], measured[other], strict=True)
        return statistics.median(one / two for one, two in pairs)

    return {
        "config": config.name,
        "device": torch.cuda.get_device_name() if on_gpu else device,
        "num_threads": torch.get_num_threads(),
        "num_workers": data.num_workers,
        "batch_size": data.batch_size,
        "unit": _unit(data),
        "rates": rates,
        "of_model_only_throughput": {name: compare(name, "model_only") for name in measured},
        "ratios": {
            f"fit / {name}": compare("fit", name)
            for name in ("model_only", "raw")
            if name in measured
        },
        "milliseconds": milliseconds,
        "peak_memory_mib": _peak_memory(),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
        "advice": list(advise(data, rates, milliseconds)),
    }


def _split_batch_time(rates: dict[str, float], data: DataModule) -> dict[str, float]:
    """The milliseconds of a batch, by the part of the fit that takes them."""
    total = {name: 1000 * data.batch_size / rate for name, rate in rates.items()}
    augmentation = total.get("augmentation", 0.0)
    wait = max(0.0, total["loader"] - total["step"]) if data.num_workers else total["loader"]
    metrics = total["step"] - total["model_only"] - augmentation
    split = {"net, loss, optimizer": total["model_only"]}
    if augmentation:
        split |= {"preprocessing and augmentation": augmentation, "metrics": metrics}
    else:
        split["preprocessing and metrics"] = metrics
    split |= {
        "data": wait,
        "copy to the device": total.get("copy", 0.0),
        "logging": total["fit"] - total["unlogged"],
        "callbacks": total["unlogged"] - total["bare"],
    }
    return split | {"Lightning's loop": total["fit"] - sum(split.values())}


def _peak_memory() -> float | None:
    """MiB; None where the system does not measure it."""
    if resource is None:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def _unit(data: DataModule) -> str:
    return "images/s" if data.spec.kind == "image" else "rows/s"


def advise(
    data: DataModule, rates: dict[str, float], milliseconds: dict[str, float]
) -> Iterator[str]:
    if rates["loader"] < rates["step"]:
        slow = (
            f"the data loader gives {rates['loader']:,.0f} {_unit(data)}, "
            f"the training step takes {rates['step']:,.0f}"
        )
        if data.transforms["train"] is not None:
            yield f"{slow}: use the batch transforms of src/kindling/data/augment.py"
        elif hasattr(data.samples.x, "paths") and getattr(data, "cache", None) == "none":
            yield f"{slow}: set data.cache=memmap"
        else:
            yield f"{slow}: set num_threads=1, which leaves cores for more workers"
    model_only = milliseconds["net, loss, optimizer"]
    if min(milliseconds.values()) < -0.05 * model_only:
        yield "a part takes less than no time: the machine was busy; measure again when it is idle"
    if (
        sum(milliseconds[name] for name in ("Lightning's loop", "callbacks", "logging"))
        > model_only
    ):
        yield "the loop takes longer than the net: set a larger data.batch_size, for fewer steps"


def print_report(report: dict[str, Any]) -> None:
    threads = format_count(report["num_threads"], "thread")
    workers = format_count(report["num_workers"], "worker")
    device, size = report["device"], report["batch_size"]
    print(f"{report['config']} on {device}, {threads}, {workers}, batches of {size}")
    rates = Table("", report["unit"], "of model-only throughput", box=None, pad_edge=False)
    for name, rate in report["rates"].items():
        share = report["of_model_only_throughput"][name]
        rates.add_row(LABELS[name], f"{rate:,.0f}", f"{share:.2f}")
    parts = Table("a batch", "ms", box=None, pad_edge=False)
    for name, value in report["milliseconds"].items():
        parts.add_row(name, f"{value:.2f}")
    for table in (rates, parts):
        for column in table.columns[1:]:
            column.justify = "right"
        Console().print(table)
    for name, ratio in report["ratios"].items():
        print(f"{name:<16} {ratio:.2f}")
    for label, key in (("peak memory", "peak_memory_mib"), ("GPU memory", "peak_gpu_memory_mib")):
        if report[key] is not None:
            print(f"{label:<16} {report[key]:,.0f} MiB")
    for line in report["advice"]:
        print(f"{'advice':<16} {line}")
