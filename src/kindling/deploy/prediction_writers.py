"""The files of `python -m src.predict`: the table, the masks beside it, and the gallery."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

SIDE = 128  # pixels of an image in the gallery


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`; at the end, the table and the masks in it get their names."""
    masks = mask_folder(out)
    try:
        with tempfile.TemporaryDirectory(prefix=".predict", dir=out.parent) as name:
            folder = Path(name)
            yield folder
            if (folder / masks.name).exists():
                masks.mkdir(exist_ok=True)
            for path in folder.glob(f"{masks.name}/*"):
                os.replace(path, masks / path.name)
            os.replace(folder / out.name, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from error


def mask_folder(out: Path) -> Path:
    """Where the masks of a table are."""
    return out.with_name(f"{out.stem}_masks")


class TableWriter:
    """Appends rows to a .csv, .jsonl or .parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parquet: Any = None

    def write(self, frame: pd.DataFrame) -> None:
        if self.path.suffix == ".csv":
            frame.to_csv(self.path, mode="a", header=not self.path.exists(), index=False)
        elif self.path.suffix == ".jsonl":
            options: Any = {"orient": "records", "lines": True, "double_precision": 15}
            frame.to_json(self.path, mode="a", force_ascii=False, **options)
        else:
            from pyarrow import Table
            from pyarrow.parquet import ParquetWriter

            schema = self.parquet and self.parquet.schema
            rows = Table.from_pandas(frame, schema=schema, preserve_index=False)
            self.parquet = self.parquet or ParquetWriter(self.path, rows.schema)
            self.parquet.write_table(rows)

    def close(self) -> None:
        if self.parquet is not None:
            self.parquet.close()


class MaskWriter:
    """Writes masks as PNG files of their images' size.

    Args:
        folder: of the files.
        resize_mode: how images became square; None where masks keep the size of the net's input.
    """

    def __init__(self, folder: Path, resize_mode: str | None) -> None:
        self.folder, self.resize_mode = folder, resize_mode
        self.names: set[str] = set()

    def write(self, paths: Sequence[str], masks: Any, errors: Sequence[str | None]) -> list[str]:
        """Write masks `(n, H, W)` uint8 of images without an error; the names, by the folder's."""
        from src.kindling.data.images.image_data import size_of
        from src.kindling.data.masks import indexed, unfit

        self.folder.mkdir(exist_ok=True)
        names = []
        for path, mask, error in zip(paths, masks, errors, strict=True):
            name, count = f"{Path(path).stem}.png", 1
            while name in self.names:
                count += 1
                name = f"{Path(path).stem}_{count}.png"
            self.names.add(name)
            names.append(f"{self.folder.name}/{name}")
            if error is None:
                image = indexed(mask)
                if self.resize_mode is not None:
                    image = unfit(image, size_of(path), self.resize_mode)
                image.save(self.folder / name)
        return names


def render_gallery(
    title: str, frame: pd.DataFrame, paths: Sequence[str], max_pixels: int, folder: Path
) -> str:
    """A self-contained HTML page: images as they are in their files, each with its prediction.

    Args:
        frame: the first rows of the table; masks are named relative to `folder`.
        paths: the images.
    """
    from jinja2 import Environment
    from PIL import Image

    from src.kindling.data.images.decode import decode
    from src.kindling.data.masks import over

    figures = []
    for path, row in zip(paths, frame.to_dict("records"), strict=False):
        if isinstance(row["error"], str):
            figures.append({"name": row["path"], "caption": row["error"]})
            continue
        image = decode(path, 3, max_pixels, SIDE)
        if any(key.startswith("share_") for key in row):
            image = over(image, Image.open(folder / row["prediction"]))
        caption = _format_caption(row)
        figures.append({"name": row["path"], "caption": caption, "image": _encode(image)})
    template = Path(__file__).with_name("gallery.html").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template)
    return page.render(title=title, side=SIDE, figures=figures)


def _encode(image: Image) -> str:
    """A thumbnail as base64 of a PNG."""
    file = io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _format_caption(row: dict[str, Any]) -> str:
    """The predicted columns; for a mask, how much of the image each class covers."""
    prefix = "share_"
    shares = {key.removeprefix(prefix): row[key] for key in row if key.startswith(prefix)}
    if shares:
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.0%}" for name, share in ranked if share)
    predictions = [row[key] for key in row if key.startswith("prediction")]
    texts = [f"{value:.4g}" if isinstance(value, float) else value for value in predictions]
    probability = f" {row['probability']:.0%}" if "probability" in row else ""
    return ", ".join(texts) + probability
