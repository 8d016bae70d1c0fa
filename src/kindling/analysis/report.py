"""Write report.html: a run's result, plots, data, config, and the commands to run it again.

    python -m src.report RUN

A single file without scripts in the run's directory; training writes it too.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment
from PIL import Image

from src.kindling.analysis.drawing import PHOTOS
from src.kindling.analysis.history import describe_overfitting, find_best, read_metrics
from src.kindling.analysis.intervals import BLOCKS, mean_interval, metric_intervals
from src.kindling.analysis.outputs import outputs_for
from src.kindling.analysis.predictions import Predictions
from src.kindling.config.compose import Config, compose, flatten, get, record_path
from src.kindling.config.errors import InputError, join_names
from src.kindling.config.instantiate import Values
from src.kindling.runs.files import display_path, read_json, write
from src.kindling.runs.metric_names import canonical_name, is_share, parse_name
from src.kindling.training.trained_run import TrainedRun

TEMPLATE = Path(__file__).with_name("report.html")
NAMES = (
    "curves before_and_after confusion errors overlap classes roc_and_pr calibration mistakes "
    "worst uncertain examples weights gradients layers"
)
ORDER = NAMES.split()  # of plots; those of a task's `plot` follow the curves, by their names
LARGEST = 100_000_000  # pixels of a plot
HEAVY = 200_000  # bytes of a PNG above which photographs are embedded as JPEG


def report(run: TrainedRun) -> Path:
    """Write a run's page from the files in its directory, and return its path."""
    saved = run.path / "predictions" / "test.npz"
    predictions = Predictions.load(saved) if saved.exists() else None
    groups = predictions.columns.get("group") if predictions else None
    metrics = {canonical_name(name): value for name, value in run.metrics.items()}
    results = _results(run, metrics, predictions)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = format_number
    path, meta = run.path / "report.html", run.read("meta.json")
    curves, monitor = read_metrics(run.path), canonical_name(meta.get("monitor") or "")
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        name=f"{path.parent.parent.name}/{path.parent.name}",
        meta=meta,
        folder=record_path(run.path),
        results=results,
        monitor=monitor,
        best=find_best(curves, monitor, meta.get("mode")),
        limit=run.read("run.json").get("config", {}).get("trainer.max_epochs", "?"),
        overfitting=describe_overfitting(curves),
        unsplit={k: v for k, v in metrics.items() if not k.startswith(("val/", "test/"))},
        notes=list_missing_classes(predictions),
        plots=list(_plots(run)),
        config=_config(run.config),
        data=_data(run),
        exports=[read_json(path) for path in sorted((run.path / "export").glob("*.json"))],
        samples=len(predictions) if predictions else 0,
        groups=len(set(groups.tolist())) if groups is not None else 0,
        blocks=BLOCKS,
        test_limit=get(run.config.values, "trainer.limit_test_batches"),
        diff=(run.path / "diff.patch").exists(),
    )
    write(path, page)
    return path


def _results(
    run: TrainedRun, metrics: dict[str, Any], predictions: Predictions | None
) -> list[dict[str, Any]]:
    """A row for each metric: validation, test with its interval, and the baseline."""
    splits = [parse_name(name) for name in metrics]
    names = dict.fromkeys(name for split, name in splits if split in ("val", "test"))
    test = {name: metrics.get(f"test/{name}") for name in names if name[:9] != "mean_pred"}
    intervals, baseline = metric_intervals(run, predictions) if predictions else ({}, {})
    if predictions and not intervals:
        columns, groups = predictions.columns, predictions.columns.get("group")
        scores = {n: columns[n] for n in test if n in columns and columns[n].ndim == 1}
        if predictions.scored:
            scores[predictions.scored] = predictions["score"]
        # The interval of the samples' scores: that of the logged metric only if they agree.
        for name, values in scores.items():
            label, mean = name, float(values.mean())
            logged = test.get(name)
            if logged is not None and not math.isclose(logged, mean, rel_tol=1e-4):
                label = f"{name} of predictions"
            test.setdefault(label, mean)
            intervals[label] = mean_interval(values, groups, is_share(name), skewed=True)
    logged = {name: f"baseline_{name}" for name in test if f"baseline_{name}" in test}
    baselines = {**baseline, **{name: test.pop(other) for name, other in logged.items()}}
    rows = []
    for name, value in test.items():
        row = {"name": name, "test": value, "val": metrics.get(f"val/{name}")}
        row |= {"interval": intervals.get(name), "baseline": baselines.get(name)}
        rows.append({**row, "marks": _place_marks(row)})
    return rows


