"""Compose a config from files and `key=value` overrides, with the origin of each value.

This is the first of the two passes over the user's input: it reads YAML and reports every wrong
name and every YAML error at once. It imports neither torch nor any target, so it takes a fraction
of a second; instantiate.py is the second pass.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.kindling.config.aliases import KEYS, rename_keys, rename_old
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.config.values import COMMAND_LINE, VALUES, Config, flatten, forget, get

__all__ = ["COMMAND_LINE", "VALUES", "Config", "flatten", "get"]  # of values.py, for the callers

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"

# The sections that are built from a `_target_`; the other top-level keys are plain values.
PARTS = ("data", "net", "task", "finetune", "trainer", "callbacks", "logger")
# All options of these groups describe the same class. When one is swapped, the experiment's own
# values (its number of epochs, say) stay, and only the new option's own file overrides them.
SAME_CLASS = ("trainer",)


@dataclass(frozen=True)
class _Layer:
    """What one file sets: its values, those of a group's option within their section."""

    origin: str
    values: dict[str, Any]


def compose(name: str = "digits", words: Sequence[str] = ()) -> Config:
    """Read an experiment's file with its groups, and apply the `key=value` overrides on top.

    Raises:
        InputError: with one line for each unknown name, misplaced override and YAML error.
    """
    name = name.removeprefix("configs/").removesuffix(".yaml")
    errors: list[str] = []
    changes = dict(_read_overrides(words, errors))
    swaps = {k: v for k, v in changes.items() if k in groups() and isinstance(v, str)}
    changes = {key: value for key, value in changes.items() if key not in swaps}

    layers: list[_Layer] = []
    if name in configs():
        layers = _read_layers(CONFIGS / f"{name}.yaml", swaps, errors)
    else:
        known = ", ".join(configs()) or "none"
        hint = did_you_mean(name, configs())
        errors.append(f"{name}: no such config{hint} (configs/ has: {known})")
    for group, option in swaps.items():
        layers = _choose(layers, group, option, COMMAND_LINE, errors)

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _merge(values, layer.values, layer.origin, origins, errors)
    errors += _unknown_sections(changes, values)
    if errors:
        raise InputError(errors)
    config = Config(name, rename_old(values), origins)
    return _rename_keys(config.replaced(rename_old(changes)))


def change(config: Config, words: Sequence[str]) -> Config:
    """A run's config with `key=value` overrides on top; its groups cannot be swapped.

    Raises:
        InputError: with one line for each mistake.
    """
    errors: list[str] = []
    changes = dict(_read_overrides(words, errors))
    for key, value in changes.items():
        if key in groups() and isinstance(value, str):
            option = f"{key}={value}"
            errors.append(f"{option}: a run keeps its parts; begin a new one with {option}")
    errors += _unknown_sections(changes, config.values)
    if errors:
        raise InputError(errors)
    return _rename_keys(config.replaced(rename_old(changes)))


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


def _rename_keys(config: Config) -> Config:
    """The config with old keys under their present names."""
    values, origins = copy.deepcopy(config.values), dict(config.origins)
    rename_keys(values, origins)
    return Config(config.name, values, origins)


def first_comment(path: Path) -> str:
    """The first comment line of a config, for `--help`."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _merge(
    values: dict[str, Any],
    changes: dict[str, Any],
    origin: str,
    origins: dict[str, str],
    errors: list[str],
    section: str = "",
) -> None:
    """Merge a file's values into those of the files before it, in place."""
    for name, new in changes.items():
        key = f"{section}.{name}" if section else str(name)
        old = values.get(name)
        if new == "???" and old is not None:
            continue
        if {type(old), type(new)} == {dict, list}:
            expected = "a list" if isinstance(old, list) else "'key: value' lines"
            errors.append(
                f"{origin}: its parts do not fit together: {key}: expected {expected}, got {new!r}"
            )
        elif isinstance(old, dict) and isinstance(new, dict) and _same_target(old, new):
            _merge(old, new, origin, origins, errors, key)
        else:
            values[name] = copy.deepcopy(new)
            forget(origins, key)
            origins |= dict.fromkeys(flatten(new, key), origin)


