"""Random transforms of whole training batches, on the training device, after preprocessing.

They are named in a config's `data.train_transforms`, beside torchvision's, which work on single samples in the
workers; names and arguments are torchvision's. Each sample has a draw of its own, from torch's generator, which is
seeded for each batch (training/callbacks/seeding.py). What moves pixels composes into one resampling, whatever the number of
transforms; what is left empty is 0, the mean of the standardized data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.kindling.config.errors import InputError
from src.kindling.data.batch import BatchTransform
from src.kindling.data.masks import VOID
from src.kindling.data.spec import Spec

# Weights of red, green and blue in a grey of the same brightness (ITU-R BT.601), as torchvision has them.
GREY = (0.2989, 0.587, 0.114)
ATTEMPTS = 10  # to draw a box that fits into the image, as torchvision has it


def compose(transforms: Sequence[BatchTransform]) -> list[BatchTransform]:
    """The same transforms, those that move pixels and follow each other made one."""
    composed: list[BatchTransform] = []
    for moves, run in itertools.groupby(transforms, lambda transform: isinstance(transform, Geometric)):
        steps = list(run)
        composed += [Resample(steps)] if moves else steps
    return composed


# ---------------------------------------------------------------------------------------------------------------
# Moving pixels


class Geometric(BatchTransform):
    """A transform that moves pixels: for each sample, an affine map from output places to input places.

    Places are in pixels from the image's centre, x to the right and y downwards.
    """

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        """A draw for each sample, as matrices `(B, 3, 3)` over `(x, y, 1)`."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)`; masks `(B, H, W)` move with them, other targets stay as they are."""
        B, _, H, W = x.shape
        return resample_both(x, y, self.maps(B, H, W, x.device))


class Resample(BatchTransform):
    """Transforms that move pixels, composed: the images are read once, with bilinear interpolation."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)`; masks `(B, H, W)` move with them, other targets stay as they are."""
        B, _, H, W = x.shape
        maps = torch.eye(3, device=x.device).expand(B, 3, 3)
        for step in self.steps:  # the last step's output is what is asked for, so its map comes first
            maps = maps @ step.maps(B, H, W, x.device)
        return resample_both(x, y, maps)


def resample_both(x: Tensor, y: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Images and, where the targets are masks `(B, H, W)`, these too, read at the same places; VOID outside."""
    if y.ndim != 3:
        return resample(x, maps), y
    numbers = (y + 1.0 - (VOID + 1.0) * (y == VOID)).to(x.dtype).unsqueeze(1)  # 0 for VOID, as it is outside
    moved = resample(numbers, maps, mode="nearest").squeeze(1)
    return resample(x, maps), torch.where(moved == 0, VOID, moved - 1).to(y.dtype)


def resample(x: Tensor, maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Images `(B, C, H, W)` read at the places that the maps `(B, 3, 3)` give; 0 outside."""
    _, _, H, W = x.shape
    # grid_sample counts places from -1 to 1 over the image's width and height.
    scale = torch.tensor([W / 2, H / 2, 1.0], device=x.device)
    theta = (maps * scale / scale[:, None])[:, :2].to(x.dtype)
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, mode=mode, padding_mode="zeros", align_corners=False)


class RandomHorizontalFlip(Geometric):
    """Mirrors left and right.

    Args:
        p: the share of samples that are mirrored.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = _share(p, "RandomHorizontalFlip")

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        return _matrix(x_scale=1 - 2.0 * (torch.rand(B, device=device) < self.p))


class RandomVerticalFlip(Geometric):
    """Mirrors top and bottom.

    Args:
        p: the share of samples that are mirrored.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = _share(p, "RandomVerticalFlip")

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        return _matrix(y_scale=1 - 2.0 * (torch.rand(B, device=device) < self.p))


class RandomAffine(Geometric):
    """Turns, shifts and scales about the centre.

    Args:
        degrees: the largest turn to either side.
        translate: the largest shift, as shares of width and height.
        scale: the smallest and the largest magnification.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"expected scale as a smallest and a largest above 0, got {list(scale)}")
        self.degrees, self.translate, self.scale = abs(degrees), translate, scale

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        angle, right, down = (2 * torch.rand(3, B, device=device) - 1).unbind()
        size = self.scale[0] + (self.scale[1] - self.scale[0]) * torch.rand(B, device=device)
        # Whole pixels, as torchvision shifts.
        right, down = (right * self.translate[0] * W).round(), (down * self.translate[1] * H).round()
        return affine(angle * math.radians(self.degrees), right, down, size)


class RandomRotation(RandomAffine):
    """Turns about the centre.

    Args:
        degrees: the largest turn to either side.
    """

    def __init__(self, degrees: float) -> None:
        super().__init__(degrees=degrees)


class RandomCrop(Geometric):
    """Shifts by whole pixels, as a crop of the same size from the padded image does.

    Args:
        padding: pixels of 0 on each side; the largest shift.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        if padding < 0:
            raise ValueError(f"expected padding of at least 0, got {padding}")
        self.padding = padding

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        x, y = torch.randint(-self.padding, self.padding + 1, (2, B), device=device).float()
        return _matrix(x_shift=x, y_shift=y)


