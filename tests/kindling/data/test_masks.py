"""Masks from files and from scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.data.scenes import Scenes
from src.kindling.config.errors import InputError
from src.kindling.data.images.decode import ResizeMode, make_square, size_of
from src.kindling.data.images.mask_folder import MaskFolder
from src.kindling.data.masks import PALETTE, VOID, blend, indexed, over, unfit
from tests import make_masks
from tests.conftest import mistakes


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.kindling.data.images.image_data.DATA", tmp_path / "data")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    make_masks.write(tmp_path / "scans", 20)
    return tmp_path / "scans"


def ready(root: Path, **options: object) -> MaskFolder:
    data = MaskFolder(str(root), **options)  # type: ignore[arg-type]
    data.setup()
    return data


def refused(root: Path, **options: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        ready(root, **options)
    return caught.value.lines


def test_images_and_masks_share_a_shape(scans: Path) -> None:
    data = ready(scans)
    assert data.spec.classes == ("ground", "disc", "square")
    assert (data.spec.in_shape, data.spec.target_shape) == ((3, 24, 24), (24, 24))
    batch = data.datasets["test"][(0, 0, torch.arange(3))]
    assert (batch[1].dtype, tuple(batch[1].shape)) == (torch.uint8, (3, 24, 24))
    # Squashed as the picture is, without blending: the bright pixels are those of the mask.
    assert set(batch[1].unique().tolist()) == {0, 1, 2}
    blue = batch[0][:, 2].float() > 150
    assert ((batch[1] == 2) == blue).float().mean() > 0.97
    whole = np.array(
        Image.open(scans / "masks" / "000.png").resize((24, 24), Image.Resampling.NEAREST)
    )
    assert np.array_equal(batch[1][0].numpy(), whole)
    assert data.notes[0] == (
        "images: 20 files with masks of 3 classes, 0 files left out; 3 x 24 x 24 (data.size and "
        "data.channels set them)"
    )
    assert data.notes[1] == "classes (number of masks): ground (20), disc (19), square (20)"


def test_all_truncated_images_at_once(scans: Path) -> None:
    cut = [scans / "images" / name for name in ("003.jpg", "007.jpg")]
    for path in cut:
        path.write_bytes(path.read_bytes()[:-100])
    assert [line.partition(": ")[0] for line in refused(scans)] == [*map(str, cut)]


def test_transforms_move_image_and_mask(scans: Path) -> None:
    from torchvision.transforms import v2

    for i in range(20):  # a picture that is its mask
        mask = np.array(Image.open(scans / "masks" / f"{i:03d}.png"))
        Image.fromarray(mask * 100).save(scans / "images" / f"{i:03d}.png")
        (scans / "images" / f"{i:03d}.jpg").unlink()
    data = ready(
        scans,
        train_transforms=[v2.RandomCrop(16), v2.RandomHorizontalFlip()],
        eval_transforms=[v2.CenterCrop(16)],
    )
    batch = data.datasets["train"][(0, 0, torch.arange(12))]
    assert batch[0].shape == (12, 1, 16, 16)
    assert torch.equal(batch[0][:, 0], batch[1] * 100)
    other = data.datasets["train"][(1, 0, torch.arange(12))]
    assert not torch.equal(batch[1], other[1])
    assert data.spec.target_shape == (16, 16)


def test_split_folders(scans: Path) -> None:
    for name, ending in (("images", "jpg"), ("masks", "png")):
        for i in range(20):
            place = scans / name / ("train" if i < 12 else "val" if i < 16 else "test")
            place.mkdir(exist_ok=True)
            (scans / name / f"{i:03d}.{ending}").rename(place / f"{i:03d}.{ending}")
    data = ready(scans)
    assert [len(data.indices[stage]) for stage in ("train", "val", "test")] == [12, 4, 4]
    assert data.samples.name(int(data.indices["val"][0])) == "val/012.jpg"


def test_classes_from_masks(scans: Path) -> None:
    (scans / "classes.txt").unlink()
    assert ready(scans).spec.classes == ("0", "1", "2")
    assert ready(scans, classes=["a", "b", "c", "d"]).spec.classes == ("a", "b", "c", "d")
    for path in (scans / "masks").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray((255 * (mask > 0)).astype(np.uint8)).save(path)
    data = ready(scans)
    assert data.spec.classes == ("0", "255")
    assert data.notes[0] == "masks: 0 and 255 are the two classes (data.values sets them)"
    assert data.datasets["train"][(0, 0, torch.arange(5))][1].unique().tolist() == [0, 1]
    # Said otherwise, 255 is what does not count.
    one = ready(scans, values=[0, 1], classes=["ground", "thing"])
    assert one.datasets["train"][(0, 0, torch.arange(5))][1].unique().tolist() == [0, VOID]


def test_values_with_gaps(scans: Path) -> None:
    (scans / "classes.txt").unlink()
    for path in (scans / "masks").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray((128 * (mask > 0)).astype(np.uint8)).save(path)
    assert refused(scans) == [
        f"{scans}: masks have 2 of the values 0 to 128; set data.values=[0,128] if each is a class, "
        "or data.classes to name all"
    ]
    assert ready(scans, values=[0, 128]).spec.classes == ("0", "128")


def test_unmatched_files(scans: Path) -> None:
    images, masks = scans / "images", scans / "masks"
    (images / "003.jpg").unlink()
    (masks / "005.png").unlink()
    (masks / "007.png").unlink()
    assert refused(scans) == [
        f"{images}: 2 of 19 files have none of the same name in masks: 005.jpg, 007.jpg; add "
        "them, or remove these",
        f"{masks}: 1 of 18 files have none of the same name in images: 003.png; add them, or "
        "remove these",
    ]


def test_wrong_sizes_and_values(scans: Path) -> None:
    images, masks = scans / "images", scans / "masks"
    mask = np.array(Image.open(masks / "004.png"))
    Image.fromarray(mask[:20]).save(masks / "004.png")
    Image.open(images / "002.jpg").convert("RGB").save(masks / "002.png")
    (masks / "009.png").write_bytes(b"no picture")
    assert refused(scans) == [
        f"{masks}/002.png: has colors (RGB); save one channel with a class number from 0 to 255 for each pixel",
        f"{masks}/004.png: 30 x 20 pixels, and its image 004.jpg has 30 x 24; make them equal",
        f"{masks}/009.png: cannot be read as a mask: cannot identify image file",
    ]
    make_masks.write(scans / "more", 20)
    masks = scans / "more" / "masks"
    Image.fromarray(np.full((24, 30), 7, dtype=np.uint8)).save(masks / "001.png")
    assert refused(scans / "more") == [
        "masks with other values than the 3 classes (0, 1, 2; 255 is ignored): "
        f"{masks}/001.png (7); correct them, or "
        f"name all classes ({scans}/more/classes.txt)"
    ]
    Image.open(masks / "003.png").save(masks / "001.png")
    (masks / "006.jpg").write_bytes(b"")
    assert refused(scans / "more") == [
        f"{masks}: lossy file formats: 006.jpg; save masks as PNG, BMP or TIFF"
    ]


def test_wrong_settings(scans: Path, tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == [f"{tmp_path}/none: no such folder (data.root)"]
    (scans / "masks").rename(scans / "labels")
    assert refused(scans) == [
        f"{scans}/masks: no such folder; expected {scans}/images and {scans}/masks (data.root)"
    ]
    (scans / "labels").rename(scans / "masks")
    assert refused(scans, size=0) == ["data.size: expected at least 1, got 0"]
    assert refused(scans, values=[0, 0]) == [
        "data.values: expected different numbers from 0 to 255, got [0, 0]"
    ]
    assert refused(scans, classes=["a", "b"], values=[0]) == [
        "data.classes: has 2 names, and data.values 1 values; set one value for each name"
    ]
    assert refused(scans, values=[0, 1]) == [
        f"{scans}/classes.txt: has 3 names, and data.values 2 values; set one value for each name"
    ]


# Masks as pictures


@pytest.mark.parametrize("resize_mode", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(48, 32), (32, 48), (32, 32)])
def test_unfit(resize_mode: ResizeMode, size: tuple[int, int]) -> None:
    width, height = size
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[8:24, 8:24] = 3
    square = make_square(Image.fromarray(mask), 16, resize_mode, Image.Resampling.NEAREST, VOID)
    back = np.array(unfit(indexed(np.array(square)), size, resize_mode))
    assert back.shape == mask.shape
    left, top = (width - 32) // 2, (height - 32) // 2
    inside = np.zeros_like(mask, dtype=bool)
    inside[top : top + 32, left : left + 32] = True
    if resize_mode == "crop":
        assert (back[~inside] == VOID).all()
        assert np.array_equal(back[inside], mask[inside])
    else:
        assert (back == mask).mean() > 0.92
        assert set(np.unique(back).tolist()) == {0, 3}


def test_palette_and_blend(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    indexed(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert np.array_equal(np.array(picture), mask)
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
        assert picture.convert("RGB").getpixel((15, 15)) == (255, 255, 255)
    assert len(np.unique(PALETTE, axis=0)) > 200
    near = np.abs(PALETTE[:12, None].astype(int) - PALETTE[None, :12]).sum(axis=2) + 999 * np.eye(
        12
    )
    assert near.min() >= 60
    grey = np.full((16, 16, 3), 100, dtype=np.uint8)
    shown = blend(grey, mask)
    assert shown[0, 0].tolist() == shown[15, 15].tolist() == [100, 100, 100]
    assert shown[0, 1].tolist() == ((grey[0, 1] + PALETTE[1].astype(int)) // 2).tolist()
    assert np.array_equal(np.array(over(Image.fromarray(grey), indexed(mask))), shown)


def test_size_of_rotated_image(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 20))
    exif = picture.getexif()
    exif[274] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    assert size_of(str(tmp_path / "turned.jpg")) == (20, 30)
    assert size_of(str(tmp_path / "plain.jpg")) == (30, 20)


# Scenes


def test_scenes_are_reproducible() -> None:
    counts = (30, 10, 10)
    masks, labels = Scenes(scenes=counts).load(), Scenes("labels", scenes=counts).load()
    assert isinstance(masks.x, torch.Tensor)
    assert isinstance(labels.x, torch.Tensor)
    assert torch.equal(masks.x, Scenes(scenes=counts).load().x)  # type: ignore[arg-type]
    assert torch.equal(masks.x, labels.x)
    assert isinstance(masks.y, torch.Tensor)
    assert isinstance(labels.y, torch.Tensor)
    assert (masks.x.shape, masks.x.dtype, masks.y.dtype) == (
        (50, 1, 32, 32),
        torch.uint8,
        torch.uint8,
    )  # type: ignore[attr-defined]
    for mask, there in zip(masks.y, labels.y, strict=True):
        assert there.nonzero().flatten().tolist() == [int(i) - 1 for i in mask.unique() if i]
    ink = masks.y > 0
    assert masks.x[:, 0][ink].float().mean() > 4 * masks.x[:, 0][~ink].float().mean()
    assert [index.tolist()[0] for index in masks.official.values()] == [0, 30, 40]


def test_scene_places() -> None:
    counts = (20, 5, 5)
    masks = Scenes(digits=(1, 1), scenes=counts).load()
    places = Scenes("place", digits=(1, 1), scenes=counts).load()
    assert places.targets == ("x", "y", "height")
    for mask, place in zip(masks.y, places.y, strict=True):  # type: ignore[call-overload]
        rows, columns = mask.nonzero(as_tuple=True)
        assert place.tolist() == [
            (columns.min() + columns.max() + 1) / 2,
            (rows.min() + rows.max() + 1) / 2,
            rows.max() - rows.min() + 1,
        ]


def test_wrong_scene_settings() -> None:
    assert mistakes("train", "localization", "data.digits=[1,4]") == [
        "data.digits: got [1, 4], but localization needs exactly one digit; set data.digits=[1,1]"
    ]
    assert mistakes("train", "segmentation", "data.digits=[0,4]") == [
        "data.digits: expected the fewest and the most in a scene, at least 1, got [0, 4]"
    ]
    assert mistakes("train", "segmentation", "data.size=10") == [
        "data.zoom: expected a smallest and a largest above 0, at which 8 pixels fit into 10, "
        "got [1.0, 1.5]"
    ]


def test_left_out_files_and_split_folders(scans: Path) -> None:
    (scans / "images" / "notes.txt").write_text("")
    (scans / "masks" / ".hidden.png").write_bytes(b"")
    assert "2 files left out (1 .txt, 1 hidden)" in ready(scans).notes[0]
    for kind in ("images", "masks"):
        (scans / kind / "train").mkdir()
        for file in sorted((scans / kind).glob("0*"))[2:]:
            file.rename(scans / kind / "train" / file.name)
    with pytest.raises(InputError) as caught:
        ready(scans)
    assert caught.value.lines == [
        f"{scans / 'images'}: folders of splits (train) and others (000.jpg, 001.jpg); move the "
        "others away, or rename a class that is called like a split (data.root)"
    ]


def test_groups_of_masks(scans: Path) -> None:
    data = ready(scans, group_column=r"\d\.")
    assert r"split: by \d\., 10 groups, none in two splits" in data.notes
    digits = [{data.samples.name(int(i))[2] for i in index} for index in data.indices.values()]
    assert sum(map(len, digits)) == 10
