"""Measure a run again: its checkpoint, on the validation or the test split of its data.

python -m src.evaluate RUN [--split val|test]
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from src.kindling.runs.files import read_json, write_json

if TYPE_CHECKING:
    from src.kindling.data.batch import Stage
    from src.kindling.training.trained_run import TrainedRun


def evaluate(run: TrainedRun, stages: tuple[Stage, ...] = ("val", "test")) -> dict[str, float]:
    """Compute the metrics anew from the checkpoint and the data, and save them beside those of the training.

    Raises:
        InputError: when the run's checkpoint is missing or damaged.
    """
    import torch

    from src.kindling.config import instantiate
    from src.kindling.training.trainer import build_trainer, measure
    from src.kindling.training.warning_filters import quiet

    quiet()
    torch.set_num_threads(instantiate.values(run.config).threads or 1)
    task, data = run.task, run.data()
    if run.config.values.get("compile"):
        task.net.compile()  # type: ignore[union-attr]  # as in training, or the last digits differ
    # However many processes it was trained in: here there may be one GPU, or none. A profiler writes files to any path.
    alone = {"trainer.strategy": "auto", "trainer.devices": 1, "trainer.num_nodes": 1, "trainer.profiler": None}
    resolved = replace(run.config, values=instantiate.resolve(run.config, run.spec))
    config = resolved.replaced(alone, origin="src.evaluate")
    trainer = build_trainer(config, None, task, run.spec)
    metrics: dict[str, float] = {}
    for stage in stages:
        metrics |= measure(trainer, task, data, stage)
    path = run.path / "evaluation.json"
    saved = read_json(path) if path.exists() else {}
    write_json(path, {**saved, **metrics})
    return metrics


def _compare_split(run: TrainedRun) -> None:
    """Say so when the data is split in another way than it was in training: test samples may have been trained on."""
    path = run.path / "meta.json"
    trained = read_json(path).get("split_hash") if path.exists() else None
    if trained and trained != run.data().split_hash():
        print("WARNING    the split is another one than in training: the data or data.split have changed since; "
              "what is measured may have been trained on")  # fmt: skip
