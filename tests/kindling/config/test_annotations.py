"""What an annotation accepts from YAML, what it makes of it, and what a refusal names."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import numbers
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Optional, Union

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from src.kindling.config.annotations import element, expected_part, validate


@dataclasses.dataclass
class Options:
    width: int = 1


class Color(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
    [
        (float, 1, 1.0),
        (float | Tensor, 0.1, 0.1),
        (tuple[int, int], [1, 2], (1, 2)),
        (Any, "x", "x"),
        (tuple[float | Tensor, float | Tensor], [0.9, 1], (0.9, 1.0)),
        (Literal["min", "max"], "min", "min"),
        (Union[int, Sequence[int]], [1, 2], [1, 2]),
        (pathlib.Path, "a", pathlib.Path("a")),
        (Color, "red", Color.RED),
        (Optional[nn.Module], None, None),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (list, [1, "a"], [1, "a"]),
        (Iterable[int], [1, 2], [1, 2]),
        (numbers.Number | Sequence, 5, 5.0),
        (list[nn.Module], [], []),
        (dict[str, Any], {"scaler": Options}, {"scaler": Options}),  # of `${data.parameters}`
    ],
)
def test_conversion(annotation: Any, value: Any, converted: Any) -> None:
    result = validate(value, annotation)
    assert result == converted
    assert type(result) is type(converted)


def test_list_to_tensor() -> None:
    assert torch.equal(validate([1.0, 2.0], Optional[Tensor]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (float | Tensor, "fast", "a number"),
        (float, True, "a number"),
        (str, datetime.date(2026, 1, 1), "text"),  # YAML's
        (numbers.Number, "a", "a number"),
        (int, 1.5, "a whole number"),
        (str, 7, "text"),
        (bool | None, "x", "true or false or null"),
        (list[int], "a", "a list"),
        (list[int], ["a"], "a whole number in the place of 'a'"),
        (Iterable[int], ["a"], "a whole number in the place of 'a'"),
        (tuple[float, float], [1], "more items"),
        (tuple[float, float], [1, 2, 3], "fewer items"),
        (Color, "blue", "'red'"),
        (Literal["min", "max"], "mid", "'min' or 'max'"),
        (dict[str, int], 3, "a mapping"),
        (Literal[16] | Literal["bf16"] | None, 17, "16 or 'bf16' or null"),
        (pathlib.Path, 3, "text"),
        (nn.Module, 3, "a part (Module) with a '_target_'"),
        (Options | None, {"width": 2}, "a part (Options) with a '_target_' or null"),
        (list[nn.Module] | None, ["foo"], "parts with a '_target_' or null"),
        (Optional[Tensor], "x", "a list or null"),
        (Optional[Tensor], ["x"], "a list of numbers or null"),
        (Callable[[Any], Optimizer], "adam", "a part (Optimizer) with a '_target_'"),
    ],
)
def test_refusal_names_expectation(annotation: Any, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=".*") as caught:
        validate(value, annotation)
    assert str(caught.value) == words


def test_expected_part() -> None:
    assert expected_part(nn.Module | None) == ((nn.Module,), False, 0)
    assert expected_part(Callable[[Any], Optimizer]) == ((Optimizer,), True, 1)
    assert expected_part(Callable[..., Optimizer] | None) == ((Optimizer,), True, 1)
    assert expected_part(int | None) == ((), False, 0)
    assert expected_part(int | nn.Module | list[int] | Optimizer) == (
        (nn.Module, Optimizer),
        False,
        0,
    )
    assert element(list[nn.Module] | None) is nn.Module
    assert element(dict[str, nn.Module]) is nn.Module
