"""Shards as data: what they are taken for, that they train and resume, and mistakes in one line."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import nn

from src.data.shards import Shards
from src.kindling.config.errors import InputError
from src.kindling.data.images import image_data
from src.kindling.runs.run import Run
from src.kindling.training.evaluate import evaluate
from src.kindling.training.fit import fit
from src.kindling.training.run_loggers import Curves
from src.kindling.training.trained_run import load_run
from tests.conftest import call, checked, train
from tests.faults.test_exact import Killed, ending
from tests.make_shards import encode, write_digits, write_parquet, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_data, "DATA", tmp_path / "data")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits in six shards of each format."""
    folder = tmp_path_factory.mktemp("digits")
    for form in ("parquet", "tar"):
        write_digits(folder / form, form, 300)
    return folder


def words(folder: Path, *more: str) -> list[str]:
    plain = ("data.channels=1", "data.batch_size=16", "data.buffer_size=64", "data.num_workers=0")
    return [f"data.folder={folder}", *plain, "net.channels=[4]", "num_threads=1", *more]


def open_data(folder: Path, **options: Any) -> Shards:
    data = Shards(str(folder), **{"num_workers": 0, **options})
    data.setup()
    return data


def test_spec_of_parquet_images(folder: Path) -> None:
    data = open_data(folder / "parquet", channels=1)
    spec = data.spec
    assert (spec.in_shape, spec.kind, spec.target) == ((1, 16, 16), "image", "label")
    assert spec.classes == tuple("0123456789")
    assert sum(spec.class_counts) == len(data.shards["train"]) == 200
    x, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert (x.dtype, x.shape) == (torch.float32, (64, 1, 16, 16))
    assert abs(float(x.mean())) < 0.1
    assert data.notes[0] == "val: 1 of 6 shards (digits-004.parquet)"
    assert data.notes[2] == "rows: 200 train, 50 val, 50 test"


def test_spec_of_tar_images_and_names(folder: Path, tmp_path: Path) -> None:
    data = open_data(folder / "tar", input="png", target="cls")
    assert (data.spec.in_shape, data.spec.num_outputs) == ((3, 16, 16), 10)
    rows = [{"x.png": encode(np.zeros((8, 8))), "txt": b"ab"[i % 2 : i % 2 + 1]} for i in range(60)]
    for stage in ("train", "val"):
        write_tar(tmp_path / "set" / stage / "a.tar", rows)
    data = open_data(tmp_path / "set", input="x.png", target="txt", split=(1, 0, 0))
    assert (data.spec.classes, data.spec.class_counts) == (("a", "b"), (30, 30))
    assert data.test_dataloader() == []
    (tmp_path / "set" / "classes.txt").write_text("none\nb\na\n")
    data = open_data(tmp_path / "set", input="x.png", target="txt", split=(1, 0, 0))
    assert (data.spec.classes, data.spec.class_counts) == (("none", "b", "a"), (0, 30, 30))
    assert {int(y) for _, ys in data.val_dataloader() for y in ys} == {1, 2}


def test_classes_file_names_numbers(folder: Path, tmp_path: Path) -> None:
    names = [f"digit {i}" for i in range(12)]
    write_digits(tmp_path / "set", "parquet", 60, 3)
    (tmp_path / "set" / "classes.txt").write_text("\n".join(names))
    data = open_data(tmp_path / "set")
    assert data.spec.classes == tuple(names)
    (x, y) = next(iter(data.test_dataloader()))
    assert (len(x), int(y.max())) == (20, 9)


