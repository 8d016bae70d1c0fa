"""Look at the data as the net will see it, before training: a summary, and pictures in a folder.

python -m src.look [CONFIG] [key=value ...]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.kindling.config.compose import Config

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor

    from src.kindling.data.data_module import DataModule

# How much one picture shows, and from how many rows a distribution is drawn: more could not be told apart.
PICTURES = 16
COLUMNS = 24
SAMPLED = 20_000


@dataclass(frozen=True)
class Look:
    """What a look at the data gives.

    Attributes:
        summary: the lines of the summary.
        pictures: the PNG files.
    """

    summary: list[str]
    pictures: list[Path]


def look(config: Config, folder: Path) -> Look:
    """Summarize a config's data and draw it.

    Args:
        config: a config that `src.kindling.config.instantiate.check` has accepted.
        folder: where the pictures go; those of an earlier look are replaced.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from src.kindling.training.build import build_data
    from src.kindling.training.warning_filters import quiet

    quiet()
    data = build_data(config)
    figures = image_figures(data) if data.spec.kind == "image" else table_figures(data)
    figures |= {"target": target_figure(data)}
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    pictures = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        pyplot.close(figure)
        pictures.append(path)
    return Look(summary(data), pictures)


def summary(data: DataModule) -> list[str]:
    """The data in words: samples, classes, shape, statistics, and what was noticed."""

    spec, samples = data.spec, data.samples
    counts = {stage: len(index) for stage, index in data.indices.items()}
    lines = [f"samples     {sum(counts.values()):,}: " + ", ".join(f"{n:,} {stage}" for stage, n in counts.items())]
    lines.append(f"input       {spec.kind} {' x '.join(map(str, spec.raw_shape))}"
                 + (f", encoded to {spec.in_shape[0]} values" if spec.raw_shape != spec.in_shape else ""))  # fmt: skip
    if spec.predicts == "mask":
        shares = [f"{name} {count / max(sum(spec.class_counts), 1):.1%}"
                  for name, count in zip(spec.classes, spec.class_counts, strict=True)]  # fmt: skip
        lines.append(f"masks       {len(spec.classes)} classes, of the training pixels: {_some(shares)}")
    elif spec.predicts == "labels":
        shares = [f"{name} {share:.1%}" for name, share in zip(spec.classes, spec.target_mean, strict=True)]
        lines.append(f"labels      {len(spec.classes)}, in training: {_some(shares)}")
    elif spec.classes:
        by_class = dict(zip(spec.classes, spec.class_counts, strict=True))
        most, least = max(by_class, key=by_class.__getitem__), min(by_class, key=by_class.__getitem__)
        lines.append(f"classes     {len(spec.classes)}: {_some(list(spec.classes))}")
        lines.append(f"balance     {most} {by_class[most]:,} to {least} {by_class[least]:,} in training "
                     f"(ratio {by_class[most] / max(by_class[least], 1):.2f})")  # fmt: skip
    else:
        for name, y in zip(spec.names, samples.y[data.indices["train"]].T, strict=True):
            lines.append(f"target      {name}: mean {_number(y.mean())}, std {_number(y.std())}, "
                         f"{_number(y.min())} to {_number(y.max())}")  # fmt: skip
    if spec.kind == "image":
        lines.append(f"mean        {', '.join(map(_number, spec.mean))} (raw, each channel, training split)")
        lines.append(f"std         {', '.join(map(_number, spec.std))}")
    else:
        missing = missing_values(data)
        lacking = [f"{column.name} ({int(n):,})" for column, n in zip(spec.columns, missing, strict=True) if n]
        kinds = [column.kind for column in spec.columns]
        lines.append("columns     " + ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)))
        lines.append(f"missing     {_some(lacking) if lacking else 'nothing'}")
    if not any(note.startswith("duplicates") for note in data.notes):
        lines.append("duplicates  " + ("not searched" if data.duplicates == "ignore" else "none in different splits"))
    return lines + [f"note        {note}" for note in data.notes]


# ---------------------------------------------------------------------------------------------------------------
# Images


