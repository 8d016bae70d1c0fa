"""Complete a command line in the shell: commands, configs, groups, keys, flags and runs.

It has to answer while somebody types, and therefore imports neither torch nor the other packages
of the engine: configs are read as YAML, flags and constructors from source files.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from src.kindling.dev.signatures import arguments, constants, parse

ROOT = Path(__file__).resolve().parents[3]
CONFIGS, LOGS = ROOT / "configs", ROOT / "logs"
TRAINER = "lightning.pytorch.Trainer"  # where a config names none
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def complete(line: str) -> list[str]:
    """What the last word of a command line may become.

    A candidate that ends with `.`, `=` or `/` is the beginning of a word.

    Args:
        line: up to the cursor, beginning with `kindling` or `python -m src.<command>`.
    """
    *before, word = line.split(" ")
    words = [part for part in before if part]
    prefix = ""
    if "-m" in words:
        words, prefix = words[words.index("-m") :], "src."
    if len(words) == 1:
        names = [path.stem for path in (ROOT / "src").glob("[!_]*.py")]
        found = [f"{prefix}{name}" for name in names]
    elif (ROOT / "src" / f"{words[1].removeprefix(prefix)}.py").is_file():
        found = _complete_argument(words[1].removeprefix(prefix), words[2:], word)
    else:
        found = []
    return sorted({name for name in found if name.startswith(word)})


def read_script(shell: str) -> str:
    """The shell's own part: a function that asks `complete` for candidates."""
    return Path(__file__).with_suffix(f".{shell}").read_text(encoding="utf-8")


def _complete_argument(verb: str, words: list[str], word: str) -> list[str]:
    flags, kinds = read_arguments(verb)
    if word.startswith("-"):
        return [*flags]
    pairs = zip(["", *words], words, strict=False)  # without values of flags
    plain = [w for flag, w in pairs if w[0] != "-" and "=" not in w and not flags.get(flag)]
    kind = flags.get(words[-1] if words else "", "")
    if not kind and kinds:
        kind = kinds[min(len(plain), len(kinds) - 1)]
    if "RUN" in kind:
        return list_runs(word)
    found = kind.split("|") if "|" in kind else []
    if kind == "CONFIG":
        found += [path.stem for path in CONFIGS.glob("*.yaml")]
    if kind == "SPACE":
        found += [path.stem for path in (CONFIGS / "space").glob("*.yaml")]
    if "key=value" in kinds and kind in ("CONFIG", "SPACE", "key=value"):
        found += list_keys(compose(plain[0] if plain else "digits", words), word)
    return found


def read_arguments(verb: str) -> tuple[dict[str, str], list[str]]:
    """A command's flags with what their values are, and what each of its words is."""
    flags, kinds = {"--help": ""}, list[str]()
    for node in ast.walk(parse(ROOT / "src" / f"{verb}.py")):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name == "add_run":
            kinds, flags["--trust"] = ["RUN"], ""
        elif name == "add_flags":
            texts = ast.walk(parse(ROOT / "src/kindling/studies/flags.py"))
            values = [str(text.value) for text in texts if isinstance(text, ast.Constant)]
            flags |= dict.fromkeys([v for v in values if re.fullmatch("--[a-z-]+", v)], "")
        elif name == "fields":  # a flag for each field of a dataclass
            fields = arguments(f"src.{verb}.{ast.unparse(node.args[0])}")
            flags |= {f"--{field.replace('_', '-')}": "" for field in fields}
        elif name in ("add", "add_argument") and isinstance(node.args[0], ast.Constant):
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            metavar = str(getattr(options.get("metavar"), "value", ""))
            kind = "|".join(constants(f"src.{verb}", options.get("choices"))) or metavar
            word = str(node.args[0].value)
            if word.startswith("--"):
                flags[word] = kind
            else:
                kinds += kind.split(", ")
    flags.pop("--member", None)  # a worker's
    return flags, kinds


