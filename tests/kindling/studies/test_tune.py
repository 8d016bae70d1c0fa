"""Search: its space is checked as a config is, and its best trial is repeatable."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import optuna
import pytest
from scipy.stats import ttest_rel

from src.kindling.config import compose as config_module
from src.kindling.config.compose import CONFIGS
from src.kindling.config.errors import InputError
from src.kindling.studies import search as tune
from src.kindling.studies.find import find, steepest
from src.kindling.studies.plan import Plan, TrialResult
from src.kindling.studies.search_plots import plot_slices
from src.kindling.studies.search_space import read_space
from src.kindling.training.trained_run import load_run
from tests.conftest import LITTLE, call, mistakes

FILE = "configs/space/mine.yaml"
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


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search draws nothing, which takes a second; test_best_trial_of_a_search… draws."""
    monkeypatch.setattr("src.kindling.studies.search_plots.plot_search", lambda *_: [])
    monkeypatch.setattr("src.kindling.analysis.leaderboard_formats._draw_curves", lambda *_: "")


def searched(*words: str) -> list[TrialResult]:
    found = call("tune", "digits", *WORDS, *words)
    assert isinstance(found, list)
    return found


# ---------------------------------------------------------------------------------------------------------------
# Spaces


def test_spaces_of_the_repository_fit_their_configs() -> None:
    from src.kindling.config.command import Parser

    for name, config in (("default", "digits"), ("default", "diabetes"), ("nets", "digits")):
        flags = Parser("tune", "").parse_args([])
        for flag, value in {
            "words": [config, name],
            "trials": 1,
            "sampler": "tpe",
            "pruner": "none",
            "name": None,
            "storage": None,
            "workers": 1,
            "plots": False,
        }.items():
            setattr(flags, flag, value)
        assert tune.plan_search(flags).monitor == "val/loss"


def test_samples_contain_every_choice_and_bound(space: Callable[[str], str]) -> None:
    found = list(
        read_space(
            space("""
net: [cnn, mlp]
net.channels: {choices: [[8], [8, 16]], when: {net: cnn}}
net.hidden: {choices: [[], [32]], when: {net: [mlp]}}
task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}
data.batch_size: {low: 16, high: 48, step: 16}
""")
        ).samples()
    )
    seen = {(key, repr(value)) for values in found for key, value in values.items()}
    assert seen == {
        ("net", "'cnn'"),
        ("net", "'mlp'"),
        ("net.channels", "[8]"),
        ("net.channels", "[8, 16]"),
        ("net.hidden", "[]"),
        ("net.hidden", "[32]"),
        ("task.optimizer.lr", "0.0001"),
        ("task.optimizer.lr", "0.1"),
        ("data.batch_size", "16"),
        ("data.batch_size", "48"),
    }
    assert all(("net.channels" in values) == (values["net"] == "cnn") for values in found)


