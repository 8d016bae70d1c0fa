"""Read checkpoint files, and keep the one before."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.kindling.config.aliases import rename_old
from src.kindling.config.errors import InputError
from src.kindling.runs.files import check_plain, display_path

MOST_VALUES = 100_000  # of a config, which has some hundred
SMALL = 2**28  # bytes that any file may unpack to

# One more whenever what a checkpoint holds changes.
VERSION = 2


def keep_previous(path: Path, previous: Path) -> None:
    """Link the file at `path` as `previous` before it is replaced, so that one always exists."""
    if path.exists():
        beside = previous.with_name(previous.name + ".tmp")
        beside.unlink(missing_ok=True)
        try:
            os.link(path, beside)
        except OSError:  # a file system without links
            return
        os.replace(beside, previous)


def sync_folder(folder: Path) -> None:
    """Have the disk know the folder's names as they are now."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's content to the CPU: tensors and plain values only.

    Environment variables that make torch load more are ignored.

    Raises:
        InputError: when the file is missing, damaged, holds code, or is not one of Kindling's.
    """
    import torch

    name = display_path(path)
    if not path.exists():
        hint = "the run may have ended before its first was saved"
        raise InputError(f"{name}: no such checkpoint; {hint}")
    try:
        check_size(path)
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise ValueError(f"damaged: its part {broken} does not match its checksum")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        check_content(content, path.stat().st_size)
    except pickle.UnpicklingError as error:
        unsupported = str(error).partition("Unsupported")[2].partition("\n")[0].strip(" .")
        reason = f" ({unsupported})" if unsupported else ""
        line = f"untrusted: it holds more than tensors and plain values{reason}; it was not loaded"
        raise InputError(f"{name}: {line}") from None
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if isinstance(error, zipfile.BadZipFile):
            size = path.stat().st_size
            cut = f"its {size:,} bytes are cut off, or another kind of file"
            reason = cut if size else "it is empty"
        raise InputError(f"{name}: not a readable checkpoint: {reason}") from None
    own = content["kindling"]
    own["config"] = rename_old(own["config"])
    if "version" not in own:  # the task owned preprocessing and augmentation
        state = content["state_dict"]
        moved = ("preprocess.", "augment.")
        content["state_dict"] = {k: v for k, v in state.items() if not k.startswith(moved)}
    return content


def check_size(path: Path, ratio: int = 1) -> None:
    """Raise a ValueError where an archive would unpack to more than `ratio` times its own size."""
    if not zipfile.is_zipfile(path):  # the reader finds out
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > max(ratio * size, SMALL):
            raise ValueError(f"its {size:,} bytes would unpack to {unpacked:,}; it was not read")
        for name in archive.namelist():
            # A bytearray's size is a number within the file.
            if name.endswith("data.pkl") and b"\nbytearray\n" in archive.read(name):
                raise ValueError("it holds a bytearray, which may take any memory")


def check_content(content: Any, size: int) -> None:
    """Raise a ValueError unless a file of `size` bytes holds weights and a small, plain config."""
    if not isinstance(content, dict) or "kindling" not in content:
        raise ValueError("written by another program: it holds no config and no spec")
    state, own = content.get("state_dict"), content["kindling"]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError("state_dict: expected tensors by name")
    # A view may repeat one stored number billions of times, which a lazy layer would copy.
    needed = max((getattr(value, "nbytes", 0) for value in state.values()), default=0)
    if needed > max(size, SMALL):
        raise ValueError(f"state_dict: would take {needed:,} bytes of a file of {size:,}")
    for key, kind in {"name": str, "config": dict, "spec": dict}.items():
        if not isinstance(own, dict) or not isinstance(own.get(key), kind):
            raise ValueError(f"kindling.{key}: expected a {kind.__name__}")
        check_plain(own[key], f"kindling.{key}", MOST_VALUES if key == "config" else 1_000_000)


def newest(files: Sequence[Path]) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """Return the first readable file, its content, and a line for each that is not readable.

    Both are None where there is no file; InputError when there are files, and none is whole.
    """
    lines: list[str] = []
    for path in files:
        if path.exists():
            try:
                return path, read_checkpoint(path), lines
            except InputError as error:
                lines += error.lines
    if lines:
        raise InputError([*lines, "no checkpoint of this run can be read"])
    return None, None, lines
