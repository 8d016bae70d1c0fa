"""Preparation without torch: a server prepares an image as the run's test does."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.data.images.image_data import ImageFiles
from src.kindling.data.images.image_folder import ImageFolder
from src.kindling.data.images.prepare import Preparation, steps_of
from src.kindling.deploy.predict_inputs import ImageInputs


def pictures(root: Path) -> list[Path]:
    """Files of every kind, some with odd sides."""
    random = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(random.integers(0, 256, (9, 7, 4), dtype=np.uint8)).resize((61, 47))
    )
    colour, grey = Image.fromarray(smooth[..., :3]), Image.fromarray(smooth[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colour.png": (colour, {}),
        "grey.png": (grey, {}),
        "alpha.png": (Image.fromarray(smooth), {}),
        "grey alpha.png": (Image.fromarray(smooth).convert("LA"), {}),
        "palette.png": (colour.quantize(16), {}),
        "bits.png": (grey.convert("1"), {}),
        "photo.jpg": (colour, {"quality": 80}),
        "grey.jpg": (grey, {}),
        "large.jpg": (colour.resize((610, 470)), {}),
        "turned.jpg": (colour, {"exif": exif}),
        "turned.png": (colour, {"exif": exif}),
        "sixteen.png": (Image.fromarray(smooth[..., 0].astype(np.uint16) * 257), {}),
        "one.bmp": (colour, {}),
        "one.webp": (colour, {}),
        "one.tif": (colour, {}),
        "dot.png": (colour.resize((1, 1)), {}),
        "line.png": (colour.resize((90, 3)), {}),
        "exact.png": (colour.resize((16, 16)), {}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
    }
    root.mkdir(parents=True, exist_ok=True)
    for name, (image, options) in files.items():
        image.save(root / name, **options)
    return [root / name for name in files]


RESIZE = v2.Resize([20, 24])
# Transforms, and by how many of the 255 levels Pillow's and torch's rounding may differ.
TRANSFORMS: dict[str, tuple[list[nn.Module], int]] = {
    "none": ([], 0),
    "an exact size": ([RESIZE], 1),
    "a side and a crop": ([v2.Resize(24), v2.CenterCrop(16)], 1),
    "a longest side": ([v2.Resize(20, max_size=30), v2.CenterCrop([20, 30])], 1),
    "another way": ([v2.Resize([20, 24], interpolation=v2.InterpolationMode.BICUBIC)], 2),
    "the nearest": ([v2.Resize([21, 13], interpolation=v2.InterpolationMode.NEAREST_EXACT)], 0),
    "a crop beyond the border": ([v2.Resize([15, 10]), v2.CenterCrop([12, 17])], 1),
    "a border": ([v2.Resize([15, 10]), v2.Pad([1, 2, 3, 4], fill=7)], 1),
    "the same border": ([RESIZE, v2.Pad(2)], 1),
    "grey": ([RESIZE, v2.Grayscale(3)], 2),
    "what changes nothing": ([v2.ToImage(), v2.Identity(), nn.Identity(), RESIZE], 1),
}


CASES = [("none", fit, channels) for fit in ("crop", "squash", "pad") for channels in (1, 3)]
# Transforms that resize receive whole pictures, which no fit has touched.
CASES += [(name, "crop", 3) for name in TRANSFORMS if name != "none"]


@pytest.mark.parametrize(("name", "fit", "channels"), CASES)
def test_preparation_equals_the_run(
    name: str, fit: Any, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.kindling.data.images.image_data.DATA", tmp_path / "data")
    transforms, allowed = TRANSFORMS[name]
    files = pictures(tmp_path / "all" / "a")
    for label in "bc":
        for i in range(4):
            (tmp_path / "all" / label).mkdir(exist_ok=True)
            Image.new("RGB", (30, 20), (40 * i, ord(label), 9)).save(
                tmp_path / "all" / label / f"{i}.png"
            )
    data = ImageFolder(
        str(tmp_path / "all"),
        size=16,
        channels=channels,
        resize_mode=fit,
        eval_transforms=transforms,
        train_transforms=transforms,
        batch_size=4,
    )
    data.setup()
    source = ImageInputs([str(path) for path in files], data, data.spec)
    (names, own) = source[range(len(files))]
    assert not any(names["error"])
    whole = source.test.samples.x.own_size
    assert whole == (name != "none")
    prepare = Preparation(channels, 16, fit, whole, data.spec.max_value, steps_of(transforms))
    again = Preparation(**json.loads(json.dumps(asdict(prepare))))  # as it is written into the file
    for path, expected in zip(files, own, strict=True):
        with Image.open(path) as image:
            made = again(image)
        assert (made.shape, made.dtype) == (expected.shape, np.uint8), path.name
        assert np.abs(made.astype(int) - expected.numpy()).max() <= allowed, path.name


@pytest.mark.parametrize("max_value", [16.0, 1.0, 200.0])
def test_preparation_of_other_pixel_ranges(max_value: float) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = Preparation(1, 16, "crop", False, max_value)(Image.fromarray(levels))
    x = torch.from_numpy(levels)[None] * (max_value / 255)
    expected = x if max_value <= 1 else x.round().to(torch.uint8)
    assert made.dtype == expected.numpy().dtype
    assert np.array_equal(made, expected.numpy())


def test_preparation_to_float() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    for scale in (True, False):
        (step,) = steps_of([v2.ToDtype(torch.float32, scale=scale)])
        made = Preparation(1, 16, "crop", False, 255.0, [step])(Image.fromarray(levels[0].numpy()))
        assert made.dtype == np.float32
        assert np.abs(made - v2.ToDtype(torch.float32, scale=scale)(levels).numpy()).max() < 1e-6


class Mine(nn.Module):
    pass


def test_unsupported_transforms() -> None:
    remedy = (
        "; the server has no torch: use Resize, CenterCrop, Pad, Grayscale or ToDtype, or export "
        "with "
        "--format pt2"
    )
    given = [
        v2.Resize(8),
        v2.GaussianBlur(3),
        Mine(),
        v2.Resize(8, antialias=False),
        v2.Pad(1, padding_mode="reflect"),
        v2.ToDtype(torch.float64),
    ]
    with pytest.raises(InputError) as caught:
        steps_of(given)
    assert caught.value.lines == [
        "data.eval_transforms[1]: torchvision.transforms.v2.GaussianBlur is not supported" + remedy,
        f"data.eval_transforms[2]: {Mine.__module__}.Mine is not torchvision's" + remedy,
        "data.eval_transforms[3]: torchvision.transforms.v2.Resize with size=[8], bilinear and "
        "antialias=False is not supported" + remedy,
        "data.eval_transforms[4]: torchvision.transforms.v2.Pad is supported with "
        "padding_mode=constant and one fill value" + remedy,
        "data.eval_transforms[5]: torchvision.transforms.v2.ToDtype is supported with "
        "dtype=torch.float32 only" + remedy,
    ]


def test_light_modules_import_no_torch() -> None:
    names = [
        "src.kindling.data.images.prepare",
        "src.kindling.data.tables.encode",
        "src.kindling.data.images.decode",
        "src.kindling.data.spec",
        "src.serve",
        "src.kindling.deploy.serving.model",
    ]
    code = (
        f"import sys; sys.modules['torch'] = None; import {', '.join(names)}; "
        "assert 'hydra' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_images_are_decoded_by_one_function() -> None:
    """A second way of decoding could drift from the first."""
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "exif_transpose"
        ]
        assert not found or path.name == "decode.py"
    assert ImageFiles._read.__globals__["decode"].__module__ == "src.kindling.data.images.decode"
