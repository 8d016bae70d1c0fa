"""U-Net, for masks: features of a coarse scale are joined with those of the finer one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from src.kindling.config import InputError


class UNet(nn.Module):
    """Blocks of two convolutions on the way down and on the way up, joined at each size.

    Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation,
    https://arxiv.org/abs/1505.04597; here with batch normalization, and padded, so that the output
    is as large as the input, whatever its size.

    Args:
        in_shape: `(channels, height, width)` of one image.
        num_outputs: number of classes, or of values for each pixel.
        channels: of the blocks from the finest to the coarsest; each halves height and width.
        dropout: share of the coarsest block's channels that is dropped in training.

    Raises:
        InputError: when the input is no image.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        channels: tuple[int, ...] = (32, 64, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            problem = "UNet needs images (channels, height, width)"
            raise InputError(f"net: {problem}, and the data is {in_shape}")
        if not channels or min(channels) < 1:
            expected = "expected at least one block, and at least 1 channel in each"
            raise ValueError(f"{expected}, got {list(channels)}")
        depths = [in_shape[0], *channels]
        self.down = nn.ModuleList(
            block(above, below) for above, below in zip(depths, channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        steps = [*zip(channels[:0:-1], channels[-2::-1], strict=True)]  # the coarsest first
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2) for below, above in steps
        )
        self.up = nn.ModuleList(block(2 * above, above) for _, above in steps)
        self.head = nn.Conv2d(channels[0], num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, H, W)` to `(B, num_outputs, H, W)`."""
        H, W = x.shape[2:]
        whole = 2 ** len(self.grow)  # height and width have to be halved so often
        x = nn.functional.pad(x, (0, -W % whole, 0, -H % whole))
        seen: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = down(self.pool(x) if level else x)
            seen.append(x)
        x = self.dropout(seen.pop())
        for grow, up in zip(self.grow, self.up, strict=True):
            x = up(torch.cat([seen.pop(), grow(x)], dim=1))
        outputs: Tensor = self.head(x)[:, :, :H, :W]
        return outputs


def block(depth: int, next_depth: int) -> nn.Sequential:
    """Two convolutions with batch normalization and ReLU: `depth` channels to `next_depth`."""
    layers: list[nn.Module] = []
    for before in (depth, next_depth):
        layers += [
            nn.Conv2d(before, next_depth, 3, padding=1, bias=False),
            nn.BatchNorm2d(next_depth),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