def _same_target(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two sections are of one class; otherwise the new section replaces the old one."""
    targets = [section["_target_"] for section in (old, new) if "_target_" in section]
    return len(set(map(str, targets))) <= 1


def _read_overrides(words: Sequence[str], errors: list[str]) -> Iterator[tuple[str, Any]]:
    for word in words:
        key, equals, text = word.partition("=")
        if key.startswith("+"):
            plain = word.lstrip("+")
            errors.append(f"{word}: every argument can be set as it is: {plain} ({COMMAND_LINE})")
        elif not equals or not all(key.split(".")):
            errors.append(f"{word}: expected key=value ({COMMAND_LINE})")
        else:
            try:
                yield key, _to_plain(OmegaConf.create("- " + text))[0]
            except (yaml.YAMLError, OmegaConfBaseException) as error:
                problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
                errors.append(
                    f"{key}: {text} is not valid YAML: {problem}; quotes make it text: "
                    f"'{key}=\"{text}\"' ({COMMAND_LINE})"
                )


def _to_plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _display_path(path: Path) -> str:
    return path.relative_to(CONFIGS.parent).as_posix()


def _read_yaml(path: Path, errors: list[str]) -> dict[str, Any]:
    origin = _display_path(path)
    try:
        values = _to_plain(OmegaConf.load(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        errors.append(f"{origin}{line}: not valid YAML: {getattr(error, 'problem', None) or error}")
        return {}
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        errors.append(f"{origin}: cannot be read: {error}")
        return {}
    if not isinstance(values, dict):
        errors.append(f"{origin}: expected 'key: value' lines, got a list")
        return {}
    return values


def _read_layers(
    path: Path, skip: Collection[str], errors: list[str], within: tuple[Path, ...] = ()
) -> list[_Layer]:
    """The files of an experiment or an option: those of its `defaults`, then its own values.

    Args:
        path: the file.
        skip: the groups that the command line swaps; their options are not read.
        errors: one line is added for each mistake.
        within: the files whose `defaults` include this one.
    """
    section = path.parent.name if path.parent != CONFIGS else ""
    origin = _display_path(path)
    values = _read_yaml(path, errors)
    defaults = values.pop("defaults", None) or []
    if not isinstance(defaults, list):
        expected = "expected a list such as '- data: digits'"
        errors.append(f"{origin}: defaults: {expected}, got {defaults!r}")
        defaults = []
    if "_self_" not in defaults:
        defaults = [*defaults, "_self_"]
    before: list[_Layer] = []
    layers: list[_Layer] = []
    for entry in defaults:
        if entry == "_self_":
            own = _Layer(origin, {section: values} if section else values)
            before, layers = [*layers, own], []
        elif isinstance(entry, dict) and len(entry) == 1 and not section:
            ((group, option),) = entry.items()
            if group not in skip:
                layers = _choose(layers, str(group), str(option), origin, errors)
        else:
            layers += _read_neighbor(path, entry, skip, errors, within)
    for name in () if section else values:
        if name not in (*PARTS, *VALUES):
            hint = did_you_mean(str(name), (*PARTS, *VALUES))
            errors.append(f"{name}: no such section{hint} ({origin})")
    return [*before, *layers]


def _read_neighbor(
    path: Path, entry: Any, skip: Collection[str], errors: list[str], within: tuple[Path, ...]
) -> list[_Layer]:
    """The layers of a file that another one beside it includes by name."""
    file = path.parent / f"{entry}.yaml"
    line = f"{_display_path(path)}: defaults:"
    if not isinstance(entry, str) or "/" in entry or not file.is_file():
        errors.append(f"{line} {entry!r} is neither a file beside it nor 'group: option'")
    elif file == path:
        errors.append(f"{line} names itself")
    elif file in within:
        errors.append(f"{line} '{entry}' includes this file already; remove one of the two entries")
    else:
        return _read_layers(file, skip, errors, (path, *within))
    return []


def _choose(
    layers: list[_Layer], group: str, option: str, origin: str, errors: list[str]
) -> list[_Layer]:
    """Add an option of a group, in the place of all that the layers have for that group."""
    if group not in groups():
        errors.append(f"{group}: no such group{did_you_mean(group, groups())} ({origin})")
        return layers
    options = groups()[group]
    if option not in options:
        hint = did_you_mean(option, options)
        known = f"configs/{group}/ has: {', '.join(options)}"
        errors.append(f"{group}={option}: no such option{hint} ({known}) ({origin})")
        return layers
    *inherited, own = _read_layers(CONFIGS / group / f"{option}.yaml", (), errors)
    if group in SAME_CLASS:
        folder = _display_path(CONFIGS / group) + "/"
        kept = [layer for layer in layers if not layer.origin.startswith(folder)]
        return [*inherited, *kept, own]
    others = [
        _Layer(layer.origin, {key: value for key, value in layer.values.items() if key != group})
        for layer in layers
    ]
    return [*others, *inherited, own]


def _unknown_sections(changes: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    known = (*PARTS, *VALUES)
    errors = []
    for key in changes:
        section = key.partition(".")[0]
        if section in known or section in KEYS:
            continue
        # `lr=0.1` more often means a key further down than a section of a similar name.
        deeper = [other for other in flatten(values) if other.endswith(f".{key}")]
        hint = f"; did you mean '{deeper[0]}'?" if deeper else did_you_mean(section, known)
        errors.append(
            f"{key}: no such section{hint} (a config has: {', '.join(known)}) ({COMMAND_LINE})"
        )
    return errors
