"""What an annotation accepts from YAML, what it makes of it, and how it is described."""

from __future__ import annotations

import enum
import numbers
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Optional, Union

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from src.kindling.config.annotations import describe, element, expected_part, validate


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
    ],
)
def test_values_become_what_the_signature_asks_for(
    annotation: Any, value: Any, converted: Any
) -> None:
    result = validate(value, annotation)
    assert result == converted
    assert type(result) is type(converted)


def test_a_list_becomes_a_tensor() -> None:
    assert torch.equal(validate([1.0, 2.0], Optional[Tensor]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (float | Tensor, "fast", "a number"),
        (float, True, "a number"),
        (numbers.Number, "a", "a number"),
        (Iterable[int], ["a"], "a list (each item a whole number)"),
        (list[nn.Module], [1], "a list (each item a part with a '_target_')"),
        (int, 1.5, "a whole number"),
        (str, 7, "text"),
        (bool | None, "x", "true or false or null"),
        (list[int], ["a"], "a list (each item a whole number)"),
        (tuple[float, float], [1], "a list of 2: [a number, a number]"),
        (Color, "blue", "'red'"),
        (Literal["min", "max"], "mid", "one of 'min', 'max'"),
        (dict[str, int], 3, "a mapping"),
        (Literal[16] | Literal["bf16"] | None, 17, "one of 16, 'bf16' or null"),
        (pathlib.Path, 3, "a path"),
        (nn.Module, 3, "a part (Module) with a '_target_'"),
        (Optional[Tensor], "x", "a list or null"),
        (Callable[[Any], Optimizer], "adam", "a part (Optimizer) with a '_target_'"),
    ],
)
def test_other_values_are_refused_and_the_right_ones_described(
    annotation: Any, value: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=".*"):
        validate(value, annotation)
    assert describe(annotation) == words


def test_what_a_part_has_to_be() -> None:
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
