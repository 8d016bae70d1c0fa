"""The command: flags, files and runs."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from src.kindling.config.compose import ROOT
from src.kindling.deploy.serving import server as serving_server
from src.kindling.runs.run import Run
from tests.conftest import call, mistakes
from tests.kindling.deploy.serving.server_process import file_of


def test_invalid_flags(digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINDLING_KEY", raising=False)
    path = str(file_of(digits))
    missing = f"{tmp_path}/no.onnx"
    assert mistakes("serve", missing, "--port", "0") == [f"{missing}: no such file"]
    assert mistakes("serve", "nowhere", "--port", "0")[0].startswith("nowhere: no such run")
    (line,) = mistakes("serve", path, "--host", "0.0.0.0")
    assert line.startswith("--host 0.0.0.0: ")
    assert line.endswith("--api-key-env KINDLING_KEY")
    (line,) = mistakes("serve", path, "--api-key-env", "KINDLING_KEY")
    assert line.startswith("--api-key-env KINDLING_KEY: the variable is not set")
    assert line.endswith("export KINDLING_KEY=$(openssl rand -hex 16)")
    assert mistakes("serve", path, "--batch", "0", "--wait", "inf", "--patience", "nan") == [
        "--batch: expected more than 0, got 0",
        "--wait: expected at most 86,400, got inf",
        "--patience: expected more than 0, got nan",
    ]
    for port in ("80000", "65536", "-1"):  # before the run is searched
        lines = mistakes("serve", "nowhere", "--port", port)
        assert lines == [f"--port: expected a number from 0 to 65535, got {port}"]
    lines = mistakes("serve", path, "--max-boddy", "3")
    assert lines[0].startswith("--max-boddy: no such flag; did you mean '--max-body'?")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (line,) = mistakes("serve", path, "--port", port)
    assert line.startswith(f"--port {port}: cannot listen: Address already in use")


def write_plain_onnx(path: Path, **metadata: str) -> None:
    """A model without metadata but those given, as exporters make them."""
    x = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3])
    y = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", 3])
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    graph = onnx.helper.make_graph([node], "plain", [x], [y])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"not a model"), "not readable as ONNX: "),
        (lambda path: write_plain_onnx(path), "cannot be served: it has no spec, as the export of"),
        (
            lambda path: write_plain_onnx(path, spec="{}"),
            "cannot be served: metadata spec: KeyError",
        ),
    ],
)
def test_invalid_model_file(make: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    words = [sys.executable, "-m", "src.serve", str(path), "--port", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{path}: {reason}")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("in_this_process")
def test_run_without_export_is_exported(
    digits: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_here(command: list[str], **_: Any) -> SimpleNamespace:
        assert command[1:3] == ["-m", "src.export"]
        call("export", *command[3:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(serving_server.subprocess, "run", run_here)
    assert serving_server.find_model(str(digits.path)) == file_of(digits)
    assert capsys.readouterr().out == ""
    before = file_of(digits).stat().st_size
    shutil.rmtree(digits.path / "export")
    assert serving_server.find_model(str(digits.path)) == file_of(digits)
    assert capsys.readouterr().out.startswith(f"export     {file_of(digits)}\n")
    assert file_of(digits).stat().st_size == pytest.approx(before, abs=200)


def test_export_that_cannot_be_written_is_not_begun(
    digits: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (line,) = mistakes("serve", str(digits.checkpoint_file), "--port", "0")
    problem = "cannot be written: Permission denied; make its folder writable"
    assert line == f"{file_of(digits)}: {problem}"
    assert "export " not in capsys.readouterr().out


def test_onnxruntime_keeps_no_device_id(tmp_path: Path) -> None:
    imports = "import src.kindling.deploy.serving.model"
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", imports], cwd=ROOT, env=environment, check=True)
    assert list(home.iterdir()) == []


def test_server_of_tables_needs_no_pandas() -> None:
    """Only the packages of requirements-serve.lock are on a server."""
    code = (
        "import sys; sys.modules.update(pandas=None, torch=None)\n"
        "from src.kindling.deploy.serving import worker\n"
        "from src.kindling.data.spec import Column\n"
        "from src.kindling.deploy.serving.limits import Limits\n"
        "from src.kindling.deploy.serving.rows import RowDecoder\n"
        "decode = RowDecoder((Column('size'),), Limits())\n"
        """print(decode('', b'{"size": 3}', False).x)"""
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[[3.]]\n", "")
