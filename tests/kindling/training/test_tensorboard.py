"""What TensorBoard shows of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from src.kindling.config.compose import compose
from src.kindling.runs.run import Run
from tests.conftest import kept_runs, mistakes, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with kept_runs(tmp_path_factory):
        yield train("digits", "net=mlp", "name=small", "trainer.gradient_clip_val=1").run


@pytest.fixture(scope="module")
def events(run: Run) -> EventAccumulator:
    return EventAccumulator(str(run.path)).Reload()


def test_short_run_has_lr_and_batch_loss_and_no_epoch(events: EventAccumulator) -> None:
    assert "epoch" not in events.Tags()["scalars"]
    for name in ("lr", "train/batch_loss"):
        assert [event.step for event in events.Scalars(name)] == [0, 2, 5]
    assert [event.step for event in events.Scalars("train/loss")] == [2, 5]


def test_hparams_have_all_values_and_defaults(events: EventAccumulator) -> None:
    name = "_hparams_/session_start_info"
    content = events.summary_metadata[name].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    texts = {"name": "small", "task.optimizer._target_": "torch.optim.AdamW"}
    assert {key: found[key].string_value for key in texts} == texts
    numbers = {
        "task.optimizer.lr": 3e-3,  # of the config
        "task.optimizer.eps": 1e-8,  # of signatures
        "task.loss.label_smoothing": 0.0,
        "data.batch_size": 64,
        "trainer.accumulate_grad_batches": 1,
        "trainer.gradient_clip_val": 1,
        "num_threads": 1,
    }
    assert {key: found[key].number_value for key in numbers} == numbers
    assert "data.seed" not in found  # what it is given is no default


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("name=first try/2", "_first-try-2"),
        ("name=run-${seed}", "_run-0"),
        ("name=${oc.env:HOME}", ""),  # it may be a secret
        ("seed=0", ""),
    ],
)
def test_name_is_in_the_folder(word: str, end: str) -> None:
    path = Run.claim_for(compose("digits", [word])).path
    assert path.name[19:] == end


def test_graph_flag_needs_drawing() -> None:
    for other in ("--no-plots", "--find=lr", "--seeds=0,1"):
        (line,) = mistakes("train", "digits", "--graph", other)
        assert line.startswith("--graph: has no effect with --")
        assert line.endswith("; remove one of them")
