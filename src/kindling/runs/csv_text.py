"""CSV text whose rows stay rows, and without formulas; source: OWASP, "CSV Injection"."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are full-width =+-@


def neutralize(cell: Any) -> Any:
    """The cell, with a quote before a text that a spreadsheet would run; not before a number."""
    if not isinstance(cell, str) or len(cell) < 2 or not cell.startswith(STARTS):
        return cell
    with suppress(ValueError):
        float(cell)
        return cell
    return f"'{cell}"


def to_csv(frame: pd.DataFrame, exact: bool = False, header: bool = True) -> str:
    """A table as CSV, its column names and texts neutralized unless `exact`."""
    if not exact:
        texts = frame.select_dtypes(exclude="number").columns
        frame = frame.assign(**{name: frame[name].map(neutralize) for name in texts})
        frame = frame.rename(columns=neutralize)
    text: str = frame.to_csv(index=False, header=header, lineterminator="\n")
    if "\r" in text:  # quoted only where it is a part of the line's end
        text = frame.to_csv(index=False, header=header, lineterminator="\r\n")
    return text
