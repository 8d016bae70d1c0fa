"""A config that comes out of a file from elsewhere: what it may build and read, and what `--trust` changes."""

from __future__ import annotations

import inspect
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from src.kindling.config import instantiate
from src.kindling.config.allowed import LIBRARIES, OF_TRAINER
from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.config.targets import kinds
from src.kindling.runs import run as run_module
from src.kindling.runs.run import find_run
from src.kindling.training.trained_run import load_run
from tests.conftest import call, kept_runs, mistakes, train

TRUST = "if you trust its author, pass --trust, which lets it run any code here"
PROFILER = {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "/tmp"}
METRIC = {"_target_": "torchmetrics.MeanMetric"}


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with kept_runs(tmp_path_factory):
        yield train("digits").run.path


def elsewhere(run_path: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A checkpoint outside logs/ whose config has some other values."""
    content = torch.load(run_path / "checkpoints" / "best.ckpt", weights_only=True)
    tree = OmegaConf.create(content["kindling"]["config"])
    for key, value in changes.items():
        OmegaConf.update(tree, key, value, merge=False, force_add=True)
    content["kindling"]["config"] = OmegaConf.to_container(tree)
    torch.save(content, folder / "downloaded.ckpt")
    return folder / "downloaded.ckpt"


@pytest.mark.parametrize(
    ("key", "part"), [("trainer.profiler", PROFILER), ("task.metrics", {"a": METRIC})]
)
def test_library_class_of_a_config_from_elsewhere(
    key: str, part: Any, run_path: Path, tmp_path: Path
) -> None:
    file = elsewhere(run_path, tmp_path, {key: part})
    (line,) = mistakes("evaluate", str(file), "--split", "test")
    target = f"{key}.a._target_" if "a" in part else f"{key}._target_"
    name = part.get("a", part)["_target_"]
    problem = f"'{name}' is not built from a config written elsewhere"
    assert line.startswith(f"{target}: {problem}; {TRUST} (")
    assert line.endswith("downloaded.ckpt)")
    instantiate.check(load_run(file, trust=True).config, trained=True)


def test_training_a_config_from_elsewhere_builds_no_logger_or_writing_callback(
    run_path: Path, tmp_path: Path
) -> None:
    changes = {
        "logger": {"a": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "/tmp"}},
        "callbacks.b": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint"},
        "callbacks.c": {
            "_target_": "lightning.pytorch.callbacks.EarlyStopping",
            "monitor": "val/loss",
        },
    }
    file = elsewhere(run_path, tmp_path, changes)
    with pytest.raises(InputError) as caught:
        instantiate.check(load_run(file).config)
    keys = sorted(line.partition(":")[0] for line in caught.value.lines)
    assert keys == ["callbacks.b._target_", "logger.a._target_"]
    call("evaluate", str(file), "--split", "test")  # which builds neither


def test_config_from_elsewhere_builds_nets_of_timm_and_torchvision(
    run_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    small = {"img_size": 16, "in_chans": 1, "num_classes": 10}
    nets: list[dict[str, Any]] = [
        {"_target_": "timm.models.resnet18", "in_chans": 1, "num_classes": 10},
        {"_target_": "timm.models.vit_tiny_patch16_224", **small},
        {"_target_": "torchvision.models.resnet18", "num_classes": 10},
    ]
    for net in nets:
        run = load_run(elsewhere(run_path, tmp_path, {"net": net}))
        instantiate.check(run.config, trained=True)
        assert isinstance(instantiate.build(run.config, "net"), torch.nn.Module)
    for change in ({"pretrained_cfg": {"file": "/tmp/pickle"}}, {"checkpoint_path": "/tmp/pickle"}):
        net = {"_target_": "timm.models.botnet26t_256", **change}
        run = load_run(elsewhere(run_path, tmp_path, {"net": net}))
        with pytest.raises(InputError, match="has no argument"):
            instantiate.check(run.config, trained=True)
    for builder in ("timm.models.create_model", "timm.models.load_checkpoint"):
        run = load_run(elsewhere(run_path, tmp_path, {"net": {"_target_": builder}}))
        with pytest.raises(InputError, match="function of a library|is outside"):
            instantiate.check(run.config, trained=True)


@pytest.mark.parametrize(
    "reference",
    [
        "${oc.env:PLANTED}",
        "${oc.decode:${oc.env:PLANTED}}",
        "${oc.create:{a: '${oc.env:PLANTED}'}}",
        "${oc.${tags.0}:PLANTED}",
        "${oc.select:data.data_dir}",
    ],
)
def test_config_from_elsewhere_reads_no_environment(
    reference: str, run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "tr0ub4dor")
    changes = {"tags": ["env"], "seed": reference, "data.data_dir": "${oc.env:PLANTED}"}
    file = elsewhere(run_path, tmp_path, changes)
    for verb in (("evaluate",), ("predict", "digits.csv"), ("export",)):
        lines = mistakes(verb[0], str(file), *verb[1:])
        assert "tr0ub4dor" not in "".join(lines)
        problem = "a config written elsewhere reads no environment"
        assert any(
            line.startswith(f"seed: {reference}: ") and f"{problem}; {TRUST}" in line
            for line in lines
        )


def test_config_from_elsewhere_has_the_default_of_the_environment(
    run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "7")
    run = load_run(elsewhere(run_path, tmp_path, {"seed": "${oc.decode:${oc.env:PLANTED,3}}"}))
    instantiate.check(run.config, trained=True)
    assert instantiate.values(run.config).seed == 3


def test_trusted_config_reads_the_environment(
    run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "7")
    file = elsewhere(run_path, tmp_path, {"seed": "${oc.decode:${oc.env:PLANTED}}"})
    assert instantiate.values(load_run(file, trust=True).config).seed == 7


@pytest.mark.parametrize(
    "word",
    [
        "task.optimizer.lr=${oc.env:PLANTED}",
        "seed=${oc.env:PLANTED}",
        "net._target_=${oc.env:PLANTED}",
        "task.loss={_target_: torch.nn.HuberLoss, reduction: '${oc.env:PLANTED}', delta: -1}",
        "net.channels=${oc.decode:${oc.env:LISTED}}",
        "trainer.strategy=${oc.env:PLANTED}",
        "data.split=${oc.create:{a: '${oc.env:PLANTED}'}}",
    ],
)
def test_value_from_the_environment_is_not_printed(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "tr0ub4\\dor")
    monkeypatch.setenv("LISTED", "[tr0ub4]")
    lines = mistakes("train", "diabetes" if "Huber" in word else "digits", word)
    assert "tr0ub4" not in "\n".join(lines)
    assert any("oc.env" in line for line in lines)


def test_run_in_logs_is_own(
    run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = run_module.LOGS
    (tmp_path / "disk").mkdir()
    shutil.copytree(run_path, tmp_path / "disk" / "one", ignore=shutil.ignore_patterns("*.ckpt"))
    (logs / "digits").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(logs)
    for name in ("digits/one", "digits/latest", "latest", logs / "digits" / "one"):
        assert find_run(name).config.trusted
    for name in (tmp_path / "disk" / "one", "../disk/one", logs / ".." / "disk" / "one"):
        assert not find_run(name).config.trusted
    assert find_run("../disk/one", trust=True).config.trusted
    changed = find_run("../disk/one").config.replaced({"seed": 3})
    assert not changed.trusted  # as after an override


KINDS: tuple[Any, ...] = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    Callback,
    Logger,
    LightningModule,
    LightningDataModule,
    Trainer,
)


def others() -> list[str]:
    """Paths of the libraries' classes and functions that are of no kind that a config builds."""
    found: dict[Any, str] = {}
    for name, module in sorted(sys.modules.items()):
        if f"{name}.".startswith(tuple(f"{library}." for library in LIBRARIES)):
            for key, value in sorted(vars(module).items()):
                is_class = inspect.isclass(value)
                made = value if is_class else getattr(value, "__annotations__", {}).get("return")
                is_kind = inspect.isclass(made) and issubclass(made, (*KINDS, *kinds(OF_TRAINER)))
                transform = str(getattr(value, "__module__", "")).startswith(
                    "torchvision.transforms"
                )
                of_user = str(getattr(value, "__module__", "")).startswith("src.")
                if (is_class or inspect.isroutine(value)) and not (is_kind or transform or of_user):
                    found.setdefault(value, f"{name}.{key}")
    return list(found.values())


def placed(path: str) -> tuple[Config, Config]:
    """Configs with a part in each place: as a section itself, and as an argument of one."""
    part = {"_target_": path}
    as_section: dict[str, Any] = dict.fromkeys(("data", "net", "task", "finetune", "trainer"), part)
    as_section |= {"callbacks": {"a": part}, "logger": {"a": part}}
    transformer = "torch.nn.Transformer"
    inner = {"_target_": transformer, "custom_encoder": part}
    as_argument = {
        "net": {"_target_": transformer, "custom_encoder": part, "custom_decoder": inner},
        "data": {"_target_": "src.data.digits.Digits", "train_transforms": [part], "split": part},
        "task": {
            "_target_": "src.tasks.classification.Classification",
            "optimizer": part,
            "loss": part,
            "metrics": {
                "a": part,
                "b": {"_target_": "torchmetrics.MinMaxMetric", "base_metric": part},
            },
        },
        "trainer": {"profiler": part, "strategy": part, "max_epochs": part, "callbacks": [part]},
        "callbacks": {
            "a": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": part}
        },
        "logger": {
            "a": {
                "_target_": "lightning.pytorch.loggers.CSVLogger",
                "save_dir": part,
                "name": [part],
            }
        },
    }
    return Config("a", as_section), Config("a", as_argument)


def check_refused(paths: list[str]) -> None:
    for path in paths:
        for config, places in zip(placed(path), (7, 15), strict=True):
            with pytest.raises(InputError) as caught:
                instantiate.check(config)
            lines = [line for line in caught.value.lines if "._target_: " in line]
            assert len(lines) == places, (path, caught.value.lines)


def test_sample_of_other_classes_is_refused_in_each_place() -> None:
    paths = others()
    assert len(paths) > 2000
    check_refused(random.Random(0).sample(paths, 200))


@pytest.mark.long
def test_other_classes_are_refused_in_each_place() -> None:
    check_refused(others())
