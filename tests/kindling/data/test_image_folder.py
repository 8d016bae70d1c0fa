"""Images in folders and lists: formats, sizes, splits, and every error."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.data.images import decode as decode_module
from src.kindling.data.images.decode import decode, make_square
from src.kindling.data.images.image_data import ImageFiles, Paths
from src.kindling.data.images.image_folder import ImageFolder
from src.kindling.data.samples import STAGES
from src.kindling.deploy.predict_inputs import find
from src.kindling.training.trained_run import load_run
from tests.conftest import call, numbered_batches


@pytest.fixture(autouse=True)
def statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.kindling.data.images.image_data.DATA", tmp_path / "data")


def write(
    path: Path,
    value: int = 100,
    size: tuple[int, int] = (16, 16),
    mode: str = "RGB",
    **options: Any,
) -> Path:
    """An image of one value with a little noise, so that no two are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32(str(path).encode()))
    pixels = np.clip(
        np.full((*size[::-1], 3), value) + random.integers(-5, 6, (*size[::-1], 3)), 0, 255
    ).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """Two classes of 20 pictures, dark and bright."""
    root = tmp_path / "My cards (2)"
    for i in range(20):
        write(root / "dark ü" / f"{i}.png", 60, (20 + i % 3, 16))
        write(root / "bright" / f"{i}.jpg", 190, (20, 16 + i % 2))
    return root


def ready(root: Path | None, **options: Any) -> ImageFolder:
    data = ImageFolder(root and str(root), **options)
    data.setup()
    return data


def read_all(data: ImageFolder) -> None:
    for stage in STAGES:
        list(data.loader(stage))


