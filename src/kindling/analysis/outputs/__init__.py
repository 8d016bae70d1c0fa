"""What a task predicts: how it is decided, scored, drawn, tabulated and exported.

A task has one of these as its attribute `outputs`.
"""

from __future__ import annotations

from src.kindling.analysis.outputs.base import Outputs, require_outputs
from src.kindling.analysis.outputs.classes import Classes
from src.kindling.analysis.outputs.labels import Labels
from src.kindling.analysis.outputs.masks import Masks
from src.kindling.analysis.outputs.values import Values

__all__ = ["Classes", "Labels", "Masks", "Outputs", "Values", "require_outputs"]
