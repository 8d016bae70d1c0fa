"""A token in a config, the environment, a URL, a notebook or a tracker's client is in no file and no line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from torch import Tensor, nn

from src.kindling.config import targets
from src.kindling.runs.redact import redact
from tests.conftest import as_own_task, train
from tests.kindling.runs.test_checkpoint_io import Keeping

TOKEN = "tr0ub" + "4dor" + "Zx9a1B2"  # a diff of this file may be in a run


class Hub(Keeping):
    """Keeps its arguments as hyperparameters, which Lightning hands to each logger."""

    def __init__(
        self,
        net: nn.Module,
        api_key: str = "",
        url: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        super(Keeping, self).__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net, self.loss = net, nn.CrossEntropyLoss()

    def configure_optimizers(self) -> Any:
        import torch

        return torch.optim.SGD(self.parameters(), lr=0.1)

    def step(self, batch: Any) -> Tensor:
        return super().step(batch)


class Tracker(Logger):
    """Keeps what a client would send, and fails with its address in the message."""

    sent: list[Any] = []  # noqa: RUF012

    def __init__(self, api_key: str, url: str) -> None:
        super().__init__()
        self.url, self.api_key = url, api_key

    name = version = "tracker"

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.sent.append(params if isinstance(params, dict) else vars(params))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        raise ConnectionError(f"{self.url}?token={self.api_key} does not respond")


def test_token_reaches_no_tracker_and_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: (__name__,))
    monkeypatch.setenv("PLANTED", TOKEN)
    run = train(
        "digits",
        as_own_task(Hub, monkeypatch),
        "task.api_key=${oc.env:PLANTED}",
        f"task.url=https://me:{TOKEN}@host/x",
        f"task.options={{headers: {{Authorization: Bearer {TOKEN}}}}}",
        f"logger.tracker={{_target_: {__name__}.Tracker, api_key: {TOKEN}, url: 'https://me:{TOKEN}@host/x'}}",
        "logger.csv={_target_: lightning.pytorch.loggers.CSVLogger}",
    ).run
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    assert "Tracker: ConnectionError: https://***@host/x?token=***" in out
    assert Tracker.sent
    assert TOKEN not in repr(Tracker.sent)
    assert {"api_key": "***", "url": "https://***@host/x"}.items() <= Tracker.sent[0].items()
    files = [file for file in run.path.rglob("*") if file.is_file()]
    assert any(file.name == "hparams.yaml" for file in files)  # CSVLogger's
    assert [file.name for file in files if TOKEN.encode() in file.read_bytes()] == []


def test_token_in_a_notebooks_diff(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        user = ("-c", "user.name=me", "-c", "user.email=me@host")
        command = ["git", *user, *words]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def cell(source: list[str], output: str) -> dict[str, Any]:
        shown = {"output_type": "stream", "name": "stdout", "text": [output]}
        return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [shown]}

    sources = [
        f'login(token="{TOKEN}")\n',
        f"os.environ['HF_TOKEN'] = '{TOKEN}'\n",
        f"%env WANDB_API_KEY={TOKEN}\n",
        f"%env WANDB_API_KEY {TOKEN}\n",
        f"!python -m src.train logger.x.password={TOKEN}\n",
        f"api_key: str = '{TOKEN}'\n",
        f'client = Client("https://me:{TOKEN}@host")\n',
        f'headers = {{"Authorization": "Bearer {TOKEN}"}}\n',
    ]
    outputs = [f"api_key = {TOKEN}\n", f"{{'token': '{TOKEN}'}}\n", f"password: {TOKEN}\n"]
    notebook = tmp_path / "a.ipynb"
    notebook.write_text("{}")
    git("init"), git("add", "--all"), git("commit", "--message", "x")
    cells = [cell([source], "") for source in sources] + [cell([], text) for text in outputs]
    for indent in (1, None):
        notebook.write_text(json.dumps({"cells": cells}, indent=indent))
        diff = git("diff")
        assert diff.count(TOKEN) == len(sources) + len(outputs)
        found = redact(diff)
        left = [line for line in found.splitlines() if TOKEN in line]
        assert left == []
        assert found.count('"cell_type": "code"') == (len(cells) if indent else found.count("code"))


def test_token_in_the_traceback_of_a_failed_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import src.train  # noqa: F401

    try:
        raise ConnectionError(f"https://me:{TOKEN}@host/x: no answer, api_key={TOKEN}")
    except ConnectionError:
        from src.kindling.training.launch import print_traceback

        print_traceback(*sys.exc_info())
    err = capsys.readouterr().err
    assert TOKEN not in err
    assert "ConnectionError: https://***@host/x: no answer, api_key=***" in err
    assert "test_planted_tokens.py" in err
