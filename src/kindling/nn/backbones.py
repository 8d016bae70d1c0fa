"""Backbones of torchvision and timm, and files of weights."""

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

from src.kindling.config.errors import InputError, did_you_mean, join_names
from src.kindling.data.preprocess import InputStats


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from safetensors, a `torch.save` file, or another run's checkpoint."""
    from src.kindling.runs.checkpoint_file import check_size, read_checkpoint

    problem = f"net.weights: {path}"
    if not path.is_file():
        remedy = "'hub' downloads them, and 'none' begins at random"
        raise InputError(f"{problem}: no such file; {remedy}")
    if path.suffix == ".ckpt":
        states, body = read_checkpoint(path)["state_dict"], "net.body."
        return {name[len(body) :]: states[name] for name in states if name.startswith(body)}
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        remedy = "pip install -e '.[timm]'"
        raise InputError(f"{problem}: safetensors is not installed: {remedy}") from None
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error):
            reason = "untrusted: it holds more than tensors and plain values; it was not loaded"
            raise InputError(f"{problem}: {reason}") from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        reason += "; .safetensors, .pth and a run's .ckpt can"
        raise InputError(f"{problem}: cannot be read: {reason}") from error
    for key in ("state_dict", "model", "model_state_dict"):  # how others wrap them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    values = content.values() if isinstance(content, dict) else [content]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in values):
        raise InputError(f"{problem}: holds no tensors by name; save a net's state_dict()")
    return {name.removeprefix("module."): value for name, value in content.items()}


def match_by_order(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, str]:
    """Map our names to theirs if last name parts and shapes agree in order; else return no names.

    Only one layer, the head, may follow in theirs: a deeper net begins like a shallow one.
    """
    pairs = dict(zip(ours, theirs, strict=False))
    agree = len(pairs) == len(ours) and all(
        ours[name].shape == theirs[source].shape
        and name.rpartition(".")[2] == source.rpartition(".")[2]
        for name, source in pairs.items()
    )
    rest = {name.rpartition(".")[0] for name in [*theirs][len(ours) :]}
    return pairs if agree and len(rest) < 2 else {}


def describe_renaming(sources: dict[str, str]) -> str:
    """`conv1.weight from stem.0.weight, … and 117 more`."""
    renamed = [f"{name} from {source}" for name, source in sources.items() if name != source]
    return join_names(renamed, most=3)


def find_backbone(name: str) -> _Torchvision | _Timm:
    from torchvision import models

    known = models.list_models(module=models)
    if name in known:
        return _Torchvision(name)
    try:
        import timm
    except ImportError:
        problem = f"torchvision has no '{name}'{did_you_mean(name, known)}"
        remedy = "timm's nets need its extra: pip install -e '.[timm]'"
        raise ValueError(f"name: {problem}; {remedy}") from None
    short = name.removeprefix("timm/")
    architecture, _, tag = short.partition(".")
    if not timm.is_model(architecture):
        prefix = "timm/" if name != short else ""
        names = {*known, *(prefix + other for other in timm.list_models())}
        hint = did_you_mean(name, names)
        raise ValueError(f"name: neither torchvision nor timm has '{name}'{hint}")
    if tag and short not in (tags := timm.list_pretrained(f"{architecture}.*")):
        has = ", ".join(other.partition(".")[2] for other in tags) or "none"
        hint = f"{did_you_mean(short, tags)} (it has: {has})"
        raise ValueError(f"name: timm has no weights '{tag}' of {architecture}{hint}")
    return _Timm(short)


def find_head(net: nn.Module) -> str:
    """Find the head's dotted name: `head`, or else the last layer with parameters."""
    if isinstance(getattr(net, "head", None), nn.Module):
        return "head"
    layers: list[str] = [
        name for name, layer in net.named_modules() if [*layer.parameters(recurse=False)]
    ]
    if not any(layers):
        raise InputError(f"net: {type(net).__name__} has no layer with parameters")
    return layers[-1]


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

        options = {"image_size": size} if size and self.name.startswith("vit_") else {}
        # These two have a second head for training; their weights want them to transform the input.
        if self.name in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": False, "transform_input": True}
        body = models.get_model(self.name, weights=None, **options)
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
        names = filter(None, (self.of.architecture, self.of.tag))
        self.file = ".".join(names) + Path(self.url).suffix

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
            return torch.hub.load_state_dict_from_url(
                self.url, map_location="cpu", progress=True, check_hash=True, weights_only=True
            )
        path = try_to_load_from_cache(self.of.hf_hub_id, self.there)
        if not isinstance(path, str):
            if not getproxies():  # asked once, instead of many times for most of a minute
                socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
            path = hf_hub_download(self.of.hf_hub_id, self.there)
        return read_weights(Path(path))

    def adapted(self, body: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert weights in the authors' format, or for another size, to this body's format."""
        import timm

        module = sys.modules[timm.model_entrypoint(self.of.architecture).__module__]
        change = getattr(module, "checkpoint_filter_fn", None)
        try:
            return dict(change(weights, body)) if change else weights
        except Exception:  # they are of another net
            return weights
