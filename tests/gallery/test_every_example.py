"""Every config of the gallery trains, resumes after a kill, evaluates to the same numbers, and has a report."""

from __future__ import annotations

import pytest

from src.kindling.analysis.plots import Plots
from src.kindling.config.compose import CONFIGS, ROOT, configs
from src.kindling.runs.checkpoint_file import read_checkpoint
from src.kindling.runs.run import Run
from src.kindling.training.evaluate import evaluate
from src.kindling.training.fit import fit
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, checked
from tests.interruption import Killed, install_kill

# Less to compute than by default.
WORDS: dict[str, tuple[str, ...]] = {
    "detection": ("data.scenes=[96,32,32]",),
    "anomaly": (
        "data.samples=400",
        "trainer.limit_val_batches=1.0",
        "trainer.limit_test_batches=1.0",
    ),
    "multi_input": ("data.photos=[192,64,64]",),
    "q_learning": ("task.batches=20",),
    "diffusion": ("task.steps=5", "task.channels=4"),
    "distillation": ("task.teacher=null", "trainer.check_val_every_n_epoch=1"),
    "text_classification": ("data.reviews=400",),
    "forecasting": ("data.days=60", "task.hidden=16"),
}

GALLERY = [
    name for name in configs() if "_target_: src.gallery." in (CONFIGS / f"{name}.yaml").read_text()
]


@pytest.mark.plots
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`")  # read without workers
@pytest.mark.parametrize("name", GALLERY)
def test_gallery_config_trains_resumes_evaluates_and_is_reported(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checked(name, *LITTLE, "checkpoint_minutes=0", *WORDS.get(name, ()))
    run = Run.claim(name)
    install_kill(monkeypatch)(5)  # in the second epoch
    with pytest.raises(Killed):
        fit(config, run)
    result = fit(config, run, resume=True, plots=Plots(run))
    assert all(value == value for value in result.metrics.values())  # no NaN
    assert read_checkpoint(run.checkpoints / "last.ckpt")["epoch"] == 2
    assert evaluate(load_run(run.path)) == result.metrics
    assert "plots/" in (run.path / "report.html").read_text() or list(
        (run.path / "plots").glob("*.png")
    )
    assert (ROOT / "tests" / "gallery" / f"test_{name}.py").is_file()
