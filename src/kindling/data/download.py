"""Download the files of a data set: once, by one process, and each file whole or not at all.

The MNIST and CIFAR modules call `fetch`; a data set of your own with a fixed URL can too.
"""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import socket
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

from src.kindling.config.errors import InputError

TIMEOUT = 60  # seconds without a byte from the server; torchvision waits forever


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

    An archive that the user has put into the folder is used; others are downloaded. Any number of
    processes may call this at once: one downloads, the others wait. Files appear in the folder by
    renaming, so a killed process leaves no half-written file. Where no file is missing, nothing is
    written, so the folder may be read-only.

    Raises:
        InputError: when a file can neither be found nor downloaded, has another checksum, or cannot
            be written; with one line that names the file to put into the folder.
    """
    if not _missing(folder, archives):
        return
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            # Looked up again each time: another process may have fetched it in the meantime.
            while missing := _missing(folder, archives):
                _fetch_first(folder, missing)
    except OSError as error:
        raise InputError(
            f"{folder}: the data cannot be written there: {_reason(error)}; "
            "set data.data_dir=… to another folder"
        ) from error


def _missing(folder: Path, archives: Sequence[Archive]) -> list[Archive]:
    return [one for one in archives if not all((folder / file).is_file() for file in one.files)]


def _fetch_first(folder: Path, missing: Sequence[Archive]) -> None:
    archive, work = missing[0], folder / ".kindling-download"
    # Only the process with the lock makes this folder: a killed process left an existing one.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        packed = folder / archive.name
        if packed.is_file():
            _verify(packed, archive)
        else:
            packed = _download(folder, work, missing)
        _extract(packed, archive, work / "files", remedy=f"put the right file into {folder}")
        for file in archive.files:
            if not (folder / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(work / "files" / file, folder / file)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _verify(packed: Path, archive: Archive) -> None:
    from torchvision.datasets.utils import calculate_md5

    if (found := calculate_md5(packed)) != archive.md5:
        raise InputError(
            f"{packed}: its MD5 checksum is {found}, not {archive.md5}: it is incomplete, or "
            "another file; delete it to download it, or put the right one there"
        )


def _download(folder: Path, work: Path, missing: Sequence[Archive]) -> Path:
    """Download the first of the missing archives from the first mirror that has it."""
    from torchvision.datasets.utils import download_url

    archive, failures = missing[0], []
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        for url in archive.urls:
            print(f"downloading {url} to {folder}", file=sys.stderr)
            try:
                download_url(url, work, archive.name, archive.md5)
                return work / archive.name
            except (OSError, HTTPException, RecursionError) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                failures.append(f"{url}: {_reason(error)}")
            except RuntimeError:  # a connection that ends too early is no error to urllib
                size = (work / archive.name).stat().st_size
                failures.append(
                    f"{url}: the {size:,} bytes received are incomplete, or another file "
                    f"(their MD5 checksum is not {archive.md5})"
                )
    finally:
        socket.setdefaulttimeout(default_timeout)
    names = ", ".join(other.name for other in missing)
    raise InputError(f"{'; '.join(failures)}; try again, or put {names} into {folder} by hand")


def _extract(packed: Path, archive: Archive, into: Path, remedy: str) -> None:
    """Extract the archive's `files`, by these names: no member's own name decides on a path."""
    for file in archive.files:
        (into / file).parent.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(packed, "r:gz") as tar:
                for member in tar:
                    if member.isreg() and member.name in archive.files:
                        _copy(tar.extractfile(member), into / member.name)
        else:
            with gzip.open(packed) as single:
                _copy(single, into / archive.files[0])
    except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        reason = f"cannot be unpacked: {_reason(error)}"
        raise InputError(f"{archive.name}: {reason}; {remedy}") from error
    if lacking := [file for file in archive.files if not (into / file).is_file()]:
        raise InputError(f"{archive.name}: lacks {', '.join(lacking)}; {remedy}")


def _copy(source: IO[bytes] | Any, target: Path) -> None:
    with open(target, "wb") as file:
        shutil.copyfileobj(source, file, 2**20)


def _reason(error: BaseException) -> str:
    """The problem in the words of the system or the server."""
    if isinstance(error, URLError) and isinstance(error.reason, OSError):
        error = error.reason
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
