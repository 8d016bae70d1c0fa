"""Old names in configs and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from src.kindling.config.aliases import rename_keys, rename_old
from src.kindling.config.compose import compose

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
    renamed = rename_old(old)
    rename_keys(renamed, {})
    assert renamed == (new or old)


def test_key_on_the_command_line() -> None:
    config = compose("image_folder", ["data.fit=pad", "task.monitor=val/f1"])
    assert config.values["data"]["resize_mode"] == "pad"
    assert config.values["monitor"] == "val/f1"
    assert config.origin("monitor") == "command line"
