"""Copy a task, net or data module that works, with its config and its test, under a new name.

The templates are the repository's own modules, which the tests cover: the copy trains and passes
its test unchanged. No existing file changes.
"""

from __future__ import annotations

import ast
import keyword
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from src.kindling.config.compose import ROOT, configs, groups
from src.kindling.config.errors import InputError, did_you_mean
from src.kindling.runs.files import display_path

HEADER = "# A copy of {}: describe it here in a line.\n"
FOLDERS = {"task": "tasks", "net": "nets", "data": "data"}
DEFAULTS = {"task": "classification", "net": "cnn", "data": "digits"}  # without --like
EDITS = {  # what to edit in a class and its functions
    "class": "its docstring and arguments",
    "__init__": "its parts: a task's `outputs` and `loss`, a net's `head` for fine-tuning",
    "_meter": "its metrics on validation and test",
    "forward": "from input to output",
    "training_step": "from a batch to the loss",
    "_step": "from a batch (x, y) to the loss; what the metrics compare",
    "predict_step": "the columns that predict, report and compare read",
    "plot": "plots of these columns",
    "configure_optimizers": "its optimizers and schedules",
    "download": "what to download",
    "load": "the samples: x (raw), y, and classes or a target",
}


@dataclass(frozen=True)
class Template:
    """A module that can be copied."""

    name: str  # of its option or experiment in configs/
    folder: str  # in src/ and tests/
    module: str  # its file's name without `.py`
    cls: str
    config: Path  # the YAML file that names it


def find_templates(kind: str) -> dict[str, Template]:
    """The modules that a config names by their class and that have a test, by name."""
    files = [(path, "") for path in sorted((ROOT / "configs" / kind).glob("*.yaml"))]
    if kind == "task":  # an experiment may hold its task itself
        files = [(_experiment_file(name), "task") for name in configs()] + files
    templates = {}
    for path, section in files:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        target = (values.get(section) or {} if section else values).get("_target_", "")
        folders = f"{FOLDERS[kind]}|gallery" if kind == "task" else FOLDERS[kind]
        found = re.fullmatch(rf"src\.({folders})\.(\w+)\.([A-Z]\w*)", target)
        if found and test_file(found[1], found[2]).is_file():
            templates[path.stem] = Template(path.stem, found[1], found[2], found[3], path)
    return templates


def copy_template(kind: str, name: str, like: str | None = None) -> dict[Path, str]:
    """Write a module, its YAML and its test; return the three files and their texts."""
    templates = find_templates(kind)
    like = like or DEFAULTS[kind]
    if like not in templates:
        known = f"{did_you_mean(like, templates)} (there are: {', '.join(templates)})"
        raise InputError(f"--like {like}: no {kind} to copy{known}")
    old = templates[like]
    _check_name(kind, name)
    source = ROOT / "src" / old.folder / f"{old.module}.py"
    text = source.read_text(encoding="utf-8")
    cls = class_name(kind, name)
    nodes = list(ast.walk(ast.parse(text)))
    if cls in {getattr(node, field, None) for node in nodes for field in ("id", "name", "asname")}:
        problem = f"{display_path(source)} uses the class name '{cls}'"
        raise InputError(f"{name}: {problem}; choose another name")
    test = test_file(old.folder, old.module).read_text(encoding="utf-8")
    if kind == "task":
        experiment = find_experiment(kind, old)
        # As a call's argument: train("digits"). A column may have the same name.
        test = test.replace(f'("{experiment}"', f'("{name}"')
        config = _experiment_file(name)
        values = _copy_experiment(name, old, _experiment_file(experiment))
    else:
        config = ROOT / "configs" / kind / f"{name}.yaml"
        values = HEADER.format(old.name) + _without_header(old.config)
    module, test_path = ROOT / "src" / FOLDERS[kind] / f"{name}.py", test_file(FOLDERS[kind], name)
    texts = {module: text, config: values, test_path: test}
    files = {path: _rename(text, kind, old, name) for path, text in texts.items()}
    write_all(files)
    return files


