"""The Makefile installs every package of the lock with its hash; another build of torch goes without."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from src.kindling.config.compose import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")

# Stands in for uv: writes down how it was called.
UV = """#!/bin/sh
echo "$*" >> "$VIRTUAL_ENV/calls"
"""


def install(venv: Path, torch: str = "") -> list[str]:
    """The arguments of each call of uv, by a make that finds the environment made already."""
    venv.mkdir()
    uv = venv / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    (venv / "python").touch()
    target = venv / (f"installed-{torch}" if torch else "installed")
    command = ["make", str(target), f"VENV={venv}", f"UV={uv}", f"TORCH={torch}"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return (venv / "calls").read_text().splitlines()


def entries(text: str) -> dict[str, str]:
    """What a lock says of each package, by its name; a package with several versions has several lines."""
    found: dict[str, str] = {}
    for entry in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]:
        name = entry.partition("==")[0]
        found[name] = found.get(name, "") + entry
    return found


def test_default_torch_requires_all_hashes(tmp_path: Path) -> None:
    locked, own = install(tmp_path / "venv")
    assert locked == "pip install --compile-bytecode --require-hashes -r requirements.lock"
    assert own.endswith("--no-deps -e .")


def test_other_torch_build_keeps_hashes(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    others, torch, own = install(venv, torch="cpu")
    assert others.endswith(f"--require-hashes --no-deps -r {venv}/others.txt")
    assert "--torch-backend=cpu" in torch
    assert torch.endswith(f"-r {venv}/torch.txt")
    assert own.endswith("--no-deps -e .")
    locked = entries((ROOT / "requirements.lock").read_text())
    kept = entries((venv / "others.txt").read_text())
    assert all(kept[name] == locked[name] for name in kept)
    left_out = set(locked) - set(kept)
    assert {"torch", "torchvision"} <= left_out
    pattern = r"torch|torchvision|triton|(nvidia|cuda)-[\w-]+"
    assert all(re.fullmatch(pattern, name) for name in left_out)
    versions = (venv / "torch.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in versions] == ["torch", "torchvision"]
    assert all(locked[line.partition("==")[0]].startswith(line) for line in versions)
    assert (venv / "torch-backend").read_text() == "cpu\n"
