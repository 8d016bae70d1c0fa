"""A task's predictions for a split: the columns of its `predict_step`, in memory or in a file.

predictions = predict(run.task, run.data(), "test")
predictions["probability"]                            # (N, classes), as predict_step names it
predictions.name(0), predictions.inputs([0, 1, 2])    # the samples behind the rows
run.task.outputs.plot(predictions)                    # its plots, by name
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from src.kindling.runs.checkpoint_file import check_size
from src.kindling.runs.files import display_path

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from torch import Tensor

    from src.kindling.data.samples import Samples, Stage

Array = np.ndarray[Any, Any]
MOST_COMPRESSED = 200  # times; masks of single discs come to 193


@dataclass(eq=False)
class Predictions:
    """Named columns of numbers with a row for each sample of a split.

    Attributes:
        columns: by name, each `(N, …)`; `index` `(N,)` holds the samples' numbers in the source,
            and `group` `(N,)`, where samples come in groups, the number of each one's group.
        spec: of the data; None for data from elsewhere.
        stage: the split.
        samples: the source, for `inputs` and `name`; None if only the columns are loaded.
        scored: the metric in the column `score` `(N,)`: `accuracy` (0 or 1), say; empty without
            that column.
    """

    columns: dict[str, Array]
    spec: Spec | None
    stage: Stage
    samples: Samples | None = None
    scored: str = ""

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns["index"])

    def take(self, rows: Any) -> Predictions:
        """Select rows, by number or by mask."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(self, columns=columns)

    def inputs(self, rows: Any) -> Tensor:
        """Read the raw inputs of some rows' samples, `(rows, *shape)`, from the source."""
        if self.samples is None:
            raise RuntimeError("these predictions were loaded without their data")
        import torch

        from src.kindling.data.samples import take

        return take(self.samples.x, torch.from_numpy(self["index"][rows]))

    def name(self, row: int) -> str:
        """Return the path of a row's sample, or its row in the table; else its number."""
        index = int(self["index"][row])
        return self.samples.name(index) if self.samples else str(index)

    def save(self, path: Path) -> None:
        """Write the columns, the spec and the stage as .npz; the file is complete or absent."""
        spec = asdict(self.spec) if self.spec else {}
        about = json.dumps({"stage": self.stage, "spec": spec, "scored": self.scored})
        arrays: dict[str, Any] = {"about.json": np.array(about), **self.columns}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        try:
            check_size(beside, MOST_COMPRESSED)
        except ValueError:  # masks that are nearly empty
            with beside.open("wb") as file:
                np.savez(file, **arrays)
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path, data: LightningDataModule | None = None) -> Predictions:
        """Read a file of `save`; `data` gives `inputs` and `name`; raise InputError if damaged."""
        try:
            check_size(path, MOST_COMPRESSED)
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                columns = {name: file[name] for name in ("index", *file.files)}
            text = columns.pop("about.json", np.array("{}")).astype("=U")
            about = json.loads(text.tobytes().decode("utf-32"))  # str() would take any code
            spec = Spec.from_plain(about["spec"]) if about.get("spec") else None
            stage, scored = str(about.get("stage", "test")), str(about.get("scored", ""))
            _check_columns(columns)
        except FileNotFoundError:
            raise InputError(f"{display_path(path)}: no such predictions") from None
        except Exception as error:  # numpy documents no list of errors for damaged archives
            raise InputError(f"{display_path(path)}: not readable: {error}; remove it") from None
        samples = getattr(data, "samples", None) if spec else None
        return cls(columns, spec, cast("Stage", stage), samples, scored)


def _check_columns(columns: dict[str, Array]) -> None:
    """Raise a ValueError unless all are numbers with a row for each of `index`."""
    index = np.atleast_1d(columns["index"])
    for name, values in columns.items():
        if values.dtype.kind not in "biufc" or values.shape[:1] != index.shape:
            raise ValueError(f"{name} is {values.dtype} {values.shape}, index {index.shape}")
