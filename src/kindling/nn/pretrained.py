"""Backbones of torchvision and timm with a new head, from the weights of another training."""

from __future__ import annotations

import pickle
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from src.kindling.config.compose import ROOT
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.data.preprocess import InputStats
from src.kindling.nn.head import find_head

# Where weights may be put by hand, on a machine without network; tried before anything is downloaded.
KEPT = "data/weights"
SILENCE = 60  # seconds without a byte from a server before it counts as broken


class Pretrained(nn.Module):
    """A backbone that gives features, then a linear head for these data.

    The backbone's own size, mean and standard deviation are the task's preprocessing: raw images of any size, grey or
    colour, become what it was trained on.

    Args:
        in_shape: `(channels, height, width)` of one raw image; 1 or 3 channels.
        num_outputs: number of classes or of target values.
        name: of the backbone. A name that torchvision has is torchvision's; any other, and `timm/…`, is timm's
            (`pip install -e '.[timm]'`), where a tag says which weights: `convnext_atto.d2_in1k`.
        weights: `hub` downloads them, with a progress bar and a checksum, into the library's cache; a path names a file
            (`.safetensors`, `.pth`, or another run's `.ckpt`); `none` begins at random.
        size: height and width that images are resized to; left out, what the backbone was trained on.

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
    ) -> None:
        super().__init__()
        if len(in_shape) != 3 or in_shape[0] not in (1, 3):
            raise InputError(f"net: {name} needs images of 1 or 3 channels, and the data is {in_shape}; try net=mlp")
        if size is not None and size < 1:
            raise ValueError(f"size: expected at least 1, got {size}")
        self.weights, self.notes = weights, list[str]()
        self.source = _find(name)
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
            raise InputError(f"net.weights: there are none for '{self.source.name}'{self.source.tagged()}; "
                             "net.weights=none begins at random")  # fmt: skip
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SILENCE)
        try:
            return self.source.download()
        except Exception as error:
            cause = getattr(error, "reason", error)  # urllib's
            reason = getattr(cause, "strerror", None) or str(cause).partition("\n")[0] or type(error).__name__
            raise InputError(f"net.weights: {self.source.url} could not be downloaded ({reason}); bring it as "
                             f"{KEPT}/{self.source.file}, or name a file: net.weights=PATH") from error  # fmt: skip
        finally:
            socket.setdefaulttimeout(patience)

    def _take(self, theirs: dict[str, Tensor], where: str) -> None:
        ours = self.body.state_dict()
        theirs = self.source.adapted(self.body, theirs)
        fits = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
        lacking = [name for name in ours if name not in fits]
        if lacking:
            there = tuple(theirs[lacking[0]].shape) if lacking[0] in theirs else "missing"
            raise InputError(f"net.weights: {where}: not of a {self.source.name}: {len(lacking)} of its {len(ours)} tensors do "
                             f"not fit, such as {lacking[0]} ({tuple(ours[lacking[0]].shape)} here, {there} there)")  # fmt: skip
        self.body.load_state_dict(fits)
        left = list(dict.fromkeys(name.rpartition(".")[0] for name in theirs if name not in fits))
        self.notes = [f"weights: {len(fits)} tensors of {self.source.name} from {where}; "
                      f"the head is new{' (not taken: ' + ', '.join(left) + ')' if left else ''}"]  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name: safetensors, what `torch.save` wrote, or a backbone from another run's checkpoint.

    Raises:
        InputError: when there is no such file, or it cannot be read, or holds code.
    """
    from src.kindling.runs.checkpoint_file import read_checkpoint

    told = f"net.weights: {path}"
    if not path.is_file():
        raise InputError(f"{told}: no such file; 'hub' downloads them, and 'none' begins at random")
    if path.suffix == ".ckpt":
        states = read_checkpoint(path)["state_dict"]
        return {name.removeprefix("net.body."): value for name, value in states.items() if name.startswith("net.body.")}
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise InputError(f"{told}: safetensors is not installed: pip install -e '.[timm]'") from None
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error):
            raise InputError(
                f"{told}: untrusted: it holds more than tensors and plain values; it was not loaded"
            ) from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{told}: cannot be read: {reason}; .safetensors, .pth and a run's .ckpt can") from error
    for key in ("state_dict", "model", "model_state_dict"):  # how others wrap them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{told}: holds no tensors by name; save a net's state_dict()")
    return {name.removeprefix("module."): value for name, value in content.items()}