@pytest.mark.parametrize("shape", [(5,), (7, 3), (2, 4, 4)])
def test_numbers_and_values(tmp_path: Path, shape: tuple[int, ...]) -> None:
    import pyarrow as pa

    draw = np.random.default_rng(0)
    for i in range(4):
        x = draw.normal(10, 2, (50, *shape))
        columns = {"x": pa.array(x.tolist()), "price": x.reshape(50, -1)[:, 0] * 3}
        write_parquet(tmp_path / "set" / f"{i}.parquet", columns)
    data = open_data(tmp_path / "set", input="x", target="price")
    assert data.spec.raw_shape == shape
    assert data.spec.kind == ("table", "sequence", "image")[len(shape) - 1]
    assert data.spec.target_type == "values"
    assert abs(data.spec.target_mean[0] - 30) < 2
    x, y = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert (x.shape, x.dtype, y.shape) == ((64, *shape), torch.float32, (64, 1))
    assert abs(float(x.mean())) < 0.3
    assert 0.7 < float(x.std()) < 1.3


def test_held_out_shards_do_not_change_training(tmp_path: Path) -> None:
    write_digits(tmp_path / "set", "parquet", 300)
    results = []
    for _ in range(2):
        results.append(train("shards", *words(tmp_path / "set")))
        data = open_data(tmp_path / "set")
        for path in data.shards["val"].paths + data.shards["test"].paths:
            images = [encode(np.full((8, 8), i % 16)) for i in range(50)]
            write_parquet(path, {"image": images, "label": [i % 10 for i in range(50)]})
    before, after = results
    assert after.run.spec == before.run.spec
    states = [torch.load(result.run.checkpoints / "last.ckpt")["state_dict"] for result in results]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert after.metrics != before.metrics


def test_whole_numbers_as_values(folder: Path) -> None:
    data = open_data(folder / "tar", input="png", target="json.label", kind="regression")
    assert data.spec.target_type == "values"


@pytest.mark.parametrize("form", ["parquet", "tar"])
def test_shards_train_and_evaluate(form: str, folder: Path, tmp_path: Path) -> None:
    columns = ["data.input=png", "data.target=cls"] if form == "tar" else []
    result = train("shards", *words(folder / form, *columns))
    run = load_run(result.run.path)
    assert evaluate(run) == result.metrics
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(encode(np.eye(8) * 16))
    call("predict", str(run.path), str(tmp_path / "new"))
    assert "a.png" in (run.path / "predictions.csv").read_text()


def test_number_of_workers_does_not_change_a_training(folder: Path) -> None:
    augment = (
        "data.train_transforms=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}]"
    )
    metrics = [
        train("shards", *words(folder / "parquet", augment, f"data.num_workers={n}")).metrics
        for n in (0, 2)
    ]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("stop", [3, 13, 14])
def test_killed_training_resumes_exactly(
    stop: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 batches are an epoch: in its middle, at its end, after the first of the next."""
    augment = (
        "data.train_transforms=[{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}]"
    )
    config = checked(
        "shards",
        *words(folder / "parquet", augment, "trainer.max_epochs=2", "checkpoint_minutes=0"),
    )
    whole = fit(config, Run.claim("shards"))
    run = Run.claim("shards")

    def kill(self: Any, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= stop:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Curves, "on_train_batch_start", kill, raising=False)
        with pytest.raises(Killed):
            fit(config, run)
    resumed = fit(config, run, resume=True)
    for each in (resumed.run, whole.run):
        (each.path / "split.csv").touch()  # Kindling's own data have one
    assert ending(resumed.run) == ending(whole.run)


class Plain(LightningModule):
    """A module that knows nothing of Kindling, and notes the loss of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings("ignore")
def test_plain_lightning_resumes_within_an_epoch(folder: Path, tmp_path: Path) -> None:
    def run(checkpoint: Path | None = None) -> list[float]:
        torch.manual_seed(0)
        module = Plain()
        saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
        shown = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=[saving], **shown)
        data = Shards(str(folder / "parquet"), channels=1, batch_size=16, num_workers=0)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
        return module.losses

    whole = run()
    assert len(set(whole)) == 26
    for step in (5, 15, 25):
        assert run(tmp_path / f"step={step}.ckpt") == whole[step:]


