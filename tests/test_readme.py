"""The commands and Python blocks of the README run as they are written."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from src import tasks
from src.kindling.config.compose import CONFIGS, ROOT
from src.kindling.config.errors import InputError
from src.kindling.deploy import export_files
from src.kindling.runs.run import Run
from tests.conftest import LITTLE, call, copied, kept_runs, train
from tests.kindling.deploy.conftest import measure_here
from tests.written import IS_TEMPLATE, README, YOURS, commands, composes

if not IS_TEMPLATE:
    pytest.skip("the README is a project's own", allow_module_level=True)

# The mistake that is shown; its lines are compared below.
MISTAKE = re.search(r"^    \$ python -m src\.train (.*)\n((?:    .+\n)+)", README, re.MULTILINE)
assert MISTAKE
COMMANDS = [
    command for command in commands(README) if "`" not in command and MISTAKE[1] not in command
]
# The shortest command of each verb is run; every command is composed and checked. Servers
# are started in tests/kindling/deploy, processes of DDP in tests/faults/test_distributed.py.
BY_LENGTH = sorted(COMMANDS, key=len, reverse=True)
SHORTEST = {command.partition(" ")[0]: command for command in BY_LENGTH}
RUN = {verb: command for verb, command in SHORTEST.items() if verb != "serve"}
FEWER: dict[str, tuple[str, ...]] = {
    "benchmark": ("--rounds", "1", "--seconds", "0.05"),
    "crossval": (*LITTLE, "--folds", "2", "--repeats", "1", "--workers", "1"),
    "train": LITTLE,
    "tune": (*LITTLE, "--trials", "2", "--workers", "1"),
}
PRINTED = {
    "benchmark": "fit / model_only",
    "compare": "digits/",
    "crossval": "all folds  ",
    "export": "saved      ",
    "look": "plots     ",
    "new": "wrote      ",
    "predict": "saved      ",
    "report": "report     ",
    "reproduce": "identical",
    "tune": "config     ",
}


def test_readme_has_commands() -> None:
    assert len(COMMANDS) > 20
    assert set(RUN) >= {"train", "evaluate", "new", *PRINTED}


@pytest.mark.parametrize("command", [line for line in COMMANDS if "mine.Mine" not in line])
def test_command_composes(command: str) -> None:
    composes(command)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that the tests copy."""
    with kept_runs(tmp_path_factory):
        return train("digits").run


@pytest.mark.parametrize("verb", RUN)
def test_command_runs(
    verb: str,
    digits: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = shlex.split(RUN[verb])[1:]
    monkeypatch.setattr("src.kindling.dev.scaffold.write_all", lambda files: None)
    monkeypatch.chdir(tmp_path)
    # Fresh processes take seconds; tests/kindling/deploy/test_export.py starts them.
    monkeypatch.setattr(export_files, "run_in_fresh_process", measure_here)
    if verb == "compare" or any("latest" in word for word in argv):
        copied(digits)
    if verb == "predict":
        Path("new").mkdir()
        Image.new("L", (20, 20), 200).save("new/one.png")
    call(verb, *argv, *FEWER.get(verb, ()))
    assert PRINTED.get(verb, "run        ") in capsys.readouterr().out


def test_mistake_message() -> None:
    assert MISTAKE
    with pytest.raises(InputError) as caught:
        call("train", *shlex.split(MISTAKE[1]))
    assert caught.value.lines == [line.strip() for line in MISTAKE[2].splitlines()]


def test_first_task_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (command,) = (command for command in COMMANDS if "src.tasks.mine.Mine" in command)
    assert len(re.findall(r"^ .+", block, flags=re.MULTILINE)) == 10
    (tmp_path / "mine.py").write_text(block, encoding="utf-8")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    result = train(
        *shlex.split(command)[1:], "trainer.max_epochs=3", "trainer.limit_train_batches=1.0"
    )
    losses = pd.read_csv(result.run.path / "metrics.csv")["val/loss"]
    assert losses.iloc[-1] < losses.iloc[0] < 3


def test_readme_is_short() -> None:
    words = [word for word in README.split() if re.search(r"\w", word)]  # no bars of tables
    assert len(words) <= 900


def test_yaml_block_is_the_file() -> None:
    page = (ROOT / "docs" / "how-to" / "configs.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert yaml.safe_load(shown) == yaml.safe_load((CONFIGS / "digits.yaml").read_text())


def test_make_targets_and_paths_exist() -> None:
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for path in re.findall(r"\]\((?!http|\.\./)([^)#]+)\)", README) + re.findall(
        r"`((?:src|configs)/[\w/.]+)`", README
    ):
        assert (ROOT / path).exists() or YOURS.search(path), path
    for module in re.findall(r"`(src\.[\w.]+)\.[A-Z]\w+`", README):
        importlib.import_module(module)


def test_makefile_installs_another_torch() -> None:
    done = subprocess.run(
        ["make", "-n", "train", "TORCH=cpu", "VENV=/nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--torch-backend=cpu" in done.stdout
    done = subprocess.run(
        ["make", "-n", "train", "VENV=/nowhere"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--compile-bytecode --require-hashes -r requirements.lock" in done.stdout


def test_clone_has_a_folder_for_logs() -> None:
    assert (ROOT / "logs" / ".gitkeep").exists()