def lines(root: Path | None, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_all(ready(root, **options))
    return caught.value.lines


def test_folder_trains(cards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = cards / "bright" / "bad.jpg"
    bad.write_bytes(b"no image")
    skip = ["data.on_error=skip", "data.error_limit=0.1", "data.batch_size=8"]
    call("train", "image_folder", f"data.root={cards}", *skip, "trainer.max_epochs=4")
    out = capsys.readouterr().out
    shape = "3 x 16 x 16 (from the files' headers; data.size and data.channels set them)"
    assert f"images: 40 files in 2 classes, 0 files left out; {shape}" in out
    assert "classes: bright (20), dark ü (20)\n" in out
    assert f"skipped 1 of 41 images: {bad}: cannot be read as an image: cannot identify" in out
    run = load_run("latest")
    assert run.metrics["test/accuracy"] == 1.0
    assert run.spec.classes == ("bright", "dark ü")
    split = (run.path / "split.csv").read_text().splitlines()
    assert len(split) == 41
    assert any("dark ü/3.png," in line for line in split)
    assert call("evaluate", "latest") == run.metrics


def test_images_with_masks_are_noted(tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path / "scans" / "images" / f"{i}.png")
        write(tmp_path / "scans" / "masks" / f"{i}.png")
    note = f"data: {tmp_path / 'scans'} looks like images with masks"
    assert f"{note}; for segmentation use data=mask_folder" in ready(tmp_path / "scans").notes


@pytest.mark.parametrize("workers", [0, 2])
def test_formats_and_modes(tmp_path: Path, workers: int) -> None:
    grey = {
        "grey.png": "L",
        "palette.png": "P",
        "one.png": "1",
        "alpha.png": "RGBA",
        "grey_alpha.png": "LA",
        "cmyk.jpg": "CMYK",
        "plain.jpg": "RGB",
        "plain.bmp": "RGB",
        "plain.webp": "RGB",
        "plain.tif": "RGB",
    }
    for label in "ab":
        for name, mode in grey.items():
            write(tmp_path / "x" / label / name, 200 if mode != "1" else 250, (24, 18), mode)
        wide = Image.fromarray(np.full((18, 24), 200 * 257, dtype=np.uint16))
        wide.save(tmp_path / "x" / label / "sixteen.png")
    data = ready(tmp_path / "x", size=16, num_workers=workers, duplicates="ignore")
    assert isinstance(data.samples.x, ImageFiles)
    assert (data.spec.in_shape, data.samples.x.channels) == ((3, 16, 16), 3)
    for stage in STAGES:
        for numbers, images, _ in numbered_batches(data, stage):
            assert images.dtype is torch.uint8
            for x, i in zip(images.float(), numbers.tolist(), strict=True):
                assert x.mean() == pytest.approx(
                    200, abs=56 if "one" in data.samples.name(i) else 8
                ), data.samples.name(i)


def test_size_from_headers(tmp_path: Path) -> None:
    for i, side in enumerate([40, 50, 61, 300]):
        write(tmp_path / "x" / "a" / f"{i}.png", 100, (side, side), "L")
        write(tmp_path / "x" / "b" / f"{i}.png", 100, (side, side), "L")
    data = ImageFolder(str(tmp_path / "x"))
    assert data.load().x[torch.arange(2)].shape == (
        2,
        1,
        56,
        56,
    )  # the median of 40, 50, 61 and 300 is 55.5
    assert ImageFolder(str(tmp_path / "x"), size=24, channels=3).load().x[
        torch.arange(2)
    ].shape == (2, 3, 24, 24)


def test_resize_modes(tmp_path: Path) -> None:
    image = Image.fromarray(
        np.repeat(np.arange(30, dtype=np.uint8)[None, :] * 8, 10, axis=0)
    )  # 30 wide, 10 high
    assert np.array(make_square(image, 10, "crop")).tolist() == np.array(image)[:, 10:20].tolist()
    assert np.array(make_square(image, 10, "squash")).shape == (10, 10)
    assert np.array(make_square(image, 30, "pad"))[0].tolist() == [0] * 30


def test_exif_orientation(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(str(tmp_path / "turned.jpg"), 3, 10**6).size == (10, 30)


def test_crop_transforms_receive_own_size(cards: Path) -> None:
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(12, scale=(0.3, 1.0)), v2.RandomHorizontalFlip()]
    data = ready(cards, train_transforms=crop)
    assert data.spec.in_shape == (3, 12, 12)  # the training transforms set the size
    batch = next(iter(data.train_dataloader()))
    assert batch[0].shape[1:] == (3, 12, 12)
    assert lines(cards, train_transforms=crop, size=16) == [
        "data.train_transforms give (3, 12, 12) and test samples are (3, 16, 16); "
        "make data.eval_transforms (or data.size) end in the same shape"
    ]
    data.transforms["train"] = nn.Sequential(v2.Resize(12))
    with pytest.raises(
        InputError,
        match="data transforms give samples of different shapes: .*3, 12, 1.* end them with one",
    ):
        data.dataset(data.samples, "train")[(0, 0, data.indices["train"])]


def test_split_folders(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("Val", 3), ("test", 2)):
        for label in "ab":
            for i in range(count):
                write(tmp_path / "x" / split / label / f"{i}.png")
    data = ready(tmp_path / "x")
    assert {stage: len(index) for stage, index in data.indices.items()} == {
        "train": 16,
        "val": 6,
        "test": 4,
    }
    assert all(data.samples.name(int(i)).startswith("test/") for i in data.indices["test"])
    (tmp_path / "x" / "Val").rename(tmp_path / "gone")
    data = ready(tmp_path / "x")
    assert (len(data.indices["train"]) + len(data.indices["val"]), len(data.indices["test"])) == (
        16,
        4,
    )


@pytest.mark.parametrize(
    "names", [("Training", "Validation", "TESTING"), ("train", "dev", "test"), ("TRAIN", "valid")]
)
def test_spellings_of_split_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    for split, count in zip(names, (8, 3, 2), strict=False):
        for label in "ab":
            for i in range(count):
                write(tmp_path / "x" / split / label / f"{i}.png")
    data = ready(tmp_path / "x")
    assert data.spec.classes == ("a", "b")
    assert len(data.indices["val"]) == 6
    assert all(data.samples.name(int(i)).startswith(names[1]) for i in data.indices["val"])


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (
            ("train", "val", "extra"),
            "folders of splits (train, val) and others (extra); move the others away, or "
            "rename a class that is called like a split",
        ),
        (
            ("test", "val"),
            "folders of splits, but none for training (test, val); add a folder train, or "
            "rename a class that is called like a split",
        ),
        (("dev", "train", "val"), "several folders for one split (dev, train, val); merge them"),
    ],
)
def test_mixture_of_splits_and_classes(
    tmp_path: Path, folders: tuple[str, ...], problem: str
) -> None:
    for folder in folders:
        write(tmp_path / "x" / folder / "a" / "1.png")
    assert lines(tmp_path / "x") == [f"{tmp_path / 'x'}: {problem} (data.root)"]


