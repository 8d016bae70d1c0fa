"""The pictures at the end of a training: files, TensorBoard, before and after; and what goes wrong costs no training."""

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
from src.kindling.data.batch import Batch
from src.kindling.data.data_module import DataModule
from src.kindling.runs.files import write
from src.kindling.runs.run import Run
from src.kindling.training.build import build_data, build_task
from src.kindling.training.callbacks.metrics_file import MetricsFile
from src.kindling.training.callbacks.tensorboard import TensorBoard
from src.kindling.training.warning_filters import quiet
from tests.conftest import checked

pytestmark = pytest.mark.pictures
OF_CLASSES = ["curves", "test_confusion", "test_classes", "test_roc_and_pr", "test_calibration", "test_mistakes",
              "test_uncertain", "test_examples", "before_and_after", "weights", "gradients", "layers"]  # fmt: skip


def trained(
    name: str, task: Any = None, drawing: bool = True, words: tuple[str, ...] = ()
) -> tuple[Plots, Any, DataModule, list[Any]]:
    """A little training with the callback, and what is needed for drawing."""
    quiet()
    torch.set_num_threads(1)
    config = checked(name, "data.num_workers=0", *words)
    run, data = Run.claim(name), build_data(config)
    seed_everything(0, verbose=False)
    task = task or build_task(config, data.spec)
    write(run.path / "config.yaml", "net: ü\n")
    pictures = Plots(run)
    loggers = [MetricsFile(run.path / "metrics.csv", 0), TensorBoard(run.path, name="", version="")]
    Trainer(max_epochs=2, limit_train_batches=4, callbacks=[pictures, pictures.histograms] if drawing else [], logger=loggers,
            accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            num_sanity_val_steps=0, log_every_n_steps=2).fit(task, datamodule=data)  # fmt: skip
    return pictures, task, data, loggers


def test_pictures_lie_in_the_run_and_in_tensorboard() -> None:
    pictures, task, data, loggers = trained("digits")
    assert pictures.draw(task, data, "test", loggers) == OF_CLASSES
    loggers[1].close()
    run = pictures.run
    assert sorted(path.name for path in (run.path / "plots").iterdir()) == sorted(f"{name}.png" for name in OF_CLASSES)
    for path in (run.path / "plots").iterdir():
        assert min(pyplot.imread(path).shape[:2]) > 100
    events = EventAccumulator(str(run.path), size_guidance={"images": 0, "tensors": 0}).Reload()
    assert sorted(events.Tags()["images"]) == sorted(f"pictures/{name}" for name in OF_CLASSES)
    (image,) = events.Images("pictures/test_confusion")
    assert image.step == 8
    assert (image.height, image.width) == pyplot.imread(run.path / "plots" / "test_confusion.png").shape[:2]
    said = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert said["config/text_summary"] == "    net: ü\n    "
    assert "|net.head|Linear|10|10,250|20,480|" in said["layers/text_summary"].splitlines()


def test_predictions_are_kept_before_and_after() -> None:
    pictures, task, data, _ = trained("diabetes")
    assert pictures.draw(task, data, "test") == ["curves", "test_errors", "test_worst", "before_and_after",
                                                 "weights", "gradients", "layers"]  # fmt: skip
    folder = pictures.run.path / "predictions"
    assert sorted(path.name for path in folder.iterdir()) == ["test.npz", "untrained.npz"]
    after = Predictions.load(folder / "test.npz", data)
    assert np.array_equal(after["prediction"], predict(task, data, "test")["prediction"])
    before = Predictions.load(folder / "untrained.npz", data)
    assert before.stage == "val"
    same = predict(task, data, "val", 64)
    assert before["index"].tolist() == same["index"].tolist()
    assert np.abs(before["prediction"] - same["prediction"]).max() > 1
    assert {name: values.shape for name, values in pictures.weights.items()} == {
        name: parameter.flatten().shape for name, parameter in task.named_parameters() if parameter.ndim > 1}  # fmt: skip
    first = (pictures.run.path / "plots" / "before_and_after.png").read_bytes()
    pictures.before = same
    pictures.draw(task, data, "test")
    assert (pictures.run.path / "plots" / "before_and_after.png").read_bytes() != first


def test_without_a_test_split_validation_is_drawn() -> None:
    pictures, task, data, _ = trained("diabetes", words=("data.split=[0.8,0.2,0.0]",))
    assert pictures.draw(task, data, "test")[1:3] == ["val_errors", "val_worst"]
    assert Predictions.load(pictures.run.path / "predictions" / "val.npz").stage == "val"


def test_a_training_that_goes_on_keeps_what_its_untrained_net_said(capsys: pytest.CaptureFixture[str]) -> None:
    pictures, task, data, _ = trained("diabetes")
    assert pictures.before is not None
    again = Plots(pictures.run)
    trainer = Trainer(callbacks=[again], logger=False, accelerator="cpu", enable_progress_bar=False, max_epochs=0,
                      enable_model_summary=False, enable_checkpointing=False)  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert again.before is not None
    assert np.array_equal(again.before["prediction"], pictures.before["prediction"])
    damaged = pictures.run.path / "predictions" / "untrained.npz"
    damaged.write_bytes(b"")
    again.on_fit_start(trainer, task)
    assert capsys.readouterr().out.startswith(f"pictures: none of before: InputError: {damaged}: not readable: ")


def test_the_training_is_the_same_with_and_without_pictures() -> None:
    _, one, _, loggers = trained("digits")
    _, other, _, without = trained("digits", drawing=False)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert loggers[0].path.read_text() == without[0].path.read_text()


def test_a_picture_that_fails_is_said_and_costs_no_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, task, data, _ = trained("digits")
    monkeypatch.setattr("src.kindling.analysis.figures_of_classes.classes", lambda *_: 1 / 0)
    assert pictures.draw(task, data, "test") == ["curves"]
    assert capsys.readouterr().out == "pictures: ended after 'curves': ZeroDivisionError: division by zero\n"
    (pictures.run.path / "metrics.csv").write_text("no,step\n1,2\n")
    assert pictures.draw(task, data, "test") == []
    assert capsys.readouterr().out == "pictures: ended at the first: KeyError: 'epoch'\n"


class Bare(LightningModule):
    """A task that says nothing but what Lightning asks for."""

    monitor, mode = "val/loss", "min"

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.flatten(1))

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        return (self(batch.x) - batch.y).square().mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.log("val/loss", self.training_step(batch, 0), batch_size=len(batch.x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-9)


def test_a_task_without_pictures_has_its_curves_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    pictures, task, data, loggers = trained("diabetes", Bare())
    assert "pictures: none of before: AttributeError: " in capsys.readouterr().out
    assert pictures.draw(task, data, "test", loggers) == ["curves", "weights", "gradients", "layers"]
    assert capsys.readouterr().out == ""
