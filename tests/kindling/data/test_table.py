"""Tables: what the columns become, what the target is taken for, how rows are split, and what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris

from src.kindling.config.compose import compose, get
from src.kindling.config.errors import InputError
from src.kindling.data.preprocess import EncodeTable
from src.kindling.data.samples import STAGES
from src.kindling.data.spec import Column, Spec
from src.kindling.data.tables import read as read_table
from src.kindling.data.tables.encode import encode_frame, kind_of
from src.kindling.data.tables.read import TableFile
from src.kindling.data.tables.table import MAX_CATEGORIES, Table
from src.kindling.training.evaluate import evaluate
from src.kindling.training.trained_run import load_run
from tests.conftest import call, train


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative paths start here."""
    monkeypatch.setattr("src.kindling.data.paths.ROOT", tmp_path)
    return tmp_path


def column(header: str, value: Callable[[int], object], rows: int = 60) -> list[str]:
    return [header, *(str(value(i)) for i in range(rows))]


SIZE = column("size", lambda i: (i * 7) % 31)
COLOUR = column("colour", lambda i: "red" if i % 3 else "blue")
PRICE = column("price", lambda i: i * 1.5)
KIND = column("kind", lambda i: "ab"[i % 2])


def text(*columns: list[str], between: str = ",") -> str:
    return "".join(between.join(cells) + "\n" for cells in zip(*columns, strict=True))


def write(content: str | bytes, name: str = "houses.csv", encoding: str = "utf-8") -> str:
    from src.kindling.data import paths

    (paths.ROOT / name).write_bytes(
        content.encode(encoding) if isinstance(content, str) else content
    )
    return name


def ready(content: str | bytes, target: str = "price", **options: Any) -> Table:
    data = Table(write(content), target, **options)
    data.setup()
    return data


