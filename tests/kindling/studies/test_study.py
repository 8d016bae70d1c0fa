"""Studies: each member is trained once, killed workers are replaced, results equal ordinary runs."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, redirect_stdout, suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock

import src.kindling.training.fit as train_module
from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError, TrainingError
from src.kindling.runs.run import Run
from src.kindling.runs.signals import Interrupted
from src.kindling.studies import optuna_queue, trial_queue
from src.kindling.studies import worker as worker_module
from src.kindling.studies.optuna_queue import OptunaQueue, make_queue
from src.kindling.studies.plan import Plan, TrialResult
from src.kindling.studies.study import begin_study, run_study, summarize
from src.kindling.studies.trial_queue import TrialQueue, announce
from src.kindling.studies.worker import Worker
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from tests.conftest import LITTLE, call, folders, kept_runs, mistakes, train

SEEDS = ("digits", *LITTLE, "--seeds", "0,1")
WHOLE_EPOCHS = tuple(f"trainer.limit_{stage}_batches=1.0" for stage in ("train", "val", "test"))
KINDS = pytest.mark.parametrize("kind", ["directories", "optuna"])


def draw_nothing(trial: object) -> dict[str, Any]:
    """Makes a study Optuna's."""
    return {}


def planned(*members: str, kind: str = "directories", **options: Any) -> Plan:
    """A study of seeds, ready to begin."""
    specs = {f"seed{seed}": {"seed": int(seed)} for seed in members}
    if kind == "optuna":
        options["suggest"] = draw_nothing
    overrides = (*LITTLE, "trainer.devices=1")
    return Plan("digits", overrides, "mine", specs, monitor="val/loss", mode="min", **options)


def run(plan: Plan) -> list[TrialResult]:
    return run_study(plan)


def states(plan: Plan) -> list[str]:
    return [result.state for result in begin_study(plan).results()]


def trial_states(plan: Plan) -> list[str]:
    """What Optuna's dashboard shows of each trial."""
    queue = begin_study(plan)
    return (
        [trial.state.name for trial in queue.study.trials] if isinstance(queue, OptunaQueue) else []
    )


def take(plan: Plan, worker: str = "") -> tuple[TrialQueue, TrialResult]:
    """Take a member as a worker does; `worker`: one of another machine."""
    begin_study(plan)
    queue = make_queue(plan)
    queue.place = worker or queue.place
    taken = queue.take()
    assert taken is not None
    return queue, taken


def take_and_kill(plan: Plan) -> str:
    """Take a member, and leave it as a killed worker does."""
    queue, taken = take(plan)
    queue.release()
    return taken.name


