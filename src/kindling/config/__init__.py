"""Compose a config, check it against signatures, and build what it names.

Imports no torch at module level.
"""

from __future__ import annotations

from src.kindling.config.errors import InputError as InputError
from src.kindling.config.values import Config as Config
