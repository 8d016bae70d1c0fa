"""Plots: their numbers are right, they change with their data, and odd data are drawn too."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sk
from torch import nn

from src.kindling.analysis import class_plots, drawing
from src.kindling.analysis.outputs import Values, values
from src.kindling.analysis.predictions import Predictions
from src.kindling.config.errors import format_float
from src.kindling.data.samples import Samples
from src.kindling.data.spec import Column, Spec
from src.tasks.classification import Classification
from src.tasks.regression import Regression

Array = np.ndarray[Any, Any]
COLUMNS = (
    Column("age"),
    Column("colour", "category", categories=("red", "$x^")),
    Column("flag", "boolean"),
)
ROWS = torch.tensor([[1.5, 1, 1], [float("nan"), -1, 0]])


def render(figure: Figure) -> Array:
    """The pixels of a figure's PNG file, `(H, W, 3)`."""
    return np.asarray(Image.open(io.BytesIO(drawing.encode_png(figure))).convert("RGB"))


def texts(figure: Figure) -> list[str]:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]  # type: ignore[attr-defined]


def captions(figure: Figure) -> list[tuple[str, str, str]]:
    """The name, the caption and its color of each image."""
    (axis,) = figure.axes
    below, above = axis.texts[::2], axis.texts[1::2]
    return [
        (name.get_text(), text.get_text(), str(text.get_color()))
        for name, text in zip(above, below, strict=True)
    ]


def plot_values(truth: Array, predicted: Array, names: list[str]) -> Figure:
    columns = {"target": truth, "prediction": predicted}
    return Values(names).plot_examples(Predictions(columns, None, "test"))


def classified(
    names: tuple[str, ...],
    count: int,
    x: torch.Tensor | None = None,
    columns: tuple[Column, ...] = (),
    only: int | None = None,
) -> tuple[Classification, Predictions]:
    """A task, and predictions of random samples that are often right."""
    random = np.random.default_rng(0)
    target = random.integers(0, len(names), count) if only is None else np.full(count, only)
    logits = random.normal(size=(count, len(names)))
    logits[np.arange(count), target] += 2
    probability = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    x = torch.arange(2 * 16, dtype=torch.float32).reshape(2, 1, 4, 4) if x is None else x
    spec = Spec(
        in_shape=tuple(x.shape[1:]),
        num_outputs=len(names),
        kind="table" if columns else "image",
        classes=names,
        class_counts=(1,) * len(names),
        columns=columns,
    )
    samples = Samples(x, torch.zeros(len(x)), names, name=lambda i: f"picture_{i}.png")
    found = {
        "index": np.arange(count) % len(x),
        "target": target,
        "prediction": probability.argmax(1),
        "probability": probability,
        "score": (probability.argmax(1) == target).astype(np.float32),
    }
    return Classification(nn.Flatten(), spec), Predictions(found, spec, "test", samples)


def estimated(
    truth: Array, predicted: Array, target: str = "price"
) -> tuple[Regression, Predictions]:
    outputs = truth.shape[1]
    spec = Spec(
        in_shape=(4,),
        num_outputs=outputs,
        kind="table",
        columns=COLUMNS,
        target=target,
        target_mean=(0.0,) * outputs,
        target_std=(1.0,) * outputs,
    )
    found = {
        "index": np.arange(len(truth)) % 2,
        "target": truth.astype(np.float32),
        "prediction": predicted.astype(np.float32),
    }
    return Regression(nn.Flatten(), spec), Predictions(
        found, spec, "test", Samples(ROWS, torch.zeros(2, outputs))
    )


# ------------------------------------------------------------------------------------------
# Classification


def test_plot_names_of_tasks() -> None:
    task, predictions = classified(("a", "b", "c"), 50)
    assert list(task.outputs.plot(predictions)) == [
        "confusion",
        "classes",
        "roc_and_pr",
        "calibration",
        "mistakes",
        "uncertain",
        "examples",
    ]
    regression, values = estimated(np.ones((5, 1)), np.ones((5, 1)))
    assert list(regression.outputs.plot(values)) == ["errors", "worst"]