def test_grid_contains_every_combination_once(space: Callable[[str], str]) -> None:
    found = read_space(
        space("""
net: [cnn, mlp]
net.hidden: {choices: [[16], [32]], when: {net: mlp}}
net.dropout: {low: 0.0, high: 0.4, step: 0.2}
data.batch_size: {low: 1, high: 2}
""")
    ).grid()
    assert len(found) == 3 * 2 * 3
    assert {"net": "cnn", "net.dropout": 0.2, "data.batch_size": 1} in found
    assert {"net": "mlp", "net.hidden": "[32]", "net.dropout": 0.4, "data.batch_size": 2} in found
    with pytest.raises(InputError) as caught:
        read_space(space("task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}")).grid()
    (line,) = caught.value.lines
    assert line.startswith("task.optimizer.lr: ")
    assert "add 'step' or list choices" in line


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("", "FILE: ", "empty; add a line such as 'task.optimizer.lr: {low: 1e-4, "),
        ("a: [", "FILE:1: ", "not valid YAML"),
        (
            "net.dropout: 0.1",
            "net.dropout: ",
            "expected a list of choices, or 'low' and 'high', got 0.1",
        ),
        (
            "net.dropout: {low: 0.1}",
            "net.dropout: ",
            "expected a list of choices, or 'low' and 'high'",
        ),
        ("net.dropout: {low: 0.5, high: 0.1}", "net.dropout: ", "`low <= high` must hold"),
        ("net.dropout: {low: 0.0, high: 0.1, log: true}", "net.dropout: ", "`low > 0` must hold"),
        ("net.dropout: {low: 0.0, high: high}", "net.dropout: ", "expected numbers, got 'high'"),
        ("net.dropout: {low: 0.0, high: .inf}", "net.dropout: ", "expected numbers, got inf"),
        ("net.dropout: {low: true, high: 1.0}", "net.dropout: ", "expected numbers, got True"),
        (
            "net.dropout: {low: 0.1, high: 0.2, log: 2}",
            "net.dropout: log: ",
            "true or false, got 2",
        ),
        ("net.dropout: {choices: 5}", "net.dropout: ", "expected a list of choices, got 5"),
        (
            "net.dropout: {low: 0.1, high: 0.2, when: 3}",
            "net.dropout: when: ",
            "such as {net: cnn}",
        ),
        ("seed: [1, 2]", "seed: ", "is luck; remove the line, and pass --confirm 5"),
        ("data: [digits, diabetes]", "data: ", "would not be comparable; remove the line"),
        ("monitor: [val/loss, val/f1]", "monitor: ", "would not be comparable; remove"),
        ("trainer.devices: [1, 2]", "trainer.devices: ", "the study sets it; remove the line"),
        ("net.dropout: {low: 0.0, high: 0.1, stpe: 0.1}", "net.dropout: ", "did you mean 'step'?"),
        (
            "net.dropout: {low: 0.0, high: 0.5, step: 0.2}",
            "net.dropout: ",
            "not divisible by `step`",
        ),
        ("net.dropout: []", "net.dropout: ", "must contain one or more elements"),
        ("net.dropout: [0.1, 0.1]", "net.dropout: ", "has a choice twice: [0.1, 0.1]"),
        ("net.dropout: {choices: [0.1, 0.2], low: 1}", "net.dropout: ", "remove one of them"),
        ("net.dropout: {low: 0.1, high: 0.2, when: {nte: cnn}}", "net.dropout: when: ", "no 'nte'"),
        (
            "net: [cnn, mlp]\nnet.dropout: {low: 0.1, high: 0.2, when: {net: vit}}",
            "net.dropout: when: ",
            "'net' is never 'vit' (its choices: ['cnn', 'mlp'])",
        ),
    ],
)
def test_wrong_line_of_a_space_is_refused(
    text: str, key: str, problem: str, space: Callable[[str], str]
) -> None:
    with pytest.raises(InputError) as caught:
        read_space(space(text))
    (line,) = caught.value.lines
    assert line.startswith(key.replace("FILE", FILE))
    assert problem in line
    assert FILE in line


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        ("net.widht: [8, 16]", (), [("net.widht: CNN has no argument 'widht'", FILE)]),
        ("lr: {low: 0.1, high: 0.2}", (), [("lr: ", "did you mean 'task.optimizer.lr'?")]),
        ("net: [cnn, mpl]", (), [("net=mpl: ", "did you mean 'mlp'?")]),
        (
            "data.batch_size: {low: 0.5, high: 1.5}\ntask.optimizer.lr: [0.1, fast]",
            (),
            [
                ("data.batch_size: ", f"got 0.5 ({FILE})"),
                ("data.batch_size: ", f"got 1.5 ({FILE})"),
                ("task.optimizer.lr: ", f"got 'fast' ({FILE})"),
            ],
        ),
        (
            "net.dropout: [0.1, 0.2]",
            ("net.dropout=0.3",),
            [(f"net.dropout=0.3: {FILE} ", "remove one of them (command line)")],
        ),
        ("net: [cnn, mlp]", ("net.dropout=0.1",), [("net.dropout=0.1: ", "remove one of them")]),
        (
            "net.dropout: {low: 0, high: 1}\ntrainer.accumulate_grad_batches: {low: 1, high: 2}\n"
            "data.batch_size: {low: 16, high: 64, log: true}",
            (),
            [("net.dropout: ", "write 0.0 and 1.0, or add 'step: 1'")],
        ),
        (
            "task.loss.label_smoothing: [0.0, 0.1]\ntask.class_weights: [null, balanced]",
            (),
            [
                ("task.loss.label_smoothing: ", "such as monitor=val/accuracy"),
                ("task.class_weights: ", "such as monitor=val/accuracy"),
            ],
        ),
        (
            "net: [cnn, mlp]\nnet.hidden: {choices: [[8], [16]], when: {net: mlp}}\n"
            "net.channels: {choices: [[8], [16]], when: {net: cnn, net.hidden: [[8]]}}",
            (),
            [("net.channels: never set; ", "'when'")],
        ),
    ],
)
def test_space_is_checked_as_a_config_is(
    text: str,
    words: tuple[str, ...],
    parts: list[tuple[str, str]],
    space: Callable[[str], str],
    logs: Path,
) -> None:
    lines = mistakes("tune", "digits", space(text), *LITTLE[:2], *words)
    assert len(lines) == len(parts)
    for line, (key, remedy) in zip(lines, parts, strict=True):
        assert line.startswith(key)
        assert remedy in line
    assert not list(logs.iterdir())