def test_left_out_files_are_counted(cards: Path) -> None:
    for name in (
        "dark ü/1.gif",
        "dark ü/2.GIF",
        "bright/notes.txt",
        "bright/.hidden.jpg",
        "README",
    ):
        (cards / name).write_bytes(b"")
    write(cards / ".thumbnails" / "a" / "1.png")
    write(cards / "outside.png")
    note = ready(cards).notes[0]
    reasons = "2 .gif, 2 hidden, 1 .txt, 1 without extension, 1 outside class folders"
    assert sorted(note.partition("(")[2].partition(")")[0].split(", ")) == sorted(
        reasons.split(", ")
    )
    assert note.startswith("images: 40 files in 2 classes, 7 files left out (2 ")


def test_ten_classes_are_counted(tmp_path: Path) -> None:
    for i in range(12):
        for k in range(8 + i % 2):
            write(tmp_path / "x" / f"c{i:02}" / f"{k}.png", 20 * i)
    (note,) = [note for note in ready(tmp_path / "x").notes if note.startswith("classes: ")]
    assert note.startswith("classes: c00 (8), c01 (9), c02 (8), ")
    assert note.endswith("c09 (9) and 2 more")


@pytest.mark.skipif(".avif" in decode_module.UNSUPPORTED, reason="this Pillow reads no AVIF")
def test_avif_images(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(8):
            write(tmp_path / "x" / label / f"{i}.avif")
    data = ready(tmp_path / "x")
    assert data.samples.x[torch.arange(16)].float().mean().item() == pytest.approx(100, abs=3)


def test_heic_without_plugin_is_refused_by_name(
    cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decode_module.UNSUPPORTED, ".heic", "pillow-heif")
    extensions = decode_module.EXTENSIONS - {".heic"}
    monkeypatch.setattr("src.kindling.data.images.find_images.EXTENSIONS", extensions)
    for name in ("dark ü/a.heic", "bright/B.HEIC"):
        (cards / name).write_bytes(b"")
    needs = "reading HEIC needs pillow-heif; install it: pip install pillow-heif"
    assert lines(cards) == [
        f"{cards}: {needs}, convert them, or set data.on_error=skip (bright/B.HEIC, dark ü/a.heic)"
    ]
    note = ready(cards, on_error="skip").notes[0]
    assert note.startswith("images: 40 files in 2 classes, 2 files left out (2 .heic); ")
    with pytest.raises(InputError) as caught:
        decode(str(cards / "dark ü" / "a.heic"), 3, 10**6)
    assert caught.value.lines == [f"{cards / 'dark ü' / 'a.heic'}: {needs}"]
    assert str(cards / "bright" / "B.HEIC") in find([str(cards)], True, "")  # an error in its row


def test_heic_plugin_is_registered(tmp_path: Path) -> None:
    plugin = "from PIL import Image\n\ndef register_heif_opener():\n    Image.registered = True\n"
    (tmp_path / "pillow_heif.py").write_text(plugin)
    code = (
        "from src.kindling.data.images.decode import EXTENSIONS, UNSUPPORTED, Image; "
        "print(Image.registered, '.heic' in EXTENSIONS, '.heif' in UNSUPPORTED)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True True False\n", done.stderr


def test_list_of_files(cards: Path, tmp_path: Path) -> None:
    files = tmp_path / "list.csv"
    rows = [f"dark ü/{i}.png,night,{'test' if i < 4 else 'train'}" for i in range(12)]
    rows += [f"bright/{i}.jpg,day,{'test' if i < 4 else 'train'}" for i in range(12)]
    files.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    data = ready(cards, files=str(files))
    assert data.spec.classes == ("day", "night")
    assert len(data.indices["test"]) == 8
    files.write_text("path,label\ndark ü/0.png,a\nno.png,b\n")
    assert lines(cards, files=str(files)) == [
        f"{files}:3: {cards / 'no.png'}: no such file; paths are relative to data.root"
    ]
    files.write_text("file,label\n")
    assert lines(cards, files=str(files)) == [
        f"{files}: has no column 'path' (its columns: file, label); rename the column of the "
        "images (data.files)"
    ]
    files.write_text("path,label,split\ndark ü/0.png,a,trian\n")
    assert lines(cards, files=str(files)) == [
        f"{files}:2: split 'trian'; did you mean 'train'? (train, val or test)"
    ]
    files.write_text("path,label\n")
    assert lines(cards, files=str(files)) == [f"{files}: a header and no rows; add rows below it"]
    files.write_text("path,label\ndark ü/0.png,\n")
    assert lines(cards, files=str(files)) == [
        f"{files}: the target 'label' has no value in 1 of 1 rows (row 1); fill it in, or remove "
        "these rows"
    ]


REMEDY = "; repair or remove it, or set data.on_error=skip"


def test_unreadable_image_is_named(cards: Path) -> None:
    bad = cards / "bright" / "3.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    assert lines(cards) == [f"{bad}: the file is empty{REMEDY}"]
    bad.write_bytes(whole[: len(whole) // 2])
    (line,) = lines(cards)
    assert line.startswith(f"{bad}: cannot be read as an image: Truncated File Read")
    bad.write_bytes(b"no image at all")
    (line,) = lines(cards, num_workers=2)
    assert line == f"{bad}: cannot be read as an image: cannot identify image file{REMEDY}"


def test_all_unreadable_images_at_once(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before training, without decoding the others."""
    empty, text = cards / "bright" / "3.jpg", cards / "bright" / "5.jpg"
    jpg, png = cards / "bright" / "7.jpg", cards / "dark ü" / "7.png"
    empty.write_bytes(b"")
    text.write_bytes(b"<html>not found</html>")
    for path in (jpg, png):
        path.write_bytes(path.read_bytes()[:-100])
    write(cards / "dark ü" / "8.bmp", 60)
    decoded = []

    def count(path: str, *options: Any) -> Any:
        decoded.append(path)
        return decode(path, *options)

    monkeypatch.setattr("src.kindling.data.images.image_data.decode", count)
    with pytest.raises(InputError) as caught:
        ImageFolder(str(cards)).setup()
    assert [line.partition(": ")[0] for line in caught.value.lines] == [
        *map(str, (empty, text, jpg, png))
    ]
    assert all(line.endswith(REMEDY) for line in caught.value.lines)
    assert len(set(decoded)) == 5  # and the BMP, whose end says nothing
    ImageFolder(str(cards), on_error="skip", error_limit=0.5).setup()
    for i in range(20):
        (cards / "bright" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        ImageFolder(str(cards)).setup()
    assert caught.value.lines[20:] == ["and 1 more unreadable images"]


def test_vanished_file_is_named(cards: Path) -> None:
    data = ready(cards)
    (cards / "bright" / "3.jpg").unlink()
    with pytest.raises(InputError) as caught:
        read_all(data)
    assert caught.value.lines == [
        f"{cards / 'bright' / '3.jpg'}: the file has vanished since the folder was read{REMEDY}"
    ]


def test_unreadable_images_are_skipped(cards: Path) -> None:
    """Also one whose header and end are as they should be."""
    bad = cards / "dark ü" / "3.png"
    content = bytearray(bad.read_bytes())
    middle = content.index(b"IDAT") + 20
    content[middle : middle + 20] = bytes(20)
    bad.write_bytes(content)
    plain = ImageFolder(str(cards)).load()
    data = ready(cards, on_error="skip", error_limit=0.05)
    names = [data.samples.name(i) for i in range(39)]
    assert names == [name for name in map(plain.name, range(40)) if name != "dark ü/3.png"]
    assert data.samples.y.tolist() == [0] * 20 + [1] * 19
    assert sum(len(y) for stage in STAGES for _, y in data.loader(stage)) == 39
    assert any(note.startswith(f"skipped 1 of 40 images: {bad}: cannot") for note in data.notes)
    (cards / "bright" / "4.jpg").write_bytes(b"no image")
    (cards / "bright" / "5.jpg").write_bytes(b"no image")
    (line,) = lines(cards, on_error="skip", error_limit=0.05)
    assert line.startswith(
        "3 of 40 images cannot be read, more than data.error_limit=0.05 allows: "
    )


def test_skipped_rows_of_a_list(cards: Path, tmp_path: Path) -> None:
    rows = [f"dark ü/{i}.png,{i},{'test' if i < 4 else 'train'}" for i in range(12)]
    files = tmp_path / "list.csv"
    files.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    for i in (2, 5):
        (cards / "dark ü" / f"{i}.png").write_bytes(b"")
    data = ready(cards, files=str(files), target="label", on_error="skip", error_limit=0.5)
    assert data.samples.y.flatten().tolist() == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]
    assert data.indices["test"].tolist() == [0, 1, 2]


def test_decompression_bomb(cards: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    bomb = cards / "bright" / "bomb.png"
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )
    large = f"{bomb}: 50000 x 50000 pixels exceed data.max_pixels=100,000,000"
    assert lines(cards) == [f"{large}; raise it for real images, or remove the file"]
    data = ready(cards, on_error="skip", error_limit=0.05)
    read_all(data)
    assert f"skipped 1 of 41 images: {large}" in data.notes


def test_wrong_root(cards: Path, tmp_path: Path) -> None:
    kinds = f"({', '.join(sorted(kind[1:] for kind in decode_module.EXTENSIONS))})"
    assert lines(tmp_path / "no") == [f"{tmp_path / 'no'}: no such folder (data.root)"]
    file = cards / "bright" / "1.jpg"
    assert lines(file) == [f"{file}: is a file; set it to a folder of images (data.root)"]
    (tmp_path / "void").mkdir()
    assert lines(tmp_path / "void") == [
        f"{tmp_path / 'void'}: no images in <class>/ folders {kinds} (data.root)"
    ]
    assert lines(cards / "bright")[0].startswith(
        f"{cards / 'bright'}: no images in <class>/ folders {kinds}; move its images, such as "
    )
    (cards / "empty").mkdir()
    assert lines(cards) == [
        f"class folders without images: {cards / 'empty'}; add some, or remove the folder"
    ]


def test_unlearnable_classes(cards: Path, tmp_path: Path) -> None:
    for i in range(4):
        write(tmp_path / "one" / "only" / f"{i}.png")
    assert lines(tmp_path / "one") == [
        f"{tmp_path / 'one'}: only one class folder, 'only'; set it to a folder with a folder of "
        "images for each class (data.root)"
    ]
    write(cards / "rare" / "1.png")
    assert lines(cards) == [
        "data.split: [0.7, 0.15, 0.15] needs 3 samples of each class, one for each split; fewer "
        "have: rare (1); "
        "add samples or remove the class"
    ]
    for split, label in (
        ("train", "a"),
        ("train", "b"),
        ("test", "a"),
        ("test", "new"),
        ("val", "a"),
    ):
        for i in range(4):
            write(tmp_path / "x" / split / label / f"{i}.png")
    assert lines(tmp_path / "x") == [
        "data: classes in test that training has no sample of: new; add training samples, or "
        "remove them from test"
    ]


def test_duplicates_across_splits(cards: Path) -> None:
    data = ready(cards)
    one, other = int(data.indices["train"][0]), int(data.indices["test"][0])
    name, twin = data.samples.name(one), data.samples.name(other)
    (cards / twin).write_bytes((cards / name).read_bytes())
    found = f"1 samples are identical in another split: {name} (train) = {twin} (test)"
    assert (
        f"duplicates: {found}; data.duplicates=drop removes them from training"
        in ready(cards).notes
    )
    assert lines(cards, duplicates="error") == [
        f"data: {found}; data.duplicates=drop removes them from training"
    ]
    dropped = ready(cards, duplicates="drop")
    assert f"duplicates: {found}; 1 dropped from training" in dropped.notes
    assert one not in dropped.indices["train"]


def test_content_hash(cards: Path) -> None:
    first = ready(cards).content_hash()
    assert ready(cards).content_hash() == first
    write(cards / "dark ü" / "20.bmp", 60, (20, 16))
    write(cards / "dark ü" / "21.bmp", 61, (20, 16))
    more = ready(cards).content_hash()
    assert more != first
    write(cards / "dark ü" / "21.bmp", 62, (20, 16))  # as long as before
    assert ready(cards).content_hash() != more
    assert ready(cards, duplicates="ignore").content_hash() != first


def test_content_keys_of_large_files(cards: Path) -> None:
    for name, ending in (("dark ü/a.bmp", b"1"), ("dark ü/b.bmp", b"2"), ("bright/c.bmp", b"1")):
        write(cards / name, size=(40, 40))
        (cards / name).write_bytes((cards / "dark ü" / "a.bmp").read_bytes()[:4800] + ending)
    names = sorted(str(path.relative_to(cards)) for path in cards.rglob("*.*"))
    images = ImageFiles(Paths(cards, names), 3, 16, "crop", 10**6)
    keys = dict(zip(names, images.content_keys().tolist(), strict=True))
    assert keys["dark ü/a.bmp"] == keys["bright/c.bmp"] != keys["dark ü/b.bmp"]
    assert len(set(keys.values())) == 42


def test_statistics_are_cached(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ready(cards)
    pixels = data.samples.x[data.indices["train"]].double()
    assert data.spec.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), rel=1e-5)
    assert data.spec.std == pytest.approx(
        pixels.std(dim=(0, 2, 3), unbiased=False).tolist(), rel=1e-5
    )

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("src.kindling.data.images.image_module.mean_and_std", forbidden)
    assert ready(cards).spec.mean == data.spec.mean
    trained = cards / data.samples.name(int(data.indices["train"][0]))
    write(trained, 0, (40, 40))
    with pytest.raises(AssertionError, match="computed again"):
        ready(cards)
    assert ready(cards, normalize="none").spec.mean == (127.5,) * 3


def test_packed_images_are_decoded_once(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ready(cards, seed=3)
    packed = ready(cards, seed=3, cache="memmap")
    assert "packing 40 images for data.cache=memmap, once\n" in capsys.readouterr().out
    for one, other in zip(plain.train_dataloader(), packed.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert packed.spec == plain.spec

    def forbidden(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("src.kindling.data.images.image_data.decode", forbidden)
    again = ready(cards, seed=3, cache="memmap")
    read_all(again)
    assert capsys.readouterr().out == ""
    (tmp_path / "data" / "duplicates").rename(tmp_path / "gone")
    write(cards / "bright" / "3.jpg", 10)
    with pytest.raises((AssertionError, RuntimeError), match="decoded again"):
        ready(cards, seed=3, cache="memmap")


def test_packing_resumes(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.kindling.data.images import image_data as pack_module

    monkeypatch.setattr(pack_module, "CHUNK_BYTES", 4 * 3 * 16 * 16)  # four images
    synchronized = []

    def killed(file: int) -> None:
        synchronized.append(file)
        if len(synchronized) == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            ready(cards, cache="memmap")
    assert not list((tmp_path / "data" / "cache").glob("*.uint8"))
    capsys.readouterr()
    packed = ready(cards, cache="memmap")
    assert (
        capsys.readouterr().out
        == "packing 40 images for data.cache=memmap, once; 20 are packed already\n"
    )
    assert torch.equal(packed.samples.x[torch.arange(40)], ready(cards).samples.x[torch.arange(40)])


def test_packing_skips_unreadable_images(cards: Path) -> None:
    bad = cards / "bright" / "3.jpg"
    bad.write_bytes(b"no image")
    for _ in range(2):
        data = ready(cards, cache="memmap", on_error="skip", error_limit=0.05)
        assert sum(len(batch[1]) for stage in STAGES for batch in data.loader(stage)) == 39
        assert any(note.startswith(f"skipped 1 of 40 images: {bad}: cannot") for note in data.notes)
    (bad.parent / "4.jpg").write_bytes(b"no image")
    bad_lines = lines(cards, cache="memmap")
    assert [line.partition(": ")[0] for line in bad_lines] == [str(bad), str(bad.parent / "4.jpg")]


def test_packing_without_disk_space(
    cards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1024))
    assert lines(cards, cache="memmap") == [
        f"{tmp_path / 'data' / 'cache'}: packing the images needs 0.0 GiB more, and 0.0 are free; "
        "make room, "
        "lower data.size, or set data.cache=none"
    ]


def test_paths_are_arrays(tmp_path: Path) -> None:
    names = ["a/1.png", "ü/ 2.png", "", "c" * 300]
    paths = Paths(tmp_path, names)
    assert [paths[i] for i in range(len(paths))] == names
    assert {type(value).__name__ for value in vars(paths).values()} == {"PosixPath", "ndarray"}


def test_balanced_sampler(tmp_path: Path) -> None:
    for i in range(60):
        write(tmp_path / "x" / "many" / f"{i}.png")
    for i in range(6):
        write(tmp_path / "x" / "few" / f"{i}.png", 200)
    data = ready(tmp_path / "x", sampler="balanced", split=(0.5, 0.25, 0.25), num_workers=0)
    assert "sampler: balanced, each class equally often in training" in data.notes
    drawn = torch.cat([batch[1] for _ in range(10) for batch in data.train_dataloader()])
    assert drawn.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.cat([batch[1] for batch in data.val_dataloader()]).float().mean() > 0.8


def test_gray_jpeg_reduced_scale() -> None:
    buffer = io.BytesIO()
    Image.new("L", (1024, 1024), 128).save(buffer, "JPEG")
    with Image.open(buffer) as image:
        image.draft("L", (128, 128))
        assert image.size == (128, 128)


def test_link_to_a_folder_above_is_not_followed(cards: Path) -> None:
    (cards / "bright" / "loop").symlink_to(".")
    (cards / "bright" / "top").symlink_to(cards)
    data = ready(cards)
    assert sum(map(len, data.indices.values())) == 40
    assert any(
        "2 files left out (2 link to a folder that is read already)" in note for note in data.notes
    )


def test_class_folder_of_a_format_that_is_not_read(cards: Path) -> None:
    for i in range(3):
        write(cards / "moving" / f"{i}.gif")
    assert lines(cards) == [
        f"class folders without images: {cards / 'moving'} (with .gif files, which are not read); "
        "convert them, or remove the folder"
    ]


@pytest.mark.parametrize("kind", ["transparency", "float"])
def test_images_that_are_read_as_black(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    for i in range(20):
        pixels = random.random((16, 16)).astype(np.float32)
        image = Image.fromarray(pixels)
        if kind == "transparency":
            image = Image.new("RGBA", (16, 16))
            image.putalpha(Image.fromarray((255 * pixels).astype(np.uint8)))
        folder = tmp_path / "cards" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{i}.{'png' if kind == 'transparency' else 'tif'}")
    assert "all images are black once read" in lines(tmp_path / "cards")[0]
