"""Find the images that cannot be read before training, all of them at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from src.kindling.config.cores import usable_cores
from src.kindling.config.errors import InputError
from src.kindling.data.images.decode import decode
from src.kindling.data.images.image_data import ImageFiles, load_or_compute

ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of a whole JPEG and a whole PNG
LISTED = 20


def check_readable(images: ImageFiles) -> None:
    """Check the header and the last bytes of each file, and decode where these are not enough.

    Raises:
        InputError: with a line for each of the first unreadable images. Without any, the result is
            cached under data/.
    """

    def check() -> object:
        with ThreadPoolExecutor(usable_cores()) as pool:
            found = pool.map(lambda i: _problem(images, i), range(len(images)))
            lines = [line for line in found if line]
        if len(lines) > LISTED:
            lines[LISTED:] = [f"and {len(lines) - LISTED:,} more unreadable images"]
        if lines:
            raise InputError(lines)
        return np.zeros(0)

    load_or_compute("readable", images.paths.fingerprint(images.max_pixels), check)


def _problem(images: ImageFiles, i: int) -> str:
    path = images.paths.path(i)
    try:
        with Image.open(path) as image, open(path, "rb") as file:
            file.seek(-max(map(len, ENDS)), os.SEEK_END)
            width, height = image.size
            if file.read().endswith(ENDS) and width * height <= images.max_pixels:
                return ""
    except Exception:  # which decode reports
        pass
    try:
        decode(path, images.channels, images.max_pixels, images.size)
    except InputError as error:
        return str(error)
    return ""
