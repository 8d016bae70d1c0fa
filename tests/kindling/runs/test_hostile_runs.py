"""Runs whose author means harm: bombs, links, pipes, odd values; and who may read what a run writes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin

from src.kindling.analysis.history import MOST_COLUMNS, describe_overfitting, read_metrics
from src.kindling.analysis.leaderboard import rank, read
from src.kindling.analysis.prediction_columns import Predictions
from src.kindling.analysis.significance import format_comparison
from src.kindling.config import instantiate
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.data.images import image_data
from src.kindling.data.images.decode import decode
from src.kindling.runs import provenance
from src.kindling.runs import run as run_module
from src.kindling.runs.files import read_json, write, write_json
from src.kindling.training.trained_run import load_run
from tests.conftest import call, mistakes, train

OLD = ROOT / "tests" / "old_runs" / "digits"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%Kind: photos\n%%EndComments\nshowpage\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run from elsewhere."""
    return Path(shutil.copytree(OLD, tmp_path / "shared" / "run"))


def config_line(run: Path, text: str) -> str:
    """The line that refuses a run with this text before its config."""
    path = run / "config.yaml"
    path.write_text(text + path.read_text())
    line, *_ = mistakes("report", str(run))
    return line


def levels(first: str, line: str) -> str:
    """Lines each of which has the one before twice."""
    return first + "".join(line.format(i + 1, i) for i in range(60))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (levels("a0: &a0 {x: 1}\n", "a{0}: &a{0} {{<<: [*a{1}, *a{1}]}}\n"), "constructor"),
        (levels("a0: &a0 [1]\n", "a{0}: &a{0} [*a{1}, *a{1}]\n"), "too large, or nested"),
        ("a: &a [*a]\n", "too large, or nested too deeply"),
        (f"a: {'[' * 3000}{']' * 3000}\n", "recursion depth"),
        ("#" * 2**20 + "\n", "larger than 1,048,576 bytes"),
        ("a: !!binary aGk=\n", "holds a bytes, which is no plain value"),
    ],
    ids=["merged", "repeated", "circular", "deep", "large", "binary"],
)
def test_config_that_would_take_all_time_or_memory(text: str, problem: str, run: Path) -> None:
    line = config_line(run, text)
    assert "config.yaml: not a run's config: " in line
    assert problem in line


def test_references_that_repeat_one_another(run: Path) -> None:
    tags = ["x", *(f"${{tags.{i}}}${{tags.{i}}}" for i in range(40))]
    values = yaml.safe_load((run / "config.yaml").read_text()) | {"tags": tags}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    (line,) = mistakes("evaluate", str(run))
    assert line.startswith("config: 80 references, more than 15; if you trust its author, pass")
    found = load_run(run).config
    assert found.replaced({"tags": tags[:8]}).trusted is False
    instantiate.resolve(found.replaced({"tags": tags[:8]}))


