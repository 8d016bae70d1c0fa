"""Batch transforms draw their parameters from torchvision's distributions, whatever the shape."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2

from src.kindling.data import augment
from src.kindling.data.augment import (
    ColorJitter,
    CutMix,
    MixUp,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
)
from src.kindling.data.augment_functional import draw_boxes
from src.kindling.data.spec import Spec

TESTED = {
    ColorJitter,
    CutMix,
    MixUp,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
}
DRAWS = 10_000
CPU = torch.device("cpu")
# The wide shape is the quick one: a square is a special case of it, the tall one its mirror image.
REPEATED = [pytest.param(*shape, marks=pytest.mark.long) for shape in ((32, 32), (96, 32))]
SHAPES = pytest.mark.parametrize(("H", "W"), [(32, 96), *REPEATED])
Draws = dict[str, Tensor]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def torchvision_draws(transform: Any, H: int, W: int, *names: str) -> list[Tensor]:
    """The named parameters of as many calls of a torchvision transform, `(DRAWS,)` each."""
    image = torch.zeros(1, 1, H, W)
    rows = [transform.make_params([image]) for _ in range(DRAWS)]
    return [torch.tensor([float(row[name]) for row in rows]) for name in names]


def assert_same_distribution(ours: Draws, theirs: Draws) -> None:
    """Compare each quantity by the two-sample Kolmogorov-Smirnov test.

    The seed is fixed, so the result is too. Of the 300 or so comparisons of this file, the smallest
    p-value of equal distributions is about 0.003; a wrong one has 1e-20 and less.
    """
    assert ours.keys() == theirs.keys()
    p_values = {}
    for name in ours:
        one, other = ours[name].double(), theirs[name].double()
        p_values[name] = ks_2samp(one, other, method="asymp").pvalue
    assert min(p_values.values()) > 1e-4, p_values


def describe_boxes(
    top: Tensor, left: Tensor, height: Tensor, width: Tensor, H: int, W: int
) -> Draws:
    """Area, log aspect ratio and position of boxes, in pixels and as a share of the free pixels."""
    return {
        "area": height * width / (H * W),
        "log aspect": (width / height).log(),
        "height": height,
        "width": width,
        "top": top,
        "left": left,
        "share above": top / (H - height).clamp(min=1),
        "share before": left / (W - width).clamp(min=1),
    }


def find_boxes(marked: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of the box that is True in each of `(B, H, W)`."""
    rows, columns = marked.any(2), marked.any(1)
    found = [rows.int().argmax(1), columns.int().argmax(1), rows.sum(1), columns.sum(1)]
    return tuple(value.float() for value in found)  # type: ignore[return-value]