def test_confusion_counts() -> None:
    counts = np.array([[2, 1, 0], [0, 2, 0], [1, 0, 0]])
    figure = class_plots.plot_confusion(counts, ["cat", "dog", "owl"])
    found = {
        tuple(map(int, text.get_position())): text.get_text()
        for text in figure.axes[0].texts
        if text.get_text()
    }  # (predicted, true)
    assert found == {(0, 0): "2\n67%", (1, 0): "1\n33%", (1, 1): "2\n100%", (0, 2): "1\n100%"}
    assert figure.axes[0].get_title() == "Confusion: 66.7% of 6 correct"
    shades = np.asarray(figure.axes[0].images[0].get_array())
    assert shades == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]]))


def test_many_classes_are_listed_by_their_confusions() -> None:
    target = np.concatenate([np.arange(40), np.full(5, 7), np.full(2, 9)])
    predicted = np.concatenate([np.arange(40), np.full(5, 3), np.full(2, 8)])
    counts = sk.confusion_matrix(target, predicted)
    (text,) = class_plots.plot_confusion(counts, [f"class {i}" for i in range(40)]).axes[0].texts
    assert [line.split() for line in text.get_text().splitlines()] == [
        ["samples", "share", "true", "→", "predicted"],
        ["5", "83%", "class", "7", "→", "class", "3"],
        ["2", "67%", "class", "9", "→", "class", "8"],
    ]


def test_class_scores_match_scikit_learn() -> None:
    _, predictions = classified(("cat", "dog", "owl"), 90)
    target, predicted = predictions["target"], predictions["prediction"]
    figure = class_plots.plot_class_scores(target, predicted, ["cat", "dog", "owl"])
    (axis,) = figure.axes
    expected = sk.precision_recall_fscore_support(target, predicted)
    for bars, name, scores in zip(
        axis.containers, ("precision", "recall", "F1"), expected[:3], strict=True
    ):
        assert bars.get_label() == name
        assert [bar.get_width() for bar in bars] == pytest.approx(scores.tolist())
    written = [f"{score:.3f}" for scores in expected[:3] for score in scores]
    assert [text.get_text() for text in axis.texts] == written
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        f"{name} ({count})" for name, count in zip(("cat", "dog", "owl"), expected[3], strict=True)
    ]
    assert figure.get_label().splitlines()[0].split() == ["samples", "precision", "recall", "F1"]


def test_class_plot_shows_worst_classes() -> None:
    names = [f"class {i}" for i in range(30)]
    target = np.repeat(np.arange(29), 2)  # the last class has no sample
    predicted = np.where(np.isin(target, (4, 17)), 0, target)
    (axis,) = class_plots.plot_class_scores(target, predicted, names).axes
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert len(shown) == 20
    assert shown[:3] == ["class 4 (2)", "class 17 (2)", "class 0 (2)"]
    assert "class 29 (0)" not in shown


def test_areas_and_average_precisions_are_scikit_learns() -> None:
    _, predictions = classified(("cat", "_dog", "owl"), 90)
    target, probability = predictions["target"], predictions["probability"]
    roc, pr = class_plots.plot_roc_and_pr(target, probability, ["cat", "_dog", "owl"]).axes
    for axis, score in ((roc, sk.roc_auc_score), (pr, sk.average_precision_score)):
        legend = axis.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [
            f"{score(target == i, probability[:, i]):.3f}  {name}"
            for i, name in enumerate(("cat", "_dog", "owl"))
        ]


def test_roc_of_two_classes() -> None:
    _, predictions = classified(("no", "yes"), 60)
    target, probability = predictions["target"], predictions["probability"]
    roc = class_plots.plot_roc_and_pr(target, probability, ["no", "yes"]).axes[0]
    assert [text.get_text() for text in roc.get_legend().get_texts()] == [  # type: ignore[union-attr]
        f"{sk.roc_auc_score(target, probability[:, 1]):.3f}  yes"
    ]


def test_curves_of_million_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_plots, "RANKED", 500)
    monkeypatch.setattr(values, "DOTS", 100)
    _, predictions = classified(("no", "yes"), 2000)
    target, probability = predictions["target"], predictions["probability"]
    roc = class_plots.plot_roc_and_pr(target, probability, ["no", "yes"]).axes[0]
    assert roc.get_title() == "ROC (500 of 2,000 samples)"
    shown = float(roc.get_legend().get_texts()[0].get_text().split()[0])  # type: ignore[union-attr]
    assert shown == pytest.approx(sk.roc_auc_score(target, probability[:, 1]), abs=0.05)
    axes = plot_values(np.ones((2000, 1)), np.ones((2000, 1)), ["price"]).axes
    assert [len(axis.collections[0].get_offsets()) for axis in axes[:2]] == [100, 100]  # type: ignore[arg-type]


