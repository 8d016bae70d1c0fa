"""Targets: the classes and functions that a config names by a dotted path.

A config may come from somebody else's checkpoint, so a path alone never decides what is built. A
target must be in a package of the lists below, which is decided before anything is imported, and
of a kind that its place in the config takes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.signatures import parameters, returned

__all__ = ["find", "kinds", "load", "locate", "parameters", "returned"]

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"
ALLOW = "[tool.kindling] targets in pyproject.toml"
# The parts of the libraries whose classes do no more than compute, or that the Trainer asks for.
LIBRARIES = (
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "torchmetrics",
    "lightning.pytorch",
    "lightning.fabric.plugins",
)
# The user's own packages: there, any class and any function that says what it returns.
ROOMS = ("src.data", "src.nets", "src.tasks")
# The kinds that may be an argument of another part, whatever its annotation allows.
NESTED = (
    "torch.nn.Module",  # torchmetrics and batch transforms among them
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
)
# The kinds that may be an argument of the Trainer.
OF_TRAINER = (
    "lightning.pytorch.accelerators.Accelerator",
    "lightning.pytorch.profilers.Profiler",
    "lightning.pytorch.strategies.Strategy",
    "lightning.pytorch.plugins.LayerSync",
    "lightning.pytorch.plugins.Precision",
    "lightning.fabric.plugins.CheckpointIO",
    "lightning.fabric.plugins.ClusterEnvironment",
)
# Of an allowed kind, and yet refused: building or using them opens a file, a socket or a process.
# Read by hand in torch 2.15, torchvision 0.29, torchmetrics 1.9 and lightning 2.6.6; a test builds
# the others and watches what they open.
DOWNLOADS = "downloads a model"
REFUSED = {
    "lightning.fabric.plugins.environments.lsf.LSFEnvironment": "reads a file",
    "lightning.fabric.plugins.environments.mpi.MPIEnvironment": "starts MPI",
    "lightning.pytorch.demos": "downloads its data",
    "lightning.pytorch.serve.servable_module_validator.ServableModuleValidator": "starts a server",
    "lightning.pytorch.strategies.deepspeed.DeepSpeedStrategy": "reads a file",
    "src.kindling.training.run_loggers.MetricsFile": "writes a file",
    "torchmetrics.audio.dnsmos.DeepNoiseSuppressionMeanOpinionScore": DOWNLOADS,
    "torchmetrics.audio.nisqa.NonIntrusiveSpeechQualityAssessment": DOWNLOADS,
    "torchmetrics.functional": "its nets load weights from files and servers",
    "torchmetrics.image.arniqa.ARNIQA": DOWNLOADS,
    "torchmetrics.image.dists.DeepImageStructureAndTextureSimilarity": DOWNLOADS,
    "torchmetrics.image.fid.FrechetInceptionDistance": DOWNLOADS,
    "torchmetrics.image.fid.NoTrainInceptionV3": DOWNLOADS,
    "torchmetrics.image.inception.InceptionScore": DOWNLOADS,
    "torchmetrics.image.kid.KernelInceptionDistance": DOWNLOADS,
    "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity": DOWNLOADS,
    "torchmetrics.image.mifid.MemorizationInformedFrechetInceptionDistance": DOWNLOADS,
    "torchmetrics.image.perceptual_path_length.PerceptualPathLength": DOWNLOADS,
    "torchmetrics.multimodal.clip_iqa.CLIPImageQualityAssessment": DOWNLOADS,
    "torchmetrics.multimodal.clip_score.CLIPScore": DOWNLOADS,
    "torchmetrics.text.bert.BERTScore": "downloads or loads a model by name",
    "torchmetrics.text.infolm.InfoLM": "downloads or loads a model by name",
}


def find(path: Any, expected: Sequence[type], nested: tuple[str, ...] = ()) -> Any:
    """The class or function that a dotted path names, where its place in the config takes it.

    Args:
        path: the `_target_`.
        expected: the classes that it may make; none where an annotation names none.
        nested: for an argument, the kinds of the libraries' classes that may be one (`NESTED`).

    Raises:
        ValueError: with the reason, when there is none, or when it is not allowed.
    """
    found = locate(path)
    made = returned(found)
    if made is None and expected:
        raise ValueError(
            f"'{path}' has no return annotation; annotate it: -> {expected[0].__name__}"
        )
    fits = inspect.isclass(found)
    if expected and inspect.isclass(made):
        fits = issubclass(made, tuple(expected))
    if not fits:
        raise ValueError(f"expected {_one_of(expected)}, got '{path}'")
    if nested and not _may_be_argument(path, made, nested):
        expectation = f"expected {_one_of(kinds(nested))}, got '{path}'"
        raise ValueError(f"{expectation}; to allow it, add its full path to {ALLOW}")
    return found


def _one_of(classes: Sequence[type]) -> str:
    """`a Module`, `a Module, Optimizer or LRScheduler`."""
    *names, last = [kind.__name__ for kind in classes] or ["class"]
    return _a(f"{', '.join(names)} or {last}" if names else last)


def locate(path: Any) -> Any:
    """The class or function that a dotted path names, of whatever kind.

    Raises:
        ValueError: with the reason, when there is none, or when a config may not name it.
    """
    allowed = ("src", *LIBRARIES, *allowed_by_user())
    outside = (
        f"the allowed packages ({', '.join(allowed)}); add its package or its full path to {ALLOW}"
    )
    # Decided before anything is imported: an import runs code as well.
    if not isinstance(path, str) or not _within(path, allowed):
        raise ValueError(f"{path!r} is outside {outside}")
    private = next((step for step in path.split(".") if step.startswith("_")), None)
    if private and (private.startswith("__") or _within(path, LIBRARIES)):
        raise ValueError(f"'{path}': '{private}' is private; name a public class")
    found = load(path)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        raise ValueError(f"{path!r} is {_a(type(found).__name__)}, not a class")
    if path in allowed_by_user():
        return found
    home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', '')}"
    if not _within(home, allowed):
        raise ValueError(f"{path!r} comes from '{found.__module__}', outside {outside}")
    if (
        not inspect.isclass(found)
        and not _within(home, (*ROOMS, *allowed_by_user()))
        and not _is_builder(found)
    ):
        raise ValueError(
            f"{path!r} is a function of a library, not a class; add its full path to {ALLOW}"
        )
    reason = _refusal(found)
    if reason and not _of_the_user(path, found):
        raise ValueError(f"'{path}' {reason}; to allow it, add this path to {ALLOW}")
    return found


def _is_builder(found: Any) -> bool:
    """Whether it is a function of torchvision that makes one of its models.

    Others there take models apart.
    """
    from torchvision.models import get_model_builder, list_models

    return any(found is get_model_builder(name) for name in list_models())


def _refusal(found: Any) -> str | None:
    """What building it opens, by the list above."""
    for base in inspect.getmro(found) if inspect.isclass(found) else ():
        for name, reason in REFUSED.items():
            if _within(f"{base.__module__}.{base.__qualname__}", (name,)):
                return reason
    return None


@functools.cache
def allowed_by_user() -> tuple[str, ...]:
    """The packages and full paths that pyproject.toml adds.

    Raises:
        InputError: when the file cannot be read, or the list is not one of texts.
    """
    try:
        content = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")) if PYPROJECT.exists() else {}
        targets = content.get("tool", {}).get("kindling", {}).get("targets", [])
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"pyproject.toml: tool.kindling.targets cannot be read: {error}") from None
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise InputError(
            f"pyproject.toml: tool.kindling.targets: expected a list of texts, got {targets!r}"
        )
    return tuple(targets)


@functools.cache
def kinds(names: tuple[str, ...]) -> tuple[type, ...]:
    """The classes of the given paths."""
    return tuple(load(name) for name in names)


def _within(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted path is one of these, or is in one of them."""
    return any(path == prefix or path.startswith(prefix + ".") for prefix in prefixes)


