"""Completion in real shells, its candidates, and that they agree with what the commands accept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.__main__ import commands
from src.completion import main
from src.kindling.config import compose as config_module
from src.kindling.config.allowed import KINDS
from src.kindling.config.compose import ROOT, compose, configs, groups
from src.kindling.config.instantiate import GIVEN
from src.kindling.config.targets import locate, parameters
from src.kindling.dev import completion
from src.kindling.dev.completion import arguments, complete
from src.kindling.runs import run as run_module
from tests.written import known_flags

# Each prints the candidates for a line, as the shell's own function finds them.
SHELLS = {
    "bash": """
        eval "$(kindling completion bash)"
        compopt() { :; }
        COMP_LINE=$LINE COMP_POINT=${#LINE}
        _kindling "${LINE%% *}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() { :; }
        compset() { :; }
        compadd() { shift $@[(i)--]; print -l -- $@ }
        eval "$(kindling completion zsh)"
        words=("${(@s: :)LINE}"); CURRENT=$#words; PREFIX=$words[-1]
        _kindling
    """,
    "fish": "kindling completion fish | source; complete -C $LINE",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the console script, as pip would install it."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "kindling"
    script.write_text(f"#!{sys.executable}\nfrom src.__main__ import kindling\nkindling()\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for file in (script, python):
        file.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def ask(shell: str, line: str, path: str) -> list[str]:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["-N"]}[shell]
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "LINE": line}
    command = [shell, *options, "-c", SHELLS[shell]]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(line for line in done.stdout.splitlines() if line)


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_completes(shell: str, path: str) -> None:
    end, before = (" ", "") if shell == "bash" else ("", "net=")  # readline's words end at a "="
    options = [f"{before}{option}{end}" for option in groups()["net"]]
    for line, expected in (
        ("kindling trai", [f"train{end}"]),
        ("kindling train digits net=", options),
        ("kindling train digits task.optimizer.l", ["task.optimizer.lr="]),
        ("kindling train digits trainer.max_ep", ["trainer.max_epochs="]),
        ("kindling train --no-p", [f"--no-plots{end}"]),
        ("python -m src.trai", [f"src.train{end}"]),
        ("python -m src.train diabet", [f"diabetes{end}"]),
    ):
        assert ask(shell, line, path) == expected, line


def test_completion_imports_little() -> None:
    code = (
        "import sys; from src.kindling.dev.completion import complete; "
        "print(len(complete('kindling train digits trainer.')), *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count, *modules = done.stdout.split()
    assert int(count) > 30
    heavy = {"torch", "lightning", "pandas", "numpy"}
    assert not heavy & {*modules}


def test_commands_and_their_words() -> None:
    assert complete("kindling ") == sorted(commands())
    assert complete("python -m src.") == [f"src.{name}" for name in sorted(commands())]
    assert {*configs(), "net=", "net.", "seed=", "trainer="} <= {*complete("kindling train ")}
    assert not {*configs()} & {*complete("kindling train digits ")}
    assert complete("kindling new ") == ["data", "net", "project", "task"]
    assert complete("kindling tune --sampler ") == ["grid", "random", "tpe"]
    assert complete("kindling export x --format ") == ["onnx", "pt2", "torchscript"]
    assert "nets" in complete("kindling tune digits n")
    assert complete("kindling train --seeds 0,1 digi") == ["digits"]
    assert complete("kindling trian ") == complete("kindling train digits x.y.z.") == []


@pytest.mark.parametrize("verb", commands())
def test_flags_are_those_of_the_command(verb: str) -> None:
    assert complete(f"kindling {verb} --") == sorted(known_flags(verb) - {"-h", "--member"})


def test_runs_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = tmp_path / "own"
    logs.mkdir()
    monkeypatch.setattr(run_module, "LOGS", logs)
    assert complete("kindling evaluate ") == []
    for name in ("digits/2026-01-01_00-00-00", "digits/tune/trial_1", "mnist/2026-01-02_00-00-00"):
        (logs / name).mkdir(parents=True)
        (logs / name / "config.yaml").touch()
    assert complete("kindling evaluate ") == ["digits/", "latest", "mnist/"]
    inside = ["digits/2026-01-01_00-00-00", "digits/latest", "digits/tune/"]
    for words in ("evaluate", "train --resume", "train digits --init", "compare mnist/latest"):
        assert complete(f"kindling {words} digits/") == inside
    assert complete("kindling report digits/tune/") == ["digits/tune/trial_1"]


def test_keys_follow_options_targets_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "net.channels=" in complete("kindling train digits net.")
    assert "net.channels=" not in complete("kindling train digits net=mlp net.")
    assert "net.hidden=" in complete("kindling train digits net=mlp net.")
    words = "task.loss._target_=torch.nn.HuberLoss task.loss."
    assert "task.loss.delta=" in complete(f"kindling train diabetes {words}")
    assert complete("kindling train digits task.optimizer.lr=") == ["task.optimizer.lr=0.003"]
    assert complete("kindling train digits trainer.callb") == []  # has a section of its own
    shutil.copytree(config_module.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path / "configs")
    (tmp_path / "configs" / "net" / "own.yaml").write_text("_target_: src.nets.mine.Mine\nwidth: 8")
    (tmp_path / "configs" / "own.yaml").write_text("defaults: [digits, net: own]\nnet: {width: 9}")
    assert complete("kindling train ow") == ["own"]
    assert complete("kindling train own net.width=") == ["net.width=9"]
    assert complete("kindling train digits net=own net.w") == ["net.width="]
    (tmp_path / "configs" / "own.yaml").write_text("defaults: [digits\n")
    assert complete("kindling train own net.") == []


def test_completion_of_unusual_and_damaged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "own.yaml").write_text("_target_: broken.Net\nwidth: 8")
    (tmp_path / "broken.py").write_text("class Net(nn.Module:\n")
    (tmp_path / "a-b.v2.yaml").write_text("callbacks:\ntask: {loss: [1]}\nseed: 1")
    words = "callbacks.a._target_=lightning.pytorch.callbacks.EarlyStopping callbacks.a.pa"
    assert complete(f"kindling train a-b.v2 {words}") == ["callbacks.a.patience="]
    words = "task.loss.0._target_=torch.nn.HuberLoss task.loss.0.de"
    assert complete(f"kindling train a-b.v2 {words}") == ["task.loss.0.delta="]
    assert complete("kindling train configs/a-b.v2.yaml seed=") == ["seed=1"]
    assert complete("kindling train a-b.v2 net=own net.") == ["net._target_=", "net.width="]
    assert complete("kindling train a-b.v2 net=wrong seed=") == ["seed=1"]
    for defaults in ("net", "5", "[a/b]", "[odd]", "{data: digits}"):
        (tmp_path / "odd.yaml").write_text(f"defaults: {defaults}\nseed: 2")
        assert complete("kindling train odd seed=") == []


def parts(values: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(values, dict):
        if "_target_" in values:
            yield key, values
        for name, value in values.items():
            yield from parts(value, f"{key}.{name}".lstrip("."))


@pytest.mark.parametrize("name", configs())
def test_keys_are_those_of_the_signatures(name: str) -> None:
    for key, values in parts({"trainer": {"_target_": KINDS["trainer"]}, **compose(name).values}):
        given = {*GIVEN.get(key, ()), "params", "optimizer"}
        known = {*parameters(locate(values["_target_"]))} - given
        assert {*arguments(values["_target_"])} - given == known, key
        offered = complete(f"kindling train {name} {key}.")
        assert {word.rstrip("=.").rpartition(".")[2] for word in offered} >= {*values}, key


def test_printed_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in SHELLS:
        main([shell])
        assert capsys.readouterr().out.rstrip() == completion.read_script(shell).rstrip()
