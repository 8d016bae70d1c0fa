"""What a config may name: by its kind, wherever it stands, also where the config comes out of a checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from src import parts
from src.config import ROOT, compose
from src.errors import InputError
from src.run import load_run
from tests.conftest import call, kept_runs, train

HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with kept_runs(tmp_path_factory):
        yield train("digits").run.checkpoints / "best.ckpt"


def hostile(checkpoint: Path, folder: Path, section: str, part: dict[str, Any]) -> Path:
    """A copy of a checkpoint, with a part of somebody else's in its config."""
    content = torch.load(checkpoint, weights_only=True)
    content["kindling"]["config"][section] = part
    file = folder / "hostile.ckpt"
    torch.save(content, file)
    return file


def starting(target: str, marker: Path) -> dict[str, Any]:
    """A part that starts a process, which leaves a file."""
    return {
        "_target_": target, "entrypoint": "/usr/bin/touch", "args": [str(marker)], "env": {}, "stdout": None, "stderr": None,
        "local_rank_id": 0, "numa_options": None,
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_checkpoint_with_subprocess_in_net_starts_nothing(verb: str, checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    net = {"_target_": "torch.nn.Transformer", "custom_encoder": starting(HANDLER, marker)}
    file = hostile(checkpoint, tmp_path, "net", net)
    with pytest.raises(InputError) as caught:
        call(verb, str(file), *(["digits.csv"] if verb == "predict" else []))
    assert f"net.custom_encoder._target_: '{HANDLER}' is outside the allowed packages" in str(caught.value)
    with pytest.raises(InputError, match=r"net\.custom_encoder\._target_"):  # nothing has checked it here
        _ = load_run(file).task
    assert not marker.exists()


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("net", {"_target_": "torch.nn.Transformer", "custom_encoder": {"_target_": "src.checkpoint_io._Told"}}),
        ("net", {"_target_": "torch.nn.Transformer", "custom_encoder": {"_target_": "lightning.pytorch.loggers.CSVLogger"}}),
        ("task", {"_target_": "src.tasks.classification.Classification",
                  "metrics": {"a": {"_target_": "torchmetrics.image.fid.FrechetInceptionDistance"}}}),
        ("task", {"_target_": "src.tasks.classification.Classification", "optimizer": {"_target_": "builtins.eval"}}),
        ("trainer", {"strategy": {"_target_": "lightning.pytorch.strategies.DeepSpeedStrategy", "config": "/etc/passwd"}}),
        ("trainer", {"profiler": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}}),
        ("data", {"_target_": "torch.utils.data.DataLoader", "dataset": []}),
        ("finetune", {"_target_": "lightning.pytorch.serve.ServableModuleValidator"}),
    ],
)  # fmt: skip
def test_part_of_another_kind_is_refused(section: str, part: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    run = load_run(hostile(checkpoint, tmp_path, section, part))
    with pytest.raises(InputError) as checked:
        parts.check(run.config)
    with pytest.raises(InputError) as built:
        parts.build(run.config, section, spec=run.spec)
    for lines in (checked.value.lines, built.value.lines):
        assert any(line.startswith(section) and "._target_: " in line for line in lines)


def test_target_outside_is_refused_before_it_is_imported() -> None:
    words = ["net._target_=torch.nn.Transformer", f"net.custom_encoder={{_target_: {HANDLER}}}"]
    code = f"import sys; from src import parts; from src.config import compose\ntry: parts.check(compose('digits', {words}))\n" \
           f"except Exception as error: print(error)\nprint({HANDLER.rpartition('.')[0]!r} in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert HANDLER in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")


def test_only_allowed_kinds_of_all_libraries_and_none_opens_a_file() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.walk_libraries"], cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["tried"] > 10_000  # 19,170 paths to 7,400 classes
    assert found["wrong"] == []
    allowed = found["allowed"]
    assert {"torch.nn.Linear", "torchmetrics.Accuracy", "torchvision.transforms.ToTensor"} <= set(
        allowed["an argument"]
    )
    assert "lightning.pytorch.strategies.DDPStrategy" in allowed["an argument of the Trainer"]
    assert not {"torch.nn.Linear", "torchvision.transforms.ToTensor"} & set(allowed["an argument of the Trainer"])
    assert found["built"] > 500  # of 884
    assert list(found["opened"]) == ["the test's own"]


def test_single_class_is_allowed_by_its_full_path(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["task.metrics={a: {_target_: torchmetrics.image.fid.FrechetInceptionDistance}}"]
    with pytest.raises(InputError, match=r"downloads a model when it is built; .* \[tool.kindling\] targets"):
        parts.check(compose("digits", words))
    monkeypatch.setattr("src.targets.allowed_by_user", lambda: ("torchmetrics.image.fid.FrechetInceptionDistance",))
    parts.check(compose("digits", words))


@pytest.mark.parametrize(("text", "line"), [
    ("[tool.kindling]\ntargets = 3\n", "tool.kindling.targets: expected a list of texts, got 3"),
    ("[tool\n", "pyproject.toml: not valid TOML"),
])  # fmt: skip
def test_wrong_list_of_targets_is_one_line(text: str, line: str, command: Any, repository: Path) -> None:
    (repository / "pyproject.toml").write_text(text)
    done = command("-m", "src.train")
    assert done.returncode == 2
    assert line in done.stderr
    assert "Traceback" not in done.stderr
