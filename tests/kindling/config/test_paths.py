"""Relative paths: of a command line, of a config file, in a run's record, and in what is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from src.kindling.config import compose as config_module
from src.kindling.config.compose import ROOT, compose, get
from src.kindling.runs import run as run_module
from src.kindling.runs.files import display_path, read_json
from src.kindling.runs.run import Run
from src.kindling.training.evaluate import evaluate
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, call, mistakes


def read(name: str, word: str, *words: str) -> object:
    """The value that a word sets."""
    return get(compose(name, [word, *words]).values, word.partition("=")[0])


def test_data_paths_of_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = tmp_path / "here"
    below.mkdir()
    monkeypatch.chdir(below)
    assert read("table", "data.path=houses.csv", "data.target=price") == f"{below}/houses.csv"
    assert read("image_folder", "data.root=../cards") == f"{tmp_path}/cards"
    assert read("image_folder", "data.files=list.csv", "data.root=.") == f"{below}/list.csv"
    assert read("digits", "data.data_dir=sets", "data=mnist") == f"{below}/sets"
    for path in ("~/cards", "${oc.env:HOME}/cards", f"{tmp_path}/cards", f"{ROOT}/cards"):
        assert read("image_folder", f"data.root={path}") == path
    monkeypatch.chdir(ROOT / "docs")
    assert read("image_folder", "data.root=../cards") == "cards"
    monkeypatch.chdir(ROOT)
    assert read("image_folder", "data.root=cards") == "cards"


def test_foreign_data_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`path` may be the name of a data set; what exists is a path."""
    monkeypatch.chdir(tmp_path)
    own = "data._target_=src.data.mine.Mine"
    assert read("digits", "data.path=glue/sst2", own) == "glue/sst2"
    (tmp_path / "texts").mkdir()
    assert read("digits", "data.path=texts", own) == f"{tmp_path}/texts"
    assert read("digits", "net.weights=hub", "net=pretrained") == "hub"
    (tmp_path / "mine.ckpt").touch()
    assert read("digits", "net.weights=mine.ckpt", "net=pretrained") == f"{tmp_path}/mine.ckpt"


def test_data_path_of_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "data").mkdir(parents=True)
    (tmp_path / "configs" / "a.yaml").write_text("data:\n  path: houses.csv\n")
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "houses.csv").touch()
    assert read("a", "data.batch_size=3") == 3
    assert compose("a", ["data.batch_size=3"]).values["data"]["path"] == "houses.csv"


def test_missing_path_is_of_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = mistakes("train", "table", "data.path=README.md.csv", "data.target=price")
    assert lines == [f"data.path: {tmp_path}/README.md.csv: no such file"]


def test_display_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "logs" / "digits"
    assert display_path(path) == "logs/digits"
    monkeypatch.chdir(ROOT / "docs")
    assert display_path(path) == str(path)
    monkeypatch.chdir(tmp_path)
    assert display_path(path) == str(path)
    assert display_path(tmp_path / "a.csv") == display_path(Path("a.csv")) == "a.csv"


def test_training_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printed commands work there; what is recorded works elsewhere."""
    logs = tmp_path / "my repository" / "logs"
    logs.mkdir(parents=True)
    monkeypatch.setattr(run_module, "LOGS", logs)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    rows = [f"{i % 7},{i % 7 * 1.5 + i % 2}" for i in range(60)]
    (here / "houses.csv").write_text("\n".join(["size,price", *rows]))
    call("train", "table", "data.path=houses.csv", "data.target=price", *LITTLE)
    printed = dict(re.findall(r"^(curves|again) +(.*)", capsys.readouterr().out, re.MULTILINE))
    assert shlex.split(printed["curves"]) == ["tensorboard", "--logdir", str(logs)]
    run = load_run(shlex.split(printed["again"])[-1])
    assert run.path.parent == logs / "table"
    assert read_json(run.path / "meta.json")["folder"] == str(here)
    monkeypatch.chdir(tmp_path)
    assert run.config.values["data"]["path"] == f"{here}/houses.csv"
    assert evaluate(run) == run.metrics


def test_recorded_paths_of_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(ROOT / "logs" / "digits" / "x")
    assert repr(run) == f"Run({run.path})"
    assert config_module.record_path(run.path) == "logs/digits/x"
