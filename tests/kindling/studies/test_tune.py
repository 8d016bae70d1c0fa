"""A search: its space is checked like any config, its trials are ordinary runs, and its best one can be had again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.kindling.config import compose as config_module
from src.kindling.config.compose import CONFIGS
from src.kindling.config.errors import InputError
from src.kindling.studies import search as tune
from src.kindling.studies.plan import Outcome, Plan
from src.kindling.studies.search_space import read_space
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, call, mistakes

WORDS = (*LITTLE, "trainer.limit_train_batches=2")


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a space into a copy of configs/, and returns its name."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(config_module, "CONFIGS", tmp_path / "configs")

    def write(text: str) -> str:
        (tmp_path / "configs/space/mine.yaml").write_text(text)
        return "mine"

    return write


def searched(*words: str) -> list[Outcome]:
    found = call("tune", "digits", *WORDS, *words)
    assert isinstance(found, list)
    return found


# ---------------------------------------------------------------------------------------------------------------
# Spaces


def test_the_spaces_of_the_repository_fit_their_configs() -> None:
    from src.kindling.config.command import Parser

    for name, config in (("default", "digits"), ("default", "diabetes"), ("nets", "digits")):
        flags = Parser("tune", "", "").parse_args([])
        for flag, value in {"words": [config, name], "trials": 1, "sampler": "tpe", "pruner": "none", "name": None,
                            "storage": None, "workers": 1, "pictures": False}.items():  # fmt: skip
            setattr(flags, flag, value)
        assert tune.plan_search(flags).monitor == "val/loss"


def test_samples_hold_every_choice_and_every_bound(space: Callable[[str], str]) -> None:
    found = list(read_space(space("""
net: [cnn, mlp]
net.channels: {choices: [[8], [8, 16]], when: {net: cnn}}
net.hidden: {choices: [[], [32]], when: {net: [mlp]}}
task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}
data.batch_size: {low: 16, high: 48, step: 16}
""")).samples())  # fmt: skip
    seen = {(key, repr(value)) for values in found for key, value in values.items()}
    assert seen == {
        ("net", "'cnn'"), ("net", "'mlp'"), ("net.channels", "[8]"), ("net.channels", "[8, 16]"), ("net.hidden", "[]"),
        ("net.hidden", "[32]"), ("task.optimizer.lr", "0.0001"), ("task.optimizer.lr", "0.1"), ("data.batch_size", "16"),
        ("data.batch_size", "48"),
    }  # fmt: skip
    assert all(("net.channels" in values) == (values["net"] == "cnn") for values in found)


def test_a_grid_has_every_combination_once(space: Callable[[str], str]) -> None:
    found = read_space(space("""
