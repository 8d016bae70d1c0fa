"""From words to a config: one experiment as plain values, with the origin of each.

This is the first of the two passes over what the user gave. It finds the experiment's file, the options of its
groups and the values set on the command line, and reports every wrong name and every YAML error at once. It
imports neither torch nor any target, so its answer takes a fraction of a second; instantiate.py does the rest.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.kindling.config.aliases import rename_old
from src.kindling.config.errors import InputError, did_you_mean

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
COMMAND_LINE = "command line"

# A config has these sections and no others: some are built from a `_target_`, the rest are plain values.
PARTS = ("data", "net", "task", "finetune", "trainer", "callbacks", "logger")
VALUES = ("name", "tags", "seed", "threads", "compile", "channels_last", "save_minutes",
          "skip_nonfinite")  # fmt: skip
# Every option of these groups describes the same class. When one is swapped, what the experiment sets (its number of
# epochs, say) stays, and gives way only to what the new option's own file says.
SAME_CLASS = ("trainer",)


@dataclass(frozen=True)
class Config:
    """One experiment.

    Attributes:
        name: the experiment's file name without `.yaml`; its runs lie in `logs/<name>/`.
        values: plain nested dicts and lists, references such as `${oc.env:HOME}` unresolved.
        origins: for each dotted key, the file that set it, or "command line".
    """

    name: str
    values: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, key: str) -> str:
        """Where a dotted key (or the nearest section around it) was set."""
        while key:
            if key in self.origins:
                return self.origins[key]
            inside = [origin for other, origin in self.origins.items() if other.startswith(key + ".")]
            if inside:
                return inside[-1]
            key = key.rpartition(".")[0]
        return f"configs/{self.name}.yaml"

    def replaced(self, changes: Mapping[str, Any], origin: str = COMMAND_LINE) -> Config:
        """A copy with the given dotted keys set to new values. A new `_target_` replaces its whole section."""
        values, origins = copy.deepcopy(self.values), dict(self.origins)
        errors: list[str] = []
        # Targets first, so that `net.width=8 net._target_=…` means the same in either order.
        for key in sorted(changes, key=lambda key: not key.endswith("._target_")):
            parent = key.removesuffix("._target_")
            if parent != key:
                old = get(values, parent)
                if isinstance(old, dict) and old.get("_target_") == changes[key]:
                    continue
                _put(values, parent, {}, errors)
                origins = {k: o for k, o in origins.items() if not k.startswith(parent + ".")}
            _put(values, key, changes[key], errors)
            origins = {k: o for k, o in origins.items() if k != key and not k.startswith(key + ".")}
            origins[key] = origin
        if errors:
            raise InputError([f"{line} ({origin})" for line in errors])
        return Config(self.name, values, origins)


def compose(name: str = "digits", words: Sequence[str] = ()) -> Config:
    """Read an experiment's file with its groups, and apply the `key=value` words on top.

    Raises:
        InputError: with one line for each unknown name, misplaced word and YAML error.
    """
    name = name.removeprefix("configs/").removesuffix(".yaml")
    errors: list[str] = []
    swaps: dict[str, str] = {}
    changes: dict[str, Any] = {}
    for key, value in _read_words(words, errors):
        if key in groups() and isinstance(value, str):
            swaps[key] = value
        else:
            changes[key] = value

    files: list[tuple[str, Path]] = []
    if name not in configs():
        known = ", ".join(configs()) or "none"
        errors.append(f"{name}: no such config{did_you_mean(name, configs())} (configs/ has: {known})")
    else:
        files = _files(name, "", swaps, errors)
    for group, option in swaps.items():
        if error := _option_error(group, option, COMMAND_LINE):
            errors.append(error)
        else:
            files[-1:-1] = _files(option, group, {}, errors)
    errors += _unknown_sections(files, changes)
    if errors:
        raise InputError(errors)

    values = _compose_files(name, swaps, files)
    origins = _settle(values, swaps, files)
    return Config(name, rename_old(values), origins).replaced(rename_old(changes))


def change(config: Config, words: Sequence[str]) -> Config:
    """A run's config with `key=value` words on top; its parts cannot be swapped for other options of their groups.

    Raises:
        InputError: with one line for each mistake.
    """
    errors: list[str] = []
    changes = dict(_read_words(words, errors))
    errors += [f"{key}={value}: a run keeps its parts; begin a new one with {key}={value}"
               for key, value in changes.items() if key in groups() and isinstance(value, str)]  # fmt: skip
    errors += _unknown_sections([], changes)
    if errors:
        raise InputError(errors)
    return config.replaced(rename_old(changes))


def _compose_files(name: str, swaps: Mapping[str, str], files: list[tuple[str, Path]]) -> dict[str, Any]:
    """The merged values of the experiment's files, with swapped groups put in the place of the old choice."""
    with warnings.catch_warnings(), initialize_config_dir(str(CONFIGS), version_base="1.3"), _plain_errors(name):
        # The experiment's own values follow its parts', which is the default; `_self_` would only say so.
        warnings.filterwarnings("ignore", message=".*Defaults list is missing `_self_`")
        values = _plain(hydra_compose(name))
        for group, option in swaps.items():
            new = _plain(hydra_compose(f"{group}/{option}"))[group]
            if group in SAME_CLASS:
                experiment = _read_yaml(files[-1][1], []).get(group) or {}
                own = _read_yaml(CONFIGS / group / f"{option}.yaml", [])
                new = {**new, **experiment, **{key: new[key] for key in own if key != "defaults"}}
            values[group] = new
    return dict(values)


