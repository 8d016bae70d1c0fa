"""A misspelled name in the user's own code: its file, line and the nearest name in one line."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from src.kindling.config.errors import explain_typo
from tests.conftest import mistakes

NET = """from torch import nn


class Net(nn.Module):
    def __init__(self, layer="Linear", size=4):
        super().__init__()
        self.head = nn.{layer}(4, {size})

    def forward(self, x):
        return self.{called}(x)
"""


def write_net(folder: Path, layer: str = "Linear", size: str = "size", called: str = "head") -> Any:
    path = folder / "mine.py"
    path.write_text(
        NET.replace("{layer}", layer).replace("{size}", size).replace("{called}", called)
    )
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Net


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"layer": "Liner"},
            "mine.py:7: module 'torch.nn' has no attribute 'Liner'; did you mean 'Linear'?",
        ),
        ({"size": "siez"}, "mine.py:7: name 'siez' is not defined; did you mean 'size'?"),
        (
            {"called": "heat"},
            "mine.py:10: 'Net' object has no attribute 'heat'; did you mean 'head'?",
        ),
    ],
)
def test_typo_in_own_net(
    changes: dict[str, str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = write_net(tmp_path, **changes)
    with pytest.raises((AttributeError, NameError)) as caught:
        net()(torch.zeros(2, 4))
    assert explain_typo(caught.value) == f"{tmp_path}/{line}"
    monkeypatch.chdir(tmp_path)
    assert explain_typo(caught.value) == line


def test_other_errors_are_no_typos(tmp_path: Path) -> None:
    """A library's error, a value that is None, and errors of other kinds keep their traceback."""
    for text in (
        "raise ValueError('Liner')",
        "raise NameError",
        "None.shape",
        "import json; json.loads(3)",
    ):
        path = tmp_path / "mine.py"
        path.write_text(text)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            exec(compile(text, path, "exec"), {})
        assert explain_typo(caught.value) == ""
    with pytest.raises(AttributeError) as raised:
        shutil.copyfileobj(3, 4)  # type: ignore[call-overload]
    assert explain_typo(raised.value) == ""


def test_typo_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[3] / "src" / "nets" / "typo_of_a_test.py"
    monkeypatch.setattr("src.nets.__path__", [str(tmp_path)])
    (tmp_path / path.name).write_text("from torch import nn\n\nclass Net(nn.Modul): ...\n")
    (line,) = mistakes("train", f"net._target_=src.nets.{path.stem}.Net")
    assert line == (
        f"net._target_: importing 'src.nets.{path.stem}' failed: {tmp_path / path.name}:3: "
        "module 'torch.nn' has no attribute 'Modul'; did you mean 'Module'? (command line)"
    )


def test_command_ends_with_typo(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = """
from src.kindling.config.command import run_command

def main(argv):
    argv.apend(3)

run_command(main)
"""
    done = command("-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "<string>:5: 'list' object has no attribute 'apend'; did you mean 'append'?\n"
    )