def test_section_that_only_the_space_sets_names_its_file() -> None:
    assert mistakes("tune", "vae") == [
        "task.optimizer: VAE has no argument 'optimizer' (it accepts: latent, hidden, beta, lr); "
        "write another space, configs/space/NAME.yaml, and pass NAME (configs/space/default.yaml)"
    ]
    (line,) = mistakes("tune", "vae", "task.optimizer.momentum=0.9")
    assert line.endswith(" (command line)")


@pytest.mark.parametrize(
    ("words", "key", "remedy"),
    [
        (("defualt",), "defualt: ", "did you mean 'default'?"),
        (("default", "nets"), "nets: ", "not expected after CONFIG and SPACE"),
        (("--confirm", "1"), "--confirm 1: ", "expected at least 2 seeds"),
        (("--trials", "0"), "--trials: ", "expected at least 1"),
        (("trainer.devices=2", "--pruner", "median"), "--pruner median: ", "leave it out"),
    ],
)
def test_mistakes_are_refused_before_the_first_trial(
    words: tuple[str, ...], key: str, remedy: str, logs: Path
) -> None:
    (line,) = mistakes("tune", "digits", *words)
    assert line.startswith(key)
    assert remedy in line
    assert not list(logs.iterdir())


# ---------------------------------------------------------------------------------------------------------------
# Searches


