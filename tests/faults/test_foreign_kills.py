"""Foreign modules that SIGKILL ends at random places, any number of times, end as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from src.kindling.config.compose import ROOT
from tests.foreign.cases import CASES
from tests.forked import ForkedProcess

Answer = dict[str, Any]
# A config and changes to it, by what is special about resuming it.
KINDS: dict[str, tuple[str, ...]] = {
    **{case.name: (case.name,) for case in CASES if case.exact_resume},
    "weighted": ("samplers", "data.sampler=weighted"),
    "numpy batch sampler": ("samplers", "data.sampler=buckets"),
    "sampler with a generator": ("samplers", "data.sampler=own_generator"),
    "sampler with numpy's generator": ("samplers", "data.sampler=numpy_rng"),
    "whole batches": ("samplers", "data.sampler=whole_batches"),
    "min_size": ("combined_modes", "data.mode=min_size"),
    "max_size": ("combined_modes", "data.mode=max_size"),
    "max_size_cycle": ("combined_modes", "data.mode=max_size_cycle"),
    "stream with state": ("streams", "data.state=dataset"),
    "loader with state": ("streams", "data.state=loader"),
    "replay buffer": ("dqn",),
    "reload every other epoch": (
        "reloading",
        "trainer.reload_dataloaders_every_n_epochs=2",
        "trainer.max_epochs=4",
    ),
    "weight averaging": (
        "own_callback",
        "callbacks.ema={_target_: lightning.pytorch.callbacks.EMAWeightAveraging, decay: 0.9}",
    ),
    "swa": (
        "own_callback",
        "callbacks.swa={_target_: lightning.pytorch.callbacks.StochasticWeightAveraging, "
        "swa_lrs: 0.01, swa_epoch_start: 1, annealing_epochs: 2}",
        "trainer.max_epochs=3",
    ),
    "accumulated": ("samplers", "trainer.accumulate_grad_batches=3"),
    "accumulated attributes": ("attributes", "trainer.accumulate_grad_batches=3"),
    "limited": ("samplers", "data.sampler=weighted", "trainer.limit_train_batches=7"),
    "limited share": ("samplers", "data.sampler=own_generator", "trainer.limit_train_batches=0.6"),
    "validation in steps": ("attributes", "trainer.val_check_interval=5"),
    "validation across epochs": (
        "attributes",
        "trainer.val_check_interval=5",
        "trainer.check_val_every_n_epoch=null",
    ),
    "validation after an epoch": (
        "samplers",
        "data.sampler=weighted",
        "trainer.val_check_interval=20",
        "trainer.check_val_every_n_epoch=null",
    ),
    "validation share": ("own_callback", "trainer.val_check_interval=0.4"),
    "onecycle": ("samplers", "task.scheduler=onecycle", "trainer.accumulate_grad_batches=2"),
    "plateau": ("samplers", "task.scheduler=plateau", "trainer.max_epochs=4"),
    "clipped": ("own_callback", "trainer.gradient_clip_val=0.1"),
    "steps": ("attributes", "trainer.max_steps=21", "trainer.max_epochs=-1"),
    "manual limited": ("manual_accumulation", "trainer.limit_train_batches=10"),
}
WORKERS = {
    "attributes": "data",
    "combined_modes": "data",
    "manual_accumulation": "data",
    "own_callback": "data",
    "reloading": "task",
    "samplers": "data",
    "streams": "data",
    "weighted_sampler": "data",
}
# Those in `make test`; together they take 15 seconds.
SHORT = (
    ("samplers", 2, 0),
    ("memory_bank", 0, 0),
    ("samplers", 2, 1),
    ("samplers", 2, 2),
    ("manual_accumulation", 0, 0),
    ("manual_accumulation", 0, 2),
    ("attributes", 0, 0),
    ("attributes", 0, 1),
    ("attributes", 0, 2),
    ("reloading", 0, 0),
    ("own_callback", 0, 0),
)
# Not exact by nature: what the training says of it.
INEXACT: dict[str, tuple[tuple[str, ...], str]] = {
    "clock": (("samplers", "data.sampler=clock"), "ClockSampler yields other batches"),
    "live environment": (("live_environment",), "Episodes yields other batches"),
    "validation in seconds": (
        ("attributes", "trainer.val_check_interval='00:00:00:01'"),
        "trainer.val_check_interval: 00:00:00:01 depends on the clock",
    ),
}


@pytest.fixture(scope="module")
def kill_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Answer]]:
    """Asks a process for a training that is killed, see `tests.foreign.kill_runs`."""
    # One thread: a fork has no others. Arrow's allocator starts one in the background.
    alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    alone |= {"JE_ARROW_MALLOC_CONF": "background_thread:false", "PYTHONPATH": str(ROOT)}
    command = ("-m", "tests.foreign.kill_runs", str(tmp_path_factory.mktemp("kills")))
    alone["PYTHONWARNINGS"] = "ignore"
    process = ForkedProcess(*command, cwd=ROOT, env=alone, merge=False)

    def ask(words: tuple[str, ...], seed: int, minutes: int) -> Answer:
        name, *changes = words
        request = {"name": name, "words": changes, "seed": seed, "minutes": minutes}
        print(json.dumps(request), file=process.stdin, flush=True)
        answer: Answer = json.loads(process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    yield ask
    process.communicate()


def every_run() -> Iterator[Any]:
    """Each kind without and with workers, with three seeds; every third saves epochs only."""
    for kind, (name, *_) in KINDS.items():
        for workers in (0, 2) if name in WORKERS else (0,):
            for seed in range(3):
                key = kind, workers, seed
                marks = () if key in SHORT else pytest.mark.long
                yield pytest.param(*key, marks=marks, id=f"{kind}-{workers}-{seed}")


@pytest.mark.parametrize(("kind", "workers", "seed"), list(every_run()))
def test_killed_foreign_training_ends_the_same(
    kind: str, workers: int, seed: int, kill_run: Callable[..., Answer]
) -> None:
    words = KINDS[kind]
    if workers:
        words = *words, f"{WORKERS[words[0]]}.num_workers={workers}"
    answer = kill_run(words, seed, 1000 if seed == 1 else 0)
    assert answer["kills"]
    assert answer["threads"] == 1
    differences = answer["differences"]
    assert not differences, "\n".join([str(answer["kills"]), *differences[:2], *differences[-2:]])


@pytest.mark.long
@pytest.mark.parametrize("kind", INEXACT)
def test_inexact_resume_names_its_cause(kind: str, kill_run: Callable[..., Answer]) -> None:
    words, subject = INEXACT[kind]
    answer = kill_run(words, 0, 0)
    assert answer["kills"]
    assert subject in answer["output"]