def list_runs(word: str) -> list[str]:
    """Runs in logs/, one level of folders at a time."""
    parent = word.rpartition("/")[0]
    prefix = f"{parent}/" if parent else ""
    try:
        folders = [entry for entry in os.scandir(LOGS / parent) if entry.is_dir()]
    except OSError:
        return []
    names = [f"{prefix}latest"] if folders and "/" not in parent else []
    for folder in folders:
        is_run = os.path.exists(os.path.join(folder.path, "config.yaml"))
        names.append(f"{prefix}{folder.name}" + ("" if is_run else "/"))
    return names


def list_keys(values: dict[str, Any], word: str) -> list[str]:
    """The keys at the level of a word; after its `=`, a group's options or the present value."""
    key, equals, _ = word.partition("=")
    sections = constants("src.kindling.config.allowed", ast.Name("KINDS"))
    if equals:
        options = [path.stem for path in (CONFIGS / key).glob("*.yaml")] if key in sections else []
        present = _get(values, key)
        if isinstance(present, str | int | float):
            options.append(str(present).lower() if isinstance(present, bool) else str(present))
        return [f"{key}={option}" for option in options]
    section = key.rpartition(".")[0]
    if not section:
        groups = [f"{name}=" for name in sections if (CONFIGS / name).is_dir()]
        plain = arguments("src.kindling.config.values.Values")
        return [*groups, *(f"{name}." for name in sections), *(f"{name}=" for name in plain)]
    part = _get(values, section)
    part = part if isinstance(part, dict) else {}
    target = part.get("_target_", TRAINER if section == "trainer" else "")
    refused = constants("src.kindling.config.instantiate", ast.Name("ELSEWHERE"))
    keys = {f"{section}.{name}": value for name, value in part.items()}
    keys = {f"{section}.{name}": None for name in arguments(str(target))} | keys
    names = [name + ("." if isinstance(value, dict) else "=") for name, value in keys.items()]
    return [name for name in names if name[:-1] not in refused]


def compose(name: str, words: list[str]) -> dict[str, Any]:
    """The values of an experiment with other options and targets, as far as its keys need them."""
    values = _load(CONFIGS / f"{name.removeprefix('configs/').removesuffix('.yaml')}.yaml")
    for word in words:
        key, _, value = word.partition("=")
        option = CONFIGS / key / f"{value}.yaml"
        if "." not in key and option.is_file():
            kept = values.get(key, {}) if key == "trainer" else {}
            values[key] = _merge(kept, _load(option))
        elif key.endswith("._target_"):
            part: Any = value
            for name in reversed(key.split(".")):
                part = {name: part}
            values = _merge(values, part)
    return values


def _load(path: Path, *within: Path) -> dict[str, Any]:
    """The values of a YAML file on top of those of its `defaults`; empty where it is damaged."""
    if path in within:  # it includes itself
        return {}
    try:
        own = yaml.load(path.read_text(encoding="utf-8"), YAML)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    own = own if isinstance(own, dict) else {}
    values, defaults = dict[str, Any](), own.pop("defaults", None)
    for entry in defaults if isinstance(defaults, list) else ():
        if isinstance(entry, str) and entry != "_self_":
            values = _merge(values, _load(path.parent / f"{entry}.yaml", path, *within))
        for group, option in entry.items() if isinstance(entry, dict) else ():
            values = _merge(values, {group: _load(CONFIGS / group / f"{option}.yaml")})
    merged: dict[str, Any] = _merge(values, own)
    return merged


def _merge(old: Any, new: Any) -> Any:
    """Two sections as one; a section of another class replaces the old one."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if "_target_" in new and new["_target_"] != old.get("_target_", new["_target_"]):
        return new
    return old | {key: _merge(old.get(key), value) for key, value in new.items()}


def _get(values: dict[str, Any], key: str) -> Any:
    part: Any = values
    for name in key.split("."):
        part = part.get(name) if isinstance(part, dict) else None
    return part


if __name__ == "__main__":  # called by the shell's own part
    print("\n".join(complete(sys.argv[1])))