def _settle(values: dict[str, Any], swaps: Mapping[str, str], files: list[tuple[str, Path]]) -> dict[str, str]:
    """Which file set each key; what was set for a `_target_` that a later file replaces is taken out of the values."""
    origins: dict[str, str] = {}
    targets: dict[str, Any] = {}
    for section, path in files:
        own = {
            f"{section}.{key}" if section else key: value
            for key, value in flatten(_read_yaml(path, [])).items()
            if not key.startswith("defaults") and not (section == "" and _dropped(key, swaps))
        }
        for key in (key for key in own if key.endswith("._target_")):
            if targets.setdefault(key, own[key]) != own[key]:
                part = key.removesuffix("_target_")
                for left in [other for other in origins if other.startswith(part) and other not in own]:
                    inside = get(values, left.rpartition(".")[0])
                    if isinstance(inside, dict):
                        inside.pop(left.rpartition(".")[2], None)
                    del origins[left]
            targets[key] = own[key]
        origins |= dict.fromkeys(own, path.relative_to(CONFIGS.parent).as_posix())
    return origins


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OmegaConfBaseException, HydraException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"configs/{name}.yaml: its parts do not fit together: {reason}") from None


def _dropped(key: str, swaps: Mapping[str, str]) -> bool:
    """Whether a key of the experiment's own file goes when these groups are swapped."""
    section = key.partition(".")[0]
    return section in swaps and section not in SAME_CLASS


def configs() -> list[str]:
    """The names of the experiments: the files in configs/."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def groups() -> dict[str, list[str]]:
    """The groups an experiment picks its parts from, each with its options: the folders in configs/."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONFIGS.iterdir())
        if folder.is_dir() and folder.name in PARTS
    }