def image_figures(data: DataModule) -> dict[str, Figure]:
    """Training pictures as they are and as the net gets them, and test pictures as the test sees them."""
    import torch

    from src.kindling.analysis.figures import grid
    from src.kindling.analysis.figures_of_masks import under
    from src.kindling.data.batch import BatchDataset
    from src.kindling.data.preprocess import Standardize, preprocess

    train, test = data.indices["train"], data.indices["test"]
    chosen = train[torch.linspace(0, len(train) - 1, min(PICTURES, len(train))).long()]
    plain = BatchDataset(data.samples, None, None)[(0, 0, chosen)]
    augmented = data.datasets["train"][(0, 0, chosen)]
    scale = preprocess(data.spec)
    assert isinstance(scale, Standardize)
    x, y = scale(augmented.x), augmented.y
    if data.augment and data.spec.predicts == "class":
        y = torch.nn.functional.one_hot(y, data.spec.num_outputs).to(x.dtype)
    torch.manual_seed(data.seed)
    for transform in data.augment:
        x, y = transform(x, y.float() if data.spec.predicts == "labels" else y)
    as_net_sees = scale.inverse(x)

    highest = 255.0 if float(plain.x.max()) > 16 else float(plain.x.max())
    pairs = torch.stack([plain.x.float(), as_net_sees.clamp(0, highest)], dim=1).flatten(0, 1)
    lines = [line for target in plain.y for line in ([_label(data, target)], ["in training"])]
    title = "Training pictures, and each as the net gets it in the first epoch"
    if data.spec.predicts == "mask":
        masks = torch.stack([plain.y, y], dim=1).flatten(0, 1)
        found = {"train": under(pairs, masks.numpy(), lines, title, data.spec.classes)}
    else:
        found = {"train": grid(pairs, lines, title)}
    if len(test):
        chosen = test[torch.linspace(0, len(test) - 1, min(2 * PICTURES, len(test))).long()]
        shown = data.datasets["test"][(0, 0, chosen)]
        lines, title = [[_label(data, target)] for target in shown.y], "Test pictures, as the test sees them"
        found["test"] = grid(shown.x, lines, title) if data.spec.predicts != "mask" else under(
            shown.x, shown.y.numpy(), lines, title, data.spec.classes)  # fmt: skip
    return found


def _label(data: DataModule, target: Tensor) -> str:
    names, kind = data.spec.classes, data.spec.predicts
    if kind == "mask":
        return ""
    if kind == "labels":
        return ";".join(name for name, there in zip(names, target.tolist(), strict=True) if there)
    return names[int(target)] if kind == "class" else ", ".join(map(_number, target))


# ---------------------------------------------------------------------------------------------------------------
# Tables


def table_figures(data: DataModule) -> dict[str, Figure]:
    """The distribution of each column, what is missing, and the columns that go together."""
    from matplotlib import pyplot

    spec = data.spec
    rows = _rows(data, "train")
    found: dict[str, Figure] = {}
    for start in range(0, len(spec.columns), COLUMNS):
        page = range(start, min(start + COLUMNS, len(spec.columns)))
        found[f"columns_{start // COLUMNS + 1}" if start else "columns"] = _columns_figure(data, rows, page)

    missing = missing_values(data).float() / len(data.indices["train"])
    if bool(missing.any()):
        lacking = missing.argsort(descending=True)[: int((missing > 0).sum())].tolist()
        figure, axis = pyplot.subplots(figsize=(8, 1 + 0.3 * len(lacking)))
        axis.barh([spec.columns[i].name[:40] for i in lacking][::-1], (100 * missing[lacking]).numpy()[::-1])
        axis.set_xlabel("missing in training (%)")
        found["missing"] = figure

    pairs = correlations(data)
    if pairs:
        figure, axis = pyplot.subplots(figsize=(8, 1 + 0.3 * len(pairs)))
        strength = [value for _, _, value in pairs][::-1]
        axis.barh([f"{one[:24]} / {other[:24]}" for one, other, _ in pairs][::-1], strength,
                  color=["tab:blue" if value > 0 else "tab:red" for value in strength])  # fmt: skip
        axis.set_xlim(-1, 1)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title("Most correlated columns in training (Pearson)")
        found["correlations"] = figure
    return found