def study_file(logs: Path, name: str = "seeds") -> dict[str, Any]:
    return dict(json.loads((logs / "digits" / name / "study.json").read_text()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The logs/ and the output of a finished study of two seeds."""
    with kept_runs(tmp_path_factory) as logs, redirect_stdout(io.StringIO()) as output:
        call("train", *SEEDS)
    return logs, output.getvalue()


@pytest.fixture
def seeds(finished: tuple[Path, str], logs: Path) -> Path:
    """A copy of the finished study."""
    shutil.copytree(finished[0] / "digits/seeds", logs / "digits/seeds")
    return logs / "digits/seeds"


def test_one_seed_has_no_deviation(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("train", *SEEDS[:-1], "0", "--name", "one")
    output = capsys.readouterr().out
    assert "digits/one: 1 member, 1 to run" in output
    assert "one seed finished: no mean ± std; its metrics are in its run's metrics.json" in output


def test_seeds_give_the_numbers_of_ordinary_runs(
    finished: tuple[Path, str], seeds: Path, logs: Path
) -> None:
    output = finished[1]
    ordinary = [train("digits", "trainer.devices=1", f"seed={seed}") for seed in (0, 1)]
    for seed, result in enumerate(ordinary):
        metrics = (seeds / f"seed{seed}/metrics.json").read_bytes()
        assert metrics == (result.run.path / "metrics.json").read_bytes()
        assert "digits: CNN with" in (seeds / f"seed{seed}/output.txt").read_text()
    assert "epoch 1/2" not in output
    values = [result.metrics["test/accuracy"] for result in ordinary]
    mean, std = fmean(values), stdev(values)
    assert study_file(logs)["summary"]["test/accuracy"] == {"mean": mean, "std": std}
    assert re.search(rf"^test/accuracy +{mean:.4f} ± {std:.4f}$", output, re.MULTILINE)
    assert "digits/seeds: 2 members, 2 to run, 1 at a time\n1/2  seed0  val/loss " in output
    (board,) = call("compare", "digits/seeds")  # type: ignore[misc, attr-defined]
    (row,) = board.rows
    assert (row.name, row.numbers["test/accuracy"]) == ("digits/seeds (2 seeds)", mean)
    # Members are runs, but not `latest`.
    assert load_run("digits/seeds/seed1").config.values["seed"] == 1
    assert load_run("digits/latest").path == ordinary[1].run.path


def test_seeds_need_no_optuna_and_hide_secrets(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, logs: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    call("train", *SEEDS[:-1], "0", "tags=[password=hunter2]")
    assert not list((logs / "digits/seeds").glob("study.db*"))
    assert study_file(logs)["overrides"][len(LITTLE)] == "tags=[password=***"
    files = [path for path in (logs / "digits/seeds").glob("*") if path.is_file()]
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_same_command_trains_the_members_that_are_left(
    seeds: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (seeds / "seed0/metrics.json").stat().st_mtime_ns
    call("train", *SEEDS[:-1], "0,1,2")
    output = capsys.readouterr().out
    assert "digits/seeds: 3 members, 1 to run, 1 at a time\n3/3  seed2  " in output
    assert (seeds / "seed0/metrics.json").stat().st_mtime_ns == first
    assert [member["state"] for member in study_file(logs)["members"]] == ["finished"] * 3
    assert folders(logs) == ["digits/seeds"]


def test_plots_flag_draws_plots_and_report_of_members(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, Path]] = []
    for method in ("draw", "write_report"):
        monkeypatch.setattr(
            f"src.kindling.analysis.plots.Plots.{method}",
            lambda self, *_, method=method, **__: drawn.append((method, self.run.path)) or [],
        )
    call("train", *SEEDS[:-1], "0", "--name", "without")
    assert drawn == []
    call("train", *SEEDS[:-1], "0", "--name", "with", "--plots")
    assert set(drawn) == {
        (method, logs / "digits/with/seed0") for method in ("draw", "write_report")
    }


def test_failed_member_is_reported_and_retried_on_request(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = train_module.fit

    def failing(config: Any, *arguments: Any, **options: Any) -> object:
        if config.values["seed"] == 0:
            raise RuntimeError("the disk is on fire")
        return fit(config, *arguments, **options)

    monkeypatch.setattr(train_module, "fit", failing)
    with pytest.raises(SystemExit) as ended:
        call("train", *SEEDS)
    assert ended.value.code == 1
    output = capsys.readouterr().out
    assert "\n1/2  seed0  FAILED  RuntimeError: the disk is on fire  seed=0  (" in output
    assert "\n2/2  seed1  val/loss " in output
    assert "failed     1 of 2: seed0; " in output
    assert "--retry" in output
    assert "Traceback" in (logs / "digits/seeds/seed0/output.txt").read_text()
    monkeypatch.setattr(train_module, "fit", fit)
    with pytest.raises(SystemExit):
        call("train", *SEEDS)
    assert "2 members, 0 to run" in capsys.readouterr().out
    call("train", *SEEDS, "--retry")
    assert "2 members, 1 to run" in capsys.readouterr().out
    assert [member["state"] for member in study_file(logs)["members"]] == ["finished"] * 2


def test_deleted_member_ends_the_study_and_is_trained_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = planned("0")
    member = plan.folder / "seed0"
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "on_train_end", lambda _: shutil.rmtree(member))
        with pytest.raises(TrainingError, match="seed0: deleted or moved during the training"):
            run(plan)
    assert not member.exists()
    (result,) = run(plan)
    assert result.state == "finished"


@KINDS
def test_interrupted_member_resumes_to_the_same_numbers(
    kind: str, finished: tuple[Path, str], logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = Classification.training_step, []

    def stopping(self: Classification, batch: object, number: int) -> object:
        count.append(self._trainer is not None and self.trainer.sanity_checking is False)
        if count.count(True) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)  # type: ignore[arg-type]

    plan = planned("0", kind=kind, stages=("val", "test"))
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", stopping)
        with pytest.raises(Interrupted) as ended:
            run(plan)
    assert ended.value.code == 128 + signal.SIGTERM
    assert states(plan) == ["waiting"]
    assert trial_states(plan) == (["RUNNING"] if kind == "optuna" else [])
    (result,) = run(plan)
    assert trial_states(plan) == (["COMPLETE"] if kind == "optuna" else [])
    whole = json.loads((finished[0] / "digits/seeds/seed0/metrics.json").read_text())
    assert (result.state, result.metrics) == ("finished", whole)
    assert result.value == whole["val/loss"]
    assert "resumed: " in (logs / "digits/mine/seed0/output.txt").read_text()


def test_trials_have_the_metrics_name_and_each_epochs_value(logs: Path) -> None:
    plan = planned("0", kind="optuna")
    (result,) = run(plan)
    queue = begin_study(plan)
    assert isinstance(queue, OptunaQueue)
    assert queue.study.metric_names == ["val/loss"]
    (trial,) = queue.study.trials
    values = pd.read_csv(logs / "digits/mine/seed0/metrics.csv")["val/loss"].dropna().tolist()
    assert trial.intermediate_values == pytest.approx({1: values[0], 2: values[1]})
    assert (trial.state.name, trial.value) == ("COMPLETE", result.value)


def test_distributed_trial_has_each_epochs_value(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_in_subprocess(self: Worker, run: Run, changes: object) -> None:
        shutil.copytree(finished[0] / "digits/seeds/seed0", run.path, dirs_exist_ok=True)

    monkeypatch.setattr(Worker, "_train_in_subprocess", train_in_subprocess)
    plan = planned("0", kind="optuna")
    plan = replace(plan, overrides=(*plan.overrides, "trainer.devices=2"))
    run(plan)
    queue = begin_study(plan)
    assert isinstance(queue, OptunaQueue)
    assert list(queue.study.trials[0].intermediate_values) == [1, 2]


def test_failed_trial_is_tried_again_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("0", suggest=draw_lr)
    queue, first = take(plan)
    queue.finish(replace(first, state="failed", error="no memory"))
    assert trial_states(plan) == ["FAIL"]
    begin_study(plan).retry_failed()
    queue, again = take(plan)
    assert (again.trial, again.changes) == (1, first.changes)
    assert trial_states(plan) == ["FAIL", "RUNNING"]
    queue.finish(replace(again, state="finished", value=0.1))
    assert trial_states(plan) == ["FAIL", "COMPLETE"]


@KINDS
def test_signal_before_training_leaves_the_member_waiting(kind: str) -> None:
    plan = planned("0", kind=kind)
    begin_study(plan)
    worker = Worker(plan)
    taken = worker.queue.take()
    assert taken is not None
    worker.signals.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        worker.train(taken)
    assert states(plan) == ["waiting"]
    for _ in range(3):  # an interruption is no kill
        assert take_and_kill(plan) == "seed0"


# ----------------------------------------------------------------------------------------------
# Taking members


@KINDS
def test_each_member_is_taken_once(kind: str) -> None:
    plan = planned("0", "1", kind=kind)
    taken = [take(plan) for _ in range(2)]
    assert [result.name for _, result in taken] == ["seed0", "seed1"]
    assert make_queue(plan).take() is None
    assert states(plan) == ["running", "running"]  # others train: wait for them
    for queue, result in taken:
        assert queue.finish(replace(result, state="finished", value=0.1))
    assert make_queue(plan).take() is None
    assert states(plan) == ["finished", "finished"]
    assert [result.value for result in begin_study(plan).results()] == [0.1, 0.1]


@KINDS
def test_member_that_kills_its_workers_is_given_up(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned("0", "1", kind=kind)
    queue, _ = take(plan)
    assert take_and_kill(plan) == "seed1"  # seed0 is being trained
    queue.release()
    assert [take_and_kill(plan) for _ in range(2)] == ["seed0", "seed0"]
    assert take_and_kill(plan) == "seed1"
    first, second = begin_study(plan).results()
    assert (first.state, second.state) == ("failed", "running")
    assert first.error == "its worker was killed 3 times; it may need more memory than there is"
    assert f"seed0  FAILED  {first.error}" in capsys.readouterr().out
    begin_study(plan).retry_failed()
    assert take_and_kill(plan) == "seed0"


def test_lock_of_a_killed_process_is_free(logs: Path) -> None:
    plan = planned("0")
    begin_study(plan)
    (folder := logs / "digits/mine/seed0").mkdir()
    code = f"""import time; from filelock import FileLock
lock = FileLock({str(folder / ".claim.lock")!r}); lock.acquire(); print(flush=True); time.sleep(60)"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert make_queue(plan).take() is None
        process.kill()
        process.wait()
    assert take_and_kill(plan) == "seed0"


def test_silent_worker_of_another_machine_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("0", kind="optuna")
    elsewhere, _ = take(plan, "elsewhere")
    elsewhere.release()
    queue, now = make_queue(plan), [100.0]
    monkeypatch.setattr(optuna_queue.time, "monotonic", lambda: now[0])
    assert queue.take() is None
    now[0] += optuna_queue.GRACE
    assert queue.take() is None  # it may still send heartbeats
    elsewhere.study.set_user_attr("beat seed0", 1)
    now[0] += 1
    assert queue.take() is None
    now[0] += optuna_queue.GRACE + 1
    again = queue.take()
    assert again is not None
    assert (again.name, again.kills) == ("seed0", 1)


def test_worker_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_queue, "HEARTBEAT", 0.01)
    queue, _ = take(planned("0", kind="optuna"))
    assert isinstance(queue, OptunaQueue)
    while queue.study.user_attrs.get("beat seed0", 0) < 2:
        time.sleep(0.01)
    queue.release()


def test_result_of_a_worker_that_was_taken_for_dead_does_not_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = planned("0", kind="optuna")
    slow_queue, slow = take(plan, "elsewhere")
    slow_queue.release()
    here = begin_study(plan)
    here.write("seed0", {**asdict(slow), "worker": here.place})
    queue, result = take(plan)
    assert not slow_queue.finish(replace(slow, state="finished", value=0.1))
    assert "seed0  not counted: " in capsys.readouterr().out
    assert queue.finish(replace(result, state="finished", value=0.2))
    assert [result.value for result in begin_study(plan).results()] == [0.2]


@KINDS
def test_finished_member_is_not_trained_again(
    kind: str, finished: tuple[Path, str], logs: Path
) -> None:
    # Its worker was killed after the training, and before it recorded the result.
    plan = planned("0", kind=kind, stages=("val", "test"))
    begin_study(plan)
    member = logs / "digits/mine/seed0"
    shutil.copytree(finished[0] / "digits/seeds/seed0", member)
    (member / "trial.json").unlink()
    trained = (member / "metrics.csv").stat().st_mtime_ns
    (result,) = run(plan)
    metrics = json.loads((member / "metrics.json").read_text())
    assert (result.state, result.value) == ("finished", metrics["val/loss"])
    assert (member / "metrics.csv").stat().st_mtime_ns == trained


def test_finished_member_that_was_pruned_stays_pruned(
    finished: tuple[Path, str], logs: Path
) -> None:
    from optuna.pruners import ThresholdPruner

    plan = planned("0", kind="optuna", pruner=ThresholdPruner(upper=0.0))
    killed, _ = take(plan)
    killed.trial.report(1.0, 1)  # before its worker was killed, after the training
    killed.release()
    shutil.copytree(
        finished[0] / "digits/seeds/seed0", logs / "digits/mine/seed0", dirs_exist_ok=True
    )
    (result,) = run(plan)
    assert (result.state, result.trial) == ("pruned", 0)


def test_search_of_an_earlier_version_is_refused(logs: Path) -> None:
    import optuna

    (logs / "digits/mine").mkdir(parents=True)
    url = f"sqlite:///{logs / 'digits/mine/study.db'}"
    study = optuna.create_study(storage=url, study_name="digits/mine")
    study.add_trial(optuna.trial.create_trial(value=0.3, user_attrs={"member": "seed0"}))
    with pytest.raises(InputError, match="digits/mine: begun by an earlier version"):
        begin_study(planned("0", kind="optuna"))


def draw_lr(trial: Any) -> dict[str, Any]:
    return {"lr": trial.suggest_float("lr", 0, 1)}


def test_unreachable_storage_is_retried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.exc import OperationalError

    slept: list[float] = []
    monkeypatch.setattr(optuna_queue.time, "sleep", slept.append)
    away = OperationalError("SELECT", {}, Exception("server at db://me:hunter2@host is closed"))

    def action() -> str:
        if len(slept) < 3:
            raise away
        return "there"

    plan, stopped = planned("0", kind="optuna"), [False]
    begin_study(plan)
    queue = OptunaQueue(plan, lambda: stopped[0])
    assert queue.retry(action) == "there"
    assert slept == [0.5, 1.0, 1.5]
    output = capsys.readouterr().out
    assert output.startswith("storage    unreachable, ")
    assert output.endswith(": server at db://***@host is closed\n")
    slept.clear()
    stopped[0] = True
    with pytest.raises(OperationalError):
        queue.retry(action)


def test_announcement_is_printed_where_it_began(capsys: pytest.CaptureFixture[str]) -> None:
    printed = ""
    with announce("for a lock", seconds=0.01), redirect_stdout(io.StringIO()):
        while not printed:
            time.sleep(0.01)
            printed = capsys.readouterr().out
    assert printed == "waiting    for a lock\n"


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is announced if it takes long."""
    texts: list[str] = []

    def record(what: str, seconds: float = 60.0) -> Any:
        texts.append(what)
        return nullcontext()

    monkeypatch.setattr(trial_queue, "announce", record)
    monkeypatch.setattr(worker_module, "announce", record)
    return texts


def test_lock_of_a_study_is_waited_for_in_words_and_not_for_ever(
    announced: list[str], logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("0")
    begin_study(plan)
    monkeypatch.setattr(trial_queue, "PATIENCE", 0)
    with FileLock(lock := logs / "digits/mine/.study.lock"), pytest.raises(InputError) as caught:
        begin_study(plan)
    assert announced[-1] == f"for {lock}, which another process holds"
    assert caught.value.lines == [
        f"{lock}: held by another process for 0 minutes; stop it (fuser {lock})"
    ]
    begin_study(plan)


def test_locked_database_is_an_error(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("0", kind="optuna")
    begin_study(plan)
    monkeypatch.setattr(optuna_queue, "LOCKED", 0)
    database = logs / "digits/mine/study.db"
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError) as caught:
            begin_study(plan)
    assert caught.value.lines == [f"{database}: cannot be reached: database is locked"]


def test_worker_waits_for_the_members_of_others_in_words(
    announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("0")
    queue, taken = take(plan)

    def finish_elsewhere(seconds: float) -> None:
        queue.finish(replace(taken, state="finished", value=0.1))

    monkeypatch.setattr(worker_module.time, "sleep", finish_elsewhere)
    Worker(plan).work()
    assert "for seed0, which other processes of this study train" in announced
    assert states(plan) == ["finished"]


def test_training_of_a_member_is_announced(announced: list[str], logs: Path) -> None:
    run(planned("0"))
    assert f"for seed0 to train, see {logs / 'digits/mine/seed0/output.txt'}" in announced


# ----------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(("given", "several"), [("3", "0,1,2"), ("2", "0,1"), ("42", "0,1,2")])
def test_single_seed_is_noted(given: str, several: str, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes("train", "digits", "--seeds", given, "--workers", "0")  # trains nothing
    count = len(several.split(","))
    expected = f"--seeds {given}: one seed; for {count} seeds pass --seeds {several}\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("given", "key", "remedy"),
    [
        (("--seeds", "0,a"), "--seeds 0,a: ", "expected different whole numbers, such as 0,1,2"),
        (("--seeds", "0,0"), "--seeds 0,0: ", "expected different whole numbers, such as 0,1,2"),
        (("--seeds", "0,1", "seed=3"), "seed=3: ", "leave it out (command line)"),
        (
            ("--seeds", "0,1", "trainer.devices=2", "--workers", "2"),
            "--workers 2: expected 1",
            "(trainer.devices=2)",
        ),
        (("--seeds", "0,1", "--workers", "0"), "--workers 0: ", "expected at least 1"),
        (
            ("--seeds", "0,1", "--workers", "3"),
            "--workers 3: expected at most 2; ",
            "num_threads=1",
        ),
        (
            ("--seeds", "0,1", "--storage", "mysql://me:hunter2@db/x"),
            "--storage mysql://***@db/x: ",
            "expected postgresql://USER@HOST/DATABASE",
        ),
        (
            ("--seeds", "0,1", "--name", "a/b"),
            "--name a/b: ",
            "expected letters, digits, '-', '_' and '.'",
        ),
        (("--find", "lr", "trainer.devices=2"), "trainer.devices: ", "leave it out"),
        (
            ("--workers", "2"),
            "--workers, ",
            "belong to --seeds (data.num_workers=2 prepares batches)",
        ),
        (("--plots",), "--workers, ", "belong to --seeds (data.num_workers=2 prepares batches)"),
        (("--find", "lr", "--init", "latest"), "--init: ", "remove one of them"),
    ],
)
def test_mistakes_are_refused_before_training(
    given: tuple[str, ...], key: str, remedy: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.kindling.config.cores.usable_cores", lambda: 2)
    (line,) = mistakes("train", *SEEDS[:-2], *given)
    assert line.startswith(key)
    assert remedy in line
    assert not list(logs.iterdir())


def test_seeds_refuse_flags_of_a_single_training() -> None:
    for flag in (
        ("init", "latest"),
        ("resume", "latest"),
        ("override",),
        ("no-test",),
        ("find", "lr"),
    ):
        (line,) = mistakes("train", *SEEDS, f"--{flag[0]}", *flag[1:])
        assert line.startswith(f"--{flag[0]}: ")
        assert line.endswith("remove one of them")


def test_unreachable_server_is_an_error(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    url = ("--storage", "postgresql://me:hunter2@127.0.0.1:1/x")
    (line,) = mistakes("train", *SEEDS, *url)
    assert line.startswith("--storage postgresql://***@127.0.0.1:1/x: cannot be reached: ")
    assert not list(logs.iterdir())
    given: list[object] = []

    def connect(*_: object, **options: object) -> None:
        given.append(options["connect_timeout"])
        raise psycopg.errors.ConnectionTimeout("connection timeout expired")

    monkeypatch.setattr(psycopg, "connect", connect)
    (line,) = mistakes("train", *SEEDS, *url)
    assert line.endswith(": cannot be reached: connection timeout expired")
    monkeypatch.setattr(OptunaQueue, "locked", lambda self: nullcontext())
    (line,) = mistakes("train", *SEEDS, *url)
    assert line.endswith(": cannot be reached: connection timeout expired")
    assert given == [10, 10]


@pytest.mark.parametrize("module", ["optuna", "psycopg"])
def test_missing_package_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (line,) = mistakes("train", *SEEDS, "--storage", "postgresql://me@db/x")
    assert module in line
    assert line.endswith("pip install -e '.[tune]'")


def test_unwritable_folder_is_an_error(logs: Path) -> None:
    (logs / "digits").write_text("")
    (line,) = mistakes("train", *SEEDS)
    assert line.startswith(f"{logs / 'digits/seeds'}: cannot be written: ")


def test_study_with_other_settings_is_refused(seeds: Path) -> None:
    first, second, remedy = mistakes("train", *SEEDS, "net.dropout=0.2", "num_threads=2")
    assert first.startswith("num_threads: ")
    assert second.startswith("net.dropout: ")
    assert remedy.endswith("--name seeds_2")
    # Tags may differ.
    assert len(mistakes("train", *SEEDS, "net.dropout=0.2", "tags=[a]")) == 2
    (seeds / "study.json").unlink()
    (line,) = mistakes("train", *SEEDS)
    assert line.startswith(f"{seeds}: holds runs ")
    assert line.endswith("remove them, or begin another study: --name seeds_2")


# ----------------------------------------------------------------------------------------------
# Processes


def start(repository: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "src.train", "digits", *LITTLE, *words]
    return subprocess.Popen(
        command, cwd=repository, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def train_as_member(epochs: int, seed: int) -> dict[str, float]:
    words = ("trainer.devices=1", f"trainer.max_epochs={epochs}", f"seed={seed}")
    return train("digits", *words).metrics


def until(done: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not done():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.skipif(usable_cores() < 2, reason="two workers need two cores")
@pytest.mark.parametrize("start", ["forkserver", pytest.param("spawn", marks=pytest.mark.long)])
def test_two_workers_one_killed_give_the_same_numbers(
    start: str, logs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (*SEEDS, "trainer.max_epochs=12", "--workers", "2")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "src.train", *words])
    if start == "forkserver":  # of a process that has imported torch, which takes seconds
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["tests.preloaded"])
        monkeypatch.setattr(multiprocessing, "get_context", lambda kind: server)

    def kill_one() -> None:
        while not list((logs / "digits/seeds").glob("*/metrics.csv")):
            time.sleep(0.02)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    call("train", *words)
    killer.join()
    assert " was ended by SIGKILL; " in capfd.readouterr().out
    for seed, member in enumerate(study_file(logs)["members"]):
        assert member["state"] == "finished"
        assert member["metrics"] == train_as_member(12, seed)
        meta = json.loads((logs / "digits/seeds" / member["name"] / "meta.json").read_text())
        assert meta["command"] == f"python -m src.train {' '.join(words)}"


@pytest.mark.long
def test_distributed_member_is_trained_in_a_subprocess_and_resumes(repository: Path) -> None:
    words = ("trainer=ddp", "trainer.devices=2", "trainer.max_epochs=6", "checkpoint_minutes=0")
    words = (*words, *WHOLE_EPOCHS, "--seeds", "3")
    process = start(repository, *words)
    member = repository / "logs/digits/seeds/seed3"
    output_file = member / "output.txt"
    until(lambda: output_file.exists() and "epoch 2/" in output_file.read_text(), process)
    process.kill()
    process.communicate()
    numbers = [word for word in (member / ".owner").read_text().split() if word.isdigit()]
    with suppress(ProcessLookupError):  # it ends by itself, since the study's process is gone
        while "to resume: " not in output_file.read_text():
            os.kill(int(numbers[0]), 0)
            time.sleep(0.02)
    output, _ = start(repository, *words).communicate(timeout=200)
    assert "digits/seeds: 1 member, 1 to run, 1 at a time\n1/1  seed3  val/loss " in output
    text = output_file.read_text()
    assert "SIGTERM: stopped" in text
    assert "\nresumed: " in text
    assert text.count("epoch 2/6") == 1
    assert "test/accuracy" in json.loads((member / "metrics.json").read_text())


@pytest.fixture
def server() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a PostgreSQL server of this test, and a function that restarts it."""
    folders = [
        *Path("/usr/lib/postgresql").glob("*/bin"),
        *map(Path, os.environ["PATH"].split(":")),
    ]
    programs = ("initdb", "pg_ctl")
    found = [path for path in folders if all((path / program).exists() for program in programs)]
    if not found:
        pytest.skip("no PostgreSQL server is installed (initdb, pg_ctl)")
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to be root's
    folder = Path(tempfile.mkdtemp(prefix="kindling"))
    (folder / "password").write_text("p4ss-w0rd")
    if user:
        shutil.chown(folder, user)

    def call_program(program: str, *options: str) -> None:
        command = [str(found[0] / program), "-D", str(folder / "data"), *options]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, user=user)

    def start_server() -> None:
        options = f"-p 54329 -k {folder} -c listen_addresses=127.0.0.1"
        call_program("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")

    def stop_server() -> None:
        call_program("pg_ctl", "-m", "immediate", "-w", "stop")

    def restart() -> None:
        stop_server()
        start_server()

    password = str(folder / "password")
    call_program("initdb", "-A", "scram-sha-256", "-U", "kindling", "--pwfile", password)
    start_server()
    try:
        yield "postgresql://kindling:p4ss-w0rd@127.0.0.1:54329/postgres", restart
    finally:
        stop_server()
        shutil.rmtree(folder)


