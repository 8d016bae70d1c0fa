"""Where data are, and how Parquet files are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError


def data_path(path: str | Path) -> Path:
    """Resolve a path from a config: expand `~`; relative paths start at the repository.

    Those of a command line start at the current folder, and are absolute here.
    """
    return ROOT / Path(path).expanduser()


def open_parquet(path: str | Path) -> Any:
    """Open a file as pyarrow's `ParquetFile`, which is read through small buffers.

    Raises:
        InputError: when pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        remedy = "install it: pip install -e '.[parquet]'"
        raise InputError(f"{path}: reading Parquet needs pyarrow; {remedy}") from None
    # Arrow's own pool keeps what is freed.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    # A buffer of this size for each column, instead of the whole row group.
    return ParquetFile(data_path(path), pre_buffer=False, buffer_size=1 << 18)
