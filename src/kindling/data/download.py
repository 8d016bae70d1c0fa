"""Fetching the files of a standard data set: once, by one process at a time, and each file whole or not at all.

src/data/mnist.py and src/data/cifar.py call `fetch`; a data set of your own that has a fixed address can as well.
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
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError

from src.kindling.config.errors import InputError

SILENCE = 60  # seconds without a byte from the server before it counts as broken; torchvision waits forever


@dataclass(frozen=True)
class Archive:
    """A compressed file, and what is wanted of it.

    Attributes:
        name: its file name: `.tar.gz`, or `.gz` around a single file.
        md5: its checksum, in hexadecimal.
        urls: where it can be had, tried in this order.
        files: the wanted files' paths, in a tar archive as in the folder that they are fetched into.
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    files: tuple[str, ...]


def fetch(folder: Path, archives: Sequence[Archive]) -> None:
    """Put the archives' files into a folder, where they are not there yet.

    An archive that somebody has put into the folder is used; others are downloaded. Any number of processes may call
    this at once: one works, and the others wait. Files appear in the folder by renaming, so a process that is killed
    leaves nothing behind that looks whole and is not. Where all is there, nothing is written, so the folder may be
    read-only.

    Raises:
        InputError: when a file can neither be found nor downloaded, is not what its checksum says, or cannot be
            written; with one line that says which file to put where.
    """
    if not _missing(folder, archives):
        return
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            # Asked again, since another process may have been at work; and each time, to tell what is still missing.
            while missing := _missing(folder, archives):
                _fetch(folder, missing)
    except OSError as error:
        raise InputError(f"{folder}: the data cannot be written there: {_reason(error)}; "
                         "data.data_dir=… names another folder") from error  # fmt: skip


def _missing(folder: Path, archives: Sequence[Archive]) -> list[Archive]:
    return [archive for archive in archives if not all((folder / file).is_file() for file in archive.files)]


def _fetch(folder: Path, missing: Sequence[Archive]) -> None:
    """The files of the first of the missing archives."""
    archive = missing[0]
    work = folder / ".kindling-download"
    # Only who holds the lock makes this folder: if it is here already, its maker was killed.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        packed = folder / archive.name
        if packed.is_file():
            _verify(packed, archive)
        else:
            packed = _download(folder, work, missing)
        _extract(packed, archive, work)
        for file in archive.files:
            if not (folder / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(work / "files" / file, folder / file)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _verify(packed: Path, archive: Archive) -> None:
    from torchvision.datasets.utils import calculate_md5

    if (found := calculate_md5(packed)) != archive.md5:
        raise InputError(f"{packed}: its MD5 checksum is {found}, not {archive.md5}: it is cut off, or another file; "
                         "delete it to have it downloaded, or put the right one there")  # fmt: skip


def _download(folder: Path, work: Path, missing: Sequence[Archive]) -> Path:
    from torchvision.datasets.utils import calculate_md5, download_url

    archive = missing[0]
    packed = work / archive.name
    failures = []
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        for url in archive.urls:
            # `download_url` takes a file that is there for the one that is wanted, be it half of it.
            packed.unlink(missing_ok=True)
            print(f"downloading {url} to {folder}", file=sys.stderr)
            try:
                download_url(url, work, archive.name)
            except (OSError, HTTPException, RuntimeError) as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise
                failures.append(f"{url}: {_reason(error)}")
                continue
            # A connection that ends too early is no error to urllib, so the checksum has to tell.
            if calculate_md5(packed) == archive.md5:
                return packed
            failures.append(f"{url}: the {packed.stat().st_size:,} bytes that came are cut off, or another file "
                            f"(their MD5 checksum is not {archive.md5})")  # fmt: skip
    finally:
        socket.setdefaulttimeout(patience)
    names = ", ".join(other.name for other in missing)
    raise InputError(f"{'; '.join(failures)}; try again, or put {names} into {folder} by hand")


def _extract(packed: Path, archive: Archive, work: Path) -> None:
    """The archive's wanted files to `work/files`, and nothing else to anywhere.

    No member's name or link ever decides where something is written, whichever Python this is (tarfile's filters came
    with 3.11.4): wanted files are copied out one by one, by the names that we know. An archive with a member that
    points outside is refused all the same, since it is not what it claims to be.
    """
    into = work / "files"
    for file in archive.files:
        (into / file).parent.mkdir(parents=True, exist_ok=True)
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(packed, "r:gz") as tar:
                for member in tar:
                    if _outside(member.name) or _outside(member.linkname):
                        raise InputError(f"{archive.name}: refused, since its member '{member.name}' points outside "
                                         f"of the archive; put the right file into {work.parent}")  # fmt: skip
                    wanted = tar.extractfile(member) if member.isreg() and member.name in archive.files else None
                    if wanted is not None:
                        _copy(wanted, into / member.name)
        else:
            with gzip.open(packed) as single:
                _copy(single, into / archive.files[0])
    except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        raise InputError(f"{archive.name}: cannot be unpacked: {_reason(error)}; "
                         f"put the right file into {work.parent}") from error  # fmt: skip
    if lacking := [file for file in archive.files if not (into / file).is_file()]:
        raise InputError(f"{archive.name}: lacks {', '.join(lacking)}; put the right file into {work.parent}")


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path) -> None:
    with open(target, "wb") as file:
        shutil.copyfileobj(source, file, 2**20)


def _outside(path: str) -> bool:
    return path.startswith("/") or ".." in PurePosixPath(path).parts


def _reason(error: BaseException) -> str:
    """What went wrong, in the words of the system or the server."""
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