def test_best_trial_of_a_search_is_repeatable_from_best_yaml(
    logs: Path, space: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = searched("nets", "--trials", "3")
    output = capsys.readouterr().out
    folder, best = logs / "digits/tune-nets", min(found, key=lambda outcome: outcome.value or 9.0)
    assert [outcome.name for outcome in found] == ["0000", "0001", "0002"]
    assert "\n3 finished\nbest       " in output
    assert f"\nbest       {best.name}: val/loss {best.value:.6g}\n" in output
    assert {path.stem for path in (folder / "plots").iterdir()} == {
        "history",
        "parallel",
        "slices",
        "importances",
    }
    assert not [name for outcome in found for name in outcome.metrics if name.startswith("test/")]
    assert "test/" not in (folder / best.name / "run.json").read_text()
    study = json.loads((folder / "study.json").read_text())
    assert (study["best"]["name"], study["best"]["value"]) == (best.name, best.value)
    assert sum(study["best"]["importances"].values()) == pytest.approx(1)
    assert f"(importance {study['best']['importances']['net']:.2f})" in output

    text = (folder / "best.yaml").read_text()
    assert (
        f"\n#   python -m src.train digits_best   {best.seconds:.0f} s for the trial\n#\n" in text
    )
    shutil.copy(folder / "best.yaml", config_module.CONFIGS / "digits_best.yaml")
    assert "python -m src.train digits_best\n" in output
    again = call("train", "digits_best")
    metrics = {name: value for name, value in again.metrics.items() if name.startswith("val/")}  # type: ignore[attr-defined]
    assert metrics == best.metrics
    assert again.score == best.value  # type: ignore[attr-defined]


@pytest.mark.usefixtures("without_plots")
def test_best_and_default_are_retested_with_new_seeds(
    logs: Path, space: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [space("net: [mlp]\nnet.hidden: [[8], [16]]"), "--trials", "2", "--confirm", "2"]
    found = searched(*words, "seed=3")
    output = capsys.readouterr().out
    assert "           the best of 2, therefore optimistic; to retest it: --confirm 5\n" in output
    best = min(found, key=lambda outcome: outcome.value or 9.0)
    folder = logs / "digits" / "tune-mine" / f"confirm-{best.name}"
    values = {}
    for name in ("default", "best"):
        runs = [load_run(folder / f"{name}_seed{seed}") for seed in (4, 5)]
        assert [run.config.values["seed"] for run in runs] == [4, 5]
        assert ("hidden" in runs[0].config.values["net"]) == (name == "best")
        values[name] = [run.metrics["val/loss"] for run in runs]
        spread = f"{fmean(values[name]):.4f} ± {stdev(values[name]):.4f}"
        assert f"/{name}_seed4 (2 seeds): val/loss {spread}\n" in output
    interval = ttest_rel(values["default"], values["best"]).confidence_interval()
    ends = (interval.low, interval.high)
    low, high = ends if fmean(ends) > 0 else (-ends[1], -ends[0])
    assert f"(95 % confidence interval {low:.4g} to {high:.4g}; over 2 paired seeds)\n" in output
    assert "test/" not in (folder / "best_seed4" / "run.json").read_text()
    trained = (folder / "best_seed4" / "metrics.json").stat().st_mtime_ns
    searched(*words, "seed=3")  # continues it: nothing is left to train
    assert (folder / "best_seed4" / "metrics.json").stat().st_mtime_ns == trained


@pytest.mark.usefixtures("without_plots")
def test_search_draws_repeatably_and_continues(logs: Path, space: Callable[[str], str]) -> None:
    name = space("task.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}")
    short = searched(name, "--trials", "1")
    trained = (logs / "digits/tune-mine/0000/metrics.json").stat().st_mtime_ns
    longer = searched(name, "--trials", "2")
    assert (logs / "digits/tune-mine/0000/metrics.json").stat().st_mtime_ns == trained
    assert longer[:1] == short
    other = searched(name, "--trials", "2", "--name", "other")
    assert [one.changes for one in other] == [one.changes for one in longer]
    assert [one.value for one in other] == [one.value for one in longer]
    assert len({one.changes["task.optimizer.lr"] for one in other}) == 2


@pytest.mark.usefixtures("without_plots")
def test_grid_search_trains_every_combination(space: Callable[[str], str]) -> None:
    name = space("net: [cnn, mlp]\nnet.hidden: {choices: [[8], [16]], when: {net: mlp}}")
    found = searched(name, "--sampler", "grid")
    assert [one.changes for one in found] == [
        {"net": "cnn"},
        {"net": "mlp", "net.hidden": [8]},
        {"net": "mlp", "net.hidden": [16]},
    ]
    run = load_run(f"digits/tune-mine/{found[2].name}")
    assert run.config.values["net"] == {"_target_": "src.nets.mlp.MLP", "hidden": [16]}
    assert len({one.value for one in found}) == 3
    # Drawn trials are no part of a grid.
    line, remedy = mistakes("tune", "digits", *WORDS, name, "--trials", "3")
    assert line.startswith("sampler: ")
    assert remedy.endswith("--name tune-mine_2")


@pytest.mark.usefixtures("without_plots")
def test_pruner_stops_a_trial(
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
    assert [
        type(tune.make_sampler(kind, 0, {}, "0000")).__name__ for kind in ("tpe", "random")
    ] == [
        "TPESampler",
        "RandomSampler",
    ]


@pytest.mark.usefixtures("without_plots")
def test_space_of_whole_numbers_and_loss_parameters(
    space: Callable[[str], str],
) -> None:
    name = space("net.dropout: {low: 0, high: 1, step: 1}\ntask.loss.label_smoothing: [0.0, 0.1]")
    (found,) = searched(name, "--trials", "1", "monitor=val/accuracy", "mode=max")
    assert found.changes["net.dropout"] in (0, 1)
    assert found.value == found.metrics["val/accuracy"]


def test_trial_has_one_color_in_all_slices() -> None:
    study = optuna.create_study()
    spaces = {
        "net": optuna.distributions.CategoricalDistribution(["cnn", "mlp"]),
        "lr": optuna.distributions.FloatDistribution(1e-3, 8e-3, log=True),
        "width": optuna.distributions.IntDistribution(1, 9),
    }
    for number, net in enumerate(["cnn", "mlp", "cnn"]):
        params = {"net": net, "lr": 2e-3 * (number + 1)} | ({"width": 4} if net == "mlp" else {})
        used = {key: spaces[key] for key in params}
        trial = optuna.trial.create_trial(params=params, distributions=used, value=float(number))
        study.add_trial(trial)
    figure = plot_slices(study, "val/loss")
    panels = {axis.get_xlabel(): axis for axis in figure.axes[:3]}
    dots = {key: axis.collections[0] for key, axis in panels.items()}
    assert {key: dot.get_array().tolist() for key, dot in dots.items()} == {
        "net": [0, 1, 2],
        "lr": [0, 1, 2],
        "width": [1],
    }
    assert {dot.get_clim() for dot in dots.values()} == {(0, 2)}
    assert [text.get_text() for text in panels["net"].get_xticklabels()] == ["cnn", "mlp"]
    assert len(panels["lr"].get_xticks()) == 3
    assert not len(panels["lr"].get_xticks(minor=True))


def test_best_config_starts_with_its_command_and_score() -> None:
    plan = Plan("digits", ("num_threads=1",), "tune-default", {}, monitor="val/loss")
    text = tune.best_config(
        plan, TrialResult("0007", "finished", {"task.optimizer.lr": 0.01}, 0.25, run="logs/x/0007")
    )
    assert text.startswith("# digits, tuned: val/loss 0.25 in validation.\n#\n")
    assert "\n    lr: 0.01\n" in text


# ---------------------------------------------------------------------------------------------------------------
# What to begin with


def test_find_lr(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate = find("lr", "digits", ["num_threads=1", "trainer.accelerator=cpu"])
    assert 1e-3 < rate < 3e-2
    output = capsys.readouterr().out
    assert output.startswith(f"found      {rate:.2g}: ")
    last = f"to use it  task.optimizer.lr={rate:.2g}"
    assert output.endswith(f"{logs / 'digits/find_lr.png'}\n{last}\n")
    assert (logs / "digits/find_lr.png").stat().st_size > 5_000
    assert [path.name for path in logs.rglob("*")] == ["digits", "find_lr.png"]
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    assert find("lr", "digits", ["num_threads=1", "trainer.accelerator=cpu", *short]) == rate


def test_steepest_ignores_noise_between_two_steps() -> None:
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    losses = [1 + 0.5 / (1 + (rate / 1e-2) ** 2) + 0.02 * (i % 2) for i, rate in enumerate(rates)]
    losses[15:17] = 1.9, 1.4  # the largest fall between two steps, at 1e-5
    losses[95:] = [math.nan] * 5
    assert steepest(rates, losses) == pytest.approx(1e-2, rel=0.3)
    assert steepest(rates, rates) is None
    assert steepest(rates[:20], losses[:20]) is None


def test_find_batch_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find("batch_size", "diabetes", ["num_threads=1", "trainer.accelerator=cpu"]) == 256
    output = capsys.readouterr().out
    assert output.startswith("found      256: ")
    assert "310 samples\nto use it  data.batch_size=256, " in output
    from src.tasks.regression import Regression

    step = Regression.training_step

    def greedy(self: Regression, batch: object, number: int) -> object:
        if len(batch[1]) > 100:  # type: ignore[attr-defined]
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return step(self, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(Regression, "training_step", greedy)
    call("train", "diabetes", "num_threads=1", "trainer.accelerator=cpu", "--find", "batch_size")
    output = capsys.readouterr().out
    assert output.startswith("found      64: ")
    assert "runs out of memory" in output
