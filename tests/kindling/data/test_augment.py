"""Batch transforms: a draw of its own for each sample, targets that say how much of each is there."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

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
    Resample,
    compose,
)
from src.kindling.data.augment_functional import affine, jitter, resample
from src.kindling.data.spec import Spec
from tests.conftest import mistakes, train


def batch(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are constant, and whose targets are that constant: so the mean says the share."""
    values = torch.rand(size)
    return values[:, None, None, None].expand(size, 2, 10, 12).clone(), values[:, None]


def test_mixup() -> None:
    torch.manual_seed(0)
    x, y = batch()
    mixed, targets = MixUp(alpha=1.0)(x, y)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets[:, 0], atol=1e-6)
    shares = ((targets - y) / y).flatten()
    assert len(shares.unique()) > 50  # each its own


def test_cutmix() -> None:
    torch.manual_seed(0)
    x, y = batch()
    mixed, targets = CutMix()(x, y)
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets[:, 0], atol=1e-5)
    for image, original in zip(mixed, x, strict=True):
        assert set(image.unique().tolist()) <= {*original.unique().tolist(), *x.unique().tolist()}
        assert len(image.unique()) <= 2


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: MixUp(alpha=0), "expected alpha above 0, got 0"),
        (lambda: CutMix(alpha=-1.0), "expected alpha above 0, got -1.0"),
        (lambda: RandomErasing(p=2), "expected p from 0 to 1, got 2"),
        (lambda: RandomVerticalFlip(p=-1), "expected p from 0 to 1, got -1"),
        (lambda: RandomCrop(-1), "expected padding of at least 0, got -1"),
        (lambda: RandomAffine(scale=(0, 1)), "expected scale as a smallest and a largest above 0"),
        (lambda: RandomResizedCrop(scale=(0.5, 2)), "expected scale as two shares above 0"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), "expected ratio as two numbers above 0"),
        (lambda: ColorJitter(contrast=-1), "expected values of at least 0, got [0.0, -1, 0.0]"),
    ],
)
def test_wrong_arguments(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        make()


def test_wrong_argument_in_config() -> None:
    mixup = "data.train_transforms=[{_target_: src.kindling.data.augment.MixUp, alpha: 0}]"
    (line,) = mistakes("train", "digits", mixup)
    assert line.startswith("data.train_transforms.0")
    assert "expected alpha above 0, got 0" in line


# ---------------------------------------------------------------------------------------------------------------
# Masks


def test_masks_move_with_images() -> None:
    # Each pixel of the image says where it was, and so does the mask: wherever both go, they agree.
    numbers = torch.arange(1, 12 * 10 + 1, dtype=torch.uint8).reshape(12, 10).repeat(16, 1, 1)
    x = numbers.unsqueeze(1).float()
    whole_pixels = [RandomHorizontalFlip(), RandomVerticalFlip(), RandomCrop(padding=3)]
    for transform in (*whole_pixels, *compose(whole_pixels)):
        torch.manual_seed(0)
        moved, masks = transform(x, numbers)
        assert masks.dtype == torch.uint8
        outside = masks == 255
        assert torch.equal(moved[:, 0].round().to(torch.uint8), masks.masked_fill(outside, 0))
        assert not torch.equal(masks, numbers)
    assert outside.any()
    assert not outside.all()


def test_masks_are_not_interpolated() -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 4, (16, 20, 24), dtype=torch.uint8)
    y[:, 5:9, 5:9] = 255  # what does not count moves, too
    x = torch.ones(16, 1, 20, 24)
    moved, masks = RandomAffine(degrees=30, translate=(0.1, 0.1), scale=(0.7, 1.3))(x, y)
    assert set(masks.unique().tolist()) == {0, 1, 2, 3, 255}
    # Where nothing of the image is, nothing is known of the classes.
    assert (masks[moved[:, 0] == 0] == 255).all()
    torch.manual_seed(0)
    same = ColorJitter(brightness=0.5)
    same.fit(Spec(in_shape=(1, 20, 24), num_outputs=4, kind="image", mean=(0.0,), std=(1.0,)))
    assert same(x, y)[1] is y


# ---------------------------------------------------------------------------------------------------------------
# The same as torchvision's, sample by sample, with the same parameters


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(6, channels, 20, 24, generator=torch.Generator().manual_seed(1))