def crops(transform: RandomResizedCrop, H: int, W: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width in pixels, read from the maps."""
    maps = transform.maps(DRAWS, H, W, CPU)
    width, height = W * maps[:, 0, 0], H * maps[:, 1, 1]
    left, top = maps[:, 0, 2] + (W - width) / 2, maps[:, 1, 2] + (H - height) / 2
    top, left, height, width = ((1e3 * value).round() / 1e3 for value in (top, left, height, width))
    return top, left, height, width


def test_every_random_transform_is_in_this_file() -> None:
    plain = {augment.BatchTransform, augment.Geometric, augment.Resample, augment._RandomFlip}
    classes = {one for one in vars(augment).values() if isinstance(one, type)}
    assert {one for one in classes if issubclass(one, augment.BatchTransform)} - plain == TESTED


# --------------------------------------------------------------------------------------------------
# Boxes


@SHAPES
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"scale": (0.5, 1.0), "ratio": (0.5, 2.0)},
        {"scale": (0.9, 1.0), "ratio": (1.0, 1.0)},  # often no attempt fits: a central crop
    ],
)
def test_resized_crop(H: int, W: int, arguments: dict[str, tuple[float, float]]) -> None:
    ours = crops(RandomResizedCrop(**arguments), H, W)
    transform = v2.RandomResizedCrop((H, W), **arguments)
    theirs = torchvision_draws(transform, H, W, "top", "left", "height", "width")
    assert_same_distribution(describe_boxes(*ours, H, W), describe_boxes(*theirs, H, W))


@SHAPES
def test_resized_crop_ratio_and_whole_pixels(H: int, W: int) -> None:
    top, left, height, width = crops(RandomResizedCrop(), H, W)
    for value in (top, left, height, width):
        assert torch.equal(value, value.round())
    # Whole pixels: each side is up to half a pixel from the one that was drawn.
    assert ((width + 0.5) / (height - 0.5)).min() > 3 / 4
    assert ((width - 0.5) / (height + 0.5)).max() < 4 / 3
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == H
    assert (left + width).max() == W


@pytest.mark.parametrize(
    ("H", "W", "box"),
    [(32, 96, (0, 26, 32, 43)), (96, 32, (26, 0, 43, 32)), (32, 32, (0, 0, 32, 32))],
)
def test_resized_crop_central_fallback(H: int, W: int, box: tuple[int, ...]) -> None:
    # The whole area fits into no other shape than the image's.
    ratio = (3 / 4, 4 / 3) if H != W else (1.0, 1.0)
    found = crops(RandomResizedCrop(scale=(1.0, 1.0), ratio=ratio), H, W)
    assert [value.unique().tolist() for value in found] == [[side] for side in box]


@SHAPES
@pytest.mark.parametrize("arguments", [{}, {"scale": (0.2, 0.9), "ratio": (0.1, 1.5)}])
def test_erasing(H: int, W: int, arguments: dict[str, tuple[float, float]]) -> None:
    image = torch.ones(DRAWS, 1, H, W)
    erased = RandomErasing(p=1.0, **arguments)(image, image)[0][:, 0] == 0
    ours = find_boxes(erased[erased.flatten(1).any(1)])
    transform = v2.RandomErasing(p=1.0, **arguments)
    rows = [transform.make_params([image[:1]]) for _ in range(DRAWS)]
    boxes = [[row[name] for name in "ijhw"] for row in rows if row["v"] is not None]
    theirs = torch.tensor(boxes, dtype=torch.float32).T
    # Where no attempt fits, nothing is erased.
    assert len(ours[0]) / DRAWS == pytest.approx(len(boxes) / DRAWS, abs=0.025)
    assert_same_distribution(describe_boxes(*ours, H, W), describe_boxes(*theirs, H, W))


def test_offsets_are_uniform() -> None:
    # A box of 3 x 1 pixels in an image of 3 x 3.
    _, box, offsets = draw_boxes(
        DRAWS, torch.tensor([3, 3]), (1 / 3, 1 / 3), (3.0, 3.0), smallest=1
    )
    assert box.unique(dim=0).tolist() == [[3, 1]]
    shares = torch.bincount(offsets[:, 1].int(), minlength=3) / DRAWS
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.02)
    assert offsets[:, 0].max() == 0


def test_erasing_without_fitting_box() -> None:
    image = torch.ones(100, 1, 32, 96)
    transform = RandomErasing(p=1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(transform(image, image)[0], image)


@SHAPES
def test_cutmix(H: int, W: int) -> None:
    # Images are told apart by their numbers, and so are the pixels that come from another one.
    x = torch.arange(DRAWS).reshape(-1, 1, 1, 1).expand(DRAWS, 1, H, W)
    mixed, targets = CutMix()(x, torch.eye(2).repeat(DRAWS // 2, 1))
    foreign = (mixed != x)[:, 0]
    ours = find_boxes(foreign)
    transform = v2.CutMix(num_classes=2)
    rows = [transform.make_params([x[:1]]) for _ in range(DRAWS)]
    left, top, right, bottom = torch.tensor([row["box"] for row in rows]).float().T
    inner = (right > left) & (bottom > top)  # an empty box has no place
    theirs = [value[inner] for value in (top, left, bottom - top, right - left)]
    some = foreign.flatten(1).any(1)
    assert some.float().mean().item() == pytest.approx(inner.float().mean().item(), abs=0.02)
    boxes = [value[some] for value in ours]
    assert_same_distribution(describe_boxes(*boxes, H, W), describe_boxes(*theirs, H, W))
    assert targets.sum(1).allclose(torch.ones(1))


# --------------------------------------------------------------------------------------------------
# Maps


@SHAPES
@pytest.mark.parametrize(
    "arguments",
    [{"degrees": 30.0}, {"degrees": 180.0, "translate": (0.1, 0.3), "scale": (0.5, 1.5)}],
)
def test_affine(H: int, W: int, arguments: dict[str, Any]) -> None:
    transform, image = v2.RandomAffine(**arguments), torch.zeros(1, 1, H, W)
    rows = [transform.make_params([image]) for _ in range(DRAWS)]
    values = torch.tensor([(row["angle"], row["scale"], *row["translate"]) for row in rows])
    theirs = dict(zip(("angle", "scale", "right", "down"), values.T, strict=True))
    assert_same_distribution(affine_draws(RandomAffine(**arguments), H, W), theirs)


def affine_draws(transform: RandomAffine, H: int, W: int) -> Draws:
    """Angle in degrees, scale and shift in pixels, read from the maps."""
    maps = transform.maps(DRAWS, H, W, CPU).double()
    cos, sin = maps[:, 0, 0], maps[:, 0, 1]
    right, down = -torch.linalg.solve(maps[:, :2, :2], maps[:, :2, 2]).T
    scale = 1 / torch.hypot(cos, sin)
    return {
        "angle": torch.atan2(sin, cos).rad2deg(),
        "scale": (1e4 * scale).round().float() / 1e4,
        "right": right.round(),
        "down": down.round(),
    }


def test_rotation() -> None:
    ours = affine_draws(RandomRotation(25.0), 32, 96)
    (theirs,) = torchvision_draws(v2.RandomRotation(25.0), 32, 96, "angle")
    assert_same_distribution({"angle": ours["angle"]}, {"angle": theirs})


@SHAPES
def test_crop(H: int, W: int) -> None:
    maps = RandomCrop(padding=4).maps(DRAWS, H, W, CPU)
    left, top = maps[:, 0, 2] + 4, maps[:, 1, 2] + 4
    others = torchvision_draws(v2.RandomCrop((H, W), padding=4), H, W, "left", "top")
    theirs = dict(zip(("left", "top"), others, strict=True))
    assert_same_distribution({"left": left, "top": top}, theirs)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("cls", [RandomHorizontalFlip, RandomVerticalFlip, RandomErasing])
def test_rate(cls: Any, p: float) -> None:
    ours = cls(p=p)
    x = torch.arange(1.0, 37).reshape(1, 1, 6, 6).expand(DRAWS, 1, 6, 6)
    changed = (ours(x, x)[0] - x).abs().flatten(1).amax(1) > 0.5
    theirs = getattr(v2, cls.__name__)(p=p)
    rate = sum(not torch.equal(theirs(x[0]), x[0]) for _ in range(DRAWS)) / DRAWS
    assert changed.float().mean().item() == pytest.approx(rate, abs=0.02)


# --------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize("strength", [0.4, 1.0, 1.5])  # a factor is never below 0
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_color_factor(name: str, strength: float) -> None:
    spec = Spec(in_shape=(3, 1, 2), num_outputs=2, kind="image", mean=(0.0,) * 3, std=(1.0,) * 3)
    transform = ColorJitter(**{name: strength})
    transform.fit(spec)
    # Two pixels, and for the saturation two channels, whose difference is scaled by the factor.
    image = torch.tensor([[0.5, 0.25], [0.25, 0.25], [0.25, 0.25]]).unsqueeze(1)
    x = transform(image.expand(DRAWS, 3, 1, 2), image)[0]
    factors = {
        "brightness": x[:, 2, 0, 1] / 0.25,
        "contrast": (x[:, 0, 0, 0] - x[:, 0, 0, 1]) / 0.25,
        "saturation": (x[:, 0, 0, 0] - x[:, 1, 0, 0]) / 0.25,
    }
    theirs = torchvision_draws(v2.ColorJitter(**{name: strength}), 1, 2, f"{name}_factor")
    assert_same_distribution({name: factors[name]}, {name: theirs[0]})
    assert factors[name].min() > -1e-5


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_share(alpha: float) -> None:
    # Images are 0 or 1 by turns: one that is blended with the other kind shows the share.
    x = torch.arange(2 * DRAWS).remainder(2).double().reshape(-1, 1, 1, 1)
    mixed, _ = MixUp(alpha=alpha)(x, x)
    moved = (mixed - x).abs().flatten()
    (theirs,) = torchvision_draws(v2.MixUp(alpha=alpha, num_classes=2), 1, 1, "lam")
    # A share too close to 1 moves nothing. Half of the partners are of the same kind.
    ours = 1 - moved[moved > 1e-6]
    assert len(ours) > DRAWS / 2
    assert_same_distribution({"share": ours}, {"share": theirs[theirs < 1 - 1e-6]})


def test_erasing_ratio_is_height_over_width() -> None:
    # Unlike the crop's, its ratio is height over width.
    image = torch.ones(200, 1, 64, 64)
    erased = RandomErasing(p=1.0, scale=(0.05, 0.1), ratio=(3.0, 3.0))(image, image)[0][:, 0] == 0
    _, _, height, width = find_boxes(erased)
    params = v2.RandomErasing(p=1.0, scale=(0.05, 0.1), ratio=(3.0, 3.0)).make_params([image[:1]])
    assert params["h"] > params["w"]
    assert (height / width).mean().item() == pytest.approx(3, abs=0.1)
    assert math.isclose(height.max().item(), 64 * math.sqrt(0.3), abs_tol=1)