class RandomResizedCrop(Geometric):
    """Crops a box of whole pixels and enlarges it to the image's shape; drawn as in torchvision.

    Where no box fits in ten attempts, the crop is the largest central one within `ratio`.

    Args:
        scale: smallest and largest area of the crop, as a share of the image.
        ratio: smallest and largest width over height of the crop, in pixels.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"expected a smallest and a largest above 0, got scale {list(scale)}, ratio {list(ratio)}")
        self.scale, self.ratio = scale, ratio

    def maps(self, B: int, H: int, W: int, device: torch.device) -> Tensor:
        widths, heights = draw_sides(B, H * W, self.scale, self.ratio, device)
        fits = (widths > 0) & (widths <= W) & (heights > 0) & (heights <= H)
        found, (width, height) = first_fitting(fits, widths, heights)
        left, top = draw_offset(W - width), draw_offset(H - height)
        central_width, central_height = self._central(H, W)
        width = torch.where(found, width, central_width)
        height = torch.where(found, height, central_height)
        left = torch.where(found, left, (W - central_width) // 2)
        top = torch.where(found, top, (H - central_height) // 2)
        # From the image's centre to the crop's centre.
        return _matrix(width / W, height / H, left + (width - W) / 2, top + (height - H) / 2)

    def _central(self, H: int, W: int) -> tuple[int, int]:
        """Width and height of the crop where no attempt fits."""
        low, high = self.ratio
        return min(W, max(1, round(H * high))), min(H, max(1, round(W / low)))


def draw_sides(
    B: int,
    pixels: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Draw sides of boxes in whole pixels, `(ATTEMPTS, B)` each.

    Args:
        B: number of samples.
        pixels: the image's area.
        scale: smallest and largest area of a box, as a share of the image.
        ratio: smallest and largest ratio of the first side to the second; drawn on a log scale.
        device: of the result.
    """
    area, log_ratio = torch.rand(2, ATTEMPTS, B, device=device)
    area = pixels * (scale[0] + (scale[1] - scale[0]) * area)
    aspect = (math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * log_ratio).exp()
    return (area * aspect).sqrt().round(), (area / aspect).sqrt().round()


