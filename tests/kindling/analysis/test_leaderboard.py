"""Runs ranked, listed and drawn."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.kindling.analysis.leaderboard import Leaderboard, Row, find_differing_keys, read
from tests.conftest import call, mistakes, train

CONFIG = {
    "data._target_": "src.data.digits.Digits",
    "net._target_": "src.nets.cnn.CNN",
    "net.width": 8,
    "seed": 0,
}


def make(
    logs: Path,
    name: str,
    metrics: dict[str, float | None],
    config: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """The run.json of a run that has finished, as a training writes it."""
    path = logs / name
    path.mkdir(parents=True)
    summary = {
        "config_name": path.parent.name,
        "status": "finished",
        "started": f"{path.name}T00:00:00+0000",
        "seconds": 3.25,
        "parameters": 29162,
        "monitor": "val/loss",
        "mode": "min",
        "config": {**CONFIG, **(config or {})},
        "metrics": metrics,
        **facts,
    }
    (path / "run.json").write_text(json.dumps(summary))
    return path


def predictions(path: Path, **columns: Any) -> Row:
    (path / "predictions").mkdir(exist_ok=True)
    np.savez(path / "predictions" / "test.npz", **columns)
    return read(path)


def classes(path: Path, right: Any) -> Row:
    """Predictions of two classes that are right where it is said."""
    n = len(right)
    targets = np.arange(n) % 2
    predicted = np.where(right, targets, 1 - targets)
    return predictions(
        path,
        index=np.arange(n),
        target=targets,
        prediction=predicted,
        probability=np.eye(2)[predicted],
    )


def compared(*argv: str) -> list[Leaderboard]:
    boards: Any = call("compare", *argv)
    return boards


def count_lines(page: str) -> int:
    """The lines of the first color in a page's curves."""
    return page.count("stroke: #1f77b4; stroke-width: 1.5")


def ranking(*argv: str) -> list[list[str]]:
    return [[row.name for row in board.rows] for board in compared(*argv)]


# ------------------------------------------------------------------------------------------
# The leaderboard


