"""Looking at the data: the summary in words, and pictures that change with what is behind them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from matplotlib import pyplot

from src.data.diabetes import Diabetes
from src.kindling.analysis.look import correlate, look
from src.kindling.config.errors import InputError
from src.kindling.training.build import build_data
from tests.conftest import call, checked


def test_images_are_summarized_and_drawn(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, plots = call("look", "digits")
    assert capsys.readouterr().out.splitlines() == [
        "samples     1,797: 1,257 train, 270 val, 270 test",
        "input       image 1 x 8 x 8",
        "classes     10, samples in training: 0 124 (9.9%), 1 128 (10.2%), 2 123 (9.8%), "
        "3 127 (10.1%), 4 127 (10.1%), 5 128 (10.2%), 6 127 (10.1%), 7 125 (9.9%), 8 122 (9.7%), "
        "9 126 (10.0%)",
        "balance     1 128 to 8 122 in training (ratio 1.05)",
        "mean        4.889 (raw, each channel, training split)",
        "std         6.021",
        "duplicates  none in different splits",
        "note        classes: 0 (178), 1 (182), 2 (177), 3 (183), 4 (181), 5 (182), 6 (181), "
        "7 (179), 8 (174), 9 (180)",
        f"plots       {logs / 'digits' / 'look'}: train.png, test.png, target.png",
    ]
    assert [path.name for path in plots] == ["train.png", "test.png", "target.png"]
    for path in plots:
        height, width, _ = pyplot.imread(path).shape
        assert min(height, width) > 300
    assert pyplot.get_fignums() == []


def test_tables_are_summarized_and_drawn(tmp_path: Path) -> None:
    summary, plots = look(checked("diabetes"), tmp_path)
    assert "columns     10 number" in summary
    assert "missing     nothing" in summary
    assert [path.name for path in plots] == ["columns.png", "correlations.png", "target.png"]


def test_plots_depend_on_data(tmp_path: Path) -> None:
    plain = {path.name: path.read_bytes() for path in look(checked("digits"), tmp_path / "a")[1]}
    cut = "data.train_transforms=[{_target_: src.kindling.data.augment.CutMix}]"
    augmented = {
        path.name: path.read_bytes() for path in look(checked("digits", cut), tmp_path / "b")[1]
    }
    assert plain["train.png"] != augmented["train.png"]
    assert plain["test.png"] == augmented["test.png"]
    split = {
        path.name: path.read_bytes()
        for path in look(checked("digits", "data.split_seed=1"), tmp_path / "b")[1]
    }
    assert plain["test.png"] != split["test.png"]


def test_look_at_table_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.kindling.analysis.look.COLUMNS", 4)
    monkeypatch.setattr("src.kindling.analysis.look.SAMPLED", 50)  # of 310 rows
    rows = ["a,b,c,d,e,color,y"] + [
        f"{i},{i % 7},{'' if i % 3 == 0 else i % 5},{i % 11},{i % 13},"
        f"{'' if i % 4 == 0 else 'red' if i % 2 else 'blue'},{i * 0.37}"
        for i in range(400)
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    config = checked("table", f"data.path={tmp_path / 't.csv'}", "data.target=y")
    summary, plots = look(config, tmp_path / "look")
    assert [path.name for path in plots] == [
        "columns.png",
        "columns_2.png",
        "missing.png",
        "correlations.png",
        "target.png",
    ]
    data = build_data(config)
    train = data.indices["train"].tolist()
    lacking = [sum(i % 3 == 0 for i in train), sum(i % 4 == 0 for i in train)]
    assert f"missing     c ({lacking[0]}), color ({lacking[1]})" in summary


def test_old_plots_are_removed(tmp_path: Path) -> None:
    (tmp_path / "columns.png").write_bytes(b"old")
    look(checked("digits"), tmp_path)
    assert not (tmp_path / "columns.png").exists()


def test_correlations_are_pearsons() -> None:
    data = Diabetes()
    data.setup()
    rows = data.samples.x[data.indices["train"]]
    (one, other), value = next(iter(correlate(data).items()))
    names = [column.name for column in data.spec.columns]
    pair = torch.stack([rows[:, names.index(one)], rows[:, names.index(other)]])
    assert value == pytest.approx(torch.corrcoef(pair)[0, 1].item(), abs=1e-4)
    assert (one, other) == ("s1", "s2")


def test_data_without_a_spec_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.kindling.analysis.look.build_data", lambda _: LightningDataModule())
    with pytest.raises(
        InputError, match="LightningDataModule has no spec; src.look needs Kindling's DataModule"
    ):
        look(checked("digits"), tmp_path / "look")
    assert not (tmp_path / "look").exists()
