"""A clone becomes a project of its own, and merges later versions of the template without a conflict."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.dev import scaffold
from src.kindling.dev.project import make_project
from src.kindling.dev.scaffold import copy_template
from src.new import main
from tests.written import IS_TEMPLATE

pytestmark = [
    pytest.mark.skipif(not shutil.which("git"), reason="git is not installed"),
    pytest.mark.skipif(not IS_TEMPLATE, reason="this is a project"),
]
ADA = "Ada Lovelace <ada@example.org>"


def git(folder: Path, *arguments: str, status: int = 0) -> str:
    user = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(["git", *user, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the present files of this one."""
    folder = tmp_path_factory.mktemp("template")
    names = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith(("docs/gallery/", "tests/old_runs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A version of the template")
    return folder


@pytest.fixture
def clone(template: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "--quiet", str(template), "clone")
    for key, value in (("name", "Ada Lovelace"), ("email", "ada@example.org")):
        git(tmp_path / "clone", "config", f"user.{key}", value)
    return tmp_path / "clone"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_project_is_one_commit(clone: Path) -> None:
    assert make_project(clone, "leaf-disease") == ADA
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-list", "--count", "origin/main..HEAD") == "1\n"
    changed = git(clone, "diff", "--name-status", "origin/main").splitlines()
    assert [line.replace("\t", " ") for line in changed] == [
        "M .gitattributes",
        "M CHANGELOG.md",
        "D CITATION.cff",
        "M README.md",
        "M configs/logger/mlflow.yaml",
        "M configs/logger/wandb.yaml",
        "M pyproject.toml",
    ]
    project = tomllib.loads((clone / "pyproject.toml").read_text())["project"]
    assert project["name"] == "leaf-disease"
    assert project["authors"] == [{"name": "Ada Lovelace", "email": "ada@example.org"}]
    assert (
        "leaf-disease[parquet,export,serve,timm,detection,tune]"
        in project["optional-dependencies"]["dev"]
    )
    assert "  project: leaf-disease\n" in (clone / "configs/logger/wandb.yaml").read_text()
    assert "experiment_name: leaf-disease\n" in (clone / "configs/logger/mlflow.yaml").read_text()
    assert (clone / "README.md").read_text().startswith("# leaf-disease\n")
    assert (clone / "CHANGELOG.md").read_text() == "# Changelog\n\n## Unreleased\n"
    with pytest.raises(InputError, match="pyproject.toml: this is the project leaf-disease alrea"):
        make_project(clone, "leaf-rust")


@pytest.mark.parametrize(
    "name", ["Leaf", "leaf disease", "-leaf", "1leaf", "leaf-", "", "kindling", "torch", "onnx"]
)
def test_bad_name(name: str, clone: Path) -> None:
    with pytest.raises(
        InputError, match=f"^{name}: (expected lowercase words|the name of the)"
    ) as e:
        make_project(clone, name)
    assert len(e.value.lines) == 1


@pytest.mark.parametrize("author", ["Ada", "<ada@example.org>", 'A"da <a@b.c>', "Ada <ada>"])
def test_bad_author(author: str, clone: Path) -> None:
    with pytest.raises(InputError, match=r"^--author: expected 'Name <email>', got "):
        make_project(clone, "leaf", author)


def test_refusals_change_nothing(clone: Path, tmp_path: Path) -> None:
    (clone / "configs" / "mine.yaml").write_text("defaults: [digits]\n")
    with pytest.raises(
        InputError, match=r"1 uncommitted change, such as configs/mine.yaml; commit"
    ):
        make_project(clone, "leaf")
    (clone / "configs" / "mine.yaml").unlink()
    hook = clone / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho 'no commits on Sundays' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(InputError, match="^git: no commits on Sundays$"):
        make_project(clone, "leaf")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "rev-parse", "HEAD") == git(clone, "rev-parse", "origin/main")
    shutil.copytree(clone, tmp_path / "copy", ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(InputError, match="not a clone of the template; make one by git clone"):
        make_project(tmp_path / "copy", "leaf")


def test_author_suffices_where_git_knows_nobody(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", str(template), "clone")
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, "/dev/null")
    git(tmp_path / "clone", "config", "user.useConfigOnly", "true")
    with pytest.raises(InputError, match="^--author: expected 'Name <email>', got ' <>'; pass"):
        make_project(tmp_path / "clone", "leaf")
    assert make_project(tmp_path / "clone", "leaf", ADA) == ADA
    assert git(tmp_path / "clone", "log", "-1", "--format=%an <%ae>") == f"{ADA}\n"


def test_git_is_missing(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="^git: not installed; install it"):
        make_project(clone, "leaf")


def test_later_version_merges_without_conflict(
    clone: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", str(template), "upstream")
    upstream = tmp_path / "upstream"
    make_project(clone, "leaf-disease")
    git(clone, "remote", "rename", "origin", "kindling")
    git(clone, "remote", "set-url", "kindling", str(upstream))
    monkeypatch.setattr(scaffold, "ROOT", clone)
    monkeypatch.setattr("src.kindling.config.compose.CONFIGS", clone / "configs")
    for kind, name in (("task", "leaf_task"), ("net", "leaf_net"), ("data", "leaf_data")):
        copy_template(kind, name)
    edit(clone / "configs/leaf_task.yaml", "- data: digits", "- data: leaf_data")
    edit(clone / "README.md", "Experiments with", "Leaves, and experiments with")
    edit(clone / "pyproject.toml", "targets = []", 'targets = ["leaves"]')
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "A task of the project")
    own = git(clone, "diff", "--name-only", "HEAD~1").split()

    edit(upstream / "src/kindling/dev/__init__.py", '"""', '"""Later: ')
    edit(upstream / "README.md", "# Kindling", "# Kindling, later")
    edit(upstream / "CHANGELOG.md", "# Changelog", "# Changelog\n\n## 0.2.0")
    edit(upstream / "pyproject.toml", '    "jinja2>=3.1",', '    "jinja2>=3.1",\n    "attrs>=25",')
    edit(upstream / "pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"')
    edit(upstream / "requirements.lock", "# via", "# later via")
    (upstream / "tests/kindling/dev/test_later.py").write_text("def test_later() -> None: ...\n")
    git(upstream, "add", "--all")
    git(upstream, "commit", "--quiet", "--message", "A later version")

    git(clone, "fetch", "--quiet", "kindling")
    git(clone, "merge", "--quiet", "--message", "Follow the template", "kindling/main")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "diff", "--name-only", "HEAD^1", "--", *own[1:]).split() == ["pyproject.toml"]
    project = tomllib.loads((clone / "pyproject.toml").read_text())
    assert project["project"]["name"] == "leaf-disease"
    assert project["project"]["version"] == "0.2.0"
    assert "attrs>=25" in project["project"]["dependencies"]
    assert project["tool"]["kindling"]["targets"] == ["leaves"]
    assert (clone / "README.md").read_text().startswith("# leaf-disease\n\nLeaves, and")
    assert "0.2.0" not in (clone / "CHANGELOG.md").read_text()
    assert (clone / "src/kindling/dev/__init__.py").read_text().startswith('"""Later: ')
    code = """
from src.kindling.config.compose import compose
values = compose("leaf_task", ["net=leaf_net"]).values
print(values["task"]["_target_"], values["net"]["_target_"], values["data"]["_target_"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True)
    targets = [
        "src.tasks.leaf_task.LeafTask",
        "src.nets.leaf_net.LeafNet",
        "src.data.leaf_data.LeafData",
    ]
    assert done.stdout.split() == targets, done.stderr


def test_flags_of_the_other_kind() -> None:
    for words, flag in (
        (["project", "leaf", "--like", "cnn"], "like"),
        (["net", "a", "--author", ADA], "author"),
    ):
        with pytest.raises(
            InputError, match=f"^--{flag}: has no effect with {words[0]}; leave it out"
        ):
            main(words)