def one_by_one(
    x: torch.Tensor, function: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    return torch.stack([function(image, i) for i, image in enumerate(x)])


def test_affine_equals_torchvision() -> None:
    x = images()
    angles = torch.tensor([0.0, 30.0, -45.0, 90.0, 10.0, 180.0])
    right, down = torch.tensor([0.0, 3, -2, 0, 5, 1]), torch.tensor([0.0, -1, 4, 2, 0, 0])
    size = torch.tensor([1.0, 1.0, 1.5, 0.7, 1.1, 1.0])
    ours = resample(x, affine(angles.deg2rad(), torch.stack([right, down], dim=1), size))
    theirs = one_by_one(
        x,
        lambda image, i: F.affine(
            image,
            angles[i].item(),
            [int(right[i]), int(down[i])],
            size[i].item(),
            [0.0, 0.0],
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
    )
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_flips_equal_torchvision() -> None:
    x = images()
    assert torch.allclose(RandomHorizontalFlip(p=1)(x, x)[0], F.horizontal_flip(x), atol=1e-5)
    assert torch.allclose(RandomVerticalFlip(p=1)(x, x)[0], F.vertical_flip(x), atol=1e-5)
    assert torch.allclose(RandomVerticalFlip(p=0)(x, x)[0], x, atol=1e-5)


def test_crop_equals_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images()
    shifts = torch.tensor([[0, 4, -4, 2, 1, -3], [0, -4, 4, 1, 3, 0]])
    monkeypatch.setattr(
        torch, "randint", lambda low, high, *_, **__: shifts if (low, high) == (-4, 5) else None
    )
    ours, _ = RandomCrop(padding=4)(x, x)
    theirs = one_by_one(
        x,
        lambda image, i: F.crop(
            F.pad(image, [4]), 4 + int(shifts[1, i]), 4 + int(shifts[0, i]), 20, 24
        ),
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_resized_crop_equals_torchvision() -> None:
    x = images()
    # The part from row 5 to 15 and column 6 to 18: half the height and half the width, at the centre.
    transform = RandomResizedCrop()
    ours = resample(x, torch.eye(3).repeat(6, 1, 1) * torch.tensor([0.5, 0.5, 1.0])[:, None])
    theirs = F.resized_crop(x, 5, 6, 10, 12, [20, 24], antialias=False)
    assert torch.allclose(ours[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1], atol=1e-5)
    maps = transform.maps(500, 20, 24, x.device)
    area = maps[:, 0, 0] * maps[:, 1, 1]
    assert 0.05 < area.min() < 0.2
    assert area.max() <= 1


def test_geometric_transforms_compose() -> None:
    steps = [
        RandomHorizontalFlip(),
        RandomRotation(20),
        RandomAffine(translate=(0.2, 0.1), scale=(0.8, 1.2)),
        RandomCrop(2),
    ]
    (one,) = compose(steps)
    assert isinstance(one, Resample)
    assert [type(part) for part in compose([steps[0], MixUp(), *steps[1:]])] == [
        Resample,
        MixUp,
        Resample,
    ]
    x = images()
    exact = [
        RandomHorizontalFlip(p=1),
        RandomCrop(padding=3),
    ]  # whole pixels: reading twice loses nothing
    torch.manual_seed(5)
    together, _ = compose(exact)[0](x, x)
    torch.manual_seed(5)
    apart = exact[1](exact[0](x, x)[0], x)[0]
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_equals_torchvision(channels: int) -> None:
    x = 0.4 + 0.2 * images(channels)  # so that nothing reaches 0 or 1, where torchvision clamps
    brightness = torch.tensor([1.0, 1.3, 0.8, 1.0, 1.0, 1.1])
    contrast = torch.tensor([1.0, 1.0, 1.0, 1.4, 0.6, 0.9])
    saturation = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.5, 1.2])
    theirs = one_by_one(
        x,
        lambda image, i: F.adjust_saturation(
            F.adjust_contrast(F.adjust_brightness(image, brightness[i].item()), contrast[i].item()),
            saturation[i].item(),
        ),
    )
    assert torch.allclose(jitter(x, brightness, contrast, saturation), theirs, atol=2e-4)


def test_color_jitter_of_standardized_images() -> None:
    spec = Spec(
        in_shape=(3, 20, 24), num_outputs=2, kind="image", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)
    )
    transform = ColorJitter(brightness=0.5)
    transform.fit(spec)
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (spec.mean, spec.std))
    x = images()
    jittered = transform((x - mean) / std, x)[0] * std + mean
    factors = (jittered / x).flatten(1)
    assert torch.allclose(factors, factors[:, :1].expand_as(factors), atol=1e-3)
    assert len(factors[:, 0].unique()) == 6


def test_erasing_equals_torchvision() -> None:
    x = images() + 1
    torch.manual_seed(0)
    erased, _ = RandomErasing(p=1)(x, x)
    for image, original in zip(erased, x, strict=True):
        rows, columns = torch.nonzero((image == 0).all(0), as_tuple=True)
        top, left = int(rows.min()), int(columns.min())
        height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
        assert torch.equal(image, F.erase(original, top, left, height, width, torch.zeros(1)))
        assert 0.01 < height * width / (20 * 24) < 0.4
    torch.manual_seed(0)
    touched = (RandomErasing(p=0.5)(images().repeat(50, 1, 1, 1) + 1, x)[0] == 0).flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_training_with_all_transforms() -> None:
    names = [
        "RandomHorizontalFlip}",
        "RandomRotation, degrees: 10}",
        "RandomAffine, translate: [0.1, 0.1], scale: [0.9, 1.1]}",
        "RandomCrop, padding: 1}",
        "ColorJitter, brightness: 0.2, contrast: 0.2}",
        "RandomErasing}",
        "MixUp}",
        "CutMix}",
    ]
    listed = ", ".join("{_target_: src.kindling.data.augment." + name for name in names)
    first = train("digits", f"data.train_transforms=[{listed}]")
    again = train("digits", f"data.train_transforms=[{listed}]", "data.num_workers=1")
    assert first.metrics == again.metrics
    assert 0 < first.metrics["val/loss"] < 10
