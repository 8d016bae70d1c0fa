"""Split the body of a request into files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from io import BytesIO

from python_multipart.multipart import Field, File, parse_form
from starlette.exceptions import HTTPException

Files = Sequence[tuple[str, bytes]]  # names and contents
FIELDS = (b"file", b"files")  # whose content is a file in any case
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # about clients' forms


def media_type(content_type: str) -> str:
    """The type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def split_files(content_type: str, body: bytes, several: bool, max_files: int) -> Files:
    """The names and contents of a form's files, or of the body, which is one image."""
    if media_type(content_type) != "multipart/form-data":
        return [("image", body)]
    files = _parse_form(content_type, body, max_files)
    if not files:
        raise HTTPException(422, "the form has no file")
    if not several and len(files) > 1:
        reason = f"the form has {len(files)} files; send several to /predict/batch"
        raise HTTPException(422, reason)
    return files


def _parse_form(content_type: str, body: bytes, max_files: int) -> Files:
    files: list[tuple[str, bytes]] = []

    def add(name: bytes | None, content: bytes) -> None:
        if len(files) == max_files:
            raise HTTPException(413, f"Too many files; the maximum is {max_files}")
        files.append(((name or b"image").decode("utf-8", "replace"), content))

    def add_file(file: File) -> None:
        file.file_object.seek(0)
        add(file.file_name, file.file_object.read())
        file.close()

    def add_field(field: Field) -> None:
        if field.field_name in FIELDS:  # a client that sends no file name
            add(None, field.value or b"")

    headers = {"Content-Type": content_type.encode("latin-1")}
    try:
        parse_form(headers, BytesIO(body), add_field, add_file)
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(422, f"the form cannot be read: {error}") from None
    return files
