"""Predictions of a split: every sample once, as the task predicts it, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from src.kindling.analysis.outputs import Classes
from src.kindling.analysis.predictions import Predictions, check_columns, predict, spread
from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.data.data_module import DataModule
from src.kindling.data.preprocess import InputStats, build_preprocess
from src.kindling.training.build import build_data, build_task
from tests.conftest import checked


def built(config: Config) -> tuple[Any, DataModule]:
    """An untrained task and its data; predictions in training mode would show its dropout."""
    torch.manual_seed(0)
    data = build_data(config)
    return build_task(config, data), data


@pytest.fixture
def digits() -> tuple[Any, DataModule]:
    return built(checked("digits", "net.dropout=0.5", "data.batch_size=100"))


def test_predictions_cover_each_sample_once(digits: tuple[Any, DataModule]) -> None:
    task, data = digits
    predictions = predict(task, data, "test")
    index = data.indices["test"]
    assert len(predictions) == len(index) == 270
    assert predictions["index"].tolist() == index.tolist()
    assert predictions["target"].tolist() == data.samples.y[index].tolist()
    samples: Any = data.samples
    x, _ = data.prepare(samples.x[index], samples.y[index])
    expected = task.eval()(x).softmax(dim=1).detach().numpy()
    assert predictions["probability"].dtype == np.float32
    assert predictions["probability"] == pytest.approx(expected, abs=1e-6)
    assert predictions["prediction"].tolist() == expected.argmax(axis=1).tolist()
    assert torch.equal(predictions.inputs([3, 5]), data.samples.x[index[[3, 5]]])
    assert predictions.name(3) == str(int(index[3]))
    some = predictions.take([3, 5])
    assert len(some) == 2
    assert some["index"].tolist() == index[[3, 5]].tolist()


def test_data_that_did_not_train_a_pretrained_net_are_prepared_for_it(
    digits: tuple[Any, DataModule],
) -> None:
    task, data = digits
    stats = task.net.input_stats = InputStats(8, (0.5,), (0.25,))
    found = predict(task, data, "val", 20)
    x = build_preprocess(data.spec, stats)(found.inputs(slice(None)))
    expected = task.eval()(x).softmax(dim=1).detach().numpy()
    assert found["probability"] == pytest.approx(expected, abs=1e-6)


def test_predict_restores_task_mode(digits: tuple[Any, DataModule]) -> None:
    task, data = digits
    task.train()
    task.net.body[1].eval()
    before, drawn = (
        {name: value.clone() for name, value in task.state_dict().items()},
        torch.get_rng_state(),
    )
    predict(task, data, "val", 10)
    assert task.training
    assert not task.net.body[1].training
    assert task.net.body[2].training
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_handful_is_repeatable(
    digits: tuple[Any, DataModule],
) -> None:
    task, data = digits
    some, every = predict(task, data, "val", 10), predict(task, data, "val")
    rows = [0, 29, 59, 89, 119, 149, 179, 209, 239, 269]
    assert some["index"].tolist() == every["index"][rows].tolist()
    assert some["probability"] == pytest.approx(every["probability"][rows], abs=1e-6)
    assert len(predict(task, data, "val", 1000)) == 270
    assert [spread(5, 5), spread(5, 1), spread(0, 3), spread(9, 3)] == [
        [0, 1, 2, 3, 4],
        [0],
        [],
        [0, 4, 8],
    ]


def test_training_samples_are_predicted_without_their_random_transforms() -> None:
    flip = (
        "data.train_transforms=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip, p: 1.0}]"
    )
    task, data = built(checked("digits", flip, "data.num_workers=0"))
    predictions = predict(task, data, "train", 20)
    index = torch.from_numpy(predictions["index"])
    samples: Any = data.samples
    x, _ = data.prepare(samples.x[index], samples.y[index])
    expected = task.eval()(x).softmax(dim=1).detach().numpy()
    assert predictions["probability"] == pytest.approx(expected, abs=1e-6)


class Embedding(LightningModule):
    """Stands for any task: its columns have shapes and kinds of their own."""

    def predict_step(self, batch: Any, _: int) -> dict[str, Tensor]:
        x = batch[0].flatten(1)[:, :6].reshape(-1, 2, 3)
        return {
            "vector": x.double(),
            "dark": x[:, 0, 0] < 0,
            "count": x[:, 0].long().sum(1),
            "half": x.bfloat16(),
        }


def test_any_columns_come_through_and_are_read_again(
    digits: tuple[Any, DataModule], tmp_path: Path
) -> None:
    _, data = digits
    predictions = predict(Embedding(), data, "val")  # type: ignore[arg-type]
    shapes = {
        name: (values.shape, str(values.dtype)) for name, values in predictions.columns.items()
    }
    assert shapes == {
        "index": ((270,), "int64"),
        "vector": ((270, 2, 3), "float64"),
        "dark": ((270,), "bool"),
        "count": ((270,), "int64"),
        "half": ((270, 2, 3), "float32"),
    }
    path = tmp_path / "predictions" / "val.npz"
    predictions.save(path)
    again = Predictions.load(path)
    assert {*again.columns} == {*predictions.columns}
    assert all(np.array_equal(again[name], predictions[name]) for name in again.columns)
    assert (again.spec, again.stage) == (data.spec, "val")
    assert again.name(7) == str(predictions["index"][7])
    with pytest.raises(RuntimeError, match="without their data"):
        again.inputs([0])
    assert torch.equal(Predictions.load(path, data).inputs([7]), predictions.inputs([7]))
    assert [file.name for file in path.parent.iterdir()] == ["val.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY nonsense"])
def test_invalid_predictions_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    with pytest.raises(InputError, match=f"^{path}: no such predictions$"):
        Predictions.load(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}: not readable: .*; remove it$"):
        Predictions.load(path)


def test_weights_of_sixteen_bits_give_columns_of_thirty_two() -> None:
    task, data = built(checked("diabetes"))
    expected = predict(task, data, "test")["prediction"]
    predictions = predict(task.to(torch.bfloat16), data, "test")
    assert predictions["prediction"].dtype == np.float32
    assert predictions["prediction"] == pytest.approx(expected, rel=0.1)


def test_handful_does_not_recompile(digits: tuple[Any, DataModule]) -> None:
    task, data = digits
    compiled = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    task.net.compile(backend=backend)
    some = predict(task, data, "val", 10)
    assert compiled == []
    assert predict(task, data, "val")["probability"][0] == pytest.approx(
        some["probability"][0], abs=1e-6
    )
    assert compiled != []


class WithOutputs(LightningModule):
    """A module from elsewhere with `outputs` of three classes."""

    outputs = Classes(("a", "b", "c"))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"prediction": (4,), "target": (4,)}, "no 'probability', which Classes needs"),
        ({"probability": (4, 3)}, "no 'target' and no 'prediction', which Classes needs"),
        (
            {"prediction": (4, 3), "probability": (4, 3), "target": (4,)},
            "'prediction' (4, 3) for 'target' (4,)",
        ),
        (
            {"prediction": (4,), "probability": (4, 2), "target": (4,)},
            "'probability' (4, 2), and Classes needs (B, 3)",
        ),
    ],
)
def test_columns_that_outputs_need(columns: dict[str, tuple[int, ...]], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        check_columns(WithOutputs(), {name: torch.zeros(size) for name, size in columns.items()})
    assert caught.value.lines == [
        f'task: predict_step of WithOutputs returns {problem}; return {{"target": y, '
        "**self.outputs.columns(raw)} from predict_step (docs/how-to/add-a-task.md)"
    ]


def test_columns_of_outputs() -> None:
    outputs = WithOutputs.outputs
    check_columns(WithOutputs(), {"target": torch.zeros(4), **outputs.columns(torch.zeros(4, 3))})
