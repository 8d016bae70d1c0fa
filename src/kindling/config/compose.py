"""Compose a config from files and `key=value` overrides, with the origin of each value.

This is the first of the two passes over the user's input: it reads YAML and reports every wrong
name and every YAML error at once. It imports neither torch nor any target, so it takes a fraction
of a second; instantiate.py is the second pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.kindling.config.aliases import KEYS, KINDLING_DATA, rename_old
from src.kindling.config.allowed import KINDS
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.habits import explain_yaml, translate
from src.kindling.config.values import COMMAND_LINE, VALUES, Config, flatten, forget, get, to_plain

__all__ = ["COMMAND_LINE", "VALUES", "Config", "flatten", "get"]  # of values.py, for the callers

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"

# The sections that are built from a `_target_`; the other top-level keys are plain values.
PARTS = tuple(KINDS)
# All options of these groups describe the same class. When one is swapped, the experiment's own
# values (its number of epochs, say) stay, and only the new option's own file overrides them.
SAME_CLASS = ("trainer",)
# Paths: on the command line they start at the current folder, in a file at the repository.
PATHS = ("data.root", "data.path", "data.files", "data.folder", "data.data_dir", "net.weights")

Layer = tuple[str, dict[str, Any]]  # a file's origin, and what it sets, within its section


def compose(name: str = "digits", words: Sequence[str] = ()) -> Config:
    """Read an experiment's file with its groups, and apply the `key=value` overrides on top.

    Raises:
        InputError: with one line for each unknown name, misplaced override and YAML error.
    """
    name = name.removeprefix("configs/").removesuffix(".yaml")
    errors: list[str] = []
    changes = dict(_read_overrides(words, errors))
    swaps = {k: changes.pop(k) for k in groups() if isinstance(changes.get(k), str)}
    layers: list[Layer] = []
    if name in configs():
        layers = _read_layers(CONFIGS / f"{name}.yaml", errors)
    else:
        hint = translate(name) and f"{name}: not a config{translate(name)}"
        errors.append(hint or _no_such("config", name, configs(), "configs/"))
    for group, option in swaps.items():
        layers = _choose(layers, group, option, COMMAND_LINE, errors)
    config = Config(name, {})
    for origin, values in layers:
        _merge(config.values, values, origin, config.origins)
    return _apply(config, changes, errors, [origin for origin, _ in layers])


def change(config: Config, words: Sequence[str]) -> Config:
    """A run's config with `key=value` overrides on top; its groups cannot be swapped."""
    errors: list[str] = []
    changes = dict(_read_overrides(words, errors))
    for key, value in changes.items():
        if key in groups() and isinstance(value, str):
            option = f"{key}={value}"
            errors.append(
                f"{option}: cannot change in an existing run; start a new run with {option}"
            )
    return _apply(config, changes, errors)


def configs() -> list[str]:
    """The names of the experiments: the files in configs/."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def groups() -> dict[str, list[str]]:
    """The groups, each with its options: the folders in configs/ that are named like a section."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONFIGS.iterdir())
        if folder.is_dir() and folder.name in PARTS
    }


def first_comment(path: Path) -> str:
    """The first comment line of a config, for `--help`."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _apply(
    config: Config, changes: Mapping[str, Any], errors: list[str], files: Sequence[str] = ()
) -> Config:
    """The config of some files with overrides, under present names."""
    errors += _unknown_sections(changes, COMMAND_LINE, config.values)
    if errors:
        raise InputError(errors)
    renamed = replace(config, values=rename_old(config.values, config.origins))
    config = renamed.replaced(changes)
    config = replace(config, values=rename_old(config.values, config.origins))
    _forget_older_modes(config, [*files, COMMAND_LINE])
    return config.replaced(_find_paths(config, changes))


def _forget_older_modes(config: Config, order: Sequence[str]) -> None:
    """Remove a `mode` of an origin before that of its `monitor`: it follows from the new one."""
    ranks = {origin: rank for rank, origin in enumerate(order)}
    callbacks = config.values.get("callbacks")
    parts = callbacks.items() if isinstance(callbacks, dict) else ()
    sections = {f"callbacks.{name}.": part for name, part in parts}
    for prefix, section in {"": config.values, **sections}.items():
        monitor = ranks.get(config.origins.get(f"{prefix}monitor", ""), -1)
        mode = ranks.get(config.origins.get(f"{prefix}mode", ""), -1)
        if isinstance(section, dict) and monitor > mode:
            section.pop("mode", None)
            forget(config.origins, f"{prefix}mode")


def _find_paths(config: Config, changes: Mapping[str, Any]) -> dict[str, str]:
    """The relative paths of a command line, as the run records them."""
    own = get(config.values, "data._target_") in KINDLING_DATA
    found = {}
    for key in changes.keys() & {*PATHS}:
        text = get(config.values, key)
        if isinstance(text, str) and not text.startswith(("~", "${", "/")):
            path = Path(os.path.abspath(text))
            # Elsewhere, such a key may be something else, such as the name of a data set.
            if path.exists() or (own and key.startswith("data.")):
                found[key] = record_path(path)
    return found


def record_path(path: Path) -> str:
    """A path as a run records it: relative to the repository if it is inside it."""
    path = path.absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _merge(
    values: dict[str, Any], changes: dict[str, Any], origin: str, origins: dict[str, str], *at: str
) -> None:
    """Merge a file's values into those of the files before it, in place."""
    for name, new in changes.items():
        key = ".".join([*at, str(name)])
        old = values.get(name)
        if new == "???" and old is not None:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            # A section of another class replaces the old one.
            targets = {str(part["_target_"]) for part in (old, new) if "_target_" in part}
            if len(targets) < 2:
                _merge(old, new, origin, origins, *at, str(name))
                continue
        values[name] = new
        forget(origins, key)
        origins |= dict.fromkeys(flatten(new, key), origin)