def _of_the_user(path: str, found: Any) -> bool:
    """Whether somebody who owns this repository wrote it, or has allowed it by name."""
    home = getattr(found, "__module__", None) or ""
    return path in allowed_by_user() or _within(home, (*ROOMS, *allowed_by_user()))


def _may_be_argument(path: str, made: type, nested: tuple[str, ...]) -> bool:
    # torchvision's older transforms are no modules.
    older_transform = nested == NESTED and _within(made.__module__, ("torchvision.transforms",))
    return older_transform or _of_the_user(path, made) or issubclass(made, kinds(nested))


def load(path: str) -> Any:
    """What a dotted path names, wherever it lies; `locate` is for paths that a user gives.

    Raises:
        ValueError: with the step at which the path leads nowhere.
    """
    steps = path.split(".")
    try:
        found: Any = importlib.import_module(steps[0])
    except Exception as error:
        raise ValueError(
            f"importing '{steps[0]}' failed: {type(error).__name__}: {error}"
        ) from error
    for i, step in enumerate(steps[1:], 1):
        if hasattr(found, step):
            found = getattr(found, step)
            continue
        if not inspect.ismodule(found):
            raise ValueError(
                f"'{'.'.join(steps[:i])}' has no '{step}'{did_you_mean(step, dir(found))}"
            )
        name = ".".join(steps[: i + 1])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name and not f"{found.__name__}.".startswith(f"{error.name}."):
                raise ValueError(f"importing '{name}' failed: {error}") from error
            inside = [
                module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))
            ]
            names = [other for other in dir(found) if not other.startswith("_")] + inside
            raise ValueError(
                f"'{'.'.join(steps[:i])}' has no '{step}'{did_you_mean(step, names)}"
            ) from None
        except Exception as error:
            raise ValueError(
                f"importing '{name}' failed: {type(error).__name__}: {error}"
            ) from error
    return found


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
