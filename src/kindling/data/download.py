"""Download the files of a data set: once, by one process, and each file whole or not at all.

The MNIST and CIFAR modules call `fetch`; a data set of your own with a fixed URL can too.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.console import Console
from rich.progress import wrap_file

from src.kindling.config.errors import InputError

TIMEOUT = 60  # seconds without a byte from the server


@dataclass(frozen=True)
class Archive:
    """A compressed file and its content.

    Attributes:
        name: its file name: `.tar.gz`, or `.gz` around a single file.
        md5: its checksum, in hexadecimal.
        urls: its mirrors, tried in this order.
        files: the files to extract: their paths in a tar archive and in the folder.
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    files: tuple[str, ...]


def fetch(folder: Path, archives: Sequence[Archive]) -> None:
    """Put the archives' files into a folder, where they are missing.

    An archive that the user has put into the folder is used; others are downloaded. Of several
    processes one downloads, and the others wait. Files appear in the folder by renaming, so a
    killed process leaves no half-written file. Where no file is missing, nothing is written.

    Raises:
        InputError: when a file can neither be found nor downloaded, has another checksum, or cannot
            be written; with one line that names the file to put into the folder.
    """
    if not _missing(folder, archives):
        return
    work = folder / ".kindling-download"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            try:
                # Looked up each time: another process may have fetched it in the meantime.
                while missing := _missing(folder, archives):
                    shutil.rmtree(work, ignore_errors=True)  # what a killed process left
                    work.mkdir()
                    _fetch_first(folder, work, missing)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        problem = f"the data cannot be written there: {_reason(error)}"
        raise InputError(f"{folder}: {problem}; set data.data_dir=… to another folder") from error


def _missing(folder: Path, archives: Sequence[Archive]) -> list[Archive]:
    return [one for one in archives if not all((folder / file).is_file() for file in one.files)]


def _fetch_first(folder: Path, work: Path, missing: Sequence[Archive]) -> None:
    archive = missing[0]
    packed = folder / archive.name
    if not packed.is_file():
        packed = _download(folder, work, missing)
    elif (found := _md5(packed)) != archive.md5:
        problem = f"its MD5 checksum is {found}, not {archive.md5}: it is incomplete, or"
        remedy = "delete it to download it, or put the right one there"
        raise InputError(f"{packed}: {problem} another file; {remedy}")
    remedy = f"put the right file into {folder}"
    try:
        _extract(packed, archive, work)
    except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        reason = f"cannot be unpacked: {_reason(error)}"
        raise InputError(f"{archive.name}: {reason}; {remedy}") from error
    if lacking := [file for file in archive.files if not (work / file).is_file()]:
        raise InputError(f"{archive.name}: lacks {', '.join(lacking)}; {remedy}")
    for file in archive.files:
        if not (folder / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(work / file, folder / file)


def _download(folder: Path, work: Path, missing: Sequence[Archive]) -> Path:
    """Download the first of the missing archives from the first mirror that has it."""
    archive, failures = missing[0], []
    packed, console = work / archive.name, Console(stderr=True)
    quiet = not console.is_terminal
    for url in archive.urls:
        print(f"downloading {url} to {folder}", file=sys.stderr)
        request = Request(url, headers={"User-Agent": "pytorch/vision"})  # as torchvision asks
        try:
            with urlopen(request, timeout=TIMEOUT) as response, packed.open("wb") as file:
                total = int(response.headers.get("Content-Length", 0))
                with wrap_file(response, total, console=console, disable=quiet) as stream:
                    shutil.copyfileobj(stream, file)
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            failures.append(f"{url}: {_reason(error)}")
            continue
        if _md5(packed) == archive.md5:
            return packed
        size = packed.stat().st_size  # a connection that ends too early is no error to urllib
        problem = f"the {size:,} bytes received are incomplete, or another file"
        failures.append(f"{url}: {problem} (their MD5 checksum is not {archive.md5})")
    names = ", ".join(other.name for other in missing)
    raise InputError(f"{'; '.join(failures)}; try again, or put {names} into {folder} by hand")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _extract(packed: Path, archive: Archive, into: Path) -> None:
    """Extract the archive's `files`, by these names: no member's own name decides on a path."""

    def copy(source: Any, name: str) -> None:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        with open(into / name, "wb") as target:
            shutil.copyfileobj(source, target)

    if archive.name.endswith(".tar.gz"):
        with tarfile.open(packed) as tar:
            for member in tar:
                if member.isreg() and member.name in archive.files:
                    copy(tar.extractfile(member), member.name)
    else:
        with gzip.open(packed) as single:
            copy(single, archive.files[0])


def _reason(error: BaseException) -> str:
    """The problem in the words of the system or the server."""
    if isinstance(error, URLError) and isinstance(error.reason, OSError):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
