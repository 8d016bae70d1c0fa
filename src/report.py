"""One page about a run: its result, its curves and pictures, its data, its config, and how to run it again.

    python -m src.report RUN

The page is a single file without scripts, `report.html` in the run's directory; training writes it by itself.
"""

from __future__ import annotations

import base64
import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.command import Parser, run_command
from src.config import Config, compose, flatten
from src.errors import InputError
from src.run import Run, load_run, read_json, shown, write

if TYPE_CHECKING:
    from src.predictions import Predictions

TEMPLATE = Path(__file__).with_name("report.html")
RESAMPLES = 400
# What a reader wants to see first; other pictures follow by their names.
ORDER = ("curves", "before_and_after", "confusion", "errors", "classes", "roc_and_pr", "calibration", "mistakes", "worst",
         "uncertain", "examples", "weights")  # fmt: skip


def report(run: Run) -> Path:
    """Write a run's page from what lies in its directory; nothing is computed by the net again.

    Returns:
        The page's path.
    """
    from jinja2 import Environment

    meta = _json(run, "meta.json")
    predictions = _predictions(run)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text("utf-8"))
    path = run.path / "report.html"
    write(path, page.render(
        name=f"{path.parent.parent.name}/{path.parent.name}", meta=meta, command=_again(run), results=_results(run, predictions),
        monitor=meta.get("monitor"), story=_story(run), pictures=list(_pictures(run)), config=_config(run.config),
        data=_data(run), exports=[read_json(path) for path in sorted((run.path / "export").glob("*.json"))],
        rows=len(predictions) if predictions else 0, resamples=RESAMPLES,
        diff=(run.path / "diff.patch").exists(),
    ))  # fmt: skip
    return path


def _json(run: Run, name: str) -> dict[str, Any]:
    path = run.path / name
    return read_json(path) if path.exists() else {}


def _predictions(run: Run) -> Predictions | None:
    from src.predictions import Predictions

    path = run.path / "predictions" / "test.npz"
    return Predictions.load(path) if path.exists() else None


def _again(run: Run) -> list[str]:
    """The commands that measure this run, go on with it and repeat it."""
    folder = shown(run.path)
    return [
        f"python -m src.evaluate {folder}",
        f"python -m src.reproduce {folder}",
        f"python -m src.train --resume {folder}",
    ]


def _results(run: Run, predictions: Predictions | None) -> list[dict[str, Any]]:
    """A row for each final metric: its value on validation and test, the interval on test, the trivial baseline."""
    metrics = _json(run, "metrics.json")
    names = [
        name for name in dict.fromkeys(key.partition("/")[2] for key in metrics) if not name.startswith("mean_pred")
    ]
    intervals, baseline = bootstrap(run, predictions) if predictions else ({}, {})
    return [
        {"name": name, "val": metrics.get(f"val/{name}"), "test": metrics.get(f"test/{name}"),
         "interval": intervals.get(name), "baseline": baseline.get(name)}
        for name in names
    ]  # fmt: skip


def bootstrap(run: Run, predictions: Predictions) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """For each test metric of the run's task, its 95 % interval over resampled test samples, and a trivial predictor's.

    The trivial predictor gives every class its share of the training samples, or the training targets' mean.
    """
    import torch

    from src.run import build_task

    spec = predictions.spec
    column = "probability" if spec.classes else "prediction"
    if column not in predictions.columns or "target" not in predictions.columns:
        return {}, {}
    outputs, targets = torch.from_numpy(predictions[column]), torch.from_numpy(predictions["target"])
    counts = torch.tensor(spec.class_counts if spec.classes else spec.target_mean, dtype=torch.float32)
    constant = (counts / counts.sum() if spec.classes else counts).expand_as(outputs)
    generator = torch.Generator().manual_seed(0)
    intervals, baseline = {}, {}
    meter: Any = build_task(run.config, predictions.spec, begin=False).test_meter
    for name, metric in meter.metrics.items():
        # A metric that keeps every sample, such as an area under a curve, takes ten times as long as the others.
        keeps = any(isinstance(default, list) for default in metric._defaults.values())
        values = []
        for _ in range(RESAMPLES // 8 if keeps else RESAMPLES):
            rows = torch.randint(len(outputs), (len(outputs),), generator=generator)
            values.append(metric(outputs[rows], targets[rows]))
            metric.reset()
        low, high = torch.stack(values).float().quantile(torch.tensor([0.025, 0.975])).tolist()
        intervals[name] = (low, high)
        baseline[name] = float(metric(constant, targets))
        metric.reset()
    return intervals, baseline


def _story(run: Run) -> list[str]:
    """How the training went, in words."""
    from src.history import overfitting

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
            rows = [row for row in csv.DictReader(file) if row.get(monitor or "")]
        if rows:
            epochs = summary.get("config", {}).get("trainer.max_epochs", "?")
            best = (min if meta.get("mode") == "min" else max)(rows, key=lambda row: float(row[monitor]))
            lines.append(f"The best {monitor}, {float(best[monitor]):.4g}, came in epoch {int(best['epoch']) + 1} of "
                         f"{epochs}; its weights are measured here.")  # fmt: skip
        if words := overfitting(table):
            lines.append(words[0].upper() + words[1:] + ".")
    return lines


def _pictures(run: Run) -> Iterator[tuple[str, str]]:
    """Each picture's title and its PNG as base64."""

    def place(path: Path) -> tuple[int, str]:
        name = re.sub(r"^(test|val)_", "", path.stem)
        return (ORDER.index(name) if name in ORDER else len(ORDER), path.stem)

    for path in sorted((run.path / "plots").glob("*.png"), key=place):
        yield path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode()


def _config(config: Config) -> list[tuple[str, Any, bool]]:
    """Every key and value, and whether it differs from the experiment's own file."""
    try:
        own = flatten(compose(config.name).values)
    except InputError:  # the experiment's file is gone
        own = {}
    filled = ("threads", "compile", "channels_last", "trainer.precision")  # from the machine, where nobody set them
    return [(key, value, bool(own) and own.get(key) != value and not (key in filled and key not in own))
            for key, value in flatten(config.values).items() if value not in (None, [], {})]  # fmt: skip


def _data(run: Run) -> list[tuple[str, str]]:
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
    if spec.classes:
        counts = [f"{name} {count:,}" for name, count in zip(spec.classes, spec.class_counts, strict=True)]
        rows.append(("classes in training", ", ".join(counts[:20]) + (" …" if len(counts) > 20 else "")))
    else:
        rows.append((spec.target or "target", f"mean {spec.target_mean[0]:.4g}, deviation {spec.target_std[0]:.4g}"))
    return rows


def main(argv: list[str]) -> Path:
    parser = Parser("report", "RUN", "Write a run's page again.")
    parser.add_argument("run", metavar="RUN", help="a folder in logs/, 'latest' or '<config>/latest'")
    run = load_run(parser.read(argv).run)
    path = report(run)
    print(f"report     {shown(path)} ({os.path.getsize(path) / 2**20:.1f} MiB)")
    return path


if __name__ == "__main__":
    run_command(main)
