"""Help and first mistakes as a user meets them: real processes, plain lines, status 2, and no torch."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from src.kindling.config.command import Parser
from src.kindling.config.compose import ROOT, configs, groups
from src.kindling.config.errors import InputError, did_you_mean
from tests.conftest import mistakes

Command = Callable[..., subprocess.CompletedProcess[str]]
NO_TORCH = "import sys; sys.modules.update(torch=None, lightning=None, matplotlib=None); import runpy; runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


@pytest.mark.parametrize("verb", ["train", "evaluate", "look", "benchmark", "tune"])
def test_help_without_torch(command: Command, repository: Path, verb: str) -> None:
    (repository / "configs" / "mine.yaml").write_text("# My own experiment.\n")
    done = command("-c", NO_TORCH.format(f"src.{verb}"), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    if verb == "train":
        assert "  mine                 My own experiment.\n" in done.stdout
        assert "  trainer=             cpu | ddp | debug | default | fsdp | gpu\n" in done.stdout
        assert len(done.stdout.splitlines()) < 38 + len([*(repository / "configs").glob("*.yaml")])


def test_usage_without_docstrings() -> None:
    parser = Parser("evaluate", None)  # of `python -OO`
    parser.add_run()
    with pytest.raises(
        InputError, match=r"\(usage: python -m src.evaluate \[-h\] \[--trust\] RUN\)"
    ):
        parser.read([])


def test_first_pass_without_torch(command: Command, repository: Path) -> None:
    done = command("-c", NO_TORCH.format("src.train"), "digit", "data=digit")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"digit: no such config; did you mean 'digits'? (configs/ has: {', '.join(configs())})",
        f"data=digit: no such option; did you mean 'digits'? (configs/data/ has: {', '.join(groups()['data'])}) "
        "(command line)",
    ]
    assert not (repository / "logs").exists()


def test_second_pass(forked_command: Command, repository: Path) -> None:
    done = forked_command("-m", "src.train", "trainer.max_epoch=3", "task.optimizer.lr=fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "task.optimizer.lr: expected a number, got 'fast' (command line)",
        "trainer.max_epoch: Trainer has no argument 'max_epoch'; did you mean 'max_epochs'? (command line)",
    ]
    assert not (repository / "logs").exists()


def test_status_of_failed_training(command: Command) -> None:
    code = """
from src.kindling.config.command import run_command
from src.kindling.config.errors import TrainingError

def main(argv):
    raise TrainingError("step 5: the loss is nan")

run_command(main)
"""
    done = command("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "step 5: the loss is nan\n")


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error there")
@pytest.mark.parametrize(
    "main",
    [
        "print(1)",
        "print(1, flush=True)",
        "from rich.console import Console; Console().print(1)",
        "print(1); raise InputError('key: a mistake')",
        "raise InputError('key: a mistake')",
    ],
)
def test_output_that_nobody_reads(repository: Path, main: str) -> None:
    code = f"""
from src.kindling.config.command import run_command
from src.kindling.config.errors import InputError

def main(argv):
    {main}

run_command(main)
"""
    reader, writer = os.pipe()
    os.close(reader)
    both = subprocess.STDOUT if main.startswith("raise") else subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, stdout=writer, stderr=both, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr or "") == (141, "")


def test_pipe_of_a_worker(command: Command) -> None:
    code = """
from src.kindling.config.command import run_command

def main(argv):
    raise BrokenPipeError(32, "Broken pipe")

run_command(main)
"""
    done = command("-c", code)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_traceback_is_the_last_that_is_printed(command: Command) -> None:
    code = """
import atexit
from src.kindling.config.command import run_command

class Library:
    def __del__(self):
        print("a library complains of its leaks")

def main(argv):
    raise ValueError("a mistake in a step")

