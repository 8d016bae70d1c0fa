"""What a training says when its settings leave something out, and why it ended early."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from src.kindling.config.errors import InputError
from src.kindling.training.callbacks.outcomes import Outcomes, stop_reason
from src.kindling.training.launch import print_metrics
from src.kindling.training.rehearsal import rehearse
from src.tasks.classification import Classification
from tests.conftest import as_own_task, checked, mistakes, train


class Data(LightningDataModule):
    """300 samples from elsewhere."""

    def __init__(self, batch_size: int = 50, drop_last: bool = False) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last}

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(300, 4)), **self.options)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.randn(10, 4)), batch_size=10)


class Stream(Data):
    """Samples without a known number."""

    def train_dataloader(self) -> Any:
        class Endless(IterableDataset[Tensor]):
            def __iter__(self) -> Any:
                return iter(torch.randn(20, 4))

        return DataLoader(Endless(), batch_size=50)


class Task(LightningModule):
    """A module from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch[0] if isinstance(batch, list) else batch).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_score", torch.tensor(1.5))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(
    data: LightningDataModule, *callbacks: Any, task: LightningModule | None = None, **options: Any
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Outcomes(), *callbacks],
        **{"max_epochs": 3, **options},
    )
    trainer.fit(task or Task(), datamodule=data)
    return trainer


def never(key: str, value: str, first: int, last: int) -> str:
    due = f"it is due after batch {first}, and training ends after {last}"
    problem = f"with {value}, validation never runs ({due}), so there is no best.ckpt"
    return f"trainer.{key}: {problem}; set a smaller one"


def test_batch_larger_than_training_split(capsys: pytest.CaptureFixture[str]) -> None:
    train("digits", "data.batch_size=5000")
    line = "training samples, so each epoch is one step; set a smaller one"
    assert f"data.batch_size: 5,000 is above the 1,257 {line}" in capsys.readouterr().out
    fitted(Data(301), max_epochs=1)  # from elsewhere
    assert capsys.readouterr().out == f"data.batch_size: 301 is above the 300 {line}\n"
    fitted(Data(300), max_epochs=1)
    fitted(Stream(), max_epochs=1)
    assert capsys.readouterr().out == ""


def test_training_loader_without_batches_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        rehearse(checked("digits"), Data(301, drop_last=True), Task())
    assert caught.value.lines == [
        "data: the training loader gives no batch; check its samples, batch size and drop_last"
    ]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"check_val_every_n_epoch": 4}, never("check_val_every_n_epoch", "4", 24, 18)),
        (
            {"check_val_every_n_epoch": None, "val_check_interval": 19},
            never("val_check_interval", "19", 19, 18),
        ),
        ({"max_steps": 5}, never("val_check_interval", "1.0", 6, 5)),
        ({"check_val_every_n_epoch": 3}, ""),
        ({"check_val_every_n_epoch": None, "val_check_interval": 18}, ""),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, ""),
        ({"check_val_every_n_epoch": 4, "limit_val_batches": 0}, ""),
    ],
)
def test_validation_that_never_runs(
    options: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fitted(Data(), **options)
    assert capsys.readouterr().out.strip() == line
    assert ("val_score" in trainer.callback_metrics) == (
        not line and "limit_val_batches" not in options
    )


def test_run_without_validation_prints_reason_for_no_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = train("digits", "trainer.check_val_every_n_epoch=5")
    assert not (result.run.checkpoints / "best.ckpt").exists()
    lines = capsys.readouterr().out.splitlines()
    assert never("check_val_every_n_epoch", "5", 15, 6) in lines
    assert "no best checkpoint: validation never ran; the metrics are of the last weights" in lines
    (line,) = mistakes("train", "digits", "trainer.val_check_interval=1000")
    assert line.startswith("trainer: `val_check_interval` (1000) must be less than or equal to")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"patience": 1},
            "early stopping: Monitored metric val_score did not improve in the last 1 records. "
            "Best score: 1.500.",
        ),
        (
            {"stopping_threshold": 2.0},
            "early stopping: Stopping threshold reached: val_score = 1.5 < 2.0.",
        ),
    ],
)
def test_early_stopping_prints_epoch_and_reason(options: dict[str, Any], reason: str) -> None:
    trainer = fitted(Data(), EarlyStopping("val_score", **options), max_epochs=9)
    epoch = trainer.current_epoch
    assert stop_reason(trainer) == f"stopped after epoch {epoch} of 9: {reason}"
    assert epoch < 3


