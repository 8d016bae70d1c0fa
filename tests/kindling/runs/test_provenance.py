"""Files that git does not track are recorded by a run, and compared when it is reproduced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from src.kindling.runs import provenance
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE

NET = "class Net:\n    width = 8\n"


def git(folder: Path, *words: str) -> str:
    user = ("-c", "user.name=me", "-c", "user.email=me@host", "-c", "protocol.file.allow=always")
    command = ["git", "-C", str(folder), *user, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository in the place of this one, with one commit."""
    root = tmp_path / "größe 1"
    for folder in ("src/nets", "configs/net"):
        (root / folder).mkdir(parents=True)
    (root / "src" / "nets" / "cnn.py").write_text(NET)
    (root / "configs" / "digits.yaml").write_text("net: cnn\n")
    (root / ".gitignore").write_text("*.tmp\n__pycache__/\nprivate*\n")
    git(root, "init")
    git(root, "add", "--all")
    git(root, "commit", "--message", "first")
    use_root(monkeypatch, root)
    return root


def use_root(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(provenance, "ROOT", root)
    for name, module in list(sys.modules.items()):  # of the tests before
        if "pytest-of" in (getattr(module, "__file__", None) or ""):
            monkeypatch.delitem(sys.modules, name)


def run_import(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, name, None)  # so that it is removed after the test
    del sys.modules[name]
    return import_module(name)


def test_clean_tree_is_clean(root: Path) -> None:
    commit, dirty, diff = provenance.git_state()
    assert (commit, dirty, diff) == (git(root, "rev-parse", "HEAD").strip(), False, "")
    assert list(provenance.source_files("digits")) == ["configs/digits.yaml"]


def test_untracked_files_are_in_the_patch_and_hashed(root: Path, tmp_path: Path) -> None:
    (root / "src" / "nets" / "cnn.py").write_text(NET.replace("8", "16"))
    new = {
        "src/nets/my net.py": "a = 1\n",
        "src/nets/größe.py": "größe = 'ß'",
        'src/nets/a"b.py': "a = 1\n",
        "src/nets/lines.py": "a = 1\r\nb = '\x0c\x1c'\r\n",
        "configs/net/mine.yaml": "width: 8\n",
        "src/nets/empty.py": "",
    }
    for name, text in new.items():
        (root / name).write_bytes(text.encode())
    (root / "src" / "left.tmp").write_text("ignored")
    (root / "notes.txt").write_text("elsewhere")
    index = (root / ".git" / "index").read_bytes()
    objects = sorted((root / ".git" / "objects").rglob("*"))
    _, dirty, diff = provenance.git_state()
    assert dirty
    assert (root / ".git" / "index").read_bytes() == index
    assert sorted((root / ".git" / "objects").rglob("*")) == objects
    files = provenance.source_files("digits")  # nothing imports the others
    assert set(files) == {"configs/net/mine.yaml", "configs/digits.yaml"}
    assert all(len(value) == 64 for value in files.values())
    # The patch makes the tree again.
    patch, clone = tmp_path / "diff.patch", tmp_path / "clone"
    patch.write_bytes(diff.encode())
    git(tmp_path, "clone", str(root), str(clone))
    git(clone, "apply", str(patch))
    assert {name: (clone / name).read_bytes().decode() for name in new} == new
    assert (clone / "src" / "nets" / "cnn.py").read_text() == NET.replace("8", "16")


def test_large_file_is_named_in_the_patch_and_hashed(root: Path) -> None:
    (root / "src" / "large.csv").write_text("1,2\n" * (1 << 18) + "3\n")
    (root / "configs" / "net" / "large.yaml").write_text("# large\n" * (1 << 18))
    (root / "src" / "gone.py").symlink_to("nowhere.py")
    (root / "src" / "weights.bin").write_bytes(b"\0\1\2")
    _, dirty, diff = provenance.git_state()
    assert dirty
    assert "# src/large.csv: left out, 1,048,578 bytes\n" in diff
    assert "+nowhere.py" in diff
    assert "GIT binary patch" in diff
    assert set(provenance.source_files("digits")) == {
        "configs/digits.yaml",
        "configs/net/large.yaml",
    }


def test_patch_of_many_files_is_bounded(root: Path) -> None:
    for i in range(103):
        (root / "src" / f"many{i}.py").write_text("a = 1\n")
    _, _, diff = provenance.git_state()
    assert diff.count("diff --git") == 100
    assert diff.endswith("# 3 more untracked files left out\n")


def test_diff_that_is_not_utf8(root: Path) -> None:
    (root / "src" / "nets" / "cnn.py").write_bytes(b"# gr\xf6\xdfe\n")
    assert "+# gr" in provenance.git_state()[2]


def test_git_settings_do_not_change_patch(root: Path) -> None:
    for key, value in {
        "color.ui": "always",
        "diff.noprefix": "true",
        "diff.external": "false",
        "core.quotePath": "true",
    }.items():
        git(root, "config", key, value)
    (root / "src" / "größe.py").write_text("a = 1\n")
    assert "\ndiff --git a/src/größe.py b/src/größe.py\n" in provenance.git_state()[2]


def test_imported_files_are_hashed_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.yaml").touch()
    (tmp_path / "beside.py").write_text(NET)
    (tmp_path / "unused.py").write_text(NET)
    use_root(monkeypatch, tmp_path)
    run_import(monkeypatch, tmp_path, "beside")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path in (os.environ["PATH"], ""):
        monkeypatch.setenv("PATH", path)
        assert provenance.git_state() == (None, None, "")
        assert set(provenance.source_files("digits")) == {"beside.py", "configs/digits.yaml"}


def test_tree_without_commit_is_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").touch()
    git(tmp_path, "init")
    use_root(monkeypatch, tmp_path)
    assert provenance.git_state() == (None, True, "")


def test_worktree_and_submodule(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, tree = tmp_path / "library", tmp_path / "tree"
    library.mkdir()
    (library / "vendored.py").write_text("a = 1\n")
    git(library, "init")
    git(library, "add", "--all")
    git(library, "commit", "--message", "first")
    git(root, "worktree", "add", str(tree))
    git(tree, "submodule", "add", str(library), "src/vendor")
    git(tree, "commit", "--message", "second")
    use_root(monkeypatch, tree)
    run_import(monkeypatch, tree / "src" / "vendor", "vendored")
    assert provenance.git_state()[1:] == (False, "")
    assert "src/vendor/vendored.py" in provenance.source_files("digits")
    (tree / "src" / "new.py").write_text("a = 1\n")
    _, dirty, diff = provenance.git_state()
    assert dirty
    assert "+++ b/src/new.py" in diff
    git(root, "worktree", "remove", "--force", str(tree))


def test_imported_files_outside_src_are_in_the_patch(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "extra").mkdir()
    (root / "extra" / "wide.py").write_text(NET)
    (root / "extra" / "unused.py").write_text(NET)
    run_import(monkeypatch, root / "extra", "wide")
    _, dirty, diff = provenance.git_state()
    assert dirty
    assert [line for line in diff.splitlines() if line.startswith("+++")] == ["+++ b/extra/wide.py"]
    assert set(provenance.source_files("digits")) == {"extra/wide.py", "configs/digits.yaml"}


def test_files_that_git_ignores_are_hashed_and_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "private_net.py").write_text(NET)
    (root / "private_unused.py").write_text(NET)
    run_import(monkeypatch, root, "private_net")
    _, dirty, diff = provenance.git_state()
    assert dirty
    assert diff.splitlines() == [
        "# Untracked files",
        "# private_net.py: left out, ignored by git",
    ]
    assert set(provenance.source_files("digits")) == {"private_net.py", "configs/digits.yaml"}


def test_standard_library_inside_the_repository_is_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "env").mkdir()
    (root / "env" / "library.py").write_text(NET)
    run_import(monkeypatch, root / "env", "library")
    monkeypatch.setattr(provenance, "STDLIB", str(root / "env"))
    assert provenance.git_state()[1:] == (False, "")
    assert set(provenance.source_files("digits")) == {"configs/digits.yaml"}


