"""Warnings of libraries in the words of this repository."""

from __future__ import annotations

import warnings

import pytest
import torch
from lightning.pytorch.utilities.data import extract_batch_size

from src.kindling.training import warning_filters


@pytest.mark.filterwarnings("always")
def test_ambiguous_batch_size_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warning_filters, "printed", set())
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    warning_filters.quiet()
    warning_filters.quiet()
    for size in (41, 43):  # Lightning warns once for each
        assert extract_batch_size({"x": torch.zeros(size, 2), "words": torch.zeros(47)}) == size
    assert capsys.readouterr().err == f"{warning_filters.BATCH_SIZE}\n"
    with pytest.warns(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)