def test_name_of_a_config_controls_no_terminal(run: Path) -> None:
    values = yaml.safe_load((run / "config.yaml").read_text()) | {"config": "a\x1b[2J\nb"}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    assert load_run(run).config.name == "a\\x1b[2J\\nb"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_outputs": 10**12, "classes": []}, "num_outputs: Input should be less than"),
        ({"num_outputs": 3}, "num_outputs: 3, and 10 names"),
        ({"class_counts": [1]}, "num_outputs: 10, and 10 names"),
        ({"in_shape": ["a"]}, "in_shape.0: Input should be a valid integer"),
        ({"classes": 3}, "classes: Input should be"),
        ({"columns": [3]}, "AttributeError"),
        ({"x": 1}, "x: Unexpected keyword argument"),
        ({"target_shape": [1, 2, 3]}, "IndexError"),
    ],
)
def test_spec_of_a_checkpoint_is_checked(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    content = torch.load(OLD / "checkpoints" / "best.ckpt", weights_only=True)
    content["kindling"]["spec"].update(changes)
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(InputError, match=r"best\.ckpt: its spec cannot be read: ") as caught:
        _ = load_run(tmp_path / "best.ckpt").spec
    assert problem in caught.value.lines[0]


def test_net_that_does_not_fit_its_spec_is_one_line(tmp_path: Path) -> None:
    content = torch.load(OLD / "checkpoints" / "best.ckpt", weights_only=True)
    content["kindling"]["config"]["net"]["channels"] = [2**40]
    torch.save(content, tmp_path / "best.ckpt")
    (line,) = mistakes("export", str(tmp_path / "best.ckpt"))
    assert "written elsewhere, and cannot be used: " in line
    assert "if you trust its author, pass --trust" in line
    with pytest.raises(Exception, match=".") as caught:  # with its traceback
        call("export", str(tmp_path / "best.ckpt"), "--trust")
    assert not isinstance(caught.value, InputError)


def test_json_of_odd_values(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(f'{{"a": {10**400}, "b": {10**17}}}')
    assert read_json(path) == {"a": float("inf"), "b": 10**17}
    for text in ('{"a": "\\ud800"}', '{"a":' * 60 + "1" + "}" * 60, "[" * 100_000, "[]", "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=r"run\.json: not readable: .*; remove it"):
            read_json(path)


def test_compare_of_odd_numbers(run: Path, tmp_path: Path, capsys: Any) -> None:
    facts = read_json(OLD / "run.json")
    odd = [float("nan"), float("inf"), 10**400, 1e308]
    for number, value in enumerate(odd):
        other = copy.deepcopy(facts)
        other["status"] = "finished"
        other["metrics"]["test/accuracy"] = value
        other["metrics"]["$\\frac{\x1b[2J"] = 1.0
        other["config"] |= {"seed": number, "data.fold": 5, "name": "$\\frac{\x1b[2J"}
        shutil.copytree(run, run.with_name(str(number)))
        (run.with_name(str(number)) / "run.json").write_text(json.dumps(other))
    call("compare", str(run.parent), "--html", str(tmp_path / "a.html"))
    assert "\x1b" not in capsys.readouterr().out
    rows = [read(run.with_name(str(number))) for number in range(len(odd))]
    assert [row.numbers["test/accuracy"] for row in rows] == [None] * 4
    assert len(rank(rows)) == 1


def test_steps_of_odd_lines(run: Path) -> None:
    (run / "steps.csv").write_text("epoch,step,val/loss\n1,1,0.5,9,9\n1,2,0.25\n")
    assert read_metrics(run).index.is_unique
    (run / "steps.csv").write_text("epoch,step,val/loss,train/loss\n,,1,2\n")
    assert describe_overfitting(read_metrics(run)) is None
    names = ",".join(f"c{number}" for number in range(5000))
    (run / "steps.csv").write_text(f"epoch,step,{names}\n" + ",".join(["1"] * 5002) + "\n")
    assert len(read_metrics(run).columns) == MOST_COLUMNS + 1


INDEX = np.arange(9)
COLUMNS: dict[str, dict[str, Any]] = {
    "objects": {"index": INDEX, "target": np.array([{}] * 9, dtype=object)},
    "records": {"index": INDEX, "target": np.zeros(9, dtype=[("a", int)])},
    "texts": {"index": INDEX, "target": np.array(["=1"] * 9)},
    "scalar": {"index": np.array(3)},
    "lengths": {"index": INDEX, "target": INDEX[:3]},
    "spec": {"index": INDEX, "about.json": np.array('{"spec": {"a": 1}}')},
    "list": {"index": INDEX, "about.json": np.array("[]")},
    "codes": {"index": INDEX, "about.json": np.array([2**31 - 1], np.uint32).view("<U1")[0:1]},
}


@pytest.mark.parametrize("name", COLUMNS)
def test_predictions_of_odd_columns(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", **COLUMNS[name])
    with pytest.raises(InputError, match=r"test\.npz: not readable: .*; remove it"):
        Predictions.load(tmp_path / "test.npz")


def test_runs_without_a_score_for_each_sample_are_not_tested(run: Path) -> None:
    (run / "predictions").mkdir()
    for problem, columns in {
        "'score' is (9, 9)": {"score": np.ones((9, 9)), "target": INDEX},
        "no column 'target'": {"prediction": INDEX},
        "no column 'prediction'": {"target": INDEX},
        # Their difference would be one of all pairs.
        "'prediction' is (9, 1), 'target' (9,)": {"prediction": INDEX[:, None], "target": INDEX},
    }.items():
        np.savez(run / "predictions" / "test.npz", index=INDEX, **columns)
        (line,) = format_comparison(read(run), read(run))
        assert f"predictions/test.npz has no score for each sample ({problem}); return" in line


@pytest.mark.parametrize("name", ["plots/a.png", "report.html.tmp", "config.yaml", "export"])
def test_link_out_of_a_run_from_elsewhere(name: str, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(run / "config.yaml", outside / "a")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside if name == "export" else outside / "a")
    before = (outside / "a").read_bytes()
    for verb in ("report", "export"):
        (line,) = mistakes(verb, str(run))
        assert line == f"{run / name}: a link out of a run from elsewhere; remove it"
    assert read(run).state == f"broken: {line}"
    assert [*outside.iterdir()] == [outside / "a"]
    assert (outside / "a").read_bytes() == before
    load_run(run, trust=True)


def test_link_beside_a_checkpoint_from_elsewhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    file = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "downloads" / "a.ckpt")
    (tmp_path / "downloads" / "others").symlink_to(tmp_path)  # the user's own
    load_run(file)
    (tmp_path / "downloads" / "export").symlink_to(tmp_path)
    (line,) = mistakes("export", str(file))
    assert line.endswith("downloads/export: a link out of a run from elsewhere; remove it")


def test_links_within_a_run_and_circular_ones(run: Path) -> None:
    (run / "a").symlink_to("meta.json")
    (run / "b").symlink_to("b")
    (run / "c").symlink_to("checkpoints")
    load_run(run)
    os.mkfifo(run / "steps.csv")
    (line,) = mistakes("report", str(run))
    assert line.endswith("run/steps.csv: neither a file nor a folder; remove it")


def test_writing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("kept")
    (tmp_path / "a.json.tmp").symlink_to(tmp_path / "own")
    write(tmp_path / "a.json", "new")
    assert (tmp_path / "own").read_text() == "kept"
    assert (tmp_path / "a.json").read_text() == "new"
    assert not (tmp_path / "a.json").is_symlink()


def test_plot_that_is_a_bomb_or_no_png(run: Path) -> None:
    (run / "plots").mkdir()
    path, texts = run / "plots" / "a.png", PngImagePlugin.PngInfo()
    texts.add_text("Kind", "photos")
    Image.new("1", (20_000, 6_000)).save(path, pnginfo=texts)
    (line,) = mistakes("report", str(run))
    assert line == f"{path}: more than 100,000,000 pixels; remove it"
    path.write_bytes(EPS)
    (line,) = mistakes("report", str(run))
    assert "cannot identify image file" in line


def test_postscript_starts_no_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(EPS)
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image"):
        decode(str(tmp_path / "a.png"), 3, 10**6)
    assert not (tmp_path / "started").exists()


def test_files_that_a_run_lists_are_neither_read_nor_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted_module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("/dev/zero", "../" * 20 + "dev/zero", "planted_module.x", "planted_module"):
        lines = [*provenance.compare_files({name: "0"}, "digits")]
        assert lines == [f"{name}: in the run's code, missing now"]
    assert "planted_module" not in sys.modules
    changed = [*provenance.compare_files({"src/train.py": "0"}, "digits")]
    assert changed == ["src/train.py: changed since"]


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002], indirect=True, ids=oct)
def test_files_have_the_permissions_of_the_umask(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run, its report and predictions, a packed cache, and tables and masks of predict."""
    monkeypatch.setattr(image_data, "DATA", tmp_path / "data")
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "0.png")
    result = train("digits", "trainer.limit_train_batches=1", plots=False)
    Predictions({"index": INDEX}, None, "test").save(result.run.path / "predictions" / "test.npz")
    call("report", str(result.run.path))
    image, out = str(tmp_path / "images" / "0.png"), str(tmp_path / "out" / "a.csv")
    (tmp_path / "out").mkdir()
    call("predict", str(result.run.path), image, "--out", out, "--gallery", f"{out}.html")
    paths = image_data.Paths(tmp_path / "images", ["0.png"])
    image_data.pack(image_data.ImageFiles(paths, 1, 8, "crop", 100))
    image_data.load_or_compute("statistics", "a", lambda: INDEX)
    write_json(run_module.LOGS / "study.json", {})
    folders = [tmp_path / name for name in ("data", "out", "logs")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    for name, mode in modes.items():
        assert mode == 0o666 & ~umask, name