# ---------------------------------------------------------------------------------------------------------------
# The two libraries


def _find(name: str) -> _Torchvision | _Timm:
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return _Torchvision(name)
    try:
        import timm
    except ImportError:
        raise ValueError(f"name: torchvision has no '{name}'{did_you_mean(name, known)}; timm's nets need its extra: "
                         "pip install -e '.[timm]'") from None  # fmt: skip
    short = name.removeprefix("timm/")
    architecture, _, tag = short.partition(".")
    if not timm.is_model(architecture):
        names = [f"timm/{other}" for other in timm.list_models()] if name != short else timm.list_models()
        raise ValueError(f"name: neither torchvision nor timm has '{name}'{did_you_mean(name, {*known, *names})}")
    if tag and short not in (tags := timm.list_pretrained(f"{architecture}.*")):
        raise ValueError(f"name: timm has no weights '{tag}' of {architecture}{did_you_mean(short, tags)} "
                         f"(it has: {', '.join(other.partition('.')[2] for other in tags) or 'none'})")  # fmt: skip
    return _Timm(short)


class _Torchvision:
    def __init__(self, name: str) -> None:
        from torchvision import models

        self.name = name
        self.of: Any = models.get_model_weights(name).DEFAULT
        self.url: str = self.of.url
        self.file = self.url.rpartition("/")[2]

    def build(self, size: int | None) -> tuple[nn.Module, int]:
        """The net without its head, and the number of features that it gives."""
        from torchvision import models

        fixed = {"image_size": size} if size and self.name.startswith("vit_") else {}
        # These two have a second head for training; their weights want them to transform the input.
        odd = {"aux_logits": False, "init_weights": False, "transform_input": True} \
            if self.name in ("googlenet", "inception_v3") else {}  # fmt: skip
        body = models.get_model(self.name, weights=None, **fixed, **odd)
        head = find_head(body)
        layer: Any = body.get_submodule(head)
        body.set_submodule(head, nn.Identity())
        return body, layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels

    def stats(self, size: int | None) -> InputStats:
        made = self.of.transforms()
        return InputStats(size or made.crop_size[0], tuple(made.mean), tuple(made.std))

    def tagged(self) -> str:
        return ""

    def download(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = self.of.get_state_dict(progress=True, check_hash=True)
        return weights

    def adapted(self, body: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights


class _Timm:
    def __init__(self, name: str) -> None:
        import timm

        self.name = name
        found = timm.get_pretrained_cfg(name)
        assert found is not None
        self.of: Any = found
        self.there: str = self.of.hf_hub_filename or "model.safetensors"
        self.url = str(self.of.url or "")
        if self.of.hf_hub_id:
            self.url = f"https://huggingface.co/{self.of.hf_hub_id}/resolve/main/{self.there}"
        self.file = f"{'.'.join(filter(None, (self.of.architecture, self.of.tag)))}{Path(self.url).suffix}"

    def build(self, size: int | None) -> tuple[nn.Module, int]:
        import timm

        fixed: dict[str, Any] = {"img_size": size} if size and self.of.fixed_input_size else {}
        body: Any = timm.create_model(self.name, pretrained=False, num_classes=0, **fixed)
        return body, getattr(body, "head_hidden_size", None) or body.num_features

    def stats(self, size: int | None) -> InputStats:
        return InputStats(size or self.of.input_size[1], tuple(self.of.mean), tuple(self.of.std))

    def tagged(self) -> str:
        import timm

        others = timm.list_pretrained(f"{self.of.architecture}*")
        return did_you_mean(self.name, others, cutoff=0.3)

    def download(self) -> dict[str, Tensor]:
        from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

        if not self.of.hf_hub_id:
            return torch.hub.load_state_dict_from_url(self.url, map_location="cpu", progress=True, check_hash=True,
                                                      weights_only=True)  # fmt: skip
        path = try_to_load_from_cache(self.of.hf_hub_id, self.there)
        if not isinstance(path, str):
            if not getproxies():  # asked once, instead of many times for most of a minute
                socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
            path = hf_hub_download(self.of.hf_hub_id, self.there)
        return read_weights(Path(path))

    def adapted(self, body: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights in a form that the backbone's authors published, or for another size, in that of this body."""
        import timm

        module = sys.modules[timm.model_entrypoint(self.of.architecture).__module__]
        change = getattr(module, "checkpoint_filter_fn", None)
        try:
            return dict(change(weights, body)) if change else weights
        except Exception:  # they are of another net
            return weights
