"""What `python -m src.new` writes trains, passes its own test, and changes no existing line."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.kindling.config import compose as config_module
from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.dev import scaffold as new_module
from src.kindling.dev.scaffold import (
    EDITS,
    FOLDERS,
    class_name,
    copy_template,
    find_templates,
    list_edits,
    write_all,
)
from tests.conftest import call, mistakes, train

Command = Callable[..., subprocess.CompletedProcess[str]]


# Plots, predictions and the report work through the task's contract.
TOGETHER = """
import pytest
from tests.conftest import LITTLE, call

@pytest.mark.plots
def test_copies_train_together(capsys):
    run = call("train", "ranking", "net._target_=src.nets.resnet20.ResNet20", "data=birds", *LITTLE).run
    line = "ranking: ResNet20 with 29,162 parameters on cpu; 1,257 train, 270 val, 270 test"
    assert line in capsys.readouterr().out
    assert run.path.parent.name == "ranking"
    assert (run.path / "report.html").exists()
    assert list((run.path / "predictions").iterdir())
    assert (run.path / "plots" / "test_confusion.png").exists()
"""


@pytest.fixture
def with_tests(repository: Path) -> Path:
    """The copy of the repository, with its tests."""
    shutil.copytree(
        ROOT / "tests", repository / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "pyproject.toml", repository)
    return repository


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_new_task_net_and_data_train(with_tests: Path, forked_command: Command) -> None:
    before = content(with_tests)
    for kind, name in (("task", "ranking"), ("net", "resnet20"), ("data", "birds")):
        done = forked_command("-m", "src.new", kind, name)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert (
            lines[-1]
            == f"test       python -m pytest tests/{FOLDERS[kind]}/test_{name}.py    (pip install -e '.[dev]' has pytest)"
        )
        places = [line.split()[1] for line in lines if line[:4].strip().isdigit()]
        assert places[0] == f"src/{FOLDERS[kind]}/{name}.py:1"
        for place in places:  # each names a line that is there
            file, _, line = place.partition(":")
            assert (with_tests / file).read_text().splitlines()[int(line) - 1].strip()
    assert lines[-2] == "train      python -m src.train digits data=birds"
    after = content(with_tests)
    assert set(after) - set(before) == {
        "src/tasks/ranking.py",
        "configs/ranking.yaml",
        "tests/tasks/test_ranking.py",
        "src/nets/resnet20.py",
        "configs/net/resnet20.yaml",
        "tests/nets/test_resnet20.py",
        "src/data/birds.py",
        "configs/data/birds.yaml",
        "tests/data/test_birds.py",
    }
    assert {name: after[name] for name in before} == before

    # One process, since each start takes seconds: the copies' own tests, and a training of all three.
    (with_tests / "tests/test_together.py").write_text(TOGETHER)
    tests = ("tests/nets/test_resnet20.py", "tests/data/test_birds.py", "tests/test_together.py")
    done = forked_command("-m", "pytest", *tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "like"), [(kind, like) for kind in FOLDERS for like in find_templates(kind)]
)
def test_copy_of_each_template(
    kind: str, like: str, with_tests: Path, forked_command: Command
) -> None:
    done = forked_command("-m", "src.new", kind, "another_one", "--like", like)
    assert done.returncode == 0, done.stderr
    done = forked_command("-m", "pytest", f"tests/{FOLDERS[kind]}/test_another_one.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("net cnn", "cnn: the name is taken (src/nets/cnn.py); choose another"),
        ("task digits", "digits: the name is taken (configs/); choose another"),
        ("data cifar10", "cifar10: the name is taken (configs/); choose another"),
        *[
            (
                f"net {name}",
                f"{name}: expected a lowercase letter, then lowercase letters, digits and _, and "
                "no keyword, such as my_net",
            )
            for name in ("My-Net", "2d", "../cnn2", "class")
        ],
        (
            "net tensor",
            "tensor: src/nets/cnn.py uses the class name 'Tensor'; choose another name",
        ),
        (
            "net mine --like cnnn",
            "--like cnnn: no net to copy; did you mean 'cnn'? (there are: cnn, mlp)",
        ),
    ],
)
def test_invalid_name_is_refused(words: str, line: str) -> None:
    assert mistakes("new", *words.split()) == [line]


def test_list_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_module, "write_all", lambda files: None)
    expected = {
        "task": [
            "class",
            "__init__",
            "_meter",
            "forward",
            "training_step",
            "_step",
            "predict_step",
            "configure_optimizers",
        ],
        "net": ["class", "__init__", "forward"],
        "data": ["class", "__init__", "load"],
    }
    for kind, parts in expected.items():
        edits = list_edits(kind, copy_template(kind, "another_one"))
        assert [what for _, what in edits[1:-2]] == [EDITS[part] for part in parts]


def test_names_of_classes() -> None:
    names = {
        "unet": "UNet",
        "resnet50": "ResNet50",
        "net": "Net",
        "image_folder": "ImageFolder",
        "net2d": "Net2d",
    }
    assert {name: class_name("net", name) for name in names} == names
    assert class_name("data", "planet") == "Planet"


def test_write_all_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError) as caught:
        write_all({tmp_path / "a": "1", tmp_path / "b": "2"})
    assert caught.value.lines == [f"{tmp_path}/b: cannot be written: File exists"]
    assert content(tmp_path / ".") == {"b": b"mine"}
    with pytest.raises(InputError) as caught:
        write_all({tmp_path / "a": "1", tmp_path / "no" / "c": "2"})
    assert caught.value.lines == [f"{tmp_path}/no/c: cannot be written: No such file or directory"]
    open_file = Path.open

    def interrupted(path: Path, *mode: str, **options: Any) -> Any:
        if path.name == "c":
            raise KeyboardInterrupt
        return open_file(path, *mode, **options)

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all({tmp_path / "a": "1", tmp_path / "c": "2"})
    assert content(tmp_path) == {"b": b"mine"}


def test_table_and_image_folder_need_only_yaml(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path / "configs")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs/data/houses.yaml").write_text(
        "# Houses.\n_target_: src.kindling.data.tables.table.Table\npath: houses.csv\ntarget: price\n"
    )
    (tmp_path / "configs/data/cards.yaml").write_text(
        "# Cards.\n_target_: src.kindling.data.images.image_folder.ImageFolder\nroot: cards\n"
    )
    assert train("table", "data=houses").run.spec.target == "price"
    assert train("image_folder", "data=cards").run.spec.classes[0] == "digit 0"


def test_new_returns_written_files(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[Path, str] = {}
    monkeypatch.setattr(new_module, "write_all", written.update)
    files = call("new", "net", "wide", "--like", "mlp")
    assert files == written
    assert [path.relative_to(ROOT).as_posix() for path in written] == [
        "src/nets/wide.py",
        "configs/net/wide.yaml",
        "tests/nets/test_wide.py",
    ]
    module, yaml, test = written.values()
    assert "class Wide(nn.Module):" in module
    assert "MLP" not in module
    assert yaml == "# A copy of mlp: describe it here in a line.\n_target_: src.nets.wide.Wide\n"
    assert "def test_wide_trains" in test
    assert 'train("digits", "net=wide")' in test
    assert "mlp" not in test.lower()


def test_columns_named_like_the_experiment_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_module, "write_all", lambda files: None)
    (*_, anomaly), (*_, char_lm) = (
        new_module.copy_template("task", "mine", name).values() for name in ("anomaly", "char_lm")
    )
    assert '"anomaly": (count,),' in anomaly
    assert 'train("mine")' in char_lm
    assert '"char_lm"' not in char_lm