def class_name(kind: str, name: str) -> str:
    """`image_folder` as `ImageFolder`; of nets, `unet` as `UNet`."""
    words = [word[:1].upper() + word[1:] for word in name.split("_")]
    if kind == "net":
        words = [re.sub(r"(?<=.)net(?=\d*$)", "Net", word) for word in words]
    return "".join(words)


def find_experiment(kind: str, template: Template) -> str:
    """The experiment that trains a template: itself, else `digits`, else the first that uses it."""
    if template.config.parent == ROOT / "configs":
        return template.name
    line = f"\n  - {kind}: {template.name}\n"
    uses = [name for name in configs() if line in _experiment_file(name).read_text("utf-8")]
    return "digits" if "digits" in uses or not uses else uses[0]


def list_edits(kind: str, files: dict[Path, str]) -> list[tuple[str, str]]:
    """The lines to edit, in order, as `file:line`, and what to write there."""
    module, config, test = map(display_path, files)
    text, _, test_text = files.values()
    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == class_name(kind, Path(module).stem):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            lines |= {"class": node.lineno, **{part.name: part.lineno for part in methods}}
        elif isinstance(node, ast.FunctionDef):
            lines.setdefault(node.name, node.lineno)
    edits = [(f"{module}:1", "the file's purpose, in a line")]
    edits += [(f"{module}:{lines[part]}", what) for part, what in EDITS.items() if part in lines]
    description = "its description, in a line; then the arguments that differ from their defaults"
    first_test = test_text[: test_text.index("\ndef test_")].count("\n") + 2
    return [*edits, (f"{config}:1", description), (f"{test}:{first_test}", "its tests")]


def write_all(files: dict[Path, str]) -> None:
    """Write new files, all of them or none; an existing file is never overwritten."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
    except BaseException as error:
        for done in written:
            done.unlink()
        if isinstance(error, OSError):
            raise InputError(f"{display_path(path)}: cannot be written: {error.strerror}") from None
        raise


def test_file(folder: str, module: str) -> Path:
    return ROOT / "tests" / folder / f"test_{module}.py"


def _rename(text: str, kind: str, old: Template, name: str) -> str:
    """A file's text with the template's path, class, option and tests renamed.

    Names after a dot stay, since they belong to other packages; the class after the module's own
    path changes.
    """
    package = f"src.{FOLDERS[kind]}."
    text = re.sub(rf"(?<![\w.])src\.{old.folder}\.{old.module}\b", f"{package}{name}", text)
    after_path = rf"(?<=\b{re.escape(package)}{name}\.){old.cls}\b"
    alone = rf"(?<![\w.\"]){old.cls}\b"
    text = re.sub(rf"{after_path}|{alone}|(?<=\"){old.cls}\b(?!\")", class_name(kind, name), text)
    text = re.sub(rf"\b{kind}={old.name}\b", f"{kind}={name}", text)
    part = re.compile(rf"(?<=_)({old.name}|{old.module})(?=_|$)")
    return re.sub(r"(?m)(?<=^def )test_\w+", lambda test: part.sub(name, test[0]), text)


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        expected = "expected a lowercase letter, then lowercase letters, digits and _"
        raise InputError(f"{name}: {expected}, and no keyword, such as my_{kind}")
    folder = ROOT / "src" / FOLDERS[kind]
    places = [folder / f"{name}.py", folder / name, test_file(FOLDERS[kind], name)]
    taken = [display_path(path) for path in places if path.exists()]
    if name in groups()[kind] or (kind == "task" and name in configs()):
        taken.append("configs/")
    if taken:
        raise InputError(f"{name}: the name is taken ({taken[0]}); choose another")


def _copy_experiment(name: str, old: Template, experiment: Path) -> str:
    """The YAML of an experiment that trains the copied task, with the task's section inside."""
    body = _without_header(experiment)
    if old.config != experiment:
        body = body.replace(f"  - task: {old.name}\n", "") + "task:\n"
        body += "".join(f"  {line}\n" for line in _without_header(old.config).splitlines())
    return f"{HEADER.format(old.name)}#\n#   python -m src.train {name}   not measured yet\n{body}"


def _without_header(path: Path) -> str:
    return re.sub(r"\A(#.*\n)+", "", path.read_text(encoding="utf-8"))


def _experiment_file(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"
