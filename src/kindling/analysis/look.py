"""Look at the data before training: a summary in words, and plots in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from src.kindling.analysis.look_images import plot_images
    from src.kindling.analysis.look_tables import plot_columns, plot_target
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
    figures = plot_images(data) if data.spec.kind == "image" else plot_columns(data)
    figures["target"] = plot_target(data)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    plots = []
    for name, figure in figures.items():
        plots.append(folder / f"{name}.png")
        plots[-1].write_bytes(encode_png(figure)[0])
    return Look(summarize(data), plots)


def summarize(data: DataModule) -> list[str]:
    """Describe samples, classes, shapes, statistics and the data's notes, a line for each."""
    spec = data.spec
    sizes = {stage: len(index) for stage, index in data.indices.items()}
    parts = ", ".join(f"{n:,} {stage}" for stage, n in sizes.items())
    shape = " x ".join(map(str, spec.raw_shape))
    encoded = f", encoded to {spec.in_shape[0]} values" if spec.raw_shape != spec.in_shape else ""
    lines = [
        f"samples     {sum(sizes.values()):,}: {parts}",
        f"input       {spec.kind} {shape}{encoded}",
        *_summarize_target(data),
    ]
    if spec.kind == "image":
        means = ", ".join(map(_format_number, spec.mean))
        lines.append(f"mean        {means} (raw, each channel, training split)")
        lines.append(f"std         {', '.join(map(_format_number, spec.std))}")
    else:
        lines += _summarize_columns(data)
    if not any(note.startswith("duplicates") for note in data.notes):
        ignored = data.duplicates == "ignore"
        lines.append(f"duplicates  {'not searched' if ignored else 'none in different splits'}")
    return lines + [f"note        {note}" for note in data.notes]


def _summarize_target(data: DataModule) -> list[str]:
    spec, names = data.spec, data.spec.classes
    if spec.target_type == "mask":
        pixels = max(sum(spec.class_counts), 1)
        shares = [f"{c} {n / pixels:.1%}" for c, n in zip(names, spec.class_counts, strict=True)]
        return [
            f"masks       {len(names)} classes, of the training pixels: {join_names(shares, 10)}"
        ]
    if spec.target_type == "labels":
        shares = [f"{c} {share:.1%}" for c, share in zip(names, spec.target_mean, strict=True)]
        return [f"labels      {len(names)}, in training: {join_names(shares, 10)}"]
    if names:
        counts = dict(zip(names, spec.class_counts, strict=True))
        most, least = (find(counts, key=counts.__getitem__) for find in (max, min))
        ratio = counts[most] / max(counts[least], 1)
        ends = f"{most} {counts[most]:,} to {least} {counts[least]:,}"
        return [
            f"classes     {len(names)}: {join_names(names, 10)}",
            f"balance     {ends} in training (ratio {ratio:.2f})",
        ]
    lines = []
    for name, y in zip(spec.names, data.samples.y[data.indices["train"]].T, strict=True):
        mean, std, low, high = map(_format_number, (y.mean(), y.std(), y.min(), y.max()))
        lines.append(f"target      {name}: mean {mean}, std {std}, {low} to {high}")
    return lines


def _summarize_columns(data: DataModule) -> list[str]:
    from src.kindling.analysis.look_tables import count_missing

    kinds = [column.kind for column in data.spec.columns]
    missing = [f"{name} ({n:,})" for name, n in count_missing(data).items() if n]
    return [
        "columns     " + ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
        f"missing     {join_names(missing, 10) or 'nothing'}",
    ]


def _format_number(value: Any) -> str:
    return f"{float(value):.4g}"
