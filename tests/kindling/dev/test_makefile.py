"""The Makefile installs every package of the lock with its hash; another build of torch goes without. The locks agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
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


# --------------------------------------------------------------------------------------------------
# The locks


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lock(name: str) -> dict[str, str]:
    return entries((ROOT / name).read_text())


def test_uv_installs_locked_versions() -> None:
    """`uv sync` reads no lock of requirements: the versions are repeated in pyproject.toml."""
    text = (ROOT / "requirements-dev.lock").read_text()
    locked = re.findall(r"^([a-z0-9].*?) \\$", text, flags=re.MULTILINE)
    assert len(locked) > 150
    assert PYPROJECT["tool"]["uv"] == {"constraint-dependencies": locked}


def test_locks_hold_the_same_versions() -> None:
    def versions(name: str) -> dict[str, list[str]]:
        return {package: re.findall(r"==([^ ]+)", text) for package, text in lock(name).items()}

    dev = versions("requirements-dev.lock")
    for name in ("requirements.lock", "requirements-serve.lock"):
        assert versions(name).items() <= dev.items()


def test_server_lock_has_no_torch() -> None:
    locked = lock("requirements-serve.lock")
    extra = PYPROJECT["project"]["optional-dependencies"]["serve"]
    assert {requirement.partition(">=")[0] for requirement in extra} <= set(locked)
    assert not {"torch", "torchvision", "lightning", "pandas"} & set(locked)
    for name, text in locked.items():
        assert "--hash=sha256:" in text, name


def test_make_lock_keeps_files_that_are_up_to_date(tmp_path: Path) -> None:
    names = ["pyproject.toml", "Makefile", *(path.name for path in ROOT.glob("*.lock"))]
    for name in names:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").touch()
    command = ["make", "lock", f"VENV={tmp_path}", "UV=/bin/true", f"PYTHON={sys.executable}"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    for name in names:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name
