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

from src.kindling.config import instantiate, targets
from src.kindling.config.compose import ROOT, compose
from src.kindling.config.errors import InputError
from src.kindling.runs.run import Run
from src.kindling.training.trained_run import load_run
from tests.conftest import call, kept_runs, mistakes, train

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
        "_target_": target,
        "entrypoint": "/usr/bin/touch",
        "args": [str(marker)],
        "env": {},
        "stdout": None,
        "stderr": None,
        "local_rank_id": 0,
        "numa_options": None,
    }


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_checkpoint_with_subprocess_in_net_starts_nothing(
    verb: str, checkpoint: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "started"
    net = {"_target_": "torch.nn.Transformer", "custom_encoder": starting(HANDLER, marker)}
    file = hostile(checkpoint, tmp_path, "net", net)
    with pytest.raises(InputError) as caught:
        call(verb, str(file), *(["digits.csv"] if verb == "predict" else []))
    assert f"net.custom_encoder._target_: '{HANDLER}' is outside the allowed packages" in str(
        caught.value
    )
    with pytest.raises(
        InputError, match=r"net\.custom_encoder\._target_"
    ):  # nothing has checked it here
        _ = load_run(file).task
    assert not marker.exists()


@pytest.mark.parametrize(
    ("section", "part"),
    [
        (
            "net",
            {
                "_target_": "torch.nn.Transformer",
                "custom_encoder": {"_target_": "src.kindling.runs.checkpoint_file._Told"},
            },
        ),
        (
            "net",
            {
                "_target_": "torch.nn.Transformer",
                "custom_encoder": {"_target_": "lightning.pytorch.loggers.CSVLogger"},
            },
        ),
        (
            "task",
            {
                "_target_": "src.tasks.classification.Classification",
                "metrics": {"a": {"_target_": "torchmetrics.image.fid.FrechetInceptionDistance"}},
            },
        ),
        (
            "task",
            {
                "_target_": "src.tasks.classification.Classification",
                "optimizer": {"_target_": "builtins.eval"},
            },
        ),
        (
            "trainer",
            {
                "strategy": {
                    "_target_": "lightning.pytorch.strategies.DeepSpeedStrategy",
                    "config": "/etc/passwd",
                }
            },
        ),
        (
            "trainer",
            {"profiler": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}},
        ),
        ("data", {"_target_": "torch.utils.data.DataLoader", "dataset": []}),
        ("finetune", {"_target_": "lightning.pytorch.serve.ServableModuleValidator"}),
    ],
)
def test_part_of_another_kind(
    section: str, part: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    run = load_run(hostile(checkpoint, tmp_path, section, part))
    with pytest.raises(InputError) as checked:
        instantiate.check(run.config)
    with pytest.raises(InputError) as built:
        instantiate.build(run.config, section, spec=run.spec)
    for lines in (checked.value.lines, built.value.lines):
        assert any(line.startswith(section) and "._target_: " in line for line in lines)


# torch.fx and torch.export write the names of modules into code that they run.
NAMED = '(", 0), getattr(__import__("os"), "system")("touch MARKER"), getattr(self, ")'


@pytest.mark.parametrize("extracted", [True, False])
def test_name_of_a_module_runs_nothing(extracted: bool, checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    name = NAMED.replace("MARKER", str(marker))
    parts_by_name = {
        name: {"_target_": "torch.nn.Flatten"},
        "b": {"_target_": "torch.nn.LazyLinear", "out_features": 10},
    }
    net: dict[str, Any] = {"_target_": "torch.nn.ModuleDict", "modules": parts_by_name}
    if extracted:
        getter = "torchvision.models._utils.IntermediateLayerGetter"
        net = {
            "_target_": "torchvision.models.feature_extraction.create_feature_extractor",
            "return_nodes": ["b"],
            "model": {"_target_": getter, "model": net, "return_layers": {"b": "out"}},
        }
    file = hostile(checkpoint, tmp_path, "net", net)
    with pytest.raises(InputError, match="function of a library|cannot name a part"):
        call("evaluate", str(file))
    with pytest.raises(InputError, match="function of a library|cannot name a part"):
        _ = load_run(file).task
    assert not marker.exists()


@pytest.mark.parametrize(
    "trainer",
    [
        {"profiler": "pytorch"},
        "${oc.create:{accelerator: cpu, devices: 2, strategy: ddp}}",
        {"strategy": "ddp", "devices": 2},
    ],
)
def test_trainer_of_a_stranger_writes_and_starts_nothing(
    trainer: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hostile(checkpoint, tmp_path, "trainer", trainer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("subprocess.Popen", None)
    call("evaluate", str(file), "--split", "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.json",
        "hostile.ckpt",
        "logs",
    ]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("kindling", None, "kindling.name: expected a str"),
        ("config", ["a"], "kindling.config: expected a dict"),
        ("config", {"net": b"x"}, "kindling.config: holds a bytes, which is no plain value"),
        ("config", {"net": {"weights": torch.ones(1)}}, "kindling.config: holds a Tensor"),
        ("config", "laughs", "too large, or nested too deeply"),
        ("config", "deep", "too large, or nested too deeply"),
        ("spec", {"classes": 3}, "its spec cannot be read"),
        ("state_dict", {3: torch.ones(1)}, "state_dict: expected tensors by name"),
    ],
)
def test_malformed_checkpoint_is_one_line(
    key: str, value: Any, line: str, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    if value in ("laughs", "deep"):
        grown: Any = ["ha"]
        for _ in range(40):
            grown = [grown] * (10 if value == "laughs" else 1)
        value = {"net": grown if value == "laughs" else [[grown]]}
        for _ in range(20):
            value = {"net": value}
    (content if key in content else content["kindling"])[key] = value
    torch.save(content, tmp_path / "malformed.ckpt")
    with pytest.raises(InputError) as caught:
        call("evaluate", str(tmp_path / "malformed.ckpt"))
    assert line in str(caught.value)
    assert len(caught.value.lines) == 1


def test_run_is_claimed_within_the_folder_of_runs() -> None:
    for name in ("../../escaped", "a/b", ".."):
        with pytest.raises(InputError, match="not the name of a config"):
            Run.claim(name)


def test_target_outside_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outsider.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for word in (
        "net._target_=outsider.Net",
        "net={_target_: torch.nn.Transformer, custom_encoder: {_target_: outsider.Net}}",
    ):
        (line,) = mistakes("train", "digits", word)
        assert "'outsider.Net' is outside the allowed packages" in line
    assert "outsider" not in sys.modules


@pytest.mark.long  # 13 s; it depends on the versions in the lock alone
def test_library_classes_are_allowed_by_kind() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kindling.config.walk_libraries"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["tried"] > 10_000  # 19,170 paths to 7,400 classes
    assert found["wrong"] == []
    allowed = found["allowed"]
    assert {"torch.nn.Linear", "torchmetrics.Accuracy", "torchvision.transforms.ToTensor"} <= set(
        allowed["an argument"]
    )
    assert "lightning.pytorch.strategies.DDPStrategy" in allowed["an argument of the Trainer"]
    assert not {"torch.nn.Linear", "torchvision.transforms.ToTensor"} & set(
        allowed["an argument of the Trainer"]
    )
    assert found["built"] > 500  # 590 with these guesses
    assert list(found["opened"]) == ["the test's own"]


def test_class_allowed_by_full_path(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["task.metrics={a: {_target_: torchmetrics.image.fid.FrechetInceptionDistance}}"]
    with pytest.raises(InputError, match=r"downloads a model; .* \[tool.kindling\] targets"):
        instantiate.check(compose("digits", words))
    monkeypatch.setattr(
        "src.kindling.config.targets.allowed_by_user",
        lambda: ("torchmetrics.image.fid.FrechetInceptionDistance",),
    )
    instantiate.check(compose("digits", words))


def test_wrong_list_of_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "pyproject.toml"
    monkeypatch.setattr(targets, "PYPROJECT", project)
    monkeypatch.setattr(targets, "allowed_by_user", targets.allowed_by_user.__wrapped__)
    for text, line in (
        ("[tool.kindling]\ntargets = 3\n", ": expected a list of texts, got 3"),
        ("[tool\n", " cannot be read: "),
    ):
        project.write_text(text)
        (found,) = mistakes("train")
        assert found.startswith(f"pyproject.toml: tool.kindling.targets{line}")
