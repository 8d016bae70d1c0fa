"""For schemathesis: a file is an image that Pillow reads, not one of any type."""

from __future__ import annotations

import numpy as np
import schemathesis
from hypothesis import strategies as st

from tests.kindling.deploy.serving.server_process import encode

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
IMAGES = {name: encode(np.full((9, 7, 3), 50, np.uint8), format=name) for name in FORMATS}

schemathesis.openapi.format("binary", st.sampled_from([*IMAGES.values()]))
for name, image in IMAGES.items():
    schemathesis.openapi.media_type(f"image/{name.lower()}", st.just(image))
