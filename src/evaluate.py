"""Measure a run again: its checkpoint, on the validation or the test split of its data.

python -m src.evaluate RUN [--split val|test]
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from src.command import Parser, run_command
from src.run import Run, load_run, read_json, shown, write_json

if TYPE_CHECKING:
    from src.data.batch import Stage


def evaluate(run: Run, stages: tuple[Stage, ...] = ("val", "test")) -> dict[str, float]:
    """Compute the metrics anew from the checkpoint and the data, and save them beside those of the training.

    Raises:
        InputError: when the run's checkpoint is missing or damaged.
    """
    import torch

    from src import parts
    from src.quiet import quiet
    from src.trainer import build_trainer, measure

    quiet()
    torch.set_num_threads(parts.values(run.config).threads or 1)
    task, data = run.task, run.data()
    if run.config.values.get("compile"):
        task.net.compile()  # type: ignore[union-attr]  # as in training, or the last digits differ
    # However many processes it was trained in: here there may be one GPU, or none. A profiler writes files to any path.
    alone = {"trainer.strategy": "auto", "trainer.devices": 1, "trainer.num_nodes": 1, "trainer.profiler": None}
    resolved = replace(run.config, values=parts.resolve(run.config, run.spec))
    config = resolved.replaced(alone, origin="src.evaluate")
    trainer = build_trainer(config, None, task, run.spec)
    metrics: dict[str, float] = {}
    for stage in stages:
        metrics |= measure(trainer, task, data, stage)
    path = run.path / "evaluation.json"
    saved = read_json(path) if path.exists() else {}
    write_json(path, {**saved, **metrics})
    return metrics


def _compare_split(run: Run) -> None:
    """Say so when the data is split in another way than it was in training: test samples may have been trained on."""
    path = run.path / "meta.json"
    trained = read_json(path).get("split_hash") if path.exists() else None
    if trained and trained != run.data().split_hash():
        print("WARNING    the split is another one than in training: the data or data.split have changed since; "
              "what is measured may have been trained on")  # fmt: skip


def main(argv: list[str]) -> dict[str, float]:
    parser = Parser("evaluate", "RUN [--split val|test]", "Measure a run's best checkpoint again.")
    parser.add_argument("run", metavar="RUN", help="a folder in logs/, a .ckpt file, 'latest' or '<config>/latest'")
    parser.add_argument("--split", choices=("val", "test"), help="only this split; both when left out")
    flags = parser.read(argv)
    run = load_run(flags.run)

    from src import parts
    from src.train import table

    parts.check(run.config, trained=True)
    _compare_split(run)
    metrics = evaluate(run, (flags.split,) if flags.split else ("val", "test"))
    table(metrics)
    trained = {name: value for name, value in run.metrics.items() if name in metrics}
    now = {name: None if math.isnan(value) else value for name, value in metrics.items()}  # as JSON
    differing = [name for name, value in trained.items() if value != now[name]]
    print(f"\nrun        {shown(run.path)} ({run.checkpoint_file.name})")
    for name in differing:
        print(f"differs    {name}: {metrics[name]!r} now, {trained[name]!r} at the end of training")
    if trained and not differing:
        print("identical  to the last digit with what training ended with")
    print(f"saved      {shown(run.path / 'evaluation.json')}")
    return metrics


if __name__ == "__main__":
    run_command(main)
