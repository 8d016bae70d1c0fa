"""The files of `python -m src.predict`: the table, the masks beside it, and the gallery."""

from __future__ import annotations

import base64
import html
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.errors import InputError
from src.kindling.runs.files import shown

if TYPE_CHECKING:
    import pandas as pd

    from src.kindling.data.spec import Spec
    from src.kindling.training.trained_run import TrainedRun

SIDE = 128  # pixels of a picture on the page


class MaskFiles:
    """Masks as PNG files of their images' size, in a folder that appears when all is written."""

    def __init__(self, out: Path, data: Any, spec: Spec) -> None:
        self.folder, self.beside = (
            out.with_name(f"{out.stem}_masks"),
            out.with_name(f".{out.stem}_masks.tmp"),
        )
        # Transforms cannot be undone: with them, a mask keeps the size of the net's input.
        self.fit = None if data.transforms["test"] else getattr(data, "resize_mode", "crop")
        self.written: set[str] = set()

    def __enter__(self) -> MaskFiles:
        return self

    def add(self, paths: Sequence[str], masks: Any, there: Sequence[bool]) -> list[str]:
        """Write masks `(n, H, W)` uint8, where there is one; their names relative to the table."""
        from src.kindling.data.images.image_data import size_of
        from src.kindling.data.masks import indexed, unfit

        self.beside.mkdir(exist_ok=True)
        names = []
        for path, mask, readable in zip(paths, masks, there, strict=True):
            stem, count = Path(path).stem, 1
            while (name := f"{stem}_{count}.png" if count > 1 else f"{stem}.png") in self.written:
                count += 1
            self.written.add(name)
            names.append(f"{self.folder.name}/{name}")
            if readable:
                picture = indexed(mask)
                (unfit(picture, size_of(path), self.fit) if self.fit else picture).save(
                    self.beside / name
                )
        return names

    def read(self, name: str) -> Any:
        """A mask that was added, as a picture."""
        from PIL import Image

        return Image.open(self.beside / Path(name).name)

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if self.beside.exists() and failed is None:
            self.folder.mkdir(exist_ok=True)
            for path in self.beside.iterdir():
                os.replace(path, self.folder / path.name)
        shutil.rmtree(self.beside, ignore_errors=True)


@contextmanager
def writer(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Gives a function that writes some rows; the file gets its name when all are written."""
    beside, parquet = path.with_name(f".{path.name}.tmp"), None

    def write_rows(frame: pd.DataFrame) -> None:
        nonlocal parquet
        if path.suffix == ".csv":
            frame.to_csv(file, index=False, header=file.tell() == 0)
        elif path.suffix == ".jsonl":
            frame.to_json(
                file, orient="records", lines=True, force_ascii=False, double_precision=15
            )
        else:
            from pyarrow import Table
            from pyarrow import parquet as arrow

            rows = Table.from_pandas(frame, schema=parquet and parquet.schema, preserve_index=False)
            parquet = parquet or arrow.ParquetWriter(beside, rows.schema)
            parquet.write_table(rows)

    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            yield write_rows
        if parquet:
            parquet.close()
        os.replace(beside, path)
    except (OSError, ImportError) as error:
        reason = getattr(
            error, "strerror", "Parquet needs pyarrow; install it: pip install -e '.[parquet]'"
        )
        raise InputError(
            f"{getattr(error, 'filename', None) or path}: cannot be written: {reason}"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def page(
    first: pd.DataFrame, paths: Sequence[str], run: TrainedRun, max_pixels: int, masks: MaskFiles
) -> str:
    """A self-contained HTML page: pictures as they are in their files, each with its prediction."""
    from src.kindling.data.images.decode import decode
    from src.kindling.data.masks import over

    figures = []
    for path, row in zip(paths, first.to_dict("records"), strict=False):
        name, caption, image = html.escape(row["path"]), row["error"], ""
        if not isinstance(caption, str):
            picture, file = decode(path, 3, max_pixels, SIDE), io.BytesIO()
            drawn = run.require_spec("a gallery").target_type == "mask"
            picture = over(picture, masks.read(row["prediction"])) if drawn else picture
            picture.thumbnail((SIDE, SIDE))
            picture.save(file, "PNG")
            content = base64.b64encode(file.getvalue()).decode()
            image = f'<img src="data:image/png;base64,{content}" alt="{name}">'
            if drawn:  # the caption says how much of the image each class covers
                there = sorted(
                    (key for key in row if key.startswith("share_") and row[key]),
                    key=lambda key: -row[key],
                )
                caption = ", ".join(f"{key.removeprefix('share_')} {row[key]:.0%}" for key in there)
            else:
                said = (row[key] for key in row if key.startswith("prediction"))
                caption = ", ".join(
                    f"{value:.4g}" if isinstance(value, float) else value for value in said
                )
            caption += f" {row['probability']:.0%}" if "probability" in row else ""
        figures.append(
            f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption>"
            f"<small>{name}</small></figure>\n"
        )
    title = html.escape(
        f"{(run.spec.target if run.spec else '') or 'Predictions'} ({shown(run.path)})"
    )
    style = f"""
        body {{ font-family: sans-serif; margin: 2em }}
        small {{ color: #666; overflow-wrap: anywhere }}
        main {{ display: grid; grid-template-columns: repeat(auto-fill, {SIDE}px); gap: 1.5em }}
        figure {{ margin: 0 }}
        img {{ width: {SIDE}px; height: {SIDE}px; object-fit: contain;
            image-rendering: pixelated; background: #eee }}"""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style>\n"
        f"<h1>{title}</h1><main>\n{''.join(figures)}</main></html>\n"
    )
