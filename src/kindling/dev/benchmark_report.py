"""Report a benchmark: throughput, the time of each part of a step, and advice."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from src.kindling.config.compose import Config
from src.kindling.config.errors import format_count
from src.kindling.data.data_module import DataModule
from src.kindling.dev.step_profiler import LOOP, PARTS

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LABELS = {  # of the rates, in the order in which they are measured
    "model_only": "the model only",
    "loader": "the data loader",
    "fit": "the whole fit",
    "raw": "the textbook loop",
}
MODEL = ("net and loss", "backward", "optimizer")


@dataclass(frozen=True)
class Round:
    """One measurement of everything."""

    rates: dict[str, float]  # samples per second
    parts: dict[str, float]  # seconds of a training by its parts
    batches: int  # of each of its epochs


def build_report(
    config: Config, data: DataModule, rounds: list[Round], device: str
) -> dict[str, Any]:
    """Summarize the rounds: medians, and the lowest and highest value under `range`."""
    on_gpu = device.startswith("cuda")
    rates = pd.DataFrame([one.rates for one in rounds])
    others = [name for name in ("model_only", "raw") if name in rates]
    groups = {
        "rates": rates,
        "of_model_only_throughput": rates.div(rates["model_only"], axis="index"),
        "ratios": pd.DataFrame({f"fit / {name}": rates["fit"] / rates[name] for name in others}),
        "milliseconds": split_batch(rounds, 1000 * data.batch_size / rates["fit"].median()),
    }
    report = {
        "config": config.name,
        "device": torch.cuda.get_device_name() if on_gpu else device,
        "num_threads": torch.get_num_threads(),
        "num_workers": data.num_workers,
        "batch_size": data.batch_size,
        "batches_per_epoch": statistics.median_low(one.batches for one in rounds),
        "rounds": len(rounds),
        "unit": "images/s" if data.spec.kind == "image" else "rows/s",
        **{key: table.median().to_dict() for key, table in groups.items()},
        "milliseconds": groups["milliseconds"].mean().to_dict(),
        "range": {key: table.agg(["min", "max"]).to_dict("list") for key, table in groups.items()},
        "peak_memory_mib": _peak_memory(),
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None,
    }
    return {**report, "advice": list(advise(data, report))}


def split_batch(rounds: list[Round], total: float) -> pd.DataFrame:
    """Split the milliseconds of a batch by each round's parts: their means add up to `total`."""
    parts = pd.DataFrame([one.parts for one in rounds]).fillna(0.0)
    parts = parts[[name for name in (*PARTS.values(), LOOP) if name in parts]]
    return total * parts.div(parts.sum(axis="columns"), axis="index")


def _peak_memory() -> float | None:
    """MiB; None where the system does not measure it."""
    if resource is None:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def advise(data: DataModule, report: dict[str, Any]) -> Iterator[str]:
    rates, times, unit = report["rates"], report["milliseconds"], report["unit"]
    if rates["loader"] < rates["model_only"]:
        slow = f"the data loader gives {rates['loader']:,.0f} {unit}"
        slow += f", the model takes {rates['model_only']:,.0f}"
        if data.transforms["train"] is not None:
            yield f"{slow}: use the batch transforms of src/kindling/data/augment.py"
        elif hasattr(data.samples.x, "paths") and getattr(data, "cache", None) == "none":
            yield f"{slow}: set data.cache=memmap"
        else:
            yield f"{slow}: set num_threads=1, which leaves cores for more workers"
    loop = sum(times.get(name, 0.0) for name in (LOOP, "callbacks", "logging"))
    if loop > sum(times[name] for name in MODEL):
        yield "the loop takes longer than the net: set a larger data.batch_size, for fewer steps"
    if report["rounds"] == 1:
        yield "measured once, so the uncertainty is unknown: set a larger --rounds or --seconds"


def print_report(report: dict[str, Any]) -> None:
    threads = format_count(report["num_threads"], "thread")
    workers = format_count(report["num_workers"], "worker")
    device, size = report["device"], report["batch_size"]
    print(f"{report['config']} on {device}, {threads}, {workers}, batches of {size}")
    print(f"medians of {format_count(report['rounds'], 'round')}, and their range")
    rates = Table("", report["unit"], "", "of model only", box=None, pad_edge=False)
    for name, share in report["of_model_only_throughput"].items():
        rates.add_row(LABELS[name], *_format(report, "rates", name, ",.0f"), f"{share:.2f}")
    heading = f"a batch (epochs of {report['batches_per_epoch']})"
    parts = Table(heading, "ms", "", box=None, pad_edge=False)
    for name in report["milliseconds"]:
        parts.add_row(name, *_format(report, "milliseconds", name, ".2f"))
    parts.add_row("all parts: the whole step", f"{sum(report['milliseconds'].values()):.2f}")
    for table in (rates, parts):
        for column in table.columns[1:]:
            column.justify = "right"
        Console().print(table)
    for name in report["ratios"]:
        ratio, spread = _format(report, "ratios", name, ".2f")
        print(f"{name:<16} {ratio} ({spread})")
    for label, key in (("peak memory", "peak_memory_mib"), ("GPU memory", "peak_gpu_memory_mib")):
        if report[key] is not None:
            print(f"{label:<16} {report[key]:,.0f} MiB")
    for line in report["advice"]:
        print(f"{'advice':<16} {line}")


def _format(report: dict[str, Any], key: str, name: str, form: str) -> tuple[str, str]:
    """A value, and its range over the rounds."""
    low, high = report["range"][key][name]
    return f"{report[key][name]:{form}}", f"{low:{form}} to {high:{form}}"
