"""Every file in configs/ trains, validates, tests, loads and evaluates to the same numbers; asked of each unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from src.kindling.config.compose import CONFIGS, ROOT, configs, first_comment, groups
from src.kindling.config.errors import InputError
from src.kindling.runs.run import Run
from src.kindling.training.evaluate import evaluate
from src.kindling.training.fit import fit
from src.kindling.training.trained_run import load_run
from tests.conftest import FEW_SCENES, checked, has_samples, train

# The training loss of the first 20 steps of each default experiment: seed 0, one thread.
GOLDEN: dict[str, list[float]] = {
    "digits": [
        2.38022,
        2.11184,
        1.43262,
        1.03606,
        0.805221,
        0.625085,
        0.610407,
        0.421126,
        0.426599,
        0.405697,
        0.24428,
        0.242104,
        0.226519,
        0.290471,
        0.124222,
        0.207349,
        0.17688,
        0.117616,
        0.175518,
        0.142111,
    ],
    "diabetes": [
        0.954026,
        0.915025,
        0.81941,
        0.920553,
        0.80044,
        1.02005,
        0.76452,
        0.840375,
        0.740694,
        0.737358,
        0.795509,
        0.820523,
        0.901093,
        0.552767,
        0.583162,
        0.624953,
        0.476984,
        0.809978,
        0.468206,
        0.682304,
    ],
    "breast_cancer": [
        0.768927,
        0.737349,
        0.666238,
        0.672151,
        0.623855,
        0.619283,
        0.549507,
        0.502386,
        0.472572,
        0.430956,
        0.423444,
        0.410989,
        0.442661,
        0.354211,
        0.351454,
        0.322121,
        0.345504,
        0.261844,
        0.335439,
        0.283887,
    ],
}

# What a config needs besides its name to be trained here: files in `small_data`, or less to compute.
WORDS: dict[str, tuple[str, ...]] = {
    "cifar10": ("data.batch_size=16",),
    "cifar100": ("data.batch_size=16",),
    "image_folder": ("data.root=~/cards",),
    "mask_folder": ("data.root=~/scans",),
    "shards": ("data.folder=~/shards", "data.num_workers=0"),
    "table": ("data.path=houses.csv", "data.target=price"),
    **dict.fromkeys(("segmentation", "multilabel", "localization"), (FEW_SCENES,)),
}

FIRST = torch.arange(3)


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize(
    "name", [name for name in configs() if has_samples(name) or name == "shards"]
)
def test_config_trains_and_evaluates_identically(name: str) -> None:
    result = train(name, *WORDS.get(name, ()))
    assert all(value == value for value in result.metrics.values())  # no NaN
    run = load_run(result.run.path)
    data = run.data()
    data.setup()
    x = next(iter(data.test_dataloader()))[0][:3] if name == "shards" else data.samples.x[FIRST]
    assert run.task(run.preprocess(x)).shape == (3, *run.task.outputs.shape)  # type: ignore[union-attr]
    assert evaluate(run) == result.metrics


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_config_header(path: Path) -> None:
    assert len(first_comment(path)) > 10
    if path.parent == CONFIGS:
        assert f"#   python -m src.train {path.stem} " in path.read_text()


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, options in groups().items() for o in options]
)
def test_group_option_is_used_or_composes(group: str, option: str) -> None:
    used = f"- {group}: {option}\n" in "".join(path.read_text() for path in CONFIGS.glob("*.yaml"))
    assert used or checked("digits", f"{group}={option}")


def test_data_option_suggests_nearest() -> None:
    with pytest.raises(
        InputError,
        match=r"^data=mnst: no such option; did you mean 'mnist'\? \(configs/data/ has: ",
    ):
        checked("digits", "data=mnst")


def test_no_index_address() -> None:
    for path in [
        *ROOT.glob("requirements*.lock"),
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        ROOT / "README.md",
    ]:
        text = path.read_text()
        assert "--index-url" not in text
        assert "pythonhosted" not in text


@pytest.mark.parametrize("name", ["digits", "diabetes", "breast_cancer"])
def test_first_losses_are_pinned(name: str) -> None:
    losses: list[float] = []

    class Record(Callback):
        def on_train_batch_end(
            self, trainer: object, module: object, outputs: dict[str, torch.Tensor], *_: object
        ) -> None:
            losses.append(outputs["loss"].item())

    config = checked(
        name,
        "num_threads=1",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "task.scheduler=null",
    )
    fit(config, Run.claim(name), stages=(), callbacks=[Record()])
    assert losses[:20] == pytest.approx(GOLDEN[name], rel=1e-4), losses[:20]
