"""Several inputs: the height follows from both, each branch is used, the loss is computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.gallery.multi_input import HeightFromPhoto, PhotoData, TwoBranchNet
from src.kindling.analysis import Predictions


@pytest.fixture(scope="module")
def data() -> PhotoData:
    data = PhotoData(photos=(64, 16, 16), batch_size=16)
    data.setup("fit")
    return data


def build(data: PhotoData, net: nn.Module) -> HeightFromPhoto:
    task = HeightFromPhoto(net, data.means, data.stds)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


class Zero(nn.Module):
    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return torch.zeros(len(image), 1)


def test_height_is_pixels_times_distance_over_lens(data: PhotoData) -> None:
    photos = data.splits[0]
    distance, lens = photos.table.T
    pixels = photos.height[:, 0] * lens / distance / 10
    assert torch.allclose(pixels, pixels.round(), atol=1e-3)
    assert pixels.min() >= 7.9
    assert pixels.max() <= 24.1
    bright = (photos.image[:, 0] > 0.5).any(dim=2)  # rows of each photo
    assert (bright.sum(dim=1) <= pixels.round()).all()
    assert (bright.sum(dim=1) >= 0.6 * pixels).all()


def test_means_and_stds_are_those_of_training(data: PhotoData) -> None:
    numbers = np.c_[data.splits[0].table.numpy(), np.log(data.splits[0].height.numpy())]
    assert data.means == pytest.approx(numbers.mean(axis=0).tolist(), rel=1e-4)
    assert data.stds == pytest.approx(numbers.std(axis=0, ddof=1).tolist(), rel=1e-4)


@pytest.mark.parametrize("inputs", [("image",), ("table",), ("image", "table")])
def test_net_depends_on_its_inputs_only(inputs: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    net, image, table = TwoBranchNet(inputs).eval(), torch.rand(2, 1, 32, 32), torch.rand(2, 2)
    image.requires_grad_()
    table.requires_grad_()
    value = net(image, table)
    assert value.shape == (2, 1)
    grads = torch.autograd.grad(value.sum(), (image, table), allow_unused=True)
    assert [grad is not None for grad in grads] == ["image" in inputs, "table" in inputs]


def test_loss_and_prediction_by_hand(data: PhotoData) -> None:
    task, batch = build(data, Zero()), next(iter(data.val_dataloader()))
    loss = task.training_step(batch, 0)
    standardized = (batch["height"].log() - data.means[2]) / data.stds[2]
    assert loss.item() == pytest.approx(standardized.square().mean().item(), rel=1e-5)
    heights = task(batch["image"], batch["table"])
    assert heights[:, 0].tolist() == pytest.approx([np.exp(data.means[2])] * 16, rel=1e-5)


def test_columns_and_plot(data: PhotoData) -> None:
    torch.manual_seed(0)
    task, batch = build(data, TwoBranchNet(width=4)).eval(), next(iter(data.val_dataloader()))
    with torch.inference_mode():
        columns: dict[str, Any] = task.predict_step(batch, 0)
        other = task(batch["image"], batch["table"].roll(1, dims=0))
    assert torch.equal(columns["with_other_table"], other)
    assert torch.equal(columns["target"], batch["height"])
    assert columns["prediction"].shape == (16, 1)
    arrays = {name: column.numpy() for name, column in columns.items()}
    predictions = Predictions({"index": np.arange(16), **arrays}, None, "test")
    assert set(task.plot(predictions)) == {"inputs"}
