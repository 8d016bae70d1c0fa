"""Look at the data before training: a summary in words, and plots in a folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError, join_names

if TYPE_CHECKING:
    from src.kindling.data.data_module import DataModule


@dataclass(frozen=True)
class Look:
    """The lines of the summary, and the PNG files."""

    summary: list[str]
    plots: list[Path]


def look(config: Config, folder: Path) -> Look:
    """Summarize and plot a config's data.

    Args:
        config: after `src.kindling.config.instantiate.check`.
        folder: of the plots; those of an earlier look are replaced.

    Raises:
        InputError: when the data is no DataModule of Kindling.
    """
    from src.kindling.analysis.drawing import encode_png
    from src.kindling.analysis.look_plots import plot_columns, plot_images, plot_target
    from src.kindling.data.data_module import DataModule
    from src.kindling.training.build import build_data
    from src.kindling.training.warning_filters import quiet

    quiet()
    data = build_data(config)
    if not isinstance(data, DataModule):
        name = "the task's own data" if data is None else type(data).__name__
        raise InputError(
            f"data: {name} has no spec; src.look needs Kindling's DataModule: "
            "derive the class from src.kindling.data.DataModule"
        )
    figures = plot_columns(data) if data.spec.columns else {}
    if data.spec.kind == "image":
        figures = plot_images(data)
    figures["target"] = plot_target(data)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    plots = {folder / f"{name}.png": figure for name, figure in figures.items()}
    for path, figure in plots.items():
        path.write_bytes(encode_png(figure))
    return Look(summarize(data), list(plots))


def summarize(data: DataModule) -> list[str]:
    """Describe samples, classes, shapes, statistics and the data's notes, a line for each."""
    from torch import Tensor

    from src.kindling.analysis.outputs import outputs_for

    spec, y = data.spec, data.samples.y
    train = y[data.indices["train"]] if isinstance(y, Tensor) else None
    sizes = {stage: len(index) for stage, index in data.indices.items()}
    parts = ", ".join(f"{n:,} {stage}" for stage, n in sizes.items())
    shape = " x ".join(map(str, spec.raw_shape))
    encoded = f", encoded to {spec.in_shape[0]} values" if spec.raw_shape != spec.in_shape else ""
    rows = [
        ("samples", f"{sum(sizes.values()):,}: {parts}"),
        ("input", f"{spec.kind} {shape}{encoded}"),
        *outputs_for(spec).describe(spec, train),
    ]
    if spec.columns:
        from src.kindling.analysis.look_plots import count_missing

        kinds = Counter(column.kind for column in spec.columns)
        missing = [f"{name} ({n:,})" for name, n in count_missing(data).items() if n]
        rows.append(("columns", ", ".join(f"{count} {kind}" for kind, count in kinds.items())))
        rows.append(("missing", join_names(missing, 10) or "nothing"))
    else:
        means = ", ".join(f"{mean:.4g}" for mean in spec.mean)
        rows.append(("mean", f"{means} (raw, each channel, training split)"))
        rows.append(("std", ", ".join(f"{std:.4g}" for std in spec.std)))
    if not any(note.startswith("duplicates") for note in data.notes):
        ignored = data.duplicates == "ignore"
        rows.append(("duplicates", "not searched" if ignored else "none in different splits"))
    rows += [("note", note) for note in data.notes]
    return [f"{name:<12}{text}" for name, text in rows]