net: [cnn, mlp]
net.hidden: {choices: [[16], [32]], when: {net: mlp}}
net.dropout: {low: 0.0, high: 0.4, step: 0.2}
seed: {low: 1, high: 2}
""")).grid()  # fmt: skip
    assert len(found) == 3 * 2 * 3
    assert {"net": "cnn", "net.dropout": 0.2, "seed": 1} in found
    assert {"net": "mlp", "net.hidden": "[32]", "net.dropout": 0.4, "seed": 2} in found
    with pytest.raises(InputError) as caught:
        read_space(space("task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}")).grid()
    assert caught.value.lines == [
        "task.optimizer.lr: --sampler grid needs choices or a step here; a range alone has no end of values"
    ]


@pytest.mark.parametrize(("text", "line"), [
    ("", "configs/space/mine.yaml: is empty; a line of it is 'task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}'"),
    ("a: [", "configs/space/mine.yaml:1: not valid YAML: expected the node content, but found '<stream end>'"),
    ("net.dropout: 0.1", "net.dropout: expected a list of choices, or 'low' and 'high', got 0.1 (FILE)"),
    ("net.dropout: {low: 0.1}", "net.dropout: expected a list of choices, or 'low' and 'high', got {'low': 0.1} (FILE)"),
    ("net.dropout: {low: 0.5, high: 0.1}", "net.dropout: `low <= high` must hold, but got (low=0.5, high=0.1). (FILE)"),
    ("net.dropout: {low: 0.0, high: 0.1, log: true}",
     "net.dropout: `low > 0` must hold for `log=True`, but got (low=0.0, high=0.1). (FILE)"),
    ("net.dropout: {low: 0.0, high: high}", "net.dropout: expected numbers, got 'high' (FILE)"),
    ("net.dropout: {low: 0.0, high: .inf}", "net.dropout: expected numbers, got inf (FILE)"),
    ("net.dropout: {low: true, high: 1.0}", "net.dropout: expected numbers, got True (FILE)"),
    ("net.dropout: {low: 0.1, high: 0.2, log: 2}", "net.dropout: log: expected true or false, got 2 (FILE)"),
    ("net.dropout: {choices: 5}", "net.dropout: expected a list of choices, got 5 (FILE)"),
    ("net.dropout: {low: 0.1, high: 0.2, when: 3}",
     "net.dropout: when: expected keys above and their choices, such as {net: cnn}, got 3 (FILE)"),
    ("data: [digits, diabetes]", "data: is not for a search: its trials could not be compared (FILE)"),
    ("trainer.devices: [1, 2]", "trainer.devices: is not for a search: the study sets it itself (FILE)"),
    ("net.dropout: {low: 0.0, high: 0.1, stpe: 0.1}",
     "net.dropout: has no 'stpe'; did you mean 'step'? (it has: choices, low, high, log, step, when) (FILE)"),
    ("net.dropout: {low: 0.0, high: 0.5, step: 0.2}", "net.dropout: The distribution is specified by [0.0, 0.5] and step="
     "0.2, but the range is not divisible by `step`. It will be replaced with [0.0, 0.4]. (FILE)"),
    ("net.dropout: []", "net.dropout: The `choices` must contain one or more elements. (FILE)"),
    ("net.dropout: [0.1, 0.1]", "net.dropout: has a choice twice: [0.1, 0.1] (FILE)"),
    ("net.dropout: {choices: [0.1, 0.2], low: 1}", "net.dropout: has choices and a range; one of them is meant (FILE)"),
    ("task.monitor: [val/loss, val/accuracy]",
     "task.monitor: is not for a search: its trials could not be compared (FILE)"),
    ("net.dropout: {low: 0.1, high: 0.2, when: {nte: cnn}}", "net.dropout: when: no 'nte' stands above it (FILE)"),
    ("net: [cnn, mlp]\nnet.dropout: {low: 0.1, high: 0.2, when: {net: vit}}",
     "net.dropout: when: 'net' is never 'vit' (its choices: ['cnn', 'mlp']) (FILE)"),
])  # fmt: skip
def test_a_line_of_a_space_that_cannot_be_is_told(text: str, line: str, space: Callable[[str], str]) -> None:
    with pytest.raises(InputError) as caught:
        read_space(space(text))
    assert caught.value.lines == [line.replace("FILE", "configs/space/mine.yaml")]


def test_a_space_is_checked_as_a_config_is(space: Callable[[str], str], logs: Path) -> None:
    for text, words, lines in (
        ("net.widht: [8, 16]", (), ["net.widht: CNN has no argument 'widht' (it accepts: in_shape, num_outputs, channels, "
                                    "dropout, over_places) (FILE)"]),
        ("lr: {low: 0.1, high: 0.2}", (), ["lr: no such section; did you mean 'task.optimizer.lr'? (a config has: data, "
            "net, task, finetune, trainer, callbacks, logger, name, tags, seed, threads, compile, channels_last, save_minutes, "
            "skip_nonfinite) (FILE)"]),
        ("net: [cnn, mpl]", (), ["net=mpl: no such option; did you mean 'mlp'? (configs/net/ has: cnn, mlp, pretrained, unet) (FILE)"]),
        ("data.batch_size: {low: 0.5, high: 1.5}\ntask.optimizer.lr: [0.1, fast]", (),
         ["data.batch_size: expected a whole number, got 0.5 (FILE)", "data.batch_size: expected a whole number, got 1.5 "
          "(FILE)", "task.optimizer.lr: expected a number, got 'fast' (FILE)"]),
        ("seed: [1, 2]", ("seed=3",), ["seed=3: configs/space/mine.yaml searches it; leave one of them out (command line)"]),
        ("net: [cnn, mlp]", ("net.dropout=0.1",),
         ["net.dropout=0.1: configs/space/mine.yaml searches it; leave one of them out (command line)"]),
        ("net.dropout: {low: 0, high: 1}\nseed: {low: 0, high: 9}\ndata.batch_size: {low: 16, high: 64, log: true}", (),
         ["net.dropout: whole numbers from 0 to 1 would be drawn; write 0.0 and 1.0, or add 'step: 1' if they are meant "
          "(FILE)"]),
        ("task.loss.label_smoothing: [0.0, 0.1]\ntask.class_weights: [null, balanced]", (),
         [f"{key}: changes val/loss itself, by which trials are compared; monitor another metric, such as "
          "task.monitor=val/accuracy (FILE)" for key in ("task.loss.label_smoothing", "task.class_weights")]),
        ("net: [cnn, mlp]\nnet.hidden: {choices: [[8], [16]], when: {net: mlp}}\n"
         "net.channels: {choices: [[8], [16]], when: {net: cnn, net.hidden: [[8]]}}", (),
         ["net.channels: is never set: its conditions exclude each other"]),
    ):  # fmt: skip
        given = [line.replace("FILE", "configs/space/mine.yaml") for line in lines]
        assert mistakes("tune", "digits", space(text), *LITTLE[:2], *words) == given
    assert mistakes("tune", "digits", "defualt") == [
        "defualt: no such space; did you mean 'default'? (configs/space/ has: default, mine, nets)"
    ]
    assert mistakes("tune", "digits", "default", "nets") == ["nets: not expected after CONFIG and SPACE"]
    assert mistakes("tune", "digits", "--trials", "0") == ["--trials: expected at least 1, got 0"]
    assert mistakes("tune", "digits", *LITTLE, "trainer.devices=2", "--pruner", "median") == [
        "--pruner median: does not reach trials of several processes (trainer.devices=2); leave it out"
    ]
    assert not list(logs.iterdir())


# ---------------------------------------------------------------------------------------------------------------
# Searches


def test_a_search_ends_with_its_best_trial_which_can_be_had_again(
    logs: Path, space: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = searched("nets", "--trials", "3")
    output = capsys.readouterr().out
    folder, best = logs / "digits/tune-nets", min(found, key=lambda outcome: outcome.value or 9.0)
    assert [outcome.name for outcome in found] == ["0000", "0001", "0002"]
    assert "\n3 finished\nbest       " in output
    assert f"\nbest       {best.name}: val/loss {best.value!r}\n" in output
    assert {path.stem for path in (folder / "plots").iterdir()} == {"history", "parallel", "slices", "importances"}
    assert not [name for outcome in found for name in outcome.metrics if name.startswith("test/")]
    assert "test/" not in (folder / best.name / "run.json").read_text()
    study = json.loads((folder / "study.json").read_text())
    assert (study["best"]["name"], study["best"]["value"]) == (best.name, best.value)
    assert sum(study["best"]["importances"].values()) == pytest.approx(1)
    assert f"(importance {study['best']['importances']['net']:.2f})" in output

    text = (folder / "best.yaml").read_text()
    assert f"\n#   python -m src.train digits_best   {best.seconds:.0f} s for the trial\n#\n" in text
    shutil.copy(folder / "best.yaml", config_module.CONFIGS / "digits_best.yaml")
    assert "python -m src.train digits_best\n" in output
    again = call("train", "digits_best")
    metrics = {name: value for name, value in again.metrics.items() if name.startswith("val/")}  # type: ignore[attr-defined]
    assert metrics == best.metrics
    assert again.score == best.value  # type: ignore[attr-defined]


def test_the_same_search_draws_the_same_and_goes_on(logs: Path, space: Callable[[str], str]) -> None:
    name = space("task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}")
    short = searched(name, "--trials", "2")
    trained = (logs / "digits/tune-mine/0001/metrics.json").stat().st_mtime_ns
    longer = searched(name, "--trials", "3")
    assert (logs / "digits/tune-mine/0001/metrics.json").stat().st_mtime_ns == trained
    assert longer[:2] == short
    other = searched(name, "--trials", "3", "--name", "other")
    assert [one.changes for one in other] == [one.changes for one in longer]
    assert [one.value for one in other] == [one.value for one in longer]
    assert len({one.changes["task.optimizer.lr"] for one in other}) == 3


def test_a_grid_is_searched_whole(space: Callable[[str], str]) -> None:
    name = space("net: [cnn, mlp]\nnet.hidden: {choices: [[8], [16]], when: {net: mlp}}")
    found = searched(name, "--sampler", "grid")
    assert [one.changes for one in found] == [{"net": "cnn"}, {"net": "mlp", "net.hidden": [8]},
                                              {"net": "mlp", "net.hidden": [16]}]  # fmt: skip
    run = load_run(f"digits/tune-mine/{found[2].name}")
    assert run.config.values["net"] == {"_target_": "src.nets.mlp.MLP", "hidden": [16]}
    assert len({one.value for one in found}) == 3
    # Drawn trials are no part of a grid.
    assert mistakes("tune", "digits", *WORDS, name, "--trials", "3") == [
        "sampler: the study has grid, and tpe is asked for",
        "digits/tune-mine goes on as it was begun; for another study: --name tune-mine_2",
    ]


def test_a_trial_without_hope_is_pruned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logs: Path
) -> None:
    from optuna.pruners import ThresholdPruner

    monkeypatch.setattr(tune, "make_pruner", lambda kind, epochs: ThresholdPruner(upper=0.0))
    (found,) = searched("default", "--trials", "1", "--pruner", "median")
    assert found.state == "pruned"
    assert json.loads((logs / "digits/tune-default/0000/meta.json").read_text())["epochs"] == 1
    output = capsys.readouterr().out
    assert f"1/1  0000  val/loss {found.value:.4f}  pruned  lr=" in output
    assert "\n1 pruned\n" in output


def test_pruners_and_samplers() -> None:
    median, hyperband = (tune.make_pruner(kind, 20) for kind in ("median", "hyperband"))
    assert (median._n_startup_trials, median._n_warmup_steps, hyperband._max_resource) == (5, 2, 20)
    assert tune.make_pruner("none", 20) is None
    assert [type(tune.make_sampler(kind, 0, 1)).__name__ for kind in ("tpe", "random")] == [
        "TPESampler",
        "RandomSampler",
    ]


def test_whole_numbers_and_losses_are_searched_where_they_are_meant(space: Callable[[str], str]) -> None:
    name = space("net.dropout: {low: 0, high: 1, step: 1}\ntask.loss.label_smoothing: [0.0, 0.1]")
    (found,) = searched(name, "--trials", "1", "task.monitor=val/accuracy", "task.mode=max")
    assert found.changes["net.dropout"] in (0, 1)
    assert found.value == found.metrics["val/accuracy"]


def test_tuned_configs_name_what_they_are() -> None:
    plan = Plan("digits", ("threads=1",), "tune-default", (), monitor="val/loss")
    text = tune.best_config(plan, Outcome("0007", "finished", {"task.optimizer.lr": 0.01}, 0.25, run="logs/x/0007"))
    assert text.startswith("# digits, tuned: val/loss 0.25 in validation.\n#\n")
    assert "\n    lr: 0.01\n" in text


# ---------------------------------------------------------------------------------------------------------------
# What to begin with


def test_a_learning_rate_is_found(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate = tune.find("lr", "digits", ["threads=1", "trainer.accelerator=cpu"])
    assert 1e-3 < rate < 3e-2
    assert capsys.readouterr().out == (
        f"found      {rate:.2g}: there the loss falls fastest; the curve: {logs / 'digits/find_lr.png'}\n"
        f"to use it  task.optimizer.lr={rate:.2g}\n"
    )
    assert (logs / "digits/find_lr.png").stat().st_size > 5_000
    assert [path.name for path in logs.rglob("*")] == ["digits", "find_lr.png"]


def test_the_loss_falls_fastest_over_a_decade_and_not_between_two_noisy_steps() -> None:
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    losses = [1 + 0.5 / (1 + (rate / 1e-2) ** 2) + 0.02 * (i % 2) for i, rate in enumerate(rates)]
    losses[15:17] = 1.9, 1.4  # the largest fall between two steps, at 1e-5
    losses[95:] = [math.nan] * 5
    assert tune.steepest(rates, losses) == pytest.approx(1e-2, rel=0.3)
    assert tune.steepest(rates, rates) is None
    assert tune.steepest(rates[:20], losses[:20]) is None


def test_a_batch_size_is_found(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune.find("batch_size", "diabetes", ["threads=1", "trainer.accelerator=cpu"]) == 256
    assert capsys.readouterr().out == (
        "found      256: the largest that was tried and fits; there are 310 training samples\n"
        "to use it  data.batch_size=256, and try a larger task.optimizer.lr with it\n"
    )
    from src.tasks.regression import Regression

    step = Regression.training_step

    def greedy(self: Regression, batch: object, number: int) -> object:
        if len(batch.y) > 100:  # type: ignore[attr-defined]
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return step(self, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(Regression, "training_step", greedy)
    call("train", "diabetes", "threads=1", "trainer.accelerator=cpu", "--find", "batch_size")
    assert capsys.readouterr().out.startswith("found      64: the largest that was tried and fits; memory ends there\n")