def test_other_early_ends_print_reason(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fitted(Data(), Timer(timedelta(0)), max_epochs=9)
    assert stop_reason(trainer).endswith(" of 9: trainer.max_time is reached")

    class Stopping(EarlyStopping):
        def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
            trainer.should_stop = True

    stopping = Stopping("val_score")
    assert stop_reason(fitted(Data(), stopping)) == (
        "stopped after epoch 1 of 3: the task or a callback set trainer.should_stop"
    )
    assert stop_reason(fitted(Data(), stopping, max_epochs=1)) == ""
    assert stop_reason(fitted(Data(), EarlyStopping("val_score", patience=3))) == ""
    assert capsys.readouterr().out == ""


class OfLightning1(Task):
    """A module with a hook that Lightning 2 has no more."""

    def validation_epoch_end(self, outputs: Any) -> None: ...


def test_removed_hook_is_named() -> None:
    with pytest.raises(InputError) as caught:
        rehearse(checked("digits"), Data(), OfLightning1())
    assert caught.value.lines == [
        "task: OfLightning1 defines validation_epoch_end, which Lightning 2 never calls; "
        "move its code to on_validation_epoch_end"
    ]


def test_hyperparameter_of_task_and_data_with_different_values() -> None:
    task, data = Task(), Data()
    task.save_hyperparameters({"batch_size": 32})
    data.save_hyperparameters({"batch_size": 64})
    with pytest.raises(InputError) as caught:
        rehearse(checked("digits"), data, task)
    assert caught.value.lines == [
        "task: task and data both save the hyperparameter 'batch_size', with different values; "
        "call save_hyperparameters(logger=False) in one of them"
    ]
    data.save_hyperparameters({"batch_size": 64}, logger=False)
    rehearse(checked("digits"), data, task)


class Without(Task):
    """A module whose loss has no gradient, whose step forgets it, or that knows one loader only."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return {"gradient": loss.detach(), "loss": None}.get(self.what, loss)


class Loaders(Data):
    def val_dataloader(self) -> Any:
        return [super().val_dataloader()] * 2


class NoLoader(Data):
    def train_dataloader(self) -> Any:
        return None


@pytest.mark.parametrize(
    ("task", "data", "start"),
    [
        (
            "gradient",
            Data(),
            "task: the loss has no gradient; it was detached, or computed under torch.no_grad",
        ),
        (
            "dataloader_idx",
            Loaders(),
            "task: You provided multiple `val_dataloader`, but no `dataloader_idx` argument in "
            "`Without.validation_step()`. Try adding `dataloader_idx=0` to its signature.",
        ),
        (
            "",
            NoLoader(),
            "data: An invalid dataloader was returned from `NoLoader.train_dataloader()`. Found None.",
        ),
    ],
)
def test_mistakes_that_torch_or_lightning_name(task: str, data: Data, start: str) -> None:
    with pytest.raises(InputError) as caught:
        rehearse(checked("digits"), data, Without(task))
    assert caught.value.lines == [start]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_forgotten_return_of_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "task: training_step returned None for each batch of the epoch, so no weight changed; "
        "return the loss\n"
    )
    for what, printed in (("loss", line), ("", "")):
        fitted(Data(), task=Without(what), max_epochs=2)
        assert capsys.readouterr().out == printed


def test_two_optimizers_of_an_automatic_task() -> None:
    class Gan(Task):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    with pytest.raises(InputError) as caught:
        rehearse(checked("digits"), Data(), Gan())
    (line,) = caught.value.lines
    assert line.startswith("task: Training with multiple optimizers is only supported with manual")


def test_no_metrics_are_no_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics({})
    assert capsys.readouterr().out == "metrics: none; neither validation nor test logs one\n"


def test_module_without_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still(Classification):
        def configure_optimizers(self) -> None:  # type: ignore[override]
            return None

    word = as_own_task(Still, monkeypatch)
    with pytest.warns(UserWarning, match="this fit will run with no optimizer"):
        assert "test/accuracy" in train("digits", word).metrics


def test_early_stopping_of_a_task_on_an_unknown_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Classification):
        def configure_callbacks(self) -> list[Any]:
            return [EarlyStopping("val_los")]

    with pytest.raises(InputError) as caught:
        train("digits", as_own_task(Stopped, monkeypatch))
    (line,) = caught.value.lines
    assert line.startswith("callbacks: Early stopping conditioned on metric `val_los` which is not")
