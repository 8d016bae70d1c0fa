"""Every command and every Python block of the README runs as written."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_diabetes

from src.kindling.config.compose import CONFIGS, ROOT
from src.kindling.config.errors import InputError
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, call, train
from tests.written import composes

README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = {"tune": ("--trials", "2"), "crossval": ("--folds", "2", "--repeats", "1")}
SHOWN = re.findall(
    r"^    (?:torchrun .*-m|srun python -m|python -m) (src\S* ?.*?)(?:\s+#.*)?$",
    README,
    flags=re.MULTILINE,
)
SEVERAL = [
    line for line in SHOWN if "trainer=ddp" in line
]  # processes: tests/faults/test_distributed.py runs such
COMMANDS = [f"python -m {line}" for line in SHOWN if line not in SEVERAL]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
    assert len(SEVERAL) == 3


@pytest.mark.parametrize("line", SEVERAL)
def test_a_command_of_several_processes_composes(line: str) -> None:
    composes(line.removeprefix("src."))


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs(line, tmp_path, monkeypatch, capsys)


def runs(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Call a command as it is written, with a few batches, and see that it says what it says at its end."""
    words = shlex.split(line)[2:]
    verb = words[0].removeprefix("src.")
    argv = words[1:]
    if any("latest" in word for word in argv):
        train("digits")
    if "--help" in argv:
        with pytest.raises(SystemExit) as ended:
            call(verb, *argv)
        assert ended.value.code == 0
        return
    if verb == "new":  # what it writes is trained in tests/test_new.py
        monkeypatch.setattr("src.kindling.dev.scaffold.write_all", lambda files: None)
    if verb == "benchmark":
        monkeypatch.chdir(tmp_path)
        call(verb, *argv, "--rounds", "1", "--seconds", "0.05")
        assert "fit / model_only" in capsys.readouterr().out
        return
    if verb in STUDIES:
        argv = [*(word for word in argv if word not in ("--workers", "2")), *LITTLE, *STUDIES[verb]]
    if "--resume" in argv:  # as if it had been stopped before it was measured
        meta = load_run("latest").path / "meta.json"
        meta.write_text(meta.read_text().replace('"finished"', '"interrupted"'))
    elif verb == "train" and not any(word.startswith(("trainer=", "--find")) for word in argv):
        argv = [*argv, *LITTLE]
    if verb in ("compare", "predict"):
        train("digits")
        monkeypatch.chdir(tmp_path)
    if verb == "predict" and "new.csv" in argv:  # a table, for a run on tables
        frame = load_diabetes(as_frame=True, scaled=False).data
        train("diabetes")
        frame.head(3).to_csv("new.csv", index=False)
    elif verb == "predict":
        Path("new").mkdir()
        Image.new("L", (20, 20), 200).save("new/one.png")
    call(verb, *argv)
    expected = {
        "look": "plots     ",
        "report": "report     ",
        "compare": "digits/",
        "reproduce": "identical",
        "predict": "saved      ",
        "export": "saved      ",
        "tune": "config     ",
        "crossval": "all folds  ",
        "new": "wrote      ",
    }
    if verb == "train":
        verb = next((word for word in ("--seeds", "--find") if word in argv), verb)
        expected |= {"--seeds": "mean ± std", "--find": "to use it  "}
    assert expected.get(verb, "run        ") in capsys.readouterr().out


def test_the_mistake_is_told_as_shown() -> None:
    shown = re.search(
        r"^    \$ python -m src\.train (.*)\n((?:    .+\n)+)", README, flags=re.MULTILINE
    )
    assert shown
    with pytest.raises(InputError) as caught:
        call("train", *shlex.split(shown[1]))
    assert caught.value.lines == [line.strip() for line in shown[2].splitlines()]


def test_the_python_blocks_run(capsys: pytest.CaptureFixture[str]) -> None:
    train("digits")
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("tensor([")


def test_the_yaml_shown_is_the_file() -> None:
    shown = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert shown
    assert yaml.safe_load(shown[1]) == yaml.safe_load((CONFIGS / "digits.yaml").read_text())


def test_make_targets_and_paths_exist() -> None:
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(
        r"`((?:src|configs)/[\w/.]+)`", README
    ):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"`(src\.[\w.]+)\.[A-Z]\w+`", README):
        importlib.import_module(module)


def test_the_environment_can_be_made_by_another_torch() -> None:
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