def test_calibration_error_by_hand() -> None:
    # Three predict 0.96 in the mean, two of them right; one predicts 0.45 and is right.
    confidence, correct = (
        np.array([0.91, 0.99, 0.99, 0.45], np.float32),
        np.array([True, True, False, True]),
    )
    axis, below = class_plots.plot_calibration(confidence, correct, "probability", bins=10).axes
    expected = 3 / 4 * ((0.91 + 0.99 + 0.99) / 3 - 2 / 3) + 1 / 4 * 0.55
    assert axis.get_title() == f"Calibration: ECE {expected:.3f}"
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([1, 2 / 3])  # type: ignore[attr-defined]
    assert [bar.get_height() for bar in below.patches] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 3]  # type: ignore[attr-defined]


def test_calibration_error_of_task() -> None:
    task, predictions = classified(("cat", "dog", "owl"), 200)
    confidence, right = (
        predictions["probability"].max(1),
        predictions["prediction"] == predictions["target"],
    )
    gaps = 0.0
    for low in range(15):
        rows = [i for i in range(200) if low / 15 < confidence[i] <= (low + 1) / 15]
        if rows:
            gaps += abs(sum(right[rows]) - sum(confidence[rows])) / 200
    title = task.outputs.plot(predictions)["calibration"].axes[0].get_title()
    assert title == f"Calibration: ECE {gaps:.3f}"


def test_calibration_interval_of_small_bin() -> None:
    confidence = np.concatenate([np.full(10, 0.75), np.full(1000, 0.85)])
    correct = np.concatenate([np.arange(10) < 8, np.arange(1000) < 800])
    axis, _ = class_plots.plot_calibration(confidence, correct, "probability", bins=10).axes
    (lines,) = (part for part in axis.collections if hasattr(part, "get_segments"))
    ends = [segment[:, 1].tolist() for segment in lines.get_segments()]
    # Wilson's intervals of 8 in 10 and of 800 in 1,000, as in Agresti and Coull's paper.
    assert ends == [
        pytest.approx([0.490, 0.943], abs=0.001),
        pytest.approx([0.774, 0.824], abs=0.001),
    ]


def test_mistakes_come_with_the_surest_first_and_their_names() -> None:
    task, predictions = classified(("cat", "dog"), 4)
    predictions.columns["target"] = np.array([0, 0, 1, 1])
    predictions.columns["probability"] = np.array(
        [[0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]], np.float32
    )
    predictions.columns["prediction"] = np.array([1, 1, 1, 0])
    made = task.outputs.plot(predictions)
    assert captions(made["mistakes"]) == [
        ("picture_1.png", "true cat\npredicted 90% dog", "tab:red"),
        ("picture_1.png", "true dog\npredicted 70% cat", "tab:red"),
        ("picture_0.png", "true cat\npredicted 60% dog", "tab:red"),
    ]
    assert "Most confident of 3 mistakes" in texts(made["mistakes"])
    assert [text for _, text, _ in captions(made["uncertain"])] == [
        "true cat\npredicted 60% dog",
        "true dog\npredicted 70% cat",
        "true dog\npredicted 80% dog",
        "true cat\npredicted 90% dog",
    ]
    assert captions(made["examples"])[2][1:] == ("true dog\npredicted 80% dog", "tab:green")
    before = predictions.take(slice(None))
    before.columns["probability"] = 1 - predictions["probability"]
    said = [text for _, text, _ in captions(task.outputs.plot_examples(predictions, before))]
    assert [text.splitlines()[1] for text in said] == [
        "untrained 60% dog",
        "untrained 90% dog",
        "untrained 80% dog",
        "untrained 70% cat",
    ]


