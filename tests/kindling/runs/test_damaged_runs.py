"""Mutated files of a run from elsewhere, of weights and of packed images: read, or refused in a line."""

from __future__ import annotations

import copy
import io
import json
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from src.kindling.analysis.prediction_columns import Predictions
from src.kindling.config import instantiate
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.data.images import image_data
from src.kindling.nn.backbones import read_weights
from src.kindling.runs.files import write_json
from src.kindling.training.trained_run import load_run, one_line
from tests.conftest import call

st = pytest.importorskip("hypothesis.strategies")
from tests.kindling.deploy.serving.fuzz import mutated, run_cases  # noqa: E402

OLD = ROOT / "tests" / "old_runs" / "digits"
ODD = [None, True, -1, 10**400, 1e308, float("nan"), "", "x\x1b[2J\n=1", "\ud800", "²", "???"]
ODD += ["${oc.env:HOME}", "${", "${seed}", [], {}, [[]], {"a": {}}, [None], {1: 2}, "a" * 5000]
ODD += [{"_target_": "x"}, {"_target_": 3}, {"_target_": "torch.nn.Linear"}]


@st.composite
def edited(draw: Any, values: Any) -> Any:
    """A copy of nested values in which some are replaced, removed or added."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        inner = values
        while isinstance(inner, dict | list) and inner:
            key = draw(st.sampled_from([*inner] if isinstance(inner, dict) else range(len(inner))))
            outer, inner = inner, inner[key]
            if draw(st.integers(0, 2)) == 0:
                break
        else:
            if inner is values:
                return copy.deepcopy(draw(st.sampled_from(ODD)))
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if change == "remove":
            del outer[key]
        elif change == "add" and isinstance(outer, dict):
            outer[draw(st.sampled_from(["", "a.b", "x\n\x1b[2J", "=1+1"]))] = inner
        else:
            outer[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return values


def json_files(content: bytes) -> Any:
    return edited(json.loads(content)).map(json.dumps).map(str.encode)


def yaml_files(content: bytes) -> Any:
    def dump(values: Any) -> bytes:
        return yaml.safe_dump(values).encode("utf-8", "surrogatepass")

    return edited(yaml.safe_load(content)).map(dump)


def archives(content: bytes, *ends: str) -> Any:
    """An archive with a mutated part, whose checksum is right again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def packed(name: str, part: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for other, found in parts.items():
                archive.writestr(other, part if other == name else found)
        return file.getvalue()

    names = [name for name in parts if name.endswith(ends)]
    return st.one_of(*(mutated(parts[n]).map(lambda part, n=n: packed(n, part)) for n in names))


def checkpoints(content: bytes) -> Any:
    """A checkpoint with other values in its config and spec, or a mutated part."""
    found = torch.load(io.BytesIO(content), weights_only=True)

    def saved(own: Any) -> bytes:
        file = io.BytesIO()
        torch.save({**found, "kindling": own}, file)
        return file.getvalue()

    return st.one_of(edited(found["kindling"]).map(saved), archives(content, "data.pkl"))


def compare(path: Path) -> None:
    call("compare", str(path.parents[path.parent.name == "predictions"]), str(OLD))


def report(path: Path) -> None:
    call("report", str(path.parents[path.parent.name == "predictions"]))


def read_task(path: Path) -> None:
    run = load_run(path)
    with one_line(run):
        instantiate.check(run.config, trained=True)
        run.predict(torch.zeros(1, *run.require_spec("it").raw_shape))


def read_pack(path: Path) -> None:
    folder = path.parents[1]
    images = image_data.ImageFiles(
        image_data.Paths(folder, [f"{number}.png" for number in range(9)]), 1, 8, "crop", 100
    )
    assert image_data.pack(images).shape == (9, 1, 8, 8)


# By the end of a file's path: how it is read, and how it is changed besides byte by byte.
READERS: dict[str, tuple[Callable[[Path], None], Callable[[bytes], Any]]] = {
    "run/run.json": (compare, json_files),
    "study.json": (lambda path: compare(path.with_name("run") / path.name), json_files),
    "run/predictions/test.npz": (compare, lambda content: archives(content, ".npy")),
    "run/config.yaml": (report, yaml_files),
    "run/meta.json": (report, json_files),
    "run/metrics.json": (report, json_files),
    "run/steps.csv": (report, mutated),
    "run/split.csv": (report, mutated),
    "best.ckpt": (read_task, checkpoints),
    "weights.pth": (read_weights, lambda content: archives(content, "data.pkl", "/0")),
    "data/cache/pack.part": (read_pack, mutated),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each reader."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(OLD, folder / "run")
    shutil.copy(OLD / "checkpoints" / "best.ckpt", folder / "best.ckpt")
    shutil.copy(OLD / "metrics.csv", folder / "run" / "steps.csv")
    content = torch.load(OLD / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save(content["state_dict"], folder / "weights.pth")
    write_json(folder / "run" / "metrics.json", {"val/loss": 0.5, "test/accuracy": 0.75})
    write_json(folder / "study.json", {"study": "a", "members": [{"name": "run"}]})
    columns = {"index": np.arange(9), "target": np.arange(9), "prediction": np.zeros(9, np.int64)}
    columns |= {"probability": np.full((9, 10), 0.1, np.float32), "score": np.eye(1, 9)[0]}
    spec = load_run(folder / "run").spec
    (folder / "run" / "predictions").mkdir()
    Predictions(columns, spec, "test", None, "accuracy").save(
        folder / "run" / "predictions" / "test.npz"
    )
    return folder


@pytest.fixture
def packing(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted packing of nine images."""
    monkeypatch.setattr(image_data, "DATA", files / "data")
    monkeypatch.setattr(image_data.Paths, "fingerprint", lambda *_: "pack")
    monkeypatch.setattr(image_data, "usable_cores", lambda: 0)
    (files / "data" / "cache").mkdir(parents=True, exist_ok=True)
    for number in range(9):
        Image.new("L", (8, 8), number).save(files / "data" / f"{number}.png")
    (files / "data" / "cache" / "pack.part").write_bytes(bytes(4 * 64))


@pytest.mark.parametrize("count", [6, pytest.param(250, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", READERS)
@pytest.mark.usefixtures("packing")
def test_damaged_file_of_a_run(
    name: str, count: int, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is read, or refused by a line; nothing printed controls a terminal; memory is bounded."""
    path = files / name
    content, (read, change) = path.read_bytes(), READERS[name]

    def check(changed: bytes) -> None:
        (files / "data" / "cache" / "pack.uint8").unlink(missing_ok=True)
        path.write_bytes(changed)
        try:
            read(path)
        except InputError as error:
            lines.extend(error.lines)
        finally:
            path.write_bytes(content)

    lines: list[str] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run_cases(count, check, st.one_of(mutated(content), change(content)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
    lines += capsys.readouterr().out.splitlines()
    assert all(line.replace("\t", "").isprintable() for line in lines)


@pytest.mark.usefixtures("packing")
def test_packing_interrupted_before_its_last_rename(files: Path) -> None:
    folder = files / "data" / "cache"
    (folder / "pack.uint8").unlink(missing_ok=True)
    (folder / "pack.part").write_bytes(bytes(range(9)) * 64)
    read_pack(folder / "pack.part")  # the only chunk may not have been on the disk
    assert (folder / "pack.uint8").read_bytes() == b"".join(bytes([i]) * 64 for i in range(9))
