"""Predictions, plots, reports, leaderboards and significance of finished runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.kindling.exports import lazy_exports

if TYPE_CHECKING:
    from src.kindling.analysis.outputs import Classes as Classes
    from src.kindling.analysis.outputs import Labels as Labels
    from src.kindling.analysis.outputs import Masks as Masks
    from src.kindling.analysis.outputs import Values as Values
    from src.kindling.analysis.plots import Plots as Plots
    from src.kindling.analysis.predictions import Predictions as Predictions
    from src.kindling.analysis.predictions import predict as predict

__getattr__ = lazy_exports(__name__, __file__)