def _place_marks(row: dict[str, Any]) -> dict[str, float] | None:
    """Positions of a metric, its interval and the baseline, in percent of the line's width."""
    if not row["interval"] or row["test"] is None:
        return None
    marks = {"low": row["interval"][0], "high": row["interval"][1], "test": row["test"]}
    if row["baseline"] is not None:
        marks["baseline"] = row["baseline"]
    if not all(map(math.isfinite, marks.values())):
        return None
    low, high = min(marks.values()), max(marks.values())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    width = (high - low) or 1
    return {name: round(3 + 94 * (value - low) / width, 1) for name, value in marks.items()}


def _plots(run: TrainedRun) -> Iterator[dict[str, Any]]:
    """Each plot: its title, kind, size, data as base64, and its description as text."""

    def place(path: Path) -> tuple[float, str]:
        name = re.sub(r"^(test|val)_", "", path.stem)
        return (ORDER.index(name) if name in ORDER else 0.5, path.stem)

    for path in sorted((run.path / "plots").glob("*.png"), key=place):
        content, file_type = path.read_bytes(), "png"
        with Image.open(path, formats=("PNG",)) as image:
            if image.width * image.height > LARGEST:
                raise InputError(f"{display_path(path)}: more than {LARGEST:,} pixels; remove it")
            kind = str(image.info.get("Kind", ""))
            if kind == PHOTOS and len(content) > HEAVY:
                file, file_type = io.BytesIO(), "jpeg"
                image.convert("RGB").save(file, file_type, quality=85)
                content = file.getvalue()
            yield {
                "title": path.stem.replace("_", " "),
                "kind": kind,
                "width": image.width,
                "height": image.height,
                "text": str(image.info.get("Description", "")),
                "type": file_type,
                "data": base64.b64encode(content).decode(),
            }


def _config(config: Config) -> list[tuple[str, Any, bool]]:
    """Every key, its value, and whether that differs from the config's file or the default."""
    values = flatten(config.values)
    try:
        own = flatten(compose(config.name).values)
    except InputError:  # the config's file was removed
        usual = values
    else:
        # Where nobody sets these, the machine does.
        machine = ("num_threads", "compile", "channels_last", "trainer.precision")
        usual = vars(Values()) | {key: values[key] for key in machine if key in values} | own
    filled = {key: value for key, value in values.items() if value not in (None, [], {})}
    return [(key, value, usual.get(key) != value) for key, value in filled.items()]


def _data(run: TrainedRun) -> list[tuple[str, str]]:
    """Properties of the data by name; none for data without a spec."""
    try:
        spec = run.spec
    except InputError:  # the run ended before its first checkpoint
        return []
    if spec is None:
        return []
    rows, split = [], run.path / "split.csv"
    if split.exists():
        sizes = pd.read_csv(split).iloc[:, -1].value_counts()
        stages = [stage for stage in ("train", "val", "test") if stage in sizes]
        rows = [(stage, f"{sizes[stage]:,} samples") for stage in stages]
    rows.append(("input", f"{spec.kind}, {' x '.join(map(str, spec.in_shape))}"))
    if spec.columns:
        kinds = Counter(column.kind for column in spec.columns)
        rows.append(("columns", ", ".join(f"{kind} {count}" for kind, count in kinds.items())))
    if missing := [column.name for column in spec.columns if column.missing]:
        rows.append(("missing values in", ", ".join(missing)))
    return rows + outputs_for(spec).describe(spec)


def list_missing_classes(predictions: Predictions | None) -> list[str]:
    """Write a sentence with the classes or labels without a test sample."""
    if predictions is None or predictions.spec is None or "target" not in predictions.columns:
        return []
    outputs = outputs_for(predictions.spec)
    missing, count = outputs.find_missing(predictions["target"]), len(outputs.names)
    if not missing:
        return []
    without = f"Classes without a {predictions.stage} sample: {join_names(missing)}."
    if predictions.spec.target_type == "class" and count == 2:
        return [without]
    rest = f"{count - len(missing)} of {count}"
    return [f"{without} {outputs.averages} are means over the other {rest}."]


def format_number(value: float | None) -> str:
    """Format a number with four digits; nothing for None or NaN."""
    if value is None or math.isnan(value):
        return ""
    size = abs(value)
    if not size or 1e-3 <= size < 10:
        return f"{value:.4f}"
    if size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.0f}" if size >= 1e4 else f"{value:#.4g}".removesuffix(".")
