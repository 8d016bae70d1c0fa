"""End a training on the spot, as a kill does: nothing is saved by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from src.kindling.training.run_loggers import Curves


class Killed(BaseException):
    """Ends a training."""


def install_kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that has training end at its n-th batch from then, before it is saved."""
    left = [-1]
    end = Curves.on_train_batch_end

    def killed(self: Curves, *args: Any) -> None:
        end(self, *args)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(Curves, "on_train_batch_end", killed)
    return lambda batches: left.__setitem__(0, batches)
