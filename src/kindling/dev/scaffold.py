"""Begin a task, a net or data of your own: a copy of one that works, under a new name, with its config and its test.

    python -m src.new task|net|data NAME [--like EXISTING]

What is copied is a living module that the tests cover, so the copy trains and passes its own test as it stands; the
command says which lines to change, in order. No existing file is touched.
"""

from __future__ import annotations

import ast
import keyword
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

from src.kindling.config.compose import ROOT, configs, groups
from src.kindling.config.errors import InputError, did_you_mean

FOLDERS = {"task": "tasks", "net": "nets", "data": "data"}
LIKE = {"task": "classification", "net": "cnn", "data": "digits"}  # what is copied unless --like says another
# What a person changes in each, in the order of the file.
STEPS = {
    "task": {
        "class": "what it learns, what its net gives, and its arguments",
        "__init__": "what of the data it refuses, its loss and its meters",
        "forward": "raw input to the net's answer",
        "training_step": "the step, from a batch to the loss",
        "validation_step": "what is measured on held-out samples",
        "predict_step": "the columns that predict, report and compare read",
        "figures": "its pictures, from those columns",
        "_metrics": "its metrics",
    },
    "net": {
        "class": "what it is, and its arguments",
        "__init__": "its layers, from in_shape to num_outputs; `head` is the last, for fine-tuning",
        "forward": "from input to output",
    },
    "data": {
        "class": "what a sample holds, its source, and its arguments",
        "__init__": "its arguments",
        "download": "what is fetched",
        "load": "where the samples come from: x (raw), y, and classes or a target",
    },
}


@dataclass(frozen=True)
class Living:
    """A module that can be copied.

    Attributes:
        name: what a config calls it.
        module, cls: its file's name without `.py`, and its class.
        config: the YAML file that names it.
    """

    name: str
    module: str
    cls: str
    config: Path


def living(kind: str) -> dict[str, Living]:
    """What can be copied, by name: the parts that a config names by their class, and that have a test of their own."""
    found = {}
    files = [(path, "") for path in sorted((ROOT / "configs" / kind).glob("*.yaml"))]
    if kind == "task":  # an experiment may hold its task itself
        files = [(ROOT / "configs" / f"{name}.yaml", "task") for name in configs()] + files
    for path, section in files:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        target = (values.get(section) or {} if section else values).get("_target_", "")
        package, _, cls = target.rpartition(".")
        module = package.removeprefix(f"src.{FOLDERS[kind]}.")
        if package == f"src.{FOLDERS[kind]}.{module}" and cls[:1].isupper() and _test(kind, module).is_file():
            found[path.stem] = Living(path.stem, module, cls, path)
    return found


def new(kind: str, name: str, like: str | None = None) -> dict[Path, str]:
    """Write a module, its YAML and its test: all of them, or none.

    Args:
        kind: `task`, `net` or `data`.
        name: of the new file.
        like: which one is copied.

    Returns:
        The files and what they hold: the module, the YAML, the test.

    Raises:
        InputError: when the name cannot be used, or there is nothing of that kind to copy.
    """
    known = living(kind)
    like = like or LIKE[kind]
    if like not in known:
        raise InputError(f"--like {like}: no {kind} to copy{did_you_mean(like, known)} (there are: {', '.join(known)})")
    old = known[like]
    _check_name(kind, name)
    source = ROOT / "src" / FOLDERS[kind] / f"{old.module}.py"
    text = source.read_text(encoding="utf-8")
    cls = class_name(kind, name)
    if cls in _names(text):
        raise InputError(f"{name}: its class would be '{cls}', which {_shown(source)} uses for something else; "
                         "choose another")  # fmt: skip
    experiment = ROOT / "configs" / f"{trained_by(kind, old)}.yaml"
    files = {
        ROOT / "src" / FOLDERS[kind] / f"{name}.py": renamed(text, kind, old, name),
        ROOT / "configs" / (f"{name}.yaml" if kind == "task" else f"{kind}/{name}.yaml"):
            renamed(_experiment(name, old, experiment) if kind == "task" else _option(old), kind, old, name),
        _test(kind, name): renamed(_test(kind, old.module).read_text(encoding="utf-8"), kind, old, name,
                                   experiment.stem if kind == "task" else None),
    }  # fmt: skip
    write_all(files)
    return files


def class_name(kind: str, name: str) -> str:
    """`image_folder` as `ImageFolder`; of nets, `unet` as `UNet`."""
    words = [word[:1].upper() + word[1:] for word in name.split("_")]
    if kind == "net":
        words = [re.sub(r"(?<=.)net(?=\d*$)", "Net", word) for word in words]
    return "".join(words)