def test_long_path_caption() -> None:
    task, predictions = classified(("cat", "dog"), 2)
    path = f"animals/{'long/' * 12}holiday_in_the_mountains_0001.png"
    predictions.samples = dataclasses.replace(
        predictions.samples, name=lambda i: path if i else "top.png"
    )
    predictions.columns["target"] = 1 - predictions["prediction"]
    mistakes = task.outputs.plot(predictions)["mistakes"]
    assert sorted(title for title, _, _ in captions(mistakes)) == [
        "animals/long…/long/long/\nholiday_in_t…ns_0001.png",
        "top.png",
    ]
    said = mistakes.get_label().splitlines()  # type: ignore[attr-defined]
    assert said[0].split() == ["true", "predicted"]
    assert sorted(line.split()[0] for line in said[1:]) == sorted([path, "top.png"])
    assert mistakes.get_gid() == drawing.PHOTOS


def test_before_and_after_counts_right_predictions() -> None:
    task, predictions = classified(("cat", "dog"), 4)
    predictions.columns["prediction"] = predictions["target"].copy()
    before = predictions.take(slice(None))
    before.columns["score"] = np.array([1.0, 0, 0, 0])
    predictions.columns["score"] = np.ones(4)
    assert "Before and after training: accuracy 0.25 and 1.00" in texts(
        task.outputs.plot_examples(predictions, before)
    )
    assert "Examples" in texts(task.outputs.plot_examples(predictions))


def test_table_cells_are_formatted_and_shortened() -> None:
    table = pd.DataFrame(
        {"": ["a", "bb"], "n": [1, 1200], "kind": ["x\ny", ""], "left": [np.nan, 2.34567]}
    )
    assert [line.split() for line in drawing.format_table(table).splitlines()] == [
        ["n", "kind", "left"],
        ["a", "1", "x", "y", "missing"],
        ["bb", "1,200", "2.346"],
    ]
    figure = drawing.draw_table(pd.DataFrame({"layer": ["n" * 60]}), "The net")
    assert figure.get_gid() == drawing.TEXT
    assert [line.strip() for line in figure.get_label().splitlines()] == [  # type: ignore[attr-defined]
        *("The net", "", "layer", "n" * 60)
    ]
    assert f"{'n' * 12}…{'n' * 11}" in texts(figure)[0]


def test_plot_of_examples_prints_rows_of_a_table_with_their_columns() -> None:
    task, predictions = classified(("a$b$", "b"), 2, x=ROWS, columns=COLUMNS)
    predictions.columns["target"] = np.array([0, 1])
    predictions.columns["prediction"] = np.array([1, 1])
    wrong = [["✗"], []]
    title, _, *lines = texts(task.outputs.plot_examples(predictions))[0].splitlines()
    assert title == "Examples"
    share = [
        f"{p:.0%} {('a$b$', 'b')[i]}".replace("$", r"\$")
        for p, i in zip(predictions["probability"].max(1), predictions["prediction"], strict=True)
    ]
    assert [line.split() for line in lines] == [
        ["true", "predicted", "wrong", "age", "colour", "flag"],
        ["picture_0.png", r"a\$b\$", *share[0].split(), *wrong[0], "1.5", r"\$x^", "1"],
        ["picture_1.png", "b", *share[1].split(), *wrong[1], "missing", "missing", "0"],
    ]
    assert sorted(wrong) == [[], ["✗"]]


# ------------------------------------------------------------------------------------------
# Regression


def test_errors_are_scikit_learns_for_each_output() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(80, 2))
    predicted = truth + random.normal(size=(80, 2)) / 3
    task, predictions = estimated(truth, predicted)
    made = task.outputs.plot(predictions)
    axes = made["errors"].axes
    assert len(axes) == 6
    for output in range(2):
        true, said = predictions["target"][:, output], predictions["prediction"][:, output]
        against, error, spread = axes[3 * output : 3 * output + 3]
        assert (
            against.get_title()
            == f"MAE {sk.mean_absolute_error(true, said):.4g}, R² {sk.r2_score(true, said):.3f}"
        )
        assert against.get_xlabel() == f"true price {output + 1}"
        dots = np.asarray(against.collections[0].get_offsets())
        assert np.array(sorted(dots.tolist())) == pytest.approx(
            np.array(sorted(zip(true, said, strict=True)))
        )
        assert np.asarray(error.collections[0].get_offsets())[:, 1] == pytest.approx(
            dots[:, 1] - dots[:, 0], abs=1e-5
        )
        assert sum(bar.get_height() for bar in spread.patches) == 80  # type: ignore[attr-defined]
        off = (said - true).astype(float)
        assert spread.get_title() == f"Errors: mean {off.mean():.4g}, std {off.std():.4g}"
    worst = np.abs(predicted - truth).max(1).argmax()
    assert texts(made["worst"])[0].splitlines()[3].split()[1:5] == [
        f"{truth[worst, 0]:.4g},",
        f"{truth[worst, 1]:.4g}",
        f"{predicted[worst, 0]:.4g},",
        f"{predicted[worst, 1]:.4g}",
    ]


