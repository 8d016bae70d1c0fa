"""Save attributes that a module changes while it trains: counters, lists, generators, buffers.

Lightning saves a `state_dict` only. `self.training_step_outputs`, a moving average that is a float,
a replay buffer, a generator or a buffer with `persistent=False` would start as new in a resumed
training.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import ChainMap, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Dataset

from src.kindling.config import targets

ATOMS = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (list, tuple, set, frozenset, deque, dict, OrderedDict, AttributeDict)
}
LOST = "cannot be saved"
# Saved by Lightning, or only read.
ELSEWHERE: tuple[type, ...] = (nn.Module, nn.Parameter, Optimizer, LightningOptimizer, LRScheduler)
ELSEWHERE += (Trainer, Logger, LightningDataModule, Dataset, DataLoader)
MOST_BYTES = 256 * 2**20  # of one attribute
MOST_LEVELS = 100  # within it; some objects contain themselves


class NotPlain(Exception):
    """A value that a checkpoint cannot hold: a function, a file, an object of a library."""


class Attributes:
    """The attributes of some objects that have changed since this was made.

    Args:
        owners: the objects by name; of those whose class is not the user's, only `buffers`.
        most_bytes: larger attributes are left out.
        buffers: those that the state dict lacks, by owner.
    """

    def __init__(
        self,
        owners: Mapping[str, Any],
        most_bytes: int = MOST_BYTES,
        buffers: Mapping[str, set[str]] | None = None,
    ) -> None:
        self.packages = tuple(
            f"{name}." for name in ("src", "__main__", *targets.allowed_by_user())
        )
        self.buffers = buffers or {}
        self.owners = {
            name: one
            for name, one in owners.items()
            if self._is_users(type(one)) or name in self.buffers
        }
        self.most_bytes = most_bytes
        self.before = {key: _digest(value) for key, value in self._encode_all().items()}

    @classmethod
    def of_training(cls, trainer: Trainer, module: LightningModule) -> Attributes:
        """Those of the module, of its parts and of callbacks without a `state_dict`."""
        owners: dict[str, Any] = {f"module.{name}": part for name, part in module.named_modules()}
        buffers: dict[str, set[str]] = {}
        for path in dict(module.named_buffers()).keys() - module.state_dict().keys():
            owner, _, name = path.rpartition(".")
            buffers.setdefault(f"module.{owner}", set()).add(name)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            kind = type(callback)
            number = sum(name.startswith(f"callback.{kind.__name__}.") for name in owners)
            if kind.state_dict is Callback.state_dict:
                owners[f"callback.{kind.__name__}.{number}"] = callback
        return cls(owners, buffers=buffers)

    def changed(self) -> dict[str, dict[str, Any]]:
        """Return those that differ as tensors and plain values, by owner and name."""
        found: dict[str, dict[str, Any]] = {}
        for (owner, name), value in self._encode_all().items():
            if _digest(value) != self.before.get((owner, name)):
                found.setdefault(owner, {})[name] = value
        return found

    def restore(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the attributes that `changed` returned; an object that exists is filled."""
        for owner_name in saved.keys() & self.owners.keys():
            owner = self.owners[owner_name]
            modules = [kind.__module__ for kind in type(owner).__mro__ if self._is_users(kind)]
            classes = ChainMap(*(vars(sys.modules[name]) for name in modules))
            for name, value in saved[owner_name].items():
                is_buffer = name in self.buffers.get(owner_name, ())
                place = owner._buffers if is_buffer else vars(owner)
                try:
                    place[name] = _decode(value, place.get(name), classes)
                except (KeyError, TypeError, NotPlain) as error:
                    print(
                        f"WARNING    task: {type(owner).__name__}.{name} changed in training and "
                        f"cannot be restored ({error}); it starts as new, so that the resumed "
                        "training is not exact; save it in on_save_checkpoint"
                    )

    def _is_users(self, kind: type) -> bool:
        package = f"{kind.__module__}."
        return package.startswith(self.packages) and not package.startswith("src.kindling.")

    def _encode_all(self) -> dict[tuple[str, str], Any]:
        found: dict[tuple[str, str], Any] = {}
        for owner_name, owner in self.owners.items():
            fields = {name: getattr(owner, name) for name in self.buffers.get(owner_name, ())}
            if self._is_users(type(owner)):
                fields |= {name: vars(owner)[name] for name in vars(owner).keys() - _given(owner)}
            for name, value in sorted(fields.items()):
                if isinstance(value, ELSEWHERE) or callable(value):
                    continue
                try:
                    encoder = _Encoder(self._is_users, self.most_bytes)
                    found[owner_name, name] = encoder.encode(value)
                except NotPlain:  # printed on resume if it was plain at the start, or is new
                    found[owner_name, name] = {"kind": LOST, "class": type(value).__name__}
        return found