def _columns_figure(data: DataModule, rows: Tensor, page: range) -> Figure:
    import torch
    from matplotlib import pyplot

    height = -(-len(page) // 4)
    figure, axes = pyplot.subplots(height, 4, figsize=(13, 2.5 * height), squeeze=False)
    for axis in axes.flat[len(page) :]:
        axis.axis("off")
    for axis, i in zip(axes.flat, page, strict=False):
        column, values = data.spec.columns[i], rows[:, i]
        values = values[~values.isnan()]
        if column.kind == "category":
            counts = torch.bincount(values.long(), minlength=len(column.levels))
            order = counts.argsort(descending=True)[:10].tolist()
            axis.barh([column.levels[j][:18] for j in order][::-1], counts[order].numpy()[::-1], color="tab:blue")
        else:
            axis.hist(values.numpy(), bins=2 if column.kind == "boolean" else 30, color="tab:blue")
        axis.set_title(column.name[:40], fontsize=9)
        axis.tick_params(labelsize=7)
    which = (
        "" if len(page) == len(data.spec.columns) else f" ({page[0] + 1} to {page[-1] + 1} of {len(data.spec.columns)})"
    )
    figure.suptitle(f"Columns in training{which}")
    figure.tight_layout()
    return figure


def missing_values(data: DataModule) -> Tensor:
    """How many training rows lack each column, `(columns,)`; counted over all rows, a part at a time."""
    import torch

    index, counts = data.indices["train"], torch.zeros(len(data.spec.columns), dtype=torch.int64)
    categories = torch.tensor([column.kind == "category" for column in data.spec.columns])
    for start in range(0, len(index), SAMPLED):
        rows = data.samples.x[index[start : start + SAMPLED]]
        counts += (rows.isnan() | ((rows < 0) & categories)).sum(0)
    return counts


def correlations(data: DataModule, most: int = 15) -> list[tuple[str, str, float]]:
    """The strongest Pearson correlations between numeric columns, and with a numeric target, in training."""
    import numpy as np

    rows = _rows(data, "train")
    numeric = [i for i, column in enumerate(data.spec.columns) if column.kind != "category"]
    names = [data.spec.columns[i].name for i in numeric]
    values = rows[:, numeric].double().numpy()
    if not data.spec.classes:
        values = np.concatenate([values, data.samples.y[_sampled(data, "train")].double().numpy()], axis=1)
        names += data.spec.names
    means = np.nanmean(values, axis=0)
    values = np.where(np.isnan(values), means, values) - means
    spread = np.sqrt((values**2).sum(axis=0))
    spread[spread == 0] = np.inf
    matrix: np.ndarray[Any, Any] = (values / spread).T @ (values / spread)
    upper = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    upper.sort(key=lambda pair: -abs(matrix[pair]))
    return [(names[i], names[j], float(matrix[i, j])) for i, j in upper[:most]]


def target_figure(data: DataModule) -> Figure:
    """How the classes, or the target's values, are spread over the splits."""
    import numpy as np
    import torch
    from matplotlib import pyplot

    from src.kindling.data.data_module import COUNTED_MASKS

    spec, y = data.spec, data.samples.y
    if spec.classes:
        shown = np.argsort(spec.class_counts)[::-1][:40]
        what = "pixels" if spec.predicts == "mask" else "samples"
        figure, axis = pyplot.subplots(figsize=(8, 1.5 + 0.25 * len(shown)))
        left = np.zeros(len(shown))
        for stage, index in data.indices.items():
            some = y[index[torch.linspace(0, len(index) - 1, min(len(index), COUNTED_MASKS)).long()]] \
                if what == "pixels" and len(index) else y[index]  # fmt: skip
            found = some.sum(dim=0) if spec.predicts == "labels" else torch.bincount(some.flatten(), minlength=256)
            counts = found.numpy()[shown]
            axis.barh(range(len(shown)), counts, left=left, label=stage)
            left += counts
        axis.set_yticks(range(len(shown)), [spec.classes[i][:30] for i in shown])
        axis.invert_yaxis()
        axis.set_xlabel(what)
        axis.set_title(
            "Classes" if len(shown) == len(spec.classes) else f"The 40 largest of {len(spec.classes)} classes"
        )
    else:
        figure, axes = pyplot.subplots(spec.num_outputs, figsize=(8, 1 + 3 * spec.num_outputs), squeeze=False)
        values = y[torch.arange(len(y))].numpy()
        for place, (axis, name) in enumerate(zip(axes[:, 0], spec.names, strict=True)):
            bins: list[float] = np.histogram_bin_edges(values[:, place], bins=30).tolist()
            for stage, index in data.indices.items():
                if len(index):
                    axis.hist(values[index, place], bins=bins, density=True, histtype="step", linewidth=2, label=stage)
            axis.set_xlabel(name)
            axis.set_ylabel("density")
        figure.tight_layout()
        axis = axes[0, 0]
        axis.set_title("Target")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _rows(data: DataModule, stage: Any) -> Tensor:
    """Raw rows of a split, `(N, columns)`; missing categories are NaN too."""
    import torch

    rows = data.samples.x[_sampled(data, stage)].clone()
    for i, column in enumerate(data.spec.columns):
        if column.kind == "category":
            rows[:, i] = torch.where(rows[:, i] < 0, torch.nan, rows[:, i])
    return rows


def _sampled(data: DataModule, stage: Any) -> Tensor:
    import torch

    index = data.indices[stage]
    return index[torch.linspace(0, len(index) - 1, min(SAMPLED, len(index))).long()]


def _number(value: Any) -> str:
    return f"{float(value):.4g}"


def _some(names: list[str]) -> str:
    from src.kindling.config.errors import counted

    return counted(names, most=10)