def refused(content: str | bytes, target: str = "price", **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        ready(content, target, **options)
    return caught.value.lines


def assert_lines(lines: list[str], expected: list[str]) -> None:
    """Each line has the parts of the expected one, which are separated by ` … `, in their order."""
    assert len(lines) == len(expected), lines
    for line, parts in zip(lines, expected, strict=True):
        assert re.search(".*".join(map(re.escape, parts.split(" … "))), line), line


def with_cells(cells: list[str], **changed: str) -> list[str]:
    """A column with other cells in some rows, counted from 1: `with_cells(SIZE, row5="x")`."""
    rows = {int(key.removeprefix("row")): value for key, value in changed.items()}
    return [rows.get(i, cell) for i, cell in enumerate(cells)]


# ---------------------------------------------------------------------------------------------------------------
# Features


def test_batch_values_by_kind_of_column() -> None:
    flag = column("flag", lambda i: i % 2 == 0)
    data = ready(
        text(SIZE, with_cells(COLOUR, row4="", row8="green"), flag, PRICE), split=(40, 10, 10)
    )
    size, colour, truth = data.spec.columns
    assert (size.kind, colour.kind, truth.kind) == ("number", "category", "boolean")
    trained = data.indices["train"].tolist()
    assert colour.categories == (("blue", "green", "red") if 7 in trained else ("blue", "red"))
    x = data.samples.x
    assert isinstance(x, torch.Tensor)
    assert (x.dtype, tuple(x.shape), x.is_contiguous()) == (torch.float64, (60, 3), True)
    assert x[:3, 0].tolist() == [0.0, 7.0, 14.0]
    assert x[:4, 1].tolist() == [
        0.0,
        colour.categories.index("red"),
        colour.categories.index("red"),
        -1.0,
    ]
    assert x[:3, 2].tolist() == [1.0, 0.0, 1.0]
    assert data.spec.raw_shape == (3,)
    assert data.spec.in_shape == (1 + len(colour.categories) + 1 + 1,)
    assert Spec.from_plain(dataclasses.asdict(data.spec)) == data.spec
    assert data.samples.name(3) == "row 4"


def test_encode_table_by_columns() -> None:
    encode = EncodeTable(
        [
            Column("colour", "category", categories=("blue", "red")),
            Column("size", mean=10.0, std=2.0, missing=True),
            Column("flag", "boolean", mean=0.25, std=0.5),
            Column("shape", "category"),
        ]
    )
    nan = float("nan")
    x = torch.tensor(
        [[1.0, 12.0, 1.0, -1.0], [-1.0, nan, nan, 0.0], [nan, 10.0, 0.0, nan], [7.0, 6.0, 0.0, 0.0]]
    )
    #  size, flag, size is missing, blue, red, other colour, any shape
    assert encode(x).tolist() == [
        [1.0, 1.5, 0.0, 0.0, 1.0, 0.0, 1.0],
        [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0],
        [0.0, -0.5, 0.0, 0.0, 0.0, 1.0, 1.0],
        [-2.0, -0.5, 0.0, 0.0, 0.0, 1.0, 1.0],
    ]
    only = EncodeTable([Column("colour", "category", categories=("blue", "red"))])
    assert only(torch.tensor([[0.0], [5.0]])).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert EncodeTable([Column("size", mean=1.0)])(torch.tensor([[nan], [3.0]])).tolist() == [
        [0.0],
        [2.0],
    ]


def test_spec_uses_training_split_only() -> None:
    data = ready(text(SIZE, COLOUR, PRICE))
    held_out = int(data.indices["test"][0]) + 1
    again = ready(
        text(
            with_cells(SIZE, **{f"row{held_out}": ""}),
            with_cells(COLOUR, **{f"row{held_out}": "green"}),
            PRICE,
        )
    )
    assert again.spec == data.spec
    assert again.samples.x[torch.tensor([held_out - 1])][0, 1] == -1  # type: ignore[index]
    size = data.samples.x[data.indices["train"]][:, 0].double()
    assert data.spec.columns[0].mean == pytest.approx(size.mean().item())
    assert data.spec.columns[0].std == pytest.approx(size.std(unbiased=False).item())
    seen = int(data.indices["train"][0]) + 1
    missing = ready(text(with_cells(SIZE, **{f"row{seen}": "NA"}), COLOUR, PRICE))
    assert missing.spec.columns[0].missing
    assert missing.spec.in_shape == (data.spec.in_shape[0] + 1,)


def test_max_categories() -> None:
    code = column("code", lambda i: f"c{i % 300:03}" if i < 900 else "z", rows=1000)
    data = ready(text(code, column("price", lambda i: i * 1.5, 1000)), split=(998, 1, 1))
    (only,) = data.spec.columns
    assert len(only.categories) == MAX_CATEGORIES
    assert "z" in only.categories
    assert any(
        note.startswith("code: 301 different texts; the 256 most frequent are categories")
        for note in data.notes
    )


def test_identifiers_are_dropped() -> None:
    index, name = column("", str), column("id", lambda i: f"k{i}")
    data = ready(text(index, name, SIZE, PRICE))
    assert data.samples.columns == ("size",)
    assert "dropped, without a name in the header: column 1" in data.notes
    assert (
        "dropped, since the text differs in every row: id; keep with data.categories=[id]"
        in data.notes
    )
    assert ready(text(name, SIZE, PRICE), categories=["id"]).samples.columns == ("id", "size")
    notes = ready(text(column("n", lambda i: i + 1), SIZE, PRICE)).notes
    assert "n only counts the rows; drop it: data.drop=[n]" in notes


def test_categories_option() -> None:
    data = ready(
        text(column("zip", lambda i: f"00{i % 3}"), SIZE, PRICE), categories=["zip"], drop=["size"]
    )
    assert data.spec.columns == (Column("zip", "category", categories=("000", "001", "002")),)


# ---------------------------------------------------------------------------------------------------------------
# Target


@pytest.mark.parametrize(
    ("value", "classes", "note"),
    [
        (lambda i: "ba"[i % 2], ("a", "b"), "2 different texts: classification"),
        (lambda i: i % 2 == 0, ("False", "True"), "2 different truth values: classification"),
        (lambda i: i % 12, tuple(map(str, range(12))), "12 different numbers: classification"),
        (lambda i: float(i % 2), ("0", "1"), "2 different numbers: classification"),
        (lambda i: i % 13, (), "13 different numbers: regression"),  # fewer than five rows each
        (lambda i: i % 2 / 2, (), "2 different numbers: regression"),
    ],
)
def test_auto_kind_of_target(
    value: Callable[[int], object], classes: tuple[str, ...], note: str
) -> None:
    data = ready(text(SIZE, column("y", value)), "y", split=(20, 20, 20))
    assert data.spec.classes == data.samples.classes == classes
    assert f"target: y, {note} (to change it, set data.kind)" in data.notes
    if classes:
        assert [classes[i] for i in data.samples.y[:4].tolist()] == [
            str(int(v) if isinstance(v, float) else v) for v in map(value, range(4))
        ]
    else:
        assert (data.samples.y.dtype, tuple(data.samples.y.shape)) == (torch.float32, (60, 1))
        assert data.samples.y[:4, 0].tolist() == [float(str(value(i))) for i in range(4)]


def test_kind_option() -> None:
    number = column("y", lambda i: i % 4)
    data = ready(text(SIZE, number), "y", kind="regression")
    assert data.spec.classes == ()
    assert "target: y, 4 different numbers: regression" in data.notes
    half = column("y", lambda i: i % 2 / 2)
    assert ready(text(SIZE, half), "y", kind="classification").spec.classes == ("0", "0.5")
    marks = column("y", lambda i: "1.5" if i % 6 else "none known")
    assert ready(text(SIZE, marks), "y", kind="classification").spec.classes == (
        "1.5",
        "none known",
    )


def test_old_config_keys() -> None:
    words = ["data.path=a.csv", "data.target=y", "data.group=patient", 'data.missing=["?"]']
    config = compose("table", words)
    assert get(config.values, "data.group_column") == "patient"
    assert get(config.values, "data.group") is None
    assert get(config.values, "data.na_values") == ["?"]
    assert config.origins["data.group_column"] == "command line"


# ---------------------------------------------------------------------------------------------------------------
# Splits


def test_group_split() -> None:
    patient = column("patient", lambda i: f"p{i % 23}", rows=300)
    size, price = column("size", lambda i: i % 31, 300), column("price", lambda i: i * 1.5, 300)
    content = text(patient, size, price)
    data = ready(content, group_column="patient")
    assert data.samples.columns == ("size",)
    groups = [set((data.indices[stage] % 23).tolist()) for stage in STAGES]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 23
    assert [len(data.indices[stage]) for stage in STAGES] == pytest.approx([210, 45, 45], abs=14)
    assert "split: by patient, 23 groups, none in two splits" in data.notes
    again = ready(content, group_column="patient")
    assert again.split_hash() == data.split_hash()


def test_group_split_with_large_group() -> None:
    patient = column("patient", lambda i: "big" if i < 200 else f"p{i // 10}", rows=300)
    for seed in range(5):
        data = ready(
            text(
                patient,
                column("price", lambda i: i * 1.5, 300),
                column("size", lambda i: i % 31, 300),
            ),
            group_column="patient",
            split_seed=seed,
        )
        assert [len(data.indices[stage]) for stage in STAGES] == [220, 40, 40]


@pytest.mark.parametrize(
    ("time", "first", "last"),
    [
        (lambda i: f"2020-{i % 12 + 1:02}-{i % 28 + 1:02}", "2020-01-01", "2020-12-24"),
        (lambda i: f"{i % 28 + 1}/{i % 12 + 1}/2020", "2020-01-01", "2020-12-24"),  # the day first
        (
            lambda i: f"2020-01-01T{i % 24:02}:{i:02}:00Z",
            "2020-01-01 00:00:00",
            "2020-01-01 23:47:00",
        ),
        (lambda i: (i * 17) % 61 / 2, "0", "30"),
    ],
)
def test_time_split(time: Callable[[int], object], first: str, last: str) -> None:
    data = ready(text(column("when", time), SIZE, PRICE), time="when")
    assert data.samples.columns == ("size",)
    assert data.samples.time is not None
    order = [data.samples.time[data.indices[stage]] for stage in STAGES]
    assert [len(part) for part in order] == [42, 9, 9]
    assert order[0].max() <= order[1].min()
    assert order[1].max() <= order[2].min()
    first = first.removesuffix(" 00:00:00")
    assert f"split: by when, from {first} to {last}; the oldest rows train" in data.notes


def test_time_split_by_counts() -> None:
    data = ready(
        text(column("when", lambda i: 100 - i), SIZE, PRICE), time="when", split=(20, 10, 10)
    )
    assert [data.indices[stage].tolist() for stage in STAGES] == [
        list(range(20, 40)),
        list(range(10, 20)),
        list(range(10)),
    ]


def test_duplicates_across_splits() -> None:
    few, many = column("size", lambda i: i % 5), column("price", lambda i: i * 1.5)
    assert not any(note.startswith("duplicates") for note in ready(text(few, many)).notes)
    content = text(few, column("price", lambda i: i % 30 * 1.5))  # row i is row i + 30
    warned, dropped = ready(content), ready(content, duplicates="drop")
    where = {int(i): place for place, stage in enumerate(STAGES) for i in warned.indices[stage]}
    parted = [i for i in range(30) if where[i] != where[i + 30]]
    told = f"duplicates: {len(parted)} samples are identical in another split: row "
    assert any(note.startswith(told) for note in warned.notes)
    twins = {i for one in parted for i in (one, one + 30)}
    assert set(dropped.indices["train"].tolist()) == set(warned.indices["train"].tolist()) - twins
    assert torch.equal(dropped.indices["test"], warned.indices["test"])


JANUARY = pd.date_range("2023-01-05", periods=60)
MONTHS = [pd.Timestamp(2023, 1 + i % 12, 1 + i // 12) for i in range(60)]  # no day above 12


@pytest.mark.parametrize(
    ("style", "note"),
    [
        ("{0.day}.{0.month}.{0.year}", "day.month.year, as '13.1.2023' (row 9) shows"),
        ("{0:%d.%m.%y}", "day.month.year, as '13.01.23' (row 9) shows"),
        ("{0:%m/%d/%Y} 2:30 PM", "month.day.year, as '01/13/2023 2:30 PM' (row 9) shows"),
        ("{0.year}/{0.month}/{0.day}", ""),
        ("{0.day} {0:%b} {0.year}", ""),
    ],
)
def test_date_format_of_whole_column(style: str, note: str) -> None:
    days = column("day", lambda i: style.format(JANUARY[i]))
    data = ready(text(days, SIZE, PRICE), time="day")
    assert data.samples.time is not None
    assert data.samples.time.diff().tolist() == [86_400e9] * 59
    assert data.notes[1:-1] == ([f"dates: column 'day' is {note}"] if note else [])
    assert data.notes[-1].startswith("split: by day, from 2023-01-05")


def test_dayfirst_of_ambiguous_dates() -> None:
    content = text(column("day", lambda i: f"{MONTHS[i]:%d.%m.%Y}"), SIZE, PRICE)
    assert refused(content, time="day") == [
        "data.time: houses.csv: column 'day': '01.02.2023' (row 2) can be day.month.year or "
        "month.day.year; set data.dayfirst=true or data.dayfirst=false"
    ]
    for dayfirst, order in ((True, "day.month.year"), (False, "month.day.year")):
        data = ready(content, time="day", dayfirst=dayfirst)
        assert f"dates: column 'day' is {order}, as data.dayfirst sets" in data.notes
        expected = pd.Series(
            MONTHS if dayfirst else [m.replace(month=m.day, day=m.month) for m in MONTHS]
        )
        ages = expected.sort_values(kind="stable").index[:42].sort_values()  # 70 % of the rows
        assert data.indices["train"].tolist() == ages.tolist()
    content = text(column("day", lambda i: f"{JANUARY[i]:%m/%d/%Y}"), SIZE, PRICE)
    assert_lines(
        refused(content, time="day", dayfirst=True),
        [
            "column 'day': '01/13/2023' (row 9) is not a date or number like the others; … or remove data.dayfirst"
        ],
    )
    assert_lines(refused(content, dayfirst=True), ["data.dayfirst: … set data.time"])


# ---------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.tsv", text(SIZE, COLOUR, PRICE, between="\t").encode(), {}),
        ("a.txt", text(SIZE, COLOUR, PRICE, between="\t").encode(), {"separator": "tab"}),
        (
            "a.csv",
            text(SIZE, COLOUR, PRICE, between=";").replace(".", ",").encode(),
            {"separator": ";", "decimal": "comma"},
        ),
        ("b.csv", text(SIZE, COLOUR, PRICE).encode("utf-8-sig"), {}),
        ("c.csv", text(SIZE, COLOUR, PRICE).encode("utf-16"), {"encoding": "utf-16"}),
        ("d.csv.gz", gzip.compress(text(SIZE, COLOUR, PRICE).encode()), {}),
        (
            "e.csv",
            text(SIZE, COLOUR, PRICE)
            .replace(",", " , ")
            .replace(" ,", ",")
            .replace("\n", "\r\n")
            .encode(),
            {},
        ),
    ],
)
def test_csv_formats(name: str, content: bytes, options: dict[str, Any]) -> None:
    plain = ready(text(SIZE, COLOUR, PRICE))
    data = Table(write(content, name), "price", **options)
    data.setup()
    assert data.spec == plain.spec
    assert torch.equal(data.samples.x[torch.arange(60)], plain.samples.x[torch.arange(60)])
    assert torch.equal(data.samples.y, plain.samples.y)


def test_parquet(folder: Path) -> None:
    flag = column("flag", lambda i: ["True", "False", ""][i % 3])
    content = text(with_cells(SIZE, row3=""), with_cells(COLOUR, row4=""), flag, PRICE)
    frame = pd.read_csv(write(content, str(folder / "houses.csv")))
    frame.astype({"colour": "category"}).to_parquet(folder / "houses.parquet")
    plain = ready(content)
    data = Table("houses.parquet", "price")
    data.setup()
    assert data.spec == plain.spec
    assert torch.equal(data.samples.x.nan_to_num(9), plain.samples.x.nan_to_num(9))  # type: ignore[attr-defined]
    frame.assign(day=pd.Timestamp("2020-01-01")).to_parquet(folder / "houses.parquet")
    with pytest.raises(InputError, match=r"^houses.parquet: columns with dates: day; "):
        Table("houses.parquet", "price").setup()
    frame.assign(lists=[[1, 2]] * 60).to_parquet(folder / "houses.parquet")
    with pytest.raises(InputError) as caught:
        Table("houses.parquet", "price").setup()
    assert_lines(
        caught.value.lines,
        [
            "houses.parquet: columns with neither numbers nor text: lists ('[1 2]') … data.drop=[lists]"
        ],
    )
    write(b"PAR1 nothing", "houses.parquet")
    with pytest.raises(InputError, match=r"^houses.parquet: cannot be read: .*Parquet"):
        Table("houses.parquet", "price").setup()


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    write("x", "houses.parquet")
    with pytest.raises(InputError) as caught:
        Table("houses.parquet", "price").setup()
    assert caught.value.lines == [
        "houses.parquet: reading Parquet needs pyarrow; install it: pip install -e '.[parquet]'"
    ]


def test_text_in_some_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas infers types from some 1,000 rows at once where there are 1,000 columns."""
    rows = 5000
    late = column("late", lambda i: "" if i < 2500 else i % 7, rows)
    mark = column("mark", lambda i: "007" if i < 2100 else ["x", "y", "zz"][i % 3], rows)
    flag = column("flag", lambda i: i % 2 == 0 if i < 3000 else "", rows)
    soon = ["soon", *with_cells(late, row4000="soon")[1:]]
    fill = [",".join(f"fill{i}" for i in range(1000)), *[",".join(["0"] * 1000)] * rows]
    frame = TableFile(write(text(late, mark, flag, soon, fill))).read(
        ["mark", "late", "flag", "soon"]
    )
    assert [kind_of(frame[name]) for name in frame] == ["category", "number", "boolean", "category"]
    assert frame["mark"][2098:2102].tolist() == ["007", "007", "x", "y"]
    assert frame["soon"][3998:4001].tolist() == ["1", "soon", "3"]
    monkeypatch.setattr(read_table, "CELLS", 1)  # parts of 2,048 rows
    parts = list(TableFile("houses.csv").read_frames(["late", "mark"], text=["mark"]))
    assert [(part.index[0], len(part)) for part in parts] == [(0, 2048), (2048, 2048), (4096, 904)]
    assert pd.concat(parts).equals(frame[["late", "mark"]])


def test_text_among_numbers() -> None:
    price = column("price", lambda i: i * 1.5)
    late = with_cells(column("late", lambda i: i % 7), row40="soon")
    remedies = "data.na_values=[soon] … data.categories=[late] … data.drop=[late]"
    detail = "late (59 numbers and 1 texts, the first 'soon' (row 40))"
    assert_lines(refused(text(late, price)), [f"{detail} … {remedies}"])
    assert ready(text(late, price), na_values=["soon"]).spec.columns[0].kind == "number"


def test_read_memory(folder: Path) -> None:
    names = [f"x{i}" for i in range(20)]
    values = np.random.default_rng(0).standard_normal((100_000, 20), dtype=np.float32)
    pd.DataFrame(values, columns=names).to_parquet(folder / "large.parquet")
    tracemalloc.start()
    try:
        found = TableFile("large.parquet").read(names)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, values)
    assert peak < 2.2 * values.nbytes


# ---------------------------------------------------------------------------------------------------------------
# What is refused

ADVICE = "(in a config, it starts at the repository: "

DATED = column("day", lambda i: f"2020-01-{i % 28 + 1}")
WRITTEN = column("then", lambda i: f"{i % 28 + 1} March 2020")
INFINITE = with_cells(SIZE, row4="inf", row5="-inf", row6="1e300")
SQUARES = with_cells(column("b", lambda i: i * i), row2="inf")
WINDOWS = text(SIZE, with_cells(COLOUR, row2="grün"), PRICE).encode("cp1252")
CLASSES = with_cells(column("kind", lambda i: i % 2), row7="9")
GROUPED = {"group_column": "colour"}
KIND_IS_TARGET: dict[str, Any] = {"target": "kind"}
# The file, the options, and the parts of each line: the file or key, the problem … the remedy.
REFUSED: dict[str, tuple[str | bytes, dict[str, Any], list[str]]] = {
    "unknown target": (
        text(SIZE, PRICE),
        {"target": "prize"},
        ["data.target: houses.csv has no column 'prize'; did you mean 'price'?"],
    ),
    "no near name": (
        text(SIZE, PRICE),
        {"target": "xyz"},
        ["data.target: houses.csv has no column 'xyz' (it has: size, price)"],
    ),
    "several unknown names": (
        text(SIZE, COLOUR, PRICE),
        {"drop": ["siz"], "group_column": "colr", "categories": ["x"]},
        [
            "data.drop: houses.csv has no column 'siz'; did you mean 'size'?",
            "data.categories: houses.csv has no column 'x' (it has: size, colour, price)",
            "data.group_column: houses.csv has no column 'colr'; did you mean 'colour'?",
        ],
    ),
    "unknown time": (
        text(SIZE, PRICE),
        {"time": "sice"},
        ["data.time: houses.csv has no column 'sice'; did you mean 'size'?"],
    ),
    "target dropped": (
        text(SIZE, PRICE),
        {"drop": ["price"]},
        ["data.drop: 'price' is the target; name another"],
    ),
    "group and time": (
        text(SIZE, PRICE),
        {"group_column": "size", "time": "price"},
        ["data.group_column and data.time: … remove one"],
    ),
    "no feature": (
        text(SIZE, PRICE),
        {"drop": ["size"]},
        ["houses.csv: no column is left to predict 'price' from; add features"],
    ),
    "only identifiers": (
        text(column("id", lambda i: f"k{i}"), PRICE),
        {},
        ["houses.csv: no column is left to predict 'price' from; add features"],
    ),
    "empty": ("", {}, ["houses.csv: the file is empty; add a line of column names, and rows"]),
    "blank lines": (
        "\n\n",
        {},
        ["houses.csv: the file is empty; add a line of column names, and rows"],
    ),
    "no rows": ("size,price\n", {}, ["houses.csv: a header and no rows; add rows"]),
    "constant": (
        text(column("a", lambda _: 3), column("b b", lambda _: "x"), SIZE, PRICE),
        {"drop": ["size"]},
        ['one value: a (always 3), b b (always x) … \'data.drop=["size", "a", "b b"]\''],
    ),
    "empty column": (
        text(column("none", lambda _: ""), SIZE, PRICE),
        {"drop": ["size"]},
        ["houses.csv: columns with no value: none; … data.drop=[size,none]"],
    ),
    "target missing": (
        text(SIZE, with_cells(PRICE, row3="", row59="NA")),
        {},
        ["houses.csv: the target 'price' has no value in 2 of 60 rows (row 3, 59); fill it in"],
    ),
    "mixed": (
        text(with_cells(SIZE, row6="n/k", row9="?"), PRICE),
        {"drop": []},
        [
            "houses.csv: columns with numbers mixed with text: size (58 numbers and 2 texts, the first "
            "'n/k' (row 6)); fix … "
            '\'data.na_values=["n/k", "?"]\' … data.categories=[size] … data.drop=[size]'
        ],
    ),
    "target mixed": (
        text(SIZE, with_cells(PRICE, row2="cheap")),
        {},
        [
            "houses.csv: the target 'price' has … 59 numbers and 1 texts, the first 'cheap' (row 2) … "
            "data.kind=classification"
        ],
    ),
    "repeated name": (
        text(SIZE, SIZE, PRICE),
        {},
        ["houses.csv: the header repeats 'size' (columns 1, 2); rename"],
    ),
    "wrong encoding": (
        WINDOWS,
        {},
        ["houses.csv: not utf-8: line 3 has the byte 0xfc after '7,gr'; … data.encoding=cp1252"],
    ),
    "utf-16": (
        text(SIZE, PRICE).encode("utf-16"),
        {},
        ["houses.csv: not utf-8: the file is utf-16; add data.encoding=utf-16"],
    ),
    "unknown encoding": (
        text(SIZE, PRICE),
        {"encoding": "klingon"},
        ["data.encoding: unknown encoding: klingon; try utf-8"],
    ),
    "semicolons": (
        text(SIZE, PRICE, between=";"),
        {},
        ["houses.csv: one column, 'size;price' … add 'data.separator=;'"],
    ),
    "tabs": (
        text(SIZE, PRICE, between="\t"),
        {},
        [r"houses.csv: one column, 'size\tprice' … add data.separator=tab"],
    ),
    "decimal commas": (
        text(SIZE, COLOUR, PRICE, between=";").replace(".", ","),
        {"separator": ";"},
        [
            "houses.csv: the target 'price' has numbers with commas (the first '0,0' (row 1)); … "
            "data.decimal=comma, or remove"
        ],
    ),
    "currency": (
        text(SIZE, column("price", lambda i: f"${i + 1}.090")),
        {},
        [
            "houses.csv: the target 'price' has numbers with a currency or percent sign (the first "
            "'$1.090' (row 1)); remove the signs, and write 4,090 as 4090"
        ],
    ),
    "percent": (
        text(column("share", lambda i: f"{i % 13} %"), SIZE, PRICE),
        {},
        ["columns with numbers with a currency or percent sign: share (the first '0 %' (row 1)); "],
    ),
    "two rows": (
        text(SIZE[:3], PRICE[:3]),
        {},
        [
            "data.split: [0.7, 0.15, 0.15] leaves no validation samples out of 2; add samples, at "
            "least one for each split"
        ],
    ),
    "few rows": (
        text(SIZE[:21], PRICE[:21]),
        {"split": [0.98, 0.01, 0.01]},
        ["leaves no validation samples out of 20; add samples, or set counts: data.split=[18,1,1]"],
    ),
    "infinite": (
        text(INFINITE, SQUARES, PRICE),
        {},
        [
            "houses.csv: columns with infinite numbers, or beyond float32 (3.4e38): size (3, the "
            "first in row 4), b (1, the first in row 2); fix the file"
        ],
    ),
    "target infinite": (
        text(SIZE, with_cells(PRICE, row7="inf")),
        {},
        ["houses.csv: the target 'price' has infinite … (1, the first in row 7); fix or remove"],
    ),
    "target of one text": (
        text(SIZE, column("price", lambda _: "a")),
        {},
        ["houses.csv: the target 'price' has only one value (always a); at least two"],
    ),
    "target of one number": (
        text(SIZE, column("price", lambda _: 5)),
        {},
        ["houses.csv: the target 'price' has only one value (always 5); at least two"],
    ),
    "rare classes": (
        text(SIZE, with_cells(KIND, row7="d", row9="c", row11="c")),
        KIND_IS_TARGET,
        ["fewer than 3 rows, one per split: c (2, row 9), d (1, row 7); add rows, remove these"],
    ),
    "rare numbers": (
        text(SIZE, CLASSES),
        KIND_IS_TARGET,
        ["houses.csv: the target 'kind' … 9 (1, row 7); add rows … data.kind=regression"],
    ),
    "regression of text": (
        text(SIZE, KIND),
        {"target": "kind", "kind": "regression"},
        ["data.kind: … 'kind' has 'a'; set data.kind=classification"],
    ),
    "dates": (
        text(DATED, WRITTEN, PRICE),
        {},
        ["houses.csv: columns with dates: day, then; … data.drop=[day,then] … data.time=day"],
    ),
    "target of dates": (
        text(SIZE, column("day", lambda i: f"{i % 28 + 1}.3.2020")),
        {"target": "day"},
        ["houses.csv: the target 'day' has dates; convert them to numbers"],
    ),
    "no number": (
        text(with_cells(column("day", lambda i: i), row5="soon"), SIZE, PRICE),
        {"time": "day"},
        ["data.time: houses.csv: column 'day': 'soon' (row 5) is not a date or number"],
    ),
    "no date": (
        text(with_cells(DATED, row5="soon"), SIZE, PRICE),
        {"time": "day"},
        ["data.time: houses.csv: column 'day': 'soon' (row 5) is not a date … as 2026-11-21"],
    ),
    "group missing": (
        text(with_cells(COLOUR, row5=""), SIZE, PRICE),
        GROUPED,
        ["data.group_column: houses.csv: column 'colour' … 1 of 60 rows (row 5); fill it in"],
    ),
    "few groups": (
        text(COLOUR, SIZE, PRICE),
        GROUPED,
        ["data.split: [0.7, 0.15, 0.15] needs a group for each split"],
    ),
    "long row": (
        text(SIZE, with_cells(PRICE, row5="7,5")),
        {},
        ["houses.csv: … Expected 2 fields in line 6, saw 3; fix the file, or set data.separator"],
    ),
    "long first row": (
        text(SIZE, with_cells(PRICE, row1="7,5")),
        {},
        ["houses.csv: row 1 has more cells than the header; fix the header"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_tables(name: str) -> None:
    content, options, lines = REFUSED[name]
    assert_lines(refused(content, **options), lines)


def test_refused_paths(folder: Path) -> None:
    def told(path: str) -> list[str]:
        with pytest.raises(InputError) as caught:
            Table(path, "price").setup()
        return caught.value.lines

    write(text(SIZE, PRICE))
    assert told("house.csv") == ["data.path: house.csv: no such file; did you mean 'houses.csv'?"]
    assert told("no/where.csv") == [
        f"data.path: no/where.csv: no such file {ADVICE}{folder / 'no/where.csv'})"
    ]
    (folder / "tables").mkdir()
    assert told("tables") == ["data.path: tables is a folder; name a file"]
    write(text(SIZE, PRICE), "tables/a.csv")
    assert told("tables") == ["data.path: tables is a folder; name a file in it: a.csv"]
    write("x", "a.xlsx")
    assert told("a.xlsx") == ["data.path: a.xlsx: .xlsx is not supported; save as CSV or Parquet"]
    write("x", "a.csv.gz")
    assert told("a.csv.gz")[0].startswith("a.csv.gz: cannot be read: Not a gzipped file")


# ---------------------------------------------------------------------------------------------------------------
# A table that comes later


def test_encode_frame() -> None:
    flag = column("flag", lambda i: ["True", "False", ""][i % 3])
    code = column("code", lambda i: f"00{i % 4}")
    content = text(with_cells(SIZE, row3=""), with_cells(COLOUR, row4=""), flag, code, PRICE)
    data = ready(content, categories=["code"])
    columns, notes = data.spec.columns, list[str]()
    (frame,) = data.file.read_frames(["price", "code", "flag", "colour", "size"], text=["code"])
    encoded = torch.from_numpy(encode_frame(frame, columns, notes))
    x = data.samples.x
    assert isinstance(x, torch.Tensor)
    assert torch.equal(encoded.nan_to_num(9), x.nan_to_num(9))
    assert notes == ["columns that are not in the training data, ignored: price"]
    other = pd.DataFrame(
        {"size": ["3", None], "colour": ["green", "red"], "flag": ["true", 0], "code": [7, 1.0]}
    )
    assert np.nan_to_num(encode_frame(other, columns), nan=9).tolist() == [
        [3.0, -1.0, 1.0, -1.0],
        [9.0, columns[1].categories.index("red"), 0.0, -1.0],
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"drop": ["size"]},
            "the table lacks 1 of the 3 columns of the training data: size; unknown columns: price",
        ),
        (
            {"rename": "sizes"},
            "the table lacks 1 of the 3 columns of the training data: size; did you mean 'sizes'?",
        ),
        (
            {"size": "large"},
            "column 'size': 'large' (row 3) is not a number; the training data has numbers there",
        ),
        (
            {"size": float("inf")},
            "column 'size': inf (row 3) is not a number; the training data has numbers there",
        ),
        (
            {"size": 1e308},
            "column 'size': 1e+308 (row 3) is beyond float32 (3.4e38); correct it",
        ),
        (
            {"flag": 2},
            "column 'flag': 2 (row 3) is not a boolean; the training data has booleans there",
        ),
        (
            {"flag": "perhaps"},
            "column 'flag': 'perhaps' (row 3) is not a boolean; the training data has booleans there",
        ),
    ],
)
def test_encode_frame_refuses(change: dict[str, Any], line: str) -> None:
    data = ready(text(SIZE, COLOUR, column("flag", lambda i: i % 2 == 0), PRICE))
    (frame,) = data.file.read_frames(["size", "colour", "flag", "price"])
    frame = frame.astype(object)
    if "drop" in change:
        frame = frame.drop(columns=change["drop"])
    elif "rename" in change:
        frame = frame.rename(columns={"size": change["rename"]})
    else:
        ((name, value),) = change.items()
        frame.loc[2, name] = value
    with pytest.raises(InputError) as caught:
        encode_frame(frame, data.spec.columns)
    assert caught.value.lines == [line]


# ---------------------------------------------------------------------------------------------------------------
# End to end


@pytest.mark.parametrize(("which", "metric"), [("iris", "test/accuracy"), ("diabetes", "test/mae")])
def test_train_on_csv(
    which: str, metric: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if which == "iris":
        source = load_iris(as_frame=True)
        frame = source.data.assign(target=source.target_names[source.target])
    else:
        frame = load_diabetes(as_frame=True, scaled=False).frame
        frame["sex"] = frame["sex"].map({1.0: "female", 2.0: "male"})
        frame.loc[::7, "bmi"] = None
    path = folder / f"{which}.csv"
    frame.to_csv(path, index=False)
    result = train("table", f"data.path={path}", "data.target=target")
    kind = "classification" if which == "iris" else "regression"
    assert f": {kind} (to change it, set data.kind)" in capsys.readouterr().out
    assert metric in result.metrics
    run = load_run(result.run.path)
    assert evaluate(run) == result.metrics
    x = torch.from_numpy(encode_frame(pd.read_csv(path), run.spec.columns))
    assert torch.equal(
        run.predict(x)["prediction"], run.predict(run.data().samples.x)["prediction"]
    )


# ---------------------------------------------------------------------------------------------------------------
# Several targets

HIGH = column("high", lambda i: i % 2)
OLD = column("old", lambda i: "true" if i % 3 else "false")
TAGS = column("tags", lambda i: ["red;round", "red", "", " round ; old;"][i % 4])


def test_several_targets() -> None:
    data = ready(text(SIZE, COLOUR, PRICE, HIGH), ["high", "price"])  # type: ignore[arg-type]
    assert (data.spec.target_type, data.spec.names, data.spec.target) == (
        "values",
        ("high", "price"),
        "high, price",
    )
    assert data.spec.target_shape == (2,)
    assert data.samples.y[:3].tolist() == [[0, 0], [1, 1.5], [0, 3]]
    assert [column.name for column in data.spec.columns] == ["size", "colour"]
    assert data.notes[0] == "target: 2 columns (high, price): values (to change it, set data.kind)"
    labels = ready(text(SIZE, HIGH, OLD), ["old", "high"])  # type: ignore[arg-type]
    assert (labels.spec.target_type, labels.spec.names) == ("labels", ("old", "high"))
    assert labels.samples.y[:4].tolist() == [[0, 0], [1, 1], [1, 0], [0, 1]]
    assert labels.samples.y.dtype == torch.int64  # type: ignore[union-attr]
    assert (
        labels.notes[0]
        == "target: 2 columns (old, high): labels, any number per row (to change it, set data.kind)"
    )
    train = labels.indices["train"]
    assert labels.spec.class_counts == tuple(labels.samples.y[train].sum(0).tolist())
    assert labels.spec.target_mean == pytest.approx(
        labels.samples.y[train].float().mean(0).tolist()
    )
    values = ready(text(SIZE, HIGH, OLD), ["old", "high"], kind="regression")  # type: ignore[arg-type]
    assert values.spec.target_type == "values"


def test_labels_option() -> None:
    data = ready(text(SIZE, TAGS), "tags", labels=";")
    assert (data.spec.target_type, data.spec.names) == ("labels", ("old", "red", "round"))
    assert data.samples.y[:4].tolist() == [[0, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert data.notes[0] == "target: tags, 3 labels, any number per row (split by data.labels)"


def test_stratified_labels() -> None:
    rows = column(
        "tags", lambda i: "rare;red" if i < 4 else "red;round" if i % 4 == 0 else "red", 400
    )
    data = ready(text(column("size", lambda i: i, 400), rows), "tags", labels=";")
    both = [data.samples.y[data.indices[stage]][:, 2].float().mean().item() for stage in STAGES]
    assert both == pytest.approx([99 / 400] * 3, abs=0.01)
    folds = [
        ready(text(column("size", lambda i: i, 400), rows), "tags", labels=";", fold=(k, 4, 0))
        for k in range(4)
    ]
    shares = [data.samples.y[data.indices["val"]][:, 2].float().mean().item() for data in folds]
    assert shares == pytest.approx([99 / 400] * 4, abs=0.01)


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        (["price", "colour"], {}, "houses.csv: the target 'colour' is text, such as 'blue'; … use"),
        (
            ["price", "high"],
            {"kind": "classification"},
            "data.kind: several targets are labels … in: price; set data.kind=regression",
        ),
        (["price", "price"], {}, "data.target: expected different columns, got ['price', 'price']"),
        (["price", "high"], {"labels": ";"}, "data.labels: ';' … change data.target"),
        (
            ["price", "hihg"],
            {},
            "data.target: houses.csv has no column 'hihg'; did you mean 'high'",
        ),
    ],
)
def test_refused_targets(target: list[str], options: dict[str, Any], line: str) -> None:
    content = text(SIZE, COLOUR, PRICE, HIGH)
    assert_lines(refused(content, target, **options), [line])  # type: ignore[arg-type]


def test_train_and_predict_several_targets(folder: Path) -> None:
    write(text(SIZE, COLOUR, PRICE, HIGH))
    result = train("table", "data.path=houses.csv", "data.target=[price,high]")
    assert {"test/mae", "test/mae_price", "test/r2_high", "val/rmse_price"} <= set(result.metrics)
    call("predict", "latest", str(folder / "houses.csv"))
    frame = pd.read_csv(result.run.path / "predictions.csv")
    assert list(frame) == ["row", "prediction_price", "prediction_high"]
    write(text(SIZE, TAGS))
    result = train("table", "data.path=houses.csv", "data.target=tags", "data.labels=;")
    call("predict", "latest", str(folder / "houses.csv"))
    frame = pd.read_csv(result.run.path / "predictions.csv", keep_default_na=False)
    assert list(frame) == [
        "row",
        "prediction",
        "probability_old",
        "probability_red",
        "probability_round",
    ]
    likely = frame.filter(like="probability_").to_numpy() >= 0.5
    names = np.array(["old", "red", "round"])
    assert frame["prediction"].tolist() == [";".join(names[row]) for row in likely]


@pytest.mark.parametrize("number", ["1 100 0{:02}", "1\u202f1{:02}", "1.1{:02},5", "1.100.0{:02}"])
@pytest.mark.parametrize("decimal", ["point", "comma"])
def test_marks_between_thousands(number: str, decimal: str) -> None:
    area = column("area", lambda i: number.format(i) if i % 3 else i)
    content = text(SIZE, area, KIND, between=";")
    [line] = refused(content, "kind", separator=";", decimal=decimal)
    assert "columns with numbers with marks between thousands: area (the first" in line
    assert "data.categories=[area]" in line


def test_column_of_splits_in_a_table() -> None:
    splits = column("split", lambda i: ("train", "val", "test")[i % 3])
    notes = ready(text(SIZE, splits, PRICE)).notes
    assert (
        "split: holds names of splits, which a table does not take from a column, and is a feature; "
        "drop it: data.drop=[split]"
    ) in notes
