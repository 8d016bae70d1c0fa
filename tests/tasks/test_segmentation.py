"""Masks: the metrics are those of scikit-learn over all pixels, the losses those of their papers, and all else follows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor, nn

from src.kindling.analysis.intervals import metric_intervals
from src.kindling.analysis.predictions import Predictions, predict
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from src.kindling.nn.losses import IGNORED, CrossEntropyDiceLoss, DiceLoss
from src.kindling.nn.metrics import Overlap, confusions
from src.kindling.runs.run import Run
from src.kindling.training.build import build_data
from src.nets.unet import UNet
from src.tasks.segmentation import Segmentation
from tests.conftest import FEW_SCENES, checked, mistakes, train
from tests.kindling.analysis.test_figures import render

SPEC = Spec(
    in_shape=(1, 6, 5),
    num_outputs=3,
    kind="image",
    classes=("ground", "cat/dog", "owl"),
    class_counts=(60, 30, 10),
    target_shape=(6, 5),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A little run, trained once."""
    from src.kindling.runs import run as runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "LOGS", tmp_path_factory.mktemp("logs"))
        patch.setattr("src.kindling.analysis.plots.Plots.draw", lambda *_, **__: [])
        return train(
            "segmentation",
            "data.scenes=[96,32,40]",
            "net.channels=[8,16]",
            "trainer.max_epochs=1",
            "trainer.limit_test_batches=1.0",
        ).run


def batches(count: int = 50, size: int = 20) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    x, y = torch.rand(count, 1, 6, 5), torch.randint(0, 3, (count, 6, 5), dtype=torch.uint8)
    y = y.long()
    y[torch.rand(y.shape) < 0.1] = IGNORED
    return [(x[i : i + size], y[i : i + size]) for i in range(0, count, size)]


def test_segmentation_metrics_match_scikit_learn() -> None:
    some = batches()
    torch.manual_seed(1)
    task = Segmentation(nn.Conv2d(1, 3, 3, padding=1), SPEC)
    for batch in some:
        task.test_step(batch, 0)
    values = {name: value.item() for name, value in task.test_meter.compute().items()}
    y, masks = (
        torch.cat([y for _, y in some]).flatten(),
        torch.cat([task(x).argmax(1) for x, _ in some]).flatten(),
    )
    true, said = y[y != IGNORED].numpy(), masks[y != IGNORED].numpy()
    iou, dice = sk.jaccard_score(true, said, average=None), sk.f1_score(true, said, average=None)
    assert values["test/iou"] == pytest.approx(iou.mean())
    assert values["test/dice"] == pytest.approx(dice.mean())
    assert values["test/pixel_accuracy"] == pytest.approx(sk.accuracy_score(true, said))
    for i, name in enumerate(("ground", "cat_dog", "owl")):
        assert values[f"test/iou_{name}"] == pytest.approx(iou[i])
        assert values[f"test/dice_{name}"] == pytest.approx(dice[i])


