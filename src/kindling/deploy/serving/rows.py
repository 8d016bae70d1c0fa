"""Decode rows of a table from JSON, by a pydantic model of the columns that also describes them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, Strict, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from src.kindling.config.errors import InputError, join_names
from src.kindling.data.spec import Column
from src.kindling.deploy.serving.decode import Decoded
from src.kindling.deploy.serving.limits import Limits

MAX_UNKNOWN = 100  # columns of a row that the training data did not have
MAX_EXAMPLES = 20  # categories that the description lists
FLOAT32 = float(np.finfo(np.float32).max)
# Numbers and booleans also as a CSV file has them.
NUMBER_TEXT = r"^ *[-+]?(\d{1,20}(\.\d*)?|\.\d+)([eE](\+?0?\d|-\d{1,3}))? *$"
BOOLEAN_TEXT = "^([Tt]rue|TRUE|[Ff]alse|FALSE|[01])$"
Bool = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Number = Annotated[float, Strict(), Field(ge=-FLOAT32, le=FLOAT32, allow_inf_nan=False)]
Bit = Annotated[float, Strict(), Field(ge=0, le=1, multiple_of=1)]
CELLS: dict[str, Any] = {
    "number": Number | Annotated[Text, Field(pattern=NUMBER_TEXT)] | None,
    "boolean": Bool | Bit | Annotated[Text, Field(pattern=BOOLEAN_TEXT)] | None,
    "category": Bool | Annotated[int, Strict()] | Annotated[float, Strict()] | Text | None,
}


def row_model(columns: Sequence[Column]) -> TypeAdapter[dict[str, Any]]:
    """Make the model of one row; each column is required, and others are ignored."""
    fields = {}
    for column in columns:
        examples: list[Any] = [*column.categories[:MAX_EXAMPLES]]
        if column.kind == "number":
            examples = [float(f"{column.mean:.3g}")]
        fields[column.name] = Annotated[CELLS[column.kind], Field(examples=examples or [True])]
    return TypeAdapter(TypedDict("Row", fields))  # type: ignore[operator]


def describe_rows(columns: Sequence[Column], several: bool, maximum: int) -> dict[str, Any]:
    """Make the JSON schema of a body of at most so many rows."""
    row = row_model(columns).json_schema()
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": maximum}
    return rows if several else {"anyOf": [row, rows]}


class RowDecoder:
    """Decodes JSON as the model takes it, `(rows, columns)`."""

    def __init__(self, columns: Sequence[Column], limits: Limits) -> None:
        from src.kindling.data.tables import encode  # with pandas, which images do not need

        self.tables: Any = encode
        self.columns, self.limits = columns, limits
        self.names = {column.name for column in columns}
        self.model = row_model(columns)

    def __call__(self, content_type: str, body: bytes, several: bool) -> Decoded:
        try:
            given = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
        except ValueError as error:
            remedy = "send UTF-8 text, and null for NaN or a missing value"
            raise HTTPException(422, f"the body is not valid JSON: {error}; {remedy}") from None
        if several and not isinstance(given, list):
            raise HTTPException(422, "/predict/batch takes a list of rows")
        rows = given if isinstance(given, list) else [given]
        try:
            unknown = self._check_names(rows)
            checked = [self._check_cells(row, number) for number, row in enumerate(rows, 1)]
            frame = self.tables.pd.DataFrame(checked)
            with np.errstate(all="ignore"):
                x = self.tables.encode_frame(frame, self.columns)
        except (InputError, OverflowError) as error:
            raise HTTPException(422, str(error)) from None
        notes: list[str] = []
        if unknown:
            listed = join_names(sorted(unknown))
            notes.append(f"columns that are not in the training data, ignored: {listed}")
        for name, (_, example) in self.tables.unseen_in(frame, x, self.columns).items():
            notes.append(f"{name}: {example!r} is not in the training data")
        return Decoded(x, isinstance(given, list), notes)

    def _check_names(self, rows: list[Any]) -> set[str]:
        """Check the number of rows and their columns, and return the unknown ones."""
        maximum = self.limits.max_rows
        if len(rows) > maximum:
            reason = f"{len(rows):,} rows in one request; the maximum is {maximum:,}"
            raise HTTPException(413, reason)
        if not rows or not all(isinstance(row, dict) for row in rows):
            reason = "expected a row as an object of columns and values, or a list of rows"
            raise HTTPException(422, reason)
        unknown: set[str] = set()
        for number, row in enumerate(rows, 1):
            if len(row) > len(self.names) + MAX_UNKNOWN:
                reason = f"row {number} has {len(row):,} columns; the training data had"
                limit = f"{len(self.names):,}, and the maximum is {MAX_UNKNOWN} more"
                raise HTTPException(413, f"{reason} {limit}")
            extra = row.keys() - self.names
            if len(row) - len(extra) < len(self.names):
                header = self.tables.pd.DataFrame(columns=list(row))
                self.tables.encode_frame(header, self.columns)  # names the missing columns
            unknown |= extra
        return unknown

    def _check_cells(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            return self.model.validate_python(row)
        except ValidationError as error:
            name = error.errors(include_url=False)[0]["loc"][0]
            column = next(column for column in self.columns if column.name == name)
            expected = f"a {column.kind}; the training data has {column.kind}s there"
            reason = f"{row[column.name]!r:.100} (row {number}) is not {expected}"
            raise HTTPException(422, f"column '{name}': {reason}") from None