def is_lost(plain: Any) -> bool:
    """Whether a value of `changed` cannot be restored."""
    return isinstance(plain, dict) and plain.get("kind") == LOST


def _given(owner: Any) -> set[str]:
    """The names of attributes that torch or Lightning set."""
    if not isinstance(owner, nn.Module):
        return set()
    base = LightningModule() if isinstance(owner, LightningModule) else nn.Module()
    return {*vars(base), *(name for name in vars(owner) if name.startswith("_hparams"))}


class _Encoder:
    """Turns one value into tensors and plain values that `_decode` reads."""

    def __init__(self, is_users: Callable[[type], bool], most_bytes: int) -> None:
        self.is_users, self.left = is_users, most_bytes

    def encode(self, value: Any, level: int = 0) -> Any:
        self.left -= getattr(value, "nbytes", 0) or sys.getsizeof(value, 8)
        if self.left < 0 or level > MOST_LEVELS or isinstance(value, ELSEWHERE):
            raise NotPlain
        if isinstance(value, ATOMS):
            return value
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
            return {"kind": "tensor", "value": value.detach().cpu().clone()}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return {"kind": "array", "value": torch.from_numpy(value.copy())}
        return self._encode_parts(value, level + 1)

    def _encode_parts(self, value: Any, level: int) -> dict[str, Any]:
        kind = type(value)
        if (state := _generator_state(value)) is not None:
            return {"kind": "generator", "state": self.encode(state, level)}
        if isinstance(value, dict) and kind is CONTAINERS.get(kind.__name__):
            pairs = [[self.encode(part, level) for part in pair] for pair in value.items()]
            return {"kind": kind.__name__, "items": pairs}
        if kind is CONTAINERS.get(kind.__name__) or hasattr(value, "_fields"):
            items = [self.encode(item, level) for item in value]
            return {"kind": kind.__name__, "items": items, "size": getattr(value, "maxlen", None)}
        if self.is_users(kind) and hasattr(value, "__dict__"):
            fields = {name: self.encode(field, level) for name, field in vars(value).items()}
            return {"kind": kind.__name__, "fields": fields}
        raise NotPlain


def _decode(plain: Any, current: Any, classes: Mapping[str, Any]) -> Any:
    """Return the value that was encoded.

    Args:
        plain: by `_Encoder`.
        current: the value of the newly built module, which is filled if it is of the same kind:
            other objects may refer to it.
        classes: by name, of named tuples and of objects in a container.
    """
    if not isinstance(plain, dict):
        return plain
    kind = plain["kind"]
    if is_lost(plain):
        raise NotPlain(plain["class"])
    if kind == "tensor":
        return plain["value"].to(getattr(current, "device", "cpu"))
    if kind == "array":
        return plain["value"].numpy()
    if kind == "generator":
        _set_generator_state(current, _decode(plain["state"], None, classes))
        return current
    if "fields" in plain:
        return _decode_object(plain, current, classes)
    return _decode_container(plain, current, classes)


def _decode_object(plain: dict[str, Any], current: Any, classes: Mapping[str, Any]) -> Any:
    if type(current).__name__ != plain["kind"]:
        current = object.__new__(classes[plain["kind"]])
    for name, field in plain["fields"].items():
        vars(current)[name] = _decode(field, vars(current).get(name), classes)
    return current


def _decode_container(plain: dict[str, Any], current: Any, classes: Mapping[str, Any]) -> Any:
    kind: Any = CONTAINERS.get(plain["kind"])
    items: list[Any] = plain["items"]
    if kind and issubclass(kind, dict):
        items = [[_decode(part, None, classes) for part in pair] for pair in items]
    else:
        items = [_decode(item, None, classes) for item in items]
    if kind is None:
        kind = classes[plain["kind"]]
        if not hasattr(kind, "_make"):  # a checkpoint from elsewhere must not call a function
            raise NotPlain(plain["kind"])
        return kind._make(items)
    if type(current) is not kind or kind in (tuple, frozenset):
        return deque(items, plain["size"]) if kind is deque else kind(items)
    current.clear()
    if kind in (list, deque):
        current.extend(items)
    else:
        current.update(items)
    return current


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator | np.random.RandomState):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    return value.bit_generator.state if isinstance(value, np.random.Generator) else None


def _set_generator_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def _digest(plain: Any) -> str:
    """A hash of nested plain values and tensors."""

    def digest(tensor: Tensor) -> tuple[Any, ...]:
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        return tensor.dtype, tensor.shape, hashlib.blake2b(content).hexdigest()

    described = repr(tree_map_only(Tensor, digest, plain))
    return hashlib.blake2b(described.encode()).hexdigest()