library = Library()
atexit.register(print, "a logger ends")
run_command(main)
"""
    done = command("-c", code)
    assert (done.returncode, done.stdout) == (1, "a logger ends\n")
    assert done.stderr.endswith("\nValueError: a mistake in a step\n")


def test_list_of_commands(command: Command) -> None:
    done = command("-m", "src")
    lines = done.stdout.splitlines()
    assert (
        "python -m src.train      Train an experiment: fit it, test the best checkpoint, and leave a run in logs/."
        in lines
    )
    for line in lines:  # each command has a sentence
        assert re.fullmatch(r"python -m src\.[a-z]+ +[A-Z].*\.", line), line
    assert {line.split()[2].removeprefix("src.") for line in lines} >= {
        "benchmark",
        "evaluate",
        "look",
        "train",
    }


def test_did_you_mean() -> None:
    for given, names, nearest in (
        ("Adamw", ["Adam", "AdamW"], "AdamW"),  # but for its case
        ("val/acc", ["val/accuracy", "val/auroc", "val/loss"], "val/accuracy"),  # as it begins
        ("val/a", ["val/accuracy", "val/auroc"], "val/auroc"),  # two begin so
        ("widht", ["depth", "width"], "width"),
    ):
        assert did_you_mean(given, names) == f"; did you mean '{nearest}'?"
    assert did_you_mean("x", ["width"]) == ""


def test_wrong_flags() -> None:
    assert mistakes("train", "--inti", "x") == [
        "--inti: no such flag; did you mean '--init'? (this command has: "
        "--by-order, --dry-run, --find, --graph, --help, --init, --no-plots, --no-test, --override, --partial, --resume, --seeds, --show, --trust)"
    ]
    assert mistakes("train", "--trainer.max_epochs=3") == [
        "--trainer.max_epochs: no such flag; config values go without dashes: trainer.max_epochs=3 "
        "(this command has: "
        "--by-order, --dry-run, --find, --graph, --help, --init, --no-plots, --no-test, --override, --partial, --resume, --seeds, --show, --trust)"
    ]
    assert mistakes("train", "--trainer.max_epochs", "3")[0].startswith(
        "--trainer.max_epochs: no such flag; config values go without dashes: trainer.max_epochs=3 ("
    )
    (line,) = mistakes("train", "--data", "coco.yaml")
    assert line.startswith(
        "--data: no such flag; what a config holds is set by key=value, such as trainer.max_epochs=5 (this command has: "
    )
    assert mistakes("train", "+trainer.precision=16") == [
        "+trainer.precision=16: every argument can be set as it is: trainer.precision=16 (command line)"
    ]
    assert mistakes("train", "--init") == [
        "--init: expected one argument (usage: python -m src.train [CONFIG] [key=value ...] [--flags])"
    ]
    assert mistakes("train", "digits", "diabetes") == [
        "diabetes: expected key=value (command line)"
    ]
    assert mistakes("evaluate") == [
        "the following arguments are required: RUN (usage: python -m src.evaluate RUN [--split val|test] [--trust])"
    ]


def test_package_of_another_clone_warns(command: Command, repository: Path) -> None:
    inside = repository / "configs"
    done = command("-m", "src.train", "--help", cwd=inside, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0
    assert done.stderr == (
        f"WARNING    src: the package of {ROOT} runs (logs in {ROOT / 'logs'}), but this folder belongs "
        f"to the clone {repository}; cd {repository}, or pip install -e {repository}\n"
    )
    env = {"PYTHONPATH": str(repository)}
    assert command("-m", "src.train", "--help", cwd=inside, env=env).stderr == ""
    assert command("-m", "src.train", "--help", cwd=repository.parent, env=env).stderr == ""


def test_command_as_a_word(command: Command) -> None:
    for words, line in (
        (
            ("train", "digits"),
            "train: not expected after python -m src; write python -m src.train …",
        ),
        (("trian",), "trian: not expected after python -m src; did you mean 'train'?"),
        (("--version",), "--version: not expected after python -m src"),
    ):
        done = command("-m", "src", *words)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{line}\n")


@pytest.mark.skipif(os.name == "nt", reason="started differently there")
def test_console_script_becomes_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["kindling"].partition(":")
    script = getattr(importlib.import_module(module), function)

    def start(program: str, command: list[str]) -> None:
        raise SystemExit([program, *command])

    monkeypatch.setattr(os, "execv", start)
    monkeypatch.setenv("KINDLING_PROGRAM", "")  # which is set here
    for words, expected in (
        (["train", "digits", "a=b c"], ["src.train", "digits", "a=b c"]),
        (["train"], ["src.train"]),
        (["trian", "digits"], ["src", "trian", "digits"]),
        (["../train"], ["src", "../train"]),
        (["__init__"], ["src", "__init__"]),
        (["--complete", "kindling tr"], ["src.kindling.dev.completion", "kindling tr"]),
        ([], ["src"]),
    ):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/kindling", *words])
        with pytest.raises(SystemExit) as end:
            script()
        assert end.value.code == [sys.executable, sys.executable, "-m", *expected]


@pytest.mark.skipif(os.name == "nt", reason="installed differently there")
def test_console_script(command: Command, repository: Path) -> None:
    script = repository.parent / "kindling"  # what pip writes
    script.write_text("import sys\nfrom src.__main__ import kindling\nsys.exit(kindling())\n")
    env = {"PYTHONPATH": str(repository)}
    listed = command(str(script), env=env)
    assert "kindling train      Train an experiment: fit it" in listed.stdout
    of_module = command("-m", "src").stdout.replace("python -m src.", "kindling ")
    assert (listed.returncode, listed.stdout) == (0, of_module)
    for words, status, output in (
        (["train", "--help"], 0, "usage: kindling train [CONFIG] [key=value ...] [--flags]\n"),
        (["trian"], 2, "trian: not expected after kindling; did you mean 'train'?\n"),
        (["evaluate"], 2, "arguments are required: RUN (usage: kindling evaluate RUN [--split"),
        (["look", "digit"], 2, "digit: no such config; did you mean 'digits'?"),
    ):
        done = command(str(script), *words, env=env, cwd=repository.parent)  # also elsewhere
        assert done.returncode == status
        assert output in done.stdout + done.stderr
