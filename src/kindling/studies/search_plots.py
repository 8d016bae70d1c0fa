"""Plots of a search: those of Optuna, and each trial by the value of each parameter."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from src.kindling.analysis.drawing import GREY, create_panels, encode_png, set_titles, shorten_label
from src.kindling.studies.optuna_queue import load_optuna

PLOTS = {
    "history": "optimization_history",
    "parallel": "parallel_coordinate",
    "importances": "param_importances",
}


def plot_search(study: Any, folder: Path, monitor: str) -> list[str]:
    """Write the plots of a search and return their names; without those of too few trials."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    optuna_plots, names = load_optuna().visualization.matplotlib, []
    folder.mkdir(exist_ok=True)
    for name, plot in PLOTS.items():
        # Optuna changes matplotlib's style for all later plots.
        ignored = warnings.catch_warnings(action="ignore")
        with pyplot.rc_context(), suppress(ValueError, RuntimeError), ignored:
            drawn = getattr(optuna_plots, f"plot_{plot}")(study, target_name=monitor)
            figure = np.ravel(drawn)[0].figure
            if name == "parallel":  # room for the names of keys and choices
                figure.set_size_inches(max(6.4, 2.4 * len(figure.axes)), 4.8)
                for axis in figure.axes:
                    axis.grid(False)
                    axis.tick_params("x", rotation=20)
                    _set_log_ticks(axis.yaxis)
            figure.savefig(folder / f"{name}.png", dpi=100, bbox_inches="tight")
            names.append(f"{name}.png")
    pyplot.close("all")
    if figure := plot_slices(study, monitor):
        (folder / "slices.png").write_bytes(encode_png(figure))
        names.append("slices.png")
    return names


def plot_slices(study: Any, monitor: str) -> Any:
    """Plot the finished trials by each parameter; a trial has one color in all panels."""
    trials = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    spaces = {key: space for trial in trials for key, space in trial.distributions.items()}
    if not spaces:
        return None
    figure, axes = create_panels(len(spaces), 3.0, 3.6, across=4)
    for axis in axes[1:]:
        axis.sharey(axes[0])
    for axis, (key, space) in zip(axes, spaces.items(), strict=True):
        found = [trial for trial in trials if key in trial.params]
        values = [trial.params[key] for trial in found]
        if choices := getattr(space, "choices", ()):
            values = [choices.index(value) for value in values]
            texts = [shorten_label(str(choice)) for choice in choices]
            axis.set_xticks(range(len(choices)), texts, rotation=20, ha="right")
            axis.set_xlim(-0.5, len(choices) - 0.5)
        elif space.log:
            axis.set_xscale("log")
        else:
            axis.locator_params("x", nbins=5)
        dots = axis.scatter(
            values,
            [trial.value for trial in found],
            c=[trial.number for trial in found],
            cmap="Blues",
            vmin=0,
            vmax=max(trial.number for trial in trials),
            edgecolors=GREY,
        )
        _set_log_ticks(axis.xaxis)
        set_titles(axis, "", shorten_label(key, 40), monitor)
    figure.colorbar(dots, ax=axes, label="trial", ticks=MaxNLocator(integer=True))
    return figure


def _set_log_ticks(axis: Any) -> None:
    """Label three values of a logarithmic axis: matplotlib's own labels overlap."""
    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        ticks = np.geomspace(low, high, 3)
        axis.set_ticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axis.set_ticks([], minor=True)
