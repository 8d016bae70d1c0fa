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
    import numpy as np

    from src.kindling.analysis.history import describe_overfitting, read_metrics

    meta = read_optional(run, "meta.json")
    state = meta.get("exit", "unknown")
    sentences = {
        "finished": "The training finished.",
        "interrupted": f"It was interrupted by {meta.get('by', 'a signal')}.",
        "running": "It is running, or its process is gone.",
    }
    notes = [sentences.get(state, f"It {state}."), *str(meta.get("error") or "").splitlines()]
    path, monitor = run.path / "metrics.csv", canonical_name(meta.get("monitor") or "")
    table = read_metrics(path)
    if monitor in table:
        table = table[np.isfinite(table[monitor])]
        if len(table):
            sign = 1 if meta.get("mode") == "min" else -1
            best = table.loc[(sign * table[monitor]).idxmin()]
            limit = read_optional(run, "run.json").get("config", {}).get("trainer.max_epochs", "?")
            epochs = meta.get("epochs", limit)
            epochs = epochs if epochs == limit else f"{epochs} (at most {limit})"
            notes.append(
                f"The best {monitor}, {best[monitor]:.4g}, is of epoch {best['epoch'] + 1:.0f} of "
                f"{epochs}; the result is measured with its weights."
            )
    if overfitting := describe_overfitting(path):
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
    import numpy as np

    spec = predictions.spec if predictions else None
    if predictions is None or spec is None or spec.target_type not in ("class", "labels"):
        return []
    target, names = predictions["target"], spec.classes
    numbers = np.flatnonzero(target.any(axis=0)) if target.ndim == 2 else np.unique(target)
    missing = [name for i, name in enumerate(names) if i not in numbers]
    if not missing:
        return []
    means = "AUROC and recall" if spec.target_type == "class" else "AUROC and average precision"
    return [
        f"Classes without a {predictions.stage} sample: {join_names(missing)}. "
        f"{means} are means over the other {len(numbers)} of {len(names)}."
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
    if size >= 1e4:
        return f"{value:,.0f}"
    return f"{value:#.4g}".removesuffix(".")
