"""A task's predictions: how they are decoded, scored, plotted, tabulated and exported.

A task has one of these as its attribute `outputs`.
"""

from __future__ import annotations

from src.kindling.analysis.outputs.base import Outputs, require_outputs
from src.kindling.analysis.outputs.classes import Classes, Labels
from src.kindling.analysis.outputs.masks import Masks
from src.kindling.analysis.outputs.values import Values
from src.kindling.data.spec import Spec

__all__ = ["Classes", "Labels", "Masks", "Outputs", "Values", "outputs_for", "require_outputs"]


def outputs_for(spec: Spec) -> Outputs:
    """Make the outputs for the target of the data, without a task."""
    kinds: tuple[type[Outputs], ...] = (Classes, Labels, Values, Masks)
    return next(kind.of(spec) for kind in kinds if kind.target_type == spec.target_type)
