"""Other people's modules and data, trained without a line of theirs changed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from src.kindling.analysis.layers import Histograms
from src.kindling.analysis.plots import Plots
from src.kindling.config import instantiate
from src.kindling.config.compose import ROOT, compose
from src.kindling.config.errors import InputError
from src.kindling.deploy import export_files
from src.kindling.runs.run import Run
from src.kindling.training.evaluate import evaluate
from src.kindling.training.fit import Result, fit
from src.kindling.training.trained_run import load_run
from tests.conftest import call, mistakes
from tests.foreign.cases import CASES, Case
from tests.foreign.drive import foreign
from tests.forked import run_forked
from tests.kindling.deploy.conftest import measure_here
from tests.terminal import standard_output

# What other people's code warns of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ("num_threads=1",)
BY_NAME = {case.name: case for case in CASES}
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# Exported in `make test`; the first is verified in a fresh process.
EXPORTED = ("docs_autoencoder", "char_lm", "dataclass_batch", "lstm_forecaster")
# Trained on a terminal in `make test`: a module without forward, without validation, with several
# optimizers, several loaders, a stream, and one that logs nothing.
ON_TERMINAL = ("bare_minimum", "dqn", "gan", "several_val_loaders", "streaming", "silent")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The logs/ that the trainings of this module share."""
    logs = tmp_path_factory.mktemp("foreign")
    with foreign(logs):
        yield logs


@pytest.fixture(autouse=True)
def no_plots() -> None:
    """Foreign trainings draw: that they can is part of the tests."""


@pytest.fixture(autouse=True)
def logs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KINDLING_RUN", raising=False)
    return runs


def train_case(name: str, *words: str) -> Result:
    config = compose(name, [*WORDS, *words])
    instantiate.check(config)
    run = Run.claim(name)
    return fit(config, run, plots=Plots(run))


_trained: dict[str, Result] = {}


def trained(case: Case) -> Result:
    """The case's run, trained once."""
    if case.name not in _trained:
        _trained[case.name] = train_case(case.name)
    return _trained[case.name]


@every_case
def test_foreign_module_trains(case: Case) -> None:
    result = trained(case)
    path = result.run.path
    files = {file.name for file in path.rglob("*")}
    assert {
        "config.yaml",
        "meta.json",
        "run.json",
        "last.ckpt",
        "report.html",
        "layers.png",
    } <= files
    assert ("best.ckpt" in files) == (case.monitor is not None)
    assert any(name.startswith("events.out.tfevents") for name in files)
    assert (result.score is not None) == (case.monitor is not None)
    if case.monitor:
        with (path / "metrics.csv").open(newline="") as file:
            assert case.monitor in next(csv.reader(file))
    if case.has_predict_step and case.columns:
        assert (path / "predictions" / "test.npz").exists()


@every_case
def test_foreign_evaluation_is_identical(case: Case) -> None:
    result = trained(case)
    assert evaluate(load_run(result.run.path)) == result.metrics
    assert bool(result.metrics) or not case.monitor


@every_case
def test_foreign_checkpoint_loads_weights_only(case: Case) -> None:
    for file in trained(case).run.checkpoints.glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        assert content["kindling"]["name"] == case.name


