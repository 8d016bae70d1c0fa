"""Detection: which digits are in a scene, and where; data and nets as those of torchvision."""

from __future__ import annotations

import copy
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import Conv2dNormActivation, nms, roi_align

from src.kindling.analysis import Predictions
from src.kindling.nn import configure

Boxes = dict[str, Tensor]  # `boxes` (K, 4): x1, y1, x2, y2 in pixels; `labels` and `scores` (K,)
Batch = tuple[list[Tensor], list[Boxes]]
SIZE = 48  # height and width of a scene


class DigitScenes(LightningDataModule):
    """Scenes `(1, 48, 48)` of scikit-learn's digits, brighter and darker, in noise.

    No digit is in the scenes of two splits.

    Args:
        scenes: how many for training, validation and test.
        digits: at most so many in a scene; digit d is class d + 1.
        batch_size: scenes in a batch.
    """

    def __init__(
        self, scenes: tuple[int, ...] = (1400, 200, 300), digits: int = 5, batch_size: int = 32
    ) -> None:
        super().__init__()
        self.scenes, self.digits = scenes, digits
        self.options: Any = {"batch_size": batch_size, "collate_fn": collate}

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        if hasattr(self, "splits"):  # Lightning calls this before each stage
            return
        images, classes = load_digits(return_X_y=True)
        rng = np.random.default_rng(0)
        pools = np.split(rng.permutation(len(classes)), [1257, 1527])  # 70, 15 and 15 %
        glyphs = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
        resized = [F.interpolate(glyphs, (n, n), mode="bilinear").numpy() for n in range(9, 17)]
        self.splits: list[Any] = [
            [self._compose(rng, pool, resized, classes) for _ in range(count)]
            for pool, count in zip(pools, self.scenes, strict=True)
        ]

    def _compose(self, rng: np.random.Generator, pool: Any, resized: Any, classes: Any) -> Any:
        """Put digits of 9 to 16 pixels into cells of 3 x 3; a box encloses the digit's ink."""
        scene, boxes, labels = rng.normal(0, 0.1, (1, SIZE, SIZE)), [], []  # noise
        for cell in rng.permutation(9)[: rng.integers(1, self.digits + 1)]:
            number, size = rng.choice(pool), rng.integers(8)
            top, left = 16 * np.array(divmod(cell, 3)) + rng.integers(8 - size, size=2)
            digit = resized[size][number, 0]
            scene[0, top : top + len(digit), left : left + len(digit)] += digit * rng.uniform(
                0.4, 1
            )
            y, x = np.nonzero(digit > 0.25)
            boxes.append([x.min() + left, y.min() + top, x.max() + left + 1, y.max() + top + 1])
            labels.append(classes[number] + 1)
        target = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}
        return torch.from_numpy(scene).float().clamp(0, 1), target

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.splits[0], shuffle=True, **self.options)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.splits[1], **self.options)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.splits[2], **self.options)


def collate(samples: list[tuple[Tensor, Boxes]]) -> Batch:
    """Targets differ in the number of their boxes, images may differ in size: lists of each."""
    return [image for image, _ in samples], [target for _, target in samples]


class SmallFCOS(FCOS):  # type: ignore[misc]
    """torchvision's anchor-free net on a small backbone with cells of 4 x 4 pixels.

    Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019.
    """

    def __init__(self, num_classes: int = 11, width: int = 64) -> None:
        channels, strides = (1, 16, 32, width, width), (2, 1, 2, 1)
        layers = zip(channels[:-1], channels[1:], strides, strict=True)
        backbone: Any = nn.Sequential(*(Conv2dNormActivation(i, o, 3, s) for i, o, s in layers))
        backbone.out_channels = width
        anchors = AnchorGenerator(sizes=((4,),), aspect_ratios=((1.0,),))  # the cells
        head = FCOSHead(width, num_anchors=1, num_classes=num_classes, num_convs=1)
        sizes: Any = {"min_size": SIZE, "max_size": SIZE, "image_mean": [0.0], "image_std": [1.0]}
        super().__init__(backbone, num_classes, anchor_generator=anchors, head=head, **sizes)


def crop(image: Tensor, boxes: Tensor) -> Tensor:
    """Pixels `(K, 64)` of boxes `(K, 4)`, each resized to 8 x 8."""
    pixels: Tensor = roi_align(image[None], [boxes], output_size=8)  # K, 1, 8, 8
    return pixels.flatten(1)


