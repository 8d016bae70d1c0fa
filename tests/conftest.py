"""What the tests share: a logs/ of their own, and commands called in-process or as real processes."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from src import parts
from src import run as run_module
from src.config import ROOT, Config, compose
from src.errors import InputError
from src.run import Run
from src.train import Result, fit

# A few batches of two epochs: enough for every part to be used, and quick.
LITTLE = ("trainer.max_epochs=2", "trainer.limit_train_batches=3", "trainer.limit_val_batches=2",
          "trainer.limit_test_batches=2", "threads=1", "trainer.accelerator=cpu")  # fmt: skip


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty logs/ for each test."""
    folder = tmp_path / "logs"
    folder.mkdir()
    monkeypatch.setattr(run_module, "LOGS", folder)
    monkeypatch.delenv("KINDLING_RUN", raising=False)
    return folder


def checked(name: str = "digits", *words: str) -> Config:
    """A composed and checked config."""
    config = compose(name, words)
    parts.check(config)
    return config


def train(name: str = "digits", *words: str, **options: object) -> Result:
    """A little training in this process."""
    config = checked(name, *LITTLE, *words)
    return fit(config, Run.claim(config.name), **options)  # type: ignore[arg-type]


def call(verb: str, *argv: str) -> object:
    """A command's main, in this process."""
    return importlib.import_module(f"src.{verb}").main(list(argv))


def mistakes(verb: str, *argv: str) -> list[str]:
    """The lines that a command ends with when it is called wrongly."""
    with pytest.raises(InputError) as caught:
        call(verb, *argv)
    return caught.value.lines


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the repository, for processes that write into it."""
    copy = tmp_path / "repository"
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def command(repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls `python …` in the copy of the repository, as a user would."""

    def run(*argv: str, cwd: Path = repository, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True,
                              env={**os.environ, **(env or {})})  # fmt: skip

    return run


def folders(path: Path) -> Sequence[str]:
    """The runs that a logs/ holds, as `<config>/<time>`."""
    return sorted(f"{run.parent.name}/{run.name}" for run in path.glob("*/*"))
