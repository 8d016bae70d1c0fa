"""A resumed epoch goes on with the batches that it had left, whichever loader gives them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision

from src.kindling.config import instantiate
from src.kindling.config.compose import ROOT, compose
from src.kindling.config.errors import TrainingError
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted, Interrupts
from src.kindling.training.fit import fit
from src.kindling.training.loaders import Loaders
from src.kindling.training.repeatable_stream import RepeatableStream
from src.kindling.training.run_loggers import Curves
from tests.interruption import Killed, install_kill
from tests.kindling.training import loader_kinds

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers
HERE = "tests.kindling.training.loader_kinds"
WORDS = ("num_threads=1", "checkpoint_minutes=0", "trainer.accelerator=cpu", "trainer.max_epochs=3")
ORDERS = (
    *("shuffled", "weighted", "subset", "own generator", "torch generator", "counting"),
    *("batch sampler", "nested samplers", "no batches", "stateful loader"),
    *("min_size", "max_size", "max_size_cycle", "dict", "stream", "stateful stream"),
)
Killer = Any


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Have a training end after so many more batches."""
    (tmp_path / "plain.yaml").write_text(
        f"task: {{_target_: {HERE}.Module}}\ndata: {{_target_: {HERE}.Data}}\n"
    )
    monkeypatch.setattr("src.kindling.config.compose.CONFIGS", tmp_path)
    monkeypatch.setattr("src.kindling.config.targets.allowed_by_user", lambda: ("tests",))
    return install_kill(monkeypatch)


def started(*words: str) -> tuple[Any, Run]:
    config = compose("plain", [*WORDS, *words])
    instantiate.check(config)
    return config, Run.claim("plain")


def whole(*words: str) -> tuple[dict[str, Any], str, list[list[float]]]:
    loader_kinds.SEEN.clear()
    config, run = started(*words)
    fit(config, run)
    return *ended(run), list(loader_kinds.SEEN)


def ended(run: Run) -> tuple[dict[str, Any], str]:
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    state = {**content["state_dict"], "optimizers": str(content["optimizer_states"])}
    return state, (run.path / "metrics.csv").read_text()


def interrupted(kill: Killer, after: list[int], *words: str) -> tuple[Run, list[list[float]]]:
    """Train, killed after so many batches each time; the batches that were trained on for good."""
    config, run = started(*words)
    seen: list[list[float]] = []
    for number, batches in enumerate([*after, 1000]):
        kill(batches)
        loader_kinds.SEEN.clear()
        try:
            fit(config, run, resume=number > 0)
        except Killed:
            seen += loader_kinds.SEEN[:-1]  # the last one was not saved
            continue
        return run, seen + loader_kinds.SEEN
    raise AssertionError("never ended")


def assert_equal(resumed: tuple[dict[str, Any], str], expected: tuple[dict[str, Any], str]) -> None:
    assert resumed[1] == expected[1]
    for name, value in expected[0].items():
        equal = (
            torch.equal(value, resumed[0][name])
            if torch.is_tensor(value)
            else value == resumed[0][name]
        )
        assert equal, name


@pytest.mark.parametrize("kind", ORDERS)
def test_resume_repeats_batches(kind: str, kill: Killer) -> None:
    words = (f"data.kind={kind}", "trainer.max_epochs=2", "trainer.limit_train_batches=10")
    *expected, batches = whole(*words)
    run, seen = interrupted(kill, [3, 5, 5], *words)
    assert seen == batches
    assert_equal(ended(run), (expected[0], expected[1]))


@pytest.mark.parametrize("kind", ["shuffled", "persistent"])
def test_resume_with_workers_repeats_draws(kind: str, kill: Killer) -> None:
    words = (f"data.kind={kind}", "trainer.max_epochs=2", "trainer.limit_train_batches=10")
    *expected, batches = whole(*words)
    run, seen = interrupted(kill, [3], *words, "data.workers=2")
    assert seen == batches
    assert_equal(ended(run), (expected[0], expected[1]))


@pytest.mark.parametrize("every", [1, 2])
def test_resume_reloads_data_in_the_same_epochs(every: int, kill: Killer) -> None:
    words = (
        "data.kind=reloaded",
        f"trainer.reload_dataloaders_every_n_epochs={every}",
        "trainer.max_epochs=5",
    )
    *expected, batches = whole(*words)
    run, seen = interrupted(kill, [3, 4, 7, 5], *words)
    assert seen == batches
    assert len({tuple(batch) for batch in batches}) > 8
    assert_equal(ended(run), (expected[0], expected[1]))