# Weights that a hook resets when training starts; random generators and counters of data sets.
@pytest.mark.parametrize("name", ["annealed_teacher", "dataset_generator", "counting_stream"])
def test_longer_foreign_training_is_resumed_exactly(name: str) -> None:
    longer = "trainer.max_epochs=3"
    whole, resumed = train_case(name, longer), train_case(name).run
    call("train", "--resume", str(resumed.path), longer, "--no-plots")
    one, other = (
        torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
        for run in (whole.run, resumed)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_checkpoints_of_the_author_have_their_own_folder() -> None:
    run = trained(BY_NAME["annealed_teacher"]).run
    own = {path.name for path in run.checkpoints.iterdir()}
    assert own == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert (run.path / "model_checkpoints" / "last.ckpt").exists()


def test_foreign_module_writes_beside_its_logs() -> None:
    run = trained(BY_NAME["training_length"]).run
    assert {path.name for path in (run.path / "samples").iterdir()} == {"0.png", "1.png"}


def test_foreign_runs_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    for case in CASES[:3]:
        trained(case)
    call("compare", *(str(trained(case).run.path) for case in CASES[:3]))
    printed = capsys.readouterr().out
    assert all(case.name in printed for case in CASES[:3])


def test_compare_names_data_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    call("compare", str(trained(BY_NAME["own_loaders"]).run.path))
    assert "data of the task: val/acc" in capsys.readouterr().out


def test_parameters_of_configure_model_are_counted() -> None:
    run = trained(BY_NAME["distillation"]).run
    count = sum(parameter.numel() for parameter in load_run(run.path).task.parameters())
    assert run.read("meta.json")["parameters"] == count


def test_legend_has_layers_with_an_underscore() -> None:
    histograms = Histograms()
    histograms.norms = {0: {"_model.0": np.ones(3)}}
    (legend,) = histograms.plot().legends
    assert [text.get_text() for text in legend.get_texts()] == ["model.0"]


def test_foreign_run_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    call("reproduce", str(trained(BY_NAME["hydra_template"]).run.path))
    assert "identical" in capsys.readouterr().out


@every_case
@pytest.mark.parametrize("verb", ["predict", "look", "crossval", "benchmark"])
def test_richer_command_names_the_missing_addition(verb: str, case: Case) -> None:
    words = {
        "predict": [str(trained(case).run.path), str(ROOT / "README.md")],
        "look": [case.name],
        "crossval": [case.name, "--folds", "2"],
        "benchmark": [case.name, "--rounds", "1", "--seconds", "0.1"],
    }[verb]
    with pytest.raises(InputError) as caught:
        call(verb, *words)
    (line,) = caught.value.lines
    missing = ("spec", "outputs", "predict_step", "forward", "fold", "data")
    assert any(word in line for word in missing)


@pytest.mark.parametrize(
    "name",
    [
        case.name
        if case.name in EXPORTED or case.export
        else pytest.param(case.name, marks=pytest.mark.long)
        for case in CASES
    ],
)
def test_foreign_forward_is_exported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME[name]
    if name != EXPORTED[0]:  # it takes seconds to start a process for each
        monkeypatch.setattr(export_files, "run_in_fresh_process", measure_here)
    words = [str(trained(case).run.path), "--format", "pt2"]
    if case.export:
        with pytest.raises(InputError) as caught:
            call("export", *words)
        (line,) = caught.value.lines
        assert case.export in line
        return
    found = call("export", *words)
    assert isinstance(found, dict)
    assert found["pt2"]["difference"] <= 1e-5
    assert found["pt2"]["output"]["name"] == "output"


def test_foreign_training_under_ddp(tmp_path: Path) -> None:
    words = ("docs_autoencoder", *WORDS, "trainer.strategy=ddp", "trainer.devices=2")
    command = ("-m", "tests.foreign.drive", str(tmp_path), "train", *words, "--no-plots")
    done = run_forked(*command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "docs_autoencoder").iterdir()
    content = torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
    alone = torch.load(
        trained(BY_NAME["docs_autoencoder"]).run.checkpoints / "last.ckpt", weights_only=True
    )
    per_epoch = alone["global_step"] // 2  # of two epochs
    assert content["global_step"] == 2 * -(-per_epoch // 2)  # each process has half of each


@pytest.mark.parametrize(
    ("names", "columns"),
    [(ON_TERMINAL, 80), pytest.param(tuple(BY_NAME), 200, marks=pytest.mark.long)],
    ids=["few", "all"],
)
def test_foreign_modules_train_on_a_terminal(
    names: tuple[str, ...], columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process, whose output is a pseudo-terminal, trains the cases."""
    with standard_output(columns, monkeypatch) as screen:
        for name in names:
            print("case", name, call("train", name, *WORDS, "--no-plots") is not None)
    parts = re.split(r"^case (\w+) True$", screen.text, flags=re.MULTILINE)
    assert parts[1::2] == list(names)
    for name, text in zip(names, parts[::2], strict=False):
        lines = re.findall(r"^epoch \d/2 .*$", text, re.MULTILINE)
        assert [line[:10] for line in lines] == ["epoch 1/2 ", "epoch 2/2 "], name
        if (monitor := BY_NAME[name].monitor) is not None:
            assert all(line.startswith(f"  {monitor} ", 9) for line in lines)
        linear = re.findall(r"^ *\S+ +Linear +(.*)$", text, re.MULTILINE)
        assert all(re.fullmatch(r"\d+( x \d+)* +[\d,]+ +[1-9][\d,]*", row) for row in linear), name
    assert screen.find_rows("epoch 0") == []
    assert all(len(row) <= columns for row in screen.erased)
    if "gan" in names:  # manual optimization, which returns no loss
        assert screen.find_rows(r" 1/16 g_loss \d")
    if "dqn" in names:  # its epochs have no length; the second is as long as the first
        assert screen.find_rows(r"^epoch 1/2 .* 1 loss \d")
        assert screen.find_rows(r" 10/10 loss \d")
    if "several_val_loaders" in names:
        assert screen.find_rows(r"16/16 loss \S+  …ss/dataloader_idx_1 \d\S+ .*it/s [\d:]+$")


def test_find_lr_with_data_of_lightning(capsys: pytest.CaptureFixture[str]) -> None:
    call("train", "segmentation_hparams", "--find", "lr", *WORDS)  # with a net as hyperparameter
    assert re.search(r"^to use it  task\.lr=1\.2$", capsys.readouterr().out, re.MULTILINE)
    (line,) = mistakes("train", "gan", "--find", "lr", *WORDS)
    assert line.startswith("task: --find lr needs automatic optimization; ")
    (line,) = mistakes("train", "docs_autoencoder", "--find", "batch_size", *WORDS)
    assert line.startswith("data: --find batch_size needs data of ")