def test_lists_in_tar_are_values(tmp_path: Path) -> None:
    image = encode(np.zeros((8, 8)))
    for shard in range(3):
        box = json.dumps({"box": [shard, 1, 2, 3]}).encode()
        write_tar(tmp_path / "set" / f"{shard}.tar", [{"png": image, "json": box}] * 2)
    data = open_data(tmp_path / "set", input="png", target="json.box", split=(0.34, 0.33, 0.33))
    assert data.spec.target_type == "values"
    assert data.spec.num_outputs == 4


def bad_image(folder: Path) -> None:
    for shard in range(3):
        images = [encode(np.zeros((8, 8)))] * 5
        images[4] = b"no image"
        write_parquet(folder / f"{shard}.parquet", {"image": images, "label": [0, 1, 0, 1, 0]})


def other_size(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "JPEG")
    images = [encode(np.zeros((8, 8))), buffer.getvalue()]
    for shard in range(3):
        write_parquet(folder / f"{shard}.parquet", {"image": images, "label": [0, 1]})


def other_classes(folder: Path) -> None:
    image = encode(np.zeros((8, 8)))
    write_parquet(folder / "train" / "a.parquet", {"image": [image] * 2, "label": ["a", "b"]})
    write_parquet(folder / "val" / "a.parquet", {"image": [image] * 2, "label": ["a", "c"]})


def few(folder: Path) -> None:
    write_digits(folder, "parquet", 20, 2)


def one_class(folder: Path) -> None:
    image = encode(np.zeros((8, 8)))
    for shard in range(3):
        write_parquet(folder / f"{shard}.parquet", {"image": [image] * 2, "label": [1, 1]})


def dates(folder: Path) -> None:
    image = encode(np.zeros((8, 8)))
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    for shard in range(3):
        write_parquet(folder / f"{shard}.parquet", {"image": [image] * 2, "label": days})


MISTAKES: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "bad image": (
        bad_image,
        {},
        r"set/\d.parquet: row 5: cannot be read as an image: .*; replace it, or set data.input$",
    ),
    "other size": (
        other_size,
        {},
        r"set/\d.parquet: row 2: its input is \(3, 10, 20\), and others are \(3, 16, 16\); end .* with a Resize$",
    ),
    "other classes": (
        other_classes,
        {"split": (1.0, 0.0, 0.0)},
        "set: val shards have classes that the training shards lacks: c; add them, or set data.target$",
    ),
    "few shards": (
        few,
        {},
        r"set: too few shards \(2\) to take some for test; write more, .*/test$",
    ),
    "one class": (one_class, {}, "set: all rows are of one class, '1'; at least two are needed$"),
    "bytes as target": (
        few,
        {"target": "image", "split": (0.5, 0.5, 0.0)},
        "^data.target: 'image' holds bytes; name a column of classes or numbers$",
    ),
    "dates as target": (dates, {}, "^data.target: 'label' holds date; name a column of classes"),
    "text as input": (
        few,
        {"input": "label", "split": (0.5, 0.5, 0.0)},
        "row 1: .*set data.input$",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_one_line(case: str, tmp_path: Path) -> None:
    write, options, message = MISTAKES[case]
    write(tmp_path / "set")
    with pytest.raises(InputError) as caught:
        open_data(tmp_path / "set", **options)
    assert len(caught.value.lines) == 1
    assert re.search(message, caught.value.lines[0]), caught.value.lines


def test_mistake_in_a_worker_is_one_line(folder: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "set", "tar", 120, 4)
    data = open_data(tmp_path / "set", input="png", target="cls", batch_size=8, num_workers=2)
    path = data.shards["train"].paths[1]
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: .*; replace the file$"):
        list(data.train_dataloader())
    assert json.dumps(data.train_dataloader().state_dict())


def test_workers_end_after_a_training_that_leaves_its_epoch(folder: Path) -> None:
    train("shards", *words(folder / "parquet", "data.num_workers=2"))  # three of its batches
    gc.collect()
    assert multiprocessing.active_children() == []
