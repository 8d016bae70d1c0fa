"""Backbones of torchvision and timm with a new head, from the weights of another training."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError
from src.kindling.nn.backbones import (
    describe_renaming,
    find_backbone,
    match_by_order,
    read_weights,
)

# For weights copied by hand, on a machine without network; tried before a download.
KEPT = "data/weights"
SILENCE = 60  # seconds without a byte from a server before it counts as broken


class Pretrained(nn.Module):
    """A backbone that gives features, then a linear head for these data.

    The backbone's size, mean and standard deviation are the task's preprocessing: raw images of any
    size, gray or color, become what it was trained on.

    Args:
        in_shape: `(channels, height, width)` of one raw image; 1 or 3 channels.
        num_outputs: number of classes or of target values.
        name: of the backbone in torchvision, or in timm if torchvision lacks it or with `timm/…`
            (`pip install -e '.[timm]'`), where a tag says which weights: `convnext_atto.d2_in1k`.
        weights: `hub` downloads them, with a progress bar and a checksum, into the library's cache;
            a path loads a file (`.safetensors`, `.pth`, or another run's `.ckpt`); `none`
            initializes at random.
        size: images are resized to this height and width; default: the backbone's training size.
        match: `order` also takes weights under other names, if their order and shapes agree.

    Raises:
        InputError: when the data are no images.
        ValueError: when there is no such backbone, or it takes no such size.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        name: str = "resnet18",
        weights: str = "hub",
        size: int | None = None,
        match: Literal["name", "order"] = "name",
    ) -> None:
        super().__init__()
        if len(in_shape) != 3 or in_shape[0] not in (1, 3):
            problem = f"{name} needs images of 1 or 3 channels, and the data is {in_shape}"
            raise InputError(f"net: {problem}; try net=mlp")
        if size is not None and size < 1:
            raise ValueError(f"size: expected at least 1, got {size}")
        self.weights, self.match, self.notes = weights, match, list[str]()
        self.source = find_backbone(name)
        self.body, features = self.source.build(size)
        self.input_stats = self.source.stats(size)
        self.head = nn.Linear(features, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, size, size)` to `(B, num_outputs)`."""
        logits: Tensor = self.head(self.body(x))
        return logits

    def load_weights(self) -> None:
        """Begin with the weights of another training, but for the head; `notes` say what was taken.

        Raises:
            InputError: when they cannot be downloaded or read, or are those of another net.
        """
        if self.weights == "none":
            return
        if self.weights != "hub":
            self._take(read_weights(ROOT / Path(self.weights).expanduser()), self.weights)
        elif (kept := ROOT / KEPT / self.source.file).is_file():
            self._take(read_weights(kept), f"{KEPT}/{kept.name}")
        else:
            self._take(self._download(), f"the hub ({self.source.file})")

    def _download(self) -> dict[str, Tensor]:
        if not self.source.url:
            problem = f"there are none for '{self.source.name}'{self.source.tagged()}"
            raise InputError(f"net.weights: {problem}; net.weights=none begins at random")
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SILENCE)
        try:
            return self.source.download()
        except Exception as error:
            cause = getattr(error, "reason", error)  # urllib's
            reason = getattr(cause, "strerror", None) or str(cause).partition("\n")[0]
            reason = reason or type(error).__name__
            problem = f"{self.source.url} could not be downloaded ({reason})"
            remedy = f"bring it as {KEPT}/{self.source.file}, or name a file: net.weights=PATH"
            raise InputError(f"net.weights: {problem}; {remedy}") from error
        finally:
            socket.setdefaulttimeout(patience)

    def _take(self, theirs: dict[str, Tensor], where: str) -> None:
        ours = self.body.state_dict()
        theirs = self.source.adapted(self.body, theirs)
        shared = [name for name in theirs if name in ours]
        fits = [name for name in shared if ours[name].shape == theirs[name].shape]
        lacking = [name for name in ours if name not in fits]
        renaming = match_by_order(ours, theirs) if lacking else {}
        if lacking and not (renaming and self.match == "order"):
            first = lacking[0]
            there = tuple(theirs[first].shape) if first in theirs else "missing"
            remedy = f"; net.match=order takes {describe_renaming(renaming)}" if renaming else ""
            raise InputError(
                f"net.weights: {where}: not of a {self.source.name}: {len(lacking)} of its "
                f"{len(ours)} tensors do not fit, such as {first} "
                f"({tuple(ours[first].shape)} here, {there} there){remedy}"
            )
        sources = renaming or dict(zip(fits, fits, strict=True))
        self.body.load_state_dict({name: theirs[source] for name, source in sources.items()})
        taken = {*sources.values()}
        left = list(dict.fromkeys(name.rpartition(".")[0] for name in theirs if name not in taken))
        rest = f" (not taken: {', '.join(left)})" if left else ""
        taken_from = f"{len(sources)} tensors of {self.source.name} from {where}"
        self.notes = [f"weights: {taken_from}; the head is new{rest}"]
        if renaming:
            self.notes.append(f"weights: by order: {describe_renaming(renaming)}")
