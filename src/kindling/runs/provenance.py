"""The provenance of a run: packages, machine, commit, and source files that git does not track.

A run keeps the hashes of such files, and their content in diff.patch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from src.kindling.config.compose import ROOT
from src.kindling.config.targets import allowed_by_user

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
    "omegaconf",
)
HEADING = "# Untracked files\n"  # in diff.patch; `git apply` ignores such lines
LARGEST, MOST = 1 << 20, 100  # bytes of a file in the patch, and the number of files
# Whatever git's settings: a diff as `git apply` reads it.
DIFF = "diff --no-ext-diff --no-textconv --binary --no-color --src-prefix=a/ --dst-prefix=b/"
STDLIB = sysconfig.get_path("stdlib")  # inside the repository, if a conda environment is
FAILED = (OSError, subprocess.CalledProcessError)  # without git, without a repository or a commit


def packages() -> dict[str, str]:
    found = {}
    for name in (*PACKAGES, *(name.partition(".")[0] for name in allowed_by_user())):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def hardware() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def git(*arguments: str, check: bool = True) -> str:
    """The output of a git command in the repository; what is not UTF-8 is replaced."""
    command = ["git", "-c", "core.quotePath=false", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=check)
    return done.stdout.decode(errors="replace")


def git_state() -> tuple[str | None, bool | None, str]:
    """Return the commit, whether files differ from it, and the diff.

    Untracked files of src/ and configs/, and imported ones anywhere, count as different. Without a
    commit, the tree is dirty; without a repository, this is unknown: None.
    """
    dirty = None
    try:
        git("rev-parse", "--git-dir")
        dirty = True
        diff = git(*DIFF.split(), "HEAD", "--", ".") + _untracked_patch()
        return git("rev-parse", "HEAD").strip(), bool(diff), diff
    except FAILED:
        return None, dirty, ""


def source_files(config: str) -> dict[str, str]:
    """SHA-256 of imported files and options that the commit lacks, and of the config's own file.

    A file of the repository is named by its path, one of another package by its module.
    """
    try:
        committed = {*git("ls-tree", "-r", "-z", "--name-only", "HEAD").split("\0")}
        options = _list_untracked("configs")
    except FAILED:
        committed, options = set(), []
    names = {*_imported(), *options} - committed | {f"configs/{config}.yaml"}
    hashes = {name: _hash(name) for name in sorted(names)}
    return {name: value for name, value in hashes.items() if value}


def compare_files(then: Mapping[str, str], config: str) -> Iterator[str]:
    """Yield a line for each file that differs from those of the training (`source_files`)."""
    for name, before in then.items():
        now = _hash(name)
        own = "; the run's own config.yaml is used" if name == f"configs/{config}.yaml" else ""
        if not now:
            yield f"{name}: in the run's code, missing now"
        elif now != before:
            yield f"{name}: changed since{own}"


def _list_untracked(*arguments: str) -> list[str]:
    listed = git("ls-files", "-z", "--others", "--exclude-standard", *arguments)
    # The name of another repository ends with a slash.
    return [name for name in listed.split("\0") if name and not name.endswith("/")]


def _untracked_patch() -> str:
    """Untracked files as additions; some are only named: large, ignored, or too many."""
    imported = [name for name in _imported() if name.endswith(".py")]
    names = _list_untracked("src", "configs", *imported)
    patch = ""
    for name in names[:MOST]:
        size = (ROOT / name).lstat().st_size
        if size > LARGEST:
            patch += f"# {name}: left out, {size:,} bytes\n"
        else:
            patch += git(*DIFF.split(), "--no-index", "--", "/dev/null", name, check=False)
    if len(names) > MOST:
        patch += f"# {len(names) - MOST:,} more untracked files left out\n"
    for name in _list_untracked("--ignored", *imported) if imported else ():
        patch += f"# {name}: left out, ignored by git\n"
    return HEADING + patch if patch else ""


def _imported() -> Iterator[str]:
    """The modules of the repository, and of allowed packages that are installed as editable."""
    own = {name.partition(".")[0] for name in allowed_by_user()}
    for name, module in list(sys.modules.items()):
        path = str(getattr(module, "__file__", None) or "")
        # As text, because thousands of modules are loaded. An installed package has a version.
        if not path.endswith(".py") or "site-packages" in path or path.startswith(STDLIB):
            continue
        if Path(path).is_relative_to(ROOT):
            yield Path(path).relative_to(ROOT).as_posix()
        elif name.partition(".")[0] in own:
            yield name


def _hash(name: str) -> str:
    """The hash of a file by its name in `source_files`; empty where there is none.

    Of other names, which a run from elsewhere may list, none is imported or read.
    """
    path = Path(os.path.normpath(ROOT / name))
    try:
        if name.partition(".")[0] in {own.partition(".")[0] for own in allowed_by_user()}:
            spec = find_spec(name)
            path = Path(spec.origin) if spec and spec.origin else path
        elif not path.is_relative_to(ROOT):
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ImportError, ValueError):
        return ""
