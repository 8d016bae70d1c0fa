"""A run's directory: claimed once, found by name, loaded with preprocessing, checked."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from src.kindling.config.errors import InputError
from src.kindling.runs import run as run_module
from src.kindling.runs.files import write_json
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import load_run
from tests.conftest import checked, copied, kept_runs, mistakes, train


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Run]]:
    """Two runs to read; a test that changes one copies it."""
    with kept_runs(tmp_path_factory):
        yield train("digits", "name=first", "tags=[a,b]").run, train("diabetes").run


def lines(name: str | Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        _ = load_run(name).task
    return caught.value.lines


def test_claim_is_exclusive(monkeypatch: pytest.MonkeyPatch, logs: Path) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "2026-01-02_03-04-05")
    names = [Run.claim("digits").path.name for _ in range(3)]
    assert names == ["2026-01-02_03-04-05", "2026-01-02_03-04-05_2", "2026-01-02_03-04-05_3"]


def test_claim_of_other_processes(monkeypatch: pytest.MonkeyPatch, logs: Path) -> None:
    first = Run.claim("digits")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Run.claim("digits").path == first.path
    assert len(list(logs.glob("*/*"))) == 1


def test_files_of_a_run(kept: tuple[Run, Run]) -> None:
    run = kept[0]
    names = {path.name.partition(".out")[0] for path in run.path.iterdir()} - {".lock"}
    assert names - {"diff.patch"} == names & {
        "config.yaml",
        "run.json",
        "meta.json",
        "metrics.csv",
        "steps.csv",
        "metrics.json",
        "split.csv",
        "checkpoints",
        "events",
    }
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert (
        config["config"],
        config["name"],
        config["tags"],
        config["seed"],
        config["num_threads"],
    ) == ("digits", "first", ["a", "b"], 0, 1)
    meta = json.loads((run.path / "meta.json").read_text())
    assert (meta["exit"], meta["name"], meta["parameters"], meta["epochs"]) == (
        "finished",
        "first",
        29162,
        2,
    )
    assert meta["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert len(meta["split_hash"]) == 64
    summary = json.loads((run.path / "run.json").read_text())
    assert summary["config"]["task.optimizer.lr"] == 0.003
    assert summary["metrics"] == json.loads((run.path / "metrics.json").read_text())
    rows = (run.path / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [["epoch", "step"], ["1", "2"], ["2", "5"]]
    assert all(rows[1].split(","))  # training and validation stand in one row


def test_environment_references_are_recorded_unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINDLING_TEST_SECRET", "hunter2-planted")
    run = train("digits", "name=${oc.env:KINDLING_TEST_SECRET}").run
    assert not [
        path
        for path in run.path.rglob("*")
        if path.is_file() and b"hunter2-planted" in path.read_bytes()
    ]


def test_find_run(kept: tuple[Run, Run]) -> None:
    first, second = map(copied, kept)
    os.utime(second.path / "config.yaml")
    assert load_run("latest").path == second.path
    assert load_run("digits/latest").path == first.path
    assert load_run(first.path).path == first.path
    assert load_run(f"digits/{first.path.name}").path == first.path
    assert load_run(first.path / "checkpoints" / "last.ckpt").path == first.path


def test_find_missing_run_names_nearest(kept: tuple[Run, Run]) -> None:
    assert lines("latest") == ["latest: no run yet; there are runs of: none"]
    name = copied(kept[0]).path.name
    assert lines("diabetes/latest") == [
        "diabetes/latest: no run yet of diabetes; there are runs of: digits"
    ]
    assert lines(f"digits/{name[:-1]}x") == [
        f"digits/{name[:-1]}x: no such run; did you mean 'digits/{name}'? "
        "(a run is a folder in logs/, a .ckpt file, 'latest' or '<config>/latest')"
    ]
    for word, near in (("lastest", "latest"), ("digits", "digits/latest")):
        assert lines(word)[0].startswith(f"{word}: no such run; did you mean '{near}'? (a run is")


def test_loaded_run_prepares_raw_input_and_predicts(kept: tuple[Run, Run]) -> None:
    run = load_run(kept[0].path)
    assert not run.task.training
    x = torch.randint(0, 17, (4, 1, 8, 8), dtype=torch.uint8)
    spec = run.spec
    assert spec is not None
    logits = run.task((x.float() - spec.mean[0]) / spec.std[0])
    assert logits.shape == (4, 10)
    found = run.predict(x)
    assert torch.allclose(found["probability"], logits.softmax(dim=1), atol=1e-6)
    assert torch.equal(found["prediction"], logits.argmax(dim=1))


def test_checkpoint_without_run(kept: tuple[Run, Run], tmp_path: Path) -> None:
    run = copied(kept[1])
    alone = tmp_path / "elsewhere" / "model.ckpt"
    alone.parent.mkdir()
    shutil.copy(run.checkpoints / "best.ckpt", alone)
    x = run.data().samples.x[:5]  # type: ignore[union-attr]
    expected = run.predict(x)["prediction"]
    shutil.rmtree(run.path)
    loaded = load_run(alone)
    assert torch.equal(loaded.predict(x)["prediction"], expected)
    assert loaded.config.values["net"]["hidden"] == [32]
    assert loaded.spec.columns[0].name == "age"


def test_checkpoint_holds_tensors_and_plain_values(kept: tuple[Run, Run]) -> None:
    run = kept[0]
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert content["kindling"]["config"]["net"] == {"_target_": "src.nets.cnn.CNN"}
    assert content["kindling"]["spec"]["num_outputs"] == 10


def test_damaged_or_foreign_checkpoint(
    kept: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch " + str(tmp_path / "owned"),)

    run = copied(kept[0])
    path = run.checkpoints / "best.ckpt"
    whole = path.read_bytes()
    shown = str(path)
    path.write_bytes(whole[: len(whole) // 2])
    cut = f"{len(whole) // 2:,} bytes are cut off, or another kind of file"
    assert lines(run.path) == [f"{shown}: not a readable checkpoint: its {cut}"]
    path.write_bytes(b"")
    assert lines(run.path) == [f"{shown}: not a readable checkpoint: it is empty"]
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    assert lines(run.path)[0].startswith(
        f"{shown}: not a readable checkpoint: damaged: its part archive/data/"
    )
    assert lines(run.path)[0].endswith("does not match its checksum")
    torch.save(Evil(), path)
    for forced in ("0", "1"):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
        (line,) = lines(run.path)
        assert line.startswith(f"{shown}: untrusted: it holds more than tensors and plain values")
        assert not (tmp_path / "owned").exists()
    with path.open("wb") as file:
        pickle.dump(Evil(), file, protocol=2)
    assert "another kind of file" in lines(run.path)[0]
    assert not (tmp_path / "owned").exists()
    torch.save({"state_dict": {}}, path)
    assert lines(run.path) == [
        f"{shown}: not a readable checkpoint: written by another program: it holds no config and no spec"
    ]
    shutil.rmtree(run.checkpoints)
    assert lines(run.path) == [
        f"{shown}: no such checkpoint; the run may have ended before its first was saved"
    ]


def test_secrets_in_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "a1B2c3D4" * 4
    monkeypatch.setenv("KINDLING_TEST_TOKEN", token)
    words = [
        "tags=['${oc.env:KINDLING_TEST_TOKEN}']",
        f"logger={{api_key: '{token}'}}",
        f"name={token}",
    ]
    monkeypatch.setattr(
        "sys.orig_argv", ["python", "-m", "src.train", "digits", *words, "--password", token]
    )
    monkeypatch.setattr(
        run_module,
        "git_state",
        lambda: ("c0ffee", True, f"+token = '{token}'\n+url = 'db://me:{token}@x'\n"),
    )
    monkeypatch.setattr("src.kindling.config.instantiate.check", lambda config: None)
    run = train("digits", words[0], words[2]).run
    run.begin(checked("digits").replaced({"logger": {"api_key": token}}), {})
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert {"config.yaml", "meta.json", "run.json", "diff.patch", "last.ckpt"} <= {
        path.name for path in files
    }
    found = [path.name for path in files if token.encode() in path.read_bytes()]
    assert found == []
    assert "oc.env:KINDLING_TEST_TOKEN" in (
        run.path / "checkpoints" / "last.ckpt"
    ).read_bytes().decode(errors="ignore")
    assert "***" in (run.path / "meta.json").read_text()


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("a", "a"), ("b", "a", "a")])
def test_latest_within_a_second(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINDLING_RUN", raising=False)
    monkeypatch.setattr(time, "strftime", lambda *_: "2026-11-21_13-24-00")
    for number, name in enumerate(names * 6):
        run = Run.claim(name)
        (run.path / "config.yaml").write_text(f"config: {name}\n")
        os.utime(run.path / "config.yaml", ns=(number, number))
        assert load_run("latest").path == run.path
        assert load_run(f"{name}/latest").path == run.path


def test_run_is_no_address() -> None:
    (line,) = mistakes("evaluate", "https://example.com/best.ckpt")
    assert line.startswith("https://example.com/best.ckpt: no such run")
    assert "(a run is a folder in logs/, a .ckpt file, " in line


def test_json_without_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1.5]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert [path.name for path in tmp_path.glob("a*")] == ["a.json"]


def test_display_path_is_relative_to_the_repository() -> None:
    assert run_module.display_path(run_module.ROOT / "logs" / "a") == "logs/a"
