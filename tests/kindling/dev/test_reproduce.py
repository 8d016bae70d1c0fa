"""A run trained again gives the same metrics.json; where it does not, what differs is told."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from src.kindling.runs.files import read_json, write_json
from src.kindling.runs.provenance import HEADING
from src.kindling.runs.run import Run
from src.kindling.training.fit import Result
from tests.conftest import call, copied, folders, kept_runs, mistakes, train


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def again() -> tuple[int, Result | None]:
    """The exit status, and what is returned."""
    try:
        return 0, call("reproduce", "latest")  # type: ignore[return-value]
    except SystemExit as end:
        return int(str(end.code)), None


def fix_code(patch: pytest.MonkeyPatch) -> None:
    """The repository's state, which may change while the tests run."""
    for module in ("src.kindling.runs.run", "src.kindling.dev.reproduce"):
        patch.setattr(f"{module}.git_state", lambda: ("c" * 40, True, "+ here\n"))
    files = {"src/nets/mine.py": "a" * 64}
    patch.setattr("src.kindling.runs.run.source_files", lambda config: files)
    patch.setattr("src.kindling.dev.reproduce.compare_files", lambda then, config: [])


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> None:
    fix_code(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with kept_runs(tmp_path_factory), pytest.MonkeyPatch.context() as patch:
        fix_code(patch)
        return train("digits", "seed=3").run


@pytest.fixture
def run(trained: Run) -> Run:
    """A copy of the trained run, which a test may change."""
    return copied(trained)


def test_reproduce_is_identical(run: Run, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    status, result = again()
    assert status == 0
    assert result is not None
    assert folders(logs) == sorted(f"digits/{path.name}" for path in (run.path, result.run.path))
    assert (result.run.path / "metrics.json").read_bytes() == (
        run.path / "metrics.json"
    ).read_bytes()
    assert (result.run.path / "split.csv").read_bytes() == (run.path / "split.csv").read_bytes()
    assert (result.run.path / "config.yaml").read_text().partition("\n")[2] == (
        run.path / "config.yaml"
    ).read_text().partition("\n")[2]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "same       code, packages, Python, hardware, data, split"
    assert lines[-1] == f"identical  metrics.json equals that of {run.path}, byte for byte"
    assert lines[-2].startswith(f"run        {result.run.path} (")


def test_reproduce_lists_differences(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.path / "meta.json"
    meta = read_json(path)
    edit(
        path,
        packages={**meta["packages"], "torch": "1.0", "gone": "2"},
        hardware={**meta["hardware"], "cores": 999},
        git={"commit": "f" * 40, "dirty": True},
        python="2.7",
        split_hash="0",
        data_hash="0123456789abcdef",
        resumed=[
            {"command": "python -m src.train --resume latest"},
            {"command": "train --resume x --override"},
        ],
    )
    (run.path / "diff.patch").write_text("+ one\n+ two\n")
    numbers = dict(run.metrics)
    edit(run.path / "metrics.json", **{"val/loss": numbers["val/loss"] + 1e-9})
    capsys.readouterr()
    assert again()[0] == 1
    printed = capsys.readouterr().out
    differing = [
        line.removeprefix("differs    ")
        for line in printed.splitlines()
        if line.startswith("differs")
    ]
    assert differing == [
        f"git commit: {'f' * 40} then, {'c' * 40} now",
        f"python: 2.7 then, {platform.python_version()} now",
        f"torch: 1.0 then, {meta['packages']['torch']} now",
        "gone: 2 then, None now",
        f"cores: 999 then, {meta['hardware']['cores']} now",
        "uncommitted changes: 2 lines of diff then, 1 lines of diff with other content now",
        "split: other samples in training, validation or test; the data changed",
        f"data: hash 0123456789ab then, {meta['data_hash'][:12]} now; samples or targets changed",
        "resumed: with --override; the last config is now used from the start",
    ]
    assert printed.splitlines()[0] == "resumed    2 times; now trained without interruption"
    reasons = printed.partition(f"not the same as {run.path}; probable reasons:\n")[2].splitlines()
    assert reasons == [f"- {line}" for line in differing]
    table = [line.split() for line in printed.splitlines()]
    assert ["val/loss", repr(numbers["val/loss"] + 1e-9), repr(numbers["val/loss"])] in table
    assert ["test/accuracy", *2 * [repr(numbers["test/accuracy"])]] in table


def test_reproduce_reports_changed_diff(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (run.path / "diff.patch").write_text("- other\n")
    assert again()[0] == 0
    assert (
        "differs    uncommitted changes: 1 lines of diff then, 1 lines of diff with other content now\n"
        in capsys.readouterr().out
    )
    (run.path / "diff.patch").unlink()
    assert call("reproduce", str(run.path))
    assert (
        "differs    uncommitted changes: 0 lines of diff then, 1 lines of diff with other content now\n"
        in capsys.readouterr().out
    )


def test_untracked_files_are_compared(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []

    def compare(then: dict[str, str], config: str) -> list[str]:
        given.append((then, config))
        return ["src/nets/mine.py: changed since"]

    monkeypatch.setattr("src.kindling.dev.reproduce.compare_files", compare)
    # The patch holds the untracked files as they were; the tracked ones are equal.
    (run.path / "diff.patch").write_text(f"+ here\n{HEADING}+ other\n")
    capsys.readouterr()
    assert again()[0] == 0
    assert capsys.readouterr().out.splitlines()[0] == "differs    src/nets/mine.py: changed since"
    assert given == [({"src/nets/mine.py": "a" * 64}, "digits")]


def test_edited_config_is_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("seed: 3", "seed: 4"))
    assert again()[0] == 1
    line = "seed: 3 then, 4 in config.yaml now"
    lines = capsys.readouterr().out.splitlines()
    assert f"differs    {line}" in lines
    assert lines[-1] == f"- {line}"


def test_difference_without_known_reason(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run.path / "metrics.json", **{"val/loss": run.metrics["val/loss"] + 1e-9})
    assert again()[0] == 1
    reason = "- no known reason; a GPU adds in another order each time (set trainer.deterministic="
    assert capsys.readouterr().out.splitlines()[-1].startswith(reason)


def test_reproduce_measures_the_same_stages() -> None:
    first = train("digits", stages=("val",)).run
    status, result = again()
    assert status == 0
    assert result is not None
    assert set(result.metrics) == set(first.metrics)
    assert all(name.startswith("val/") for name in result.metrics)


def test_reproduce_needs_the_init_run(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train("digits").run
    second = train("digits", "seed=1", init=first).run
    assert again()[0] == 0
    assert (
        f"init       weights of {first.path}: they must be unchanged\n" in capsys.readouterr().out
    )
    shutil.rmtree(first.path)
    (line,) = mistakes("reproduce", str(second.path))
    assert line.startswith(f"{first.path}: no such run")


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_reproduce_refuses_unfinished_run(run: Run, logs: Path, state: str) -> None:
    edit(run.path / "meta.json", exit=state)
    assert mistakes("reproduce", "latest") == [
        f"{run.path}: not finished ({state}); resume it: python -m src.train --resume {run.path}"
    ]
    assert len(folders(logs)) == 1


def test_missing_files_are_reported(run: Run, logs: Path) -> None:
    (run.path / "metrics.json").unlink()
    assert mistakes("reproduce", "latest") == [
        f"{run.path / 'metrics.json'}: no such file; choose a run that has metrics to compare with"
    ]
    (run.path / "meta.json").unlink()
    assert "not finished (no meta.json)" in mistakes("reproduce", "latest")[0]
    name = f"digits/{run.path.name}"
    assert mistakes("reproduce", f"{name}x")[0].startswith(
        f"{name}x: no such run; did you mean '{name}'? (a run is "
    )
    assert mistakes("reproduce")[0].startswith("the following arguments are required: RUN (usage: ")


def test_reproduce_of_broken_config_leaves_no_run(run: Run, logs: Path) -> None:
    config = run.path / "config.yaml"
    config.write_text(
        config.read_text().replace("seed: 3", "seed: 3\nsnail: 1").replace("lr: 0.003", "lr: fast")
    )
    assert mistakes("reproduce", "latest") == [
        f"task.optimizer.lr: expected a number, got 'fast' ({config})"
    ]
    config.write_text(config.read_text().replace("lr: fast", "lr: -1.0"))
    assert "Invalid learning rate: -1.0" in mistakes("reproduce", "latest")[0]
    assert folders(logs) == [f"digits/{run.path.name}"]
    assert json.loads((run.path / "meta.json").read_text())["exit"] == "finished"
