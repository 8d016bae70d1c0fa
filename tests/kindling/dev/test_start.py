"""What starts the repository elsewhere: the image of the server, the dev container, the workflows of GitHub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.kindling.config.compose import ROOT
from src.serve import create_parser

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def test_image_copies_only_the_server() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (.*)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied == ["requirements-serve.lock", "src/__init__.py", "src/serve.py", "src/kindling"]
    assert all((ROOT / path).exists() for path in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1:-1] == ["*", *(f"!{path}" for path in copied)]


def test_image_serves_without_root_and_checks_health() -> None:
    check, serve = (json.loads(found) for found in re.findall(r"CMD (\[.*\])", DOCKERFILE))
    assert DOCKERFILE.index("USER server") < DOCKERFILE.index(json.dumps(serve))
    assert serve[:3] == ["python", "-m", "src.serve"]
    flags = create_parser().read(serve[3:])
    assert (flags.model, flags.host, flags.port) == ("/model.onnx", "0.0.0.0", 8000)
    assert flags.api_key_env == "KINDLING_KEY"
    assert f"127.0.0.1:{flags.port}/health" in check[2]
    # The page shows the same commands as the file.
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    for line in re.findall(r"^#     (docker .*)$", DOCKERFILE, flags=re.MULTILINE):
        assert f"    {line}\n" in page


def test_dev_container_installs_by_make() -> None:
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert settings["forwardPorts"] == [6006, 8000]
    assert settings["postCreateCommand"] == "make install TORCH=cpu"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_actions_and_limits_jobs(path: Path) -> None:
    text = path.read_text()
    used = re.findall(r"uses: (.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize(("pull_requests", "proposed"), [("", True), ("7", False)])
def test_update_proposes_again_after_a_merge(
    pull_requests: str, proposed: bool, tmp_path: Path
) -> None:
    propose = steps(ROOT / ".github/workflows/update.yml")[-1]["run"]
    gh = f'case "$2" in list) printf "{pull_requests}";; create) touch proposed;; esac'
    for name, script in (("git", "[ $1 != diff ]"), ("gh", gh)):  # `gh pr view` has one
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", propose], cwd=tmp_path, env={"PATH": path}, check=True)
    assert (tmp_path / "proposed").exists() == proposed


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_workflows_call_what_exists() -> None:
    commands = "\n".join(step.get("run", "") for path in WORKFLOWS for step in steps(path))
    scripts = set(re.findall(r"\.ci/\w+", commands))
    assert scripts == {".ci/run", ".ci/smoke"}
    for script in scripts:
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    for target in set(re.findall(r"\bmake (\w+)", commands)):
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)
    for extra in re.findall(r"--extra (\w+)", commands):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
