"""Each message of the troubleshooting page is the one that its command ends with."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image

from src.kindling.config.compose import ROOT
from src.nets.cnn import CNN
from tests.conftest import LITTLE, mistakes, train

PAGE = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
ENTRIES = {
    title: (command, lines.splitlines())
    for title, command, lines in re.findall(
        r"^### (.+)\n\n```text\n\$ python -m src\.(.+)\n([^`]+)```", PAGE, re.MULTILINE
    )
}


def fill_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Any) -> Any:
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return of_net(self, x)

    of_net = CNN.forward
    monkeypatch.setattr(CNN, "forward", forward)


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: Any, path: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", save)


def leave_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**19))


# What cannot be had by a command alone, by the entry that needs it.
CAUSES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "GPU memory is full": fill_gpu,
    "The disk is full while training": fill_disk,
    "No space for the checkpoints": leave_no_room,
    "A package is missing": lambda patch: patch.setitem(sys.modules, "optuna", None),
}


def test_page_has_entries() -> None:
    assert len(ENTRIES) >= 20
    assert re.findall(r"^### (.+)", PAGE, re.MULTILINE) == [*ENTRIES]
    assert set(CAUSES) <= set(ENTRIES)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the page: a table, and images of which one is broken and one class is small."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{i * 10}" for i in range(40)]
    Path("flats.csv").write_text("\n".join(["rooms,price", *rows]), encoding="utf-8")
    for folder, count in (("birds/owl", 6), ("birds/kite", 6), ("fish/eel", 2), ("fish/carp", 6)):
        Path(folder).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), 9 * i).save(f"{folder}/{i}.png")
    Path("birds/owl/0.png").write_bytes(b"broken")
    return tmp_path


@pytest.mark.parametrize("title", ENTRIES)
def test_message_matches_page(title: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, lines = ENTRIES[title]
    verb, *words = shlex.split(command)
    if title != "No run yet" and "latest" in words:
        train("digits")
    CAUSES.get(title, lambda _: None)(monkeypatch)
    little = LITTLE if verb == "train" and not {"latest", "--epochs"} & set(words) else ()
    found = [
        re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "2026-01-31_12-00-00", line)
        for line in mistakes(verb, *words, *little)
    ]
    assert [line.replace(str(home), "/home/me") for line in found] == lines