def test_manual_optimization_resumes_accumulated_gradients(kill: Killer) -> None:
    words = (f"task._target_={HERE}.Manual",)
    *expected, batches = whole(*words)
    run, seen = interrupted(kill, [2, 3, 1, 4], *words)
    assert seen == batches
    assert_equal(ended(run), (expected[0], expected[1]))


def test_changed_config_keeps_several_optimizers_and_schedules(kill: Killer) -> None:
    words = (f"task._target_={HERE}.Manual",)
    expected, table, _ = whole(*words)
    config, run = started(*words)
    kill(11)
    with pytest.raises(Killed):
        fit(config, run)
    config = compose("plain", [*WORDS, *words, "task.spoiled=-2"])  # which changes nothing
    fit(config, run, resume=True, override=True)
    assert_equal(ended(run), (expected, table))


def test_order_that_does_not_repeat_starts_the_epoch_again(
    kill: Killer, capsys: pytest.CaptureFixture[str]
) -> None:
    run, seen = interrupted(kill, [11], "data.kind=clock")
    assert (
        "WARNING    data: ClockSampler yields other batches than before the interruption; "
        "epoch 2 starts again"
    ) in capsys.readouterr().out
    assert len(seen) == 10 + 16  # two batches of the second epoch were seen before
    assert sorted(itertools.chain(*seen[10:18])) == list(range(48))
    rows = (run.path / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3


@pytest.mark.parametrize(
    "kind", ["one repeats, one does not", "own order, and one that does not repeat"]
)
def test_all_loaders_start_the_epoch_again_with_the_one_that_differs(
    kind: str, kill: Killer
) -> None:
    _, seen = interrupted(kill, [11], f"data.kind='{kind}'")
    again = [batch[:6] for batch in seen[10:18]]
    assert sorted(itertools.chain(*again)) == list(range(48))


def test_stream_is_read_again(kill: Killer, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(kill, [11], "data.kind=stream")
    line = "resumed: Stream has no state_dict; reading 2 batches again (max_fast_forward limits"
    assert line in capsys.readouterr().out


def test_stream_beyond_the_limit_starts_again(
    kill: Killer, capsys: pytest.CaptureFixture[str]
) -> None:
    _, seen = interrupted(kill, [12], "data.kind=stream", "max_fast_forward=2")
    problem = "Stream has no state_dict, and batch 4 is beyond max_fast_forward=2; epoch 2 starts"
    assert problem in capsys.readouterr().out
    assert [batch[0] for batch in seen[11:19]] == [6.0 * i for i in range(8)]


def test_stream_that_does_not_repeat_starts_again(
    kill: Killer, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(kill, [11], "data.kind='clock stream'")
    assert "ClockStream yields other batches than before the interr" in capsys.readouterr().out


def test_stateful_stream_continues_without_reading(kill: Killer) -> None:
    config, run = started("data.kind='stateful stream'")
    kill(6)
    with pytest.raises(Killed):
        fit(config, run)
    loader_kinds.READ.clear()
    kill(2)
    with pytest.raises(Killed):
        fit(config, run, resume=True)
    # Five batches were saved; a rehearsal reads the first.
    assert loader_kinds.READ[6:18] == list(range(30, 42))


def test_stateful_stream_is_saved_again_before_its_next_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaders = Loaders(seed=0)
    monkeypatch.setattr(loaders, "place", lambda: (0, 0))
    stream = RepeatableStream(loader_kinds.loader_of("stateful stream", 0), loaders)
    batches = iter(stream)
    for _ in range(3):  # one of them ahead
        next(batches)
    saved = stream.state(2)
    assert (saved["count"], saved["state"]["next"]) == (2, 12)
    resumed = RepeatableStream(loader_kinds.loader_of("stateful stream", 0), loaders)
    resumed.resume(0, saved)
    assert resumed.state(2) == saved


def test_attributes_reach_what_is_wrapped() -> None:
    loader = loader_kinds.loader_of("shuffled", 0)
    dataset, batches = loader.dataset, loader.batch_sampler
    repeated = Loaders(seed=0)._repeat(loader)
    assert repeated.dataset is not dataset
    repeated.dataset.epoch, repeated.batch_sampler.epoch = 3, 4
    assert (dataset.epoch, batches.epoch, repeated.batch_sampler.epoch) == (3, 4, 4)


def test_skipped_batches_are_not_read(kill: Killer) -> None:
    config, run = started()
    kill(6)
    with pytest.raises(Killed):
        fit(config, run)
    loader_kinds.READ.clear()
    loader_kinds.SEEN.clear()
    kill(1)
    with pytest.raises(Killed):
        fit(config, run, resume=True)
    assert [float(index) for index in loader_kinds.READ[-6:]] == loader_kinds.SEEN[-1]
    assert len(loader_kinds.READ) == 12  # one of them of the rehearsal


@pytest.mark.parametrize("plain", [False, True])
def test_manual_optimization_guards_each_optimizer(plain: bool, kill: Killer) -> None:
    loader_kinds.SEEN.clear()
    words = (f"task._target_={HERE}.Manual", "task.spoiled=4", f"task.plain_optimizer={plain}")
    config, run = started(*words)
    with pytest.raises(TrainingError) as caught:
        fit(config, run)
    lines = caught.value.lines
    assert "(epoch 1, batch 5): the loss is nan; training stopped before" in lines[0]
    assert "second.weight" in lines[2]
    indices = ", ".join(str(int(value)) for value in loader_kinds.SEEN[-1])
    assert lines[3] == f"  samples of the batch: {indices}"


def test_guard_names_no_samples_of_a_stream(kill: Killer) -> None:
    config, run = started(f"task._target_={HERE}.Manual", "task.spoiled=4", "data.kind=stream")
    with pytest.raises(TrainingError) as caught:
        fit(config, run)
    assert not any("samples" in line for line in caught.value.lines[:-1])


def test_rehearsal_leaves_stateful_stream_where_it_was(kill: Killer) -> None:
    batches = whole("data.kind='kept stream'")[2]
    assert batches[0] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_loader_of_an_earlier_training_follows_the_seed(kill: Killer) -> None:
    expected = whole("data.kind=shuffled", "seed=1")[2]
    whole("data.kind=shared", "seed=0")
    assert whole("data.kind=shared", "seed=1")[2] == expected
    (loader,) = loader_kinds.SHARED  # and is read after it
    assert sorted(value for batch in loader for value in batch[:, 0].tolist()) == [*range(48)]


def test_loader_shared_with_validation_keeps_its_place(kill: Killer) -> None:
    words = (f"data._target_={HERE}.SharedData", f"task._target_={HERE}.Validated")
    words += ("trainer.max_epochs=2", "trainer.val_check_interval=4")
    *expected, batches = whole(*words)
    run, seen = interrupted(kill, [6, 6], *words)
    assert seen == batches
    assert_equal(ended(run), (expected[0], expected[1]))


def test_empty_list_of_loaders_keeps_its_class_for_warnings() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
    loaders = Loaders(seed=0)
    loaders.attach(trainer)
    assert trainer.strategy.process_dataloader([]) == []


def test_attribute_that_cannot_be_saved_is_named(
    kill: Killer, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(kill, [4], f"task._target_={HERE}.Simulated")
    line = "WARNING    task: Simulated.simulation changed in training and cannot be restored (gener"
    assert line in capsys.readouterr().out


def test_validation_by_the_clock_is_not_exact(
    kill: Killer, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(kill, [4], "trainer.val_check_interval='00:01:00:00'")
    assert "WARNING    trainer.val_check_interval: 00:01:00:00 depends" in capsys.readouterr().out


def test_another_number_of_processes_starts_the_epoch_again(
    kill: Killer, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = started()
    kill(11)
    with pytest.raises(Killed):
        fit(config, run)
    last = run.checkpoints / "last.ckpt"
    content = torch.load(last, weights_only=True)
    resume = content["kindling"]["resume"]
    resume["meters"], resume["collected"] = resume["meters"] * 2, resume["collected"] * 2
    torch.save(content, last)
    loader_kinds.SEEN.clear()
    fit(config, run, resume=True)
    problem = "2 processes shared RandomSampler before, 1 do now; epoch 2 starts again"
    assert problem in capsys.readouterr().out
    assert len(loader_kinds.SEEN) == 16


@pytest.mark.parametrize("words", [(f"task._target_={HERE}.Manual",), ("data.kind=stream",)])
def test_signal_is_saved_within_the_epoch(
    words: tuple[str, ...], kill: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, table, batches = whole(*words)
    noted: list[Interrupts] = []
    enter = Interrupts.__enter__
    monkeypatch.setattr(Interrupts, "__enter__", lambda self: (noted.append(self), enter(self))[1])
    start = Curves.on_train_batch_start
    left = [12]

    def interrupt(self: Curves, *args: Any) -> None:
        start(self, *args)
        left[0] -= 1
        if left[0] == 0:
            noted[-1].received = 15

    monkeypatch.setattr(Curves, "on_train_batch_start", interrupt)
    loader_kinds.SEEN.clear()
    config, run = started("checkpoint_minutes=1000", *words)
    with pytest.raises(Interrupted) as ended_by:
        fit(config, run)
    assert ended_by.value.code == 143
    assert len(loader_kinds.SEEN) == 12
    fit(config, run, resume=True)
    assert batches == loader_kinds.SEEN
    assert_equal(ended(run), (expected, table))


@pytest.mark.parametrize("interval", ["1.0", "4"])
@pytest.mark.parametrize("kind", ["shuffled", "stream", "stateful stream"])
def test_validation_that_a_signal_ends_is_repeated_as_a_whole(
    kind: str, interval: str, kill: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"task._target_={HERE}.Validated", f"data._target_={HERE}.ValidatedData")
    words += (f"data.kind={kind}", f"trainer.val_check_interval={interval}")
    config, uninterrupted = started(*words)
    fit(config, uninterrupted)
    noted: list[Interrupts] = []
    enter = Interrupts.__enter__
    monkeypatch.setattr(Interrupts, "__enter__", lambda self: (noted.append(self), enter(self))[1])
    step, left = loader_kinds.Validated.validation_step, [12]

    def interrupt(self: loader_kinds.Validated, *args: Any) -> None:
        step(self, *args)
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            left[0] -= 1
            if left[0] == 0:
                noted[-1].received = 15

    monkeypatch.setattr(loader_kinds.Validated, "validation_step", interrupt)
    config, run = started("checkpoint_minutes=1000", *words)
    with pytest.raises(Interrupted):
        fit(config, run)
    fit(config, run, resume=True)
    assert_equal(ended(run), ended(uninterrupted))
    steps = (uninterrupted.path / "steps.csv").read_text()
    assert (run.path / "steps.csv").read_text() == steps


def test_another_number_of_processes_starts_the_epoch_of_own_data_again(
    kill: Killer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.kindling.config.compose.CONFIGS", ROOT / "configs")
    config = compose("digits", [*WORDS, "trainer.max_epochs=2", "trainer.limit_train_batches=4"])
    run = Run.claim("digits")
    kill(4)
    with pytest.raises(Killed):
        fit(config, run)
    last = run.checkpoints / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["kindling"]["resume"]["meters"] *= 2
    torch.save(content, last)
    fit(config, run, resume=True)
    problem = (
        "WARNING    data: 2 processes shared the samples before, 1 do now; epoch 1 starts again"
    )
    assert problem in capsys.readouterr().out
    content = torch.load(last, weights_only=True)
    assert content["global_step"] == 3 + 2 * 4  # three steps were made before


def test_draws_of_batch_transfer_hooks_repeat(kill: Killer) -> None:
    words = ("data.kind=shuffled", "data.workers=2", f"data._target_={HERE}.NoisyData")
    expected, table, _ = whole(*words)
    run, _ = interrupted(kill, [3, 4], *words)
    assert_equal(ended(run), (expected, table))


def test_reading_a_stream_again_reports_progress(
    kill: Killer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("src.kindling.training.repeatable_stream.REPORT_SECONDS", 0)
    interrupted(kill, [14], "data.kind=stream")
    assert "resumed: 1 of 5 batches read\nresumed: 2 of 5 batches read" in capsys.readouterr().out


def test_plain_attributes_of_a_callback_resume(kill: Killer) -> None:
    words = (f"callbacks.counting={{_target_: {HERE}.Counting}}",)
    expected, table, _ = whole(*words)
    run, _ = interrupted(kill, [3, 4], *words)
    assert_equal(ended(run), (expected, table))
    assert ",24.0" in table


def test_loss_scaler_resumes(kill: Killer, monkeypatch: pytest.MonkeyPatch) -> None:
    build = instantiate.build

    def build_scaled(config: Any, key: str, *arguments: Any, **given: Any) -> Any:
        if key == "trainer":
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=3)
            given["plugins"] += [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
        return build(config, key, *arguments, **given)

    monkeypatch.setattr(instantiate, "build", build_scaled)
    expected, table, _ = whole()
    run, _ = interrupted(kill, [5, 6])
    assert_equal(ended(run), (expected, table))
    content = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert content["MixedPrecision"]["scale"] == 2.0 * 2 ** (24 // 3)