def first_fitting(fits: Tensor, *sides: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Pick each sample's first attempt that fits.

    Args:
        fits: `(ATTEMPTS, B)`.
        sides: values of the attempts, `(ATTEMPTS, B)` each.

    Returns:
        Whether any attempt fits, `(B,)`, and the values of the first that does (else of the first).
    """
    first = fits.int().argmax(0, keepdim=True)
    return fits.any(0), [side.gather(0, first)[0] for side in sides]


def draw_offset(free: Tensor) -> Tensor:
    """Draw whole numbers from 0 to `free`, both included, with equal probability; `(B,)`."""
    return (torch.rand_like(free) * (free + 1)).floor()


def affine(angle: Tensor, right: Tensor, down: Tensor, size: Tensor) -> Tensor:
    """The maps `(B, 3, 3)` of a turn (radians, clockwise), a magnification, and then a shift in pixels, each `(B,)`."""
    turn = torch.zeros(len(angle), 3, 3, device=angle.device)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos() / size
    turn[:, 0, 1], turn[:, 1, 0] = angle.sin() / size, -angle.sin() / size
    turn[:, 2, 2] = 1
    return turn @ _matrix(x_shift=-right, y_shift=-down)


def _matrix(
    x_scale: Tensor | None = None,
    y_scale: Tensor | None = None,
    x_shift: Tensor | None = None,
    y_shift: Tensor | None = None,
) -> Tensor:
    given = next(value for value in (x_scale, y_scale, x_shift, y_shift) if value is not None)
    matrix = torch.eye(3, device=given.device).repeat(len(given), 1, 1)
    for value, row, column in ((x_scale, 0, 0), (y_scale, 1, 1), (x_shift, 0, 2), (y_shift, 1, 2)):
        if value is not None:
            matrix[:, row, column] = value
    return matrix


# ---------------------------------------------------------------------------------------------------------------
# Changing values


class ColorJitter(BatchTransform):
    """Changes brightness, contrast and saturation in one pass; for hue, use torchvision's.

    torchvision applies the three in a random order. Without its clamping, the order makes no
    difference.

    Args:
        brightness, contrast, saturation: the factor is drawn from max(0, 1 - value) to 1 + value.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        super().__init__()
        self.ranges = (brightness, contrast, saturation)
        if min(self.ranges) < 0:
            raise ValueError(f"expected values of at least 0, got {list(self.ranges)}")

    def fit(self, spec: Spec) -> None:
        """Colours are of the raw values, which lie behind the standardized ones."""
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

    Each of the three blends an image with something grey: black, its mean grey, and its own grey pixel by pixel. Values
    are not clamped in between.
    """
    B, C, _, _ = x.shape
    weights = torch.tensor(GREY if C == 3 else (1 / C,) * C, device=x.device)
    mean_grey = brightness * (x.mean(dim=(2, 3)) @ weights)  # of the brightened image
    grey = weights.expand(C, C)  # every channel becomes the grey
    channels = saturation[:, None, None] * torch.eye(C, device=x.device) + (1 - saturation)[:, None, None] * grey
    channels = (brightness * contrast)[:, None, None] * channels
    # A grey offset stays what it is under a change of saturation, since the weights add up to 1.
    offset = (1 - contrast) * mean_grey * (saturation + (1 - saturation) * weights.sum())
    return torch.baddbmm(offset[:, None, None].expand(B, C, 1), channels, x.flatten(2)).reshape(x.shape)


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
        self, p: float = 0.5, scale: tuple[float, float] = (0.02, 0.33), ratio: tuple[float, float] = (0.3, 3.3)
    ) -> None:
        super().__init__()
        self.p, self.scale, self.ratio = _share(p, "RandomErasing"), scale, ratio

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)`; targets stay as they are."""
        B, _, H, W = x.shape
        heights, widths = draw_sides(B, H * W, self.scale, self.ratio, x.device)
        found, (height, width) = first_fitting((heights < H) & (widths < W), heights, widths)
        top, left = draw_offset(H - height), draw_offset(W - width)
        erased = found & (torch.rand(B, device=x.device) < self.p)
        box = inside(H, W, top, top + height, left, left + width) & erased[:, None, None, None]
        return x.masked_fill(box, 0.0), y


# ---------------------------------------------------------------------------------------------------------------
# Mixing samples


class MixUp(BatchTransform):
    """Blends each sample and its target with another of the batch.

    Zhang et al., mixup: Beyond Empirical Risk Minimization, https://arxiv.org/abs/1710.09412.

    Args:
        alpha: of the Beta distribution that the share is drawn from; larger blends more evenly.
    """

    mixes = True

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__()
        self.alpha = _positive(alpha, "MixUp")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs `(B, …)` and targets `(B, …)`."""
        share = _beta(self.alpha, x)
        other = torch.randperm(len(x), device=x.device)
        return _blend(x, other, share), _blend(y, other, share)


class CutMix(BatchTransform):
    """Puts a rectangle of another image of the batch into each; the target is shared by area.

    Yun et al., CutMix, https://arxiv.org/abs/1905.04899.

    Args:
        alpha: of the Beta distribution that the area is drawn from.
    """

    mixes = True

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = _positive(alpha, "CutMix")

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` and targets `(B, …)`."""
        B, _, H, W = x.shape
        # As torchvision draws it: whole pixels to both sides of a pixel's corner.
        half = (1 - _beta(self.alpha, x)).sqrt() / 2
        row, column = torch.rand(2, B, device=x.device)
        row, column = (row * H).floor(), (column * W).floor()
        high, wide = (half * H).floor(), (half * W).floor()
        top, bottom = (row - high).clamp(min=0), (row + high).clamp(max=H)
        left, right = (column - wide).clamp(min=0), (column + wide).clamp(max=W)
        other = torch.randperm(B, device=x.device)
        share = 1 - (bottom - top) * (right - left) / (H * W)
        return torch.where(inside(H, W, top, bottom, left, right), x[other], x), _blend(y, other, share)


def inside(H: int, W: int, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """For each sample, where its rectangle lies: `(B, 1, H, W)` boolean from borders `(B,)` in pixels."""
    rows, columns = torch.arange(H, device=top.device), torch.arange(W, device=top.device)
    high = (rows >= top[:, None]) & (rows < bottom[:, None])
    wide = (columns >= left[:, None]) & (columns < right[:, None])
    return high[:, None, :, None] & wide[:, None, None, :]


def _beta(alpha: float, x: Tensor) -> Tensor:
    """A draw from Beta(alpha, alpha) for each sample, `(B,)`."""
    concentration = torch.tensor(alpha, device=x.device)
    return torch.distributions.Beta(concentration, concentration).sample((len(x),))


def _blend(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """`share` of each sample, and the rest of another."""
    return torch.lerp(x[other], x, share.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype))


def _positive(alpha: float, name: str) -> float:
    if alpha <= 0:
        raise InputError(f"data.train_transforms: {name} needs an alpha above 0, got {alpha:g}")
    return alpha


def _share(p: float, name: str) -> float:
    if not 0 <= p <= 1:
        raise InputError(f"data.train_transforms: {name} needs a p from 0 to 1, got {p:g}")
    return p
