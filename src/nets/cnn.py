"""A small convolutional net, for images of any size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from src.kindling.config import InputError


class CNN(nn.Module):
    """Blocks of convolution, batch normalization, ReLU and pooling, then a linear head.

    Each block halves height and width as long as they are above 4 pixels.

    Args:
        in_shape: `(channels, height, width)` of one image.
        num_outputs: number of classes or of target values.
        channels: output channels of each block.
        dropout: share of the features before the head that is dropped in training.
        global_pool: None gives the head the features of each position; `max` or `mean` pools them
            over all positions.

    Raises:
        InputError: when the input is no image.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        channels: tuple[int, ...] = (32, 64),
        dropout: float = 0.0,
        global_pool: Literal["max", "mean"] | None = None,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            problem = "CNN needs images (channels, height, width)"
            raise InputError(f"net: {problem}, and the data is {in_shape}; try net=mlp")
        if min(channels, default=1) < 1:
            raise ValueError(f"expected at least 1 channel in each block, got {list(channels)}")
        depth, height, width = in_shape
        layers: list[nn.Module] = []
        for next_depth in channels:
            layers += [
                nn.Conv2d(depth, next_depth, 3, padding=1, bias=False),
                nn.BatchNorm2d(next_depth),
                nn.ReLU(),
            ]
            if min(height, width) > 4:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            depth = next_depth
        if global_pool is not None:
            pool = nn.AdaptiveMaxPool2d if global_pool == "max" else nn.AdaptiveAvgPool2d
            layers.append(pool(1))
            height = width = 1
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(depth * height * width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, height, width)` to `(B, num_outputs)`."""
        logits: Tensor = self.head(self.body(x))
        return logits
