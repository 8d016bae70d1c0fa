"""Decode rows of a table from JSON, by a pydantic model of the columns that also describes them.

Cells become the numbers that `encode_frame` of data/tables makes of them. The server has no pandas.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, FailFast, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from src.kindling.config.errors import did_you_mean, join_names
from src.kindling.data.spec import Column
from src.kindling.deploy.serving.decode import Decoded, media_type
from src.kindling.deploy.serving.limits import Limits

# curl's default is the second.
CONTENT_TYPES = ("application/json", "application/x-www-form-urlencoded", "")
MAX_UNKNOWN = 100  # columns of a row that the training data did not have
MAX_EXAMPLES = 20  # categories that the description lists
FLOAT32 = float(np.finfo(np.float32).max)
# Numbers and booleans also as a CSV file has them; no number here is above FLOAT32.
NUMBER_TEXT = r"^ *[-+]?(\d{1,20}(\.\d*)?|\.\d+)([eE](\+?0?\d|-\d{1,3}))? *$"
BOOLEAN_TEXT = "^([Tt]rue|TRUE|[Ff]alse|FALSE|[01])$"
Bool = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Number = Annotated[float, Strict(), Field(ge=-FLOAT32, le=FLOAT32, allow_inf_nan=False)]
NumberText = Annotated[Text, Field(pattern=NUMBER_TEXT), AfterValidator(float)]
Bit = Annotated[float, Strict(), Field(ge=0, le=1, multiple_of=1)]
BooleanText = Annotated[
    Text, Field(pattern=BOOLEAN_TEXT), AfterValidator(lambda text: text.lower() in ("1", "true"))
]
Code = Annotated[float, Strict(), AfterValidator(lambda x: int(x) if x.is_integer() else x)]
Category = Annotated[Bool | Annotated[int, Strict()] | Code | Text, AfterValidator(str)]
CELLS: dict[str, Any] = {
    "number": Number | NumberText | None,
    "boolean": Bool | Bit | BooleanText | None,
    "category": Category | None,
}


def _row_type(columns: Sequence[Column]) -> Any:
    """Make the type of one row; each column is required, and others are ignored."""
    fields = {}
    for column in columns:
        examples: list[Any] = [*column.categories[:MAX_EXAMPLES]]
        if column.kind == "number":
            examples = [float(f"{column.mean:.3g}")]
        fields[column.name] = Annotated[CELLS[column.kind], Field(examples=examples or [True])]
    return TypedDict("Row", fields)  # type: ignore[operator]


def describe_rows(columns: Sequence[Column], several: bool, maximum: int) -> dict[str, Any]:
    """Make the JSON schema of a body of at most so many rows."""
    row = TypeAdapter(_row_type(columns)).json_schema()
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": maximum}
    return rows if several else {"anyOf": [row, rows]}


class RowDecoder:
    """Decodes JSON as the model takes it, `(rows, columns)`."""

    def __init__(self, columns: Sequence[Column], limits: Limits) -> None:
        self.limits = limits
        self.columns = {column.name: column for column in columns}
        self.codes: dict[str, dict[str | None, int]] = {
            column.name: {None: -1} | {text: i for i, text in enumerate(column.categories)}
            for column in columns
            if column.kind == "category"
        }
        rows: Any = list[_row_type(columns)]  # type: ignore[misc]
        self.model: TypeAdapter[list[Any]] = TypeAdapter(Annotated[rows, FailFast()])

    def __call__(self, content_type: str, body: bytes, several: bool) -> Decoded:
        if (kind := media_type(content_type)) not in CONTENT_TYPES:
            reason = f"this model takes rows as JSON (application/json), not {kind}"
            raise HTTPException(415, reason)
        try:
            given = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
        except ValueError as error:
            remedy = "send UTF-8 text, and null for NaN or a missing value"
            raise HTTPException(422, f"the body is not valid JSON: {error}; {remedy}") from None
        if several and not isinstance(given, list):
            raise HTTPException(422, "/predict/batch takes a list of rows")
        rows = given if isinstance(given, list) else [given]
        self._check_sizes(rows)
        try:
            checked = self.model.validate_python(rows)
        except ValidationError as error:
            raise HTTPException(422, self._explain(error, rows)) from None
        notes: list[str] = []
        if unknown := set().union(*rows) - self.columns.keys():
            listed = join_names(sorted(unknown))
            notes.append(f"columns that are not in the training data, ignored: {listed}")
        x = np.empty((len(rows), len(self.columns)))
        for i, name in enumerate(self.columns):
            cells = [row[name] for row in checked]
            if codes := self.codes.get(name):
                if unseen := [cell for cell in cells if cell not in codes]:
                    notes.append(f"{name}: {unseen[0]!r} is not in the training data")
                cells = [codes.get(cell, -1) for cell in cells]
            x[:, i] = cells
        return Decoded(x, isinstance(given, list), notes)

    def _check_sizes(self, rows: list[Any]) -> None:
        """Check the number of rows and of their columns."""
        maximum = self.limits.max_rows
        if len(rows) > maximum:
            reason = f"{len(rows):,} rows in one request; the maximum is {maximum:,}"
            raise HTTPException(413, reason)
        if not rows or not all(isinstance(row, dict) for row in rows):
            reason = "expected a row as an object of columns and values, or a list of rows"
            raise HTTPException(422, reason)
        for number, row in enumerate(rows, 1):
            if len(row) > len(self.columns) + MAX_UNKNOWN:
                reason = f"row {number} has {len(row):,} columns; the training data had"
                limit = f"{len(self.columns):,}, and the maximum is {MAX_UNKNOWN} more"
                raise HTTPException(413, f"{reason} {limit}")

    def _explain(self, error: ValidationError, rows: list[dict[str, Any]]) -> str:
        """The first problem: a row without some columns, or a cell of another kind."""
        place: Any = error.errors(include_url=False)[0]["loc"]
        i, name, *_ = place
        row = rows[i]
        if missing := [column for column in self.columns if column not in row]:
            extra = [column for column in row if column not in self.columns]
            hint = did_you_mean(missing[0], extra)
            if extra and not hint:
                hint = f"; unknown columns: {join_names(extra)}"
            columns = f"{len(missing)} of the {len(self.columns)} columns of the training data"
            return f"row {i + 1} lacks {columns}: {join_names(missing)}{hint}"
        column, value = self.columns[name], row[name]
        expected = f"a {column.kind}; the training data has {column.kind}s there"
        cell = f"{value!r:.100} (row {i + 1})"
        is_number = isinstance(value, float | int) and not isinstance(value, bool)
        if column.kind == "number" and is_number:  # JSON has no other numbers
            return f"column '{name}': {cell} is beyond float32 (3.4e38); correct it"
        return f"column '{name}': {cell} is not {expected}"
