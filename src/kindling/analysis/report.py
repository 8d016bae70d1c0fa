"""One page about a run: its result, its curves and pictures, its data, its config, and how to run it again.

    python -m src.report RUN

The page is a single file without scripts, `report.html` in the run's directory; training writes it by itself.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config, compose, flatten
from src.kindling.config.errors import InputError, counted
from src.kindling.runs.files import read_json, shown, write

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from src.kindling.analysis.predictions import Predictions
    from src.kindling.training.trained_run import TrainedRun

TEMPLATE = Path(__file__).with_name("report.html")
RESAMPLES = 400
MOST = 5_000  # samples of a resample
# What a reader wants to see first; other pictures follow by their names.
ORDER = ("curves", "before_and_after", "confusion", "errors", "overlap", "classes", "roc_and_pr", "calibration",
         "mistakes", "worst", "uncertain", "examples", "weights", "gradients", "layers")  # fmt: skip
HEAVY = 200_000  # bytes of a picture's PNG above which photographs go into the page as JPEG


def report(run: TrainedRun) -> Path:
    """Write a run's page from what lies in its directory; nothing is computed by the net again.

    Returns:
        The page's path.
    """
    from jinja2 import Environment

    meta = _json(run, "meta.json")
    predictions = _predictions(run)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    page = environment.from_string(TEMPLATE.read_text("utf-8"))
    path, results = run.path / "report.html", _results(run, predictions)
    write(path, page.render(
        name=f"{path.parent.parent.name}/{path.parent.name}", meta=meta, command=_again(run), results=results,
        story=[*_story(run), *_missing(predictions)],
        pictures=list(_pictures(run)), config=_config(run.config),
        data=_data(run), exports=[read_json(path) for path in sorted((run.path / "export").glob("*.json"))],
        rows=len(predictions) if predictions else 0, resamples=RESAMPLES, most=MOST,
        faultless=any(row["interval"] == (1.0, 1.0) for row in results), diff=(run.path / "diff.patch").exists(),
    ))  # fmt: skip
    return path


def _json(run: TrainedRun, name: str) -> dict[str, Any]:
    path = run.path / name
    return read_json(path) if path.exists() else {}


def _predictions(run: TrainedRun) -> Predictions | None:
    from src.kindling.analysis.predictions import Predictions

    path = run.path / "predictions" / "test.npz"
    return Predictions.load(path) if path.exists() else None


def _again(run: TrainedRun) -> list[str]:
    """The commands that measure this run, go on with it and repeat it."""
    folder = shown(run.path)
    return [
        f"python -m src.evaluate {folder}",
        f"python -m src.reproduce {folder}",
        f"python -m src.train --resume {folder}",
    ]


def _results(run: TrainedRun, predictions: Predictions | None) -> list[dict[str, Any]]:
    """A row for each final metric: its value on validation and test, the interval on test, the trivial baseline."""
    metrics = _json(run, "metrics.json")
    names = [
        name for name in dict.fromkeys(key.partition("/")[2] for key in metrics) if not name.startswith("mean_pred")
    ]
    intervals, baseline = bootstrap(run, predictions) if predictions else ({}, {})
    found: list[dict[str, Any]] = [
        {"name": name, "val": metrics.get(f"val/{name}"), "test": metrics.get(f"test/{name}"),
         "interval": intervals.get(name), "baseline": baseline.get(name)}
        for name in names
    ]  # fmt: skip
    return [{**row, "drawn": _drawn(row)} for row in found]


def _drawn(row: dict[str, Any]) -> dict[str, float] | None:
    """Where a metric, the ends of its interval and the trivial predictor lie, in percent of a line's width.

    The line reaches from 0 to 1 where all of them lie there, and else from the lowest to the highest.
    """
    if not row["interval"] or row["test"] is None:
        return None
    places = {"low": row["interval"][0], "high": row["interval"][1], "test": row["test"], "baseline": row["baseline"]}
    if not all(math.isfinite(value) for value in places.values()):
        return None
    low, high = min(places.values()), max(places.values())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return {name: round(3 + 94 * (value - low) / ((high - low) or 1), 1) for name, value in places.items()}


def _number(value: float | None) -> str:
    """Four digits, so that numbers stand below each other alike; nothing for None or NaN."""
    if value is None or math.isnan(value):
        return ""
    size = abs(value)
    if not size or 1e-3 <= size < 10:
        return f"{value:.4f}"
    return f"{value:.3g}" if size < 1e-3 else f"{value:,.0f}" if size >= 1e4 else f"{value:#.4g}".removesuffix(".")


def bootstrap(run: TrainedRun, predictions: Predictions) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """For each test metric of the run's task, its 95 % interval over resampled test samples, and a trivial predictor's.

    The trivial predictor knows the training targets alone (the task's `trivial`). Of many samples, some thousands are
    drawn, and the spread, which falls with the root of their number, is taken down to that of all: the m out of n
    bootstrap. Source: Bickel, Götze and van Zwet, Statistica Sinica 7, 1997.
    """
    import torch
    from torchmetrics import Metric

    from src.kindling.analysis.predictions import measured
    from src.kindling.training.build import build_task

    task: Any = build_task(run.config, predictions.spec, begin=False)
    if not hasattr(task, "answers") or "target" not in predictions.columns:
        return {}, {}
    outputs, targets = torch.from_numpy(measured(task, predictions.columns)), torch.from_numpy(predictions["target"])
    n, metrics = len(outputs), task.test_meter.metrics
    for part in metrics.modules():
        if isinstance(part, Metric):  # the first process of several writes the page alone, after the others' end
            part.distributed_available_fn = lambda: False
    baseline = {
        name: float(value) for name, value in metrics(task.trivial().expand_as(outputs).contiguous(), targets).items()
    }
    metrics.reset()
    generator = torch.Generator().manual_seed(0)
    intervals: dict[str, tuple[float, float]] = {}
    for resamples, most, over in _measures(dict(metrics.items()), outputs, targets):
        whole, size = over(torch.arange(n)), min(n, most)
        values: dict[str, list[Tensor]] = defaultdict(list)
        for _ in range(resamples):
            for name, value in over(torch.randint(n, (size,), generator=generator)).items():
                values[name].append(value)
        for name, found in values.items():
            ends = torch.stack(found).double().nanquantile(torch.tensor([0.025, 0.975], dtype=torch.double))
            low, high = (whole[name] + (ends - whole[name]) * math.sqrt(size / n)).tolist()
            if math.isfinite(low):  # no class, or no pixel, to measure
                intervals[name] = (low, high)
    return intervals, baseline


def _measures(
    metrics: dict[str, Metric], outputs: Tensor, targets: Tensor
) -> Iterator[tuple[int, int, Callable[[Tensor], dict[str, Tensor]]]]:
    """How often to resample, how many at most, and a function of sample numbers `(n,)` that gives some metrics by name."""
    from torchmetrics.utilities import dim_zero_sum

    few = outputs.ndim > 2 or len(outputs) <= RESAMPLES  # samples, or large ones, such as masks
    adding, keeping = {}, {}
    for name, metric in metrics.items():
        if any(isinstance(state, list) for part in metric.modules() for state in part._defaults.values()):  # type: ignore[operator]
            keeping[name] = metric
        elif few and metric._reductions and all(kind is dim_zero_sum for kind in metric._reductions.values()):
            yield RESAMPLES, len(outputs), _summed(name, metric, outputs, targets)
        else:
            adding[name] = metric
    if adding:
        yield RESAMPLES, MOST, _afresh(adding, outputs, targets)
    if keeping:  # every sample, as an area under a curve does: such a metric takes ten times as long as the others
        yield RESAMPLES // 8, MOST // 2, _afresh(keeping, outputs, targets)


def _afresh(metrics: dict[str, Metric], outputs: Tensor, targets: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
    from torchmetrics import MetricCollection

    # What several are made of, such as the numbers of right and wrong answers, is counted once for all of them.
    together = MetricCollection(metrics, compute_groups=True)  # type: ignore[arg-type]

    def over(rows: Tensor) -> dict[str, Tensor]:
        together.reset()
        together.update(outputs[rows], targets[rows])
        return together.compute()

    return over


def _summed(name: str, metric: Metric, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
    """Of a metric that keeps sums alone: each sample is read once."""
    import torch

    states: dict[str, list[Tensor]] = {key: [] for key in metric._defaults}
    for i in range(len(outputs)):
        metric.update(outputs[i : i + 1], targets[i : i + 1])
        for key, kept in states.items():
            kept.append(getattr(metric, key).clone())
        metric.reset()
    shapes, types = ({key: getattr(kept[0], name) for key, kept in states.items()} for name in ("shape", "dtype"))
    each = {key: torch.stack(kept).reshape(len(kept), -1).double() for key, kept in states.items()}

    def over(rows: Tensor) -> dict[str, Tensor]:
        times = torch.bincount(rows, minlength=len(outputs)).double()
        found = {key: (times @ kept).reshape(shapes[key]).to(types[key]) for key, kept in each.items()}
        # Past `__setattr__`, which takes longer than all else here; without a value kept from the last time.
        vars(metric).update(found, _update_count=1, _computed=None)
        value = metric.compute()
        return value if isinstance(value, dict) else {name: value}  # some give several

    return over


def _story(run: TrainedRun) -> list[str]:
    """How the training went, in words."""
    from src.kindling.analysis.history import overfitting

    meta, summary = _json(run, "meta.json"), _json(run, "run.json")
    exit_ = meta.get("exit", "unknown")
    lines = [{"finished": "The training finished.", "interrupted": f"It was interrupted by {meta.get('by', 'a signal')}.",
              "running": "It is running, or its process is gone."}.get(exit_, f"It {exit_}.")]  # fmt: skip
    if meta.get("error"):
        lines += str(meta["error"]).splitlines()
    table = run.path / "metrics.csv"
    monitor = meta.get("monitor")
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if math.isfinite(float(row.get(monitor or "") or "nan"))]
        if rows:
            most = summary.get("config", {}).get("trainer.max_epochs", "?")
            epochs = meta.get("epochs", most)
            epochs = epochs if epochs == most else f"{epochs} (at most {most})"
            best = (min if meta.get("mode") == "min" else max)(rows, key=lambda row: float(row[monitor]))
            lines.append(f"The best {monitor}, {float(best[monitor]):.4g}, came in epoch {int(best['epoch']) + 1} of "
                         f"{epochs}; its weights are measured here.")  # fmt: skip
        if words := overfitting(table):
            lines.append(words[0].upper() + words[1:] + ".")
    return lines


def _missing(predictions: Predictions | None) -> list[str]:
    """A line on the classes or labels that no test sample has."""
    import numpy as np

    if predictions is None or predictions.spec.predicts not in ("class", "labels"):
        return []
    target, names = predictions["target"], predictions.spec.classes
    numbers = np.flatnonzero(target.any(axis=0)) if target.ndim == 2 else np.unique(target)
    missing = [name for i, name in enumerate(names) if i not in numbers]
    if not missing:
        return []
    others = f"the other {len(numbers)} of {len(names)}"
    means = "AUROC and recall" if predictions.spec.predicts == "class" else "AUROC and average precision"
    return [f"Classes without a {predictions.stage} sample: {counted(missing)}. {means} are means over {others}."]


def _pictures(run: TrainedRun) -> Iterator[dict[str, Any]]:
    """Each picture: its title, kind, width, data as base64, and what it says as a text where it does."""
    from PIL import Image

    from src.kindling.analysis.figures import PHOTOS

    def place(path: Path) -> tuple[int, str]:
        name = re.sub(r"^(test|val)_", "", path.stem)
        return (ORDER.index(name) if name in ORDER else len(ORDER), path.stem)

    for path in sorted((run.path / "plots").glob("*.png"), key=place):
        content, kind = path.read_bytes(), "png"
        with Image.open(path) as picture:
            about = {key: str(value) for key, value in picture.info.items() if key in ("Kind", "Description")}
            if about.get("Kind") == PHOTOS and len(content) > HEAVY:
                file, kind = io.BytesIO(), "jpeg"
                picture.convert("RGB").save(file, kind, quality=85)
                content = file.getvalue()
            yield {"title": path.stem.replace("_", " "), "kind": about.get("Kind", ""), "width": picture.width,
                   "height": picture.height, "text": about.get("Description", ""), "type": kind,
                   "data": base64.b64encode(content).decode()}  # fmt: skip


def _config(config: Config) -> list[tuple[str, Any, bool]]:
    """Every key and value, and whether it differs from the experiment's own file, or else from what is the default."""
    from src.kindling.config.instantiate import Values

    try:
        own = flatten(compose(config.name).values)
    except InputError:  # the experiment's file is gone
        return [(key, value, False) for key, value in flatten(config.values).items() if value not in (None, [], {})]
    filled = ("threads", "compile", "channels_last", "trainer.precision")  # from the machine, where nobody set them
    usual = {**{field.name: field.default for field in dataclasses.fields(Values)},
             **{key: value for key, value in flatten(config.values).items() if key in filled}, **own}  # fmt: skip
    return [(key, value, usual.get(key) != value)
            for key, value in flatten(config.values).items() if value not in (None, [], {})]  # fmt: skip


def _data(run: TrainedRun) -> list[tuple[str, str]]:
    try:
        spec = run.spec
    except InputError:  # it ended before its first checkpoint
        return []
    sizes: dict[str, int] = {}
    if (run.path / "split.csv").exists():
        with (run.path / "split.csv").open(encoding="utf-8") as file:
            for line in file:
                split = line.rstrip().rpartition(",")[2]
                sizes[split] = sizes.get(split, 0) + 1
    rows: list[tuple[str, str]] = [
        (stage, f"{sizes[stage]:,} samples") for stage in ("train", "val", "test") if stage in sizes
    ]
    rows.append(("input", f"{spec.kind}, {' x '.join(map(str, spec.in_shape))}"))
    if spec.columns:
        kinds = [column.kind for column in spec.columns]
        lacking = [column.name for column in spec.columns if column.missing]
        rows.append(("columns", ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds))))
        rows += [("missing values in", ", ".join(lacking))] if lacking else []
    if spec.classes:
        counts = [f"{name} {count:,}" for name, count in zip(spec.classes, spec.class_counts, strict=True)]
        unit = "pixels of classes in training masks" if spec.predicts == "mask" else f"{spec.predicts} in training"
        rows.append((unit.replace("class ", "classes "), ", ".join(counts[:20]) + (" …" if len(counts) > 20 else "")))
    else:
        rows += [(name, f"mean {mean:.4g}, deviation {std:.4g}")
                 for name, mean, std in zip(spec.names, spec.target_mean, spec.target_std, strict=True)]  # fmt: skip
    return rows