def first_comment(path: Path) -> str:
    """The first comment line of a config: what `--help` says about it."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """`{"net": {"width": 8}}` as `{"net.width": 8}`; lists keep their place as a number."""
    items: Iterator[tuple[Any, Any]]
    if isinstance(values, dict) and values:
        items = iter(values.items())
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        items = iter(enumerate(values))
    else:
        return {prefix: values} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def get(values: Any, key: str) -> Any:
    """The value under a dotted key, or None."""
    for step in key.split("."):
        if isinstance(values, list) and step.isdigit() and int(step) < len(values):
            values = values[int(step)]
        elif isinstance(values, dict):
            values = values.get(step)
        else:
            return None
    return values


# ---------------------------------------------------------------------------------------------------------------
# Words and files


def _read_words(words: Sequence[str], errors: list[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for word in words:
        key, equals, text = word.partition("=")
        if key.startswith("+"):
            errors.append(f"{word}: every argument can be set as it is: {word.lstrip('+')} ({COMMAND_LINE})")
            continue
        if not equals or not key or any(not step for step in key.split(".")):
            errors.append(f"{word}: expected key=value ({COMMAND_LINE})")
            continue
        try:
            value = _plain(OmegaConf.create("- " + text))[0]
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            errors.append(f"{key}: {text} is not valid YAML: {problem}; quotes make it text: '{key}=\"{text}\"' "
                          f"({COMMAND_LINE})")  # fmt: skip
            continue
        pairs.append((key, value))
    return pairs


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _put(values: dict[str, Any], key: str, value: Any, errors: list[str]) -> None:
    """Set a dotted key in place, making the sections on the way."""
    *steps, last = key.split(".")
    here: Any = values
    for depth, step in enumerate([*steps, last]):
        if isinstance(here, list):
            if not step.isdigit() or int(step) >= len(here):
                errors.append(f"{key}: {'.'.join(steps[:depth])} is a list of {len(here)}; a number from 0 to "
                              f"{len(here) - 1} is expected in the place of '{step}'")  # fmt: skip
                return
            place: Any = int(step)
        elif isinstance(here, dict):
            place = step
        else:
            errors.append(f"{key}: {'.'.join(steps[:depth])} is {here!r}, a value, and holds no '{step}'")
            return
        if depth == len(steps):
            here[place] = value
            return
        if isinstance(here, dict) and here.get(place) is None:
            here[place] = {}
        here = here[place]


def _read_yaml(path: Path, errors: list[str]) -> dict[str, Any]:
    shown = path.relative_to(CONFIGS.parent).as_posix()
    try:
        values = _plain(OmegaConf.load(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        errors.append(f"{shown}{line}: not valid YAML: {getattr(error, 'problem', None) or error}")
        return {}
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        errors.append(f"{shown}: cannot be read: {error}")
        return {}
    if not isinstance(values, dict):
        errors.append(f"{shown}: expected 'key: value' lines, got a list")
        return {}
    return values


def _files(name: str, section: str, swaps: Mapping[str, str], errors: list[str]) -> list[tuple[str, Path]]:
    """The files that make up a config, each with the section it fills, the later ones winning.

    The options of swapped groups are left out.
    """
    path = CONFIGS / section / f"{name}.yaml"
    shown = path.relative_to(CONFIGS.parent).as_posix()
    files: list[tuple[str, Path]] = []
    entries = _read_yaml(path, errors).get("defaults") or []
    if not isinstance(entries, list):
        errors.append(f"{shown}: defaults: expected a list such as '- data: digits', got {entries!r}")
        return [(section, path)]
    for entry in entries:
        if entry == "_self_":
            continue
        if isinstance(entry, dict) and len(entry) == 1 and not section:
            ((group, option),) = entry.items()
            if group in swaps:
                continue
            if error := _option_error(str(group), str(option), shown):
                errors.append(error)
            else:
                files += _files(str(option), str(group), {}, errors)
        elif entry == name:
            errors.append(f"{shown}: defaults: names itself")
        elif isinstance(entry, str) and (CONFIGS / section / f"{entry}.yaml").is_file():
            files += _files(entry, section, swaps, errors)
        else:
            errors.append(f"{shown}: defaults: {entry!r} is neither a file beside it nor 'group: option'")
    return [*files, (section, path)]


def _option_error(group: str, option: str, origin: str) -> str | None:
    if group not in groups():
        return f"{group}: no such group{did_you_mean(group, groups())} ({origin})"
    options = groups()[group]
    if option not in options:
        known = ", ".join(options)
        return f"{group}={option}: no such option{did_you_mean(option, options)} " \
               f"(configs/{group}/ has: {known}) ({origin})"  # fmt: skip
    return None


def _unknown_sections(files: list[tuple[str, Path]], changes: Mapping[str, Any]) -> list[str]:
    known = (*PARTS, *VALUES)
    in_files: list[str] = []
    errors: list[str] = []
    for section, path in files:
        flat = flatten(_read_yaml(path, []))
        in_files += [f"{section}.{key}" if section else key for key in flat]
        for top in {key.partition(".")[0]: None for key in flat} if not section else ():
            if top not in known and top != "defaults":
                shown = path.relative_to(CONFIGS.parent).as_posix()
                errors.append(f"{top}: no such section{did_you_mean(top, known)} ({shown})")
    for key in changes:
        top = key.partition(".")[0]
        if top in known:
            continue
        # `lr=0.1` is meant for a key further down more often than for a section of a similar name.
        deeper = [other for other in dict.fromkeys(in_files) if other.endswith("." + key)]
        hint = f"; did you mean '{deeper[0]}'?" if deeper else did_you_mean(top, known)
        errors.append(f"{key}: no such section{hint} (a config has: {', '.join(known)}) ({COMMAND_LINE})")
    return errors
