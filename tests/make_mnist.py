"""Writes data in MNIST's format and size, made from scikit-learn's digits: no network, and never the same image twice.

python -m tests.make_mnist TRAIN TEST [FOLDER]      60000 10000 data/MNIST/raw, say
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 20  # of a digit within its image of 28x28, as in MNIST


def write(folder: Path, train: int, test: int, seed: int = 0) -> None:
    """The four files; test images are made from other handwriting than training images."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn.functional import interpolate

    small, digits = load_digits(return_X_y=True)
    large = interpolate(torch.from_numpy(small).reshape(-1, 1, 8, 8), (SIDE, SIDE), mode="bilinear")
    large = (large[:, 0] * (223 / 16)).to(torch.uint8)  # up to 223: noise comes on top
    margin = 28 - SIDE
    # Each digit on a canvas that a window of 28x28 can be moved over without losing any of it.
    canvas = np.pad(large.numpy(), ((0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (28, 28), axis=(1, 2))
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    cut = len(digits) * 4 // 5
    for name, count, low, high in (("train", train, 0, cut), ("t10k", test, cut, len(digits))):
        chosen = random.integers(low, high, count)
        images = windows[
            chosen, random.integers(0, margin + 1, count), random.integers(0, margin + 1, count)
        ]
        images += random.integers(0, 32, images.shape, dtype=np.uint8)
        _write_idx(folder / f"{name}-images-idx3-ubyte", images)
        _write_idx(folder / f"{name}-labels-idx1-ubyte", digits[chosen].astype(np.uint8))


def _write_idx(path: Path, values: Any) -> None:
    header = np.array([0x800 + values.ndim, *values.shape], dtype=">u4")
    path.write_bytes(header.tobytes())
    with open(path, "ab") as file:
        values.tofile(file)


if __name__ == "__main__":
    write(
        Path(sys.argv[3] if len(sys.argv) > 3 else "data/MNIST/raw"),
        int(sys.argv[1]),
        int(sys.argv[2]),
    )