def test_real_runs_are_ranked(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = train("digits").run, train("digits", "net=mlp").run
    capsys.readouterr()
    (board,) = compared()
    best = min((one, other), key=lambda run: run.metrics["val/loss"])
    assert board.rows[0].paths == [best.path.resolve()]
    assert board.rows[0].numbers["test/accuracy"] == best.metrics["test/accuracy"]
    assert {key for key in board.columns if "." in key} == {"net._target_"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Digits, limit_val_batches=2, limit_test_batches=2: val/loss, lowest first"
    assert lines[1].split()[:4] == ["run", "val/loss", "net", "test/accuracy"]
    name = best.path.relative_to(logs).as_posix()
    kind = "CNN" if best is one else "MLP"
    assert lines[2].split()[:4] == [
        name,
        f"{best.metrics['val/loss']:.4f}",
        kind,
        f"{best.metrics['test/accuracy']:.4f}",
    ]


def test_ranking_direction(logs: Path) -> None:
    for name, loss, accuracy in (
        ("a", 0.5, 0.9),
        ("b", 0.1, 0.7),
        ("c", None, None),
        ("d", 0.3, 0.8),
    ):
        make(logs, f"low/{name}", {"val/cost": loss}, {"net.width": name}, monitor="val/cost")
        make(
            logs,
            f"high/{name}",
            {"val/accuracy": accuracy},
            {"net.width": name},
            monitor="val/accuracy",
            mode="max",
        )
    assert ranking("low") == [["low/b", "low/d", "low/a", "low/c"]]
    assert ranking("high") == [["high/a", "high/d", "high/b", "high/c"]]
    for name, error, gain in (("a", 0.5, 0.1), ("b", 0.1, 0.2)):
        make(logs, f"other/{name}", {"test/nll": error, "test/reward": gain}, {"net.width": name})
    assert ranking("--sort", "test/nll", "other") == [["other/b", "other/a"]]
    assert ranking("--sort", "test/reward", "other") == [["other/b", "other/a"]]


def test_limited_runs_are_ranked_separately(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(logs, "digits/whole", {"val/loss": 0.4}, {"trainer.max_epochs": 3})
    make(logs, "digits/debug", {"val/loss": 0.1}, {"trainer.limit_val_batches": 3})
    assert ranking() == [["digits/debug"], ["digits/whole"]]
    titles = [line for line in capsys.readouterr().out.splitlines() if "lowest first" in line]
    assert titles == [
        "Digits, limit_val_batches=3: val/loss, lowest first",
        "Digits: val/loss, lowest first",
    ]
    assert ranking("--sort", "val/loss") == [["digits/debug", "digits/whole"]]
    assert capsys.readouterr().out.startswith("Digits: val/loss, lowest first\n")


def test_seeds_become_one_row(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, loss in enumerate((0.1, 0.2, 0.6)):
        make(
            logs,
            f"digits/{seed}",
            {"val/loss": loss, "test/accuracy": 0.9 if seed else None},
            {"seed": seed},
        )
    make(logs, "digits/wide", {"val/loss": 0.4}, {"net.width": 9})
    make(logs, "mnist/1", {"val/loss": 0.5}, {"seed": 3})  # of another config
    (board,) = compared()
    row = board.rows[0]
    assert [row.name for row in board.rows] == ["digits/0 (3 seeds)", "digits/wide", "mnist/1"]
    assert row.numbers["val/loss"] == pytest.approx(0.3)
    assert row.std["val/loss"] == pytest.approx(0.07**0.5)  # (0.04 + 0.01 + 0.09) / 2
    assert "test/accuracy" not in row.numbers  # one is NaN
    assert board.columns == [
        "run",
        "val/loss",
        "net.width",
        "seed",
        "test/accuracy",
        "seconds",
        "parameters",
    ]
    line = capsys.readouterr().out.splitlines()[2].strip()
    assert re.split("  +", line) == [
        "digits/0 (3 seeds)",
        "0.3000 ± 0.2646",
        "8",
        "[0, 1, 2]",
        "-",
        "3.2",
    ]


def test_folds_of_a_study_become_one_row(logs: Path) -> None:
    for fold in range(3):
        make(
            logs,
            f"digits/crossval-3/repeat0_fold{fold}",
            {"val/loss": 0.1 * fold},
            {"data.fold": [fold, 3, 0]},
        )
    make(logs, "digits/crossval-2/repeat0_fold0", {"val/loss": 0.3}, {"data.fold": [0, 2, 0]})
    (board,) = compared()
    assert [row.name for row in board.rows] == [
        "digits/crossval-3 (3 folds)",
        "digits/crossval-2/repeat0_fold0",
    ]
    assert board.rows[0].numbers["val/loss"] == pytest.approx(0.1)
    assert board.rows[0].std["val/loss"] == pytest.approx(0.1)


def test_repeated_seed_uses_newest_run(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed, loss in (("1", 0, 9.0), ("2", 0, 0.1), ("3", 1, 0.3)):
        make(logs, f"digits/{name}", {"val/loss": loss}, {"seed": seed})
    (board,) = compared()
    assert board.rows[0].numbers["val/loss"] == pytest.approx(0.2)
    assert (
        "not ranked: digits/1: a newer run has the same config and seed" in capsys.readouterr().out
    )
    assert ranking("digits/1", "digits/2") == [
        ["digits/2", "digits/1"]
    ]  # no mean over seeds: both are shown


def test_column_order(logs: Path) -> None:
    names = ("val/mae", "val/loss", "test/rmse", "test/mae", "test/loss")
    make(logs, "digits/1", dict.fromkeys(names, 0.5))
    assert [board.columns for board in compared()] == [
        [
            "run",
            "val/loss",
            "test/mae",
            "seconds",
            "parameters",
            "test/rmse",
            "test/loss",
            "val/mae",
        ]
    ]


def test_differing_columns_only(logs: Path) -> None:
    make(logs, "digits/1", {"val/loss": 0.1}, {"net.width": "x" * 20 + "y" * 20, "tags": []})
    make(
        logs,
        "digits/2",
        {"val/loss": 0.2},
        {"net._target_": "src.nets.mlp.MLP", "tags": ["a", "b"], "net.norm": None},
    )
    (board,) = compared()
    assert board.columns[2:-2] == ["net.width", "tags", "net.norm", "net._target_"]
    assert [*board.labels.values()][2:-2] == ["width", "tags", "norm", "net"]
    texts = [[row.format(column) for column in board.columns[2:]] for row in board.rows]
    assert texts == [
        ["xxxxxxxxxx…yyyyyyyyyyyyy", "[]", "-", "CNN", "3.2", "29,162"],
        ["8", '["a", "b"]', "null", "MLP", "3.2", "29,162"],
    ]
    assert find_differing_keys([{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 2}]) == ["b"]


def test_label_of_a_key_is_its_shortest_unique_end() -> None:
    config = {
        "seed": 0,
        "data.seed": 0,
        "task._target_": "T",
        "task.optimizer.lr": 0.1,
        "finetune.optimizer.lr": 0.2,
        "trainer.max_epochs": 3,
    }
    board = Leaderboard("", [Row([], "finished", config=config)], ["run", *config, "val/map.50"])
    assert [*board.labels.values()] == [
        "run",
        "seed",
        "data.seed",
        "task",
        "task.optimizer.lr",
        "finetune.optimizer.lr",
        "max_epochs",
        "val/map.50",
    ]


def test_name_of_a_run_labels_its_row(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, folder in enumerate(("1_wide-net", "2", "3")):
        name = None if i == 2 else "wide net"
        make(logs, f"digits/{folder}", {"val/loss": i}, {"name": name, "net.width": i})
    (board,) = compared()
    assert [row.label for row in board.rows] == [
        "digits/1_wide-net",
        "digits/2, wide net",
        "digits/3",
    ]
    assert "name" not in board.columns
    assert " digits/2, wide net " in capsys.readouterr().out


def test_other_files_of_one_data_class_have_their_own_title(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"data._target_": "src.kindling.data.Table", "data.target": "price"}
    for name in ("houses", "cars"):
        make(logs, f"table/{name}", {"val/loss": 0.1}, {**target, "data.path": f"{name}.csv"})
    assert [board.title for board in compared()] == [
        f"Table, path={name}.csv, target=price: val/loss, lowest first"
        for name in ("cars", "houses")
    ]
    (both,) = compared("--sort", "val/loss")
    assert both.title == "Table, target=price: val/loss, lowest first"
    assert both.columns[2] == "data.path"


def test_other_monitors_and_other_data_are_ranked_apart(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(logs, "one/1", {"val/loss": 0.3, "test/accuracy": 0.5})
    make(logs, "two/1", {"val/loss": 0.2, "test/accuracy": 0.7})
    make(logs, "two/2", {"val/f1": 0.2, "test/accuracy": 0.6}, monitor="val/f1", mode="max")
    make(logs, "other/1", {"val/loss": 0.1}, {"data._target_": "src.data.mnist.MNIST"})
    assert ranking() == [["two/1", "one/1"], ["other/1"], ["two/2"]]
    printed = capsys.readouterr().out
    assert "\nDigits: val/f1, highest first\n" in printed
    assert "are ranked separately; pass --sort METRIC to rank all\n" in printed
    assert ranking("--sort", "test/accuracy") == [["two/1", "two/2", "one/1", "other/1"]]
    assert ranking("--sort", "val/loss", "one", "two") == [["two/1", "one/1", "two/2"]]
    assert "Digits: val/loss, lowest first" in capsys.readouterr().out
    assert mistakes("compare", "--sort", "test/acuracy") == [
        "--sort test/acuracy: no such metric; did you mean 'test/accuracy'? (there are: "
        "parameters, seconds, test/accuracy, val/f1, val/loss)"
    ]


def test_missing_monitor_is_reported(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(logs, "digits/1", {"val/loss": 0.1}, monitor="train/loss")
    assert compared()
    assert (
        "Digits: train/loss, lowest first (not among the final metrics; pass --sort METRIC)"
        in capsys.readouterr().out
    )


def test_broken_and_unfinished_runs_are_listed(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(logs, "digits/good", {"val/loss": 0.1})
    for state in ("running", "interrupted", "failed"):
        make(logs, f"digits/{state}", {}, status=state)
    (logs / "digits" / "empty").mkdir()
    for name, text in (("cut", '{"config_na'), ("list", "[]"), ("keys", "{}"), ("words", None)):
        path = make(logs, f"digits/{name}", {"val/loss": "low"})  # type: ignore[dict-item]
        (path / "run.json").write_text(text or (path / "run.json").read_text())
    (logs / "digits" / "none").mkdir()
    (logs / "digits" / "none" / "config.yaml").write_text("config: digits\n")
    (logs / "digits" / "look").mkdir()
    (logs / "digits" / "look" / "target.png").write_bytes(b"")  # no run
    assert ranking() == [["digits/good"]]
    assert [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("not ranked")
    ] == [
        f"not ranked: digits/{name}"
        for name in (
            "cut: broken: run.json is damaged",
            "empty: broken: it is empty",
            "failed: failed",
            "interrupted: interrupted",
            "keys: broken: run.json is damaged",
            "list: broken: run.json is damaged",
            "none: broken: no run.json",
            "running: running",
            "words: broken: run.json is damaged",
        )
    ]
    assert ranking("digits/failed", "digits/empty") == []


def test_runs_are_named_in_many_ways(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("digits").run.path
    make(logs, "mnist/1", {"val/loss": 0.1})
    elsewhere = make(tmp_path / "else [1]", "a/b", {"val/loss": 0.2})
    name = f"digits/{run.name}"
    for words in (
        ["digits"],
        ["digits/*"],
        [name],
        [str(run)],
        ["latest"],
        ["digits/latest"],
        ["dig*"],
        [str(logs / "digits" / "*")],
        [name, "digits"],
        [str(run / "checkpoints" / "best.ckpt")],
    ):
        assert ranking(*words) == [[name]], words
    monkeypatch.chdir(elsewhere.parent)
    assert ranking("b") == [["b"]]  # as a user types it there
    assert ranking(str(tmp_path / "else [1]")) == [["b"]]


def test_compare_without_runs_names_the_nearest(logs: Path) -> None:
    assert mistakes("compare") == [f"{logs}: no runs yet; start one with python -m src.train"]
    make(logs, "digits/2026-01-02_03-04-05", {"val/loss": 0.1})
    make(logs, "mnist/2026-01-02_03-04-05", {"val/loss": 0.1})
    known = "(configs with runs: digits, mnist)"
    for word, near in (
        ("digts/*", "; did you mean 'digits'?"),
        ("q", ""),
        ("logs/mnits", "; did you mean 'mnist'?"),
        ("logs/digits/2026-01-02_03-04-06", "; did you mean 'digits/2026-01-02_03-04-05'?"),
    ):
        assert mistakes("compare", "digits", word) == [f"{word}: no such runs{near} {known}"]
    lines = [f"{word}: no such runs {known}" for word in ("q", "zzz")]
    assert mistakes("compare", "q", "zzz") == lines
    assert mistakes("compare", "digits", "--csv", "/nowhere/a.csv") == [
        "/nowhere/a.csv: cannot be written: No such file or directory"
    ]


def test_table_fits_terminal(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {
        f"{stage}/{name}": 0.5
        for stage in ("val", "test")
        for name in ("accuracy", "auroc", "f1", "loss")
    }
    for i in (1, 2):
        make(
            logs,
            f"digits/2026-01-02_03-04-0{i}",
            metrics,
            {"net.width": i, "net.[bold]": f"[red]{i}"},
        )
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    for is_terminal in (False, True):  # a pipe gets short lines, too
        if is_terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        compared()
        printed = re.sub("\x1b[^m]*m", "", capsys.readouterr().out).splitlines()
        assert all(len(line) <= 80 for line in printed[:4])
        assert printed[1].split()[:5] == ["run", "val/loss", "width", "[bold]", "test/accuracy"]
        assert "[red]1" in printed[2]
        assert printed[-1] == (
            "no room for parameters, test/auroc, test/f1 and 4 more; pass --csv FILE or --html FILE"
        )


def test_hidden_columns_are_listed_once(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in ("digits", "mnist"):
        metrics = {f"{stage}/{name}": 0.5 for stage in ("val", "test") for name in "abcdefgh"}
        make(logs, f"{data}/1", metrics, {"data.path": data})
    assert len(compared()) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line[:12] for line in lines].count("no room for ") == 1
    assert lines[-1].endswith("; pass --csv FILE or --html FILE")


def test_long_list_is_cut_between_its_items() -> None:
    values: list[Any] = [["sold", "broker", "note", "id"], ["a" * 12, "b" * 12], [8] * 20]
    rows = [Row([Path()], "finished", config={"drop": value}) for value in values]
    assert [row.format("drop") for row in rows] == [
        '["sold", …, "id"]',
        '["aaaaaaaa…bbbbbbbbbbb"]',
        "[8, 8, 8, 8, …, 8, 8, 8]",
    ]


def test_metric_names_of_any_style_are_ranked_together(logs: Path) -> None:
    make(logs, "digits/1", {"val/loss": 0.2}, {"net.width": 1})
    make(logs, "digits/2", {"val_loss": 0.1}, {"net.width": 2}, monitor="val_loss")
    make(logs, "digits/3", {"valid_loss_epoch": 0.3}, {"net.width": 3}, monitor="valid_loss_epoch")
    expected = [["digits/2", "digits/1", "digits/3"]]
    assert ranking() == ranking("--sort", "val_loss") == ranking("--sort", "val/loss") == expected


def test_leaderboard_of_thousand_runs(logs: Path) -> None:
    for i in range(1000):
        make(logs, f"digits/{i:04}", {"val/loss": (i * 389 % 1000) / 1000}, {"net.width": i})
    (board,) = compared()
    assert [row.numbers["val/loss"] for row in board.rows] == [i / 1000 for i in range(1000)]


def test_leaderboard_needs_no_torch(
    command: Callable[..., subprocess.CompletedProcess[str]], repository: Path
) -> None:
    for i in (1, 2):
        classes(make(repository / "logs", f"digits/{i}", {"val/loss": i / 10}), [True] * 5)
    code = (
        "import runpy, sys\n"
        "try: runpy.run_module('src.compare', run_name='__main__', alter_sys=True)\n"
        "finally: print({'torch', 'lightning'} & {*sys.modules})"
    )
    done = command("-c", code, "--html", "o.html", "--csv", "o.csv")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no significant difference between A and B" in done.stdout
    assert done.stdout.endswith("set()\n")


# ------------------------------------------------------------------------------------------
# Files


def test_csv_has_every_run(logs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        make(
            logs,
            f"digits/{seed}",
            {"val/loss": 0.123456789 + seed, "test/f1": None},
            {"seed": seed, "tags": ["a,b"]},
        )
    make(logs, "digits/cut", {}, {"net.norm": True, "tags": []}, status="interrupted", seconds=None)
    (logs / "digits" / "empty").mkdir()
    call("compare", "--csv", str(tmp_path / "all.csv"))
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "run",
        "config_name",
        "status",
        "started",
        "monitor",
        "mode",
        "test/f1",
        "val/loss",
        "parameters",
        "seconds",
        "seed",
        "tags",
        "net.norm",
    ]
    assert rows[1] == {
        "run": "digits/1",
        "config_name": "digits",
        "status": "finished",
        "started": "1T00:00:00+0000",
        "monitor": "val/loss",
        "mode": "min",
        "test/f1": "",
        "val/loss": "1.123456789",
        "seconds": "3.25",
        "parameters": "29162",
        "seed": "1",
        "tags": "['a,b']",
        "net.norm": "",
    }
    assert [(row["run"], row["status"], row["net.norm"]) for row in rows][2:] == [
        ("digits/cut", "interrupted", "True")
    ]


def test_comparison_page(logs: Path, tmp_path: Path) -> None:
    first = train("digits", "name=<b>&co", "monitor=val/accuracy", "mode=max").run
    train("digits", "seed=1", "name=<b>&co", "monitor=val/accuracy", "mode=max")
    make(logs, "digits/cut", {}, status="failed")
    (board,) = compared("--html", str(tmp_path / "runs.html"))
    page = (tmp_path / "runs.html").read_text()
    assert "@media (prefers-color-scheme: dark)" in page
    for word in ("<script", "src=", 'href="http', "url(http", "<b>&co"):
        assert word not in page
    assert page.count("<tr>") == 2 * 2  # two tables: the page has room for eight columns
    assert f">{board.rows[0].format('val/accuracy')}</td>" in page
    assert "±" in page
    assert "<p>not ranked: digits/cut: failed</p>" in page
    label = f"{board.rows[0].name}, &lt;b&gt;&amp;co"
    for title in ("val/accuracy", "val/loss", "train/loss", label):
        assert f"{title}</text>" in page
    assert count_lines(page) == 3 * 2 + 1  # three metrics, two seeds, the legend
    (first.path / "steps.csv").write_bytes(b"\xff\xfe")
    compared("--html", str(tmp_path / "runs.html"))
    assert count_lines((tmp_path / "runs.html").read_text()) == 3 + 1
    compared("digits/cut", "--html", str(tmp_path / "runs.html"))
    assert "<svg" not in (tmp_path / "runs.html").read_text()


def test_curves_are_those_of_the_best(logs: Path, tmp_path: Path) -> None:
    for i in range(12):
        path = make(logs, f"digits/{i:02}", {"val/loss": 1 - i / 100}, {"net.width": f"<{i}>"})
        (path / "metrics.csv").write_text(
            f"epoch,step,val/loss,train/loss\n0,4,2.0,\n0,9,1.5,\n1,19,{1 - i / 100},\n"
        )
    call("compare", "--html", str(tmp_path / "runs.html"))
    page = (tmp_path / "runs.html").read_text()
    legend = re.findall(r"(digits/\d\d)</text>", page)
    assert legend == [f"digits/{i:02}" for i in range(11, 1, -1)]
    assert "Curves of the best 10 of 12." in page
    assert '<td data-label="width">&lt;0&gt;</td>' in page
    assert "train/loss</text>" not in page  # nobody has it