def test_absent_class_is_left_out_of_the_mean() -> None:
    metric = Overlap(["a", "b", "c"])
    metric.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 1]]]))
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values["iou"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert values["dice"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert values["iou_c"] != values["iou_c"]  # NaN


def test_segmentation_meter_keeps_counts_only() -> None:
    task = Segmentation(nn.Conv2d(1, 3, 3, padding=1), SPEC)
    task.validation_step(batches()[0], 0)
    ((_, outputs, targets),) = task.val_meter.buffer
    assert (outputs.dtype, tuple(outputs.shape)) == (torch.uint8, (20, 6, 5))
    task.val_meter._flush()
    overlap = task.val_meter.metrics["overlap"]
    assert {name: tuple(value.shape) for name, value in overlap.metric_state.items()} == {
        "confusion": (3, 3)
    }  # type: ignore[union-attr]
    assert overlap.confusion.sum() == (targets != IGNORED).sum()  # type: ignore[union-attr, operator]


def test_mask_score_is_mean_iou() -> None:
    task = Segmentation(nn.Identity(), SPEC)
    said, true = torch.zeros(2, 6, 5, dtype=torch.uint8), torch.zeros(2, 6, 5, dtype=torch.uint8)
    said[0, :3], true[0, 1:4] = 2, 2
    true[1] = 255  # nothing counts: nothing is wrong
    # Ground: 10 pixels in both and 20 in either; owls: 10 and 20.
    assert task.outputs.score(said, true).tolist() == pytest.approx(
        [((30 - 20) / 20 + 10 / 20) / 2, 1.0]
    )
    answer = nn.functional.one_hot(said.long(), 3).movedim(-1, 1).float()
    assert torch.equal(task.outputs.score(answer, true), task.outputs.score(said, true))
    assert confusions(said[:1], true[:1], 3).tolist() == [[[10, 0, 5], [0, 0, 0], [5, 0, 10]]]


# ---------------------------------------------------------------------------------------------------------------
# Losses


def naive_dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> float:
    claimed, counts = logits.softmax(1), targets != IGNORED
    values = []
    for i in range(logits.shape[1]):
        there = (targets == i)[counts].float()
        if there.any():
            said = claimed[:, i][counts]
            values.append(
                ((2 * (said * there).sum() + smooth) / (said.sum() + there.sum() + smooth)).item()
            )
    return 1 - sum(values) / len(values)


def test_dice_loss_value() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, 6, 5, requires_grad=True), torch.randint(0, 3, (4, 6, 5))
    targets[0], targets[targets == 1] = IGNORED, 2  # a class that the batch doesn't show
    loss = DiceLoss()(logits, targets)
    assert loss.item() == pytest.approx(naive_dice(logits, targets), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().max() == 0  # what does not count teaches nothing
    both = CrossEntropyDiceLoss(dice=0.5)(logits, targets)
    expected = nn.functional.cross_entropy(logits, targets) + 0.5 * naive_dice(logits, targets)
    assert both.item() == pytest.approx(expected.item(), rel=1e-5)
    perfect = 50.0 * nn.functional.one_hot(targets.clamp(min=0), 3).movedim(-1, 1)
    assert DiceLoss()(perfect, targets).item() == pytest.approx(0, abs=1e-5)
    nothing = DiceLoss()(logits, torch.full((4, 6, 5), IGNORED))
    assert nothing.isfinite()


@pytest.mark.parametrize("loss", ["torch.nn.CrossEntropyLoss", "src.kindling.nn.losses.DiceLoss"])
def test_segmentation_losses(loss: str) -> None:
    found = train(
        "segmentation",
        "data.scenes=[96,32,32]",
        "net.channels=[8,16]",
        f"task.loss._target_={loss}",
    )
    assert 0 < found.metrics["val/loss"] < 3


# ---------------------------------------------------------------------------------------------------------------
# What follows from the contract


def test_mask_intervals_resample_images(scenes: Run) -> None:
    predictions = predict(scenes.task, scenes.data(), "test")
    intervals, baseline = metric_intervals(scenes, predictions)
    metric = Overlap(scenes.spec.classes)
    true, said = (
        torch.from_numpy(predictions["target"]),
        torch.from_numpy(predictions["prediction"]),
    )
    generator, drawn = torch.Generator().manual_seed(1), []
    for _ in range(200):
        rows = torch.randint(len(true), (len(true),), generator=generator)
        drawn.append(float(metric(said[rows], true[rows])["pixel_accuracy"]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert intervals["pixel_accuracy"] == (
        pytest.approx(low, abs=0.01),
        pytest.approx(high, abs=0.01),
    )
    ground = (predictions["target"] == 0).mean()
    assert baseline["pixel_accuracy"] == pytest.approx(ground)
    assert baseline["iou_background"] == pytest.approx(ground)
    assert baseline["iou"] == pytest.approx(ground / 11)


def test_mask_plots(scenes: Run) -> None:

    data = scenes.data()
    predictions = predict(scenes.task, data, "test", 12)
    made = scenes.task.outputs.plot(predictions)  # type: ignore[operator]
    assert list(made) == ["confusion", "overlap", "worst", "examples"]
    perfect = predictions.take(slice(None))
    perfect.columns["prediction"] = perfect["target"]
    drawn = render(scenes.task.outputs.plot(perfect)["examples"])  # type: ignore[operator]
    assert not np.array_equal(render(made["examples"]), drawn)
    texts = [text.get_text().strip() for text in made["examples"].axes[0].texts]
    score = f"IoU {predictions['score'][0]:.2f}"
    assert texts[:3] == [f"{predictions.name(0)}\n{score}", "true", "predicted"]
    before = scenes.task.outputs.plot_examples(predictions, perfect)  # type: ignore[operator]
    texts = [text.get_text().strip() for text in before.axes[0].texts]
    assert texts[1:4] == ["true", "untrained", "predicted"]
    assert scenes.task.outputs.plot(predictions.take([])) == {}  # type: ignore[operator]


def test_mask_predictions_and_scores(scenes: Run, tmp_path: Path) -> None:
    predictions = predict(scenes.task, scenes.data(), "test")
    predictions.save(tmp_path / "test.npz")
    again = Predictions.load(tmp_path / "test.npz")
    assert (again["prediction"].dtype, again["prediction"].shape) == (np.uint8, (40, 32, 32))
    assert again.scored == "iou"
    assert np.array_equal(again["score"], predictions["score"])


def test_invalid_masks_are_refused() -> None:
    values = dataclasses.replace(SPEC, classes=(), target_shape=(3,))
    with pytest.raises(InputError) as caught:
        Segmentation(nn.Identity(), values)
    assert caught.value.lines == ["task: needs masks, and the data has values; set task=regression"]
    mixing = "data.train_transforms=[{_target_: src.kindling.data.augment.MixUp}]"
    (line,) = mistakes("train", "segmentation", FEW_SCENES, mixing)
    assert line.startswith(
        "data.train_transforms: MixUp blends targets, and the classes of a mask cannot"
    )
    (line,) = mistakes("train", "segmentation", FEW_SCENES, "monitor=val/iou_11")
    assert line.startswith(
        "monitor: 'val/iou_11' is not logged in validation; did you mean 'val/iou_1'?"
    )
    assert "val/pixel_accuracy" in line


@pytest.mark.parametrize("size", [(32, 32), (7, 13), (1, 1)])
def test_unet_takes_any_size(size: tuple[int, int]) -> None:
    net = UNet((3, *size), 4, channels=(4, 8, 16)).eval()
    assert net(torch.rand(2, 3, *size)).shape == (2, 4, *size)
    # Padding lies to the right and below, so that what is there stays at its place.
    x = torch.rand(1, 3, 16, 16)
    assert net(x).shape == (1, 4, 16, 16)


def test_supervised_task_of_masks() -> None:
    data = build_data(checked("segmentation", "data.scenes=[20,5,5]"))
    assert data.spec.target_type == "mask"
    assert data.spec.target_shape == (32, 32)
    assert sum(data.spec.class_counts) == 20 * 32 * 32
    assert checked("segmentation", "task=auto")
