"""Plots at the end of a training: files, TensorBoard, before and after; errors end no training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.kindling.analysis.plots import Plots
from src.kindling.analysis.predictions import Predictions, predict
from src.kindling.data.data_module import DataModule
from src.kindling.runs.files import write
from src.kindling.runs.run import Run
from src.kindling.training.build import build_data, build_task
from src.kindling.training.layer_trace import Layer
from src.kindling.training.monitor import Monitor
from src.kindling.training.run_loggers import MetricsFiles, TensorBoard
from src.kindling.training.warning_filters import quiet
from tests.conftest import checked

pytestmark = pytest.mark.plots
MONITOR = Monitor("val/loss")
OF_CLASSES = [
    "curves",
    "test_confusion",
    "test_classes",
    "test_roc_and_pr",
    "test_calibration",
    "test_mistakes",
    "test_uncertain",
    "test_examples",
    "before_and_after",
    "weights",
    "gradients",
    "layers",
]


def trained(
    name: str, task: Any = None, drawing: bool = True, words: tuple[str, ...] = ()
) -> tuple[Plots, Any, DataModule, list[Any]]:
    """A little training with the callback, and what is needed for drawing."""
    quiet()
    torch.set_num_threads(1)
    config = checked(name, "data.num_workers=0", *words)
    run, data = Run.claim(name), build_data(config)
    seed_everything(0, verbose=False)
    task = task or build_task(config, data)
    write(run.path / "config.yaml", "net: ü\n")
    plots = Plots(run)
    plots.draw_before(task, data)
    loggers = [MetricsFiles(run.path, 0), TensorBoard(run.path, name="", version="")]
    Trainer(
        max_epochs=2,
        limit_train_batches=4,
        callbacks=plots.callbacks if drawing else [],
        logger=loggers,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
    ).fit(task, datamodule=data)
    return plots, task, data, loggers


def test_plots_in_run_and_tensorboard(capsys: pytest.CaptureFixture[str]) -> None:
    plots, task, data, loggers = trained("digits")
    plots.graph = True
    plots.layers = {"net.head": Layer((10,), 20_480)}
    assert plots.draw(task, data, "test", MONITOR, loggers) == OF_CLASSES
    loggers[1].close()
    run = plots.run
    assert sorted(path.name for path in (run.path / "plots").iterdir()) == sorted(
        f"{name}.png" for name in OF_CLASSES
    )
    for path in (run.path / "plots").iterdir():
        assert min(pyplot.imread(path).shape[:2]) > 100
    events = EventAccumulator(str(run.path), size_guidance={"images": 0, "tensors": 0}).Reload()
    assert sorted(events.Tags()["images"]) == sorted(f"plots/{name}" for name in OF_CLASSES)
    (image,) = events.Images("plots/test_confusion")
    assert image.step == 8
    assert (image.height, image.width) == pyplot.imread(
        run.path / "plots" / "test_confusion.png"
    ).shape[:2]
    said = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    assert said["config/text_summary"] == "    net: ü\n    "
    rows = [line.split() for line in said["layers/text_summary"].splitlines()]
    assert ["net.head", "Linear", "10", "10,250", "20,480"] in rows
    nodes = [node.name for node in events.Graph().node]
    assert any("CNN[net]/Linear[head]" in node for node in nodes)
    capsys.readouterr()
    plots.draw(task, None, "test", MONITOR, loggers)  # nothing says what forward takes
    line = "--graph: not written: unknown input; set example_input_array in Classification\n"
    assert line in capsys.readouterr().out


def test_predictions_before_and_after() -> None:
    plots, task, data, _ = trained("diabetes")
    assert plots.draw(task, data, "test", MONITOR) == [
        "curves",
        "test_errors",
        "test_worst",
        "before_and_after",
        "weights",
        "gradients",
        "layers",
    ]
    folder = plots.run.path / "predictions"
    assert sorted(path.name for path in folder.iterdir()) == ["test.npz", "untrained.npz"]
    after = Predictions.load(folder / "test.npz", data)
    assert np.array_equal(after["prediction"], predict(task, data, "test")["prediction"])
    before = Predictions.load(folder / "untrained.npz", data)
    assert before.stage == "val"
    same = predict(task, data, "val", 64)
    assert before["index"].tolist() == same["index"].tolist()
    assert np.abs(before["prediction"] - same["prediction"]).max() > 1
    assert {name: values.shape for name, values in plots.weights.items()} == {
        name: parameter.flatten().shape
        for name, parameter in task.named_parameters()
        if parameter.ndim > 1
    }
    first = (plots.run.path / "plots" / "before_and_after.png").read_bytes()
    plots.before = same
    plots.draw(task, data, "test", MONITOR)
    assert (plots.run.path / "plots" / "before_and_after.png").read_bytes() != first


def test_plots_of_validation_without_test() -> None:
    plots, task, data, _ = trained("diabetes", words=("data.split=[0.8,0.2,0.0]",))
    assert plots.draw(task, data, "test", MONITOR)[1:3] == ["val_errors", "val_worst"]
    assert Predictions.load(plots.run.path / "predictions" / "val.npz").stage == "val"


def test_resume_keeps_untrained_predictions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plots, task, data, _ = trained("diabetes")
    assert plots.before is not None
    again = Plots(plots.run)
    again.draw_before(task, data)
    assert again.before is not None
    assert np.array_equal(again.before["prediction"], plots.before["prediction"])
    damaged = plots.run.path / "predictions" / "untrained.npz"
    damaged.write_bytes(b"")
    again.draw_before(task, data)
    assert capsys.readouterr().out.startswith(
        f"plots: before_and_after: skipped: InputError: {damaged}: not readable: "
    )


def test_plots_do_not_change_training() -> None:
    _, one, _, loggers = trained("digits")
    _, other, _, without = trained("digits", drawing=False)
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )
    assert loggers[0].steps.path.read_text() == without[0].steps.path.read_text()


def test_failing_plot_is_printed_and_does_not_end_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plots, task, data, _ = trained("digits")
    monkeypatch.setattr("src.kindling.analysis.class_plots.plot_class_scores", lambda *_: 1 / 0)
    assert plots.draw(task, data, "test", MONITOR) == ["curves"]
    assert (
        capsys.readouterr().out
        == "plots: stopped after 'curves': ZeroDivisionError: division by zero\n"
    )
    monkeypatch.setattr("src.kindling.analysis.history.plot_curves", lambda *_: 1 / 0)
    assert plots.draw(task, data, "test", MONITOR) == []
    assert (
        capsys.readouterr().out
        == "plots: stopped at the first plot: ZeroDivisionError: division by zero\n"
    )


class Bare(LightningModule):
    """A task that says nothing but what Lightning asks for."""

    monitor, mode = "val/loss", "min"

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.flatten(1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return (self(batch[0]) - batch[1]).square().mean()

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", self.training_step(batch, 0), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-9)


def test_plots_of_task_without_outputs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plots, task, data, loggers = trained("diabetes", Bare())
    assert plots.draw(task, data, "test", MONITOR, loggers) == [
        "curves",
        "weights",
        "gradients",
        "layers",
    ]
    assert capsys.readouterr().out == ""
