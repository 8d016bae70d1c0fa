"""The files of `python -m src.predict`: the table, the masks beside it, and the gallery."""

from __future__ import annotations

import base64
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment
from PIL import Image

from src.kindling.config.errors import InputError, escape_control, format_float
from src.kindling.data.images.decode import decode, size_of
from src.kindling.data.masks import indexed, over, unfit
from src.kindling.runs.csv_text import to_csv

PREVIEW, GALLERY = 10, 300  # predictions in the terminal and in a gallery
SIDE = 128  # pixels of an image in the gallery


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Make a folder beside `out`; at the end, the table and the masks in it get their names."""
    masks = out.with_name(f"{out.stem}_masks")
    try:
        with tempfile.TemporaryDirectory(prefix=".predict", dir=out.parent) as name:
            folder = Path(name)
            yield folder
            for path in folder.glob("*_masks/*.png"):
                masks.mkdir(exist_ok=True)
                os.replace(path, masks / path.name)
            os.replace(folder / out.name, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from error


class PredictionWriter:
    """Writes rows into a .csv, .jsonl or .parquet file, and masks as PNG files beside it.

    Args:
        out: the file.
        folder: where it is written first, with the masks.
        resize_mode: how images became square, which masks undo; None: they keep the net's size.
        exact: leave texts in CSV as they are, also those that a spreadsheet would run.
    """

    def __init__(
        self, out: Path, folder: Path, resize_mode: str | None, exact: bool = False
    ) -> None:
        self.out, self.path = out, folder / out.name
        self.resize_mode, self.exact = resize_mode, exact
        self.masks = self.path.with_name(f"{out.stem}_masks")
        self.mask_names: set[str] = set()
        self.parquet: Any = None
        self.first: Any = None  # the first rows
        self.notes: list[str] = []  # on the inputs
        self.rows = self.unreadable = 0  # the number of rows, and of those with an error

    def write(self, names: dict[str, Any], table: dict[str, Any]) -> None:
        """Write rows: their path or row, for images the errors, and columns of `to_frame`."""
        errors = names.pop("error", None)
        for key, values in table.items():
            if getattr(values, "ndim", 1) == 3:
                table[key] = self._write_masks(names["path"], values, errors)
            if isinstance(table[key][0], str):
                table[key] = pd.array(table[key], dtype="string")
        frame = pd.DataFrame(names | table)
        if errors is not None:
            frame["error"] = pd.array(errors, dtype="string")
            frame[list(table)] = frame[list(table)].mask(frame["error"].notna())
            frame["path"] = frame["path"].replace(str(self.path.with_name("stdin")), "-")
            self.unreadable += int(frame["error"].count())
        if self.rows < GALLERY:
            self.first = pd.concat([self.first, frame]).head(GALLERY)
        self.rows += len(frame)
        self._append(frame)

    def _append(self, frame: pd.DataFrame) -> None:
        if self.path.suffix == ".csv":
            text = to_csv(frame, self.exact, header=not self.path.exists())
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
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

    def format_preview(self, probabilities: bool) -> str:
        """Format the first rows as a table for the terminal."""
        columns = [
            name for name in self.first if probabilities or not name.startswith("probability_")
        ]
        preview = self.first.head(PREVIEW)[columns].astype(object).fillna("")
        lines = preview.to_string(index=False, float_format=format_float).split("\n")
        return "\n".join(map(escape_control, lines))

    def _write_masks(self, paths: Sequence[str], masks: Any, errors: Any) -> list[str]:
        """Write masks of images without an error; all names, relative to the table's folder."""
        self.masks.mkdir(exist_ok=True)
        names = []
        for path, mask, error in zip(paths, masks, errors, strict=True):
            name, count = f"{Path(path).stem}.png", 1
            while name in self.mask_names:
                count += 1
                name = f"{Path(path).stem}_{count}.png"
            self.mask_names.add(name)
            names.append(f"{self.masks.name}/{name}")
            if error is None:
                image = indexed(mask)
                if self.resize_mode is not None:
                    image = unfit(image, size_of(path), self.resize_mode)
                image.save(self.masks / name)
        return names


def render_gallery(
    title: str, frame: pd.DataFrame, paths: Sequence[str], max_pixels: int, folder: Path
) -> str:
    """Render a self-contained HTML page: the files' own images, each with its prediction."""
    figures = []
    for path, row in zip(paths, frame.to_dict("records"), strict=False):
        content, caption = "", row["error"]
        if not isinstance(caption, str):
            image, file, caption = decode(path, 3, max_pixels, SIDE), io.BytesIO(), _caption(row)
            if any(key.startswith("share_") for key in row):
                image = over(image, Image.open(folder / row["prediction"]))
            image.thumbnail((SIDE, SIDE))
            image.save(file, "PNG")
            content = base64.b64encode(file.getvalue()).decode()
        figures.append({"name": row["path"], "caption": caption, "image": content})
    template = Path(__file__).with_name("gallery.html").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template)
    return page.render(title=title, side=SIDE, figures=figures)


def _caption(row: dict[str, Any]) -> str:
    """The predicted columns; for a mask, how much of the image each class covers."""
    prefix = "share_"
    shares = {key.removeprefix(prefix): row[key] for key in row if key.startswith(prefix)}
    if shares:
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.0%}" for name, share in ranked if share)
    predictions = [row[key] for key in row if key.startswith("prediction")]
    texts = [format_float(value) if isinstance(value, float) else value for value in predictions]
    probability = f" ({row['probability']:.0%})" if "probability" in row else ""
    return ", ".join(texts) + probability
