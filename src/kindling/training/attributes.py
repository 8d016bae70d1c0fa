"""Save plain attributes that a module changes while it trains: counters, lists, generators.

Lightning saves a `state_dict` only. `self.training_step_outputs`, a moving average that is a float,
a replay buffer or a generator would start as new in a resumed training.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from src.kindling.config.targets import allowed_by_user

ATOMS = (type(None), bool, int, float, complex, str, bytes)
CONTAINERS: dict[str, Any] = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, deque, dict, OrderedDict)
}
MOST_BYTES = 256 * 2**20  # of one attribute


class NotPlain(Exception):
    """A value that a checkpoint cannot hold: a function, a file, an object of a library."""


class Attributes:
    """The attributes that have changed since the training started.

    They are those of the module, of its parts and of callbacks without a `state_dict`, where the
    class is the user's.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.packages = tuple(f"{name}." for name in ("src", "__main__", *allowed_by_user()))
        self.owners = dict(self._find_owners(trainer, module))
        self.before = {key: _digest(value) for key, value in self._encode_all().items()}

    def changed(self) -> dict[str, Any]:
        """Return those that differ as tensors and plain values, by `owner.name`."""
        now = self._encode_all()
        return {key: now[key] for key in now if _digest(now[key]) != self.before.get(key)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Set what `changed` returned, in the object that is there where it can be filled."""
        for key, value in saved.items():
            owner_name, _, name = key.rpartition(".")
            owner = self.owners.get(owner_name)
            if owner is None:
                continue
            classes = vars(sys.modules[type(owner).__module__])
            try:
                vars(owner)[name] = _decode(value, vars(owner).get(name), classes)
            except (KeyError, TypeError) as error:
                problem = f"{type(owner).__name__}.{name} could not be restored"
                print(f"WARNING    task: {problem} ({type(error).__name__}: {error})")

    def _is_users(self, kind: type) -> bool:
        package = f"{kind.__module__}."
        return package.startswith(self.packages) and not package.startswith("src.kindling.")

    def _find_owners(self, trainer: Trainer, module: LightningModule) -> Iterator[tuple[str, Any]]:
        for name, part in module.named_modules():
            if self._is_users(type(part)):
                yield f"module.{name}".rstrip("."), part
        for number, callback in enumerate(trainer.callbacks):  # type: ignore[attr-defined]
            stateless = type(callback).state_dict is Callback.state_dict
            if stateless and self._is_users(type(callback)):
                yield f"callback.{number}", callback

    def _encode_all(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for owner_name, owner in self.owners.items():
            for name in sorted(vars(owner).keys() - _given(owner)):
                try:
                    encoder = _Encoder(self._is_users)
                    found[f"{owner_name}.{name}"] = encoder.encode(vars(owner)[name])
                except NotPlain:
                    continue
        return found


def _given(owner: Any) -> set[str]:
    """The names of attributes that torch or Lightning set."""
    if not isinstance(owner, nn.Module):
        return set()
    base = LightningModule() if isinstance(owner, LightningModule) else nn.Module()
    return {*vars(base), *(name for name in vars(owner) if name.startswith("_hparams"))}


class _Encoder:
    """Turns one value into tensors and plain values that `_decode` reads."""

    def __init__(self, is_users: Callable[[type], bool]) -> None:
        self.is_users, self.left = is_users, MOST_BYTES
        self.within: set[int] = set()  # the objects around the current one

    def encode(self, value: Any) -> Any:
        self.left -= getattr(value, "nbytes", 0) or sys.getsizeof(value, 8)
        if self.left < 0 or id(value) in self.within:
            raise NotPlain
        if isinstance(value, ATOMS):
            return value
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            return {"kind": "tensor", "value": value.detach().cpu().clone()}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            return {"kind": "array", "value": torch.from_numpy(value.copy())}
        self.within.add(id(value))
        try:
            return self._encode_parts(value)
        finally:
            self.within.discard(id(value))

    def _encode_parts(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if (state := _generator_state(value)) is not None:
            return {"kind": "generator", "state": self.encode(state)}
        if isinstance(value, dict) and kind is CONTAINERS.get(kind.__name__):
            pairs = [[self.encode(key), self.encode(item)] for key, item in value.items()]
            return {"kind": kind.__name__, "items": pairs}
        if kind is CONTAINERS.get(kind.__name__) or hasattr(value, "_fields"):
            items = [self.encode(item) for item in value]
            return {"kind": kind.__name__, "items": items, "size": getattr(value, "maxlen", None)}
        if self.is_users(kind) and hasattr(value, "__dict__") and not isinstance(value, nn.Module):
            fields = {name: self.encode(field) for name, field in vars(value).items()}
            return {"kind": kind.__name__, "fields": fields}
        raise NotPlain


def _decode(plain: Any, current: Any, classes: dict[str, Any]) -> Any:
    """Return what was encoded.

    Args:
        plain: by `_Encoder`.
        current: the value of the newly built module, which is filled if it is of the same kind:
            other objects may refer to it.
        classes: by name, of named tuples and of objects in a container.
    """
    if not isinstance(plain, dict):
        return plain
    kind = plain["kind"]
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


def _decode_object(plain: dict[str, Any], current: Any, classes: dict[str, Any]) -> Any:
    if type(current).__name__ != plain["kind"]:
        current = object.__new__(classes[plain["kind"]])
    for name, field in plain["fields"].items():
        vars(current)[name] = _decode(field, vars(current).get(name), classes)
    return current


def _decode_container(plain: dict[str, Any], current: Any, classes: dict[str, Any]) -> Any:
    kind = CONTAINERS.get(plain["kind"])
    if kind is None:
        return classes[plain["kind"]](*(_decode(item, None, classes) for item in plain["items"]))
    if issubclass(kind, dict):
        items = [[_decode(part, None, classes) for part in pair] for pair in plain["items"]]
    else:
        items = [_decode(item, None, classes) for item in plain["items"]]
    if type(current) is not kind or kind in (tuple, frozenset):
        return deque(items, plain["size"]) if kind is deque else kind(items)
    current.clear()
    (current.extend if kind in (list, deque) else current.update)(items)
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
    digest = hashlib.blake2b()
    stack = [plain]
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            stack += [part for pair in value.items() for part in pair]
        elif isinstance(value, list):
            digest.update(f"[{len(value)}]".encode())
            stack += value
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
