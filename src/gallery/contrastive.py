"""Contrastive pretraining (SimCLR): views of one image attract, and no label is needed.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
https://arxiv.org/abs/2002.05709.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import AdamW
from torchmetrics.classification import MulticlassAccuracy
from torchvision.utils import make_grid

from src.data.digits import Digits
from src.kindling.analysis import Predictions
from src.kindling.data import Spec, Stage
from src.nets.cnn import CNN

Batch = tuple[Tensor, Tensor]


class DigitImages(Digits):
    """Standardized digits; a batch is images `(B, 1, 8, 8)` and digits `(B,)`."""

    def labeled(self, stage: Stage, device: torch.device) -> Batch:
        """All images of a split and their labels."""
        index = self.indices[stage]
        return self.prepare(self.samples.x[index], self.samples.y[index].to(device))


class Contrastive(LightningModule):
    """Train an encoder so that the two views of an image are more alike than any other two.

    A probe measures the features: a linear classifier, fitted at each validation to a few labeled
    training images. Nothing else sees a label. The encoder is that of `configs/digits.yaml`, which
    can start from it: `python -m src.train digits --init contrastive/latest`.

    Args:
        spec: of the data; filled in.
        strength: of the views' random affine maps; 0 leaves rotation, scale, shear and place.
        noise: standard deviation of what is added to each pixel of a view.
        hidden: units of the projector, which only the loss uses.
        temperature: of the loss; lower ones look at the most similar negatives only.
        labels: how many training images the probe sees the labels of.
        ridge: the probe's penalty on squared weights.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
    """

    monitor, mode = "val/accuracy", "max"

    def __init__(
        self,
        spec: Spec,
        strength: float = 0.25,
        noise: float = 0.2,
        hidden: int = 128,
        temperature: float = 0.5,
        labels: int = 50,
        ridge: float = 1.0,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        self.strength, self.noise, self.temperature = strength, noise, temperature
        self.labels, self.ridge = labels, ridge
        self.lr, self.weight_decay = lr, weight_decay
        self.net = CNN(spec.in_shape, hidden)  # its body is the encoder, its head is projection
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden // 2))
        self.probe = nn.Linear(self.net.head.in_features, len(spec.classes))
        self.probe.requires_grad_(False)
        self.val_accuracy = MulticlassAccuracy(len(spec.classes), average="micro")
        self.test_accuracy = MulticlassAccuracy(len(spec.classes), average="micro")

    def forward(self, x: Tensor) -> Tensor:
        """Standardized images `(B, 1, 8, 8)` to the probe's scores `(B, classes)`."""
        scores: Tensor = self.probe(self.net.body(x))
        return scores

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, _ = batch  # no label is used
        views = (draw_view(x, self.strength, self.noise) for _ in range(2))
        first, second = (self.projector(self.net(view)) for view in views)  # B, hidden / 2
        loss = nt_xent(first, second, self.temperature)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> AdamW:
        trained = [*self.net.parameters(), *self.projector.parameters()]
        return AdamW(trained, self.lr, weight_decay=self.weight_decay)

    def on_validation_epoch_start(self) -> None:
        """Fit the probe to the present features; checkpoints keep it, and tests use it."""
        data: DigitImages = self.trainer.datamodule  # type: ignore[attr-defined]
        weight, bias = self._fit_probe(data, self.net.body)
        self.probe.weight.copy_(weight)
        self.probe.bias.copy_(bias)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.val_accuracy(self(x), y)
        self.log("val/accuracy", self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        self.test_accuracy(self(x), y)
        self.log("test/accuracy", self.test_accuracy)

    def on_test_epoch_end(self) -> None:
        """Log the baselines: the same probe on pixels, and on an encoder that was not trained."""
        data: DigitImages = self.trainer.datamodule  # type: ignore[attr-defined]
        x, y = data.labeled("test", self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            untrained = CNN(data.spec.in_shape, 1).body.eval().to(self.device)
        for name, encoder in (("pixels", nn.Flatten()), ("untrained", untrained)):
            weight, bias = self._fit_probe(data, encoder)
            right = F.linear(encoder(x), weight, bias).argmax(dim=1) == y
            self.log(f"test/{name}_accuracy", right.float().mean())

    def _fit_probe(self, data: DigitImages, encoder: nn.Module) -> tuple[Tensor, Tensor]:
        x, y = data.labeled("train", self.device)
        targets = F.one_hot(y[: self.labels], self.probe.out_features)
        return fit_ridge(encoder(x[: self.labels]), targets, self.ridge)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Columns: `target` and `prediction` `(B,)`, `feature` `(B, F)`, `image` `(B, 1, 8, 8)`."""
        x, y = batch
        feature = self.net.body(x)
        digit = self.probe(feature).argmax(dim=1)
        return {"target": y, "prediction": digit, "feature": feature, "image": x}

    def plot(self, predictions: Predictions) -> dict[str, Figure]:
        """Plot the features' t-SNE beside that of the pixels, and nearest neighbors by features."""
        from sklearn.manifold import TSNE

        features, images = predictions["feature"], predictions["image"]
        figure = Figure((6.0, 3.0), layout="constrained")
        spaces = {"Pixels": images.reshape(len(images), -1), "Learned features": features}
        for axis, (title, space) in zip(figure.subplots(1, 2), spaces.items(), strict=True):
            perplexity = min(30.0, len(space) / 4)
            flat = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(space)
            digits = axis.scatter(*flat.T, s=5, c=predictions["target"], cmap="tab10")
            axis.set_title(f"{title}, by t-SNE", fontsize=10)
            axis.set(xticks=[], yticks=[])
        figure.legend(
            *digits.legend_elements(), title="digit", fontsize=7, loc="outside right upper"
        )
        unit = F.normalize(torch.from_numpy(features), dim=1)
        nearest = (unit @ unit.T).topk(10).indices[:10]  # 10, 10: an image itself comes first
        x = torch.from_numpy(images)
        views = [draw_view(x[:16], self.strength, self.noise) for _ in range(2)]
        return {
            "features": figure,
            "neighbors": draw_images(
                x[nearest.flatten()], "Images (left) and those with the most similar features", 10
            ),
            "views": draw_images(torch.cat([x[:16], *views]), "Images above two views of each", 16),
        }


def draw_view(x: Tensor, strength: float, noise: float) -> Tensor:
    """Distort each image of `(B, 1, 8, 8)` by a random affine map and random noise."""
    maps = torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)  # B, 2, 3: the identity
    maps = maps + strength * (2 * torch.rand_like(maps) - 1)
    positions = F.affine_grid(maps, list(x.shape), align_corners=False).to(x.dtype)
    moved = F.grid_sample(x, positions, padding_mode="border", align_corners=False)
    return moved + noise * torch.randn_like(moved)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of picking a view's partner out of all other views, `()`.

    Args:
        first, second: the two views' projections, each `(B, D)`, in the same order.
        temperature: divides the cosine similarities.
    """
    views = F.normalize(torch.cat([first, second]), dim=1)  # 2 B, D
    similarity = views @ views.T / temperature  # 2 B, 2 B
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def fit_ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Fit ridge regression; return its weight `(K, F)` and bias `(K,)`.

    Args:
        features: `(N, F)`.
        targets: `(N, K)`.
        penalty: times the sum of the squared weights; the bias is free.
    """
    x, y = features.cpu().double(), targets.cpu().double()
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = x - mean_x, y - mean_y
    kernel = x @ x.T + penalty * torch.eye(len(x), dtype=x.dtype)  # N, N: fewer than features
    weight = torch.linalg.solve(kernel, y).T @ x
    bias = mean_y - weight @ mean_x
    return weight.to(features), bias.to(features)


def draw_images(images: Tensor, title: str, across: int) -> Figure:
    """Draw images `(N, 1, 8, 8)` in rows of `across`."""
    grid = make_grid(images, across, padding=1, normalize=True)[0]  # of three equal channels
    height, width = grid.shape
    figure = Figure((5.0, 0.4 + 5.0 * height / width), layout="constrained")
    axis = figure.subplots()
    axis.imshow(grid, cmap="gray_r", interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.axis("off")
    return figure
