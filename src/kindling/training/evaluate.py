"""Measure a run again: its checkpoint, on the validation or the test split of its data."""

from __future__ import annotations

from dataclasses import replace

import torch

from src.kindling.config import instantiate
from src.kindling.data.data_module import DataModule
from src.kindling.data.samples import Stage
from src.kindling.nn.additions import net_of
from src.kindling.runs.files import read_json, write_json
from src.kindling.training.run_loggers import evaluation_board
from src.kindling.training.trained_run import TrainedRun, restore_buffers
from src.kindling.training.trainer import build_evaluator, measure
from src.kindling.training.warning_filters import quiet

# Whatever it was trained on: here there may be one GPU, or none. A profiler writes files anywhere.
ONE_DEVICE = {
    "trainer.strategy": "auto",
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "trainer.profiler": None,
}


def evaluate(run: TrainedRun, stages: tuple[Stage, ...] = ("val", "test")) -> dict[str, float]:
    """Compute the metrics again from the checkpoint and the data, and save them in the run.

    Warns if the data is split differently than in training, which leaks training samples.
    """
    quiet()
    torch.set_num_threads(instantiate.values(run.config).num_threads or 1)
    data = run.data()
    if data is not None and not isinstance(data, DataModule):
        data.prepare_data()
        data.setup("fit")  # where some make their validation set alone
    meta = run.path / "meta.json"
    trained = read_json(meta).get("split_hash") if meta.exists() else None
    if trained and isinstance(data, DataModule) and trained != data.split_hash():
        print(
            "WARNING    the split is another one than in training: the data or data.split have "
            "changed since; the metrics may be of training samples"
        )
    task = run.build_task(data)
    restore_buffers(task, run.checkpoint["kindling"].get("buffers", {}))
    if run.config.values.get("compile"):
        net_of(task).compile()  # as in training, or the last digits differ
    resolved = replace(run.config, values=instantiate.resolve(run.config, run.spec))
    resolved = resolved.replaced(ONE_DEVICE, origin="src.evaluate")
    metrics: dict[str, float] = {}
    with evaluation_board(run.path) as board:
        trainer, epoch = build_evaluator(resolved, data, board), run.checkpoint["epoch"]
        try:
            for stage in stages:
                metrics |= measure(trainer, task, data, stage, run.checkpoint_file, epoch)
        except RuntimeError as error:
            if "Error(s) in loading state_dict" in str(error):
                raise run.misfit(error) from None
            raise
    path = run.path / "evaluation.json"
    saved = read_json(path) if path.exists() else {}
    write_json(path, saved | metrics)
    return metrics