def test_prices_are_written_without_exponents() -> None:
    truth = np.linspace(109_750, 576_400, 80)[:, None].repeat(2, 1)
    task, predictions = estimated(truth, truth + 12_345)
    made = task.outputs.plot(predictions)
    axes = made["errors"].axes
    assert axes[0].get_title().startswith("MAE 12,345, R²")
    low, high = axes[0].get_xlim()
    assert 3 <= sum(low <= tick <= high for tick in axes[0].get_xticks()) <= 7
    assert "e+0" not in texts(made["worst"])[0]
    assert [format_float(value) for value in (0.12345, 9999.4, 9999.7, -267_360.2, 1e15)] == [
        "0.1235",
        "9999",
        "10,000",
        "-267,360",
        "1e+15",
    ]


def test_before_and_after_captions() -> None:
    task, predictions = estimated(np.arange(5.0)[:, None], np.arange(5.0)[:, None] + 1)
    before = predictions.take(slice(None))
    before.columns["prediction"] = np.full((5, 1), 9.0, np.float32)
    axis = task.outputs.plot_examples(predictions, before).axes[0]
    shown = {
        str(dots.get_label()): np.asarray(dots.get_offsets())[:, 1].tolist()
        for dots in axis.collections
    }
    assert shown == {"untrained": [9.0] * 5, "trained": pytest.approx([1, 2, 3, 4, 5], abs=4)}
    assert sorted(shown["trained"]) == [1, 2, 3, 4, 5]
    assert axis.get_xlim()[1] > 9
    assert axis.get_title() == "MAE 1, R² 0.500; untrained: MAE 7"
    residuals = task.outputs.plot_examples(predictions, before).axes[1]
    now, past = (np.asarray(dots.get_offsets()).tolist() for dots in residuals.collections[:2])
    assert sorted(now) == [[1, 1], [2, 1], [3, 1], [4, 1], [5, 1]]
    assert sorted(past) == [[9, 5], [9, 6], [9, 7], [9, 8], [9, 9]]  # it always said 9


# ------------------------------------------------------------------------------------------
# All of them


def changed(one: Figure, other: Figure) -> bool:
    return not np.array_equal(render(one), render(other))


def test_plots_depend_only_on_their_data() -> None:
    task, predictions = classified(("a", "b", "c"), 30)
    other = predictions.take(slice(None))
    other.columns["probability"] = predictions["probability"][:, [1, 0, 2]]
    other.columns["prediction"] = other["probability"].argmax(1)
    one, same, different = (
        task.outputs.plot(predictions),
        task.outputs.plot(predictions),
        task.outputs.plot(other),
    )
    for name, figure in one.items():
        drawn = render(figure)
        assert min(drawn.shape[:2]) > 100
        assert np.array_equal(drawn, render(same[name])), name
        assert not np.array_equal(drawn, render(different[name])), name
    assert pyplot.get_fignums() == []
    regression, values = estimated(np.arange(9.0)[:, None], np.arange(9.0)[:, None])
    moved = values.take(slice(None))
    moved.columns["prediction"] = values["prediction"] + 0.5
    for name, figure in regression.outputs.plot(values).items():
        assert changed(figure, regression.outputs.plot(moved)[name]), name


LONG = (
    "_under",
    "猫🐈",
    "$x^",
    "a$b$c",
    "two\nlines",
    "Ünïcödé",
    "",
    "A" * 300,
    "عربى",
    "%",
    "\\frac{",
    "b",
)


