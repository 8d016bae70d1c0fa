"""The sentences of a run's report: its training, and metrics and classes that need a remark."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import join_names
from src.kindling.runs.files import read_json
from src.kindling.runs.metric_names import canonical_name

if TYPE_CHECKING:
    from src.kindling.analysis.predictions import Predictions
    from src.kindling.training.trained_run import TrainedRun


def read_optional(run: TrainedRun, name: str) -> dict[str, Any]:
    """Read one of a run's JSON files; empty where it is missing."""
    path = run.path / name
    return read_json(path) if path.exists() else {}


def describe_training(run: TrainedRun) -> list[str]:
    """Sentences on how the training ended, its best epoch, and overfitting."""
    from src.kindling.analysis.history import describe_overfitting, read_metrics

    meta = read_optional(run, "meta.json")
    state = meta.get("exit", "unknown")
    sentences = {
        "finished": "The training finished.",
        "interrupted": f"It was interrupted by {meta.get('by', 'a signal')}.",
        "running": "It is running, or its process is gone.",
    }
    notes = [sentences.get(state, f"It {state}."), *str(meta.get("error") or "").splitlines()]
    table, monitor = (
        read_metrics(run.path / "metrics.csv"),
        canonical_name(meta.get("monitor") or ""),
    )
    if monitor in table and table[monitor].notna().any():
        scores = table[monitor]
        best = table.loc[scores.idxmin() if meta.get("mode") == "min" else scores.idxmax()]
        limit = read_optional(run, "run.json").get("config", {}).get("trainer.max_epochs", "?")
        epochs = meta.get("epochs", limit)
        epochs = epochs if epochs == limit else f"{epochs} (at most {limit})"
        notes.append(
            f"The best {monitor}, {best[monitor]:.4g}, is of epoch {best['epoch'] + 1:.0f} of "
            f"{epochs}; the result is measured with its weights."
        )
    if overfitting := describe_overfitting(table):
        notes.append(overfitting[0].upper() + overfitting[1:] + ".")
    return notes


def list_unsplit(metrics: dict[str, Any]) -> list[str]:
    """A sentence with the metrics whose names do not begin with a split."""
    others = [
        f"{name} {format_number(value)}"
        for name, value in metrics.items()
        if name.partition("/")[0] not in ("val", "test")
    ]
    return [f"Metrics without val or test in their names: {', '.join(others)}."] if others else []


def list_missing_classes(predictions: Predictions | None) -> list[str]:
    """A sentence with the classes or labels that no test sample has."""
    from src.kindling.analysis.outputs import outputs_for

    if predictions is None or predictions.spec is None:
        return []
    outputs = outputs_for(predictions.spec)
    missing, count = outputs.find_missing(predictions["target"]), len(outputs.names)
    if not missing:
        return []
    return [
        f"Classes without a {predictions.stage} sample: {join_names(missing)}. {outputs.averages} "
        f"are means over the other {count - len(missing)} of {count}."
    ]


def format_number(value: float | None) -> str:
    """Four digits; nothing for None or NaN."""
    if value is None or math.isnan(value):
        return ""
    size = abs(value)
    if not size or 1e-3 <= size < 10:
        return f"{value:.4f}"
    if size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 1e4 else f"{value:#.4g}".removesuffix(".")