def test_files_of_an_allowed_package_are_hashed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "own_parts"
    (package / "nets").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "nets" / "a.py").write_text(NET)
    run_import(monkeypatch, package.parent, "own_parts.nets.a")
    assert "own_parts.nets.a" not in provenance.source_files("digits")
    monkeypatch.setattr(provenance, "allowed_by_user", lambda: ("own_parts",))
    then = provenance.source_files("digits")
    assert set(then) == {"own_parts", "own_parts.nets.a", "configs/digits.yaml"}
    assert list(provenance.compare_files(then, "digits")) == []
    # In another process, which may not have imported it yet.
    for name in ("own_parts", "own_parts.nets", "own_parts.nets.a"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert list(provenance.compare_files(then, "digits")) == []
    (package / "nets" / "a.py").write_text(NET.replace("8", "9"))
    assert list(provenance.compare_files(then, "digits")) == ["own_parts.nets.a: changed since"]


def test_changed_files_are_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (root / "src" / f"{name}.py").write_text(NET)
        run_import(monkeypatch, root / "src", name)
    then = provenance.source_files("digits")
    (root / "src" / "unused.py").write_text(NET)
    git(root, "add", "src/a.py")
    git(root, "commit", "--message", "tracked since, and the same")
    assert list(provenance.compare_files(then, "digits")) == []
    (root / "src" / "a.py").write_text("a = 1\n")
    (root / "src" / "b.py").unlink()
    (root / "configs" / "digits.yaml").write_text("net: mlp\n")
    assert list(provenance.compare_files(then, "digits")) == [
        "configs/digits.yaml: changed since; the run's own config.yaml is used",
        "src/a.py: changed since",
        "src/b.py: in the run's code, missing now",
    ]


# --------------------------------------------------------------------------------------------------
# As a user


def test_reproduce_lists_edited_untracked_net(
    repository: Path, forked_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (repository / ".gitignore").write_text("/logs/*\n__pycache__/\n")
    git(repository, "init")
    git(repository, "add", "--all")
    git(repository, "commit", "--message", "first")
    cnn, mine = (repository / "src" / "nets" / name for name in ("cnn.py", "mine.py"))
    mine.write_text(cnn.read_text().replace("CNN", "Mine") + 'password = "tr0ub4dor-planted"\n')
    option = (repository / "configs" / "net" / "cnn.yaml").read_text()
    option = option.replace("src.nets.cnn.CNN", "src.nets.mine.Mine")
    (repository / "configs" / "net" / "mine.yaml").write_text(option)
    words = ("net=mine", "trainer.max_epochs=1", "--no-test")
    ended = forked_command("-m", "src.train", "digits", *LITTLE, *words, "--no-plots")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (folder,) = (repository / "logs" / "digits").iterdir()
    run = load_run(folder)
    meta = json.loads((run.path / "meta.json").read_text())
    assert meta["git"]["dirty"] is True
    assert set(meta["files"]) == {
        "configs/digits.yaml",
        "configs/net/mine.yaml",
        "src/nets/mine.py",
    }
    patch = (run.path / "diff.patch").read_text()
    assert "+++ b/src/nets/mine.py" in patch
    assert "tr0ub4dor-planted" not in patch
    assert '+password = "***"' in patch
    mine.write_text(mine.read_text() + "# edited\n")
    ended = forked_command("-m", "src.reproduce", str(run.path))
    lines = ended.stdout.splitlines()
    assert lines[0] == "differs    src/nets/mine.py: changed since", ended.stdout + ended.stderr
    assert "as then" not in ended.stdout
