"""Transforms that change the values of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from src.kindling.config.errors import InputError
from src.kindling.data.augment.base import BatchTransform, check_probability
from src.kindling.data.augment.boxes import draw_offset, draw_sides, first_fitting, inside
from src.kindling.data.spec import Spec

# Weights of red, green and blue in the luminance (ITU-R BT.601), as in torchvision.
GRAY = (0.2989, 0.587, 0.114)


class ColorJitter(BatchTransform):
    """Changes brightness, contrast and saturation in one pass; for hue, use torchvision's.

    torchvision applies the three in a random order. Without its clamping, the order makes no
    difference.

    Args:
        brightness, contrast, saturation: the factor is drawn from max(0, 1 - value) to 1 + value.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0
    ) -> None:
        super().__init__()
        self.ranges = (brightness, contrast, saturation)
        if min(self.ranges) < 0:
            raise ValueError(f"expected values of at least 0, got {list(self.ranges)}")

    def fit(self, spec: Spec) -> None:
        """Colors are computed on raw values, so standardization is undone."""
        if spec.kind != "image":
            raise InputError("data.train_transforms: ColorJitter is for images")
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)`; targets stay as they are."""
        ranges = [(max(0.0, 1 - part), 1 + part) for part in self.ranges]
        factors = [low + (high - low) * torch.rand(len(x), device=x.device) for low, high in ranges]
        return (jitter(x * self.std + self.mean, *factors) - self.mean) / self.std, y


def jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Raw images `(B, C, H, W)` with factors `(B,)`, one map of the channels for each image.

    Each of the three blends an image with black, with its mean gray, or with its own gray pixel by
    pixel. Values are not clamped in between.
    """
    B, C, _, _ = x.shape
    weights = torch.tensor(GRAY if C == 3 else (1 / C,) * C, device=x.device)
    mean_gray = brightness * (x.mean(dim=(2, 3)) @ weights)  # of the brightened image
    gray = weights.expand(C, C)  # every channel becomes the gray
    channels = (
        saturation[:, None, None] * torch.eye(C, device=x.device)
        + (1 - saturation)[:, None, None] * gray
    )
    channels = (brightness * contrast)[:, None, None] * channels
    # A gray offset stays what it is under a change of saturation, since the weights add up to 1.
    offset = (1 - contrast) * mean_gray * (saturation + (1 - saturation) * weights.sum())
    return torch.baddbmm(offset[:, None, None].expand(B, C, 1), channels, x.flatten(2)).reshape(
        x.shape
    )


class RandomErasing(BatchTransform):
    """Sets a rectangle to 0, the mean; drawn as in torchvision.

    Where no rectangle fits in ten attempts, the image stays as it is.

    Zhong et al., Random Erasing Data Augmentation, https://arxiv.org/abs/1708.04896.

    Args:
        p: the share of samples in which one is set.
        scale: smallest and largest area of the rectangle, as a share of the image.
        ratio: smallest and largest height over width of the rectangle, in pixels.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
    ) -> None:
        super().__init__()
        self.p, self.scale, self.ratio = check_probability(p, "RandomErasing"), scale, ratio

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)`; targets stay as they are."""
        B, _, H, W = x.shape
        heights, widths = draw_sides(B, H * W, self.scale, self.ratio, x.device)
        found, (height, width) = first_fitting((heights < H) & (widths < W), heights, widths)
        top, left = draw_offset(H - height), draw_offset(W - width)
        erased = found & (torch.rand(B, device=x.device) < self.p)
        box = inside(H, W, top, top + height, left, left + width) & erased[:, None, None, None]
        return x.masked_fill(box, 0.0), y
