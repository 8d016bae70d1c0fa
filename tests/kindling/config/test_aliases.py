"""Old names in configs and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from src.kindling.config.aliases import rename_old
from src.kindling.config.compose import compose, get

FOLDER = "src.kindling.data.images.image_folder.ImageFolder"
TASK = "src.tasks.classification.Classification"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"data": {"_target_": FOLDER, "fit": "pad"}},
            {"data": {"_target_": FOLDER, "resize_mode": "pad"}},
        ),
        (
            {"data": {"_target_": "src.data.image_folder.ImageFolder", "fit": "pad"}},
            {"data": {"_target_": FOLDER, "resize_mode": "pad"}},
        ),
        (
            {"data": {"_target_": FOLDER, "group": "patient"}},
            {"data": {"_target_": FOLDER, "group_column": "patient"}},
        ),
        ({"data": {"_target_": "src.data.mine.Mine", "fit": 1}}, None),
        (
            {
                "task": {"_target_": TASK, "monitor": "val/f1"},
                "callbacks": {"a": "${task.monitor}"},
            },
            {"task": {"_target_": TASK}, "monitor": "val/f1", "callbacks": {"a": "${monitor}"}},
        ),
        ({"task": {"_target_": "src.tasks.mine.Mine", "monitor": 1}}, None),
        ({"task": {"fit": 1}, "data": {"other": {"fit": 1}}}, None),
    ],
)
def test_key_of_a_config(old: dict[str, Any], new: dict[str, Any] | None) -> None:
    assert rename_old(old) == (new or old)


def test_key_on_the_command_line() -> None:
    config = compose("image_folder", ["data.fit=pad", "task.monitor=val/f1"])
    assert config.values["data"]["resize_mode"] == "pad"
    assert config.values["monitor"] == "val/f1"
    assert config.origin("monitor") == "command line"


def test_command_line_overrides_old_key_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"task:\n  _target_: {TASK}\n  monitor: val/loss\n  mode: min\n"
    (tmp_path / "old.yaml").write_text(text)
    monkeypatch.setattr("src.kindling.config.compose.CONFIGS", tmp_path)
    for word in ("monitor=val/f1", "task.monitor=val/f1"):
        values = compose("old", [word]).values
        assert values == {"task": {"_target_": TASK}, "monitor": "val/f1"}


@pytest.mark.parametrize(
    ("experiment", "old", "new"),
    [
        ("digits", "threads=2", "num_threads"),
        ("digits", "save_minutes=2", "checkpoint_minutes"),
        ("digits", "skip_nonfinite=2", "max_nonfinite_steps"),
        ("multilabel", "net.over_places=2", "net.global_pool"),
        ("digits", "data.test_transforms=2", "data.eval_transforms"),
        ("table", "data.missing=2", "data.na_values"),
        ("table", "data.group=2", "data.group_column"),
        ("digits", "task.decay_all=2", "task.decay_bias_and_norm"),
    ],
)
def test_each_old_key(experiment: str, old: str, new: str) -> None:
    config = compose(experiment, [old])
    assert get(config.values, new) == 2
    assert get(config.values, old.partition("=")[0]) is None


def test_old_key_of_a_group() -> None:
    config = compose("digits", ["finetune=gradual", "finetune.backbone_lr=0.5"])
    assert config.values["finetune"]["backbone_lr_ratio"] == 0.5
    assert "backbone_lr" not in config.values["finetune"]
