"""A token that is planted wherever a user may put one is found in no file that a run leaves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.test_processes import the_run

TOKEN = "Zx9" + "a1B2c3D4" * 3
# Takes secrets as a logger or a hub would, and fails with them, as a client of a server does.
PLANTED = """
from lightning.pytorch import Callback
class Planted(Callback):
    def __init__(self, api_key: str, password: str, url: str, headers: dict, fails: bool = False) -> None:
        self.fails = fails
        assert TOKEN in api_key and TOKEN in url and TOKEN in password and TOKEN in headers["Authorization"]
        self.url = url
    def on_train_epoch_end(self, trainer, pl_module) -> None:
        if self.fails:
            raise ConnectionError(f"{self.url}: no answer")
"""


@pytest.mark.plots
def test_token_is_in_no_file(
    repository: Path,
    forked_command: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def git(*words: str) -> None:
        user = ("-c", "user.name=me", "-c", "user.email=me@host")
        subprocess.run(["git", *user, *words], cwd=repository, check=True, capture_output=True)

    planted = repository / "src" / "tasks" / "planted.py"
    planted.write_text(f'TOKEN = ""\n{PLANTED}')
    (repository / ".env").write_text("HF_TOKEN=\n")
    (repository / ".gitignore").write_text("logs/\n")
    git("init"), git("add", "--all"), git("commit", "--message", "x")
    planted.write_text(f'TOKEN = "{TOKEN}"\n{PLANTED}')
    (repository / ".env").write_text(
        f"HF_TOKEN={TOKEN}\nDATABASE=postgresql://me:{TOKEN}@host/db\n"
    )
    monkeypatch.setenv("PLANTED", TOKEN)
    key = "callbacks.planted"
    words = (
        "digits",
        "trainer=debug",
        f"{key}._target_=src.tasks.planted.Planted",
        f"{key}.api_key={TOKEN}",
        f"{key}.password=${{oc.env:PLANTED}}",
        f"{key}.url=https://me:{TOKEN}@host/x",
        f"{key}.headers={{Authorization: Bearer {TOKEN}}}",
        "logger={csv: {_target_: lightning.pytorch.loggers.CSVLogger}}",
    )
    ended = forked_command("-m", "src.train", *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    again = (
        f"{key}.api_key={TOKEN}",
        f"{key}.url=https://me:{TOKEN}@host/x",
        f"{key}.headers={{Authorization: Bearer {TOKEN}}}",
    )
    ended = forked_command(
        "-m",
        "src.train",
        "--resume",
        "latest",
        "trainer.max_epochs=2",
        "--override",
        *again,
        f"{key}.fails=true",
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
    assert "ConnectionError: https://***@host/x: no answer" in ended.stderr
    run = the_run(repository)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    names = {path.name for path in files} | {path.suffix for path in files}
    assert names >= {
        "config.yaml",
        "run.json",
        "meta.json",
        "diff.patch",
        "report.html",
        "best.ckpt",
        "last.ckpt",
        "metrics.csv",
        "split.csv",
        ".png",
    }
    assert any(path.name.startswith("events.out") for path in files)
    assert (run.path / "digits").is_dir()  # the other logger's
    assert [
        path.relative_to(run.path) for path in files if TOKEN.encode() in path.read_bytes()
    ] == []
    assert "https://***@host/x: no answer" in (run.path / "meta.json").read_text()
    assert "***" in (run.path / "diff.patch").read_text()
    assert "${oc.env:PLANTED}" in (run.path / "config.yaml").read_text()
