"""Averaged weights: validation, best.ckpt and the final numbers use the same weights."""

from __future__ import annotations

import pytest
import torch

from src.kindling.runs.checkpoint_file import read_checkpoint
from src.kindling.training.evaluate import evaluate
from src.kindling.training.fit import fit
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, checked, train

LIGHTNING = "_target_: lightning.pytorch.callbacks"
MLP = "net={_target_: src.nets.mlp.MLP, hidden: [32]}"
CONSTANT = "task.scheduler={_target_: torch.optim.lr_scheduler.ConstantLR, factor: 1.0}"
# Long and wild enough that the average is better than any weights along the way.
SWA = (
    "trainer.max_epochs=6",
    "task.optimizer.lr=0.05",
    CONSTANT,
    f"callbacks.swa={{{LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.05, swa_epoch_start: 2, "
    "annealing_epochs: 1}",
)


@pytest.mark.parametrize(
    "words",
    [
        (f"callbacks.ema={{{LIGHTNING}.EMAWeightAveraging, decay: 0.8}}", "trainer.max_epochs=4"),
        (f"callbacks.average={{{LIGHTNING}.WeightAveraging}}", "trainer.max_epochs=4"),
        SWA,
        (
            *SWA,
            MLP,
            "task.optimizer.lr=0.3",
            "callbacks.swa.swa_lrs=0.3",
            "trainer.limit_val_batches=null",
        ),
    ],
    ids=["ema", "equally", "swa", "swa without norms"],
)
def test_best_holds_measured_average(words: tuple[str, ...]) -> None:
    result = train("digits", *words)
    run = load_run(result.run.path)
    last = read_checkpoint(run.checkpoints / "last.ckpt")
    best = run.checkpoint["state_dict"]
    assert evaluate(run)["val/loss"] == result.metrics["val/loss"] == result.score
    assert all(torch.equal(best[name], last["state_dict"][name]) for name in best)
    if "current_model_state" in last:  # those that are trained are kept beside their average
        assert not torch.equal(
            best["net.head.weight"], last["current_model_state"]["net.head.weight"]
        )


def test_longer_training_resumes_trained_weights() -> None:
    words = (f"callbacks.ema={{{LIGHTNING}.EMAWeightAveraging, decay: 0.8}}", CONSTANT)
    whole = train("digits", *words, "trainer.max_epochs=4").run
    first = train("digits", *words).run
    config = checked("digits", *LITTLE, *words, "trainer.max_epochs=4")
    longer = fit(config, first, resume=True).run
    for name in ("state_dict", "current_model_state"):
        one, two = (read_checkpoint(run.checkpoints / "last.ckpt")[name] for run in (whole, longer))
        assert all(torch.equal(one[key], two[key]) for key in one)