def check_four_commands(
    repository: Path, options: tuple[str, ...], restart: Callable[[], None]
) -> None:
    """Start four commands of one study, and kill one of them."""
    folder = repository / "logs/digits/seeds"
    seeds = ",".join(map(str, range(6)))
    words = ("trainer.max_epochs=8", *WHOLE_EPOCHS, "--seeds", seeds, *options)
    commands = [start(repository, *words) for _ in range(4)]
    until(lambda: len(list(folder.glob("*/metrics.csv"))) >= 4, commands[0])
    commands[1].kill()
    until(lambda: len(list(folder.glob("*/metrics.json"))) >= 2, commands[0])
    restart()
    outputs = [command.communicate(timeout=600)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, -9, 0, 0], outputs
    lines = [line for output in outputs for line in output.splitlines()]
    ended = [line.split()[1] for line in lines if "val/loss" in line and line[0].isdigit()]
    assert sorted(ended) == [f"seed{seed}" for seed in range(6)]
    study = json.loads((folder / "study.json").read_text())
    assert [member["state"] for member in study["members"]] == ["finished"] * 6
    assert all("p4ss-w0rd" not in output for output in outputs)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"p4ss-w0rd" in path.read_bytes()]
    for seed in (0, 5):
        words = ("trainer.devices=1", "trainer.max_epochs=8", *WHOLE_EPOCHS, f"seed={seed}")
        assert study["members"][seed]["metrics"] == train("digits", *words).metrics


@pytest.mark.long
def test_four_commands_on_a_shared_disk_train_each_member_once(repository: Path) -> None:
    check_four_commands(repository, (), lambda: None)


@pytest.mark.long
def test_four_commands_and_a_restarted_server_train_each_member_once(
    server: tuple[str, Callable[[], None]], repository: Path
) -> None:
    check_four_commands(repository, ("--storage", server[0]), server[1])


def test_undefined_metric_is_left_out_of_the_summary() -> None:
    one = {"val/loss": 1.0, "val/auroc": 0.5, "val/f1": 0.5}
    other: Any = {"val/loss": 2.0, "val/auroc": float("nan"), "val/f1": None}
    results = [TrialResult("a", "finished", {}, metrics=metrics) for metrics in (one, other)]
    summary = summarize([*results, TrialResult("b", "failed", {})])
    assert summary == {"val/loss": {"mean": 1.5, "std": stdev([1.0, 2.0])}}
