"""A run's directory and its provenance. Imports no torch at module level."""

from __future__ import annotations

from src.kindling.runs.run import Run as Run
from src.kindling.runs.run import find_run as find_run
