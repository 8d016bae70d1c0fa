"""Make a clone of the template a project, in one commit on top of the template's history.

Later versions of the template are merged by plain git (docs/how-to/follow-the-template.md). For
that, few lines of shared files change, and replaced files keep the project's version in a merge.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from src.kindling.config.errors import InputError, format_count

TEMPLATE = "kindling"
OWN = ("README.md", "CHANGELOG.md")
ATTRIBUTES = "# A merge keeps the project's version: git config merge.ours.driver true\n"
README = """# {name}

Experiments with PyTorch and Lightning, from
[the template Kindling](docs/how-to/follow-the-template.md).

    make train                         # create .venv, install, train the default experiment
    make test                          # run the test suite
    python -m src.train digits         # train a config of configs/
    python -m src.train --help         # all configs, groups and flags
    python -m src.new task my_task     # copy a task, net or data module to start from
    python -m src.compare              # a leaderboard of all runs
    tensorboard --logdir logs          # curves

`src/data`, `src/nets`, `src/tasks` and `configs/` are this project's; `src/kindling` is the engine.

## Results

| config | test metric | mean ± std over three seeds | seconds to train |
|---|---|---|---|
"""
CHANGELOG = "# Changelog\n\n## Unreleased\n"


def make_project(root: Path, name: str, author: str | None = None) -> str:
    """Commit the project's name, authors, README and changelog; return the author.

    Args:
        root: of the clone, without uncommitted changes.
        name: of the project, its package and its trackers' project: `leaf-disease`.
        author: `Name <email>`; git's user.name and user.email when left out.

    Raises:
        InputError: when the name, the author or the clone does not fit. Then nothing has changed.
    """
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    _check_name(name, pyproject)
    _check_clone(root)
    own_name, email = _parse_author(root, author)
    person = f'{{ name = "{own_name}", email = "{email}" }}'
    lines = f'name = "{name}"\nauthors = [{person}]\n'
    lines += f'description = "{name}: experiments with PyTorch and Lightning."\n'
    pyproject = re.sub(r"^name = .*\ndescription = .*\n", lambda _: lines, pyproject, flags=re.M)
    texts = {"pyproject.toml": pyproject.replace(f'"{TEMPLATE}[', f'"{name}[')}
    texts |= {"README.md": README.format(name=name), "CHANGELOG.md": CHANGELOG}
    kept = "".join(f"{file} merge=ours\n" for file in OWN)
    texts[".gitattributes"] = (root / ".gitattributes").read_text("utf-8") + ATTRIBUTES + kept
    for path in (root / "configs/logger").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        texts[f"configs/logger/{path.name}"] = text.replace(f": {TEMPLATE}\n", f": {name}\n")
    try:
        for file, text in texts.items():
            (root / file).write_text(text, encoding="utf-8")
        (root / "CITATION.cff").unlink(missing_ok=True)
        _git(root, "add", "--all")
        identity = ("-c", f"user.name={own_name}", "-c", f"user.email={email}")
        _git(root, *identity, "commit", "--message", f"Begin {name} from the template")
        _git(root, "config", "merge.ours.driver", "true")
    except BaseException:
        _git(root, "reset", "--hard", "HEAD")
        raise
    return f"{own_name} <{email}>"


def _check_name(name: str, pyproject: str) -> None:
    if f'\nname = "{TEMPLATE}"\n' not in pyproject:
        found = re.search(r'^name = "(.*)"', pyproject, re.MULTILINE)
        project = f"project {found[1]}" if found else "project"
        raise InputError(f"pyproject.toml: this is the {project} already; edit its name there")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        expected = "expected lowercase words with digits, joined by -, such as leaf-disease"
        raise InputError(f"{name}: {expected}")
    if name == TEMPLATE or re.search(rf'^ *[^#\n]*"{name}[\[<>=!"]', pyproject, re.MULTILINE):
        raise InputError(f"{name}: the name of the template or of a dependency; choose another")


def _check_clone(root: Path) -> None:
    if not shutil.which("git"):
        raise InputError("git: not installed; install it, and make a clone of the template by it")
    if not (root / ".git").exists():
        raise InputError(f"{root}: not a clone of the template; make one by git clone")
    if changed := _git(root, "status", "--porcelain").splitlines():
        files = format_count(len(changed), "uncommitted change")
        raise InputError(f"{root}: {files}, such as {changed[0][3:]}; commit or remove them")


def _parse_author(root: Path, author: str | None) -> tuple[str, str]:
    if author is None:
        name, email = (
            _git(root, "config", "--default", "", f"user.{key}").strip()
            for key in ("name", "email")
        )
        author = f"{name} <{email}>"
    found = re.fullmatch(r'([^<>"\\\x00-\x1f]*[^<>"\\\s]) +<([^<>"\\\s]+@[^<>"\\\s]+)>', author)
    if not found:
        remedy = 'pass --author "Name <email>", or set user.name and user.email in git'
        raise InputError(f"--author: expected 'Name <email>', got '{author}'; {remedy}")
    return found[1], found[2]


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        problem = (done.stderr or done.stdout).strip().splitlines() or ["failed"]
        raise InputError(f"git: {problem[-1]}")
    return done.stdout