@pytest.mark.parametrize(
    ("names", "count", "options"),
    [
        (("a", "b", "c"), 1, {}),
        (("a", "b", "c"), 20, {"only": 1}),
        (("a", "b"), 20, {"only": 0}),
        (LONG, 60, {}),
        (tuple(f"class {i}" for i in range(200)), 300, {}),
        (("a", "b"), 9, {"x": torch.randn(3, 3, 20, 30)}),
        (("a", "b"), 9, {"x": torch.randint(0, 256, (3, 4, 70, 80), dtype=torch.uint8)}),
        (("a", "b"), 9, {"x": torch.zeros(3, 1, 8, 8, dtype=torch.uint8)}),
        (("a", "b"), 9, {"x": torch.full((3, 2, 8, 8), float("nan"))}),
        (("a", "b"), 9, {"x": ROWS, "columns": COLUMNS}),
    ],
)
def test_odd_classifications_are_drawn(
    names: tuple[str, ...], count: int, options: dict[str, Any]
) -> None:
    task, predictions = classified(names, count, **options)
    for name, figure in task.outputs.plot(predictions).items():
        assert render(figure).std() > 0, name


def test_predictions_that_lack_much_are_drawn() -> None:
    task, predictions = classified(("a", "b", "c"), 20)
    assert task.outputs.plot(predictions.take(slice(0))) == {}
    predictions.columns["probability"][:5] = np.nan
    predictions.samples = None  # loaded without the data
    for name, figure in task.outputs.plot(predictions).items():
        assert render(figure).std() > 0, name
    predictions.columns["probability"][:] = np.nan
    for name, figure in task.outputs.plot(predictions).items():
        assert render(figure).std() > 0, name


def test_nonfinite_values_are_reported() -> None:
    _, predictions = classified(("a", "b"), 20)
    predictions.columns["probability"][:5] = np.nan
    probability, target = predictions["probability"], predictions["target"]
    assert (
        class_plots.plot_roc_and_pr(target, probability, ["a", "b"]).axes[0].get_title()
        == "ROC (15 of 20 samples)"
    )
    assert (
        class_plots.plot_calibration(probability[:, 1], target, "p")
        .axes[0]
        .get_title()
        .endswith(" (15 of 20 samples)")
    )
    assert texts(class_plots.plot_roc_and_pr(target, probability * np.nan, ["a", "b"])) == [
        "ROC: no finite probability"
    ]
    assert texts(class_plots.plot_calibration(probability[:5, 1], target[:5], "p")) == [
        "Calibration: no finite probability"
    ]
    only = class_plots.plot_roc_and_pr(np.zeros(20, int), np.full((20, 2), 0.5), ["a", "b"])
    assert "none: b (no samples)" in texts(only)
    predicted = np.where(np.arange(9) < 2, np.inf, 1.0)[:, None]
    assert (
        plot_values(np.arange(9.0)[:, None], predicted, ["y"])
        .axes[0]
        .get_title()
        .endswith(", 2 not finite")
    )
    assert "y: nothing finite" in texts(
        plot_values(np.ones((2, 1)), np.full((2, 1), np.nan), ["y"])
    )


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        (np.zeros((0, 1)), np.zeros((0, 1))),
        (np.ones((1, 1)), np.ones((1, 1))),
        (np.full((9, 1), 7.0), np.full((9, 1), 7.0)),
        (np.zeros((9, 1)), np.zeros((9, 1))),
        (np.arange(9.0)[:, None], np.full((9, 1), np.nan)),
        (np.arange(9.0)[:, None] * 1e30, np.arange(9.0)[:, None] * -1e30),
        (np.arange(90.0).reshape(10, 9), np.arange(90.0).reshape(10, 9)),
    ],
)
def test_odd_regressions_are_drawn(truth: Array, predicted: Array) -> None:
    task, predictions = estimated(truth, predicted, target="price (€) $a^$")
    made = task.outputs.plot(predictions)
    for name, figure in made.items():
        assert render(figure).std() > 0, name
    assert len(made["errors"].axes) == 3 * min(truth.shape[1], values.OUTPUTS)


def test_labels_are_short_and_no_formulas() -> None:
    assert drawing.shorten_label("cat") == "cat"
    assert drawing.shorten_label("two\nlines\t") == "two lines"
    assert drawing.shorten_label("abcdefghijklmnopqrstuvwxyz", 10) == "abcde…wxyz"
    assert drawing.shorten_label("$x^") == r"\$x^"
