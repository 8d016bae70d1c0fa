"""Build a config's parts, rehearse, fit, checkpoint and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from src.kindling.exports import lazy_exports

if TYPE_CHECKING:
    from src.kindling.training.fit import Result as Result
    from src.kindling.training.trained_run import TrainedRun as TrainedRun
    from src.kindling.training.trained_run import load_run as load_run

__getattr__ = lazy_exports(__name__, __file__)
