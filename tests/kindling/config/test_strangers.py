"""Constructors of other people's classes: partials, odd annotations, `**kwargs`, attributes of the data."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from src.kindling.config import instantiate, targets
from src.kindling.config.compose import Config
from src.kindling.config.errors import InputError
from src.kindling.data.spec import Spec
from tests.kindling.config import strangers

HERE = "tests.kindling.config.strangers"
ADAM = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "_partial_": True}
NET = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}
SPEC = Spec(in_shape=(4,), num_outputs=3, kind="table", classes=tuple("abc"))


@pytest.fixture(autouse=True)
def allow_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "allowed_by_user", lambda: (HERE,))


def config(name: str, **task: Any) -> Config:
    return Config("a", {"task": {"_target_": f"{HERE}.{name}", **task}})


def check_lines(checked: Config) -> list[str]:
    with pytest.raises(InputError) as caught:
        instantiate.check(checked)
    return caught.value.lines


@pytest.mark.parametrize("name", ["Untyped", "WronglyTyped"])
def test_partials_in_untyped_and_wrongly_typed_arguments(name: str) -> None:
    given = config(name, net=NET, optimizer=ADAM, scheduler=PLATEAU)
    instantiate.check(given)
    task = instantiate.build(given, "task")
    optimizer = task.optimizer(params=task.net.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert isinstance(task.scheduler(optimizer), torch.optim.lr_scheduler.ReduceLROnPlateau)


def test_unresolvable_annotation_leaves_the_others_checked() -> None:
    task = {"net": NET, "optimizer": ADAM, "scheduler": None, "vocabulary": [1], "anything": "x"}
    instantiate.check(
        config("WronglyTyped", **task, sizes=3, criterion={"_target_": "torch.nn.L1Loss"})
    )
    (line,) = check_lines(config("WronglyTyped", **task, width="wide"))
    assert line.startswith("task.width: expected a whole number, got 'wide'")
    strings = {"optimizer": ADAM, "scheduler": PLATEAU}
    instantiate.check(config("WronglyTypedStrings", **strings, width=3))
    (line,) = check_lines(config("WronglyTypedStrings", **strings, width="wide"))
    assert line.startswith("task.width: expected a whole number")


def test_partial_that_is_missing_or_misplaced_is_one_line() -> None:
    optimizer = {"_target_": "torch.optim.Adam"}
    (line,) = check_lines(config("Untyped", net=NET, optimizer=optimizer))
    assert line.startswith("task.optimizer.params: ")
    assert "add task.optimizer._partial_=true" in line
    (line,) = check_lines(config("Untyped", net=NET, optimizer={**ADAM, "_partial_": 3}))
    assert line.startswith("task.optimizer._partial_: expected true or false")
    (line,) = check_lines(config("Open", vocab_size=1, _partial_=True))
    assert line.startswith("task._partial_: ")


def test_partial_of_an_annotated_factory() -> None:
    for partial in ({}, {"_partial_": True}):
        optimizer = {"_target_": "torch.optim.Adam", **partial}
        task = {"_target_": "src.tasks.classification.Classification", "optimizer": optimizer}
        given = Config("a", {"net": NET, "task": task})
        instantiate.check(given)
        built = instantiate.build(given, "task", net=torch.nn.Flatten(), spec=SPEC)
        assert isinstance(built.optimizer, functools.partial)


def test_bare_kwargs_accept_any_argument() -> None:
    given = config("Open", vocab_size=1, depth=3, loss={"_target_": "torch.nn.L1Loss"})
    instantiate.check(given)
    task = instantiate.build(given, "task")
    assert task.kwargs["depth"] == 3
    assert isinstance(task.kwargs["loss"], torch.nn.L1Loss)
    assert targets.parameters(strangers.Words).keys() == {"batch_size"}


def test_spec_reaches_component_in_component_without_spec() -> None:
    part = {"_target_": f"{HERE}.Sized"}
    given = config("Open", vocab_size=1, loss=part, losses={"a": part})
    instantiate.check(given)
    task = instantiate.build(given, "task", spec=SPEC, in_shape=(4,), num_outputs=3)
    assert task.kwargs["loss"].size == task.kwargs["losses"]["a"].size == (4, 3)


def test_net_and_data_are_optional() -> None:
    instantiate.check(config("Open", vocab_size=1))
    instantiate.check(Config("a", {**config("Open", vocab_size=1).values, "net": None}))
    (line,) = check_lines(config("Untyped", optimizer=ADAM))
    assert line.startswith("task.net: Untyped needs it, and it is not set; add a section net")


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("${data.vocab_size}", 2),
        ("${data.vocabulary}", {"a": 0, "b": 1}),
        ("${data.batch_size}", 8),
        ("${spec.num_outputs}", 3),
        ("${data.spec.num_outputs}", 3),
        ("${data.spec.in_shape}", (4,)),
        ("size-${data.vocab_size}", "size-2"),
        ("${task.depth}", 2),
    ],
)
def test_attributes_of_the_data(reference: str, value: Any) -> None:
    data = {"_target_": f"{HERE}.Words", "batch_size": 8}
    task = {"_target_": f"{HERE}.Open", "vocab_size": reference, "depth": "${data.vocab_size}"}
    given = Config("a", {"data": data, "task": task})
    instantiate.check(given)
    words = strangers.Words()
    words.spec = SPEC
    assert instantiate.build(given, "task", data=words).vocab_size == value
    assert given.values["task"]["vocab_size"] == reference
    if "spec" in reference:
        assert instantiate.resolve(given, SPEC)["task"]["vocab_size"] == value


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("${data.vocab_sise}", "the data has no 'vocab_sise'; did you mean 'vocab_size'?"),
        ("${data.vocab_size.x}", "the data's vocab_size has no 'x'"),
        ("${data.__class__}", "the data has no '__class__'"),
        ("${spec.num_output}", "the data's spec has no 'num_output'; did you mean 'num_outputs'?"),
    ],
)
def test_unknown_attribute_of_the_data_is_one_line(reference: str, line: str) -> None:
    given = config("Open", vocab_size=reference)
    words = strangers.Words()
    words.spec = SPEC
    with pytest.raises(InputError) as caught:
        instantiate.build(given, "task", data=words)
    assert caught.value.lines == [f"task.vocab_size: {reference}: {line} (configs/a.yaml)"]
    with pytest.raises(InputError, match=r"^task\.vocab_size: .*the data is not loaded"):
        instantiate.build(given, "task")
