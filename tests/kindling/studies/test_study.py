"""Many runs of one config: each once, whoever runs it, whatever is killed, and with the numbers of an ordinary run."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from statistics import fmean, stdev

import pytest

import src.kindling.training.fit as train_module
from src.kindling.config.cores import usable_cores
from src.kindling.runs.signals import Interrupted
from src.kindling.studies import storage
from src.kindling.studies import worker as worker_module
from src.kindling.studies.plan import Member, Plan, outcomes
from src.kindling.studies.storage import patiently
from src.kindling.studies.study import begin, defined_metrics, run_study
from src.kindling.studies.worker import Worker
from src.kindling.training.trained_run import load_run
from src.tasks.classification import Classification
from tests.conftest import LITTLE, call, folders, mistakes, train

SEEDS = ("digits", *LITTLE, "--seeds", "0,1")


def planned(*members: str, **options: object) -> Plan:
    """A study of seeds, ready to be begun."""
    some = tuple(Member(f"seed{seed}", {"seed": int(seed)}) for seed in members)
    return Plan("digits", (*LITTLE, "trainer.devices=1"), "mine", some, monitor="val/loss", mode="min", **options)  # type: ignore[arg-type]


def told(logs: Path, name: str = "seeds") -> dict[str, object]:
    return dict(json.loads((logs / "digits" / name / "study.json").read_text()))


def states(plan: Plan) -> list[str]:
    return [outcome.state for outcome in outcomes(plan, begin(plan))]


def killed(plan: Plan, worker: list[object] | None = None) -> None:
    """Take a member as a worker does that is killed then."""
    victim = Worker(plan)
    victim.me = worker or ["elsewhere", 1]  # type: ignore[assignment]
    victim.study = victim._open()
    assert victim.claim()[0] is not None


def test_seeds_give_the_numbers_of_ordinary_runs(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("train", *SEEDS)
    output = capsys.readouterr().out
    ordinary = [train("digits", "trainer.devices=1", f"seed={seed}") for seed in (0, 1)]
    for seed, result in enumerate(ordinary):
        member = logs / "digits" / "seeds" / f"seed{seed}"
        assert (member / "metrics.json").read_bytes() == (result.run.path / "metrics.json").read_bytes()
        assert "digits: CNN with 29,162 parameters" in (member / "output.txt").read_text()
    assert "epoch 1/2" not in output
    accuracies = [result.metrics["test/accuracy"] for result in ordinary]
    assert told(logs)["summary"]["test/accuracy"] == {"mean": fmean(accuracies), "std": stdev(accuracies)}  # type: ignore[index]
    assert f"test/accuracy   {fmean(accuracies):.4f} ± {stdev(accuracies):.4f}" in output
    assert "digits/seeds: 2 members, 2 to run, 1 at a time\n1/2  seed0  val/loss " in output
    (board,) = call("compare", "digits/seeds")  # type: ignore[misc, attr-defined]
    (row,) = board.rows
    assert (row.name, row.numbers["test/accuracy"]) == ("digits/seeds (2 seeds)", fmean(accuracies))
    # Members are runs, and no `latest`.
    assert load_run("digits/seeds/seed1").config.values["seed"] == 1
    assert load_run("digits/latest").path == ordinary[1].run.path


def test_the_same_command_runs_what_is_left(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call("train", *SEEDS)
    first = (logs / "digits/seeds/seed0/metrics.json").stat().st_mtime_ns
    call("train", *SEEDS[:-1], "0,1,2")
    assert "digits/seeds: 3 members, 1 to run, 1 at a time\n3/3  seed2  " in capsys.readouterr().out
    assert (logs / "digits/seeds/seed0/metrics.json").stat().st_mtime_ns == first
    assert [member["state"] for member in told(logs)["members"]] == ["finished"] * 3  # type: ignore[attr-defined]
    assert folders(logs) == ["digits/seeds"]


def test_a_study_says_no_secret(logs: Path) -> None:
    call("train", *SEEDS[:-1], "0", "tags=[password=hunter2]")
    assert told(logs)["words"][len(LITTLE)] == "tags=[password=***"  # type: ignore[index]
    folder = logs / "digits/seeds"
    assert not [path for path in folder.glob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


@pytest.mark.pictures
def test_members_get_pictures_and_a_page_where_that_is_asked_for(logs: Path) -> None:
    for name, words in (("without", ()), ("with", ("--pictures",))):
        call("train", *SEEDS[:-1], "0", "--name", name, *words)
    without, drawn = (logs / "digits" / name / "seed0" for name in ("without", "with"))
    assert not [name for name in ("plots", "report.html") if (without / name).exists()]
    assert (drawn / "report.html").exists()
    assert (drawn / "plots/test_confusion.png").exists()


def test_a_failing_member_is_told_and_the_others_go_on(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = train_module.fit

    def failing(config: object, *arguments: object, **options: object) -> object:
        if config.values["seed"] == 0:  # type: ignore[attr-defined]
            raise RuntimeError("the disk is on fire")
        return fit(config, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "fit", failing)
    with pytest.raises(SystemExit) as ended:
        call("train", *SEEDS)
    assert ended.value.code == 1
    output = capsys.readouterr().out
    assert "\n1/2  seed0  FAILED  RuntimeError: the disk is on fire  seed=0  (" in output
    assert "\n2/2  seed1  val/loss " in output
    assert "failed     1 of 2: seed0; the same command with --retry runs them again" in output
    assert "Traceback" in (logs / "digits/seeds/seed0/output.txt").read_text()
    monkeypatch.setattr(train_module, "fit", fit)
    with pytest.raises(SystemExit):
        call("train", *SEEDS)
    assert "2 members, 0 to run" in capsys.readouterr().out
    call("train", *SEEDS, "--retry")
    assert "2 members, 1 to run" in capsys.readouterr().out
    assert [member["state"] for member in told(logs)["members"]] == ["finished"] * 2  # type: ignore[attr-defined]


def test_a_member_that_was_stopped_goes_on_to_the_same_numbers(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("digits", "trainer.devices=1").metrics
    step, count = Classification.training_step, []

    def stopping(self: Classification, batch: object, number: int) -> object:
        count.append(self._trainer is not None and self.trainer.sanity_checking is False)
        if count.count(True) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "training_step", stopping)
    plan = planned("0", stages=("val", "test"))
    with pytest.raises(Interrupted) as ended:
        run_study(plan, begin(plan))
    assert ended.value.code == 128 + signal.SIGTERM
    assert states(plan) == ["waiting"]
    monkeypatch.setattr(Classification, "training_step", step)
    (outcome,) = run_study(plan, begin(plan))
    assert (outcome.state, outcome.metrics) == ("finished", whole)
    assert outcome.value == whole["val/loss"]
    assert "resumed: " in (logs / "digits/mine/seed0/output.txt").read_text()


def test_a_signal_before_the_training_begins_leaves_the_member_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("0")
    begin(plan)
    worker = Worker(plan)
    worker.study = worker._open()
    trial, _ = worker.claim()
    assert trial is not None
    worker.interrupts.received = signal.SIGTERM
    with pytest.raises(Interrupted):
        worker.train(trial)
    assert states(plan) == ["waiting"]
    assert begin(plan).trials[0].user_attrs["interrupted"]


def test_what_the_imports_left_is_walked_for_the_first_member_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # The collector's walk over torch and Lightning takes as long as a small training.
    gc.unfreeze()  # as a process begins
    calls: list[str] = []
    for name in ("freeze", "unfreeze"):
        call_it = getattr(gc, name)
        monkeypatch.setattr(gc, name, lambda name=name, call_it=call_it: [calls.append(name), call_it()])
    plan = planned("0", "1", "2")
    assert {outcome.state for outcome in run_study(plan, begin(plan))} == {"finished"}
    assert calls == ["freeze", "unfreeze", "freeze", "unfreeze"]  # the first training's own, then the worker's
    assert gc.get_freeze_count() == 0


# ---------------------------------------------------------------------------------------------------------------
# Who takes what


def test_each_member_is_taken_once() -> None:
    plan = planned("0", "1")
    workers = [Worker(plan) for _ in range(3)]
    for number, worker in enumerate(workers):
        worker.me = ["elsewhere", number]
        worker.study = worker._open() if number else (begin(plan), worker._open())[1]
    taken = [worker.claim() for worker in workers]
    assert [trial and trial.user_attrs["member"] for trial, _ in taken] == ["seed0", "seed1", None]
    assert taken[2][1]  # others are at work: it waits for them
    assert states(plan) == ["running", "running"]


@pytest.mark.parametrize(("worker", "state"), [
    (["here", 2**22 + 1], "running"), (["here", os.getpid()], "waiting"), (["elsewhere", 1], "waiting"), (None, "running"),
])  # fmt: skip
def test_only_a_dead_workers_member_is_taken_again(worker: list[object] | None, state: str) -> None:
    plan = planned("0")
    begin(plan)
    killed(plan, worker)
    if worker is None:  # killed before it had said who it was
        trial = begin(plan).trials[0]
        begin(plan)._storage.set_trial_user_attr(trial._trial_id, "worker", None)
    other = Worker(plan)
    other.me, other.study = ["here", os.getppid()], other._open()
    trial, at_work = other.claim()
    assert (trial is not None) == (state == "running")
    assert at_work
    assert len(begin(plan).trials) == (2 if trial else 1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_killed_worker_that_its_parent_has_not_missed_yet_is_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert worker_module._is_alive(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not worker_module._is_alive(process.pid)


def test_a_silent_worker_of_another_machine_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("0")
    begin(plan)
    killed(plan)
    other = Worker(plan)
    other.study = other._open()
    now = [100.0]
    monkeypatch.setattr(worker_module.time, "monotonic", lambda: now[0])
    number = begin(plan).trials[0]._trial_id
    monkeypatch.setattr(other.storage, "_get_stale_trial_ids", lambda study: [number])
    assert other.claim() == (None, True)
    now[0] += 2 * storage.HEARTBEAT
    assert other.claim() == (None, True)
    now[0] += 1
    trial, _ = other.claim()
    assert trial is not None
    assert trial.user_attrs["member"] == "seed0"


def test_a_member_that_kills_its_workers_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("0", "1")
    begin(plan)
    for _ in range(3):
        killed(plan, ["here", 2**22 + 1])
        other = Worker(plan)
        other.me, other.study = ["here", os.getpid()], other._open()
        other._bury()
    trial, _ = other.claim()
    assert trial is not None
    assert trial.user_attrs["member"] == "seed1"
    first, second = outcomes(plan, begin(plan))
    assert (first.state, second.state) == ("failed", "running")
    assert first.error == "its worker was killed 3 times; it may need more memory than there is"
    assert f"seed0  FAILED  {first.error}" in capsys.readouterr().out


def test_a_result_of_a_worker_that_was_taken_for_dead_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("0")
    begin(plan)
    slow, other = Worker(plan), Worker(plan)
    slow.me = ["here", 2**22 + 1]
    for worker in (slow, other):
        worker.study = worker._open()
    other.me = ["here", os.getpid()]
    trial, _ = slow.claim()
    again, _ = other.claim()
    assert trial is not None
    assert again is not None
    assert not slow._finish(trial, "COMPLETE", 0.1)
    assert "seed0  not counted: this worker was taken for dead" in capsys.readouterr().out
    assert other._finish(again, "COMPLETE", 0.2, metrics={})
    assert [outcome.value for outcome in outcomes(plan, begin(plan))] == [0.2]


def test_a_member_that_had_finished_is_not_trained_again(logs: Path) -> None:
    plan = planned("0", stages=("val", "test"))
    run_study(plan, begin(plan))
    value = outcomes(plan, begin(plan))[0].value
    # Its worker was killed after the training, and before it told the storage.
    for path in (logs / "digits/mine").glob("study.db*"):
        path.unlink()
    (logs / "digits/mine/seed0").rename(logs / "seed0")
    begin(plan)
    (logs / "seed0").rename(logs / "digits/mine/seed0")
    trained = (logs / "digits/mine/seed0/metrics.csv").stat().st_mtime_ns
    (outcome,) = run_study(plan, begin(plan))
    assert (outcome.state, outcome.value) == ("finished", value)
    assert (logs / "digits/mine/seed0/metrics.csv").stat().st_mtime_ns == trained


def test_a_finished_member_that_was_pruned_stays_so() -> None:
    from optuna.pruners import ThresholdPruner

    plan = planned("0", pruner=ThresholdPruner(upper=0.0))
    begin(plan)
    worker = Worker(plan)
    worker.study = worker._open()
    trial, _ = worker.claim()
    assert trial is not None
    trial.report(1.0, 1)  # before its worker was killed, after the training
    done = train("digits", "trainer.devices=1")
    assert worker._fit(done.run, {"seed": 0}, trial) == (done.metrics["val/loss"], done.metrics, True)


def test_a_storage_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.exc import OperationalError

    slept: list[float] = []
    monkeypatch.setattr(storage.time, "sleep", slept.append)
    away = OperationalError("SELECT", {}, Exception("server at db://me:hunter2@host is closed"))

    def action() -> str:
        if len(slept) < 3:
            raise away
        return "there"

    assert patiently(action) == "there"
    assert slept == [0.5, 1.0, 1.5]
    output = capsys.readouterr().out
    assert output == "storage    away, tried again for 10 minutes: server at db://***@host is closed\n"
    slept.clear()
    with pytest.raises(OperationalError):
        patiently(action, stopped=lambda: True)


# ---------------------------------------------------------------------------------------------------------------
# Mistakes


def test_mistakes_are_told_before_anything_runs(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, line in {
        ("--seeds", "0,a"): "--seeds 0,a: expected different whole numbers, such as 0,1,2",
        ("--seeds", "0,0"): "--seeds 0,0: expected different whole numbers, such as 0,1,2",
        ("--seeds", "0,1", "seed=3"): "seed=3: --seeds sets it; leave it out (command line)",
        ("--seeds", "0,1", "trainer.devices=2", "--workers", "2"):
            "--workers 2: expected 1, since each member takes several processes (trainer.devices=2)",
        ("--seeds", "0,1", "--storage", "mysql://me:hunter2@db/x"):
            "--storage mysql://***@db/x: expected postgresql://USER@HOST/DATABASE",
        ("--seeds", "0,1", "--name", "a/b"): "--name a/b: expected letters, digits, '-', '_' and '.'",
    }.items():  # fmt: skip
        assert mistakes("train", *SEEDS[:-2], *given) == [line]
    assert mistakes("train", "--find", "lr", "trainer.devices=2") == [
        "trainer.devices: --find tries one process on one device, and 2 is set; leave it out"
    ]
    for flag in (("--workers", "2"), ("--pictures",)):
        assert mistakes("train", *flag) == [
            "--workers, --storage, --name, --retry, --pictures: belong to --seeds (data.num_workers=2 prepares batches)"
        ]
    for given in (("init", "latest"), ("resume", "latest"), ("override",), ("no-test",), ("find", "lr")):
        assert mistakes("train", *SEEDS, f"--{given[0]}", *given[1:]) == [
            f"--{given[0]}: does nothing with --seeds; leave one of them out"
        ]
    assert mistakes("train", "--find", "lr", "--init", "latest") == [
        "--init: does nothing with --find; leave one of them out"
    ]
    monkeypatch.setattr("src.kindling.config.cores.usable_cores", lambda: 2)
    assert mistakes("train", *SEEDS, "--workers", "3") == [
        "--workers 3: expected 1 to 2: there are 2 cores, and threads=1 for each worker"
    ]
    (line,) = mistakes("train", *SEEDS, "--storage", "postgresql://me:hunter2@127.0.0.1:1/x", "--name", "other")
    assert line.startswith("--storage postgresql://***@127.0.0.1:1/x: cannot be reached: connection ")
    assert not list(logs.iterdir())


def test_a_server_that_does_not_answer_is_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    given: list[object] = []

    def connect(*_: object, **options: object) -> None:
        given.append(options["connect_timeout"])
        raise psycopg.errors.ConnectionTimeout("connection timeout expired")

    monkeypatch.setattr(psycopg, "connect", connect)
    (line,) = mistakes("train", *SEEDS, "--storage", "postgresql://me@db/x")
    assert line == "--storage postgresql://***@db/x: cannot be reached: connection timeout expired"
    assert given == [10]
    monkeypatch.setattr(storage, "locked", lambda url: nullcontext())
    with pytest.raises(Exception, match="connection timeout expired"):
        storage.connect("postgresql+psycopg://me@db/x")
    assert given == [10, 10]


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, given, line in (
        ("optuna", (), "a study needs Optuna; install it: pip install -e '.[tune]'"),
        ("psycopg", ("--storage", "postgresql://me@db/x"),
         "--storage postgresql://***@db/x: needs psycopg; install it: pip install -e '.[tune]'"),
    ):  # fmt: skip
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            storage._engine.cache_clear()
            assert mistakes("train", *SEEDS, *given) == [line]


def test_another_study_of_the_same_name_is_refused(logs: Path) -> None:
    call("train", *SEEDS)
    assert mistakes("train", *SEEDS, "net.dropout=0.2", "threads=2") == [
        "threads: the study has 1, and 2 is asked for",
        "net.dropout: the study has None, and 0.2 is asked for",
        "digits/seeds goes on as it was begun; for another study: --name seeds_2",
    ]
    (line,) = mistakes("train", *SEEDS, "net.dropout=0.2", "--name", "seeds", "tags=[a]")[1:]
    assert line.endswith("--name seeds_2")
    (logs / "digits/seeds/study.db").unlink()
    assert mistakes("train", *SEEDS) == [
        f"{logs / 'digits/seeds'}: holds runs of a study that the storage does not know; remove them, or begin another "
        "study: --name seeds_2"
    ]


# ---------------------------------------------------------------------------------------------------------------
# Processes


def start(repository: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-u", "-m", "src.train", "digits", *LITTLE[:1], *LITTLE[4:], *words],
                            cwd=repository, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def children(process: subprocess.Popen[str]) -> list[int]:
    """The worker processes of a study."""
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True).stdout
    return [int(number) for number in found.split()]


def until(done: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not done():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.skipif(usable_cores() < 2, reason="two workers need two cores")
def test_two_workers_one_of_them_killed_give_the_same_numbers(repository: Path) -> None:
    folder = repository / "logs/digits/seeds"
    process = start(repository, "trainer.max_epochs=4", "--seeds", "0,1", "--workers", "2")
    until(lambda: list(folder.glob("*/metrics.csv")), process)
    os.kill(children(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert " was ended by SIGKILL; another takes its place" in output
    study = json.loads((folder / "study.json").read_text())
    for seed, member in enumerate(study["members"]):
        assert member["state"] == "finished"
        plain = train("digits", "trainer.limit_train_batches=1.0", "trainer.limit_val_batches=1.0", "trainer.devices=1",
                      "trainer.limit_test_batches=1.0", "trainer.max_epochs=4", f"seed={seed}")  # fmt: skip
        assert member["metrics"] == plain.metrics
        command = json.loads((folder / member["name"] / "meta.json").read_text())["command"]
        assert command.endswith("-m src.train digits trainer.max_epochs=2 threads=1 trainer.accelerator=cpu "
                                "trainer.max_epochs=4 --seeds 0,1 --workers 2")  # fmt: skip


@pytest.mark.long
def test_a_member_that_is_distributed_is_trained_apart_and_goes_on(repository: Path) -> None:
    words = ("trainer=ddp", "trainer.devices=2", "trainer.max_epochs=6", "save_minutes=0", "--seeds", "3")
    process = start(repository, *words)
    member = repository / "logs/digits/seeds/seed3"
    until(lambda: (member / "output.txt").exists() and "epoch 2/" in (member / "output.txt").read_text(), process)
    process.kill()
    process.communicate()
    (trained,) = [int(number) for number in (member / ".owner").read_text().split() if number.isdigit()]
    with suppress(ProcessLookupError):  # it ends by itself, since the study's process is gone
        while "to go on: " not in (member / "output.txt").read_text():
            os.kill(trained, 0)
            time.sleep(0.02)
    output, _ = start(repository, *words).communicate(timeout=200)
    assert "digits/seeds: 1 members, 1 to run, 1 at a time\n1/1  seed3  val/loss " in output
    told = (member / "output.txt").read_text()
    assert "SIGTERM: stopped" in told
    assert "\nresumed: " in told
    assert told.count("epoch 2/6") == 1
    assert "test/accuracy" in json.loads((member / "metrics.json").read_text())


@pytest.fixture
def server() -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a PostgreSQL server of this test's own, and what restarts it."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.environ["PATH"].split(":"))]
    binaries = next((folder for folder in found if (folder / "initdb").exists() and (folder / "pg_ctl").exists()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (initdb, pg_ctl)")
    user = {"user": "postgres"} if os.geteuid() == 0 else {}  # the server refuses to be root's
    folder = Path(tempfile.mkdtemp(prefix="kindling"))
    (folder / "password").write_text("p4ss-w0rd")
    if user:
        shutil.chown(folder, "postgres")

    def do(*command: str) -> None:
        subprocess.run([str(binaries / command[0]), "-D", str(folder / "data"), *command[1:]], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL, **user)  # type: ignore[call-overload]  # fmt: skip

    options = f"-p 54329 -k {folder} -c listen_addresses=127.0.0.1"

    def restart() -> None:
        do("pg_ctl", "-m", "immediate", "-w", "stop")
        do("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")

    do("initdb", "-A", "scram-sha-256", "-U", "kindling", "--pwfile", str(folder / "password"))
    do("pg_ctl", "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield "postgresql://kindling:p4ss-w0rd@127.0.0.1:54329/postgres", restart
    finally:
        do("pg_ctl", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.mark.long
def test_four_commands_one_killed_and_a_server_restarted_train_each_member_once(
    server: tuple[str, Callable[[], None]], repository: Path
) -> None:
    url, restart = server
    folder, wanted = repository / "logs/digits/seeds", ("trainer.max_epochs=8", "--seeds", "0,1,2,3,4,5,6,7,8,9")
    commands = [start(repository, *wanted, "--storage", url) for _ in range(4)]
    until(lambda: len(list(folder.glob("*/metrics.csv"))) >= 4, commands[0])
    commands[1].kill()
    until(lambda: len(list(folder.glob("*/metrics.json"))) >= 2, commands[0])
    restart()
    outputs = [command.communicate(timeout=600)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, -9, 0, 0], outputs
    ended = [
        line.split()[1]
        for output in outputs
        for line in output.splitlines()
        if "val/loss" in line and line[0].isdigit()
    ]
    assert sorted(ended) == [f"seed{seed}" for seed in range(10)]
    study = json.loads((folder / "study.json").read_text())
    assert [member["state"] for member in study["members"]] == ["finished"] * 10
    assert all("p4ss-w0rd" not in output for output in outputs)
    held = [path for path in folder.rglob("*") if path.is_file() and b"p4ss-w0rd" in path.read_bytes()]
    assert held == []
    for seed in (0, 9):
        plain = train("digits", "trainer.limit_train_batches=1.0", "trainer.limit_val_batches=1.0", "trainer.devices=1",
                      "trainer.limit_test_batches=1.0", "trainer.max_epochs=8", f"seed={seed}")  # fmt: skip
        assert study["members"][seed]["metrics"] == plain.metrics


def test_a_metric_that_is_undefined_in_a_run_is_left_out_of_the_summary() -> None:
    one = {"val/loss": 1.0, "val/auroc": 0.5, "val/f1": 0.5}
    other = {"val/loss": 2.0, "val/auroc": float("nan"), "val/f1": None}
    runs = [one, other]
    assert defined_metrics(runs) == {"val/loss": [1.0, 2.0]}
