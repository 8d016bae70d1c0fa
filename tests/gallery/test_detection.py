"""Detection: boxes fit their digits, mAP is COCO's, and torchvision's nets are trained alike."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.ssd import SSD

from src.gallery.detection import Detection, DigitScenes, SmallFCOS, crop, find_components
from src.kindling.training.trained_run import load_run
from tests.conftest import train

ANCHORS: Any = {
    "rpn_anchor_generator": AnchorGenerator(((12,),), ((1.0,),)),
    "anchor_generator": AnchorGenerator(((12,),), ((1.0,),)),
}


@pytest.fixture(scope="module")
def data() -> DigitScenes:
    data = DigitScenes(scenes=(8, 4, 4), batch_size=4)
    data.setup("fit")
    return data


def test_boxes_enclose_digits(data: DigitScenes) -> None:
    for image, target in data.splits[0]:
        assert image.shape == (1, 48, 48)
        assert 1 <= len(target["boxes"]) <= 5
        assert set(target["labels"].tolist()) <= set(range(1, 11))
        outside = torch.ones(48, 48)
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            assert image[0, y1:y2, x1:x2].mean() > 0.12
            outside[y1:y2, x1:x2] = 0
        assert image[0][outside > 0].mean() < 0.08  # noise, and a digit's faint edge


A, B = [0.0, 0, 10, 10, 1], [20.0, 20, 30, 30, 2]


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        ([[[*A, 0.9], [*B, 0.8]]], [[A, B]], 1.0),
        ([[[*A, 0.9]]], [[A, B]], 0.5),  # a class of two is never found
        ([[[*A[:4], 2.0, 0.9]]], [[A]], 0.0),  # the wrong class
        ([[[*A, 0.9], [*A, 0.8]]], [[A]], 1.0),  # the second one comes after full recall
        ([[[0.0, 0, 10, 8.2, 1, 0.9]]], [[A]], 0.7),  # IoU 0.82: right at 7 of 10 thresholds
        # Right, wrong, right: precision 1 up to recall 1/2 (51 of 101 levels), then 2/3.
        ([[[*A, 0.9], [*B[:4], 1.0, 0.8]], [[*A, 0.7]]], [[A], [A]], (51 + 50 * 2 / 3) / 101),
        ([[], [[*A, 0.7]]], [[A], []], 0.0),
    ],
)
def test_logged_map_is_that_of_coco(found: list[Any], true: list[Any], expected: float) -> None:
    task, logged = Detection(nn.Identity()), dict[str, Tensor]()
    task.log_dict = logged.update  # type: ignore[method-assign,assignment]
    for boxes, truth in zip(found, true, strict=True):
        one, target = torch.tensor(boxes).view(-1, 6), torch.tensor(truth).view(-1, 5)
        labels = {"labels": one[:, 4].long(), "scores": one[:, 5]}
        goal = {"boxes": target[:, :4], "labels": target[:, 4].long()}
        task.validation_step(([{"boxes": one[:, :4], **labels}], [goal]), 0)  # type: ignore[list-item]
    task.on_validation_epoch_end()
    assert logged["val/map"].item() == pytest.approx(expected, abs=1e-6)
    assert {*logged} == {"val/map", "val/map_50", "val/map_75"}
    assert task.map.update_count == 0  # the next epoch begins anew


def test_missing_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Detection.__module__], "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[detection\]'$"):
        Detection(nn.Identity())


def test_components_are_named_as_the_nearest_digit(data: DigitScenes) -> None:
    scenes = data.splits[0]
    digits = torch.cat([crop(image, target["boxes"]) for image, target in scenes])
    labels = torch.cat([target["labels"] for _, target in scenes])
    image = torch.zeros(1, 48, 48)
    assert len(find_components(image, digits, labels)["boxes"]) == 0
    left, top, right, bottom = scenes[0][1]["boxes"][0].int().tolist()
    image[:, top:bottom, left:right] = scenes[0][0][:, top:bottom, left:right]
    found = find_components(image, digits, labels)
    best = found["scores"].argmax()
    assert found["labels"][best] == labels[0]
    assert found["boxes"][best].tolist() == pytest.approx([left, top, right, bottom], abs=2)


def backbone() -> Any:
    net: Any = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
    net.out_channels = 8
    return net


@pytest.mark.parametrize("kind", ["SmallFCOS", "RetinaNet", "FasterRCNN"])
def test_nets_of_torchvision_train_and_detect(kind: str, data: DigitScenes) -> None:
    torch.manual_seed(0)
    options: Any = {"min_size": 48, "max_size": 48}
    if kind == "SmallFCOS":
        net: nn.Module = SmallFCOS()
    elif kind == "RetinaNet":
        options["anchor_generator"] = ANCHORS["anchor_generator"]
        net = RetinaNet(backbone(), 11, **options)
    else:
        options["rpn_anchor_generator"] = ANCHORS["rpn_anchor_generator"]
        net = FasterRCNN(backbone(), 11, **options)
    task, batch = Detection(net), next(iter(data.train_dataloader()))
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    loss: Tensor = task.training_step(batch, 0)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    with torch.inference_mode():
        columns = task.eval().predict_step(batch, 0)
    assert columns["image"].shape == (4, 1, 48, 48)
    assert columns["found"].shape == columns["true"].shape == (4, 20, 6)
    for row, target in zip(columns["true"], batch[1], strict=True):
        count = len(target["boxes"])
        assert torch.equal(row[:count, :4], target["boxes"])
        assert row[:, 5].tolist() == [1.0] * count + [0.0] * (20 - count)


def test_loss_falls_on_one_batch(data: DigitScenes) -> None:
    torch.manual_seed(0)
    net, (images, targets) = SmallFCOS(width=32), next(iter(data.train_dataloader()))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    for _ in range(12):
        loss = torch.stack([*net(images, targets).values()]).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_net_of_torchvision_from_the_config() -> None:
    net = "net._target_=torchvision.models.detection.ssdlite320_mobilenet_v3_large"
    words = ("net.weights=null", "net.weights_backbone=null", "net.num_classes=11")
    small = ("data.scenes=[4,2,2]", "data.batch_size=2", "trainer.max_epochs=1")
    result = train("detection", net, *words, *small)
    assert 0 <= result.metrics["test/map"] <= 1
    assert isinstance(load_run(result.run.path).task.net, SSD)
