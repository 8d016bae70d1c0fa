"""Names of files, classes and columns that control a terminal, break rows, or are formulas to a spreadsheet."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.kindling.config.errors import InputError, escape_control
from src.kindling.data.images.find_images import list_images
from src.kindling.deploy.predict_inputs import find
from src.kindling.runs.csv_text import neutralize, to_csv
from src.kindling.runs.files import display_path
from src.kindling.training.run_loggers import MetricsFiles
from tests.conftest import call, mistakes, train

FORMULAS = ("=1+2", "+cmd|' -C calc'!A0", "-2+3|x", "@SUM(1)", "\t=1", "\uff1d1+2")
BREAKING = ('a\x1b[31m"red', "b\nline", "c\rreturn", "d\u202egpj", "e,;f")


@pytest.mark.parametrize("text", [*FORMULAS, "\r=1", "\n=1", '=HYPERLINK("http://x","y")'])
def test_formula_gets_a_quote(text: str) -> None:
    assert neutralize(text) == "'" + text
    table = pd.DataFrame({text: [text, "plain"], "number": [-1.5, 2]})
    header, row, *_ = csv.reader(io.StringIO(to_csv(table), newline=""))
    assert header == ["'" + text, "number"]
    assert row == ["'" + text, "-1.5"]
    header, row, *_ = csv.reader(io.StringIO(to_csv(table, exact=True), newline=""))
    assert (header[0], row[0]) == (text, text)


@pytest.mark.parametrize("text", ["-1", "+1.5e3", "-inf", "-", "a=b", "", "1-2", 3, -4.5, None])
def test_number_and_plain_text_stay(text: object) -> None:
    assert neutralize(text) is text


@pytest.mark.parametrize("exact", [False, True])
def test_rows_stay_rows(exact: bool) -> None:
    table = pd.DataFrame({name: [*BREAKING, None] for name in BREAKING})
    read = pd.read_csv(io.StringIO(to_csv(table, exact), newline=""))
    pd.testing.assert_frame_equal(read, table, check_dtype=False)


def test_metric_names_keep_the_header_of_metrics_csv(tmp_path: Path) -> None:
    names = [*FORMULAS, *BREAKING]
    for first in (0, 2):  # begun, and resumed
        files = MetricsFiles(tmp_path, first)
        for step in (first, first + 1):
            files.log_metrics({**dict.fromkeys(names, float(step)), "epoch": step}, step)
    read = pd.read_csv(tmp_path / "metrics.csv")
    assert [*read] == ["epoch", "step", *("'" + name for name in FORMULAS), *BREAKING]
    assert read["'=1+2"].tolist() == [0, 1, 2, 3]


def test_lines_and_paths_are_escaped(tmp_path: Path) -> None:
    assert escape_control("a\x1b]0;x\x07b\nc\u202e\udcff é±→") == (
        "a\\x1b]0;x\\x07b\\nc\\u202e\\udcff é±→"
    )
    assert InputError(["x\x1b[2J: no such file"]).lines == ["x\\x1b[2J: no such file"]
    assert display_path(tmp_path / "a\x1b[2J").endswith("a\\x1b[2J")
    for verb in ("evaluate", "report", "predict"):
        (line,) = mistakes(verb, "ab\x1b[2J", *(["x.png"] if verb == "predict" else []))
        assert line.startswith("ab\\x1b[2J: no such run")


def test_hostile_names_from_folder_to_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, root = np.random.default_rng(0), tmp_path / "images"
    classes = ("=1+2", 'a\x1b[31m"red', "b\nline", "c\rreturn")
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(
                root / name / f"{(*FORMULAS, *BREAKING)[number]}{number}.png"
            )
    Image.new("L", (8, 8)).save(root / "=1+2" / os.fsdecode(b"\xff.png"))
    run = train("image_folder", f"data.root={root}", "data.size=8", "net.channels=[8]").run
    split = pd.read_csv(run.path / "split.csv")
    names = {f"{name}/{file.name}" for name in classes for file in (root / name).iterdir()}
    assert len(split) == 25
    names = {name.replace("\udcff", "\\udcff") for name in names}
    assert {str(name).removeprefix("'") for name in split["name"]} == names
    assert sum(str(name).startswith("'=") for name in split["name"]) == 7
    files = {}
    for exact in ([], ["--exact"]):
        out = tmp_path / "out.csv"
        out.unlink(missing_ok=True)
        call("predict", str(run.path), str(root / "=1+2"), "--out", str(out), *exact)
        files[bool(exact)] = pd.read_csv(out)
    call("look", "image_folder", f"data.root={root}", "data.size=8")
    call("compare", str(run.path), "--csv", str(tmp_path / "runs.csv"))
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\r" not in output
    assert "b\\nline" in output
    for exact, table in files.items():
        assert len(table) == 7
        assert {name for name in table if name.startswith("probability_")} == {
            f"probability_{name}" for name in classes
        }
        shown = {name if exact else neutralize(name) for name in classes}
        assert set(table["prediction"]) <= shown
        # The folder's path comes first.
        paths = {str(path).replace("\udcff", "\ufffd") for path in (root / "=1+2").iterdir()}
        assert set(table["path"]) == paths
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 1


def test_each_real_folder_is_read_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a", root / "b", outside / "c"):
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "0.png")
    (root / "a" / "to_b").symlink_to(root / "b")
    (root / "b" / "to_a").symlink_to(root / "a")
    (root / "b" / "to_root").symlink_to(root)
    for name in ("first", "second"):
        (root / name).symlink_to(outside)
    (outside / "back").symlink_to(root / "a")
    (outside / "c" / "loop").symlink_to(outside)
    (outside / "gone").symlink_to(tmp_path / "nowhere")
    names, left_out = list_images(root)
    assert names == ["a/0.png", "b/0.png", "first/c/0.png"]
    assert sorted(left_out["link to a folder that is read already"]) == [
        "back",
        "loop",
        "second",
        "to_a",
        "to_b",
        "to_root",
    ]
    for word in (str(root), f"{root}/"):
        found = find([word], images=True, scratch=str(tmp_path))
        assert found == [str(root / name) for name in names]
    (root / ".hidden").mkdir()
    Image.new("L", (8, 8)).save(root / ".hidden" / "1.png")
    Image.new("L", (8, 8)).save(root / ".2.png")
    assert find([f"{root}/"], images=True, scratch=str(tmp_path)) == found