def _read_overrides(words: Sequence[str], errors: list[str]) -> Iterator[tuple[str, Any]]:
    for word in words:
        key, equals, text = word.partition("=")
        if key.startswith("+"):
            plain = word.lstrip("+")
            errors.append(f"{word}: every argument can be set as it is: {plain} ({COMMAND_LINE})")
        elif key.startswith("~"):
            remedy = f"null removes a part or value: {key[1:]}=null"
            errors.append(f"{word}: not a key of a config; {remedy} ({COMMAND_LINE})")
        elif not equals or not all(key.split(".")):
            errors.append(f"{word}: expected key=value ({COMMAND_LINE})")
        else:
            try:
                yield key, to_plain(OmegaConf.create("- " + text))[0]
            except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
                problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
                errors.append(
                    f"{key}: {text} is not valid YAML: {problem}; quotes make it text: "
                    f"'{key}=\"{text}\"' ({COMMAND_LINE})"
                )


def _display_path(path: Path) -> str:
    return path.relative_to(CONFIGS.parent).as_posix()


def _read_yaml(path: Path, errors: list[str]) -> dict[str, Any]:
    origin = _display_path(path)
    try:
        values = to_plain(OmegaConf.load(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error)
        errors.append(f"{origin}{line}: not valid YAML: {problem}{explain_yaml(problem)}")
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        errors.append(f"{origin}: cannot be read: {error}")
    except RecursionError:
        problem = "too deeply nested, or an anchor (&name) contains itself"
        errors.append(f"{origin}: {problem}; remove the inner *name")
    else:
        if isinstance(values, dict):
            return values
        errors.append(f"{origin}: expected 'key: value' lines, got a list")
    return {}


def _read_layers(path: Path, errors: list[str], *within: Path) -> list[Layer]:
    """The layers of an experiment or an option: those of its `defaults`, then its own values."""
    section = path.parent.name if path.parent != CONFIGS else ""
    origin = _display_path(path)
    values = _read_yaml(path, errors)
    defaults = values.pop("defaults", None) or []
    if not isinstance(defaults, list):
        line = f"expected a list such as '- data: digits', got {defaults!r}"
        errors.append(f"{origin}: defaults: {line}")
        defaults = []
    if "_self_" not in defaults:
        defaults = [*defaults, "_self_"]
    before: list[Layer] = []
    layers: list[Layer] = []
    for entry in defaults:
        if entry == "_self_":
            own = (origin, {section: values} if section else values)
            before, layers = [*layers, own], []
        elif isinstance(entry, dict) and len(entry) == 1 and not section:
            ((group, option),) = entry.items()
            word = str(group)  # in Hydra `override /data`
            plain = word.removeprefix("override ").lstrip("/")
            if plain != word and plain in groups():
                fix = f"write `- {plain}: {option}`"
                errors.append(f"{origin}: defaults: '{word}: {option}' is Hydra's; {fix}")
                continue
            layers = _choose(layers, word, str(option), origin, errors)
        else:
            neighbor = path.parent / f"{entry}.yaml"
            if not isinstance(entry, str) or "/" in entry or not neighbor.is_file():
                problem = f"{entry!r} is neither a file in the same folder nor 'group: option'"
                errors.append(f"{origin}: defaults: {problem}")
            elif neighbor in (path, *within):
                errors.append(f"{origin}: defaults: '{entry}' includes this file; remove one entry")
            else:
                layers += _read_layers(neighbor, errors, path, *within)
    if not section:
        errors += _unknown_sections(values, origin)
    return [*before, *layers]


def _choose(
    layers: list[Layer], group: str, option: str, origin: str, errors: list[str]
) -> list[Layer]:
    """Add an option of a group, in the place of all that the layers have for that group."""
    options = groups().get(group)
    if options is None:
        errors.append(f"{_no_such('group', group, groups(), 'configs/')} ({origin})")
        return layers
    if option not in options and "." in option:
        remedy = f"set {group}._target_={option} for a class"
        errors.append(f"{group}={option}: no such option; {remedy} ({origin})")
        return layers
    if option not in options:
        line = _no_such("option", option, options, f"configs/{group}/")
        errors.append(f"{group}={line} ({origin})")
        return layers
    *inherited, own = _read_layers(CONFIGS / group / f"{option}.yaml", errors)
    if group in SAME_CLASS:
        folder = _display_path(CONFIGS / group) + "/"
        kept = [layer for layer in layers if not layer[0].startswith(folder)]
        return [*inherited, *kept, own]
    for _, values in layers:
        values.pop(group, None)
    return [*layers, *inherited, own]


def _unknown_sections(
    keys: Mapping[str, Any], origin: str, values: dict[str, Any] | None = None
) -> Iterator[str]:
    """A line for each key that is in no section; `values` may hold it further down."""
    known = (*PARTS, *VALUES)
    deeper = list(flatten(values or {}))
    for key, value in keys.items():
        section = str(key).partition(".")[0]
        if section not in known and section not in KEYS:
            # `lr=0.1` more often means a key further down than a section of a similar name.
            inner = next((other for other in deeper if other.endswith(f".{key}")), None)
            hint = f"; did you mean '{inner}'?" if inner else translate(section, value)
            hint = hint or f"{did_you_mean(section, known)} (a config has: {', '.join(known)})"
            yield f"{key}: no such section{hint} ({origin})"


def _no_such(kind: str, given: str, names: Iterable[str], place: str) -> str:
    known = ", ".join(names) or "none"
    return f"{given}: no such {kind}{did_you_mean(given, names)} ({place} has: {known})"