def find_components(image: Tensor, digits: Tensor, labels: Tensor) -> Boxes:
    """The baseline: boxes of connected bright pixels, each with the label of the nearest digit.

    Args:
        image: `(1, H, W)`.
        digits: crops `(N, 64)` of the training scenes.
        labels: of the crops, `(N,)`.
    """
    parts = ndimage.label(image[0].cpu() > 0.25, structure=np.ones((3, 3)))[0]
    slices = ndimage.find_objects(parts)  # y and x of each part
    boxes = image.new_tensor([[x.start, y.start, x.stop, y.stop] for y, x in slices]).view(-1, 4)
    distances, nearest = torch.cdist(crop(image, boxes), digits).min(dim=1)
    return {"boxes": boxes, "labels": labels[nearest], "scores": -distances}


class Detection(LightningModule):
    """Train any detection net that is called as torchvision's are.

    Args:
        net: `net(images, targets)` returns losses, and in evaluation `net(images)` returns boxes.
        lr: the highest learning rate of a one-cycle schedule.
    """

    monitor, mode = "val/map", "max"

    def __init__(self, net: nn.Module, lr: float = 5e-3) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        if not find_spec("faster_coco_eval"):
            raise ImportError("faster-coco-eval is not installed: pip install -e '.[detection]'")
        self.map = MeanAveragePrecision(backend="faster_coco_eval")
        self.map.warn_on_many_detections = False  # COCO counts the best 100 of an image
        self.baseline_map = copy.deepcopy(self.map)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses: dict[str, Tensor] = {f"train/{k}": v for k, v in self.net(*batch).items()}
        self.log_dict(losses, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return torch.stack([*losses.values()]).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.map.update(self.net(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log_map("val/map", self.map)

    def on_test_epoch_start(self) -> None:
        data: DigitScenes = self.trainer.datamodule  # type: ignore[attr-defined]
        crops = [crop(image, target["boxes"]) for image, target in data.splits[0]]
        self.digits = torch.cat(crops).to(self.device)
        self.labels = torch.cat([target["labels"] for _, target in data.splits[0]]).to(self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.map.update(self.net(batch[0]), batch[1])
        found = [find_components(image, self.digits, self.labels) for image in batch[0]]
        self.baseline_map.update(found, batch[1])

    def on_test_epoch_end(self) -> None:
        self.log_map("test/map", self.map)
        self.log_map("test/baseline_map", self.baseline_map)

    def log_map(self, name: str, metric: MeanAveragePrecision) -> None:
        """Log the mean over IoU thresholds 0.5, 0.55, …, 0.95, and that at 0.5 and 0.75 alone."""
        values = metric.compute()
        self.log_dict({name + end: values[f"map{end}"] for end in ("", "_50", "_75")})
        metric.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `image`, and 20 `found` and `true` boxes of each as `to_rows` has them."""
        found = torch.stack([to_rows(one) for one in self.net(batch[0])])
        true = torch.stack([to_rows(one) for one in batch[1]])
        return {"image": torch.stack(batch[0]), "found": found, "true": true}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Scenes with true boxes (white), and the surest ones that are found (green)."""
        figure = Figure((6.4, 4.3), layout="constrained")
        for row, axis in enumerate(figure.subplots(2, 3).flat[: len(predictions)]):
            image, extent = predictions["image"][row, 0], (0, SIZE, SIZE, 0)
            axis.imshow(image, "gray", extent=extent, interpolation="nearest")
            axis.axis("off")
            found = torch.from_numpy(predictions["found"][row])
            found = found[found[:, 5] > 0.4]
            found = found[nms(found[:, :4], found[:, 5], iou_threshold=0.5)]  # also between classes
            for boxes, color in ((predictions["true"][row], "w"), (found.numpy(), "lime")):
                for x1, y1, x2, y2, label, score in boxes:
                    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, ec=color, fill=False))
                    text = f"{label - 1:.0f}: {score:.2f}" if color == "lime" else ""
                    axis.text(x1, y1 - 0.7, text, color=color, fontsize=8)
        return {"boxes": figure}

    def configure_optimizers(self) -> Any:
        return configure(self, partial(AdamW, lr=self.lr), partial(OneCycleLR, max_lr=self.lr))


def to_rows(found: Boxes, most: int = 20) -> Tensor:
    """`(most, 6)`: x1, y1, x2, y2, label and score (1 for true boxes); zeros at the end."""
    labels = found["labels"].float()
    scores = found.get("scores", torch.ones_like(labels))
    rows = torch.cat([found["boxes"], labels[:, None], scores[:, None]], dim=1)[:most]
    return F.pad(rows, (0, 0, 0, most - len(rows)))