def renamed(text: str, kind: str, old: Living, name: str, experiment: str | None = None) -> str:
    """A file's text with the copied module's names changed: its path, its class, its option, and its tests' names.

    Names of other packages stay as they are: what follows a dot is never changed. In the test of a task, the experiment
    that trains the old one becomes the new one's own.
    """
    cls, package = class_name(kind, name), f"src.{FOLDERS[kind]}"
    text = re.sub(rf"(?<![\w.]){re.escape(package)}\.{old.module}\b", f"{package}.{name}", text)
    text = re.sub(
        rf"(?<=\b{re.escape(package)}\.{name}\.){old.cls}\b|(?<![\w.])(?!(?<=\"){old.cls}\"){old.cls}\b", cls, text
    )
    text = re.sub(rf"\b{kind}={old.name}\b", f"{kind}={name}", text)
    if experiment:
        text = text.replace(f'"{experiment}"', f'"{name}"')

    def of_test(found: re.Match[str]) -> str:
        return re.sub(rf"(?<=_)({old.name}|{old.module})(?=_|$)", name, found[0])

    return re.sub(r"(?<=^def )test_\w+", of_test, text, flags=re.MULTILINE)


def trained_by(kind: str, old: Living) -> str:
    """The experiment that trains it: itself, or `digits` where that does, or the first."""
    if old.config.parent == ROOT / "configs":
        return old.name
    uses = [name for name in configs() if f"\n  - {kind}: {old.name}\n" in _yaml_of(name)]
    return "digits" if "digits" in uses or not uses else uses[0]


def steps(kind: str, files: dict[Path, str]) -> list[tuple[str, str]]:
    """The lines to change, in order, as `file:line`, and what stands there."""
    (module, text), (config, _), (test, of_test) = files.items()
    cls = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)
               and node.name == class_name(kind, module.stem))  # fmt: skip
    lines = {"class": cls.lineno}
    for node in [*cls.body, *ast.parse(text).body]:
        if isinstance(node, ast.FunctionDef):
            lines[node.name] = node.lineno
    first = next(node.lineno for node in ast.parse(of_test).body if isinstance(node, ast.FunctionDef)
                 and node.name.startswith("test_"))  # fmt: skip
    found = [(f"{_shown(module)}:1", "what the file is for, in a line")]
    found += [(f"{_shown(module)}:{lines[step]}", about) for step, about in STEPS[kind].items() if step in lines]
    found.append((f"{_shown(config)}:1", "what it is, in a line; then the arguments that differ from their defaults"))
    return [*found, (f"{_shown(test)}:{first}", "what it has to do")]


def write_all(files: dict[Path, str]) -> None:
    """Write new files, each whole, and all of them or none; nothing that is there is overwritten.

    Raises:
        InputError: when a file exists already, or cannot be written.
    """
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    written: list[Path] = []
    path = ROOT
    try:
        for path, text in files.items():
            beside[path].write_text(text, encoding="utf-8")
        for path in files:
            os.link(beside[path], path)  # unlike a rename, this never replaces a file
            written.append(path)
    except BaseException as error:
        for done in written:
            done.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{_shown(path)}: cannot be written: {error.strerror}") from None
        raise
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        better = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
        hint = f"; try '{better}'" if re.fullmatch("[a-z][a-z0-9_]*", better) else ""
        raise InputError(f"{name}: expected a small letter, then small letters, digits and _{hint}")
    if keyword.iskeyword(name):
        raise InputError(f"{name}: is a word of Python itself; choose another")
    options = [*groups()[kind], *(configs() if kind == "task" else [])]
    places = [ROOT / "src" / FOLDERS[kind] / f"{name}.py", ROOT / "src" / FOLDERS[kind] / name, _test(kind, name)]
    taken = [path for path in places if path.exists()]
    if taken or name in options:
        where = _shown(taken[0]) if taken else "configs/"
        raise InputError(f"{name}: the name is taken ({where}); choose another")
    own = [path for path in (ROOT / "src" / f"{name}.py", ROOT / "src" / name) if path.exists()]
    if own or name in sys.stdlib_module_names or find_spec(name):
        whose = _shown(own[0]) if own else "one of Python's or an installed one"
        raise InputError(f"{name}: would be taken for the module of that name ({whose}); choose another")


def _names(text: str) -> set[str]:
    """All names that a module's code uses."""
    nodes = list(ast.walk(ast.parse(text)))
    imported = {alias.asname or alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names}  # fmt: skip
    return imported | {node.id for node in nodes if isinstance(node, ast.Name)}


def _option(old: Living) -> str:
    """The copied part's own YAML, under another first line."""
    body = re.sub(r"\A(#.*\n)+", "", old.config.read_text(encoding="utf-8"))
    return f"# A copy of {old.name}: say here in a line what it is.\n{body}"


def _experiment(name: str, old: Living, experiment: Path) -> str:
    """The YAML of an experiment that trains the copied task, with the task's section inside."""
    body = re.sub(r"\A(#.*\n)+", "", experiment.read_text(encoding="utf-8"))
    if old.config != experiment:
        own = re.sub(r"\A(#.*\n)+", "", old.config.read_text(encoding="utf-8"))
        body = body.replace(f"  - task: {old.name}\n", "")
        body += "task:\n" + "".join(f"  {line}\n" for line in own.splitlines())
    header = f"# A copy of {old.name}: say here in a line what it learns.\n#\n"
    return f"{header}#   python -m src.train {name}   not measured yet\n{body}"


def _yaml_of(experiment: str) -> str:
    return (ROOT / "configs" / f"{experiment}.yaml").read_text(encoding="utf-8")


def _test(kind: str, module: str) -> Path:
    return ROOT / "tests" / FOLDERS[kind] / f"test_{module}.py"


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
